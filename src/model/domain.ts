/** Domains (virtual machines) as they are seen to live, and what is seen in them. Facts only; nothing here is a wish. */
import type { UsbVersion } from "./usbctrl.ts";

/**
 * Identity of one life of a domain: never reused. Plain QEMU: `<socket name>#<connection generation>`; Xen: `<uuid>/<domid>`.
 * An answer that carries another key is about another life and is dropped.
 */
export type DomainKey = string;

export type DomainType = "qemu" | "hvm" | "pv" | "pvh";

/** A USB controller of a domain. */
export type LiveController = {
  /** Unique in the domain and stable: QEMU's bus name (`hci0.0`, `usb-bus.0`). */
  readonly bus: string;
  /** How a desired file names it: ours without our prefix (`plugherd-ctrl-usb3` is `usb3`), else the QOM id; null: anonymous. */
  readonly name: string | null;
  /** QOM path, e.g. `/machine/peripheral/xhci`. */
  readonly path: string;
  /** QEMU's driver name as its QOM type tells. */
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
};

/** What a usb-host object was told to look for. Zero, "" or absent in QEMU is null here. */
export type HostFilter = {
  readonly bus: number | null;
  readonly address: number | null;
  readonly hostport: string | null;
  readonly vendor: string | null;
  readonly product: string | null;
  readonly hostdevice: string | null;
};

/** An object in the domain that holds, or may hold, a host USB device. */
export type LiveObject = {
  /** QOM path, unique in the domain: `/machine/peripheral/plugherd-1-5-312`. */
  readonly path: string;
  /** QOM id; null: anonymous (removed by path). */
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
  /** Exact mode (bus and address and nothing else to look for, or a hostdevice): holds this one enumeration until it is removed. Else QEMU scans by itself. */
  readonly exact: boolean;
  /** QEMU's own word. In exact mode it stays true after an unplug: no proof. */
  readonly attached: boolean;
};

export type LiveDomain = {
  readonly key: DomainKey;
  /** From query-name, else the socket's file name without `.sock`. */
  readonly name: string | null;
  /** Lower case; null: none or all zero. */
  readonly uuid: string | null;
  readonly type: DomainType;
  /** QEMU's run state (`running`, `paused`, `prelaunch`, `shutdown` …). */
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
};

/** A domain that is kept after it crashed or shut down: its devices are given back. */
export const isShutDown = (domain: LiveDomain): boolean =>
  domain.state === "shutdown" || domain.state === "guest-panicked" || domain.state === "internal-error";
