/**
 * The `qusb` backend inside a device model: watches its controllers in xenstore and puts usb-host objects on their buses.
 * Source: QEMU hw/usb/xen-usb.c, hw/xen/xen-legacy-backend.c; golden recordings. Nothing that it does shows in xenstore but `state`:
 * whether a port really has its device only the device model and the guest know.
 */
import type { Pending } from "./pending.ts";
import type { FakeQemu, SimHostDevice } from "./qmp-server.ts";
import type { LocalStore } from "./xenstore-local.ts";

/** What a guest was told of a port: a device, and which enumeration of it. */
export type Told = { readonly controller: number; readonly port: number; readonly busid: string; readonly address: number };
export type QusbBackend = {
  /** What was present when its port was filled, whether the frontend is connected or not. */
  told(): readonly Told[];
  /** Frontends that are connected, by controller. */
  connected(): ReadonlySet<number>;
  stop(): void;
};
export type QusbOptions = {
  readonly store: LocalStore;
  readonly domid: number;
  readonly qemu: FakeQemu;
  readonly devices: () => Iterable<SimHostDevice>;
  readonly pending: Pending;
  /** From a change to the look at it: what changes within is seen as one. */
  readonly lookMs: number;
};

type Port = { filled: boolean; told: Told | null };
type Controller = {
  readonly devid: number;
  readonly frontend: string;
  readonly unwatch: () => void;
  state: number;
  version: number;
  readonly ports: Port[];
};

export function createQusbBackend({ store, domid, qemu, devices, pending, lookMs }: QusbOptions): QusbBackend {
  const root = `/local/domain/0/backend/qusb/${String(domid)}`;
  const controllers = new Map<number, Controller>();
  const look = pending.once(lookMs, () => scan());

  const setState = (controller: Controller, state: number): void => {
    controller.state = state;
    const path = `${root}/${String(controller.devid)}`;
    if (store.exists(path)) store.write(`${path}/state`, String(state));
  };
  const idOf = (controller: Controller): string => `xen-qusb-${String(controller.devid)}`;

  const scan = (): void => {
    const present = new Set(store.list(root).map(Number));
    for (const [devid, controller] of controllers) {
      if (present.has(devid)) continue;
      controllers.delete(devid);
      controller.unwatch();
      if (controller.ports.length > 0) qemu.dropXenUsb(idOf(controller));
    }
    for (const devid of present) {
      const controller = controllers.get(devid) ?? setUp(devid);
      if (controller === null) continue;
      if (controller.ports.length > 0) processPorts(controller);
      checkState(controller);
    }
  };
  /** One that is not in state 1 when it is first seen is left alone. */
  const setUp = (devid: number): Controller | null => {
    const path = `${root}/${String(devid)}`;
    const frontend = store.read(`${path}/frontend`);
    if (frontend === null || store.read(`${path}/state`) !== "1") return null;
    const unwatch = store.watch(`${frontend}/state`, look);
    const controller: Controller = { devid, frontend, unwatch, state: 1, version: 2, ports: [] };
    controllers.set(devid, controller);
    setState(controller, 1);
    return controller;
  };
  const checkState = (controller: Controller): void => {
    const theirs = Number(store.read(`${controller.frontend}/state`) ?? 0);
    if (theirs === 5 || theirs === 6) {
      if (controller.state !== theirs) setState(controller, theirs);
      return;
    }
    if (controller.state === 6 && theirs === 1) setState(controller, 1);
    if (controller.state === 1 && !begin(controller)) return;
    const rings = ["urb-ring-ref", "conn-ring-ref", "event-channel"].every((node) => store.exists(`${controller.frontend}/${node}`));
    if (controller.state === 2 && (theirs === 3 || theirs === 4) && rings) setState(controller, 4);
  };
  const begin = (controller: Controller): boolean => {
    const path = `${root}/${String(controller.devid)}`;
    const count = Number(store.read(`${path}/num-ports`));
    const version = Number(store.read(`${path}/usb-ver`));
    if (store.read(`${path}/online`) !== "1" || !(count >= 1 && count <= 31) || !(version === 1 || version === 2)) return false;
    controller.version = version;
    if (controller.ports.length === 0) {
      qemu.addXenUsb(idOf(controller), count);
      for (let n = 0; n < count; n += 1) controller.ports.push({ filled: false, told: null });
    }
    processPorts(controller);
    store.write(`${path}/hotplug-status`, "connected");
    setState(controller, 2);
    return true;
  };

  const processPorts = (controller: Controller): void => {
    controller.ports.forEach((port, index) => {
      const busid = store.read(`${root}/${String(controller.devid)}/port/${String(index + 1)}`) ?? "";
      if (busid === "" && port.filled) empty(controller, port, index + 1);
      else if (busid !== "" && !port.filled) fill(controller, port, index + 1, busid);
      // Another device in a port that is filled: ignored.
    });
  };
  const empty = (controller: Controller, port: Port, number: number): void => {
    port.filled = false;
    port.told = null;
    qemu.removeByOther(`${idOf(controller)}-${String(number)}`, "backend");
  };
  const fill = (controller: Controller, port: Port, number: number, busid: string): void => {
    const [, bus, hostport] = /^(\d+)-(.+)$/.exec(busid) ?? [];
    if (bus === undefined || hostport === undefined) return;
    const id = `${idOf(controller)}-${String(number)}`;
    const found = [...devices()].find((device) => device.bus === Number(bus) && device.port === hostport);
    const where = { id, bus: `${idOf(controller)}.0`, port: String(number) };
    const added = qemu.addByOther({ driver: "usb-host", ...where, hostbus: Number(bus), hostport }, "backend");
    if (!added.ok) return;
    // A device that USB 1 cannot run is given up again; one that is not there counts as slow.
    if (found !== undefined && found.speed >= 3 && controller.version === 1) return void qemu.removeByOther(id, "backend");
    port.filled = true;
    port.told = found?.openable === true ? { controller: controller.devid, port: number, busid, address: found.address } : null;
  };

  const unwatch = store.watch(root, look);
  return {
    told: () => [...controllers.values()].flatMap(({ ports }) => ports.flatMap(({ told }) => told ?? [])),
    connected: () => new Set([...controllers.values()].filter(({ state }) => state === 4).map(({ devid }) => devid)),
    stop() {
      unwatch();
      for (const controller of controllers.values()) controller.unwatch();
      controllers.clear();
    },
  };
}
