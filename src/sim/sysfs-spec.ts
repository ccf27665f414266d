/** What can be plugged into the simulated host, and how a device then looks. */
import type { UsbClass } from "../model/hostdev.ts";
import { formatDescriptors } from "../protocol/usb-descriptors.ts";

/** In use how: mounted there, swapped on, held by these (`dm-0`). */
export type SimDisk = { readonly name: string; readonly mounted?: string; readonly swap?: boolean; readonly holders?: readonly string[] };

export type SimDeviceSpec = {
  /**
   * A busid (`1-1.4`), a place anchored at its controller (`pci-0000:00:14.0/1.4`: the half of the socket that fits the speed), or ports alone
   * (`1.4`: on `bus`, else on the first controller's half that fits).
   */
  readonly port: string;
  readonly bus?: number;
  /** Four hex digits each. */
  readonly vendor: string;
  readonly product: string;
  readonly serial?: string;
  readonly manufacturer?: string;
  readonly productName?: string;
  /** Mb/s; 480 if left out. */
  readonly speed?: number;
  readonly deviceClass?: UsbClass;
  /** One of class ff if left out. */
  readonly interfaces?: readonly (UsbClass & { readonly driver?: string })[];
  /** Makes it a hub with so many ports. */
  readonly hub?: number;
  readonly removable?: "removable" | "fixed" | "unknown";
  readonly block?: readonly (SimDisk & { readonly partitions?: readonly SimDisk[] })[];
  readonly net?: readonly { readonly name: string; readonly defaultRoute?: boolean; readonly master?: string }[];
  /** Interface directories come so many ms after the node, or when told to (`finish`); `descriptors` with them if `lateDescriptors`. */
  readonly interfacesLater?: number | "step";
  readonly lateDescriptors?: boolean;
  /** In the place of what the device would have; null: not there. */
  readonly attributes?: Readonly<Record<string, string | null>>;
  readonly descriptors?: Uint8Array | null;
  /** Whether a process may open the node; true if left out. */
  readonly openable?: boolean;
};

export type SimFace = UsbClass & { readonly driver?: string };
const HUB: UsbClass = { class: 9, subclass: 0, protocol: 0 };
const VENDOR_SPECIFIC: UsbClass = { class: 0xff, subclass: 0, protocol: 0 };
const NO_CLASS: UsbClass = { class: 0, subclass: 0, protocol: 0 };

export const facesOf = (spec: SimDeviceSpec): readonly SimFace[] =>
  spec.hub === undefined ? (spec.interfaces ?? [VENDOR_SPECIFIC]) : [{ ...HUB, driver: "hub" }];
export const speedOf = (spec: SimDeviceSpec): number => spec.speed ?? 480;
export const isSuper = (speed: number): boolean => speed >= 5000;

export const descriptorsOf = (spec: SimDeviceSpec): Uint8Array | null =>
  spec.descriptors === undefined
    ? formatDescriptors({
        vendor: Number.parseInt(spec.vendor, 16),
        product: Number.parseInt(spec.product, 16),
        deviceClass: classOf(spec),
        configurations: [facesOf(spec)],
      })
    : spec.descriptors;
const classOf = (spec: SimDeviceSpec): UsbClass => spec.deviceClass ?? (spec.hub === undefined ? NO_CLASS : HUB);

const hex2 = (value: number): string => value.toString(16).padStart(2, "0");

/** `full`: every attribute that Linux has; `lean`: those that plugherd reads (thousands of devices are made twice as fast). */
export type Detail = "full" | "lean";

