/** What is done to a domain, and how it can fail. */
import type { HostDevice } from "./hostdev.ts";
import type { DomainKey } from "./domain.ts";
import type { Result } from "./result.ts";
import type { UsbVersion } from "./usbctrl.ts";

/** Where a device goes: one enumeration of a host device, a controller, a root port on it (1-based). */
export type Place = {
  readonly domain: DomainKey;
  readonly device: HostDevice;
  /** LiveController.bus; for a controller still to be made, the bus that it will have. */
  readonly bus: string;
  readonly port: number;
  /** The controller is not there yet: make it first. */
  readonly create: NewController | null;
};

export type NewController = {
  /** Name without our id prefix. */
  readonly name: string;
  readonly driver: string;
  readonly ports: number;
  /** PCI bus it goes on, one of LiveDomain.freeSlots; null: none is free (tried all the same where the bus is not known), or Xen's. */
  readonly slot: string | null;
  /** Only in a domain of Xen's: the devid of its record. */
  readonly xen?: { readonly devid: number; readonly version: UsbVersion };
};

/** What a machine's action works on: the object that stands (or stood) for a device in a domain. */
export type Attached = {
  readonly domain: DomainKey;
  /** LiveObject.path. */
  readonly path: string;
  readonly bus: string;
  readonly port: number;
  /** instanceOf() the host device behind it; null: none that is present (a dead object). */
  readonly instance: string | null;
};

/**
 * transient: again with backoff, at once on a relevant event. waiting: a named fact must change, told to the planner.
 * terminal: a person, a replug or a new desired state must act.
 */
export type ActionError = { readonly kind: "transient" | "waiting" | "terminal"; readonly reason: string; readonly message: string };

export const transient = (reason: string, message: string): ActionError => ({ kind: "transient", reason, message });
export const terminal = (reason: string, message: string): ActionError => ({ kind: "terminal", reason, message });
export const CALLED_OFF: ActionError = transient("CalledOff", "The action was called off.");
export const DOMAIN_GONE: ActionError = transient("DomainGone", "This life of the domain is over.");

/** What was seen afterwards (null: nothing is attached), or why nothing moved. */
export type Outcome = Result<Attached | null, ActionError>;

/** Prefixes of everything plugherd makes on plain QEMU (product.md §2, "Whose is it?"). */
export const DEVICE_PREFIX = "plugherd-";
export const CONTROLLER_PREFIX = "plugherd-ctrl-";
export const deviceId = (device: Pick<HostDevice, "bus" | "address" | "inode">): string =>
  `${DEVICE_PREFIX}${String(device.bus)}-${String(device.address)}-${String(device.inode)}`;
export const controllerId = (name: string): string => `${CONTROLLER_PREFIX}${name}`;
/** Ids that libxl gives, and we in its domains, so that `xl` finds what is ours (xen: tools/libs/light/libxl_usb.c). */
export const xenDeviceId = ({ bus, address }: Pick<HostDevice, "bus" | "address">): string => `xenusb-${String(bus)}-${String(address)}`;
export const xenControllerId = (devid: number): string => `xenusb-${String(devid)}`;
/** LiveController.bus of what a new controller becomes. */
export const busOf = ({ name, driver, xen }: Pick<NewController, "name" | "driver" | "xen">): string => {
  if (xen === undefined) return `${controllerId(name)}.0`;
  const devid = String(xen.devid);
  return driver === "usbback" ? `usbback-${devid}` : driver === "qusb" ? `xen-qusb-${devid}.0` : `${xenControllerId(xen.devid)}.0`;
};
