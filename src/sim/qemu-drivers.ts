/**
 * The device models that the fake QEMU has: what they are called, where they go, which properties they take.
 * Source: device-list-properties and qom-list of QEMU 7.2 (specs/transcripts/qmp); hot-plug: facts of the same, per driver.
 */

/** Speeds as a mask: what a device can do, what a port takes. */
export const LOW = 1;
export const FULL = 2;
export const HIGH = 4;
export const SUPER = 8;
/** As QEMU words them: `full+high`. */
export const speedNames = (mask: number): string =>
  [
    [LOW, "low"],
    [FULL, "full"],
    [HIGH, "high"],
    [SUPER, "super"],
  ]
    .filter(([bit]) => (mask & Number(bit)) !== 0)
    .map(([, name]) => name)
    .join("+");

export type Property = {
  readonly name: string;
  readonly type: string;
  /** What qom-get tells when nothing was given. */
  readonly value: unknown;
  /** Can be given to device_add. */
  readonly settable: boolean;
};
type Kind =
  | { readonly on: "usb-bus"; readonly product: string; readonly speeds: number; readonly attaches: boolean; readonly needs: string | null }
  | {
      readonly on: "PCI";
      readonly ports: "xhci" | readonly number[] | null;
      readonly bridge: "PCI" | "PCIE" | null;
      readonly express: boolean;
    };
export type Driver = Kind & {
  readonly name: string;
  readonly parent: string;
  readonly pluggable: boolean;
  readonly properties: readonly Property[];
};

const property = (name: string, type: string, value: unknown, settable = true): Property => ({ name, type, value, settable });
const text = (name: string): Property => property(name, "str", "");
const number = (name: string, value: number): Property => property(name, "uint32", value);
const flag = (name: string, value: boolean): Property => property(name, "bool", value);

const USB = [text("pcap"), text("port"), flag("msos-desc", true), text("serial"), property("attached", "bool", false, false)];
const PCI = [
  text("failover_pair_id"),
  text("romfile"),
  property("addr", "int32", -1),
  number("romsize", 4294967295),
  flag("x-pcie-lnksta-dllla", true),
  number("rombar", 1),
  flag("x-pcie-extcap-init", true),
  number("acpi-index", 0),
  flag("multifunction", false),
];

const usb = (
  name: string,
  parent: string,
  product: string,
  speeds: number,
  own: readonly Property[],
  needs: string | null = null,
): Driver => ({
  on: "usb-bus",
  name,
  parent,
  product,
  speeds,
  attaches: !["usb-host", "usb-redir", "usb-bot"].includes(name),
  needs,
  pluggable: true,
  properties: [...USB, ...own],
});
const controller = (
  name: string,
  parent: string,
  ports: "xhci" | readonly number[],
  pluggable: boolean,
  own: readonly Property[],
): Driver => ({
  on: "PCI",
  name,
  parent,
  ports,
  bridge: null,
  express: name === "qemu-xhci",
  pluggable,
  properties: [...PCI, ...own],
});
const bridge = (name: string, parent: string, makes: "PCI" | "PCIE"): Driver => ({
  on: "PCI",
  name,
  parent,
  ports: null,
  bridge: makes,
  express: true,
  pluggable: true,
  properties: [...PCI, number("port", 0), number("chassis", 0), number("slot", 0), number("chassis_nr", 0), flag("hotplug", true)],
});

const FS = LOW | FULL;
const UHCI = [FS, FS];
const EHCI = [HIGH, HIGH, HIGH, HIGH, HIGH, HIGH];
const XHCI = [number("p2", 4), number("p3", 4), flag("streams", true)];
const FRAMES = [number("maxframes", 128)];
const HID = [number("usb_version", 2), text("display"), number("head", 0)];
const COMPANION = [text("masterbus"), number("firstport", 0), number("bandwidth", 1280), ...FRAMES];

