/**
 * A fake QEMU without its monitor: a domain's run state, its machine, and what each QMP command does to them.
 * Source: specs/transcripts/qmp (QEMU 7.2 and 10.0); what differs between the two hangs on the version.
 */
import { err, ok, type Result } from "../model/result.ts";
import { driverOf, isAbstract, typesOf } from "./qemu-drivers.ts";
import { createMachine, type Machine, type MachineKind, propertyOf, type SimDevice, speedOf } from "./qemu-machine.ts";
import { createUsbHost, type SimHostDevice, type UsbHost } from "./qemu-usb-host.ts";
import { type Refusal, refuse } from "./qemu-values.ts";
import { qomGet, qomList, qomSet } from "./qom.ts";

export type DeviceArgs = Readonly<Record<string, unknown>>;
export type SimTimers = {
  readonly setTimeout: (run: () => void, ms: number) => unknown;
  readonly clearTimeout: (timer: unknown) => void;
};
/** All in ms; the real QEMU's. */
export type SimDelays = {
  /** From a removal to DEVICE_DELETED. */
  readonly deletedMs: number;
  /** A device_add that fails answers this late, and nothing else is answered meanwhile. */
  readonly refusalMs: number;
  /** A usb-host that opens its device answers this late. */
  readonly openMs: number;
  /** usb-host's own rescan. */
  readonly scanMs: number;
  /** A QEMU that dials in tries again this long after a connection was lost or refused. */
  readonly redialMs: number;
  /** From a device_del of a controller to its ejection by the guest's system; null: it never does. */
  readonly ejectMs: number | null;
};
export const realDelays: SimDelays = { deletedMs: 60, refusalMs: 60, openMs: 0, scanMs: 2000, redialMs: 1000, ejectMs: null };

export type QemuOptions = {
  /** `-name`; left out: none. */
  readonly name?: string;
  readonly uuid?: string;
  readonly machine?: MachineKind;
  /** Default 7.2.22. */
  readonly version?: string;
  /** false: as with `-S`. Default true. */
  readonly running?: boolean;
  /** `-usb`: the machine's own controller, without an id, bus `usb-bus.0`: UHCI on pc, EHCI with companions on q35. */
  readonly usb?: boolean;
  /** What stands on the command line, in order: device_add arguments. */
  readonly devices?: readonly DeviceArgs[];
  readonly hostDevices?: () => Iterable<SimHostDevice>;
};
export type QemuDeps = {
  readonly delays: SimDelays;
  readonly timers: SimTimers;
  readonly emit: (event: string, data?: Readonly<Record<string, unknown>>) => void;
  /** The process ends by itself (`quit`). */
  readonly exit: () => void;
};
export type Answer = { readonly reply: Result<unknown, Refusal>; readonly delayMs: number };

type Arguments = Readonly<Record<string, unknown>>;
type Parameter = { readonly type: "string" | "boolean" | "any"; readonly optional?: boolean };
type Command = { readonly takes: Readonly<Record<string, Parameter>> | "any"; readonly run: (args: Arguments) => Result<unknown, Refusal> };

const TEXT: Parameter = { type: "string" };
const ZERO_UUID = "00000000-0000-0000-0000-000000000000";

export type Qemu = ReturnType<typeof createQemu>;

