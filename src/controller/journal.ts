/** The last decisions and events, numbered; feeds `events` and the live API. Bounded; oldest out first. */
import type { Clock } from "../model/contracts.ts";
import type { JournalEntry } from "./view.ts";

export type Journal = {
  add(entry: Omit<JournalEntry, "seq" | "time">): JournalEntry;
  /** Newest last, `limit` at most. A filter that is left out lets everything through. */
  list(filter: {
    readonly domain?: string | undefined;
    readonly device?: string | undefined;
    readonly limit?: number | undefined;
  }): readonly JournalEntry[];
};

const MOST_ENTRIES = 5_000;
const DEFAULT_LIMIT = 200;

export function createJournal(clock: Clock): Journal {
  const entries: JournalEntry[] = [];
  let seq = 0;
  return {
    add(entry) {
      seq += 1;
      const made = { ...entry, seq, time: new Date(clock.now()).toISOString() };
      entries.push(made);
      // Dropped in blocks: shifting an array at every entry would cost its whole length.
      if (entries.length > MOST_ENTRIES * 1.1) entries.splice(0, entries.length - MOST_ENTRIES);
      return made;
    },
    list({ domain, device, limit }) {
      const found: JournalEntry[] = [];
      for (let i = entries.length - 1; i >= 0 && found.length < (limit ?? DEFAULT_LIMIT); i -= 1) {
        const entry = entries[i];
        if (entry === undefined || (domain !== undefined && entry.domain !== domain) || (device !== undefined && entry.device !== device))
          continue;
        found.push(entry);
      }
      return found.reverse();
    },
  };
}
