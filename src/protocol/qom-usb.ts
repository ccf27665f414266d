/**
 * QEMU's object tree (QOM) as its monitor lists it -> USB controllers and usb-host objects. Listings come from outside: shapes are checked,
 * lengths are bounded, and what does not fit is left out. A listing is unordered; nothing is told by an event when it changes.
 */
import { type HostFilter, type LiveController, type LiveObject, NO_FILTER } from "../model/domain.ts";
import { controllerModel, type UsbVersion } from "../model/usbctrl.ts";
import { parseControllerId, parseDeviceId } from "./qmp-usb.ts";

/** One property of an object. Child objects have type `child<DRIVER>`, links `link<DRIVER>`. */
export type QomEntry = { readonly name: string; readonly type: string };

/** Most entries that one object is believed to have, and longest text. A machine with 255 processors has some 600 unattached children. */
const MAX_ENTRIES = 4096;
const MAX_TEXT = 512;

/** @param value - reply of qom-list */
export function parseQomList(value: unknown): readonly QomEntry[] {
  if (!Array.isArray(value)) return [];
  return value.slice(0, MAX_ENTRIES).flatMap((entry: unknown) => {
    if (typeof entry !== "object" || entry === null) return [];
    const { name, type } = entry as Readonly<Record<string, unknown>>;
    return typeof name === "string" && typeof type === "string" && name.length <= MAX_TEXT && type.length <= MAX_TEXT
      ? [{ name, type }]
      : [];
  });
}

/**
 * @param value - reply of qom-list-get
 * @returns the properties of `count` objects, in the order of the question; null: not that
 */
export function parsePropertyLists(value: unknown, count: number): readonly Readonly<Record<string, unknown>>[] | null {
  if (!Array.isArray(value) || value.length !== count) return null;
  const objects = value.map((one: unknown) =>
    typeof one === "object" && one !== null ? (one as Readonly<Record<string, unknown>>)["properties"] : null,
  );
  return objects.every((list) => Array.isArray(list))
    ? objects.map((list) =>
        Object.fromEntries(
          list.slice(0, MAX_ENTRIES).flatMap((entry: unknown) => {
            const { name, value: held } = typeof entry === "object" && entry !== null ? (entry as Readonly<Record<string, unknown>>) : {};
            return typeof name === "string" ? [[name, held] as const] : [];
          }),
        ),
      )
    : null;
}

export const childDriver = ({ type }: QomEntry): string | null =>
  type.startsWith("child<") && type.endsWith(">") ? type.slice(6, -1) : null;

/** What hangs on a bus: `child[N]` links, by N. N counts up and is never reused; the path through the link names the device as well. */
export const busChildren = (entries: readonly QomEntry[]): readonly { readonly link: string; readonly driver: string }[] =>
  entries
    .flatMap(({ name, type }) => {
      const match = /^child\[(\d{1,9})\]$/.exec(name);
      return match !== null && type.startsWith("link<") && type.endsWith(">")
        ? [{ n: Number(match[1]), link: name, driver: type.slice(5, -1) }]
        : [];
    })
    .sort((a, b) => a.n - b.n)
    .map(({ link, driver }) => ({ link, driver }));

/** The bus that a controller or a bridge brings along; null: none (a UHCI that is a companion of an EHCI). */
export const ownBus = (entries: readonly QomEntry[], type: "usb-bus" | "PCI" | "PCIE"): string | null =>
  entries.find((entry) => childDriver(entry) === type)?.name ?? null;

/** A USB controller by its driver: what is known without asking it. Ports of an xHCI must be asked for. */
export type ControllerKind = Pick<LiveController, "version" | "ports" | "minSpeed" | "maxSpeed">;
export function controllerKind(driver: string): ControllerKind | null {
  const model = controllerModel(driver);
  if (model?.kind === "emulated" && model.driver === driver) return { ...model, ports: model.maxPorts };
  // Models that no file can name but that a machine may have: sysbus ones, the second ICH9 set.
  const family = /(?:^|[-_])(xhci|ehci|uhci|ohci)\d?$/.exec(driver)?.[1];
  const known: Readonly<Record<string, readonly [UsbVersion, number]>> = { xhci: [3, 4], ehci: [2, 6], uhci: [1, 2], ohci: [1, 3] };
  const found = family === undefined ? undefined : known[family];
  return found === undefined ? null : { version: found[0], ports: found[1], minSpeed: null, maxSpeed: found[0] === 3 ? null : 480 };
}
export const isXhci = (driver: string): boolean => driver.endsWith("-xhci");

