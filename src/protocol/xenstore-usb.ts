/**
 * USB controllers and their ports as libxl keeps them in xenstore, and marks of ours beside them.
 * Source: xen: tools/libs/light/libxl_usb.c, libxl_device.c; xen/include/public/io/usbif.h; what real `xl` was recorded to write.
 */
import { type Busid, parseBusid } from "../model/busid.ts";
import type { HostDevice } from "../model/hostdev.ts";
import type { UsbVersion } from "../model/usbctrl.ts";
import type { XenstorePermission } from "./xenstore.ts";

/** `devicemodel`: emulated by the domain's QEMU. `qusb`: paravirtual, backend in QEMU. `pv`: paravirtual, backend in the kernel (usbback). */
export type RecordType = "devicemodel" | "qusb" | "pv";

/** One controller's record. */
export type UsbRecord = {
  readonly devid: number;
  readonly type: RecordType;
  readonly version: UsbVersion;
  readonly ports: number;
  /** What each port is recorded to hold, 1 to `ports`: a busid, or "" for nothing. */
  readonly holds: ReadonlyMap<number, string>;
  /** XenBus states (0 to 8) of the two halves of a paravirtual one; null: missing, or no number. */
  readonly backendState: number | null;
  readonly frontendState: number | null;
  /** The toolstack wants it: 0 while it is being removed. */
  readonly online: boolean;
  /** The backend's domain is the one that plugherd runs in. */
  readonly local: boolean;
};

/** XenBus states (xen/include/public/io/xenbus.h). */
export const XENBUS = { initialising: 1, initWait: 2, initialised: 3, connected: 4, closing: 5, closed: 6 } as const;

export const paths = {
  domain: (domid: number): string => `/local/domain/${String(domid)}`,
  libxl: (domid: number): string => `/libxl/${String(domid)}`,
  records: (domid: number): string => `/libxl/${String(domid)}/device/vusb`,
  record: (domid: number, devid: number): string => `/libxl/${String(domid)}/device/vusb/${String(devid)}`,
  frontend: (domid: number, devid: number): string => `/local/domain/${String(domid)}/device/vusb/${String(devid)}`,
  backend: (domid: number, devid: number, type: "qusb" | "pv"): string =>
    `/local/domain/0/backend/${type === "pv" ? "vusb" : "qusb"}/${String(domid)}/${String(devid)}`,
  deviceModel: (domid: number): string => `/local/domain/0/device-model/${String(domid)}`,
  marks: (domid: number): string => `/libxl/${String(domid)}/plugherd`,
  mark: (domid: number, devid: number, port: number): string => `/libxl/${String(domid)}/plugherd/${String(devid)}/${String(port)}`,
  controllerMark: (domid: number, devid: number): string => `/libxl/${String(domid)}/plugherd/${String(devid)}`,
  /** A record of the 2014 proposal. */
  legacy: (domid: number): string => `/libxl/${String(domid)}/usb`,
} as const;

/** Where a controller's `port/<n>` nodes lie that count: of a paravirtual one with its backend; libxl's own copy stays "" for ever. */
export const portsPath = (domid: number, devid: number, type: RecordType): string =>
  `${type === "devicemodel" ? paths.record(domid, devid) : paths.backend(domid, devid, type)}/port`;
export const portPath = (domid: number, devid: number, type: RecordType, port: number): string =>
  `${portsPath(domid, devid, type)}/${String(port)}`;

export type PortPlace = { readonly domid: number; readonly devid: number; readonly type: RecordType; readonly port: number };
/** Inverse of {@link portPath}; null: another path. */
export function parsePortPath(path: string): PortPlace | null {
  const emulated = /^\/libxl\/(\d{1,5})\/device\/vusb\/(\d{1,5})\/port\/(\d{1,3})$/.exec(path);
  if (emulated !== null) return { domid: Number(emulated[1]), devid: Number(emulated[2]), type: "devicemodel", port: Number(emulated[3]) };
  const pv = /^\/local\/domain\/0\/backend\/(qusb|vusb)\/(\d{1,5})\/(\d{1,5})\/port\/(\d{1,3})$/.exec(path);
  return pv === null ? null : { domid: Number(pv[2]), devid: Number(pv[3]), type: pv[1] === "vusb" ? "pv" : "qusb", port: Number(pv[4]) };
}

/** What of a record was read; null: no such node. */
export type RecordTexts = Readonly<
  Record<"type" | "usb-ver" | "num-ports" | "online" | "backendState" | "frontendState" | "backend", string | null>
> & {
  readonly ports: ReadonlyMap<number, string>;
};
/** Most ports that a record is believed to have; libxl's limit is 31. */
export const MAX_PORTS = 31;

/** @returns null: not a controller of a kind that is known */
export function parseRecord(devid: number, texts: RecordTexts): UsbRecord | null {
  const { type } = texts;
  const version = number(texts["usb-ver"], 3);
  const ports = number(texts["num-ports"], MAX_PORTS);
  if ((type !== "devicemodel" && type !== "qusb" && type !== "pv") || version === null || version < 1 || ports === null || ports < 1)
    return null;
  const all = Array.from({ length: ports }, (_, i) => [i + 1, texts.ports.get(i + 1) ?? ""] as const);
  return {
    devid,
    type,
    version: version as UsbVersion,
    ports,
    holds: new Map(all),
    backendState: number(texts.backendState, 8),
    frontendState: number(texts.frontendState, 8),
    online: texts.online !== "0",
    local: type === "devicemodel" || texts.backend?.startsWith("/local/domain/0/") === true,
  };
}

