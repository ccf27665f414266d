/** Which host device an object in a domain holds, or may hold (facts/qmp.md E.1: exact and auto-scan mode). */
import type { Attached } from "../model/action.ts";
import type { DomainKey, HostFilter, LiveObject } from "../model/domain.ts";
import { type HostDevice, instanceOf } from "../model/hostdev.ts";
import { ANY_KEY, addressKey, idsKey, portKey } from "./selector.ts";

/** One object of one live domain. The same value as long as nothing about it changes. */
export type Seat = { readonly live: DomainKey; readonly object: LiveObject };

type Address = { readonly bus: number; readonly address: number };

/** A node's path ends in bus and address, whatever it begins with: `/dev/bus/usb/001/005`. */
function addressOf({ bus, address, hostdevice }: HostFilter): Address | null {
  if (bus !== null && address !== null) return { bus, address };
  const match = /\/(\d{3})\/(\d{3})$/.exec(hostdevice ?? "");
  return match === null ? null : { bus: Number(match[1]), address: Number(match[2]) };
}

/** As sysfs writes it: `1-2.3`. */
const placeOf = ({ bus, hostport }: HostFilter): string => `${String(bus)}-${hostport ?? ""}`;

const nodeKey = (node: string): string => `node ${node}`;

/** The key that a seat is filed under; see seatKeys(). */
export function seatKey({ exact, filter }: LiveObject): string {
  const address = addressOf(filter);
  if (exact && address === null && filter.hostport !== null) return portKey(placeOf(filter));
  if (exact) return address === null ? nodeKey(filter.hostdevice ?? "") : addressKey(address.bus, address.address);
  if (filter.bus !== null && filter.address !== null) return addressKey(filter.bus, filter.address);
  if (filter.bus !== null && filter.hostport !== null) return portKey(placeOf(filter));
  if (filter.vendor !== null) return filter.product === null ? `ids ${filter.vendor}` : idsKey(filter.vendor, filter.product);
  return ANY_KEY;
}

/** Every key under which a seat that holds this device can be filed, on top of deviceKeys(). */
export const extraSeatKey = (device: HostDevice): string => nodeKey(device.node);

const scanFinds = (f: HostFilter, d: HostDevice): boolean =>
  !d.hub &&
  (f.bus === null || f.bus === d.bus) &&
  (f.address === null || f.address === d.address) &&
  (f.vendor === null || f.vendor === d.vendor) &&
  (f.product === null || f.product === d.product) &&
  (f.hostport === null || d.busid.slice(d.busid.indexOf("-") + 1) === f.hostport);

/** Whether the object holds the device (exact mode) or its filter lets QEMU take it (auto-scan mode, where the device is a guess). */
export function mayHold({ exact, filter, ours, inode, attached }: LiveObject, device: HostDevice): boolean {
  if (!exact) return scanFinds(filter, device);
  // "true" proves nothing (an unplug is not noticed); "false" does: QEMU gave the device up and never takes it again.
  if (ours && !attached) return false;
  const address = addressOf(filter);
  // A record that stands alone holds whatever is plugged in there, if anything does.
  if (address === null && filter.hostport !== null) return attached && placeOf(filter) === device.busid;
  if (address === null) return filter.hostdevice === device.node;
  if (address.bus !== device.bus || address.address !== device.address) return false;
  // The address was given out again: what our object held has left. An inode of 0 is not known.
  return !ours || inode === null || device.inode === 0 || inode === device.inode;
}

/** Whether anything can be said of the device behind the object: a file descriptor handed to QEMU (`/dev/fdset/7`) tells nothing. */
export const isTraceable = ({ exact, filter }: LiveObject): boolean => exact && (addressOf(filter) !== null || filter.hostport !== null);

/** The root port of a dotted port: `2.1` hangs on 2. */
export const rootPort = (port: string): number => Number.parseInt(port, 10);

export const attachedAt = ({ live, object }: Seat, device: HostDevice | null): Attached => ({
  domain: live,
  path: object.path,
  bus: object.bus,
  port: rootPort(object.port),
  instance: device === null ? null : instanceOf(device),
});
