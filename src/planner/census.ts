/**
 * The world with its indexes: takes changes in and notes what they can touch. Finding is by key, so a change costs what it concerns and
 * not the fleet.
 */
import type { DomainKey, LiveDomain } from "../model/domain.ts";
import type { ForcedDomain } from "../model/desired.ts";
import type { HostDevice } from "../model/hostdev.ts";
import type { Hold } from "../model/intentions.ts";
import { same } from "../model/same.ts";
import { claimId, emptyWorld, type World, type WorldChange } from "../model/world.ts";
import { type Authority, authorityOf } from "./domains.ts";
import { createKeyIndex } from "./key-index.ts";
import { extraSeatKey, mayHold, type Seat, seatKey } from "./seats.ts";
import { deviceKeys, selectorKey, selectorMatches } from "./selector.ts";
import { byFile, type Entry, entriesOf, type View } from "./view.ts";

/** What changes have touched and is to be decided anew. */
export type Dirt = {
  /** Present or gone, by busid. */
  readonly devices: Set<string>;
  /** Entries in force. */
  readonly entries: Set<Entry>;
  /** Files, by metadata.name, in force or gone. */
  readonly names: Set<string>;
  readonly lives: Set<DomainKey>;
};

type Mutable<M> = M extends ReadonlyMap<infer K, infer V> ? Map<K, V> : never;
const NO_ENTRIES: readonly Entry[] = [];
const nameTarget = (name: string): string => `name ${name}`;
const uuidTarget = (uuid: string): string => `uuid ${uuid.toLowerCase()}`;
const targetsOf = ({ name, uuid }: LiveDomain): readonly string[] => [
  ...(name === null ? [] : [nameTarget(name)]),
  ...(uuid === null ? [] : [uuidTarget(uuid)]),
];
const targetOf = ({ spec: { target } }: ForcedDomain): string => (target.by === "name" ? nameTarget(target.name) : uuidTarget(target.uuid));
const insert = <K, V>(map: Map<K, V>, key: K, value: V | null): void => {
  if (value === null) map.delete(key);
  else map.set(key, value);
};

export class Census implements View {
  private readonly host: Mutable<World["host"]> = new Map();
  private readonly domains: Mutable<World["domains"]> = new Map();
  private readonly forced: Mutable<World["forced"]> = new Map();
  private readonly vetoes: Mutable<World["vetoes"]> = new Map();
  private readonly facts: Mutable<World["facts"]> = new Map();
  world: World = { ...emptyWorld, host: this.host, domains: this.domains, forced: this.forced, vetoes: this.vetoes, facts: this.facts };

  private readonly fileEntries = new Map<string, readonly Entry[]>();
  private readonly entryIndex = createKeyIndex<Entry>();
  private readonly deviceIndex = createKeyIndex<string>();
  private readonly matchedBy = createKeyIndex<Entry>();
  private readonly matches = createKeyIndex<string, Entry>();
  private readonly seatIndex = createKeyIndex<Seat>();
  private readonly liveSeats = new Map<DomainKey, readonly Seat[]>();
  private readonly livesByTarget = createKeyIndex<DomainKey>();
  private readonly namesByTarget = createKeyIndex<string>();
  private readonly authorities = new Map<string, Authority>();
  private readonly holds = new Map<string, Hold>();
  /** Answers about a device, until it, what holds it or what matches it changes. */
  private readonly seatCache = new Map<string, readonly Seat[]>();
  private readonly entryCache = new Map<string, readonly Entry[]>();
  private readonly dirt: Dirt = { devices: new Set(), entries: new Set(), names: new Set(), lives: new Set() };

  // ---- what deciding sees

  authority(domain: string): Authority {
    const authority = this.authorities.get(domain);
    if (authority === undefined) throw new Error(`no file in force is called ${domain}`);
    return authority;
  }

