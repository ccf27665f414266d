/** The kinds of device that a simulated host knows: what each is unless a scenario says otherwise. Ids are those of real products. */

import type { UsbClass } from "../model/hostdev.ts";
import type { SimDeviceSpec } from "./sysfs-spec.ts";

type Gadget = {
  /** Four lower-case hex digits each. */
  readonly vendor: string;
  readonly product: string;
  readonly manufacturer: string | null;
  readonly productName: string | null;
  /** Class triple of the device; `00:00:00`: see its interfaces. */
  readonly deviceClass: string;
  readonly interfaces: readonly string[];
  /** Mb/s. */
  readonly speed: number;
};

const gadget = (
  id: string,
  names: readonly [manufacturer: string | null, productName: string | null],
  speed: number,
  interfaces: readonly string[],
  deviceClass = "00:00:00",
): Gadget => ({
  vendor: id.slice(0, 4),
  product: id.slice(5),
  manufacturer: names[0],
  productName: names[1],
  deviceClass,
  interfaces,
  speed,
});

const ALL = {
  dongle: gadget("0529:0001", ["Aladdin", "HASP HL"], 12, ["ff:ff:ff"]),
  stick: gadget("0781:5581", ["SanDisk", "Ultra"], 480, ["08:06:50"]),
  disk: gadget("0bc2:2322", ["Seagate", "Expansion"], 5000, ["08:06:50", "08:06:62"]),
  zigbee: gadget("10c4:ea60", ["Silicon Labs", "CP2102 USB to UART Bridge Controller"], 12, ["ff:00:00"]),
  camera: gadget("046d:0825", [null, "Webcam C270"], 480, ["0e:01:00", "0e:02:00"], "ef:02:01"),
  keyboard: gadget("046d:c31c", ["Logitech", "USB Keyboard"], 1.5, ["03:01:01", "03:00:00"]),
  mouse: gadget("046d:c077", ["Logitech", "USB Optical Mouse"], 1.5, ["03:01:02"]),
  tablet: gadget("056a:037a", ["Wacom Co.,Ltd.", "CTL-472"], 12, ["03:00:00"]),
  modem: gadget("12d1:1506", ["HUAWEI", "HUAWEI Mobile"], 480, ["ff:02:01", "02:02:01", "0a:00:00"]),
  network: gadget("0bda:8153", ["Realtek", "USB 10/100/1000 LAN"], 480, ["ff:ff:00"]),
  coral: gadget("1a6e:089a", [null, null], 480, ["fe:01:02"]),
  hub: gadget("05e3:0608", [null, "USB2.0 Hub"], 480, ["09:00:01"], "09:00:01"),
} as const;

export type GadgetKind = keyof typeof ALL;
export const GADGETS = Object.keys(ALL) as readonly GadgetKind[];

/** What is left out comes from the kind. `id`: `vendor:product`; interfaces as class triples. */
export type GadgetSpec = {
  readonly busid: string;
  readonly kind: GadgetKind;
  readonly id?: string;
  readonly serial?: string;
  readonly manufacturer?: string;
  readonly productName?: string;
  readonly interfaces?: readonly string[];
  readonly removable?: boolean;
};

/** @param nth - tells the names of disks and network interfaces apart */
export function deviceSpecOf(spec: GadgetSpec, nth: number): SimDeviceSpec {
  const gadget: Gadget = ALL[spec.kind];
  const manufacturer = spec.manufacturer ?? gadget.manufacturer;
  const productName = spec.productName ?? gadget.productName;
  const interfaces = (spec.interfaces ?? gadget.interfaces).map(classOf);
  const disk = `sd${diskName(nth)}`;
  return {
    port: spec.busid,
    vendor: spec.id?.slice(0, 4) ?? gadget.vendor,
    product: spec.id?.slice(5) ?? gadget.product,
    deviceClass: classOf(gadget.deviceClass),
    interfaces,
    speed: gadget.speed,
    removable: spec.removable === false ? "fixed" : "removable",
    ...(manufacturer === null ? {} : { manufacturer }),
    ...(productName === null ? {} : { productName }),
    ...(spec.serial === undefined ? {} : { serial: spec.serial }),
    ...(spec.kind === "hub" ? { hub: 4 } : {}),
    ...(interfaces[0]?.class === 0x08 ? { block: [{ name: disk, partitions: [{ name: `${disk}1` }] }] } : {}),
    ...(spec.kind === "network" ? { net: [{ name: `usb${String(nth)}` }] } : {}),
  };
}

const classOf = (triple: string): UsbClass => {
  const [c = 0, subclass = 0, protocol = 0] = triple.split(":").map((part) => Number.parseInt(part, 16));
  return { class: c, subclass, protocol };
};
/** As Linux names disks: a … z, aa, ab … */
const diskName = (nth: number): string =>
  (nth > 26 ? diskName(Math.floor((nth - 1) / 26)) : "") + String.fromCharCode(97 + ((nth - 1) % 26));
