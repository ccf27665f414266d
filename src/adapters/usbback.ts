/**
 * The host's side of a `pv` controller: interfaces of a device are taken from their drivers and bound to `usbback`, and given back.
 * Source: xen, tools/libs/light/libxl_usb.c (usbback_dev_assign, usbback_dev_unassign), whose places and names are used, so that libxl gives back
 * what we took and the other way round. `usbback` is not in Linux: this was tested against a stand-in made from libxl's side of the dialogue.
 *
 * Every step is looked at before it is done, and the driver is written down before it loses the interface: what a crash left half done is finished,
 * or undone, by the next call.
 */
import { constants, open, readdir, realpath, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Clock } from "../model/contracts.ts";
import { err, ok, type Result } from "../model/result.ts";
import type { Timings } from "../model/timings.ts";
import { createGate } from "./gate.ts";
import type { XenstoreError, XenstoreNodes } from "./xenstore-nodes.ts";

/**
 * absent: no such device, or no usbback. refused: the kernel said no. timeout: it did not answer in time, or still works on an earlier write.
 * xenstore: the driver could not be written down or looked up.
 */
export type UsbbackError = { readonly kind: "absent" | "refused" | "timeout" | "xenstore"; readonly message: string };

export type Usbback = {
  /** The driver is loaded. */
  available(): Promise<boolean>;
  /** Every interface that the device has now is bound to usbback afterwards, or none is and all are back where they were. Safe to repeat. */
  bind(busid: string): Promise<Result<void, UsbbackError>>;
  /** No interface is bound to usbback afterwards. Between this and {@link Usbback.giveBack} libxl clears the port. A device that is gone is fine. */
  release(busid: string): Promise<Result<void, UsbbackError>>;
  /**
   * Drivers that were written down get their interfaces back, and are forgotten. One that will not take its interface again does not stop the rest.
   * @returns interfaces that have no driver now though they had one
   */
  giveBack(busid: string): Promise<Result<readonly string[], UsbbackError>>;
};
export type UsbbackDeps = {
  readonly nodes: Pick<XenstoreNodes, "read" | "write" | "remove" | "directory">;
  /** Where sysfs is mounted. */
  readonly sysfs: string;
  readonly clock: Clock;
  readonly timings: Pick<Timings, "driverMs" | "hostSettleMs">;
};

const MEMORY = "/libxl/usbback";
/** Xenstore takes neither dots nor colons in names (libxl_usb.c, usb_interface_xenstore_encode). */
const encoded = (name: string): string => name.replaceAll(".", "_").replaceAll(":", "@");
const memoryOf = (busid: string): string => `${MEMORY}/${encoded(busid)}`;
const driverNodeOf = (busid: string, name: string): string => `${memoryOf(busid)}/${encoded(name)}/driver_path`;
/** More than a configuration can have. */
const MAX_INTERFACES = 64;

const failed = (error: XenstoreError): Result<never, UsbbackError> => err({ kind: "xenstore", message: error.message });