  governors(live: DomainKey): readonly string[] {
    const present = this.domains.get(live);
    if (present === undefined) return [];
    const names = targetsOf(present).flatMap((target) => [...this.namesByTarget.get(target)]);
    return [...new Set(names)].filter((name) => this.authorities.get(name)?.live?.key === live).sort();
  }

  entries(domain: string): readonly Entry[] {
    return this.fileEntries.get(domain) ?? NO_ENTRIES;
  }

  entriesFor(busid: string): readonly Entry[] {
    const known = this.entryCache.get(busid);
    if (known !== undefined) return known;
    const entries = [...this.matchedBy.get(busid)].sort(byFile);
    this.entryCache.set(busid, entries);
    return entries;
  }

  devicesFor(entry: Entry): Iterable<string> {
    return this.matches.get(entry);
  }

  device(busid: string): HostDevice {
    const device = this.host.get(busid);
    if (device === undefined) throw new Error(`no device at ${busid}`);
    return device;
  }

  seats(busid: string): readonly Seat[] {
    const known = this.seatCache.get(busid);
    if (known !== undefined) return known;
    const device = this.device(busid);
    const found = [...deviceKeys(device), extraSeatKey(device)].flatMap((key) => [...this.seatIndex.get(key)]);
    const seats = found
      .filter(({ object }) => mayHold(object, device))
      .sort((a, b) => (a.live === b.live ? (a.object.path < b.object.path ? -1 : 1) : a.live < b.live ? -1 : 1));
    this.seatCache.set(busid, seats);
    return seats;
  }

  heldBy({ object }: Seat): readonly string[] {
    return [...this.deviceIndex.get(seatKey(object))].filter((busid) => mayHold(object, this.device(busid))).sort();
  }

  holdOn({ id }: Entry): Hold | null {
    return this.holds.get(id) ?? null;
  }

  // ---- changes

  /** What has been touched since the last call. */
  takeDirt(): Dirt {
    const { devices, entries, names, lives } = this.dirt;
    const taken = { devices: new Set(devices), entries: new Set(entries), names: new Set(names), lives: new Set(lives) };
    for (const set of [devices, entries, names, lives]) set.clear();
    return taken;
  }

  apply(change: WorldChange): void {
    if (change.kind === "host") this.changeHost(change.busid, change.device);
    else if (change.kind === "live") this.changeLive(change.key, change.domain);
    else if (change.kind === "forced") this.changeForced(change.name, change.domain);
    else if (change.kind === "policy") this.changePolicy(change.policy);
    else if (change.kind === "overrides") this.changeOverrides(change);
    else if (change.kind === "veto") {
      insert(this.vetoes, change.instance, change.veto);
      this.dirt.devices.add(change.instance.slice(0, change.instance.lastIndexOf("@")));
    } else {
      insert(this.facts, change.claim, change.facts);
      this.dirt.names.add(change.claim.slice(0, change.claim.indexOf("/")));
    }
  }

  private changeHost(busid: string, device: HostDevice | null): void {
    const before = this.host.get(busid);
    if (same(before ?? null, device)) return;
    if (before !== undefined) {
      this.touchSeats(busid);
      for (const key of [...deviceKeys(before), extraSeatKey(before)]) this.deviceIndex.remove(key, busid);
      for (const entry of [...this.matchedBy.get(busid)]) {
        this.unlink(entry, busid);
        this.dirt.entries.add(entry);
      }
    }
    this.seatCache.delete(busid);
    this.entryCache.delete(busid);
    this.dirt.devices.add(busid);
    insert(this.host, busid, device);
    if (device === null) return;
    const keys = deviceKeys(device);
    for (const key of [...keys, extraSeatKey(device)]) this.deviceIndex.add(key, busid);
    for (const key of keys) for (const entry of this.entryIndex.get(key)) this.link(entry, busid, device);
    this.touchSeats(busid);
  }

  /** What sits in, or may sit in, an object changes what is certain of the others that may sit in it, and of the domain. */
  private touchSeats(busid: string): void {
    for (const seat of this.seats(busid)) {
      this.dirt.lives.add(seat.live);
      if (!seat.object.exact) for (const other of this.heldBy(seat)) this.dirt.devices.add(other);
    }
  }

