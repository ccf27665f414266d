/**
 * Virtual USB controllers by name: what QEMU's and libvirt's models are, how many ports they have, what they take.
 * Source: product.md §9; facts/qmp.md B.2, B.6 (QEMU hw/usb/hcd-*.c).
 */

/** 1 UHCI/OHCI, 2 EHCI, 3 xHCI. */
export type UsbVersion = 1 | 2 | 3;

export type ControllerModel = {
  /** QEMU's `-device` name, e.g. `qemu-xhci`; for PV `qusb` or `usbback`. */
  readonly driver: string;
  readonly kind: "emulated" | "pv";
  readonly version: UsbVersion;
  /** Fewest and most ports that the model can be made with; equal: fixed. */
  readonly minPorts: number;
  readonly maxPorts: number;
  /** Whether QEMU takes it in `device_add` while a domain runs. */
  readonly hotPluggable: boolean;
  /** Slowest and fastest device in Mb/s that its ports take; null: no bound. */
  readonly minSpeed: number | null;
  readonly maxSpeed: number | null;
};

const emulated = (
  driver: string,
  version: UsbVersion,
  ports: readonly [number, number],
  hotPluggable = true,
  minSpeed: number | null = null,
): ControllerModel => ({
  driver,
  kind: "emulated",
  version,
  minPorts: ports[0],
  maxPorts: ports[1],
  hotPluggable,
  minSpeed,
  maxSpeed: version === 3 ? null : 480,
});
const pv = (driver: string, version: 1 | 2): ControllerModel => ({
  driver,
  kind: "pv",
  version,
  minPorts: 1,
  maxPorts: 31,
  hotPluggable: true,
  minSpeed: null,
  maxSpeed: 480,
});

/**
 * Every model by QEMU's name. An EHCI alone takes no full or low speed (480 Mb/s at least); an ICH9 EHCI has companions that do.
 * A high-speed device on UHCI or OHCI is possible when its packets are small, so speed above is in doubt there and is tried.
 */
const MODELS: Readonly<Record<string, ControllerModel>> = Object.fromEntries(
  [
    emulated("piix3-usb-uhci", 1, [2, 2]),
    emulated("piix4-usb-uhci", 1, [2, 2]),
    emulated("vt82c686b-usb-uhci", 1, [2, 2], false),
    emulated("pci-ohci", 1, [3, 3], false),
    emulated("ich9-usb-uhci1", 1, [2, 2], false),
    emulated("ich9-usb-uhci2", 1, [2, 2], false),
    emulated("ich9-usb-uhci3", 1, [2, 2], false),
    emulated("usb-ehci", 2, [6, 6], true, 480),
    emulated("ich9-usb-ehci1", 2, [6, 6], false),
    emulated("nec-usb-xhci", 3, [1, 15]),
    emulated("qemu-xhci", 3, [1, 15]),
  ].map((model) => [model.driver, model]),
);

/** libvirt's and other names for the same models (product.md §9). */
const ALIASES: Readonly<Record<string, string>> = {
  "piix3-uhci": "piix3-usb-uhci",
  "piix4-uhci": "piix4-usb-uhci",
  ehci: "usb-ehci",
  "ich9-ehci1": "ich9-usb-ehci1",
  "ich9-uhci1": "ich9-usb-uhci1",
  "ich9-uhci2": "ich9-usb-uhci2",
  "ich9-uhci3": "ich9-usb-uhci3",
  "vt82c686b-uhci": "vt82c686b-usb-uhci",
  "nec-xhci": "nec-usb-xhci",
  xenusb3: "nec-usb-xhci",
};
const PV_MODELS: Readonly<Record<string, ControllerModel>> = {
  qusb1: pv("qusb", 1),
  qusb2: pv("qusb", 2),
  qusb: pv("qusb", 2),
  usbback: pv("usbback", 2),
  xenusb1: pv("xenusb", 1),
  xenusb2: pv("xenusb", 2),
};

/** @returns the model that a file's `model:` names, by QEMU's or libvirt's name; undefined: nobody knows it */
export const controllerModel = (name: string): ControllerModel | undefined => {
  const own = <T>(table: Readonly<Record<string, T>>, key: string): T | undefined => (Object.hasOwn(table, key) ? table[key] : undefined);
  return own(MODELS, own(ALIASES, name) ?? name) ?? own(PV_MODELS, name);
};

/** Every name that `model:` takes, for did-you-mean. */
export const controllerModelNames: readonly string[] = [...Object.keys(MODELS), ...Object.keys(ALIASES), ...Object.keys(PV_MODELS)];

/** The model that `version:` stands for on plain QEMU. */
export const modelOfVersion = (version: UsbVersion): ControllerModel => {
  const name = version === 1 ? "piix3-usb-uhci" : version === 2 ? "usb-ehci" : "qemu-xhci";
  const model = MODELS[name];
  if (model === undefined) throw new Error(`no model ${name}`);
  return model;
};

/** Whether a device of this speed can run there: "no" is sure, "maybe" is tried (product.md §9). Unknown speed: maybe. */
export const speedFits = (
  model: Pick<ControllerModel, "minSpeed" | "maxSpeed" | "version">,
  speed: number | null,
): "yes" | "maybe" | "no" => {
  if (speed === null) return "maybe";
  if (model.minSpeed !== null && speed < model.minSpeed) return "no";
  if (model.maxSpeed !== null && speed > model.maxSpeed) return "maybe";
  return model.version === 1 && speed > 12 ? "maybe" : "yes";
};
