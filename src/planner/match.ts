/**
 * Which entry gets which device (product.md §2, "Which device", "Who gets it"). Works on a closed set: with an entry come all devices that
 * it matches, with a device all entries that match it. The answer does not depend on the order of anything that is handed in.
 */
import { compareBusids } from "../model/busid.ts";
import type { ClaimId } from "../model/world.ts";
import { type Refusal, refusalOf, sitsIn } from "./refuse.ts";
import { rootPort } from "./seats.ts";
import { byFile, type Entry, type View } from "./view.ts";

export type EntryMatch = {
  /** Present devices that match, by busid. With `count: all` without hubs. */
  readonly matching: readonly string[];
  /** What it gets, or, where its domain does not act, would get. */
  readonly won: readonly string[];
  /** Several may be meant and nothing says which. */
  readonly ambiguous: readonly string[];
  /** Free candidates beside the one that it has. */
  readonly extras: readonly string[];
  /** Of what it does not get: the device of its that sits in its domain now. */
  readonly inPlace: readonly string[];
  /** Why it does not get the others. */
  readonly refusals: readonly Refusal[];
};

type Draft = { readonly won: string[]; ambiguous: readonly string[]; open: boolean; readonly rivals: Map<string, readonly Entry[]> };

/** So many of those who want the same are named. */
const SHOWN_RIVALS = 4;

const label = ({ domain, device }: Entry): string => `${domain}/${device.name}`;
const byOrder = (a: Entry, b: Entry): number => b.device.priority - a.device.priority || byFile(a, b);
const wantsAll = ({ device }: Entry): boolean => device.count === "all";

/** Files each entry under its domain, in the order of the list. */
function perDomain(entries: readonly Entry[]): Map<string, Entry[]> {
  const found = new Map<string, Entry[]>();
  for (const entry of entries) found.set(entry.domain, [...(found.get(entry.domain) ?? []), entry]);
  return found;
}

class Contest {
  readonly wonBy = new Map<string, Entry>();
  private readonly drafts = new Map<ClaimId, Draft>();
  private readonly matching = new Map<ClaimId, readonly string[]>();
  private readonly refusals = new Map<ClaimId, Map<string, Refusal>>();
  private readonly view: View;
  private readonly entries: readonly Entry[];

  constructor(view: View, entries: readonly Entry[]) {
    this.view = view;
    this.entries = [...entries].sort(byOrder);
    for (const entry of this.entries) {
      const matching = [...view.devicesFor(entry)].filter((busid) => !wantsAll(entry) || !view.device(busid).hub).sort(compareBusids);
      const refused = matching.flatMap((busid) => refusalOf(view, entry, busid) ?? []);
      this.matching.set(entry.id, matching);
      this.refusals.set(entry.id, new Map(refused.map((refusal) => [refusal.busid, refusal])));
      this.drafts.set(entry.id, { won: [], ambiguous: [], open: true, rivals: new Map() });
    }
  }

  private draft(entry: Entry): Draft {
    const draft = this.drafts.get(entry.id);
    if (draft === undefined) throw new Error(`${entry.id} is not in this contest`);
    return draft;
  }

  private isRefused(entry: Entry, busid: string): boolean {
    return this.refusals.get(entry.id)?.has(busid) ?? false;
  }

  private matchingOf(entry: Entry): readonly string[] {
    return this.matching.get(entry.id) ?? [];
  }

  private candidates(entry: Entry): readonly string[] {
    return this.matchingOf(entry).filter((busid) => !this.isRefused(entry, busid));
  }

  /** Whether the device sits where this entry puts it: its guest port, else the port of its position in the file. */
  private isAtHome(entry: Entry, busid: string): boolean {
    const seat = sitsIn(this.view, entry.domain, busid);
    // Where somebody else put it says nothing.
    if (seat?.object.ours !== true || wantsAll(entry)) return false;
    const { guestPort, controller } = entry.device;
    const bus = this.view.authority(entry.domain).live?.controllers.find((live) => live.bus === seat.object.bus);
    return rootPort(seat.object.port) === (guestPort ?? entry.index + 1) && (controller === null || bus?.name === controller);
  }

