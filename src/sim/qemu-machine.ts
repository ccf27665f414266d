/**
 * The inside of a fake QEMU as far as USB goes: buses, ports, devices; what goes where, and what leaves with what.
 * Claims and frees ports in QEMU's own order (hw/usb/bus.c): a port that is freed goes to the end, and a device without `port` on the last
 * free port gets a hub in between.
 */
import { ok, type Result } from "../model/result.ts";
import { type Driver, driverOf, FULL, HIGH, isAbstract, LOW, SUPER, speedNames, XEN_BACKEND } from "./qemu-drivers.ts";
import { propertyValue, type Refusal, refuse } from "./qemu-values.ts";

export type SimPort = { readonly path: string; speeds: number; readonly hub: SimDevice | null };
export type SimBus = {
  readonly name: string;
  readonly kind: "usb-bus" | "PCI" | "PCIE";
  readonly path: string;
  readonly hotplug: boolean;
  /** By the number of their `child[n]` link, in order of creation. */
  readonly children: Map<number, SimDevice>;
  nextChild: number;
  /** usb-bus only, in QEMU's order. */
  readonly free: SimPort[];
};
export type SimDevice = {
  readonly driver: Driver;
  readonly id: string | null;
  readonly path: string;
  readonly bus: SimBus;
  readonly child: number;
  readonly hotplugged: boolean;
  /** What was given, as the properties keep it. */
  readonly given: ReadonlyMap<string, unknown>;
  /** Where it really sits; null: a PCI device. */
  port: SimPort | null;
  /** What it makes: a controller's or bridge's bus. */
  readonly buses: SimBus[];
  /** For PCI: slot on its bus. */
  slot: number;
  attached: boolean;
  /** Mask of the speeds of what is behind it: fixed by its model, or by the host device that a usb-host has opened. */
  speeds: number;
  productName: string;
  /** A PCI unplug was asked for and waits for the guest. */
  leaving: boolean;
};
/** xenpv: a Xen device model without a machine around it, for PV and PVH domains. */
export type MachineKind = "pc" | "q35" | "none" | "xenpv";
/** usb-host opens its device here; a refusal ends the device_add. */
export type Realize = (device: SimDevice) => Result<unknown, Refusal>;

export type Machine = ReturnType<typeof createMachine>;

