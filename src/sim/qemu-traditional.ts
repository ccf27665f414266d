/**
 * The command channel of a qemu-xen-traditional device model: it has no QMP, and takes commands in xenstore. Not recorded; source: qemu-xen-4.2
 * xenstore.c and vl.c. `usb-added` is said even when nothing was added.
 */
import type { Pending } from "./pending.ts";
import type { LocalStore } from "./xenstore-local.ts";
import { modelPath } from "./xl-nodes.ts";

export type Traditional = {
  /** What its USB bus has: `host:1.5`. */
  devices(): readonly string[];
  stop(): void;
};
export type TraditionalOptions = {
  readonly store: LocalStore;
  readonly domid: number;
  readonly pending: Pending;
  readonly lookMs: number;
  /** Whether there is a host device that `host:1.5` or `host:1234:abcd` names. */
  readonly canOpen: (device: string) => boolean;
};

/** Free ports of its UHCI root. */
const PORTS = 2;
const DONE: Readonly<Record<string, string>> = {
  "usb-add": "usb-added",
  "usb-del": "usb-deleted",
  "pci-ins": "pci-insert-failed",
  "pci-rem": "pci-removed",
  save: "paused",
  continue: "running",
};

export function createTraditional({ store, domid, pending, lookMs, canOpen }: TraditionalOptions): Traditional {
  const path = modelPath(domid);
  const devices: string[] = [];
  const obey = (): void => {
    const command = store.read(`${path}/command`);
    const state = command === null ? undefined : DONE[command];
    if (command === null) return;
    const parameter = store.read(`${path}/parameter`) ?? "";
    store.remove(`${path}/command`);
    if (command === "usb-add" && devices.length < PORTS && !devices.includes(parameter) && canOpen(parameter)) devices.push(parameter);
    if (command === "usb-del" && devices.includes(parameter)) devices.splice(devices.indexOf(parameter), 1);
    if (state !== undefined) store.write(`${path}/state`, state);
  };
  const unwatch = store.watch(`${path}/command`, () => void pending.after(lookMs, obey));
  return { devices: () => [...devices], stop: unwatch };
}
