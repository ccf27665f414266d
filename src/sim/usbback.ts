/**
 * The kernel's PV USB backend: controllers of type `pv`, below `backend/vusb`. It is in no mainline kernel and was not recorded: this follows what
 * libxl expects of it (tools/libs/light/libxl_usb.c, libxl_device.c) and xen/include/public/io/usbif.h.
 */
import type { Pending } from "./pending.ts";
import type { UsbDrivers } from "./usb-drivers.ts";
import type { LocalStore } from "./xenstore-local.ts";

export type Usbback = {
  load(): void;
  /** Controllers stay where they are. */
  unload(): void;
  /** Devices that a domain's guest has: in a port, present, every interface bound to usbback. */
  sees(domid: number): readonly string[];
  stop(): void;
};
export type UsbbackOptions = {
  readonly store: LocalStore;
  readonly drivers: UsbDrivers;
  readonly pending: Pending;
  readonly lookMs: number;
};

const ROOT = "/local/domain/0/backend/vusb";
const NAME = "usbback";

export function createUsbback({ store, drivers, pending, lookMs }: UsbbackOptions): Usbback {
  /** Frontends that are watched, by backend. */
  const frontends = new Map<string, () => void>();
  let unwatch: (() => void) | null = null;

  const look = pending.once(lookMs, () => {
    if (unwatch !== null) scan();
  });
  const backends = (): string[] =>
    store.list(ROOT).flatMap((domid) => store.list(`${ROOT}/${domid}`).map((devid) => `${ROOT}/${domid}/${devid}`));
  const scan = (): void => {
    const present = new Set(backends());
    for (const [path, end] of frontends) {
      if (present.has(path)) continue;
      end();
      frontends.delete(path);
    }
    for (const path of present) {
      const frontend = store.read(`${path}/frontend`);
      if (frontend === null) continue;
      if (!frontends.has(path)) frontends.set(path, store.watch(`${frontend}/state`, look));
      follow(path, Number(store.read(`${frontend}/state`) ?? 0));
    }
  };
  const follow = (path: string, theirs: number): void => {
    const mine = Number(store.read(`${path}/state`) ?? 0);
    const set = (state: number): void => {
      if (mine !== state) store.write(`${path}/state`, String(state));
    };
    if (mine === 1 && store.read(`${path}/online`) === "1") set(2);
    else if (mine === 2 && (theirs === 3 || theirs === 4)) set(4);
    else if (theirs === 5 && mine !== 6) set(5);
    else if (theirs === 6 || (theirs === 0 && mine === 5)) set(6);
    else if (mine === 6 && theirs === 1 && store.read(`${path}/online`) === "1") set(2);
  };
  const sees = (domid: number): string[] =>
    store.list(`${ROOT}/${String(domid)}`).flatMap((devid) => {
      const path = `${ROOT}/${String(domid)}/${devid}`;
      if (store.read(`${path}/state`) !== "4") return [];
      return store.list(`${path}/port`).flatMap((port) => {
        const busid = store.read(`${path}/port/${port}`) ?? "";
        const faces = busid === "" ? [] : drivers.facesOf(busid);
        return faces.length > 0 && faces.every((face) => drivers.driverOf(face) === NAME) ? [busid] : [];
      });
    });

  return {
    load() {
      drivers.load(NAME);
      unwatch ??= store.watch(ROOT, look);
    },
    unload() {
      unwatch?.();
      unwatch = null;
      for (const end of frontends.values()) end();
      frontends.clear();
      drivers.unload(NAME);
    },
    sees,
    stop() {
      unwatch?.();
      unwatch = null;
    },
  };
}