  /** The entry of a domain that a device in place there was put in for, as far as its port tells. */
  private homeOf(domain: string, busid: string): Entry | null {
    const there = this.view
      .entriesFor(busid)
      .filter((entry) => entry.domain === domain && this.view.holdOn(entry) === null && !this.isRefused(entry, busid))
      .filter((entry) => this.isAtHome(entry, busid));
    return there.find(({ device }) => device.guestPort !== null) ?? there[0] ?? null;
  }

  /** Whether what is attached now is attached for this entry, and not for one that has its turn later. */
  private isAttachedFor(entry: Entry, busid: string): boolean {
    if (sitsIn(this.view, entry.domain, busid) === null) return false;
    const home = this.homeOf(entry.domain, busid);
    return home === null || home === entry || !this.draft(home).open;
  }

  /** Of several in place, the one that this entry should keep. */
  private best(entry: Entry, attached: readonly string[]): string | undefined {
    const score = (busid: string): number => {
      const others = this.view.entriesFor(busid).filter((other) => other.domain === entry.domain).length;
      const ours = sitsIn(this.view, entry.domain, busid)?.object.ours === true;
      return (this.isAtHome(entry, busid) ? 0 : 1_000_000) + others * 2 + (ours ? 0 : 1);
    };
    return [...attached].sort((a, b) => score(a) - score(b) || compareBusids(a, b))[0];
  }

  private win(entry: Entry, busid: string): void {
    this.draft(entry).won.push(busid);
  }

  /** Decides a `count: 1` entry from what it may take now. */
  private settle(entry: Entry, available: readonly string[]): void {
    const draft = this.draft(entry);
    const kept = this.best(
      entry,
      available.filter((busid) => this.isAttachedFor(entry, busid)),
    );
    draft.open = false;
    if (kept !== undefined) this.win(entry, kept);
    else if (available.length === 1 || entry.device.pick === "lowestPort")
      for (const busid of available.slice(0, 1)) this.win(entry, busid);
    else draft.ambiguous = available;
  }

  /** Who may take a device that several domains want at one priority: the one that has it now, else nobody. */
  private preferred(domains: ReadonlySet<string>, busid: string): string | null {
    const [only] = domains;
    if (domains.size === 1) return only ?? null;
    const having = [...domains].sort().flatMap((domain) => {
      const seat = sitsIn(this.view, domain, busid);
      return seat === null ? [] : [{ domain, ours: seat.object.ours }];
    });
    return (having.find(({ ours }) => ours) ?? having[0])?.domain ?? null;
  }

  /** One priority: every domain takes what is surely its own, until nothing moves any more. */
  private level(entries: readonly Entry[]): void {
    const wanted = (entry: Entry): readonly string[] => this.candidates(entry).filter((busid) => !this.wonBy.has(busid));
    const domains = perDomain(entries);
    for (let moved = true; moved; ) {
      moved = false;
      const wanting = new Map<string, Set<string>>();
      for (const entry of entries.filter((candidate) => this.draft(candidate).open)) {
        for (const busid of wanted(entry)) wanting.set(busid, (wanting.get(busid) ?? new Set()).add(entry.domain));
      }
      const owner = new Map([...wanting].map(([busid, names]) => [busid, this.preferred(names, busid)]));
      for (const [domain, claims] of domains) {
        for (const entry of claims) {
          const draft = this.draft(entry);
          if (!draft.open) continue;
          const want = wanted(entry);
          const available = want.filter((busid) => owner.get(busid) === domain);
          if (wantsAll(entry)) {
            for (const busid of available) this.win(entry, busid);
            draft.open = available.length < want.length;
          } else if (available.length > 0 || want.length === 0) this.settle(entry, available);
          for (const busid of draft.won) this.wonBy.set(busid, entry);
          moved ||= available.length > 0 || !draft.open;
        }
      }
    }
    this.noteRivals(
      entries.filter((entry) => this.draft(entry).open),
      wanted,
    );
    for (const entry of entries) this.draft(entry).open = false;
    for (const entry of entries) {
      const draft = this.draft(entry);
      // What was kept free for an entry with a later turn, which has taken another: it is in place, and stays.
      const kept = this.best(
        entry,
        draft.ambiguous.filter((busid) => !this.wonBy.has(busid) && this.isAttachedFor(entry, busid)),
      );
      if (kept === undefined) continue;
      this.win(entry, kept);
      this.wonBy.set(kept, entry);
    }
  }