/** What was read of one controller. */
export type RawController = {
  /** QOM path; its last part is the id where it stands in /machine/peripheral. */
  readonly path: string;
  readonly driver: string;
  readonly bus: string;
  /** Replies to qom-get of p2 and p3; only an xHCI has them. */
  readonly p2?: unknown;
  readonly p3?: unknown;
  /** An EHCI that UHCIs accompany takes every speed. */
  readonly companions: boolean;
  /** Ports of what hangs on its bus, dotted below hubs. */
  readonly taken: readonly string[];
};

/** null: not a USB controller. */
export function liveController(raw: RawController): LiveController | null {
  const kind = controllerKind(raw.driver);
  if (kind === null) return null;
  const { path, driver, bus } = raw;
  const id = idOf(path);
  const own = id === null ? null : parseControllerId(id);
  const [p2, p3] = [portCount(raw.p2), portCount(raw.p3)];
  return {
    bus,
    name: own ?? id,
    path,
    driver,
    version: kind.version,
    ports: p2 === null || p3 === null ? kind.ports : Math.max(p2, p3),
    minSpeed: p2 === 0 ? 5000 : kind.version !== 2 ? kind.minSpeed : raw.companions ? null : 480,
    maxSpeed: p3 === 0 ? 480 : kind.maxSpeed,
    ours: own !== null,
    occupied: rootPorts(raw.taken),
  };
}

export const rootPorts = (ports: readonly string[]): readonly number[] =>
  [...new Set(ports.flatMap((port) => rootPort(port) ?? []))].sort((a, b) => a - b);

/** `3.2` sits behind root port 3; null: not a port. */
export function rootPort(port: string): number | null {
  const match = /^(\d{1,3})(?:\.\d{1,3}){0,6}$/.exec(port);
  return match === null || Number(match[1]) < 1 ? null : Number(match[1]);
}

/** Properties of a usb-host object that matter, in the order in which they are asked for. Zero or "" is: not given. */
const USB_HOST_PROPERTIES = ["hostbus", "hostaddr", "hostport", "vendorid", "productid", "hostdevice", "attached", "port"] as const;
/** Enough for an object of ours: it was made in exact mode, by bus and address. */
const OWN_PROPERTIES = ["hostbus", "hostaddr", "attached", "port"] as const;
export const propertiesToRead = (path: string): readonly (typeof USB_HOST_PROPERTIES)[number][] => {
  const id = idOf(path);
  return id !== null && parseDeviceId(id) !== null ? OWN_PROPERTIES : USB_HOST_PROPERTIES;
};
export type UsbHostProperties = Readonly<Partial<Record<(typeof USB_HOST_PROPERTIES)[number], unknown>>>;

/**
 * @param port - where it really sits; `properties.port` says only what was asked for
 * An object of ours is shown by bus and address alone, also where a hostdevice was given beside them.
 * Exact mode: bus and address and nothing else to look for, or a hostdevice (QEMU hw/usb/host-libusb.c, usb_host_realize).
 */
export function liveObject(path: string, bus: string, port: string, properties: UsbHostProperties): LiveObject {
  const hostbus = positive(properties.hostbus);
  const address = positive(properties.hostaddr);
  const id = idOf(path);
  const own = id === null ? null : parseDeviceId(id);
  const ours = own !== null && own.bus === hostbus && own.address === address;
  const filter: HostFilter = ours
    ? { ...NO_FILTER, bus: hostbus, address }
    : {
        bus: hostbus,
        address,
        hostport: text(properties.hostport),
        vendor: hex4(properties.vendorid),
        product: hex4(properties.productid),
        hostdevice: text(properties.hostdevice),
      };
  const byAddress = hostbus !== null && address !== null;
  return {
    path,
    id,
    bus,
    port,
    ours,
    inode: ours ? own.inode : null,
    filter,
    exact: filter.hostdevice !== null || (byAddress && filter.hostport === null && filter.vendor === null && filter.product === null),
    attached: properties.attached === true,
  };
}
const PERIPHERAL = "/machine/peripheral/";
export const peripheralPath = (id: string): string => `${PERIPHERAL}${id}`;
/** The id by which device_del takes an object; null: anonymous, to be removed by its path. */
export function idOf(path: string): string | null {
  const id = path.startsWith(PERIPHERAL) ? path.slice(PERIPHERAL.length) : "";
  return id === "" || id.includes("/") ? null : id;
}