export function createUsbback({ nodes, sysfs, clock, timings }: UsbbackDeps): Usbback {
  const drivers = join(sysfs, "bus/usb/drivers");
  const devices = join(sysfs, "bus/usb/devices");
  const usbback = join(drivers, "usbback");
  const oneByOne = createGate(1);
  /** A write that the kernel has not come back from: it holds a thread, and there are few. */
  let stuck: string | null = null;

  const exists = (path: string): Promise<boolean> =>
    stat(path).then(
      () => true,
      () => false,
    );
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

  const write = (path: string, text: string): Promise<Result<void, UsbbackError>> => {
    if (stuck !== null) return Promise.resolve(err({ kind: "timeout", message: `the kernel still works on ${stuck}` }));
    return new Promise((resolve) => {
      const timer = clock.setTimeout(() => {
        stuck = path;
        resolve(err({ kind: "timeout", message: `${path} took longer than ${String(timings.driverMs)} ms` }));
      }, timings.driverMs);
      const done = (result: Result<void, UsbbackError>): void => {
        clock.clearTimeout(timer);
        stuck = null;
        resolve(result);
      };
      writeAttribute(path, text).then(
        () => done(ok(undefined)),
        (cause: NodeJS.ErrnoException) => {
          const gone = cause.code === "ENOENT" || cause.code === "ENODEV";
          done(err({ kind: gone ? "absent" : "refused", message: `${path} did not take ${text}: ${cause.code ?? cause.message}` }));
        },
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

  const bindOne = async (busid: string, name: string): Promise<Result<void, UsbbackError>> => {
    if (await isBound(name)) return ok(undefined);
    const driver = await driverOf(name);
    if (driver !== null) {
      const remembered = await nodes.write(driverNodeOf(busid, name), driver);
      if (!remembered.ok) return failed(remembered.error);
      const freed = await write(join(driver, "unbind"), name);
      if (!freed.ok && (await driverOf(name)) === driver) return freed;
      if (!(await becomes(async () => (await driverOf(name)) === null)))
        return err({ kind: "refused", message: `${driver} does not let go of ${name}` });
    }
    const bound = await write(join(usbback, "bind"), name);
    if (!bound.ok) return (await isBound(name)) ? ok(undefined) : bound;
    return (await becomes(() => isBound(name))) ? ok(undefined) : err({ kind: "refused", message: `usbback did not take ${name}` });
  };
  const releaseAll = async (busid: string): Promise<Result<void, UsbbackError>> => {
    // One after the other, all of them even if one fails.
    let result: Result<void, UsbbackError> = ok(undefined);
    for (const name of await interfacesOf(busid)) {
      if (!(await isBound(name))) continue;
      const freed = await write(join(usbback, "unbind"), name);
      const gone = freed.ok ? await becomes(async () => !(await isBound(name))) : !(await isBound(name));
      if (!gone) result = freed.ok ? err({ kind: "refused", message: `usbback does not let go of ${name}` }) : freed;
    }
    return result;
  };
  /** @returns whether the interface has a driver again */
  const giveBackOne = async (name: string, path: string): Promise<Result<boolean, UsbbackError>> => {
    if ((await driverOf(name)) !== null) return ok(true);
    // Whoever may write below /libxl may not have us write anywhere.
    const ofTheirs = dirname(path) === (await realpath(drivers).catch(() => drivers));
    for (const file of [...(ofTheirs ? [join(path, "bind")] : []), join(sysfs, "bus/usb/drivers_probe")]) {
      const taken = await write(file, name);
      if (!taken.ok && taken.error.kind === "timeout") return taken;
      if (taken.ok && (await becomes(async () => (await driverOf(name)) !== null))) return ok(true);
    }
    return ok(!(await exists(join(devices, name))));
  };
  const giveBackAll = async (busid: string): Promise<Result<readonly string[], UsbbackError>> => {
    const without: string[] = [];
    for (const name of await interfacesOf(busid)) {
      const remembered = await nodes.read(driverNodeOf(busid, name));
      if (!remembered.ok && remembered.error.kind !== "missing") return failed(remembered.error);
      if (!remembered.ok || (await isBound(name))) continue;
      const back = await giveBackOne(name, remembered.value);
      if (!back.ok) return back;
      if (!back.value) without.push(name);
    }
    const known = await nodes.directory(MEMORY);
    if (!known.ok && known.error.kind !== "missing") return failed(known.error);
    if (known.ok && known.value.includes(encoded(busid))) {
      const forgotten = await nodes.remove(memoryOf(busid));
      if (!forgotten.ok && forgotten.error.kind !== "missing") return failed(forgotten.error);
    }
    return ok(without);
  };

  return {
    available: () => exists(usbback),
    bind: (busid) =>
      oneByOne(async () => {
        if (!(await exists(usbback))) return err({ kind: "absent", message: "the driver usbback is not loaded" });
        const names = await interfacesOf(busid);
        if (names.length === 0) return err({ kind: "absent", message: `there is no device ${busid} with interfaces` });
        for (const name of names) {
          const bound = await bindOne(busid, name);
          if (bound.ok) continue;
          // As far as it goes: what it leaves is undone by the next call.
          const released = await releaseAll(busid);
          if (released.ok) await giveBackAll(busid);
          return bound;
        }
        return ok(undefined);
      }),
    release: (busid) => oneByOne(() => releaseAll(busid)),
    giveBack: (busid) => oneByOne(() => giveBackAll(busid)),
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
