/** What deciding needs to see of the world, found by index. */
import type { DesiredDevice, UsbSelector } from "../model/desired.ts";
import type { DomainKey } from "../model/domain.ts";
import type { HostDevice } from "../model/hostdev.ts";
import type { Hold } from "../model/intentions.ts";
import { type ClaimId, claimId, type World } from "../model/world.ts";
import type { Authority } from "./domains.ts";
import type { Seat } from "./seats.ts";

/** One device entry of a file that is in force. The same value as long as its file is. */
export type Entry = {
  /** Its claim's id, without a busid. */
  readonly id: ClaimId;
  readonly domain: string;
  /** Position in the file, from 0. */
  readonly index: number;
  readonly device: DesiredDevice;
  /** Empty for a kind that is not supported. */
  readonly selectors: readonly UsbSelector[];
};

export const entriesOf = (domain: string, devices: readonly DesiredDevice[]): readonly Entry[] =>
  devices.map((device, index) => ({
    id: claimId(domain, device.name, null),
    domain,
    index,
    device,
    selectors: device.kind.type === "usb" ? device.kind.selectors : [],
  }));

/** By metadata.name, then by position in the file. */
export const byFile = (a: Entry, b: Entry): number => (a.domain === b.domain ? a.index - b.index : a.domain < b.domain ? -1 : 1);

export type View = {
  readonly world: World;
  /** @param domain - metadata.name of a file in force */
  authority(domain: string): Authority;
  /** metadata.names that mean this live domain, sorted. */
  governors(live: DomainKey): readonly string[];
  /** Entries in force of a file; none of one that vanished. */
  entries(domain: string): readonly Entry[];
  /** Entries of all files that match a present device, by file and position. */
  entriesFor(busid: string): readonly Entry[];
  /** Present devices that an entry matches. */
  devicesFor(entry: Entry): Iterable<string>;
  device(busid: string): HostDevice;
  /** Objects that hold, or may hold, a present device. */
  seats(busid: string): readonly Seat[];
  /** Present devices that an object holds, or may hold. */
  heldBy(seat: Seat): readonly string[];
  holdOn(entry: Entry): Hold | null;
};

/** Whether it is certain that the object holds this device: exact mode, or a scan that has found the only one there is. */
export const isSure = (view: View, { live, object }: Seat): boolean =>
  object.exact || (object.attached && view.heldBy({ live, object }).length === 1);
