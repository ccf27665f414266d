/** A domain of the simulated Xen host: what was asked for, what the hypervisor knows of it, and its parts that run. */
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { DeviceArgs } from "./qmp-server.ts";
import type { DeviceModel } from "./xen-device-model.ts";
import type { Frontend, FrontendWay } from "./xen-frontend.ts";
import type { Controller, XenType } from "./xl-nodes.ts";
import type { ControllerWish, UsbDomain } from "./xl-usb.ts";

/** As in its configuration file. */
export type XenSpec = {
  readonly name: string;
  readonly type: XenType;
  readonly uuid?: string;
  /** Version of the device model's program; default 7.2.22. */
  readonly version?: string;
  readonly traditional?: boolean;
  /** PV and PVH have a device model only where something needs one: a `qusb` controller, or this. */
  readonly deviceModel?: boolean;
  /** A monitor of its own in the directory of monitors. */
  readonly monitor?: boolean;
  readonly usb?: boolean;
  readonly usbversion?: number;
  readonly usbctrl?: readonly ControllerWish[];
  readonly usbdev?: readonly { readonly busid: string; readonly controller?: number; readonly port?: number }[];
  /** What the system in it does; default: connects. */
  readonly frontend?: FrontendWay;
  /** Not unpaused once it is made (`xl create -p`). */
  readonly paused?: boolean;
  /** Not made by libxl: it has no `/libxl/<domid>`. */
  readonly foreign?: boolean;
  /** Its device model runs in a domain of its own. */
  readonly stubdom?: boolean;
  readonly memory?: number;
};

export type XenDomain = {
  readonly spec: XenSpec;
  readonly domid: number;
  readonly uuid: string;
  readonly type: XenType;
  name: string;
  paused: boolean;
  shutdown: number | null;
  dying: boolean;
  model: DeviceModel | null;
  /** The domain that its device model runs in; null: it is a process of dom0. */
  stub: XenDomain | null;
  frontend: Frontend | null;
  /** For the commands of USB. */
  readonly usb: UsbDomain;
  /** Ends what is not part of the device model: guest, responder. */
  readonly ends: (() => void)[];
};

export const hasModel = ({ type, deviceModel, usbctrl = [] }: XenSpec, usbback: boolean): boolean =>
  type === "hvm" || deviceModel === true || usbctrl.some((wish) => wish.type === "qusb" || (isAuto(wish) && !usbback));
const isAuto = ({ type }: ControllerWish): boolean => type === undefined || type === "auto";

/** What `usbversion=` puts on the command line; libxl records nothing of it. */
export function bootControllers({ type, usbversion, usb }: XenSpec): {
  readonly devices: readonly DeviceArgs[];
  readonly words: readonly string[];
} {
  if (type !== "hvm" || usbversion === undefined || usb === true) return { devices: [], words: usb === true ? ["-usb"] : [] };
  const devices: DeviceArgs[] =
    usbversion === 1
      ? [{ driver: "piix3-usb-uhci", id: "usb" }]
      : usbversion === 3
        ? [{ driver: "nec-usb-xhci", id: "usb" }]
        : [
            { driver: "ich9-usb-ehci1", id: "usb", addr: "1d.7", multifunction: true },
            ...[0, 1, 2].map((n) => ({
              driver: `ich9-usb-uhci${String(n + 1)}`,
              masterbus: "usb.0",
              firstport: 2 * n,
              addr: `1d.${String(n)}`,
              multifunction: true,
            })),
          ];
  const words = devices.flatMap(({ driver, ...rest }) => [
    "-device",
    [String(driver), ...Object.entries(rest).map(([key, value]) => `${key}=${value === true ? "on" : String(value)}`)].join(","),
  ]);
  return { devices, words };
}

/** libxl's own copy of a domain's configuration; its being there says that creation is over. */
export type DomainJson = {
  readonly c_info: { readonly type: XenType; readonly name: string; readonly uuid: string };
  readonly usbctrls?: readonly (Controller & object)[];
  readonly usbdevs?: readonly object[];
};
export const jsonFileOf = (xenLib: string, domid: number, uuid: string): string =>
  join(xenLib, `userdata-d.${String(domid)}.${uuid}.libxl-json`);
export const readJson = (file: string): DomainJson | null =>
  existsSync(file) ? (JSON.parse(readFileSync(file, "utf8")) as DomainJson) : null;
export function writeJson(file: string, content: DomainJson): void {
  writeFileSync(`${file}.new`, `${JSON.stringify(content, null, 4)}\n`);
  renameSync(`${file}.new`, file);
}
