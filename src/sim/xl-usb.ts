/**
 * The USB commands of xl, with what they check, the order in which they write, and where they get stuck.
 * Source: recordings A to I (specs/transcripts/xen); tools/libs/light/libxl_usb.c.
 */
import { existsSync } from "node:fs";
import { err, ok, type Result } from "../model/result.ts";
import type { XenDelays } from "./xen-device-model.ts";
import type { LocalStore } from "./xenstore-local.ts";
import {
  addController,
  backendPath,
  type Controller,
  controllerDevice,
  forgetDevice,
  libxlPath,
  listControllers,
  modelPath,
  portsPath,
  recordPath,
  type XenType,
} from "./xl-nodes.ts";
import type { LibxlQmp, XlOutcome } from "./xl-qmp.ts";
import type { UsbbackBinding } from "./xl-usbback.ts";

/** devid: fixed by its place in a configuration file; left out, the next. */
export type ControllerWish = {
  readonly devid?: number;
  readonly type?: "auto" | Controller["type"];
  readonly version?: number;
  readonly ports?: number;
};
export type DeviceWish = { readonly hostbus: number; readonly hostaddr: number; readonly controller?: number; readonly port?: number };
/** Where a command may be held up, for others to come in between. */
export type XlHooks = {
  /** The record says so, and QEMU does not know yet. */
  readonly recorded?: () => unknown;
  /** The lock is held, and nothing was sent yet. */
  readonly locked?: () => unknown;
};
export type UsbDomain = {
  readonly domid: number;
  readonly type: XenType;
  readonly qmp: LibxlQmp;
  /** Missing until creation is over: no command of hot-plug works before. */
  readonly jsonFile: string;
  /** The domain is paused, has shut down or dies. */
  readonly resting: () => boolean;
};
export type XlUsbDeps = {
  readonly store: LocalStore;
  readonly delays: XenDelays;
  /** Waits a step of xl. */
  readonly step: () => Promise<void>;
  readonly wait: (ms: number) => Promise<void>;
  readonly addressOf: (busid: string) => { readonly bus: number; readonly address: number } | null;
  readonly busidAt: (bus: number, address: number) => string | null;
  readonly isHub: (busid: string) => boolean;
  readonly usbback: UsbbackBinding;
  /** libxl's json file gets another entry; never before it is there. */
  readonly remember: (domain: UsbDomain, key: "usbctrls" | "usbdevs", entry: object) => void;
};

const FAILED_ADD = "libxl_device_usbdev_add failed.";

export type XlUsb = ReturnType<typeof createXlUsb>;

