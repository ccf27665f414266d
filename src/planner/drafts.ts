/** Claims of one live domain before they have a place: which device each is about, and which object there holds it. */
import type { HostDevice } from "../model/hostdev.ts";
import { type ClaimId, claimId } from "../model/world.ts";
import type { EntryMatch } from "./match.ts";
import { type Refusal, sitsIn } from "./refuse.ts";
import type { Seat } from "./seats.ts";
import type { Entry, View } from "./view.ts";

export type Draft = {
  readonly id: ClaimId;
  readonly entry: Entry;
  /** Where `count: all`. */
  readonly busid: string | null;
  /** Position that its port follows from. */
  readonly index: number;
  readonly match: EntryMatch;
  /** The device that it gets (or would get), or the one that it is about; null: none or several. */
  readonly device: HostDevice | null;
  readonly won: boolean;
  /** Where several may be meant. */
  readonly candidates: readonly HostDevice[];
  /** Why it goes without; empty if it has won, or nothing matches. */
  readonly refusals: readonly Refusal[];
  owned: Seat | null;
};

function draftsOf(view: View, entry: Entry, match: EntryMatch, firstIndex: number): readonly Draft[] {
  const candidates = match.ambiguous.map((busid) => view.device(busid));
  if (entry.device.count === "all" && match.matching.length > 0) {
    return match.matching.map((busid, i) => ({
      id: claimId(entry.domain, entry.device.name, busid),
      entry,
      busid,
      index: firstIndex + i,
      match,
      device: view.device(busid),
      won: match.won.includes(busid),
      candidates,
      refusals: match.refusals.filter((refusal) => refusal.busid === busid),
      owned: null,
    }));
  }
  const [won] = match.won;
  const about = won ?? match.inPlace[0] ?? (match.matching.length === 1 ? match.matching[0] : undefined);
  return [
    {
      id: entry.id,
      entry,
      busid: null,
      index: entry.index,
      match,
      device: about === undefined ? null : view.device(about),
      won: won !== undefined,
      candidates,
      refusals: won === undefined ? match.refusals : [],
      owned: null,
    },
  ];
}

/**
 * Gives each object in the domain to at most one claim: what is won first, then what sits there and is not won. The objects that nobody
 * owns are left over.
 */
function own(view: View, drafts: readonly Draft[], owned: Set<string>): void {
  for (const won of [true, false]) {
    for (const draft of drafts) {
      if (draft.won !== won || draft.device === null) continue;
      const seat = sitsIn(view, draft.entry.domain, draft.device.busid);
      if (seat === null || owned.has(seat.object.path)) continue;
      draft.owned = seat;
      owned.add(seat.object.path);
    }
  }
}

/** @param owned - paths of the objects in its live domain that have an owner; what its claims own is added */
export function draftClaims(view: View, domain: string, matchOf: (entry: Entry) => EntryMatch, owned: Set<string>): readonly Draft[] {
  const entries = view.entries(domain);
  let next = entries.length;
  const drafts = entries.flatMap((entry) => {
    const made = draftsOf(view, entry, matchOf(entry), next);
    if (entry.device.count === "all") next += made.length;
    return made;
  });
  own(view, drafts, owned);
  return drafts;
}
