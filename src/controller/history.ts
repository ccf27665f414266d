/**
 * What takes time to become true of a claim: flapping, contested, re-enumerating; and devices that come back as something else.
 * Counts events against the clock and hands the planner values (house rule 1); keeps nothing of claims that have no such history.
 */
import type { Clock } from "../model/contracts.ts";
import { fingerprintOf, type HostDevice } from "../model/hostdev.ts";
import type { Timings } from "../model/timings.ts";
import { type ClaimFacts, type ClaimId, claimId } from "../model/world.ts";
import { createAlarms } from "./alarms.ts";

/** A claim that has, or is about to have, a certain host device. */
export type Holder = {
  readonly id: ClaimId;
  readonly domain: string;
  readonly device: string;
  /** It has alternates: one logical device that changes its ids. */
  readonly anyOf: boolean;
};

/** A device came back at its place as something else; the claim that had it before. */
export type Impostor = { readonly holder: Holder; readonly device: HostDevice; readonly was: string };

export type History = {
  /** The holders' device left its place or was enumerated again. */
  left(device: HostDevice, holders: readonly Holder[]): void;
  /** A device is at a busid now. @returns the impostor that it may be */
  came(device: HostDevice): Impostor | null;
  /** A device is now the one that the claim won: ends re-enumeration, starts the stay that ends flapping. */
  won(id: ClaimId): void;
  /** Somebody else undid the claim. */
  undone(id: ClaimId): void;
  /** A person or a restart of the domain clears what was held against the claim. */
  forgive(id: ClaimId): void;
  /** The same for every claim of an entry. */
  forgiveEntry(domain: string, entry: string): void;
  /** The claim is no more. */
  forget(id: ClaimId): void;
  /** No claim of the entry is any more. */
  forgetEntry(domain: string, entry: string): void;
  stop(): void;
};

type Record = { left: number[]; undone: number[]; flapping: boolean; reEnumerating: boolean; contested: boolean };

/** Places that were left lately, at most: a storm over more of them loses the oldest, and with it only an identity check. */
const MOST_DEPARTURES = 4_096;

export function createHistory(deps: {
  readonly clock: Clock;
  readonly timings: Timings;
  readonly onFacts: (id: ClaimId, facts: ClaimFacts | null) => void;
}): History {
  const { clock, timings } = deps;
  const alarms = createAlarms(clock);
  const records = new Map<ClaimId, Record>();
  const departures = new Map<string, { readonly at: number; readonly device: HostDevice; readonly holder: Holder }>();

  const recordOf = (id: ClaimId): Record => {
    const known = records.get(id);
    if (known !== undefined) return known;
    const made: Record = { left: [], undone: [], flapping: false, reEnumerating: false, contested: false };
    records.set(id, made);
    return made;
  };
  const tell = (id: ClaimId, record: Record): void => {
    const { contested, flapping, reEnumerating } = record;
    deps.onFacts(id, contested || flapping || reEnumerating ? { contested, flapping, reEnumerating } : null);
  };
  /** Few claims have a history at all. */
  const ofEntry = (domain: string, entry: string): ClaimId[] => {
    const one = claimId(domain, entry, null);
    return [...records.keys()].filter((id) => id === one || id.startsWith(`${one}@`));
  };
  const within = (times: readonly number[], windowMs: number): number[] => times.filter((time) => clock.now() - time < windowMs);

  return {
    left(device, holders) {
      const now = clock.now();
      for (const holder of holders) {
        const record = recordOf(holder.id);
        record.left = [...within(record.left, timings.flapWindowMs), now].slice(-timings.flapCount - 1);
        const was = { ...record };
        record.flapping ||= record.left.length > timings.flapCount;
        alarms.clear(`stay ${holder.id}`);
        if (holder.anyOf) {
          record.reEnumerating = true;
          alarms.set(`away ${holder.id}`, timings.reEnumerateMs, () => {
            record.reEnumerating = false;
            tell(holder.id, record);
          });
        }
        if (was.flapping !== record.flapping || was.reEnumerating !== record.reEnumerating) tell(holder.id, record);
        departures.delete(device.busid);
        departures.set(device.busid, { at: now, device, holder });
        if (departures.size > MOST_DEPARTURES) departures.delete(departures.keys().next().value ?? "");
      }
    },
    came(device) {
      const departure = departures.get(device.busid);
      if (departure === undefined) return null;
      if (clock.now() - departure.at > timings.identityMs || sameIdentity(departure.device, device)) {
        departures.delete(device.busid);
        return null;
      }
      // Kept: what comes there after the impostor, within the time, is held against what was admitted as well.
      return { holder: departure.holder, device, was: fingerprintOf(departure.device) };
    },
    won(id) {
      const record = records.get(id);
      if (record === undefined) return;
      if (record.reEnumerating) {
        alarms.clear(`away ${id}`);
        record.reEnumerating = false;
        tell(id, record);
      }
      if (record.flapping)
        alarms.set(`stay ${id}`, timings.flapHoldMs, () => {
          record.flapping = false;
          record.left = [];
          tell(id, record);
        });
    },
    undone(id) {
      const record = recordOf(id);
      record.undone = [...within(record.undone, timings.contestWindowMs), clock.now()].slice(-timings.contestCount);
      if (record.contested || record.undone.length < timings.contestCount) return;
      record.contested = true;
      tell(id, record);
    },
    forgive(id) {
      const record = records.get(id);
      if (record === undefined) return;
      const { contested } = record;
      record.contested = false;
      record.undone = [];
      if (contested) tell(id, record);
    },
    forgiveEntry(domain, entry) {
      for (const id of ofEntry(domain, entry)) this.forgive(id);
    },
    forget(id) {
      const record = records.get(id);
      if (record === undefined) return;
      records.delete(id);
      alarms.clear(`away ${id}`);
      alarms.clear(`stay ${id}`);
      if (record.contested || record.flapping || record.reEnumerating) deps.onFacts(id, null);
    },
    forgetEntry(domain, entry) {
      for (const id of ofEntry(domain, entry)) this.forget(id);
    },
    stop: () => alarms.stop(),
  };
}

/** Interfaces that are not known on either side are no difference: they come a moment later (product.md §8). */
const sameIdentity = (a: HostDevice, b: HostDevice): boolean =>
  fingerprintOf(a.interfaces !== null && b.interfaces !== null ? a : { ...a, interfaces: null }) ===
  fingerprintOf(a.interfaces !== null && b.interfaces !== null ? b : { ...b, interfaces: null });
