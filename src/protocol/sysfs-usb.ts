/**
 * What sysfs shows of one USB device -> HostDevice. Everything in it may be missing, cut off or made up by the device.
 * Source: Linux, drivers/usb/core/sysfs.c, port.c; Documentation/ABI/testing/sysfs-bus-usb.
 */
import { type Busid, formatBusid } from "../model/busid.ts";
import type { HostDevice, UsbClass } from "../model/hostdev.ts";
import { type Descriptors, parseDescriptors } from "./usb-descriptors.ts";

/** An attribute's text as read, the line feed with it; null: not there or not readable. */
export type AttributeText = string | null;

/** Attributes that the kernel answers at once, and what else can be seen without the device's lock. */
export type PlainReading = {
  readonly busid: Busid;
  readonly idVendor: AttributeText;
  readonly idProduct: AttributeText;
  readonly busnum: AttributeText;
  readonly devnum: AttributeText;
  readonly speed: AttributeText;
  readonly removable: AttributeText;
  /** Names of the drivers of its interfaces. */
  readonly drivers: readonly string[];
  /** See {@link formatAnchor}. */
  readonly anchor: string | null;
  /** The device node: path below `--dev` and inode (0: missing). */
  readonly node: string;
  readonly inode: number;
};

/** bXxxClass, bXxxSubClass, bXxxProtocol of a device or of an interface directory (`1-1.4:1.0`). */
export type ClassTexts = readonly [AttributeText, AttributeText, AttributeText];

/** What the kernel made of the descriptors. Without the device's lock but for bNumInterfaces. */
export type KernelView = {
  readonly deviceClass: ClassTexts;
  readonly interfaces: readonly ClassTexts[];
  readonly bNumInterfaces: AttributeText;
};

/** Attributes for which the kernel takes the device's lock: while drivers are probing, a read of them waits (measured: 12–14 ms on the testbed). */
export type LockedReading = {
  readonly descriptors: Uint8Array | null;
  readonly serial: AttributeText;
  readonly manufacturer: AttributeText;
  readonly product: AttributeText;
  /** null: not needed, see {@link tellsAll}. */
  readonly kernel: KernelView | null;
};

/** A device that can be reported, and whether its interfaces are known for sure. */
export type DeviceReading = { readonly device: HostDevice; readonly settled: boolean };

/** Longest text taken from a device, in characters. A USB string has 126 at most (USB 2.0, 9.6.7). */
const MAX_TEXT = 256;
const HUB_CLASS = 9;

/** Bus and address as sysfs has them; null: not a device that can be told. Kernel limits: devnum 1–127. */
export function parseAddress({ busnum, devnum }: Pick<PlainReading, "busnum" | "devnum">): { bus: number; address: number } | null {
  const bus = decimal(busnum);
  const address = decimal(devnum);
  return bus === null || address === null || bus < 1 || address < 1 || address > 127 ? null : { bus, address };
}

/** @returns null: idVendor, idProduct, busnum or devnum is missing or makes no sense; nothing else is needed */
export function parseDevice(plain: PlainReading, locked: LockedReading): DeviceReading | null {
  const vendor = hex4(plain.idVendor);
  const product = hex4(plain.idProduct);
  const place = parseAddress(plain);
  if (vendor === null || product === null || place === null || place.bus !== plain.busid.bus) return null;
  const descriptors = locked.descriptors === null ? null : parseDescriptors(locked.descriptors);
  const interfaces = interfacesOf(locked.kernel, descriptors);
  const deviceClass = descriptors?.deviceClass ?? (locked.kernel === null ? null : classOf(locked.kernel.deviceClass));
  const hub = deviceClass?.class === HUB_CLASS || interfaces?.some((face) => face.class === HUB_CLASS) === true;
  return {
    settled: interfaces !== null,
    device: {
      busid: formatBusid(plain.busid),
      anchor: plain.anchor,
      ...place,
      inode: plain.inode,
      node: plain.node,
      vendor,
      product,
      deviceClass,
      interfaces,
      speed: speedOf(plain.speed),
      serial: deviceText(locked.serial),
      manufacturer: deviceText(locked.manufacturer),
      productName: deviceText(locked.product),
      removable: plain.removable === null ? null : (REMOVABLE[plain.removable.trim()] ?? null),
      hub,
      drivers: [...new Set(plain.drivers)],
    },
  };
}

const REMOVABLE: Readonly<Record<string, boolean>> = Object.assign(Object.create(null) as Record<string, boolean>, {
  removable: true,
  fixed: false,
});

/**
 * From `descriptors`, which tells every configuration and alternate setting. Where it is missing or broken: what the kernel made of it,
 * once there are as many interface directories as the active configuration has, and what could be read of the descriptors beside it.
 */
