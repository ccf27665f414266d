/** Domains (virtual machines) as they are seen to live, and what is seen in them. Facts only; nothing here is a wish. */
import type { UsbVersion } from "./usbctrl.ts";

/**
 * Identity of one life of a domain: never reused. Plain QEMU: `<socket name>#<connection generation>`; Xen: `<uuid>/<domid>/<pid of
 * the device model>`.
 * An answer that carries another key is about another life and is dropped.
 */
export type DomainKey = string;

export type DomainType = "qemu" | "hvm" | "pv" | "pvh";

/** A USB controller of a domain. */
export type LiveController = {
  /** Unique in the domain and stable: QEMU's bus name (`hci0.0`, `usb-bus.0`, `xen-qusb-0.0`); of a kernel backend `usbback-<devid>`. */
  readonly bus: string;
  /** How a desired file names it: ours without our prefix (`plugherd-ctrl-usb3` is `usb3`), else the QOM id; null: anonymous. */
  readonly name: string | null;
  /** QOM path, e.g. `/machine/peripheral/xhci`; of a paravirtual one the xenstore path of its backend. */
  readonly path: string;
  /** QEMU's driver name as its QOM type tells; `qusb` or `usbback` of a paravirtual one. */
  readonly driver: string;
  readonly version: UsbVersion;
  readonly ports: number;
  /** See ControllerModel. */
  readonly minSpeed: number | null;
  readonly maxSpeed: number | null;
  /** Made by plugherd. */
  readonly ours: boolean;
  /** Root ports that hold anything at all (ours, others', hubs), ascending. */
  readonly occupied: readonly number[];
  /** Only of a paravirtual one: how its two halves stand. */
  readonly link?: PvLink;
};
/**
 * connected: both in state 4. waiting: the backend is in 2, and the system inside has not connected (the port can be given all the same).
 * closed: the system inside has closed it or unloads its driver (5, 6): nothing new is put there, and it is not replaced.
 */
export type PvLink = "connected" | "waiting" | "closed";

/** What a usb-host object was told to look for. Zero, "" or absent in QEMU is null here. */
export type HostFilter = {
  readonly bus: number | null;
  readonly address: number | null;
  readonly hostport: string | null;
  readonly vendor: string | null;
  readonly product: string | null;
  readonly hostdevice: string | null;
};

export const NO_FILTER: HostFilter = { bus: null, address: null, hostport: null, vendor: null, product: null, hostdevice: null };

/**
 * An object in the domain that holds, or may hold, a host USB device; on Xen also a port record in xenstore: the only sign of what a
 * paravirtual controller holds, and, without an object, a dead one.
 */
export type LiveObject = {
  /** QOM path, unique in the domain: `/machine/peripheral/plugherd-1-5-312`; of a record its xenstore path. */
  readonly path: string;
  /** QOM id; null: anonymous (removed by path), or a record. */
  readonly id: string | null;
  /** LiveController.bus it sits on. */
  readonly bus: string;
  /** Port on that bus, dotted below a virtual hub (`2`, `2.1`). */
  readonly port: string;
  /** Attached by plugherd. */
  readonly ours: boolean;
  /** For ours: inode of the device node it was made from (part of the id); else null. */
  readonly inode: number | null;
  readonly filter: HostFilter;
  /**
   * Exact mode (bus and address and nothing else to look for, or a hostdevice): holds this one enumeration until it is removed. Else QEMU
   * scans by itself. A record without a mark of ours is exact by bus and hostport: it holds whatever is plugged in there.
   */
  readonly exact: boolean;
  /** QEMU's own word. In exact mode it stays true after an unplug: no proof. */
  readonly attached: boolean;
  /** Why nothing proves that the system inside has it. */
  readonly remark?: "Unconfirmed" | "Unverified";
  /** Its record and QEMU do not agree, and somebody may be at work on it: it is judged when it has stayed so. */
  readonly unsettled?: true;
};

/** Whether an object is a record in xenstore alone, to be cleared there; else it is one of QEMU's, to be removed over its monitor. */
export const isRecord = ({ path }: Pick<LiveObject, "path">): boolean => !path.startsWith("/machine/");

/** What is particular to a domain of Xen's. */
export type XenSide = {
  readonly domid: number;
  /** Why nothing may be done in it now, and what a person can do. */
  readonly obstacle: { readonly phase: "Stalled" | "WaitingForDomain"; readonly reason: string; readonly message: string } | null;
  /** Lowest devid above all that are taken, by a record or in QEMU. */
  readonly nextDevid: number;
  /** Whether a device model can be asked to make an emulated controller. */
  readonly emulated: boolean;
  /** Backends that a new paravirtual controller can have now, the preferred one first. */
  readonly backends: readonly ("usbback" | "qusb")[];
  /** Names of controllers that are being made by somebody: no other is made until they are there, or have not moved for 10 s. */
  readonly pending: readonly string[];
  /** Records of controllers that are not there: each with its xenstore path and what is wrong with it, in words. */
  readonly phantoms: readonly { readonly path: string; readonly text: string }[];
  /** Why the domain cannot be restored after a save or a migration; null: it can, as far as USB goes. */
  readonly notSaveable: string | null;
};

export type LiveDomain = {
  readonly key: DomainKey;
  /** From query-name, else the socket's file name without `.sock`. */
  readonly name: string | null;
  /** Lower case; null: none or all zero. */
  readonly uuid: string | null;
  readonly type: DomainType;
  /** QEMU's run state (`running`, `paused`, `prelaunch`, `shutdown` …), or Xen's word (`running`, `paused`, `shutdown`, `crashed`). */
  readonly state: string;
  /** E.g. `7.2.22`; null: never answered. */
  readonly version: string | null;
  /** Where its monitor is: socket path, or `dial-in`. */
  readonly monitor: string;
  /** Whether the monitor answers now. When not, the rest is what was last seen, and nothing is sent. */
  readonly monitorState: "answering" | "busy" | "silent";
  readonly controllers: readonly LiveController[];
  readonly objects: readonly LiveObject[];
  /** PCI buses with room for one more hot-plugged controller, in order of preference (`pci.0`, an empty root port). */
  readonly freeSlots: readonly string[];
  /** Controller drivers that this QEMU has; null: not asked. */
  readonly drivers: readonly string[] | null;
  /** Machine type, e.g. `pc-q35-7.2`; null: unknown. */
  readonly machine: string | null;
  /** Only of a domain of Xen's. */
  readonly xen?: XenSide;
};

/** A domain that is kept after it crashed or shut down: its devices are given back. */
export const isShutDown = (domain: LiveDomain): boolean =>
  domain.state === "shutdown" || domain.state === "crashed" || domain.state === "guest-panicked" || domain.state === "internal-error";
