/** `devices:` of a desired-state file as written -> their values, defaults filled in, and what is wrong with them. */
import { NAME, NAME_RULE } from "./controller-check.ts";
import type { DesiredController, DesiredDevice, UsbSelector } from "./desired.ts";
import {
  below,
  either,
  entries,
  type Findings,
  flag,
  given,
  hasControl,
  integer,
  type Json,
  type Locate,
  mapping,
  oneOf,
  show,
  text,
} from "./finding.ts";
import { nearest } from "./nearest.ts";
import { checkSelector } from "./selector-check.ts";

export function checkDevices(
  value: unknown,
  controllers: readonly DesiredController[] | null,
  pointer: string,
  findings: Findings,
  locate: Locate,
): readonly DesiredDevice[] {
  const names = new Map<string, number>();
  const seats = new Map<string, string>();
  const devices = entries(value).flatMap((entry, position) => {
    const written = mapping(entry);
    if (written === null) return [];
    const at = below(pointer, position);
    const device = checkDevice(written, at, findings, locate);
    const first = names.get(device.name);
    if (first !== undefined && device.name !== "") {
      findings.error(
        below(at, "name"),
        "DuplicateName",
        `the name ${show(device.name)} is taken by device ${String(first + 1)} of this list; give each device its own`,
      );
    } else names.set(device.name, position);
    checkSeat(written, device, controllers, seats, at, findings);
    return [device];
  });
  checkOrder(devices, entries(value), pointer, findings);
  return devices;
}

function checkDevice(written: Json, pointer: string, findings: Findings, locate: Locate): DesiredDevice {
  const name = text(written["name"]);
  if (name !== null && !NAME.test(name)) {
    const fixed = name
      .normalize("NFKD")
      .replaceAll(/\p{M}/gu, "")
      .replaceAll(/[^A-Za-z0-9._-]+/g, "-")
      .replaceAll(/^[^A-Za-z0-9]+|-+$/g, "")
      .slice(0, 48);
    const hint = fixed !== "" && fixed !== name ? `, like "${fixed}"` : "";
    findings.error(below(pointer, "name"), "BadName", `${show(name)} cannot be a device's name; ${NAME_RULE}${hint}`);
  }
  const device: DesiredDevice = {
    name: name ?? "",
    kind: checkKind(written, pointer, findings),
    count: oneOf(written["count"], ["all"] as const, 1 as const),
    pick: oneOf(written["pick"], ["none", "lowestPort"] as const, "none" as const),
    priority: integer(written["priority"]) ?? 0,
    controller: text(written["controller"]),
    guestPort: integer(written["guestPort"]),
    required: flag(written["required"]) ?? false,
    onRemove: oneOf(written["onRemove"], ["detach", "leave"] as const, "detach" as const),
    after: [...new Set(entries(written["after"]).flatMap((one) => text(one) ?? []))],
    mark: locate(pointer, "value"),
  };
  if (device.count === "all" && device.pick !== "none") {
    findings.warn(below(pointer, "pick"), "PickAndAll", "pick has no say where count is all; leave pick out", "key");
  }
  return device;
}

const KINDS = ["usb", "anyOf", "emulated", "pci"] as const;

function checkKind(written: Json, pointer: string, findings: Findings): DesiredDevice["kind"] {
  const kinds = KINDS.filter((kind) => Object.hasOwn(written, kind));
  const [kind, ...others] = kinds;
  const isInterface = Object.hasOwn(written, "interface");
  if (kind === undefined && !isInterface) {
    findings.error(
      pointer,
      "NoKind",
      'this entry does not say which device; add usb: { vendor: "…", product: "…" }, or anyOf, emulated or pci',
    );
  }
  const second = others[0];
  if (second !== undefined) {
    findings.error(
      below(pointer, second),
      "SeveralKinds",
      `${kinds.join(" and ")} are both given; keep one, and make a device of its own of the other`,
      "key",
    );
  } else if (isInterface && kind !== undefined && kind !== "pci") {
    findings.error(below(pointer, "interface"), "SeveralKinds", `interface does not go with ${kind}; it goes with pci`, "key");
  }
  if (Object.hasOwn(written, "managed") && kind !== "pci" && !isInterface) {
    findings.error(
      below(pointer, "managed"),
      "ManagedNotPci",
      "managed goes with pci; leave it out: USB devices always get their host driver back",
      "key",
    );
  }
  if (kind === "pci") checkPci(written["pci"], below(pointer, "pci"), findings);
  const selectors =
    kind === "anyOf"
      ? checkAnyOf(written["anyOf"], below(pointer, "anyOf"), findings)
      : [kind === "usb" ? checkSelector(written["usb"], below(pointer, "usb"), findings) : null].filter((one) => one !== null);
  if (isInterface) return { type: "unsupported", what: "interface" };
  if (kind === "emulated" || kind === "pci") return { type: "unsupported", what: kind };
  return { type: "usb", selectors, anyOf: kind === "anyOf" };
}

function checkAnyOf(value: unknown, pointer: string, findings: Findings): readonly UsbSelector[] {
  if (Array.isArray(value) && value.length === 0) {
    findings.error(pointer, "EmptySelector", "anyOf is empty; list what the device may be, or write usb: instead", "key");
  }
  const seen = new Set<string>();
  return entries(value).flatMap((entry, position) => {
    const selector = checkSelector(entry, below(pointer, position), findings);
    if (selector === null) return [];
    const written = JSON.stringify(selector);
    if (seen.has(written)) findings.warn(below(pointer, position), "SameSelector", "this is listed twice in anyOf; once will do");
    seen.add(written);
    return [selector];
  });
}