  private link(entry: Entry, busid: string, device: HostDevice): void {
    if (!entry.selectors.some((selector) => selectorMatches(selector, device))) return;
    this.entryCache.delete(busid);
    this.matchedBy.add(busid, entry);
    this.matches.add(entry, busid);
  }
  private unlink(entry: Entry, busid: string): void {
    this.entryCache.delete(busid);
    this.matchedBy.remove(busid, entry);
    this.matches.remove(entry, busid);
  }

  private changeForced(name: string, next: ForcedDomain | null): void {
    const before = this.forced.get(name) ?? null;
    if (same(before, next)) return;
    this.dirt.names.add(name);
    const touched = new Set([name]);
    if (before !== null) {
      this.namesByTarget.remove(targetOf(before), name);
      for (const rival of this.rivals(before)) touched.add(rival);
    }
    this.changeEntries(name, next === null || next.standing === "vanished" ? NO_ENTRIES : entriesOf(name, next.spec.devices));
    insert(this.forced, name, next);
    if (next !== null) {
      this.namesByTarget.add(targetOf(next), name);
      for (const rival of this.rivals(next)) touched.add(rival);
    }
    // What the file says of pruning concerns every object in its domain.
    this.touchLive(this.authorities.get(name)?.live?.key ?? null);
    for (const one of touched) this.authorize(one);
    this.touchLive(this.authorities.get(name)?.live?.key ?? null);
  }

  private changeEntries(name: string, next: readonly Entry[]): void {
    for (const entry of this.entries(name)) {
      for (const selector of entry.selectors) this.entryIndex.remove(selectorKey(selector), entry);
      for (const busid of [...this.devicesFor(entry)]) {
        this.unlink(entry, busid);
        this.dirt.devices.add(busid);
      }
      this.dirt.entries.delete(entry);
    }
    if (next.length === 0) this.fileEntries.delete(name);
    else this.fileEntries.set(name, next);
    for (const entry of next) {
      for (const key of new Set(entry.selectors.map(selectorKey))) {
        this.entryIndex.add(key, entry);
        for (const busid of this.deviceIndex.get(key)) this.link(entry, busid, this.device(busid));
      }
      this.dirt.entries.add(entry);
    }
  }

  private lives(forced: ForcedDomain): readonly LiveDomain[] {
    const found = [...this.livesByTarget.get(targetOf(forced))].flatMap((key) => this.domains.get(key) ?? []);
    return found.sort((a, b) => (a.key < b.key ? -1 : 1));
  }

  /** Other files that mean a domain which this one means too. */
  private rivals(forced: ForcedDomain): readonly string[] {
    const names = this.lives(forced).flatMap((live) => targetsOf(live).flatMap((target) => [...this.namesByTarget.get(target)]));
    return [...new Set(names)].filter((name) => name !== forced.spec.name).sort();
  }

  /** Works out anew what a file may do, and notes what follows if that is not what it was. */
  private authorize(name: string): void {
    const forced = this.forced.get(name);
    const before = this.authorities.get(name);
    if (forced === undefined) {
      this.authorities.delete(name);
      if (before !== undefined) this.touchLive(before.live?.key ?? null);
      return;
    }
    const pause = this.world.pauses.find(({ domain }) => domain === name) ?? null;
    const rivals = this.rivals(forced).filter((rival) => this.forced.get(rival)?.standing !== "vanished");
    const after = authorityOf(forced, this.lives(forced), rivals, pause);
    this.authorities.set(name, after);
    const told = ({ live, ...rest }: Authority): unknown => ({ ...rest, live: live?.key ?? null });
    if (before !== undefined && same(told(before), told(after))) return;
    this.dirt.names.add(name);
    for (const entry of this.entries(name)) this.dirt.entries.add(entry);
    for (const live of [before?.live?.key, after.live?.key]) this.touchLive(live ?? null);
  }

