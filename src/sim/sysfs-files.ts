/** Writes single devices of the simulated host into real directories. */
import { execFileSync } from "node:child_process";
import { mkdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { basename, dirname, join, relative } from "node:path";
import type { ProcFiles } from "./proc-files.ts";
import {
  attributesOf,
  configuredOf,
  type Detail,
  descriptorsOf,
  digits,
  faceAttributesOf,
  facesOf,
  minorOf,
  type SimDeviceSpec,
  type SimDisk,
} from "./sysfs-spec.ts";

export type Placed = {
  /** `1-1.4`; `usb1` for a root hub. */
  readonly busid: string;
  readonly bus: number;
  readonly address: number;
  readonly ports: readonly number[];
  /** Its directory below `<root>/sys/devices`. */
  readonly directory: string;
  readonly spec: SimDeviceSpec;
};

export type SysfsFiles = {
  /** Attributes and links. */
  writeDevice(device: Placed): void;
  writeNode(device: Placed): void;
  /** Interface directories with what hangs on them, and what tells that the device is configured. */
  writeInterfaces(device: Placed): void;
  /** Joins two ports of one socket: directories of `portN`. */
  joinPeers(one: string, other: string): void;
  removeNode(device: Placed): void;
  removeDevice(device: Placed): void;
  /** The directory of its bus's nodes was removed. */
  forgetBus(device: Placed): void;
  pathOfNode(device: Placed): string;
};

export function createSysfsFiles(root: string, proc: ProcFiles, { detail, charNodes }: { detail: Detail; charNodes: boolean }): SysfsFiles {
  const sys = join(root, "sys");
  const dev = join(root, "dev");
  const made = new Set<string>();
  const mkdir = (path: string): void => {
    if (made.has(path)) return;
    made.add(path);
    mkdirSync(path, { recursive: true });
  };
  for (const path of ["bus/usb/devices", "dev/char", "class/net", "bus/usb/drivers/usb"]) mkdir(join(sys, path));
  mkdir(join(dev, "bus/usb"));
  const link = (at: string, target: string): void => symlinkSync(relative(dirname(at), target), at);
  const unlink = (path: string): void => rmSync(path, { force: true });
  const writeAll = (directory: string, texts: ReadonlyMap<string, string>): void => {
    for (const [name, text] of texts) writeFileSync(`${directory}/${name}`, text);
  };
  const charLink = (device: Placed): string => `${sys}/dev/char/189:${String(minorOf(device))}`;
  const busLink = (name: string): string => `${sys}/bus/usb/devices/${name}`;
  const pathOfNode = (device: Placed): string => `${dev}/bus/usb/${digits(device.bus)}/${digits(device.address)}`;

  const writeDisk = (directory: string, { name, mounted, swap, holders = [] }: SimDisk): void => {
    mkdirSync(`${directory}/holders`, { recursive: true });
    writeFileSync(`${directory}/dev`, `${proc.numberOf(name)}\n`);
    for (const holder of holders) symlinkSync(`../../../${holder}`, `${directory}/holders/${holder}`);
    writeFileSync(`${dev}/${name}`, "");
    if (mounted !== undefined) proc.mount(name, mounted);
    if (swap === true) proc.swapOn(name);
  };
  const writeChildren = (face: string, spec: SimDeviceSpec): void => {
    (spec.block ?? []).forEach((disk, i) => {
      const directory = `${face}/host${String(i)}/target${String(i)}:0:0/${String(i)}:0:0:0/block/${disk.name}`;
      writeDisk(directory, disk);
      for (const part of disk.partitions ?? []) {
        writeDisk(`${directory}/${part.name}`, part);
        writeFileSync(`${directory}/${part.name}/partition`, "1\n");
      }
    });
    for (const { name, defaultRoute, master } of spec.net ?? []) {
      mkdirSync(`${face}/net/${name}`, { recursive: true });
      link(`${sys}/class/net/${name}`, `${face}/net/${name}`);
      if (master !== undefined) {
        mkdirSync(`${sys}/devices/virtual/net/${master}`, { recursive: true });
        unlink(`${sys}/class/net/${master}`);
        link(`${sys}/class/net/${master}`, `${sys}/devices/virtual/net/${master}`);
        link(`${face}/net/${name}/master`, `${sys}/devices/virtual/net/${master}`);
      }
      if (defaultRoute === true) proc.route(name);
    }
  };

  return {
    pathOfNode,
    forgetBus: (device) => void made.delete(dirname(pathOfNode(device))),
    writeDevice: (device) => {
      const { directory, spec, busid } = device;
      mkdirSync(directory, { recursive: true });
      writeAll(directory, attributesOf(spec, device, detail));
      if (detail === "full") {
        for (const name of configuredOf(spec, detail).keys()) writeFileSync(`${directory}/${name}`, "");
        link(`${directory}/subsystem`, `${sys}/bus/usb`);
      }
      const descriptors = spec.lateDescriptors === true ? null : descriptorsOf(spec);
      if (descriptors !== null) writeFileSync(`${directory}/descriptors`, descriptors);
      link(charLink(device), directory);
      link(busLink(busid), directory);
    },
    writeNode: (device) => {
      const path = pathOfNode(device);
      mkdir(dirname(path));
      if (charNodes) execFileSync("mknod", ["-m", "0664", path, "c", "189", String(minorOf(device))]);
      else writeFileSync(path, "", { flag: "wx" });
    },
    writeInterfaces: (device) => {
      const { directory, spec, busid, ports } = device;
      const descriptors = spec.lateDescriptors === true ? descriptorsOf(spec) : null;
      if (descriptors !== null) writeFileSync(`${directory}/descriptors`, descriptors);
      const place = ports.length === 0 ? `${String(device.bus)}-0` : busid;
      facesOf(spec).forEach((face, i) => {
        const path = `${directory}/${place}:1.${String(i)}`;
        mkdirSync(path);
        writeAll(path, faceAttributesOf(face, i, detail));
        link(busLink(basename(path)), path);
        if (face.driver !== undefined) {
          mkdir(`${sys}/bus/usb/drivers/${face.driver}`);
          link(`${path}/driver`, `${sys}/bus/usb/drivers/${face.driver}`);
        }
        if (i === 0) writeChildren(path, spec);
      });
      for (let port = 1; port <= (spec.hub ?? 0); port += 1) mkdirSync(`${directory}/${place}:1.0/${portName(device, port)}`);
      writeAll(directory, configuredOf(spec, detail));
      if (detail === "full") link(`${directory}/driver`, `${sys}/bus/usb/drivers/usb`);
    },
    joinPeers: (one, other) => {
      for (const [from, to] of [
        [one, other],
        [other, one],
      ] as const) {
        unlink(`${from}/peer`);
        link(`${from}/peer`, to);
      }
    },
    removeNode: (device) => unlink(pathOfNode(device)),
    removeDevice: ({ directory, spec, busid, ...device }) => {
      for (const disk of spec.block ?? []) {
        for (const { name } of [disk, ...(disk.partitions ?? [])]) {
          proc.release(name);
          unlink(`${dev}/${name}`);
        }
      }
      for (const { name } of spec.net ?? []) {
        proc.unroute(name);
        unlink(`${sys}/class/net/${name}`);
      }
      const place = device.ports.length === 0 ? `${String(device.bus)}-0` : busid;
      for (const i of facesOf(spec).keys()) unlink(busLink(`${place}:1.${String(i)}`));
      unlink(busLink(busid));
      unlink(charLink({ directory, spec, busid, ...device }));
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

/** Name of a hub's port directory: `usb1-port3`, `1-1-port3`. */
export const portName = ({ busid }: Placed, port: number): string => `${busid}-port${String(port)}`;
