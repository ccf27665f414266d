/**
 * Whether a selector of a desired-state file or a policy rule matches a host device (product.md §2), criterion by criterion, and the
 * keys by which selectors and devices find each other without a look at all of them.
 */
import type { ClassPattern, UsbSelector } from "../model/desired.ts";
import { formatClass, type HostDevice, printable, type UsbClass } from "../model/hostdev.ts";

/** One line of an explanation. */
export type Step = { readonly ok: boolean; readonly text: string };

/** What an interface criterion says of a device whose interfaces are not known: a selector does not match, a `deny` does (product.md §3). */
type Unknown = "no-match" | "match";

const isGlob = (pattern: string): boolean => /[*?]/.test(pattern);

/** `*` any run of characters, `?` one character, everything else itself. Never more than pattern × text steps. */
export function globMatches(pattern: string, text: string): boolean {
  const p = [...pattern];
  const t = [...text];
  let at = 0;
  let star = -1;
  let resume = 0;
  let i = 0;
  while (i < t.length) {
    if (p[at] === "*") {
      star = at;
      at += 1;
      resume = i;
    } else if (at < p.length && (p[at] === "?" || p[at] === t[i])) {
      at += 1;
      i += 1;
    } else if (star >= 0) {
      at = star + 1;
      resume += 1;
      i = resume;
    } else return false;
  }
  while (p[at] === "*") at += 1;
  return at === p.length;
}

const textMatches = (pattern: string, text: string | null): boolean =>
  text !== null && (isGlob(pattern) ? globMatches(pattern, text) : pattern === text);

const isAnchored = (port: string): boolean => port.includes("/");
const placeOf = (port: string, device: HostDevice): string | null => (isAnchored(port) ? device.anchor : device.busid);

const classMatches = (pattern: ClassPattern, c: UsbClass): boolean =>
  pattern.class === c.class &&
  (pattern.subclass === null || pattern.subclass === c.subclass) &&
  (pattern.protocol === null || pattern.protocol === c.protocol);

const formatPattern = ({ class: c, subclass, protocol }: ClassPattern): string =>
  [c, subclass, protocol]
    .filter((part) => part !== null)
    .map((part) => part.toString(16).padStart(2, "0"))
    .join(":");

type Criterion = {
  readonly field: string;
  /** What the selector asks for, as written; null: it does not. */
  readonly wanted: (selector: UsbSelector) => string | null;
  readonly ok: (selector: UsbSelector, device: HostDevice, unknown: Unknown) => boolean;
  /** What the device has. */
  readonly has: (device: HostDevice) => string | null;
};

const interfaces = (device: HostDevice): string | null =>
  device.interfaces === null ? null : device.interfaces.map(formatClass).join(" ");

/** `under` counts from the port downwards, the port itself left out: what sits in it is the hub. */
const isUnder = (port: string, device: HostDevice): boolean => !device.hub && (placeOf(port, device)?.startsWith(`${port}.`) ?? false);

