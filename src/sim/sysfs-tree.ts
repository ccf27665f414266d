/**
 * The simulated host's USB: real directories `<root>/sys`, `<root>/dev` and `<root>/proc`, changed in the order in which Linux changes them:
 * attributes, then the device node, then the interfaces; at departure the node first. Pinned by specs/transcripts/sysfs.
 */
import { rmSync } from "node:fs";
import { join } from "node:path";
import { parseBusid } from "../model/busid.ts";
import { createProcFiles, type ProcFiles } from "./proc-files.ts";
import { createSysfsFiles, type Placed, portName } from "./sysfs-files.ts";
import { type Detail, isSuper, type SimDeviceSpec, speedOf } from "./sysfs-spec.ts";

export type Plugged = { readonly busid: string; readonly bus: number; readonly address: number; readonly node: string };

/** A device as libusb would list it. `speed`: 1 low, 2 full, 3 high, 4 super. */
export type SimHostDevice = {
  readonly bus: number;
  readonly address: number;
  readonly port: string;
  readonly vendor: string;
  readonly product: string;
  readonly speed: 1 | 2 | 3 | 4;
  readonly node: string;
  readonly openable: boolean;
};

export type ControllerSpec = {
  /** Below /sys/devices: `pci0000:00/0000:00:14.0`, `platform/soc/3f980000.usb`. */
  readonly path: string;
  /** Ports of the USB 2 root hub, and of the USB 3 one: 0 for a controller without. Port n of the one is port n of the other unless `socket3` says otherwise. */
  readonly ports2: number;
  readonly ports3: number;
  /** USB 2 port of the socket of a USB 3 port; null: they are not joined. Left out: the same number. */
  readonly socket3?: (port: number) => number | null;
};

export type SysfsTree = {
  readonly sysfs: string;
  readonly dev: string;
  readonly proc: string;
  /** @returns numbers of its buses; usb3 null where it has none */
  addController(spec: ControllerSpec): { readonly usb2: number; readonly usb3: number | null };
  removeController(path: string): void;
  plug(spec: SimDeviceSpec): Plugged;
  plugAll(specs: readonly SimDeviceSpec[]): readonly Plugged[];
  /** What hangs below it goes first. */
  unplug(busid: string): void;
  /** The same place, new address; another device if `spec` says so. */
  reenumerate(busid: string, spec?: Partial<SimDeviceSpec>): Plugged;
  /** Interfaces of a device plugged with `interfacesLater: "step"`. */
  finish(busid: string): void;
  /** As after a boot with another probing order: every bus gets another number, every device another address. @returns new busids by old */
  renumberBuses(): ReadonlyMap<string, string>;
  setOpenable(busid: string, openable: boolean): void;
  devices(): IterableIterator<SimHostDevice>;
  /** What is mounted and routed, to change it while devices stay. */
  readonly use: ProcFiles;
  /** Removes everything that was made. */
  remove(): void;
};

export type SysfsTreeOptions = {
  /** Character devices (as root only) in the place of plain files. */
  readonly charNodes?: boolean;
  readonly detail?: Detail;
  /** One xHCI at 0000:00:14.0 with 15 ports if left out. */
  readonly controllers?: readonly ControllerSpec[];
};

type Controller = { readonly spec: ControllerSpec; readonly usb2: Bus; readonly usb3: Bus | null };
type Bus = { readonly number: number; readonly speed: number; nextAddress: number; readonly used: Set<number>; readonly root: Placed };

const XHCI: ControllerSpec = { path: "pci0000:00/0000:00:14.0", ports2: 15, ports3: 15 };

