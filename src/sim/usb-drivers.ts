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

export type UsbDrivers = {
  /** Its directory is there, and what is written into it is obeyed. */
  load(name: string): void;
  /** Its interfaces are nobody's then. */
  unload(name: string): void;
  isLoaded(name: string): boolean;
  /** Of an interface; null: it has none. */
  driverOf(face: string): string | null;
  /** Interfaces of a plugged device. */
  facesOf(busid: string): readonly string[];
  /** What was written to a driver's file has been obeyed. */
  taken(file: string): boolean;
  onChange(look: () => void): void;
  close(): void;
};

/** @param faces - names of all interfaces that there are now */
export function createUsbDrivers(sysfs: string, faces: () => readonly string[]): UsbDrivers {
  const watchers = new Map<string, FSWatcher>();
  const lookers: (() => void)[] = [];
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
  const obey = (name: string, file: string): void => {
    const path = join(directory(name), file);
    const face = content(path);
    if (face === "") return;
    truncateSync(path);
    const [there, driver] = [faces().includes(face), driverOf(face)];
    if (file === "unbind" && driver === name) rmSync(linkOf(face));
    else if (file === "bind" && there && driver === null) symlinkSync(directory(name), linkOf(face));
    for (const look of lookers) look();
  };

  return {
    load(name) {
      if (watchers.has(name)) return;
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
      for (const face of faces()) if (driverOf(face) === name) rmSync(linkOf(face));
      rmSync(directory(name), { recursive: true, force: true });
      for (const look of lookers) look();
    },
    isLoaded: (name) => watchers.has(name),
    driverOf,
    facesOf: (busid) => faces().filter((face) => face.startsWith(`${busid}:`)),
    taken: (file) => content(file) === "",
    onChange: (look) => void lookers.push(look),
    close() {
      for (const watcher of watchers.values()) watcher.close();
      watchers.clear();
    },
  };
}

/** The driver that Linux has for an interface of this class. */
export function driverFor({ class: kind }: UsbClass): string {
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
