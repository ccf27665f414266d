/**
 * A host USB device (hostdev) as sysfs shows it: one enumeration of something plugged into one place.
 * Texts are untrusted: they come from the device. Whatever sysfs does not tell is null (unknown), never a guess.
 */

/** A USB class triple, each 0–255 (USB 2.0, 9.6). */
export type UsbClass = { readonly class: number; readonly subclass: number; readonly protocol: number };

export type HostDevice = {
  /** Directory name in sysfs, e.g. `1-1.4`: the place, stays over re-enumeration. */
  readonly busid: string;
  /** The place, anchored so that bus renumbering cannot move it: `pci-0000:00:14.0/1.4`, ports as the controller's USB 2 root hub counts them. */
  readonly anchor: string | null;
  /** hostbus, hostaddr: 1-based; the address changes at every enumeration. */
  readonly bus: number;
  readonly address: number;
  /** Inode of the device node: tells two enumerations apart that were given the same address. 0 while the node is missing. */
  readonly inode: number;
  /** Path of the device node below `--dev`, e.g. `/dev/bus/usb/001/005`. */
  readonly node: string;
  /** Four lower-case hex digits each. */
  readonly vendor: string;
  readonly product: string;
  readonly deviceClass: UsbClass | null;
  /** Every interface and alternate setting of every configuration, from `descriptors`; null: unknown. */
  readonly interfaces: readonly UsbClass[] | null;
  /** Mb/s as sysfs writes it: 1.5, 12, 480, 5000, 10000, 20000. */
  readonly speed: number | null;
  readonly serial: string | null;
  readonly manufacturer: string | null;
  readonly productName: string | null;
  /** Whether the socket is one that a user can reach; null: unknown. */
  readonly removable: boolean | null;
  readonly hub: boolean;
  /** Kernel drivers in charge of its interfaces, without duplicates; display only. */
  readonly drivers: readonly string[];
  /** Owner and mode of the device node, where it could be looked at. */
  readonly access?: NodeAccess;
};
/** mode: permission bits only. */
export type NodeAccess = { readonly mode: number; readonly uid: number; readonly gid: number };
export const formatAccess = ({ mode, uid, gid }: NodeAccess): string =>
  `owner ${String(uid)}:${String(gid)}, mode ${mode.toString(8).padStart(4, "0")}`;

/** Identifies one enumeration of one device. Equal instances are the same device, never unplugged between. */
export const instanceOf = (device: Pick<HostDevice, "busid" | "bus" | "address" | "inode">): string =>
  `${device.busid}@${String(device.bus)}.${String(device.address)}.${String(device.inode)}`;

/** What tells that a device that came back at the same busid is no longer what was admitted (product.md §3). */
export const fingerprintOf = (device: HostDevice): string =>
  [
    device.vendor,
    device.product,
    device.serial ?? "-",
    formatClasses(device.deviceClass === null ? null : [device.deviceClass]),
    formatClasses(device.interfaces),
  ].join("|");

const hex2 = (value: number): string => value.toString(16).padStart(2, "0");
/** `03:01:02`, as selectors write it. */
export const formatClass = (c: UsbClass): string => `${hex2(c.class)}:${hex2(c.subclass)}:${hex2(c.protocol)}`;
const formatClasses = (classes: readonly UsbClass[] | null): string =>
  classes === null ? "?" : [...classes].map(formatClass).sort().join(",");

/** What of the host depends on a device right now; read at the moment of an action, never kept (product.md §3). Empty arrays: free. */
export type InUse = {
  /** Block nodes that are mounted, swap, have holders (LVM, dm, md), or refuse an exclusive open; each with why, e.g. `sdb1 (mounted on /srv)`. */
  readonly disks: readonly string[];
  /** Network interfaces that carry the default route or are enslaved to one that may. */
  readonly routes: readonly string[];
};

/** A device in one line of text made safe to show: control characters and everything that is not printable become `?`, at most 80 characters. */
export const describeDevice = (device: HostDevice): string =>
  printable([device.manufacturer, device.productName].filter((text) => text !== null && text !== "").join(" ")) || "USB device";

/** Most texts are this, and are shown at every event. */
const PLAIN = /^[\x20-\x7e]*$/;
export const printable = (text: string, limit = 80): string =>
  text.length <= limit && PLAIN.test(text) ? text.trim() : replaced(text, limit);
const replaced = (text: string, limit: number): string =>
  [...text]
    .slice(0, limit)
    .map((character) => (/[\p{C}\p{Zl}\p{Zp}]/u.test(character) ? "?" : character))
    .join("")
    .trim();
