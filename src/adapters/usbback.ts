/**
 * The host's side of a `pv` controller: interfaces of a device are taken from their drivers and bound to `usbback`, and given back.
 * Source: xen, tools/libs/light/libxl_usb.c (usbback_dev_assign, usbback_dev_unassign), whose places and names are used, so that libxl gives back
 * what we took and the other way round. `usbback` is not in Linux: this was tested against a stand-in made from libxl's side of the dialogue.
 *
 * Every step is looked at before it is done, and the driver is written down before it loses the interface: what a crash left half done is finished,
 * or undone, by the next call.
 */
import { constants, open, readdir, realpath, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { type ActionError, transient } from "../model/action.ts";
import type { Clock, Log } from "../model/contracts.ts";
import { err, ok, type Result } from "../model/result.ts";
import type { Timings } from "../model/timings.ts";
import { createGate } from "./gate.ts";
import type { XenstoreError, XenstoreNodes } from "./xenstore-nodes.ts";

export type Usbback = {
  /** The driver is loaded. */
  available(): Promise<boolean>;
  /** Every interface that the device has now is bound to usbback afterwards, or none is and all are back where they were. Safe to repeat. */
  bind(busid: string): Promise<Result<void, ActionError>>;
  /** No interface is bound to usbback afterwards; none has another driver yet: libxl clears the port then. A device that is gone is fine. */
  unbind(busid: string): Promise<Result<void, ActionError>>;
  /**
   * {@link Usbback.unbind}, then drivers that were written down get their interfaces back, and are forgotten. A driver that will not take its
   * interface again stops nothing; the log tells.
   */
  release(busid: string): Promise<Result<void, ActionError>>;
  /** Devices whose drivers are written down, by us or by libxl: one that no port names was left so by a crash, and is to be released. */
  remembered(): Promise<Result<readonly string[], ActionError>>;
};
export type UsbbackDeps = {
  readonly nodes: Pick<XenstoreNodes, "read" | "write" | "remove" | "directory">;
  /** Where sysfs is mounted. */
  readonly sysfs: string;
  readonly clock: Clock;
  readonly timings: Pick<Timings, "driverMs" | "hostSettleMs">;
  readonly log: Log;
};

/** Where the driver is, if it is loaded. */
const driverDir = (sysfs: string): string => join(sysfs, "bus/usb/drivers/usbback");
const exists = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    () => false,
  );
/** Whether the host has the driver usbback. */
export const hasUsbback = (sysfs: string): Promise<boolean> => exists(driverDir(sysfs));

const MEMORY = "/libxl/usbback";
/** Xenstore takes neither dots nor colons in names (libxl_usb.c, usb_interface_xenstore_encode). */
const encoded = (name: string): string => name.replaceAll(".", "_").replaceAll(":", "@");
const memoryOf = (busid: string): string => `${MEMORY}/${encoded(busid)}`;
const driverNodeOf = (busid: string, name: string): string => `${memoryOf(busid)}/${encoded(name)}/driver_path`;
/** More than a configuration can have. */
const MAX_INTERFACES = 64;

const BUSY = "DriverBusy";
const unstored = ({ message }: XenstoreError): Result<never, ActionError> =>
  err(transient("StoreRefused", `The drivers of the device's interfaces cannot be kept in xenstore: ${message}.`));

