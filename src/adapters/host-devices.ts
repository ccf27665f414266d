/**
 * Which devices the host has, kept by looking again at one place at a time; tells what differs from what it told before.
 * What the kernel does and when: drivers/usb/core/hub.c (usb_new_device, usb_disconnect), drivers/base/core.c (device_add, device_del):
 * attributes and /sys/dev/char, the node, then the link in /sys/bus/usb/devices and `descriptors`, last the interfaces; at departure the node goes first.
 */
import { type HostDevice, instanceOf } from "../model/hostdev.ts";
import { same } from "../model/same.ts";
import { parseAddress, parseDevice } from "../protocol/sysfs-usb.ts";
import { createLockedReads } from "./locked-reads.ts";
import type { Settling } from "./settling.ts";
import type { Found, NodeFacts, SysfsReader } from "./sysfs-reader.ts";

export type HostDevices = {
  /** Looks at one place and tells what differs. Whoever calls it need not know why. */
  look(busid: string): void;
  /** A node came, went or changed. */
  lookAtNode(bus: number, address: number): void;
  /** The directory of a bus came or went. */
  lookAtBus(bus: number): void;
  /** As they were last told. */
  all(): readonly HostDevice[];
  /** Places that are told, or leaving. */
  places(): readonly string[];
  close(): void;
};

/** @param tell - called with null when nothing is left at a busid */
export function createHostDevices(
  reader: SysfsReader,
  settling: Settling,
  tell: (busid: string, device: HostDevice | null) => void,
): HostDevices {
  const known = new Map<string, HostDevice>();
  /** busid by bus and address. */
  const byAddress = new Map<string, string>();
  /** Real directories of devices that may not have their link in /sys/bus/usb/devices yet. */
  const early = new Map<string, string>();
  /** Address, by busid, of a device whose node went while sysfs still shows it. */
  const leaving = new Map<string, string>();
  let closed = false;
  const locked = createLockedReads(reader, (busid) => look(busid));

  const placeOf = (busid: string): Found => ({ busid, directory: early.get(busid) ?? reader.directoryOf(busid) });
  const unindex = (device: HostDevice): void => {
    const address = addressOf(device);
    if (byAddress.get(address) === device.busid) byAddress.delete(address);
  };
  /** Told to be no more; it may still be looked at. */
  const forget = (busid: string): void => {
    const was = known.get(busid);
    locked.drop(busid);
    if (was === undefined) return;
    unindex(was);
    known.delete(busid);
    tell(busid, null);
  };
  const gone = (busid: string): void => {
    settling.end(busid);
    early.delete(busid);
    forget(busid);
  };
  const report = (read: HostDevice, node: NodeFacts | null): void => {
    const { busid } = read;
    const device = node === null ? read : { ...read, access: node.access };
    const was = known.get(busid);
    settling.end(busid);
    if (was !== undefined) unindex(was);
    known.set(busid, device);
    byAddress.set(addressOf(device), busid);
    if (was === undefined || !same(was, device)) tell(busid, device);
  };

  /** Whether the device is on its way out: it had a node, and sysfs only shows it still. */
  const isLeaving = (busid: string, at: { bus: number; address: number }, node: NodeFacts | null): boolean => {
    const was = known.get(busid);
    const address = addressOf(at);
    if (node !== null) leaving.delete(busid);
    else if (was !== undefined && was.inode !== 0 && addressOf(was) === address) leaving.set(busid, address);
    return leaving.get(busid) === address;
  };

  const look = (busid: string): void => {
    if (closed) return;
    const place = placeOf(busid);
    const plain = reader.plain(place);
    if (plain === null) {
      if (early.delete(busid)) look(busid);
      else {
        leaving.delete(busid);
        gone(busid);
      }
      return;
    }
    const at = parseAddress(plain);
    const node = at === null ? null : reader.node(at.bus, at.address);
    if (at !== null && isLeaving(busid, at, node)) {
      gone(busid);
      return;
    }
    const was = known.get(busid);
    if (settling.isOver(busid) && locked.moved(busid)) settling.more(busid);
    const last = settling.isOver(busid);
    const texts = at === null ? null : locked.get(place, `${addressOf(at)}.${String(plain.inode)}`, last);
    const found = texts === null ? null : parseDevice(plain, texts);
    // The node comes after the attributes: without one, too, a device is given its time.
    if (found !== null && (last || (found.settled && node !== null) || isNoWorse(was, found.device))) {
      if (!found.settled) locked.refresh(busid);
      report(found.device, node);
      return;
    }
    if (was !== undefined && (at === null || addressOf(at) !== addressOf(was) || plain.inode !== was.inode)) forget(busid);
    else if (texts !== null) locked.refresh(busid);
    if (!last) {
      // An answer that is on its way brings us back here.
      if (at !== null && texts === null) settling.atEnd(busid, () => look(busid));
      else settling.again(busid, () => look(busid));
      return;
    }
    settling.end(busid);
    forget(busid); // without ids it is nothing that can be told
  };

  const lookAtNode = (bus: number, address: number): void => {
    if (closed) return;
    const word = addressOf({ bus, address });
    const busid = byAddress.get(word);
    if (reader.node(bus, address) === null) {
      settling.end(word);
      if (busid !== undefined) look(busid);
      return;
    }
    const found = reader.find(bus, address, busid);
    if (busid !== undefined && found?.busid !== busid) look(busid);
    if (found === null && !settling.isOver(word)) {
      settling.again(word, () => lookAtNode(bus, address));
      return;
    }
    settling.end(word);
    if (found === null || found.isRootHub) return;
    if (found.directory !== reader.directoryOf(found.busid)) early.set(found.busid, found.directory);
    look(found.busid);
  };

  const lookAtBus = (bus: number): void => {
    if (closed) return;
    const addresses = new Set(reader.nodesOf(bus));
    for (const device of known.values()) if (device.bus === bus) addresses.add(device.address);
    for (const address of addresses) {
      const was = known.get(byAddress.get(addressOf({ bus, address })) ?? "");
      if (was === undefined || was.inode !== reader.node(bus, address)?.inode) lookAtNode(bus, address);
    }
  };

  return {
    look,
    lookAtNode,
    lookAtBus,
    all: () => [...known.values()],
    places: () => [...known.keys(), ...leaving.keys()],
    close: () => {
      closed = true;
      locked.close();
    },
  };
}

const addressOf = ({ bus, address }: { bus: number; address: number }): string => `${String(bus)}.${String(address)}`;
/** One enumeration that was told already, with its interfaces at least as well known now: no reason to wait. */
const isNoWorse = (was: HostDevice | undefined, now: HostDevice): boolean =>
  was !== undefined && instanceOf(was) === instanceOf(now) && (was.interfaces === null || now.interfaces !== null);