const ALL: readonly Driver[] = [
  usb("usb-host", "usb-device", "USB Host Device", FS | HIGH | SUPER, [
    number("hostbus", 0),
    number("hostaddr", 0),
    text("hostport"),
    text("hostdevice"),
    number("vendorid", 0),
    number("productid", 0),
    number("isobufs", 4),
    number("isobsize", 32),
    number("loglevel", 2),
    flag("pipeline", true),
    flag("suppress-remote-wake", true),
    flag("guest-reset", true),
    flag("guest-resets-all", false),
    property("bootindex", "int32", -1),
  ]),
  usb("usb-tablet", "usb-hid", "QEMU USB Tablet", FULL | HIGH, HID),
  usb("usb-mouse", "usb-hid", "QEMU USB Mouse", FULL | HIGH, [number("usb_version", 2)]),
  usb("usb-kbd", "usb-hid", "QEMU USB Keyboard", FULL | HIGH, HID),
  usb("usb-hub", "usb-device", "QEMU USB Hub", FULL, [number("ports", 8), flag("port-power", false)]),
  usb("usb-storage", "usb-storage-dev", "QEMU USB MSD", FULL | HIGH | SUPER, [text("drive"), flag("removable", false)], "drive"),
  usb("usb-bot", "usb-storage-dev", "QEMU USB MSD", FULL | HIGH | SUPER, []),
  usb("usb-serial", "usb-serial-dev", "QEMU USB SERIAL", FULL, [text("chardev"), flag("always-plugged", false)], "chardev"),
  usb("usb-redir", "usb-device", "USB Redirection Device", FS | HIGH | SUPER, [text("chardev"), text("filter")], "chardev"),
  usb("usb-audio", "usb-device", "QEMU USB Audio Interface", FULL, [text("audiodev"), flag("multi", false)]),
  usb("usb-ccid", "usb-device", "QEMU USB CCID", FULL, []),
  controller("piix3-usb-uhci", "pci-uhci-usb", UHCI, true, [...FRAMES, number("bandwidth", 1280)]),
  controller("piix4-usb-uhci", "pci-uhci-usb", UHCI, true, [...FRAMES, number("bandwidth", 1280)]),
  controller("vt82c686b-usb-uhci", "pci-uhci-usb", UHCI, false, FRAMES),
  controller("pci-ohci", "pci-device", [FS, FS, FS], false, [text("masterbus"), number("num-ports", 3), number("firstport", 0)]),
  controller("usb-ehci", "pci-ehci-usb", EHCI, true, FRAMES),
  controller("ich9-usb-ehci1", "pci-ehci-usb", EHCI, false, FRAMES),
  controller("ich9-usb-ehci2", "pci-ehci-usb", EHCI, false, FRAMES),
  ...[1, 2, 3, 4, 5, 6].map((n) => controller(`ich9-usb-uhci${String(n)}`, "pci-uhci-usb", UHCI, false, COMPANION)),
  controller("nec-usb-xhci", "pci-xhci", "xhci", true, [...XHCI, number("intrs", 16), number("slots", 64)]),
  controller("qemu-xhci", "pci-xhci", "xhci", true, XHCI),
  bridge("pcie-root-port", "pcie-root-port-base", "PCIE"),
  bridge("pcie-pci-bridge", "base-pci-bridge", "PCI"),
  bridge("pci-bridge", "base-pci-bridge", "PCI"),
];

/** Not on any list: it comes with a controller record in xenstore, never by device_add. */
export const XEN_BACKEND: Driver = {
  on: "PCI",
  name: "xen-backend",
  parent: "xen-sysdev",
  ports: null,
  bridge: null,
  express: false,
  pluggable: false,
  properties: [],
};
const BY_NAME = new Map(ALL.map((driver) => [driver.name, driver]));
const ABSTRACT = new Set([
  "usb-device",
  "usb-hid",
  "usb-storage-dev",
  "usb-serial-dev",
  "pci-device",
  "pci-xhci",
  "pci-uhci-usb",
  "pci-ehci-usb",
  "device",
]);

export const driverOf = (name: string): Driver | undefined => BY_NAME.get(name);
export const isAbstract = (name: string): boolean => ABSTRACT.has(name);

/** @returns every type that implements `base`, with its parent; undefined base: all */
export const typesOf = (base: string | undefined): readonly { readonly name: string; readonly parent: string }[] =>
  ALL.filter(({ name, parent, on }) => [undefined, "device", name, parent, on === "PCI" ? "pci-device" : "usb-device"].includes(base))
    .map(({ name, parent }) => ({ name, parent }))
    .concat(base === undefined || base === "usb-bus" || base === "bus" ? [{ name: "usb-bus", parent: "bus" }] : []);