/** @param strict - exact JSON types, any id (QEMU 9.2 and later) */
export function createMachine(kind: MachineKind, strict: boolean, realizeHost: Realize, unrealizeHost: (device: SimDevice) => void) {
  /** In order of creation. */
  const buses: SimBus[] = [];
  const devices = new Map<string, SimDevice>();
  const counters = { anonymous: 0, unattached: 27, usbBus: 0 };

  const makeBus = (name: string, busKind: SimBus["kind"], parent: string, hotplug: boolean): SimBus => {
    const bus: SimBus = { name, kind: busKind, path: `${parent}/${name}`, hotplug, children: new Map(), nextChild: 0, free: [] };
    buses.push(bus);
    return bus;
  };
  if (kind === "pc") makeBus("pci.0", "PCI", "/machine/i440fx", true);
  if (kind === "q35") makeBus("pcie.0", "PCIE", "/machine/q35", false);
  const rootBus = buses[0] ?? null;

  const busFor = (driver: Driver, wanted: unknown): Result<SimBus, Refusal> => {
    const fits = (bus: SimBus): boolean => (driver.on === "usb-bus") === (bus.kind === "usb-bus");
    if (typeof wanted === "string") {
      if (wanted.startsWith("/")) return refuse(`Device '${wanted.split("/")[1] ?? ""}' not found`, "DeviceNotFound");
      const bus = buses.find(({ name }) => name === wanted);
      if (bus === undefined) return refuse(`Bus '${wanted}' not found`);
      return fits(bus) ? ok(bus) : refuse(`Device '${driver.name}' can't go on ${bus.kind} bus`);
    }
    const bus = driver.on === "PCI" ? rootBus : buses.findLast(fits);
    return bus == null ? refuse(`No '${driver.on}' bus found for device '${driver.name}'`) : ok(bus);
  };

  const givenOf = (driver: Driver, args: Readonly<Record<string, unknown>>): Result<Map<string, unknown>, Refusal> => {
    const given = new Map<string, unknown>();
    for (const [name, value] of Object.entries(args)) {
      if (name === "driver" || name === "id" || name === "bus") continue;
      const property = driver.properties.find((known) => known.name === name && known.settable);
      if (property === undefined) return refuse(`Property '${driver.name}.${name}' not found`);
      const kept = propertyValue(property, value, strict);
      if (!kept.ok) return kept;
      if (kept.value !== undefined) given.set(name, kept.value);
    }
    return ok(given);
  };

  const place = (
    driver: Driver,
    id: string | null,
    path: string,
    bus: SimBus,
    given: ReadonlyMap<string, unknown>,
    hotplugged: boolean,
  ): Result<SimDevice, Refusal> => {
    const device: SimDevice = {
      driver,
      id,
      path,
      bus,
      child: bus.nextChild,
      hotplugged,
      given,
      port: null,
      buses: [],
      slot: -1,
      attached: false,
      speeds: driver.on === "usb-bus" ? driver.speeds : 0,
      productName: driver.on === "usb-bus" ? driver.product : "",
      leaving: false,
    };
    if (given.get("usb_version") === 1) device.speeds = FULL;
    bus.nextChild += 1;
    const placed = driver.on === "usb-bus" ? plug(device) : insert(device);
    if (!placed.ok) return placed;
    bus.children.set(device.child, device);
    devices.set(path, device);
    return ok(device);
  };

  const plug = (device: SimDevice): Result<unknown, Refusal> => {
    const { bus, driver, given } = device;
    const asked = given.get("port");
    if (typeof asked !== "string" && bus.free.length === 1 && driver.name !== "usb-hub") addHub(bus);
    const at = typeof asked === "string" ? bus.free.findIndex(({ path }) => path === asked) : 0;
    const port = bus.free[at];
    if (port === undefined) {
      return typeof asked === "string"
        ? refuse(`usb port ${asked} (bus ${bus.name}) not found (in use?)`)
        : refuse(`tried to attach usb device ${device.productName} to a bus with no free ports`);
    }
    bus.free.splice(at, 1);
    device.port = port;
    const done = realize(device, port);
    if (!done.ok) bus.free.push(port);
    return done;
  };
  const realize = (device: SimDevice, port: SimPort): Result<unknown, Refusal> => {
    const { driver, bus, given } = device;
    if (driver.on === "usb-bus" && driver.needs !== null && !given.has(driver.needs)) return refuse(`${driver.needs} property not set`);
    if (driver.name === "usb-hub") {
      if (port.path.split(".").length > 5) return refuse("usb hub chain too deep");
      for (let n = 1; n <= 8; n += 1) bus.free.push({ path: `${port.path}.${String(n)}`, speeds: LOW | FULL, hub: device });
    }
    if (driver.name === "usb-host") return realizeHost(device);
    if (driver.on !== "usb-bus" || !driver.attaches) return ok(null);
    const refused = speedRefusal(device);
    if (refused !== null) {
      dropHubPorts(device);
      return refuse(refused);
    }
    device.attached = true;
    return ok(null);
  };
  const addHub = (bus: SimBus): void => {
    const hub = driverOf("usb-hub");
    if (hub === undefined) return;
    const path = `/machine/unattached/device[${String(counters.unattached)}]`;
    if (place(hub, null, path, bus, new Map(), true).ok) counters.unattached += 1;
  };
  const dropHubPorts = (device: SimDevice): void => {
    const stay = device.bus.free.filter(({ hub }) => hub !== device);
    device.bus.free.splice(0, device.bus.free.length, ...stay);
  };

  const insert = (device: SimDevice): Result<unknown, Refusal> => {
    const { driver, bus, id, path, given } = device;
    if (driver.on !== "PCI") return refuse("not a PCI device");
    const taken = new Set([...bus.children.values()].map(({ slot }) => slot));
    const asked = given.get("addr");
    const rootPort = bus.kind === "PCIE" && bus !== rootBus;
    const first = bus === rootBus ? 2 : bus.kind === "PCI" ? 1 : 0;
    const occupant = [...bus.children.values()][0];
    // 7.2 takes a second one behind a root port all the same, where no guest will find it.
    if (rootPort && occupant !== undefined && strict) {
      return refuse(
        `PCI: slot 0 function 0 already occupied by ${occupant.driver.name}, new func ${driver.name} cannot be exposed to guest.`,
      );
    }
    let slot = asked === undefined ? first : Number.parseInt(String(asked), 16);
    const holder = [...bus.children.values()].find((other) => other.slot === slot);
    if (asked !== undefined && holder !== undefined && !String(asked).includes(".")) {
      return refuse(
        `PCI: slot ${String(slot)} function 0 not available for ${driver.name}, in use by ${holder.driver.name},id=${holder.id ?? ""}`,
      );
    }
    while (asked === undefined && taken.has(slot)) slot += 1;
    if (slot > 31) return refuse(`PCI: no slot/function available for ${driver.name}, all in use or reserved`);
    device.slot = slot;
    if (driver.bridge !== null)
      device.buses.push(makeBus(id ?? `${driver.bridge.toLowerCase()}.${String(buses.length)}`, driver.bridge, path, true));
    if (driver.ports === null) return ok(null);
    const master = buses.find(({ name }) => name === given.get("masterbus"));
    if (master !== undefined) {
      for (const port of master.free) port.speeds |= LOW | FULL; // a companion lends its host the slow speeds, and has no bus of its own
      return ok(null);
    }
    const usb = makeBus(id === null ? `usb-bus.${String(counters.usbBus++)}` : `${id}.0`, "usb-bus", path, true);
    device.buses.push(usb);
    const masks = driver.ports === "xhci" ? xhciPorts(propertyOf(device, "p2"), propertyOf(device, "p3")) : driver.ports;
    for (const [n, speeds] of masks.entries()) usb.free.push({ path: String(n + 1), speeds, hub: null });
    return ok(null);
  };

  const forget = (device: SimDevice, gone: SimDevice[]): void => {
    // Behind a hub: by port, deepest first. On a controller's bus: newest first. As QEMU tells them.
    const behind = [...device.bus.children.values()].filter(({ port }) => port?.hub === device);
    behind.sort((a, b) => Number(a.port?.path.split(".").at(-1)) - Number(b.port?.path.split(".").at(-1)));
    for (const child of behind) forget(child, gone);
    for (const bus of device.buses) {
      for (const child of [...bus.children.values()].reverse()) if (devices.has(child.path)) forget(child, gone);
      buses.splice(buses.indexOf(bus), 1);
    }
    if (device.driver.name === "usb-host") unrealizeHost(device);
    dropHubPorts(device);
    if (device.port !== null) device.bus.free.push(device.port);
    device.bus.children.delete(device.child);
    devices.delete(device.path);
    gone.push(device);
  };

  return {
    kind,
    buses: buses as readonly SimBus[],
    devices: devices as ReadonlyMap<string, SimDevice>,

    /** As device_add; `cold`: as on the command line, where more is allowed. */
    add(args: Readonly<Record<string, unknown>>, cold = false): Result<SimDevice, Refusal> {
      const name = args["driver"];
      if (name === undefined) return refuse("Parameter 'driver' is missing");
      const id = idOf(args["id"], strict);
      if (!id.ok) return id;
      if (isAbstract(String(name))) return refuse("Parameter 'driver' expects a non-abstract device type");
      const driver = driverOf(String(name));
      if (driver === undefined) return refuse(`'${String(name)}' is not a valid device model name`);
      if (!driver.pluggable && !cold) {
        return refuse(
          strict ? `Device '${driver.name}' does not support hotplugging` : "Parameter 'driver' expects a pluggable device type",
        );
      }
      const bus = busFor(driver, args["bus"]);
      if (!bus.ok) return bus;
      if (!bus.value.hotplug && !cold) return refuse(`Bus '${bus.value.name}' does not support hotplugging`);
      const path = id.value === null ? `/machine/peripheral-anon/device[${String(counters.anonymous)}]` : `/machine/peripheral/${id.value}`;
      if (devices.has(path)) return refuse(`Duplicate device ID '${id.value ?? ""}'`);
      const given = givenOf(driver, args);
      if (!given.ok) return given;
      const placed = place(driver, id.value, path, bus.value, given.value, !cold);
      if (placed.ok && id.value === null) counters.anonymous += 1;
      return placed;
    },
    /** What `-usb` puts there from the start: a UHCI on pc, an EHCI with its companions on q35. Without ids, so the first bus is `usb-bus.0`. */
    addBuiltIn(): void {
      const put = (name: string, path: string, given: readonly (readonly [string, unknown])[] = []): void => {
        const driver = driverOf(name);
        if (driver !== undefined && rootBus !== null) place(driver, null, `/machine/unattached/${path}`, rootBus, new Map(given), false);
      };
      if (kind === "pc") put("piix3-usb-uhci", strict ? "device[3]/uhci" : "device[18]");
      if (kind !== "q35") return;
      put("ich9-usb-ehci1", "device[13]");
      for (const n of [0, 1, 2]) {
        const shared = [
          ["masterbus", "usb-bus.0"],
          ["firstport", 2 * n],
        ] as const;
        put(`ich9-usb-uhci${String(n + 1)}`, `device[${String(14 + n)}]`, shared);
      }
    },
    /** The device model's half of a `qusb` controller: a bus `<id>.0` that hangs on no PCI bus; without ports, of another backend. Source: QEMU hw/usb/xen-usb.c. */
    addXenUsb(id: string, ports: number): SimDevice {
      const path = `/machine/peripheral/${id}`;
      const on: SimBus = {
        name: "xen-sysbus",
        kind: "PCI",
        path: "/machine/unattached/xen-sysbus",
        hotplug: false,
        children: new Map(),
        nextChild: 0,
        free: [],
      };
      const made = place(XEN_BACKEND, id, path, on, new Map(), true);
      if (!made.ok) throw new Error(made.error.desc);
      if (ports === 0) return made.value;
      const bus = makeBus(`${id}.0`, "usb-bus", path, true);
      made.value.buses.push(bus);
      for (let n = 1; n <= ports; n += 1) bus.free.push({ path: String(n), speeds: LOW | FULL | HIGH, hub: null });
      return made.value;
    },
    /** @returns what left, in the order in which QEMU tells */
    remove(device: SimDevice): readonly SimDevice[] {
      const gone: SimDevice[] = [];
      forget(device, gone);
      return gone;
    },
  };
}