export function createQemu(options: QemuOptions, { delays, timers, emit, exit }: QemuDeps) {
  const kind = options.machine ?? "pc";
  const version = (options.version ?? "7.2.22").split(".").map(Number);
  const [major = 0, minor = 0, micro = 0] = version;
  /** Exact types since 9.2. */
  const strict = major > 9 || (major === 9 && minor >= 2);
  const machineType =
    kind === "none" || kind === "xenpv"
      ? `${kind}-machine`
      : `pc-${kind === "pc" ? "i440fx" : "q35"}-${String(major)}.${String(minor)}-machine`;
  let status = options.running === false ? "prelaunch" : "running";
  /** The domain's own clock stands still until it first runs; then a second unplug request is refused. */
  let everRan = status === "running";
  const running = (): boolean => status === "running";
  const pending = new Set<unknown>();
  const later = (ms: number, run: () => void): void => {
    const timer = timers.setTimeout(() => {
      pending.delete(timer);
      run();
    }, ms);
    pending.add(timer);
  };

  const host: UsbHost = createUsbHost({ devices: options.hostDevices ?? (() => []), running, strict, scanMs: delays.scanMs, ...timers });
  const machine: Machine = createMachine(kind, strict, host.realize, host.unrealize);
  if (options.usb === true) machine.addBuiltIn();
  for (const args of options.devices ?? []) {
    const added = machine.add(args, true);
    if (!added.ok) throw new Error(`the fake QEMU does not start: ${added.error.desc}`);
  }

  const setStatus = (next: string, event: "STOP" | "RESUME" | null): void => {
    const was = running();
    status = next;
    everRan ||= running();
    if (event !== null && was !== running()) emit(event);
    host.runStateChanged();
  };

  const drop = (device: SimDevice): void => {
    const gone = machine.remove(device);
    later(delays.deletedMs, () => {
      for (const { id, path, driver } of gone) {
        const xhci = driver.on === "PCI" && driver.ports === "xhci";
        if (xhci && major < 10) continue; // never told by 7.2: a reference leaks there
        if (xhci) emit("DEVICE_DELETED", { path: `${path}/xhci-core` });
        emit("DEVICE_DELETED", { ...(id === null ? {} : { device: id }), path });
      }
    });
  };
  const deviceBy = (id: string): SimDevice | undefined => machine.devices.get(id.startsWith("/") ? id : `/machine/peripheral/${id}`);

  const deviceDel = (id: string): Result<unknown, Refusal> => {
    const device = strict && id.includes("/") && !id.startsWith("/") ? undefined : deviceBy(id);
    if (device === undefined) return refuse(`Device '${id}' not found`, "DeviceNotFound");
    if (device.driver.on === "usb-bus") {
      drop(device);
      return ok({});
    }
    if (!device.bus.hotplug) return refuse(`Bus '${device.bus.name}' does not support hotplugging`);
    if (device.leaving && !everRan) return refuse(`Device ${device.id ?? ""} is already in the process of unplug`);
    device.leaving = true;
    if (delays.ejectMs !== null && running()) later(delays.ejectMs, () => eject(device.path));
    return ok({});
  };
  /** The guest's system lets go of what was asked for. */
  const eject = (id: string): boolean => {
    const device = deviceBy(id);
    if (device?.leaving !== true) return false;
    drop(device);
    return true;
  };
  const reset = (byGuest: boolean): void => {
    emit("RESET", byGuest ? { guest: true, reason: "guest-reset" } : { guest: false, reason: "host-qmp-system-reset" });
    if (status === "shutdown") status = "paused";
    for (const device of [...machine.devices.values()].filter(({ leaving }) => leaving)) if (machine.devices.has(device.path)) drop(device);
  };
  const cont = (): Result<unknown, Refusal> => {
    if (status === "shutdown") return refuse("Resetting the Virtual Machine is required");
    setStatus("running", "RESUME");
    return ok({});
  };

  const infoUsb = (end: string): string | null => {
    const buses = machine.buses.filter((bus) => bus.kind === "usb-bus");
    if (buses.length === 0) return null;
    const line = (device: SimDevice, n: number): string =>
      `  Device ${String(n)}.0, Port ${device.port?.path ?? ""}, Speed ${speedOf(device)} Mb/s, Product ${device.productName}` +
      `${device.id === null ? "" : `, ID: ${device.id}`}${end}`;
    return buses.flatMap((bus, n) => [...bus.children.values()].map((device) => line(device, n))).join("");
  };
  /** Only what is USB of it: each bus with its devices, the newest first. */
  const infoQtree = (): string =>
    machine.buses
      .filter((bus) => bus.kind === "usb-bus")
      .flatMap((bus) => [
        `    bus: ${bus.name}`,
        "      type usb-bus",
        ...[...bus.children.values()].reverse().flatMap((device) => [
          `      dev: ${device.driver.name}, id "${device.id ?? ""}"`,
          ...["hostbus", "hostaddr"].flatMap((name) => {
            const value = Number(propertyOf(device, name) ?? Number.NaN);
            return Number.isNaN(value) ? [] : [`        ${name} = ${String(value)} (0x${value.toString(16)})`];
          }),
          `        port = "${String(device.given.get("port") ?? "")}"`,
          `        addr 0.0, port ${device.port?.path ?? ""}, speed ${speedOf(device)}, name ${device.productName}${device.attached ? ", attached" : ""}`,
        ]),
      ])
      .map((line) => `${line}\r\n`)
      .join("");
  const monitor = (line: string): string => {
    const [verb = "", what = ""] = line.trim().split(/\s+/);
    if (verb === "info" && what === "usb") return infoUsb("\r\n") ?? "Error: USB support not enabled\r\n";
    if (verb === "info" && what === "usbhost") return "";
    if (verb === "info" && what === "qtree") return infoQtree();
    if (verb === "device_del") {
      const done = deviceDel(what);
      return done.ok ? "" : `Error: ${done.error.desc}\r\n`;
    }
    return `unknown command: '${line.trim()}'\r\n`;
  };

  const qemuVersion = { qemu: { micro, minor, major }, package: "" };
  const pciClass = ({ driver }: SimDevice): object =>
    driver.on === "PCI" && driver.bridge !== null ? { class: 1540, desc: "PCI bridge" } : { class: 3075, desc: "USB controller" };
  const pciDevices = (bus: Machine["buses"][number], number: number): unknown[] =>
    [...bus.children.values()].map((device) => ({
      bus: number,
      slot: device.slot,
      function: 0,
      qdev_id: device.id ?? "",
      class_info: pciClass(device),
      id: { device: 13, vendor: 6966 },
      regions: [],
      // Bridges are walked once firmware has numbered them.
      ...(device.buses[0] === undefined || device.buses[0].kind === "usb-bus"
        ? {}
        : {
            pci_bridge: {
              bus: { number: 1, secondary: 1, subordinate: 1 },
              ...(everRan ? { devices: pciDevices(device.buses[0], 1) } : {}),
            },
          }),
    }));

  const commands: Readonly<Record<string, Command>> = {
    "query-version": { takes: {}, run: () => ok(qemuVersion) },
    "query-name": { takes: {}, run: () => ok(options.name === undefined ? {} : { name: options.name }) },
    "query-uuid": { takes: {}, run: () => ok({ UUID: options.uuid ?? ZERO_UUID }) },
    "query-status": { takes: {}, run: () => ok({ status, ...(strict ? {} : { singlestep: false }), running: running() }) },
    // libxl asks for it once its device model is ready.
    "query-chardev": { takes: {}, run: () => ok([]) },
    "query-commands": { takes: {}, run: () => ok([...Object.keys(commands), "qmp_capabilities"].map((name) => ({ name }))) },
    "query-pci": {
      takes: {},
      run: () =>
        ok(
          machine.buses
            .filter((bus) => !bus.path.startsWith("/machine/peripheral"))
            .flatMap((bus) => (bus.kind === "usb-bus" ? [] : [{ bus: 0, devices: pciDevices(bus, 0) }])),
        ),
    },
    "qom-list": { takes: { path: TEXT }, run: ({ path }) => qomList(machine, machineType, String(path)) },
    "qom-get": {
      takes: { path: TEXT, property: TEXT },
      run: ({ path, property }) => qomGet(machine, machineType, String(path), String(property)),
    },
    "qom-set": {
      takes: { path: TEXT, property: TEXT, value: { type: "any" } },
      run: ({ path, property }) => qomSet(machine, machineType, String(path), String(property)),
    },
    "qom-list-types": {
      takes: { implements: { type: "string", optional: true }, abstract: { type: "boolean", optional: true } },
      run: (args) => ok(typesOf(args["implements"] as string | undefined)),
    },
    "device-list-properties": {
      takes: { typename: TEXT },
      run: ({ typename }) => {
        if (isAbstract(String(typename))) return refuse("Parameter 'typename' expects a non-abstract device type");
        const driver = driverOf(String(typename));
        if (driver === undefined) return refuse(`Device '${String(typename)}' not found`, "DeviceNotFound");
        return ok(
          driver.properties.map(({ name, type, value }) => ({
            name,
            type,
            ...(typeof value === "string" ? {} : { "default-value": value }),
          })),
        );
      },
    },
    device_add: {
      takes: "any",
      run: (args) => {
        const added = machine.add(args);
        return added.ok ? ok({}) : added;
      },
    },
    device_del: { takes: { id: TEXT }, run: ({ id }) => deviceDel(String(id)) },
    stop: {
      takes: {},
      run: () => {
        setStatus(running() ? "paused" : status, "STOP");
        return ok({});
      },
    },
    cont: { takes: {}, run: cont },
    system_reset: {
      takes: {},
      run: () => {
        reset(false);
        return ok({});
      },
    },
    system_powerdown: {
      takes: {},
      run: () => {
        emit("POWERDOWN");
        return ok({});
      },
    },
    quit: {
      takes: {},
      run: () => {
        emit("SHUTDOWN", { guest: false, reason: "host-qmp-quit" });
        later(0, exit);
        return ok({});
      },
    },
    "human-monitor-command": {
      takes: { "command-line": TEXT, "cpu-index": { type: "any", optional: true } },
      run: (args) => ok(monitor(String(args["command-line"]))),
    },
    "x-query-usb": {
      takes: {},
      run: () => {
        const text = infoUsb("\n");
        return text === null ? refuse("USB support not enabled") : ok({ "human-readable-text": text });
      },
    },
  };

  return {
    version: qemuVersion,
    machine,
    status: () => status,
    execute(name: string, args: Arguments): Answer {
      const command = Object.hasOwn(commands, name) ? commands[name] : undefined;
      const wrong = command === undefined ? err(notFound(name)) : check(command, args);
      if (command === undefined || wrong !== null) return { reply: wrong ?? err(notFound(name)), delayMs: 0 };
      const reply = command.run(args);
      const opened = name === "device_add" && reply.ok && args["driver"] === "usb-host";
      return { reply, delayMs: opened ? delays.openMs : name === "device_add" && !reply.ok ? delays.refusalMs : 0 };
    },
    eject,
    reset: () => reset(true),
    pause: () => setStatus("paused", "STOP"),
    resume: () => void cont(),
    /** The guest shut down or crashed, and the domain is kept (`-no-shutdown`). */
    end(as: "shutdown" | "guest-panicked"): void {
      if (as === "shutdown") emit("SHUTDOWN", { guest: true, reason: "guest-shutdown" });
      else emit("GUEST_PANICKED", { action: "pause" });
      setStatus(as, "STOP");
    },
    addXenUsb: (id: string, ports: number) => machine.addXenUsb(id, ports),
    /** With what hangs on it; nobody is asked. */
    dropXenUsb(id: string): void {
      const device = deviceBy(id);
      if (device !== undefined) drop(device);
    },
    /** Ends every timer. */
    destroy(): void {
      host.stop();
      for (const timer of pending) timers.clearTimeout(timer);
      pending.clear();
    },
  };
}

const notFound = (name: string): Refusal => ({ class: "CommandNotFound", desc: `The command ${name} has not been found` });

function check({ takes }: Command, args: Arguments): Result<never, Refusal> | null {
  if (takes === "any") return null;
  for (const [name, { type, optional }] of Object.entries(takes)) {
    const value = args[name];
    if (value === undefined && optional !== true) return refuse(`Parameter '${name}' is missing`);
    if (value !== undefined && type !== "any" && typeof value !== type)
      return refuse(`Invalid parameter type for '${name}', expected: ${type}`);
  }
  const extra = Object.keys(args).find((name) => !Object.hasOwn(takes, name));
  return extra === undefined ? null : refuse(`Parameter '${extra}' is unexpected`);
}
