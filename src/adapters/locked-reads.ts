/**
 * Attributes that the kernel guards with the device's lock, by enumeration: within one they cannot change, so they are read once.
 * Measured on the testbed: right after the node appeared a read of `serial` waits 12–14 ms for the drivers' probing; a driver that hangs holds it
 * for seconds. So such reads go through threads, two at most, and whoever needs one is told when it is there.
 */
import type { LockedReading } from "../protocol/sysfs-usb.ts";
import type { Found, SysfsReader } from "./sysfs-reader.ts";

export type LockedReads = {
  /** `last`: what can be had without the lock, if nothing else is there yet. null: an answer is on its way, `onAnswer` tells. */
  get(place: Found, instance: string, last: boolean): LockedReading | null;
  /**
   * Whether a device that has no answer yet deserves more time: its turn came, or the queue before it moved, since this was last asked.
   * The bound of settling is for the kernel, not for our own queue.
   */
  moved(busid: string): boolean;
  /** It was not all there yet: the next call reads again. */
  refresh(busid: string): void;
  /** Forgets what was read: the device left. */
  drop(busid: string): void;
  close(): void;
};

/** Threads that may wait for the kernel at a time, of the four that the process has. */
const READERS = 2;

/** Where sysfs is not the kernel's own nobody waits, and everything is read at once and afresh. */
export function createLockedReads(reader: SysfsReader, onAnswer: (busid: string) => void): LockedReads {
  const answers = new Map<string, { readonly instance: string; readonly reading: LockedReading; fresh: boolean }>();
  const queue = new Map<string, { readonly place: Found; readonly instance: string }>();
  const reading = new Set<string>();
  /** Reads begun so far; by busid: what it was when its own began, and when it was last asked about. */
  let begun = 0;
  const turns = new Map<string, number>();
  const asked = new Map<string, number>();
  let closed = false;

  const next = (): void => {
    for (const [busid, { place, instance }] of queue) {
      if (closed || reading.size >= READERS) return;
      if (reading.has(busid)) continue;
      queue.delete(busid);
      reading.add(busid);
      begun += 1;
      turns.set(busid, begun);
      void reader.lockedLater(place).then((answer) => {
        reading.delete(busid);
        if (closed) return;
        // It counts for the enumeration that was asked about, if that is still the one.
        if (reader.instance(place) === instance) {
          answers.set(busid, { instance, reading: answer, fresh: true });
          queue.delete(busid);
        }
        onAnswer(busid);
        next();
      });
    }
  };

  return {
    get: (place, instance, last) => {
      if (!reader.mayWait) return reader.locked(place);
      const have = answers.get(place.busid);
      const same = have?.instance === instance ? have : null;
      if (same?.fresh === true) return same.reading;
      queue.set(place.busid, { place, instance });
      next();
      return last ? (same?.reading ?? reader.unlocked(place)) : null;
    },
    moved: (busid) => {
      const before = asked.get(busid) ?? 0;
      if (!reading.has(busid) && !queue.has(busid)) return false;
      asked.set(busid, begun);
      return (reading.has(busid) ? (turns.get(busid) ?? 0) : begun) > before;
    },
    refresh: (busid) => {
      const have = answers.get(busid);
      if (have !== undefined) have.fresh = false;
    },
    drop: (busid) => {
      answers.delete(busid);
      queue.delete(busid);
      asked.delete(busid);
      if (!reading.has(busid)) turns.delete(busid);
    },
    close: () => {
      closed = true;
    },
  };
}