/**
 * Real ports of all that hangs on one bus, out of HMP's `info qtree`; the one place that has them for devices added without `port=`.
 * Device names are in that text and may imitate anything, so it counts only where it agrees with the listing in number, drivers and order.
 * @param drivers - of the bus's children, oldest first; the text has the newest first
 * @returns a port for each, in the same order; null: the text does not fit
 */
export function portsFromQtree(qtree: string, bus: string, drivers: readonly string[]): readonly string[] | null {
  const lines = qtree.split("\n").map((line) => line.trimEnd());
  const at = lines.findIndex((line) => line.trimStart() === `bus: ${bus}`);
  const head = lines[at];
  if (head === undefined) return null;
  const depth = head.length - head.trimStart().length;
  const found: { driver: string; port: string | null }[] = [];
  for (const line of lines.slice(at + 1)) {
    const indent = line.length - line.trimStart().length;
    if (indent <= depth) break;
    const dev = indent === depth + 2 ? /^dev: ([^,]+), id "/.exec(line.trimStart()) : null;
    if (dev !== null) found.push({ driver: dev[1] ?? "", port: null });
    const port = indent === depth + 4 ? /^addr \d+\.\d+, port ([\d.]+), speed [\d.]+, name /.exec(line.trimStart()) : null;
    const last = found.at(-1);
    if (port !== null && last !== undefined) last.port ??= port[1] ?? null;
  }
  found.reverse();
  if (found.length !== drivers.length || found.some(({ driver }, i) => driver !== drivers[i])) return null;
  const ports = found.flatMap(({ port }) => (port !== null && rootPort(port) !== null ? [port] : []));
  return ports.length === drivers.length ? ports : null;
}

/**
 * Where nothing tells a device's port: QEMU takes a free one, so the lowest that is not known to be taken is the best guess. A wrong one
 * costs a refused try ("in use?"), after which another is taken.
 */
export function guessPorts(ports: readonly (string | null)[]): readonly string[] {
  const taken = new Set(rootPorts(ports.flatMap((port) => port ?? [])));
  return ports.map((port) => {
    if (port !== null) return port;
    let free = 1;
    while (taken.has(free)) free += 1;
    taken.add(free);
    return String(free);
  });
}

/** @param reply - of query-uuid */
export function parseUuid(reply: unknown): string | null {
  const uuid = typeof reply === "object" && reply !== null ? (reply as Readonly<Record<string, unknown>>)["UUID"] : undefined;
  if (typeof uuid !== "string" || !/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(uuid)) return null;
  return /^[0-]*$/.test(uuid) ? null : uuid.toLowerCase();
}
/** @param reply - of query-name; a name that no file could write is none */
export function parseName(reply: unknown): string | null {
  const name = typeof reply === "object" && reply !== null ? (reply as Readonly<Record<string, unknown>>)["name"] : undefined;
  return typeof name === "string" && name !== "" && name.length <= 255 && !/[\p{Cc}/]/u.test(name) ? name : null;
}
/** @param reply - of query-status */
export function parseState(reply: unknown): string | null {
  const status = typeof reply === "object" && reply !== null ? (reply as Readonly<Record<string, unknown>>)["status"] : undefined;
  return typeof status === "string" && /^[a-z][a-z-]{0,30}$/.test(status) ? status : null;
}

const positive = (value: unknown): number | null => (typeof value === "number" && Number.isSafeInteger(value) && value > 0 ? value : null);
const portCount = (value: unknown): number | null =>
  typeof value === "number" && Number.isSafeInteger(value) && value >= 0 && value <= 255 ? value : null;
const text = (value: unknown): string | null => (typeof value === "string" && value !== "" ? value.slice(0, MAX_TEXT) : null);
const hex4 = (value: unknown): string | null => {
  const number = positive(value);
  return number === null ? null : number.toString(16).padStart(4, "0");
};