  /** Whoever still wants something now wants what others want as much. */
  private noteRivals(entries: readonly Entry[], wanted: (entry: Entry) => readonly string[]): void {
    const wanting = new Map<string, Entry[]>();
    for (const entry of entries) {
      for (const busid of wanted(entry)) {
        const known = wanting.get(busid);
        if (known === undefined) wanting.set(busid, [entry]);
        else known.push(entry);
      }
    }
    for (const entry of entries) {
      const { rivals } = this.draft(entry);
      for (const busid of wanted(entry)) {
        const others = (wanting.get(busid) ?? []).filter(({ domain }) => domain !== entry.domain);
        rivals.set(busid, others.slice(0, SHOWN_RIVALS));
      }
    }
  }

  /** What entries of one domain that takes no part would get. */
  private shadow(entries: readonly Entry[]): void {
    const taken = new Set<string>();
    for (const entry of entries) {
      const free = this.candidates(entry).filter((busid) => {
        const winner = this.wonBy.get(busid);
        return (
          !taken.has(busid) && (winner === undefined || (winner.domain !== entry.domain && winner.device.priority < entry.device.priority))
        );
      });
      if (wantsAll(entry)) {
        for (const busid of free) this.win(entry, busid);
        this.draft(entry).open = false;
      } else this.settle(entry, free);
      for (const busid of this.draft(entry).won) taken.add(busid);
    }
  }

  run(): ReadonlyMap<ClaimId, EntryMatch> {
    const acting = this.entries.filter((entry) => this.view.authority(entry.domain).acts && this.view.holdOn(entry) === null);
    for (const priority of new Set(acting.map(({ device }) => device.priority))) {
      this.level(acting.filter(({ device }) => device.priority === priority));
    }
    const taking = new Set(acting);
    for (const [, entries] of perDomain(this.entries.filter((entry) => !taking.has(entry)))) this.shadow(entries);
    return new Map(this.entries.map((entry) => [entry.id, this.result(entry)]));
  }

  private lost(entry: Entry, busid: string): Refusal | null {
    const winner = this.wonBy.get(busid);
    if (winner !== undefined && winner !== entry) {
      const first = winner.device.priority > entry.device.priority;
      const why = first
        ? `priority ${String(winner.device.priority)} before ${String(entry.device.priority)}`
        : winner.domain === entry.domain
          ? "it comes first in the file"
          : "same priority, and it is there now";
      return { busid, kind: "taken", reason: "TakenByClaim", message: `${label(winner)} gets it (${why})` };
    }
    const rivals = this.draft(entry).rivals.get(busid) ?? [];
    if (rivals.length === 0) return null;
    const names = rivals.map(label).join(", ");
    return {
      busid,
      kind: "taken",
      reason: "SamePriority",
      message: `${names} wants it too at the same priority; give one a higher \`priority\``,
    };
  }

  private result(entry: Entry): EntryMatch {
    const { won, ambiguous } = this.draft(entry);
    const held = this.view.holdOn(entry) !== null;
    const matching = this.matchingOf(entry);
    const refused = this.refusals.get(entry.id);
    const rest = matching.filter((busid) => !won.includes(busid));
    const refusals = rest.flatMap((busid) => refused?.get(busid) ?? this.lost(entry, busid) ?? []);
    const free = rest.filter((busid) => !this.isRefused(entry, busid) && !this.wonBy.has(busid));
    return {
      matching,
      won: held ? [] : won,
      ambiguous: won.length > 0 ? [] : ambiguous,
      extras: won.length === 1 && !wantsAll(entry) ? free : [],
      inPlace: this.inPlace(entry, held ? matching : rest),
      refusals,
    };
  }

  private inPlace(entry: Entry, rest: readonly string[]): readonly string[] {
    const there = rest.filter((busid) => sitsIn(this.view, entry.domain, busid) !== null);
    if (wantsAll(entry)) return there;
    const best = this.best(entry, there);
    return best === undefined ? [] : [best, ...there.filter((busid) => busid !== best)];
  }
}

/** @param entries - closed as said above */
export function decide(
  view: View,
  entries: readonly Entry[],
): { readonly matches: ReadonlyMap<ClaimId, EntryMatch>; readonly wonBy: ReadonlyMap<string, Entry> } {
  const contest = new Contest(view, entries);
  return { matches: contest.run(), wonBy: contest.wonBy };
}