export function createXlUsb({ store, delays, step, wait, addressOf, busidAt, isHub, usbback, remember }: XlUsbDeps) {
  const defaults = ({ type: kind }: UsbDomain, wish: ControllerWish): Result<Omit<Controller, "devid">, string> => {
    const automatic = kind === "hvm" ? "devicemodel" : usbback.loaded() ? "pv" : "qusb";
    const type = wish.type === undefined || wish.type === "auto" ? automatic : wish.type;
    const version = wish.version ?? 2;
    const fixed = type !== "devicemodel" ? null : version === 1 ? 2 : version === 2 ? 6 : null;
    const ports = wish.ports ?? fixed ?? 8;
    if (fixed !== null && ports !== fixed)
      return err(`Number of ports for USB controller of version ${String(version)} is always ${String(fixed)}`);
    if (ports < 1 || ports > (type === "devicemodel" ? 15 : 31)) return err("Number of ports for USB controller is limited");
    if (type !== "devicemodel" && version === 3) return err("USB controller version 3 is not supported by PV USB");
    return ok({ type, version, ports });
  };
  /** The last of the listing and one: with oxenstored, which sorts, that is not the highest beyond 10. */
  const nextDevid = (domid: number): number => {
    const last = store.list(`${libxlPath(domid)}/device/vusb`).at(-1);
    return last === undefined ? 0 : Number(last) + 1;
  };
  const hotPluggable = ({ domid, jsonFile }: UsbDomain, controller: Omit<Controller, "devid"> | null): string | null => {
    if (!existsSync(jsonFile)) return "failed to load domain configuration";
    if (controller === null || controller.type === "pv") return null;
    if (!store.exists(`${modelPath(domid)}/state`)) return "device model required but not running";
    if (controller.type !== "qusb" || store.exists(`${modelPath(domid)}/backends/qusb`)) return null;
    return "backend type not supported by device model";
  };
  const writeController = (domain: UsbDomain, controller: Controller, hotplug: boolean): string | null => {
    const { domid } = domain;
    const path = recordPath(controllerDevice(domid, controller));
    const written = store.transaction((tx) => {
      if (tx.exists(path)) return null;
      addController(tx, domid, controller);
      return true;
    });
    if (written === null) return "device already exists in xenstore";
    if (hotplug) remember(domain, "usbctrls", controller);
    return null;
  };
  const addHere = ({ qmp }: UsbDomain, { devid, version, ports }: Controller): Promise<XlOutcome> => {
    const id = `xenusb-${String(devid)}`;
    const driver = version === 1 ? "piix3-usb-uhci" : version === 2 ? "usb-ehci" : "nec-usb-xhci";
    return qmp.execute("device_add", { driver, ...(version === 3 ? { p2: String(ports), p3: String(ports) } : {}), id });
  };
  const awaitState = async (path: string, state: string): Promise<boolean> => {
    for (let waited = 0; waited <= delays.stateMs; waited += delays.lookMs + 1) {
      if (store.read(path) === state) return true;
      await wait(delays.lookMs + 1);
    }
    return false;
  };

  const attachController = async (domain: UsbDomain, wish: ControllerWish, hotplug: boolean): Promise<XlOutcome> => {
    const whole = defaults(domain, wish);
    if (!whole.ok) return whole;
    await step();
    const refused = hotplug ? hotPluggable(domain, whole.value) : null;
    if (refused !== null) return err(refused);
    const controller: Controller = { ...whole.value, devid: wish.devid ?? nextDevid(domain.domid) };
    const problem = writeController(domain, controller, hotplug);
    if (problem !== null) return err(problem);
    const device = controllerDevice(domain.domid, controller);
    if (device.backend === null) {
      const added = await addHere(domain, controller);
      if (!added.ok) forgetDevice(store, device);
      return added;
    }
    if (controller.type === "qusb") return ok(null);
    const be = backendPath(device);
    // Exactly InitWait: a backend that runs on to Connected is missed. What was written stays.
    return (await awaitState(`${be}/state`, "2")) ? ok(null) : err(`unable to add device with path ${be}`);
  };

  /** The devices that any domain has by its records; null: one of them is not on the host any more, and libxl gives up. */
  const assigned = (): ReadonlySet<string> | null => {
    const found = new Set<string>();
    for (const name of store.list("/local/domain")) {
      for (const controller of listControllers(store, Number(name))) {
        for (let port = 1; port <= controller.ports; port += 1) {
          const busid = store.read(`${portsPath(Number(name), controller)}/${String(port)}`) ?? "";
          if (busid === "") continue;
          if (addressOf(busid) === null) return null;
          found.add(busid);
        }
      }
    }
    return found;
  };
  const freePort = (domid: number, controller: Controller): number | null => {
    for (let port = 1; port <= controller.ports; port += 1)
      if (store.read(`${portsPath(domid, controller)}/${String(port)}`) === "") return port;
    return null;
  };
  type Place = { readonly controller: Controller; readonly port: number };
  const placeFor = (domain: UsbDomain, { controller: devid, port }: DeviceWish, hotplug: boolean): Result<Place, string> => {
    const { domid } = domain;
    const all = listControllers(store, domid);
    if (devid === undefined) {
      if (port !== undefined) return err("USB controller must be specified if you specify port");
      for (const controller of all) {
        const free = freePort(domid, controller);
        if (free !== null) return ok({ controller, port: free });
      }
      // A new one, in xenstore only: QEMU is never told of it.
      const whole = defaults(domain, {});
      if (!whole.ok) return whole;
      const refused = hotplug ? hotPluggable(domain, whole.value) : null;
      if (refused !== null) return err(refused);
      const controller: Controller = { ...whole.value, devid: nextDevid(domid) };
      const problem = writeController(domain, controller, hotplug);
      return problem === null ? ok({ controller, port: 1 }) : err(problem);
    }
    const controller = all.find((one) => one.devid === devid);
    if (controller === undefined) return err(`xenstore read failed: \`${libxlPath(domid)}/device/vusb/${String(devid)}'`);
    if (port !== undefined) {
      const taken = (store.read(`${portsPath(domid, controller)}/${String(port)}`) ?? "") !== "";
      return taken ? err("The controller port isn't available") : ok({ controller, port });
    }
    const free = freePort(domid, controller);
    return free === null ? err("No available port under specified controller") : ok({ controller, port: free });
  };

  const attachDevice = async (domain: UsbDomain, wish: DeviceWish, hotplug: boolean, hooks: XlHooks = {}): Promise<XlOutcome> => {
    const refuse = (why: string): XlOutcome => err(`${why}\n${FAILED_ADD}`);
    const { domid, qmp } = domain;
    await step();
    const busid = busidAt(wish.hostbus, wish.hostaddr);
    if (busid === null || isHub(busid)) return refuse("USB device is not assignable.");
    const taken = assigned();
    if (taken === null) return refuse("cannot determine if device is assigned, refusing to continue");
    if (taken.has(busid)) return refuse("USB device already attached to a domain");
    const place = placeFor(domain, wish, hotplug);
    if (!place.ok) return refuse(place.error);
    const { controller, port } = place.value;
    if (hotplug) {
      const refused = hotPluggable(domain, null);
      if (refused !== null) return refuse(refused);
    }
    await step();
    const node = `${portsPath(domid, controller)}/${String(port)}`;
    store.transaction((tx) => {
      tx.write(node, busid);
      return true;
    });
    if (hotplug) remember(domain, "usbdevs", { ctrl: controller.devid, port, hostbus: wish.hostbus, hostaddr: wish.hostaddr });
    await hooks.recorded?.();
    if (controller.type === "qusb") return ok(null);
    const done =
      controller.type === "pv"
        ? await usbback.assign(busid)
        : await qmp.execute("device_add", deviceArguments(wish, controller.devid, port), hooks.locked);
    if (done.ok) return done;
    store.write(node, "");
    return refuse(done.error);
  };

  const removeDevice = async (domain: UsbDomain, controller: Controller, port: number, hooks: XlHooks = {}): Promise<XlOutcome> => {
    const node = `${portsPath(domain.domid, controller)}/${String(port)}`;
    const busid = store.read(node) ?? "";
    const at = addressOf(busid);
    if (controller.type === "pv") {
      const unassigned = await usbback.unassign(busid);
      if (!unassigned.ok) return unassigned;
    }
    store.write(node, "");
    await hooks.recorded?.();
    if (controller.type === "pv") return usbback.rebind(busid);
    if (controller.type === "qusb") return ok(null);
    // By where it is now: a device that came back at another address has another id than the object that is there.
    const id = `xenusb-${String(at?.bus ?? 0)}-${String(at?.address ?? 0)}`;
    const removed = await domain.qmp.execute("device_del", { id }, hooks.locked);
    if (!removed.ok) store.write(node, busid);
    return removed;
  };
  const filledPorts = (domid: number, controller: Controller): readonly number[] =>
    Array.from({ length: controller.ports }, (_, n) => n + 1).filter(
      (port) => (store.read(`${portsPath(domid, controller)}/${String(port)}`) ?? "") !== "",
    );
  const unusable = (domid: number, controller: Controller): boolean =>
    filledPorts(domid, controller).some((port) => addressOf(store.read(`${portsPath(domid, controller)}/${String(port)}`) ?? "") === null);

  const removeController = async (domain: UsbDomain, controller: Controller, destroying: boolean): Promise<XlOutcome> => {
    const { domid, qmp } = domain;
    const device = controllerDevice(domid, controller);
    const stuck = `Unable to remove vusb with id ${String(controller.devid)}\nlibxl_device_usbctrl_remove failed.`;
    if (unusable(domid, controller)) return err(stuck);
    for (const port of filledPorts(domid, controller)) {
      const removed = await removeDevice(domain, controller, port);
      if (!removed.ok) return err(`${removed.error}\n${stuck}`);
    }
    if (device.backend === null) {
      const removed = await qmp.execute("device_del", { id: `xenusb-${String(controller.devid)}` });
      if (!removed.ok) return err(`${removed.error}\n${stuck}`);
      forgetDevice(store, device); // on the reply: QEMU may still have it
      return ok(null);
    }
    const be = backendPath(device);
    if (controller.type === "qusb" && (destroying || domain.resting())) {
      await wait(delays.bodgeMs);
      store.write(`${be}/state`, "6");
    } else if (store.exists(`${be}/state`)) {
      store.transaction((tx) => {
        tx.write(`${be}/online`, "0");
        if (tx.read(`${be}/state`) !== "6") tx.write(`${be}/state`, "5");
        return true;
      });
      await awaitState(`${be}/state`, "6");
    }
    await step();
    forgetDevice(store, device);
    return ok(null);
  };

  return {
    attachController,
    attachDevice,
    removeController,
    async detachController(domain: UsbDomain, devid: number): Promise<XlOutcome> {
      await step();
      const controller = listControllers(store, domain.domid).find((one) => one.devid === devid);
      return controller === undefined ? err(`Unknown device ${String(devid)}.`) : removeController(domain, controller, false);
    },
    async detachDevice(domain: UsbDomain, devid: number, port: number, hooks?: XlHooks): Promise<XlOutcome> {
      await step();
      const controller = listControllers(store, domain.domid).find((one) => one.devid === devid);
      const busid = controller === undefined ? null : store.read(`${portsPath(domain.domid, controller)}/${String(port)}`);
      if (controller === undefined || busid === null || busid === "" || addressOf(busid) === null)
        return err(`Unknown device at controller ${String(devid)} port ${String(port)}.`);
      const removed = await removeDevice(domain, controller, port, hooks);
      return removed.ok ? removed : err(`${removed.error}\nlibxl_device_usbdev_remove failed.`);
    },
  };
}

const deviceArguments = ({ hostbus, hostaddr }: DeviceWish, devid: number, port: number) => ({
  id: `xenusb-${String(hostbus)}-${String(hostaddr)}`,
  driver: "usb-host",
  bus: `xenusb-${String(devid)}.0`,
  port: String(port),
  hostbus: String(hostbus),
  hostaddr: String(hostaddr),
});