export const propertyOf = (device: SimDevice, name: string): unknown =>
  device.given.get(name) ?? device.driver.properties.find((property) => property.name === name)?.value;

/** Why a device cannot run on the port that it has; null: it can. */
export const speedRefusal = (device: SimDevice): string | null =>
  device.port === null || (device.speeds & device.port.speeds) !== 0
    ? null
    : `Warning: speed mismatch trying to attach usb device "${device.productName}" (${speedNames(device.speeds)} speed) ` +
      `to bus "${device.bus.name}", port "${device.port.path}" (${speedNames(device.port.speeds)} speed)`;

/** What of its speeds a device runs at on its port, in Mb/s; QEMU takes the fastest. */
export function speedOf(device: SimDevice): string {
  const common = device.attached ? device.speeds & (device.port?.speeds ?? 0) : LOW;
  return (common & SUPER) !== 0 ? "5000" : (common & HIGH) !== 0 ? "480" : (common & FULL) !== 0 ? "12" : "1.5";
}

/** A port number stands for its USB 2 and its USB 3 side; 15 of each at most. */
function xhciPorts(p2: unknown, p3: unknown): number[] {
  const [slow, fast] = [Math.min(15, Number(p2)), Math.min(15, Number(p3))];
  return Array.from({ length: Math.max(slow, fast) }, (_, n) => (n < slow ? LOW | FULL | HIGH : 0) | (n < fast ? SUPER : 0));
}

function idOf(id: unknown, strict: boolean): Result<string | null, Refusal> {
  if (id === undefined) return ok(null);
  if (typeof id !== "string") return ok(null); // taken, and without effect
  return strict || /^[A-Za-z][A-Za-z\d._-]*$/.test(id) ? ok(id) : refuse("Parameter 'id' expects an identifier");
}