const CRITERIA: readonly Criterion[] = [
  { field: "vendor", wanted: (s) => s.vendor, ok: (s, d) => s.vendor === d.vendor, has: (d) => d.vendor },
  { field: "product", wanted: (s) => s.product, ok: (s, d) => s.product === d.product, has: (d) => d.product },
  { field: "serial", wanted: (s) => s.serial, ok: (s, d) => textMatches(s.serial ?? "", d.serial), has: (d) => d.serial },
  {
    field: "port",
    wanted: (s) => s.port,
    ok: (s, d) => s.port === placeOf(s.port ?? "", d),
    has: (d) => (d.anchor === null ? d.busid : `${d.busid}, ${d.anchor}`),
  },
  { field: "under", wanted: (s) => s.under, ok: (s, d) => isUnder(s.under ?? "", d), has: (d) => (d.hub ? `${d.busid}, a hub` : d.busid) },
  {
    field: "anyInterface",
    wanted: (s) => (s.anyInterface === null ? null : formatPattern(s.anyInterface)),
    ok: ({ anyInterface: p }, d, unknown) =>
      p !== null && (d.interfaces === null ? unknown === "match" : d.interfaces.some((c) => classMatches(p, c))),
    has: interfaces,
  },
  {
    field: "allInterfaces",
    wanted: (s) => (s.allInterfaces === null ? null : formatPattern(s.allInterfaces)),
    ok: ({ allInterfaces: p }, d, unknown) =>
      p !== null &&
      (d.interfaces === null ? unknown === "match" : d.interfaces.length > 0 && d.interfaces.every((c) => classMatches(p, c))),
    has: interfaces,
  },
  {
    field: "manufacturer",
    wanted: (s) => s.manufacturer,
    ok: (s, d) => textMatches(s.manufacturer ?? "", d.manufacturer),
    has: (d) => d.manufacturer,
  },
  {
    field: "productName",
    wanted: (s) => s.productName,
    ok: (s, d) => textMatches(s.productName ?? "", d.productName),
    has: (d) => d.productName,
  },
  {
    field: "removable",
    wanted: (s) => (s.removable === null ? null : String(s.removable)),
    ok: (s, d) => s.removable === d.removable,
    has: (d) => (d.removable === null ? null : String(d.removable)),
  },
  { field: "bus", wanted: (s) => (s.bus === null ? null : String(s.bus)), ok: (s, d) => s.bus === d.bus, has: (d) => String(d.bus) },
  {
    field: "address",
    wanted: (s) => (s.address === null ? null : String(s.address)),
    ok: (s, d) => s.address === d.address,
    has: (d) => String(d.address),
  },
];

/** @returns whether every criterion of the selector holds; a selector without any matches nothing */
export function selectorMatches(selector: UsbSelector, device: HostDevice, unknown: Unknown = "no-match"): boolean {
  let asked = false;
  for (const { wanted, ok } of CRITERIA) {
    if (wanted(selector) === null) continue;
    if (!ok(selector, device, unknown)) return false;
    asked = true;
  }
  return asked;
}

/** A line a criterion: `vendor 0529: yes`, `serial "A*": no, it has "B7"`. */
export const explainSelector = (selector: UsbSelector, device: HostDevice): readonly Step[] =>
  CRITERIA.flatMap(({ field, wanted, ok, has }) => {
    const asked = wanted(selector);
    if (asked === null) return [];
    const yes = ok(selector, device, "no-match");
    const seen = has(device);
    return [
      { ok: yes, text: `${field} ${asked}: ${yes ? "yes" : seen === null ? "no, it is not known" : `no, it has ${printable(seen)}`}` },
    ];
  });

/** The one key that a selector is filed under: its most selective exact criterion. A device that matches has this key among its own. */
export function selectorKey(s: UsbSelector): string {
  if (s.port !== null) return `port ${s.port}`;
  if (s.bus !== null && s.address !== null) return addressKey(s.bus, s.address);
  if (s.serial !== null && !isGlob(s.serial)) return `serial ${s.serial}`;
  if (s.under !== null) return `under ${s.under}`;
  if (s.vendor !== null) return s.product === null ? `ids ${s.vendor}` : `ids ${s.vendor}:${s.product}`;
  return ANY_KEY;
}

export const ANY_KEY = "any";
export const addressKey = (bus: number, address: number): string => `address ${String(bus)}.${String(address)}`;
export const portKey = (busid: string): string => `port ${busid}`;
export const idsKey = (vendor: string, product: string): string => `ids ${vendor}:${product}`;

/** Every hub port above a place: `1-1.4.2` gives `1-1.4` and `1-1`. */
const above = (place: string): string[] => {
  const start = place.lastIndexOf("/") + 1;
  const found: string[] = [];
  for (let dot = place.lastIndexOf("."); dot > start; dot = place.lastIndexOf(".", dot - 1)) found.push(place.slice(0, dot));
  return found;
};

/** Every key that a selector which matches this device can be filed under. */
export function deviceKeys(d: HostDevice): readonly string[] {
  const places = d.anchor === null ? [d.busid] : [d.busid, d.anchor];
  return [
    ...places.map((place) => `port ${place}`),
    ...places.flatMap(above).map((place) => `under ${place}`),
    ...(d.serial === null ? [] : [`serial ${d.serial}`]),
    addressKey(d.bus, d.address),
    idsKey(d.vendor, d.product),
    `ids ${d.vendor}`,
    ANY_KEY,
  ];
}