function interfacesOf(kernel: KernelView | null, descriptors: Descriptors | null): readonly UsbClass[] | null {
  if (descriptors?.complete === true) return descriptors.interfaces;
  if (kernel === null) return null;
  const expected = decimal(kernel.bNumInterfaces);
  const known = kernel.interfaces.map(classOf).filter((face) => face !== null);
  if (expected === null || expected < 1 || known.length < expected || known.length < kernel.interfaces.length) return null;
  return [...(descriptors?.interfaces ?? []), ...known];
}

/** Whether `descriptors` say it all, so that the kernel's view is not needed. */
export const tellsAll = (descriptors: Uint8Array | null): boolean => descriptors !== null && parseDescriptors(descriptors).complete;

const decimal = (text: AttributeText): number | null => {
  const digits = text === null ? null : /^\s*(\d{1,9})\s*$/.exec(text)?.[1];
  return digits === null || digits === undefined ? null : Number(digits);
};
const hex4 = (text: AttributeText): string | null => /^([0-9a-f]{4})\n?$/i.exec(text ?? "")?.[1]?.toLowerCase() ?? null;
const hex2 = (text: AttributeText): number | null => {
  const digits = /^([0-9a-f]{2})\n?$/i.exec(text ?? "")?.[1];
  return digits === undefined ? null : Number.parseInt(digits, 16);
};
const classOf = (texts: ClassTexts): UsbClass | null => {
  const [c, subclass, protocol] = [hex2(texts[0]), hex2(texts[1]), hex2(texts[2])];
  return c === null || subclass === null || protocol === null ? null : { class: c, subclass, protocol };
};
/** `1.5`, `12`, `480`, `5000` …; `unknown` while it is not. */
const speedOf = (text: AttributeText): number | null => {
  const match = /^(\d{1,6}(?:\.\d)?)\s*$/.exec(text ?? "");
  return match === null ? null : Number(match[1]);
};
/** Without the line feed that the kernel adds, cut, otherwise as the device gave it. */
const deviceText = (text: AttributeText): string | null => {
  const line = text?.replace(/\n$/, "") ?? "";
  return line === "" ? null : line.length <= MAX_TEXT ? line : [...line].slice(0, MAX_TEXT).join("");
};

/**
 * Name of the controller behind a root hub, as udev's ID_PATH begins: `pci-0000:00:14.0`, `platform-3f980000.usb`.
 * Ids that the kernel hands out in probing order (`xhci-hcd.1.auto`) are skipped: they are no place.
 * @param rootHub - real path of the root hub's directory, `/sys/devices/pci0000:00/0000:00:14.0/usb1`
 * @returns null: no path of either kind
 */
export function controllerOf(rootHub: string): string | null {
  const parts = rootHub.split("/").slice(0, -1).reverse();
  const platform = parts.includes("platform");
  for (const part of parts) {
    if (PCI_ADDRESS.test(part)) return `pci-${part}`;
    if (part === "platform" || part === "devices") break;
    if (platform && !part.endsWith(".auto") && !PCI_ROOT.test(part)) return `platform-${part}`;
  }
  const nearest = parts[0];
  return platform && nearest !== undefined && nearest !== "platform" ? `platform-${nearest}` : null;
}
const PCI_ADDRESS = /^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$/;
const PCI_ROOT = /^pci[0-9a-f]{4,8}:[0-9a-f]{2}$/;

/** Directory of a hub's port below its interface directory: `usb2-port1` for root hubs, `2-1-port3` else. */
export const portDirectory = (bus: number, hubPorts: readonly number[], port: number): string =>
  `${hubPorts.length === 0 ? `usb${String(bus)}` : `${String(bus)}-${hubPorts.join(".")}`}-port${String(port)}`;

/** @returns the port number that a `peer` link (`../../../usb1/1-0:1.0/usb1-port1`) leads to; null: it is none */
export function parsePeer(link: string | null): number | null {
  const port = /(?:^|\/)(?:usb\d{1,5}|\d{1,5}-[\d.]{1,32})-port(\d{1,3})$/.exec(link ?? "")?.[1];
  return port === undefined || Number(port) < 1 || Number(port) > 255 ? null : Number(port);
}

/**
 * The place in words that no bus number is part of: `pci-0000:00:14.0/1.4`.
 * @param peers - for a device on a SuperSpeed bus, what {@link parsePeer} says of each port of its path (null: no peer, its own number stands); empty else
 */
export const formatAnchor = (controller: string | null, ports: readonly number[], peers: readonly (number | null)[]): string | null =>
  controller === null ? null : `${controller}/${ports.map((port, i) => peers[i] ?? port).join(".")}`;

/** Slowest root hub, in Mb/s, that is the SuperSpeed half of its controller. */
export const isSuperSpeed = (speed: AttributeText): boolean => (speedOf(speed) ?? 0) >= 5000;
