/** Drivers of USB interfaces as sysfs shows them, in a temp directory: `bind` and `unbind` do what the kernel's do, a moment after the write. */
import {
  existsSync,
  type FSWatcher,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  watch,
  writeFileSync,
} from "node:fs";
import { basename, join } from "node:path";

export type UsbDrivers = {
  readonly sysfs: string;
  /** @param driver - null: none */
  plug(name: string, driver: string | null): void;
  unplug(name: string): void;
  /** At once. @param driver - null: none */
  set(name: string, driver: string | null): void;
  /** Name of its driver; null: none. */
  driverOf(name: string): string | null;
  /** `bind` or `unbind` of this driver takes the write and does nothing. */
  ignore(driver: string, file: "bind" | "unbind"): void;
  addDriver(driver: string): void;
  /** What was written, `driver/file interface`. */
  readonly written: readonly string[];
  close(): void;
};

/** @param probed - the driver that drivers_probe finds for an interface; null: none */
export function createUsbDrivers(
  sysfs: string,
  names: readonly string[],
  probed: (name: string) => string | null = () => null,
): UsbDrivers {
  const drivers = join(sysfs, "bus/usb/drivers");
  const devices = join(sysfs, "bus/usb/devices");
  const watchers: FSWatcher[] = [];
  const ignored = new Set<string>();
  const written: string[] = [];
  const linkOf = (name: string): string => join(devices, name, "driver");
  const driverOf = (name: string): string | null => (existsSync(linkOf(name)) ? basename(realpathSync(linkOf(name))) : null);
  const set = (name: string, driver: string | null): void => {
    const old = driverOf(name);
    if (old !== null) rmSync(join(drivers, old, name));
    rmSync(linkOf(name), { force: true });
    if (driver === null) return;
    symlinkSync(join("../../drivers", driver), linkOf(name));
    symlinkSync(join("../../devices", name), join(drivers, driver, name));
  };
  /** A file that is written to is read, emptied, and acted upon. */
  const listen = (dir: string, file: string, act: (name: string) => void): void => {
    writeFileSync(join(dir, file), "");
    const watcher = watch(join(dir, file), () => {
      const name = existsSync(join(dir, file)) ? readFileSync(join(dir, file), "utf8") : "";
      if (name === "") return;
      writeFileSync(join(dir, file), "");
      written.push(`${basename(dir)}/${file} ${name}`);
      act(name);
    });
    watchers.push(watcher);
  };
  const addDriver = (driver: string): void => {
    const dir = join(drivers, driver);
    mkdirSync(dir, { recursive: true });
    listen(dir, "bind", (name) => {
      if (!ignored.has(`${driver}/bind`) && existsSync(join(devices, name)) && driverOf(name) === null) set(name, driver);
    });
    listen(dir, "unbind", (name) => {
      if (!ignored.has(`${driver}/unbind`) && driverOf(name) === driver) set(name, null);
    });
  };
  mkdirSync(devices, { recursive: true });
  mkdirSync(drivers, { recursive: true });
  for (const driver of names) addDriver(driver);
  listen(join(sysfs, "bus/usb"), "drivers_probe", (name) => {
    const driver = probed(name);
    if (driver !== null && driverOf(name) === null) set(name, driver);
  });
  return {
    sysfs,
    plug(name, driver) {
      mkdirSync(join(devices, name));
      set(name, driver);
    },
    unplug(name) {
      set(name, null);
      rmSync(join(devices, name), { recursive: true });
    },
    set,
    driverOf: (name) => (readdirSync(devices).includes(name) ? driverOf(name) : null),
    ignore: (driver, file) => void ignored.add(`${driver}/${file}`),
    addDriver,
    written,
    close: () => {
      for (const watcher of watchers) watcher.close();
    },
  };
}