/** The attributes that a device's directory has from the start, as Linux formats them (pinned by specs/transcripts/sysfs). */
export function attributesOf(
  spec: SimDeviceSpec,
  at: { readonly bus: number; readonly address: number; readonly ports: readonly number[] },
  detail: Detail,
): ReadonlyMap<string, string> {
  const lines = new Map<string, string>([
    ["idVendor", spec.vendor],
    ["idProduct", spec.product],
    ["busnum", String(at.bus)],
    ["devnum", String(at.address)],
    ["speed", String(speedOf(spec))],
    ["removable", spec.removable ?? "unknown"],
  ]);
  if (spec.serial !== undefined) lines.set("serial", spec.serial);
  if (spec.manufacturer !== undefined) lines.set("manufacturer", spec.manufacturer);
  if (spec.productName !== undefined) lines.set("product", spec.productName);
  if (detail === "full") {
    const kind = classOf(spec);
    const more: Readonly<Record<string, string>> = {
      authorized: "1",
      avoid_reset_quirk: "0",
      bDeviceClass: hex2(kind.class),
      bDeviceSubClass: hex2(kind.subclass),
      bDeviceProtocol: hex2(kind.protocol),
      bMaxPacketSize0: isSuper(speedOf(spec)) ? "9" : "64",
      bNumConfigurations: "1",
      bcdDevice: "0000",
      dev: `189:${String(minorOf(at))}`,
      devpath: at.ports.length === 0 ? "0" : at.ports.join("."),
      ltm_capable: "no",
      maxchild: String(spec.hub ?? 0),
      quirks: "0x0",
      rx_lanes: "1",
      tx_lanes: "1",
      urbnum: "17",
      version: isSuper(speedOf(spec)) ? " 3.00" : " 2.00",
      uevent: [
        "MAJOR=189",
        `MINOR=${String(minorOf(at))}`,
        `DEVNAME=bus/usb/${digits(at.bus)}/${digits(at.address)}`,
        "DEVTYPE=usb_device",
        "DRIVER=usb",
        `PRODUCT=${[spec.vendor, spec.product].map((id) => Number.parseInt(id, 16).toString(16)).join("/")}/0`,
        `TYPE=${[kind.class, kind.subclass, kind.protocol].join("/")}`,
        `BUSNUM=${digits(at.bus)}`,
        `DEVNUM=${digits(at.address)}`,
      ].join("\n"),
    };
    for (const [name, text] of Object.entries(more)) lines.set(name, text);
  }
  const texts = new Map([...lines].map(([name, text]) => [name, `${text}\n`]));
  for (const [name, text] of Object.entries(spec.attributes ?? {})) {
    if (text === null) texts.delete(name);
    else texts.set(name, text);
  }
  return texts;
}

/** What a configured device has besides. An unconfigured one has them too, empty. */
export const configuredOf = (spec: SimDeviceSpec, detail: Detail): ReadonlyMap<string, string> =>
  new Map(
    Object.entries({
      bNumInterfaces: `${String(facesOf(spec).length).padStart(2)}\n`,
      ...(detail === "lean" ? {} : { bConfigurationValue: "1\n", bmAttributes: "80\n", bMaxPower: "100mA\n", configuration: "" }),
    }).flatMap(([name, text]): [string, string][] => {
      const instead = spec.attributes?.[name];
      return instead === null ? [] : [[name, instead ?? text]];
    }),
  );

export const faceAttributesOf = (face: SimFace, index: number, detail: Detail): ReadonlyMap<string, string> =>
  new Map(
    Object.entries({
      bInterfaceClass: `${hex2(face.class)}\n`,
      bInterfaceProtocol: `${hex2(face.protocol)}\n`,
      bInterfaceSubClass: `${hex2(face.subclass)}\n`,
      ...(detail === "lean"
        ? {}
        : {
            authorized: "1\n",
            bAlternateSetting: " 0\n",
            bInterfaceNumber: `${hex2(index)}\n`,
            bNumEndpoints: "00\n",
            modalias: "usb:\n",
            supports_autosuspend: "1\n",
            uevent: "",
          }),
    }),
  );

/** Minor of the device's node under major 189 (drivers/usb/core/hub.c). */
export const minorOf = ({ bus, address }: { bus: number; address: number }): number => (bus - 1) * 128 + address - 1;
/** As nodes are named: `007`. */
export const digits = (value: number): string => String(value).padStart(3, "0");
