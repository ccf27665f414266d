/** Reads single devices out of sysfs and the tree of device nodes. Keeps nothing: every call looks again. */
import { lstatSync, readdirSync, readlinkSync, realpathSync, statfsSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { parseBusid } from "../model/busid.ts";
import type { NodeAccess } from "../model/hostdev.ts";
import {
  controllerOf,
  formatAnchor,
  type ClassTexts,
  isSuperSpeed,
  type KernelView,
  type LockedReading,
  type PlainReading,
  parseAddress,
  parsePeer,
  portDirectory,
  tellsAll,
} from "../protocol/sysfs-usb.ts";
import { readAttribute, readAttributeText, readBytesSync, readTextSync } from "./bounded-read.ts";

/** The node's inode, and a word that changes with its owner or mode. */
export type NodeFacts = { readonly inode: number; readonly access: NodeAccess };
/** A place in sysfs. */
export type Found = { readonly busid: string; readonly directory: string };

export type SysfsReader = {
  /** Whether a read of a locked attribute may wait on the kernel: only in the real sysfs. */
  readonly mayWait: boolean;
  /** Busids of everything that is plugged in; root hubs are none. null: there is no such directory. */
  list(): readonly string[] | null;
  /** Where bus:address is; `known` is tried first. The directory may be the real one: the link in /sys/bus/usb/devices comes after the node. null: nowhere (yet). */
  find(bus: number, address: number, known: string | undefined): (Found & { readonly isRootHub: boolean }) | null;
  /** Bus, address and inode of the node: tells whether it is still the same enumeration. null: gone. */
  instance(place: Found): string | null;
  /** Directory that /sys/bus/usb/devices has for a busid, whether it is there or not. */
  directoryOf(busid: string): string;
  /** null: the directory is gone. */
  plain(place: Found): PlainReading | null;
  locked(place: Found): LockedReading;
  /** The same on a thread: it may wait for as long as the kernel holds the device's lock. */
  lockedLater(place: Found): Promise<LockedReading>;
  /** What of it can be had without the lock. */
  unlocked(place: Found): LockedReading;
  node(bus: number, address: number): NodeFacts | null;
  /** Addresses that have a node on a bus. */
  nodesOf(bus: number): readonly number[];
};

/** What may be one; tens of thousands of names are looked through in one go. */
const BUSID = /^\d+-[\d.]+$/;
const SYSFS_MAGIC = 0x62656572;
/** Device descriptor and eight configurations of 65,535 bytes (USB_MAXCONFIG in the kernel). */
const MAX_DESCRIPTORS = 18 + 8 * 65_535;

export function createSysfsReader({ sysfs, dev, mayWait }: { sysfs: string; dev: string; mayWait?: boolean }): SysfsReader {
  const devices = join(sysfs, "bus/usb/devices");
  const nodes = join(dev, "bus/usb");
  const digits = (value: number): string => String(value).padStart(3, "0");
  const nodePath = (bus: number, address: number): string => `${nodes}/${digits(bus)}/${digits(address)}`;
  const directoryOf = (busid: string): string => `${devices}/${busid}`;
  const address = (directory: string): { bus: number; address: number } | null =>
    parseAddress({ busnum: readTextSync(`${directory}/busnum`), devnum: readTextSync(`${directory}/devnum`) });
  const isAt = (directory: string, bus: number, wanted: number): boolean => {
    const at = address(directory);
    return at !== null && at.bus === bus && at.address === wanted;
  };

  const find: SysfsReader["find"] = (bus, wanted, known) => {
    if (known !== undefined && isAt(directoryOf(known), bus, wanted))
      return { busid: known, directory: directoryOf(known), isRootHub: false };
    // The kernel's own index: char major 189, 128 minors a bus; made before the node (drivers/usb/core/hub.c, usb_new_device; drivers/base/core.c, device_add).
    const directory = realPath(`${sysfs}/dev/char/189:${String((bus - 1) * 128 + wanted - 1)}`);
    if (directory !== null && isAt(directory, bus, wanted)) {
      const busid = basename(directory);
      return { busid, directory, isRootHub: !parseBusid(busid).ok };
    }
    const names = listSync(devices).filter(
      (name) => (name.startsWith(`${String(bus)}-`) && !name.includes(":")) || name === `usb${String(bus)}`,
    );
    const busid = names.find((name) => isAt(directoryOf(name), bus, wanted));
    return busid === undefined ? null : { busid, directory: directoryOf(busid), isRootHub: !parseBusid(busid).ok };
  };

  const anchorOf = (bus: number, ports: readonly number[]): string | null => {
    const root = directoryOf(`usb${String(bus)}`);
    const real = realPath(root);
    if (real === null) return null;
    const peers = isSuperSpeed(readTextSync(`${root}/speed`)) ? ports.map((port, i) => peerOf(bus, ports.slice(0, i), port)) : [];
    return formatAnchor(controllerOf(real), ports, peers);
  };
  const peerOf = (bus: number, hubPorts: readonly number[], port: number): number | null => {
    const hub = hubPorts.length === 0 ? `usb${String(bus)}` : `${String(bus)}-${hubPorts.join(".")}`;
    const face = `${String(bus)}-${hubPorts.length === 0 ? "0" : hubPorts.join(".")}`;
    const directory = portDirectory(bus, hubPorts, port);
    const first = link(`${directoryOf(hub)}/${face}:1.0/${directory}/peer`);
    const other = first !== null ? undefined : facesOf(face, listSync(directoryOf(hub))).find((name) => name !== `${face}:1.0`);
    return parsePeer(other === undefined ? first : link(`${directoryOf(hub)}/${other}/${directory}/peer`));
  };

  return {
    mayWait: mayWait ?? isRealSysfs(sysfs),
    list: () => {
      try {
        return readdirSync(devices).filter((name) => BUSID.test(name));
      } catch {
        return null;
      }
    },
    find,
    directoryOf,
    instance: ({ directory }) => {
      const at = address(directory);
      return at === null ? null : `${String(at.bus)}.${String(at.address)}.${String(nodeFacts(nodePath(at.bus, at.address))?.inode ?? 0)}`;
    },
    plain: ({ busid, directory }) => {
      const place = parseBusid(busid);
      if (!place.ok) return null;
      const names = listSync(directory);
      if (names.length === 0) return null;
      // To open what is not there costs more than all the rest: an error is made of it.
      const there = new Set(names);
      const attribute = (name: string): string | null => (there.has(name) ? readTextSync(`${directory}/${name}`) : null);
      const busnum = attribute("busnum");
      const devnum = attribute("devnum");
      const at = parseAddress({ busnum, devnum });
      const node = at === null ? "" : nodePath(at.bus, at.address);
      return {
        busid: place.value,
        idVendor: attribute("idVendor"),
        idProduct: attribute("idProduct"),
        busnum,
        devnum,
        speed: attribute("speed"),
        removable: attribute("removable"),
        drivers: facesOf(busid, names)
          .flatMap((face) => link(`${directory}/${face}/driver`) ?? [])
          .map((target) => basename(target)),
        anchor: anchorOf(place.value.bus, place.value.ports),
        node,
        inode: node === "" ? 0 : (nodeFacts(node)?.inode ?? 0),
      };
    },
    locked: ({ busid, directory }) => {
      const descriptors = readBytesSync(`${directory}/descriptors`, MAX_DESCRIPTORS);
      return {
        descriptors,
        serial: readTextSync(`${directory}/serial`),
        manufacturer: readTextSync(`${directory}/manufacturer`),
        product: readTextSync(`${directory}/product`),
        kernel: tellsAll(descriptors) ? null : kernelView(busid, directory, readTextSync(`${directory}/bNumInterfaces`)),
      };
    },
    lockedLater: async ({ busid, directory }) => {
      // One at a time: a device whose lock is held costs one thread of the pool, not five. The first waits for the drivers' probing; then the rest is there.
      const serial = await readAttributeText(`${directory}/serial`);
      const manufacturer = await readAttributeText(`${directory}/manufacturer`);
      const product = await readAttributeText(`${directory}/product`);
      const descriptors = await readAttribute(`${directory}/descriptors`, MAX_DESCRIPTORS);
      if (tellsAll(descriptors)) return { descriptors, serial, manufacturer, product, kernel: null };
      const kernel = kernelView(busid, directory, await readAttributeText(`${directory}/bNumInterfaces`));
      return { descriptors, serial, manufacturer, product, kernel };
    },
    unlocked: ({ busid, directory }) => ({
      descriptors: null,
      serial: null,
      manufacturer: null,
      product: null,
      kernel: kernelView(busid, directory, null),
    }),
    node: (bus, wanted) => nodeFacts(nodePath(bus, wanted)),
    nodesOf: (bus) => listSync(`${nodes}/${digits(bus)}`).flatMap((name) => (/^\d{3}$/.test(name) ? [Number(name)] : [])),
  };
}

const facesOf = (busid: string, names: readonly string[]): readonly string[] => names.filter((name) => name.startsWith(`${busid}:`));
const classTexts = (directory: string, of: "Device" | "Interface"): ClassTexts => [
  readTextSync(`${directory}/b${of}Class`),
  readTextSync(`${directory}/b${of}SubClass`),
  readTextSync(`${directory}/b${of}Protocol`),
];
const kernelView = (busid: string, directory: string, bNumInterfaces: string | null): KernelView => ({
  deviceClass: classTexts(directory, "Device"),
  interfaces: facesOf(busid, listSync(directory)).map((face) => classTexts(`${directory}/${face}`, "Interface")),
  bNumInterfaces,
});

/** Character devices in /dev; plain files elsewhere (the simulator). */
const nodeFacts = (path: string): NodeFacts | null => {
  try {
    const stats = statSync(path, { throwIfNoEntry: false });
    return stats === undefined ? null : { inode: stats.ino, access: { mode: stats.mode & 0o7777, uid: stats.uid, gid: stats.gid } };
  } catch {
    return null;
  }
};
const listSync = (directory: string): readonly string[] => {
  try {
    return readdirSync(directory);
  } catch {
    return [];
  }
};
const link = (path: string): string | null => {
  try {
    return lstatSync(path, { throwIfNoEntry: false }) === undefined ? null : readlinkSync(path);
  } catch {
    return null;
  }
};
const realPath = (path: string): string | null => {
  try {
    return realpathSync.native(path);
  } catch {
    return null;
  }
};
const isRealSysfs = (path: string): boolean => {
  try {
    return statfsSync(path).type === SYSFS_MAGIC;
  } catch {
    return false;
  }
};
