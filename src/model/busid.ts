/**
 * Host USB addresses as sysfs writes them, e.g. `3-1.5`: bus 3, root port 1, hub port 5.
 * Source: Linux, names under /sys/bus/usb/devices; libxl keeps the same text in `port/<n>` (xen: tools/libs/light/libxl_usb.c).
 */
import { err, ok, type Result } from "./result.ts";

/** Where a device is plugged in. Stays the same when the device is re-enumerated, unlike hostaddr. */
export type Busid = { readonly bus: number; readonly ports: readonly [number, ...number[]] };
export type BusidError =
  | { readonly kind: "not-a-busid"; readonly text: string }
  | { readonly kind: "is-interface"; readonly text: string }
  | { readonly kind: "out-of-range"; readonly field: "bus" | "port"; readonly value: number };

/** Seven tiers at most: root hub, up to five hubs, the device (USB 2.0, 4.1.1). */
const MAX_PORTS_IN_PATH = 6;

/**
 * @param text - a directory name from `/sys/bus/usb/devices`; `1-2:1.0` names an interface and is refused
 * @returns bus (1-based) and the port chain from the root hub outward (each 1–255)
 */
export function parseBusid(text: string): Result<Busid, BusidError> {
  if (text.includes(":")) return err({ kind: "is-interface", text });
  const match = /^(\d{1,5})-(\d{1,3}(?:\.\d{1,3})*)$/.exec(text);
  if (match === null) return err({ kind: "not-a-busid", text });
  const bus = Number(match[1]);
  if (bus < 1) return err({ kind: "out-of-range", field: "bus", value: bus });
  const [first, ...rest] = (match[2] ?? "").split(".").map(Number);
  if (first === undefined || rest.length >= MAX_PORTS_IN_PATH) return err({ kind: "not-a-busid", text });
  const bad = [first, ...rest].find((port) => port < 1 || port > 255);
  return bad === undefined ? ok({ bus, ports: [first, ...rest] }) : err({ kind: "out-of-range", field: "port", value: bad });
}

/** Inverse of {@link parseBusid}. */
export const formatBusid = ({ bus, ports }: Busid): string => `${String(bus)}-${ports.join(".")}`;

/** Orders busid texts by bus, then port by port, as numbers: 1-2 before 1-10. A text that is no busid goes last, by its code points. */
export function compareBusids(a: string, b: string): number {
  const left = parseBusid(a);
  const right = parseBusid(b);
  if (!left.ok || !right.ok) return left.ok ? -1 : right.ok ? 1 : a < b ? -1 : a > b ? 1 : 0;
  const x = [left.value.bus, ...left.value.ports];
  const y = [right.value.bus, ...right.value.ports];
  for (let i = 0; i < Math.min(x.length, y.length); i += 1) {
    const difference = (x[i] ?? 0) - (y[i] ?? 0);
    if (difference !== 0) return difference;
  }
  return x.length - y.length;
}