/** A decimal number as xenstore has it; null: none, or more than `most`. */
export function number(text: string | null, most = 0x7fff_ffff): number | null {
  if (text === null || !/^\d{1,10}$/.test(text)) return null;
  const value = Number(text);
  return value <= most ? value : null;
}

/** Bus and hostport of a recorded busid; null: not a busid. */
export function recordedPlace(text: string): { readonly bus: number; readonly hostport: string } | null {
  const busid = parseBusid(text);
  return busid.ok ? { bus: busid.value.bus, hostport: portsOf(busid.value) } : null;
}
const portsOf = ({ ports }: Busid): string => ports.join(".");

/** Which enumeration of a host device we put into a port, and as which object. */
export type Mark = {
  readonly busid: string;
  readonly bus: number;
  readonly address: number;
  readonly inode: number;
  /** QOM id; null: there is none (usbback, or no device model to ask). */
  readonly id: string | null;
};
export const markOf = ({ busid, bus, address, inode }: HostDevice, id: string | null): Mark => ({ busid, bus, address, inode, id });
/** `1-2 1.5 312 xenusb-1-5` (product.md §2, "Whose is it?"). */
export const formatMark = ({ busid, bus, address, inode, id }: Mark): string =>
  `${busid} ${String(bus)}.${String(address)} ${String(inode)} ${id ?? "-"}`;
/** Inverse of {@link formatMark}; null: something else. */
export function parseMark(text: string): Mark | null {
  const match = /^(\d{1,5}-[\d.]{1,32}) (\d{1,5})\.(\d{1,3}) (\d{1,16}) (\S{1,64})$/.exec(text);
  if (match === null) return null;
  const [, busid = "", bus, address, inode, id = "-"] = match;
  const found = { busid, bus: Number(bus), address: Number(address), inode: Number(inode), id: id === "-" ? null : id };
  return Number.isSafeInteger(found.inode) ? found : null;
}

/** QOM ids and buses (hw/usb/xen-usb.c; libxl_usb.c). */
export const qusbId = (devid: number, port: number): string => `xen-qusb-${String(devid)}-${String(port)}`;
export const qusbBus = (devid: number): string => `xen-qusb-${String(devid)}.0`;
export const usbbackBus = (devid: number): string => `usbback-${String(devid)}`;
export const emulatedBus = (devid: number): string => `xenusb-${String(devid)}.0`;
/** The devid in `xenusb-3` or `xenusb-3.0`; null: another name. */
export const devidOf = (name: string): number | null => number(/^xenusb-(\d{1,5})(?:\.0)?$/.exec(name)?.[1] ?? null);

/** The object of a record in the 2014 layout: `hostdev-0001-0005` is `usb-hostdev-0001.0005`; null: no such record. */
export function legacyObjectId(name: string): string | null {
  const match = /^hostdev-([0-9a-f]{4})-([0-9a-f]{4})$/.exec(name);
  return match === null ? null : `usb-hostdev-${match[1] ?? ""}.${match[2] ?? ""}`;
}
/** The record that a path of that layout names. */
export const parseLegacyPath = (path: string): string | null => /^\/libxl\/\d{1,5}\/usb\/([^/]+)$/.exec(path)?.[1] ?? null;

/** One write of a transaction; `make`: a directory that is emptied first, with permissions of its own. */
export type NodeWrite =
  | { readonly kind: "write"; readonly path: string; readonly value: string }
  | { readonly kind: "make"; readonly path: string; readonly permissions: readonly XenstorePermission[] };

export type NewRecord = {
  readonly domid: number;
  readonly devid: number;
  readonly type: RecordType;
  readonly version: UsbVersion;
  readonly ports: number;
};
/** Everything that libxl writes for a new controller, in its order (libxl_device.c, libxl__device_generic_add). */
export function recordWrites(record: NewRecord): readonly NodeWrite[] {
  const { domid, devid, type, version, ports } = record;
  const own = paths.record(domid, devid);
  const write = (path: string, value: string): NodeWrite => ({ kind: "write", path, value });
  const list = (at: string): readonly NodeWrite[] => [
    ...(type === "devicemodel"
      ? []
      : [write(`${at}/frontend-id`, String(domid)), write(`${at}/online`, "1"), write(`${at}/state`, String(XENBUS.initialising))]),
    write(`${at}/type`, type),
    write(`${at}/usb-ver`, String(version)),
    write(`${at}/num-ports`, String(ports)),
    write(`${at}/port`, ""),
    ...Array.from({ length: ports }, (_, i) => write(`${at}/port/${String(i + 1)}`, "")),
  ];
  if (type === "devicemodel") return list(own);
  const frontend = paths.frontend(domid, devid);
  const backend = paths.backend(domid, devid, type);
  return [
    write(`${own}/frontend`, frontend),
    write(`${own}/backend`, backend),
    {
      kind: "make",
      path: frontend,
      permissions: [
        { domid, access: "none" },
        { domid: 0, access: "read" },
      ],
    },
    write(`${frontend}/backend`, backend),
    write(`${frontend}/backend-id`, "0"),
    write(`${frontend}/state`, String(XENBUS.initialising)),
    {
      kind: "make",
      path: backend,
      permissions: [
        { domid: 0, access: "none" },
        { domid, access: "read" },
      ],
    },
    write(`${backend}/frontend`, frontend),
    ...list(backend),
    ...list(own),
  ];
}