export function createSysfsTree(root: string, options: SysfsTreeOptions = {}): SysfsTree {
  const [sysfs, dev, proc] = [join(root, "sys"), join(root, "dev"), join(root, "proc")];
  const use = createProcFiles(proc);
  const files = createSysfsFiles(root, use, { detail: options.detail ?? "full", charNodes: options.charNodes ?? false });
  const controllers = new Map<string, Controller>();
  const buses = new Map<number, Bus>();
  const placed = new Map<string, Placed>();
  const closed = new Set<string>();

  const busNumber = (from = 1): number => {
    let number = from;
    while (buses.has(number)) number += 1;
    return number;
  };
  /** Counts up to 127, then takes the lowest that is free (drivers/usb/core/hub.c, choose_devnum). */
  const nextAddress = (bus: Bus): number => {
    let address = bus.nextAddress;
    while (address <= 127 && bus.used.has(address)) address += 1;
    if (address > 127) for (address = 1; bus.used.has(address); address += 1);
    if (address > 127) throw new Error(`bus ${String(bus.number)} is full`);
    bus.used.add(address);
    bus.nextAddress = address >= 127 ? 1 : address + 1;
    return address;
  };
  const show = (device: Placed): void => {
    placed.set(device.busid, device);
    files.writeDevice(device);
    files.writeNode(device);
    const later = device.spec.interfacesLater;
    if (later === undefined) configure(device);
    else if (later !== "step") setTimeout(() => placed.get(device.busid) === device && configure(device), later).unref();
  };
  const configure = (device: Placed): void => {
    files.writeInterfaces(device);
    if (device.spec.hub !== undefined && device.ports.length > 0) joinHub(device);
  };
  const hide = (device: Placed): void => {
    placed.delete(device.busid);
    buses.get(device.bus)?.used.delete(device.address);
    files.removeNode(device);
    files.removeDevice(device);
  };

  const addBus = (spec: ControllerSpec, speed: number, ports: number, number: number): Bus => {
    const device: SimDeviceSpec = {
      port: "",
      vendor: "1d6b",
      product: isSuper(speed) ? "0003" : "0002",
      speed,
      hub: ports,
      manufacturer: "Linux xhci-hcd",
      productName: "xHCI Host Controller",
      serial: spec.path.split("/").at(-1) ?? "",
    };
    const directory = join(sysfs, "devices", spec.path, `usb${String(number)}`);
    const bus: Bus = {
      number,
      speed,
      nextAddress: 2,
      used: new Set([1]),
      root: { busid: `usb${String(number)}`, bus: number, address: 1, ports: [], directory, spec: device },
    };
    buses.set(number, bus);
    show(bus.root);
    return bus;
  };
  const addController = (spec: ControllerSpec, first = busNumber()): Controller => {
    const usb2 = addBus(spec, 480, spec.ports2, first);
    const usb3 = spec.ports3 === 0 ? null : addBus(spec, 5000, spec.ports3, busNumber(first + 1));
    const controller = { spec, usb2, usb3 };
    controllers.set(spec.path, controller);
    for (let port = 1; usb3 !== null && port <= spec.ports3; port += 1) {
      const socket = socketOf(spec, port);
      if (socket !== null && socket <= spec.ports2) files.joinPeers(portDirectoryOf(usb2.root, socket), portDirectoryOf(usb3.root, port));
    }
    return controller;
  };
  const removeController = (path: string): void => {
    const controller = controllers.get(path);
    if (controller === undefined) throw new Error(`no controller at ${path}`);
    controllers.delete(path);
    for (const bus of [controller.usb3, controller.usb2]) {
      if (bus === null) continue;
      for (const device of [...placed.values()].filter((one) => one.bus === bus.number && one !== bus.root).reverse()) hide(device);
      hide(bus.root);
      buses.delete(bus.number);
      rmSync(join(dev, "bus/usb", String(bus.number).padStart(3, "0")), { recursive: true, force: true });
      files.forgetBus(bus.root);
    }
  };
  /** A USB 3 hub is two: their ports are joined once both halves are there. */
  const joinHub = (hub: Placed): void => {
    const controller = [...controllers.values()].find(({ usb2, usb3 }) => usb2.number === hub.bus || usb3?.number === hub.bus);
    if (controller?.usb3 == null) return;
    const onUsb3 = controller.usb3.number === hub.bus;
    const [first, ...rest] = hub.ports;
    const other = onUsb3
      ? socketOf(controller.spec, first ?? 0)
      : Array.from({ length: controller.spec.ports3 }, (_, i) => i + 1).find((port) => socketOf(controller.spec, port) === first);
    if (other === null || other === undefined) return;
    const twin = placed.get(`${String(onUsb3 ? controller.usb2.number : controller.usb3.number)}-${[other, ...rest].join(".")}`);
    const ports = Math.min(hub.spec.hub ?? 0, twin?.spec.hub ?? 0);
    for (let port = 1; twin !== undefined && port <= ports; port += 1)
      files.joinPeers(portDirectoryOf(hub, port), portDirectoryOf(twin, port));
  };

  const placeOf = (spec: SimDeviceSpec): { bus: Bus; ports: readonly number[] } => {
    const fast = isSuper(speedOf(spec));
    const half = ({ usb2, usb3 }: Controller): Bus => (fast && usb3 !== null ? usb3 : usb2);
    const anchored = /^(?:pci|platform)-(.+)\/([\d.]+)$/.exec(spec.port);
    const found = parseBusid(spec.port);
    if (found.ok) {
      const bus = buses.get(found.value.bus);
      if (bus === undefined) throw new Error(`no bus for ${spec.port}`);
      return { bus, ports: found.value.ports };
    }
    const ports = (anchored?.[2] ?? spec.port).split(".").map(Number);
    if (anchored === null) {
      const [first] = controllers.values();
      const bus = spec.bus === undefined ? first && half(first) : buses.get(spec.bus);
      if (bus === undefined) throw new Error(`no bus for port ${spec.port}`);
      return { bus, ports };
    }
    const controller = [...controllers.values()].find((one) => one.spec.path.endsWith(`/${anchored[1] ?? ""}`));
    if (controller === undefined) throw new Error(`no controller for ${spec.port}`);
    const bus = half(controller);
    if (bus !== controller.usb3) return { bus, ports };
    const socket = Array.from({ length: controller.spec.ports3 }, (_, i) => i + 1).find(
      (port) => socketOf(controller.spec, port) === ports[0],
    );
    return { bus, ports: [socket ?? ports[0] ?? 1, ...ports.slice(1)] };
  };
  const plugAt = (bus: Bus, ports: readonly number[], spec: SimDeviceSpec): Placed => {
    const number = String(bus.number);
    const busid = `${number}-${ports.join(".")}`;
    if (placed.has(busid)) throw new Error(`${busid} is taken`);
    const parent = placed.get(ports.length === 1 ? `usb${number}` : `${number}-${ports.slice(0, -1).join(".")}`);
    if (parent?.spec.hub === undefined || (ports.at(-1) ?? 0) > parent.spec.hub) throw new Error(`there is no port ${busid}`);
    const device: Placed = { busid, bus: bus.number, address: nextAddress(bus), ports, directory: `${parent.directory}/${busid}`, spec };
    show(device);
    return device;
  };
  const pluggedOf = (device: Placed): Plugged => ({
    busid: device.busid,
    bus: device.bus,
    address: device.address,
    node: files.pathOfNode(device),
  });
  const below = (busid: string): Placed[] =>
    placed.get(busid)?.spec.hub === undefined ? [] : [...placed.values()].filter((one) => one.busid.startsWith(`${busid}.`)).reverse();
  const get = (busid: string): Placed => {
    const device = placed.get(busid);
    if (device === undefined) throw new Error(`nothing at ${busid}`);
    return device;
  };
  const plug = (spec: SimDeviceSpec): Plugged => {
    const { bus, ports } = placeOf(spec);
    return pluggedOf(plugAt(bus, ports, spec));
  };

  for (const spec of options.controllers ?? [XHCI]) addController(spec);

  return {
    sysfs,
    dev,
    proc,
    use,
    addController: (spec) => {
      const { usb2, usb3 } = addController(spec);
      return { usb2: usb2.number, usb3: usb3?.number ?? null };
    },
    removeController,
    plug,
    plugAll: (specs) => specs.map(plug),
    unplug: (busid) => {
      for (const device of [...below(busid), get(busid)]) hide(device);
    },
    reenumerate: (busid, change) => {
      const { bus, ports, spec } = get(busid);
      for (const device of [...below(busid), get(busid)]) hide(device);
      const on = buses.get(bus);
      if (on === undefined) throw new Error(`no bus ${String(bus)}`);
      return pluggedOf(plugAt(on, ports, { ...spec, ...change }));
    },
    finish: (busid) => configure(get(busid)),
    renumberBuses: () => {
      const before = [...controllers.values()].map((controller) => ({
        spec: controller.spec,
        halves: [controller.usb2, controller.usb3].map((bus) =>
          [...placed.values()].filter((one) => one.bus === bus?.number && one !== bus.root),
        ),
      }));
      for (const { spec } of before) removeController(spec.path);
      const moved = new Map<string, string>();
      for (const { spec, halves } of before.reverse()) {
        const { usb2, usb3 } = addController(spec, busNumber(2));
        halves.forEach((devices, i) => {
          for (const device of devices) {
            const bus = i === 0 ? usb2 : usb3;
            if (bus !== null) moved.set(device.busid, plugAt(bus, device.ports, device.spec).busid);
          }
        });
      }
      return moved;
    },
    setOpenable: (busid, openable) => {
      if (openable) closed.delete(busid);
      else closed.add(busid);
    },
    *devices() {
      for (const device of placed.values()) {
        const speed = speedOf(device.spec);
        yield {
          bus: device.bus,
          address: device.address,
          port: device.ports.join("."),
          vendor: device.spec.vendor,
          product: device.spec.product,
          speed: isSuper(speed) ? 4 : speed === 480 ? 3 : speed === 12 ? 2 : 1,
          node: files.pathOfNode(device),
          openable: device.spec.openable !== false && !closed.has(device.busid),
        };
      }
    },
    remove: () => rmSync(root, { recursive: true, force: true }),
  };
}

const socketOf = (spec: ControllerSpec, port: number): number | null => (spec.socket3 ?? ((same) => same))(port);
const portDirectoryOf = (hub: Placed, port: number): string =>
  `${hub.directory}/${hub.ports.length === 0 ? `${String(hub.bus)}-0` : hub.busid}:1.0/${portName(hub, port)}`;
