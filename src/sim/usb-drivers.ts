/**
 * Drivers of USB interfaces as sysfs shows them: who writes an interface's name to a driver's `unbind` or `bind` takes it from there or gives it.
 * The files are plain ones that are watched, so it happens a moment after the write, and what cannot be is not refused.
 */
import {
  existsSync,
  type FSWatcher,
  mkdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  truncateSync,
  watch,
  writeFileSync,
} from "node:fs";
import { basename, join } from "node:path";
import type { UsbClass } from "../model/hostdev.ts";
import { facesOf, type SimDeviceSpec } from "./sysfs-spec.ts";

export type UsbDrivers = {
  /** Its directory is there, and what is written into it is obeyed. */
  load(name: string): void;
  /** Its interfaces are nobody's then. */
  unload(name: string): void;
  isLoaded(name: string): boolean;
  /** An interface came, with this driver; `drivers_probe` finds it again. */
  plugged(face: string, driver: string): void;
  unplugged(face: string): void;
  /** Of an interface; null: it has none. */
  driverOf(face: string): string | null;
  /** Interfaces of a plugged device. */
  facesOf(busid: string): readonly string[];
  /** What was written to a driver's file has been obeyed. */
  taken(file: string): boolean;
  close(): void;
};

export function createUsbDrivers(sysfs: string): UsbDrivers {
  const watchers = new Map<string, FSWatcher>();
  /** Drivers that interfaces came with. */
  const own = new Map<string, string>();
  const directory = (name: string): string => join(sysfs, "bus/usb/drivers", name);
  const linkOf = (face: string): string => join(sysfs, "bus/usb/devices", face, "driver");
  const driverOf = (face: string): string | null => {
    try {
      return basename(readlinkSync(linkOf(face)));
    } catch {
      return null; // no link, or the interface went
    }
  };
  const content = (file: string): string => (existsSync(file) ? readFileSync(file, "utf8").trim() : "");
  const bind = (name: string, face: string): void => {
    symlinkSync(directory(name), linkOf(face));
    symlinkSync(join(sysfs, "bus/usb/devices", face), join(directory(name), face));
  };
  const unbind = (name: string, face: string): void => {
    rmSync(linkOf(face), { force: true });
    rmSync(join(directory(name), face), { force: true });
  };
  const obey = (name: string, file: string): void => {
    const path = join(directory(name), file);
    const face = content(path);
    if (face === "") return;
    truncateSync(path);
    const [there, driver] = [own.has(face), driverOf(face)];
    if (file === "unbind" && driver === name) unbind(name, face);
    else if (file === "bind" && there && driver === null) bind(name, face);
  };
  const probe = join(sysfs, "bus/usb/drivers_probe");
  const obeyProbe = (): void => {
    const face = content(probe);
    if (face === "") return;
    truncateSync(probe);
    const driver = own.get(face);
    if (driver !== undefined && driverOf(face) === null) bind(driver, face);
  };
  const probing = (): void => {
    if (watchers.has("")) return;
    writeFileSync(probe, "");
    watchers.set("", watch(probe, obeyProbe).unref());
  };

  return {
    load(name) {
      if (watchers.has(name)) return;
      probing();
      mkdirSync(directory(name), { recursive: true });
      for (const file of ["bind", "unbind"]) writeFileSync(join(directory(name), file), "");
      watchers.set(
        name,
        watch(directory(name), (_, file) => {
          if (file === "bind" || file === "unbind") obey(name, file);
        }).unref(),
      );
    },
    unload(name) {
      watchers.get(name)?.close();
      watchers.delete(name);
      for (const face of own.keys()) if (driverOf(face) === name) unbind(name, face);
      rmSync(directory(name), { recursive: true, force: true });
    },
    isLoaded: (name) => watchers.has(name),
    plugged(face, driver) {
      own.set(face, driver);
      symlinkSync(join(sysfs, "bus/usb/devices", face), join(directory(driver), face));
    },
    unplugged(face) {
      own.delete(face);
      for (const name of watchers.keys()) rmSync(join(directory(name), face), { force: true });
    },
    driverOf,
    facesOf: (busid) => [...own.keys()].filter((face) => face.startsWith(`${busid}:`)),
    taken: (file) => content(file) === "",
    close() {
      for (const watcher of watchers.values()) watcher.close();
      watchers.clear();
    },
  };
}

/** The driver that Linux has for an interface of this class. */
function driverFor({ class: kind }: UsbClass): string {
  switch (kind) {
    case 0x03:
      return "usbhid";
    case 0x08:
      return "usb-storage";
    case 0x0e:
      return "uvcvideo";
    case 0x02:
    case 0x0a:
      return "cdc_acm";
    default:
      return "usb-serial";
  }
}

/** Interfaces of a Xen host have drivers that give them back when they are told to. */
export function withDrivers(spec: SimDeviceSpec, drivers: UsbDrivers): SimDeviceSpec {
  const interfaces = facesOf(spec).map((face) => ({ ...face, driver: driverFor(face) }));
  for (const { driver } of spec.hub === undefined ? interfaces : []) drivers.load(driver);
  return spec.hub === undefined ? { ...spec, interfaces } : spec;
}

/** Interfaces that come with a driver. */
export const drivenFaces = (busid: string, spec: SimDeviceSpec): (readonly [face: string, driver: string])[] =>
  spec.hub === undefined
    ? facesOf(spec).flatMap(({ driver }, n) => (driver === undefined ? [] : [[`${busid}:1.${String(n)}`, driver] as const]))
    : [];