function checkPci(value: unknown, pointer: string, findings: Findings): void {
  const pci = mapping(value);
  if (pci === null) return;
  const keys = ["address", "netdev"].filter((key) => Object.hasOwn(pci, key));
  if (keys.length === 2) findings.error(below(pointer, "netdev"), "SeveralKinds", "address and netdev are both given; keep one", "key");
  if (Object.keys(pci).length === 0) {
    findings.error(pointer, "EmptySelector", 'pci says nothing; write { address: "0000:06:02.0" } or { netdev: eth22 }', "key");
  }
}

/** The controller and the port on it that an entry asks for. */
function checkSeat(
  written: Json,
  device: DesiredDevice,
  controllers: readonly DesiredController[] | null,
  seats: Map<string, string>,
  pointer: string,
  findings: Findings,
): void {
  const { controller, guestPort } = device;
  const declared = controllers?.find((one) => one.name === controller);
  if (controller !== null && hasControl(controller)) {
    findings.error(below(pointer, "controller"), "ControlCharacter", "controller has a control character; write the name of a controller");
  } else if (controller !== null && declared === undefined && controllers !== null && controllers.length > 0) {
    // It may be one that the domain has of its own, so this is no error.
    const near = nearest(
      controller,
      controllers.map(({ name }) => name),
    );
    const hint = near === null ? `declared are ${either(controllers.map(({ name }) => show(name)))}` : `did you mean "${near}"?`;
    findings.warn(
      below(pointer, "controller"),
      "UndeclaredController",
      `controller ${show(controller)} is none of this file's, so the domain must have one of that id; ${hint}`,
    );
  }
  if (guestPort === null) return;
  const at = below(pointer, "guestPort");
  if (device.count === "all") {
    findings.error(at, "GuestPortAndAll", "guestPort is one port, but count is all; leave guestPort out, or write count: 1", "key");
  }
  if (controller === null) {
    if (!given(written, "controller")) {
      findings.error(at, "GuestPortAlone", "guestPort needs the controller that the port is on; add controller: with its name", "key");
    }
    return;
  }
  if (declared !== undefined && guestPort > declared.ports) {
    const last = String(declared.ports);
    findings.error(
      at,
      "BadGuestPort",
      `guestPort ${String(guestPort)}, but controller ${show(controller)} has ${last} ports; write 1 to ${last}`,
    );
  }
  const seat = `${controller} ${String(guestPort)}`;
  const other = seats.get(seat);
  if (other !== undefined) {
    findings.error(
      at,
      "SamePort",
      `port ${String(guestPort)} of controller ${show(controller)} is taken by device ${show(other)}; give each its own port`,
    );
  } else seats.set(seat, device.name);
}

/** `after:` names other entries of this file, and never leads back to the entry itself. */
function checkOrder(devices: readonly DesiredDevice[], written: readonly unknown[], pointer: string, findings: Findings): void {
  const known = new Set(devices.map(({ name }) => name));
  written.forEach((entry, position) => {
    const name = text(mapping(entry)?.["name"]);
    const seen = new Set<string>();
    entries(mapping(entry)?.["after"]).forEach((one, i) => {
      const other = text(one);
      if (other === null) return;
      const at = below(below(below(pointer, position), "after"), i);
      if (other === name) {
        findings.error(at, "AfterItself", `${show(other)} waits for itself; leave it out`);
      } else if (!known.has(other)) {
        const near = nearest(
          other,
          [...known].filter((one) => one !== name),
        );
        const hint = near === null ? "name a device of this file" : `did you mean "${near}"?`;
        findings.error(at, "UnknownDevice", `after names ${show(other)}, which is no device of this file; ${hint}`);
      } else if (seen.has(other)) findings.warn(at, "Repeated", `${show(other)} is named twice in after; once will do`);
      seen.add(other);
    });
  });
  checkCycles(devices, written, pointer, findings);
}

/** Tells each cycle once, at the entry of it that comes first in the file. */
function checkCycles(devices: readonly DesiredDevice[], written: readonly unknown[], pointer: string, findings: Findings): void {
  const byName = new Map(devices.map((device) => [device.name, device]));
  const done = new Set<string>();
  for (const start of devices) {
    const path = done.has(start.name) ? null : cycleFrom(start.name, byName, done);
    if (path === null) continue;
    const order = devices.map(({ name }) => name).filter((name) => path.includes(name));
    const turn = path.indexOf(order[0] ?? "");
    const ring = [...path.slice(turn), ...path.slice(0, turn)];
    const position = written.findIndex((entry) => mapping(entry)?.["name"] === ring[0]);
    const after = entries(mapping(written[position])?.["after"]);
    const i = after.indexOf(ring[1]);
    const at = below(below(below(pointer, position), "after"), i);
    findings.error(at, "AfterCycle", `these wait for each other: ${[...ring, ring[0] ?? ""].join(" -> ")}; take one after: out`);
  }
}

/** Walks `after` depth first without recursion. @returns the names on the first cycle met, self-loops left out; null: none */
function cycleFrom(start: string, devices: ReadonlyMap<string, DesiredDevice>, done: Set<string>): readonly string[] | null {
  const path: { readonly name: string; next: number }[] = [{ name: start, next: 0 }];
  let found: readonly string[] | null = null;
  for (let top = path.at(-1); top !== undefined; top = path.at(-1)) {
    const other = devices.get(top.name)?.after[top.next];
    top.next += 1;
    if (other === undefined) {
      done.add(top.name);
      path.pop();
    } else if (other !== top.name && devices.has(other) && !done.has(other)) {
      const back = path.findIndex(({ name }) => name === other);
      if (back < 0) path.push({ name: other, next: 0 });
      else found ??= path.slice(back).map(({ name }) => name);
    }
  }
  return found;
}
