/**
 * How libxl gives a host device to the kernel's usbback and takes it back: by sysfs, one interface after another, remembering each one's driver.
 * Source: tools/libs/light/libxl_usb.c (usbback_dev_assign, usbback_dev_unassign, usbdev_rebind).
 */
import { existsSync, readdirSync, realpathSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { err, ok } from "../model/result.ts";
import type { LocalStore } from "./xenstore-local.ts";
import type { XlOutcome } from "./xl-qmp.ts";

export type UsbbackBinding = {
  /** The driver is in the kernel. */
  loaded(): boolean;
  /** Every interface of a device. */
  assign(busid: string): Promise<XlOutcome>;
  unassign(busid: string): Promise<XlOutcome>;
  /** To the drivers that it had. */
  rebind(busid: string): Promise<XlOutcome>;
};

const encoded = (name: string): string => name.replaceAll(".", "_").replaceAll(":", "@");

/** @param settled - resolves once the kernel has done what was written to this file */
export function createUsbbackBinding(sysfs: string, store: LocalStore, settled: (file: string) => Promise<void>): UsbbackBinding {
  const tell = (file: string, face: string): Promise<void> => {
    writeFileSync(file, face);
    return settled(file);
  };
  const usbback = join(sysfs, "bus/usb/drivers/usbback");
  const devices = join(sysfs, "bus/usb/devices");
  const facesOf = (busid: string): string[] => readdirSync(devices).filter((name) => name.startsWith(`${busid}:`));
  const driverOf = (face: string): string | null =>
    existsSync(join(devices, face, "driver")) ? realpathSync(join(devices, face, "driver")) : null;
  const isUsbback = (driver: string | null): boolean => driver !== null && existsSync(usbback) && driver === realpathSync(usbback);
  const remembered = (busid: string): string => `/libxl/usbback/${encoded(busid)}`;

  const binding: UsbbackBinding = {
    loaded: () => existsSync(usbback),
    async assign(busid) {
      for (const face of facesOf(busid)) {
        const driver = driverOf(face);
        if (isUsbback(driver)) continue;
        if (driver !== null) {
          store.write(`${remembered(busid)}/${encoded(face)}/driver_path`, driver);
          await tell(join(driver, "unbind"), face);
        }
        if (!existsSync(join(usbback, "bind"))) {
          await binding.rebind(busid);
          return err(`Couldn't bind ${face} to /sys/bus/usb/drivers/usbback`);
        }
        await tell(join(usbback, "bind"), face);
      }
      return ok(null);
    },
    async unassign(busid) {
      for (const face of facesOf(busid)) {
        if (!isUsbback(driverOf(face))) continue;
        await tell(join(usbback, "unbind"), face);
      }
      return ok(null);
    },
    async rebind(busid) {
      for (const face of facesOf(busid)) {
        const driver = store.read(`${remembered(busid)}/${encoded(face)}/driver_path`);
        if (driver === null || driverOf(face) === driver) continue;
        await tell(join(driver, "bind"), face);
      }
      store.remove(remembered(busid));
      return ok(null);
    },
  };
  return binding;
}