export function createUsbback({ nodes, sysfs, clock, timings, log }: UsbbackDeps): Usbback {
  const drivers = join(sysfs, "bus/usb/drivers");
  const devices = join(sysfs, "bus/usb/devices");
  const usbback = driverDir(sysfs);
  const oneByOne = createGate(1);
  /** A write that the kernel has not come back from: it holds a thread, and there are few. */
  let stuck: string | null = null;

  const interfacesOf = async (busid: string): Promise<readonly string[]> => {
    const names = await readdir(devices).catch(() => []);
    return names
      .filter((name) => name.startsWith(`${busid}:`))
      .sort()
      .slice(0, MAX_INTERFACES);
  };
  const isBound = (name: string): Promise<boolean> => exists(join(usbback, name));
  /** Directory of an interface's driver; null: it has none, or is gone. */
  const driverOf = (name: string): Promise<string | null> => realpath(join(devices, name, "driver")).catch(() => null);

  const write = (path: string, text: string): Promise<Result<void, ActionError>> => {
    if (stuck !== null) return Promise.resolve(err(transient(BUSY, `The kernel still works on what was written to ${stuck}.`)));
    return new Promise((resolve) => {
      const timer = clock.setTimeout(() => {
        stuck = path;
        resolve(err(transient(BUSY, `The kernel did not take ${text} at ${path} within ${String(timings.driverMs)} ms.`)));
      }, timings.driverMs);
      const done = (result: Result<void, ActionError>): void => {
        clock.clearTimeout(timer);
        stuck = null;
        resolve(result);
      };
      writeAttribute(path, text).then(
        () => done(ok(undefined)),
        ({ code, message }: NodeJS.ErrnoException) =>
          done(err(transient("DriverRefused", `The kernel did not take ${text} at ${path}: ${code ?? message}.`))),
      );
    });
  };
  /** What the kernel was told is looked at: right after the write it is so, or something else has come between. */
  const becomes = async (so: () => Promise<boolean>): Promise<boolean> => {
    for (let waitMs = 1; ; waitMs *= 2) {
      if (await so()) return true;
      if (waitMs > timings.hostSettleMs) return false;
      await new Promise<void>((resolve) => {
        clock.setTimeout(() => resolve(), waitMs);
      });
    }
  };

  const bindOne = async (busid: string, name: string): Promise<Result<void, ActionError>> => {
    if (await isBound(name)) return ok(undefined);
    const driver = await driverOf(name);
    if (driver !== null) {
      const remembered = await nodes.write(driverNodeOf(busid, name), driver);
      if (!remembered.ok) return unstored(remembered.error);
      const freed = await write(join(driver, "unbind"), name);
      if (!freed.ok && (await driverOf(name)) === driver) return freed;
      if (!(await becomes(async () => (await driverOf(name)) === null)))
        return err(transient("DriverRefused", `The driver ${basename(driver)} does not let go of ${name}.`));
    }
    const bound = await write(join(usbback, "bind"), name);
    if (!bound.ok) return (await isBound(name)) ? ok(undefined) : bound;
    return (await becomes(() => isBound(name))) ? ok(undefined) : err(transient("DriverRefused", `usbback did not take ${name}.`));
  };
  const unbindAll = async (busid: string): Promise<Result<void, ActionError>> => {
    // One after the other, all of them even if one fails.
    let result: Result<void, ActionError> = ok(undefined);
    for (const name of await interfacesOf(busid)) {
      if (!(await isBound(name))) continue;
      const freed = await write(join(usbback, "unbind"), name);
      const gone = freed.ok ? await becomes(async () => !(await isBound(name))) : !(await isBound(name));
      if (!gone) result = freed.ok ? err(transient("DriverRefused", `usbback does not let go of ${name}.`)) : freed;
    }
    return result;
  };
  const giveBackOne = async (name: string, path: string): Promise<Result<void, ActionError>> => {
    const has = async (): Promise<boolean> => (await driverOf(name)) !== null;
    if (await has()) return ok(undefined);
    // Whoever may write below /libxl may not have us write anywhere.
    const isDriver = dirname(path) === (await realpath(drivers).catch(() => drivers));
    for (const file of [...(isDriver ? [join(path, "bind")] : []), join(sysfs, "bus/usb/drivers_probe")]) {
      const taken = await write(file, name);
      if (taken.ok ? await becomes(has) : await has()) return ok(undefined);
      if (!taken.ok && taken.error.reason === BUSY) return taken;
    }
    if (await exists(join(devices, name))) log.warn("an interface is left without a driver", { interface: name, driver: path });
    return ok(undefined);
  };
  const giveBackAll = async (busid: string): Promise<Result<void, ActionError>> => {
    for (const name of await interfacesOf(busid)) {
      const driver = await nodes.read(driverNodeOf(busid, name));
      if (!driver.ok && driver.error.kind !== "missing") return unstored(driver.error);
      if (!driver.ok || (await isBound(name))) continue;
      const back = await giveBackOne(name, driver.value);
      if (!back.ok) return back;
    }
    const known = await remembered();
    if (!known.ok) return known;
    const forgotten = known.value.includes(busid) ? await nodes.remove(memoryOf(busid)) : ok(undefined);
    return forgotten.ok || forgotten.error.kind === "missing" ? ok(undefined) : unstored(forgotten.error);
  };
  const remembered = async (): Promise<Result<readonly string[], ActionError>> => {
    const names = await nodes.directory(MEMORY);
    if (!names.ok) return names.error.kind === "missing" ? ok([]) : unstored(names.error);
    return ok(names.value.map((name) => name.replaceAll("_", ".").replaceAll("@", ":")));
  };
  const releaseAll = async (busid: string): Promise<Result<void, ActionError>> => {
    const unbound = await unbindAll(busid);
    return unbound.ok ? await giveBackAll(busid) : unbound;
  };

  return {
    available: () => hasUsbback(sysfs),
    bind: (busid) =>
      oneByOne(async () => {
        if (!(await hasUsbback(sysfs)))
          return err({
            kind: "terminal",
            reason: "NoController",
            message: "The driver usbback is not loaded on the host; load it, or use qusb.",
          });
        const names = await interfacesOf(busid);
        if (names.length === 0) return err(transient("HostDeviceGone", `There is no device ${busid} with interfaces.`));
        for (const name of names) {
          const bound = await bindOne(busid, name);
          if (bound.ok) continue;
          // As far as it goes: what it leaves is undone by the next call.
          await releaseAll(busid);
          return bound;
        }
        return ok(undefined);
      }),
    unbind: (busid) => oneByOne(() => unbindAll(busid)),
    release: (busid) => oneByOne(() => releaseAll(busid)),
    remembered,
  };
}

/** In one write, as sysfs wants it; makes no file. */
async function writeAttribute(path: string, text: string): Promise<void> {
  const file = await open(path, constants.O_WRONLY | constants.O_NONBLOCK);
  try {
    await file.write(text);
  } finally {
    await file.close();
  }
}