  /** The domain, and every device that sits in it. */
  private touchLive(live: DomainKey | null): void {
    if (live === null) return;
    this.dirt.lives.add(live);
    for (const seat of this.liveSeats.get(live) ?? []) for (const busid of this.heldBy(seat)) this.dirt.devices.add(busid);
  }

  private changeLive(key: DomainKey, next: LiveDomain | null): void {
    const before = this.domains.get(key) ?? null;
    if (same(before, next)) return;
    this.dirt.lives.add(key);
    const targets = new Set([...(before === null ? [] : targetsOf(before)), ...(next === null ? [] : targetsOf(next))]);
    const touched = new Set<string>();
    const note = (): void => {
      for (const target of targets) {
        for (const name of this.namesByTarget.get(target)) {
          touched.add(name);
          const forced = this.forced.get(name);
          for (const rival of forced === undefined ? [] : this.rivals(forced)) touched.add(rival);
        }
      }
    };
    note();
    for (const target of before === null ? [] : targetsOf(before)) this.livesByTarget.remove(target, key);
    insert(this.domains, key, next);
    for (const target of next === null ? [] : targetsOf(next)) this.livesByTarget.add(target, key);
    note();
    if (!same(before?.objects ?? [], next?.objects ?? [])) this.changeSeats(key, next);
    for (const name of touched) this.authorize(name);
    // What others say of it names it, and only files tell what may be done there.
    if (before?.name !== next?.name) this.touchLive(key);
  }

  private changeSeats(key: DomainKey, next: LiveDomain | null): void {
    const before = new Map((this.liveSeats.get(key) ?? []).map((seat) => [seat.object.path, seat]));
    const seats = (next?.objects ?? []).map((object) => {
      const known = before.get(object.path);
      if (known !== undefined && same(known.object, object)) {
        before.delete(object.path);
        return known;
      }
      const seat: Seat = { live: key, object };
      this.seatIndex.add(seatKey(object), seat);
      this.reseat(seat);
      return seat;
    });
    for (const seat of before.values()) {
      this.seatIndex.remove(seatKey(seat.object), seat);
      this.reseat(seat);
    }
    if (seats.length === 0) this.liveSeats.delete(key);
    else this.liveSeats.set(key, seats);
  }

  /** What holds these devices is no more what it was. */
  private reseat(seat: Seat): void {
    for (const busid of this.heldBy(seat)) {
      this.seatCache.delete(busid);
      this.dirt.devices.add(busid);
    }
  }

  private changePolicy(policy: World["policy"]): void {
    if (same(this.world.policy, policy)) return;
    this.world = { ...this.world, policy };
    for (const busid of this.host.keys()) this.dirt.devices.add(busid);
    for (const name of this.forced.keys()) this.dirt.names.add(name);
    for (const key of this.domains.keys()) this.dirt.lives.add(key);
  }

  private changeOverrides({ holds, pauses, quarantines }: Pick<World, "holds" | "pauses" | "quarantines">): void {
    const { world } = this;
    const ids = new Set<string>();
    const differing = <T>(a: readonly T[], b: readonly T[]): readonly T[] =>
      [...a, ...b].filter((value) => !a.some((one) => same(one, value)) || !b.some((one) => same(one, value)));
    for (const { domain, device } of [...differing(world.holds, holds), ...differing(world.quarantines, quarantines)]) {
      ids.add(claimId(domain, device, null));
    }
    const names = new Set(differing(world.pauses, pauses).map(({ domain }) => domain));
    this.world = { ...world, holds, pauses, quarantines };
    this.holds.clear();
    for (const hold of holds) this.holds.set(claimId(hold.domain, hold.device, null), hold);
    for (const id of ids) {
      const entry = this.entries(id.slice(0, id.indexOf("/"))).find((one) => one.id === id);
      if (entry !== undefined) this.dirt.entries.add(entry);
    }
    for (const name of names) if (this.forced.has(name)) this.authorize(name);
  }
}
