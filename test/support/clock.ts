/** A clock whose time passes only when told to, through chains of timers that set timers. */
import type { Clock } from "../../src/model/contracts.ts";

export class SimulatedTime implements Clock {
  #now: number;
  #next = 1;
  readonly #timers = new Map<number, { readonly at: number; readonly fn: (...args: unknown[]) => void }>();

  /** @param start - ms since 1970 */
  constructor(start = 1_700_000_000_000) {
    this.#now = start;
  }

  now(): number {
    return this.#now;
  }

  setTimeout(fn: (...args: unknown[]) => void, ms: number): unknown {
    const id = this.#next;
    this.#next += 1;
    this.#timers.set(id, { at: this.#now + Math.max(0, ms), fn });
    return id;
  }

  clearTimeout(handle: unknown): void {
    this.#timers.delete(handle as number);
  }

  /** How many timers are set. */
  get waiting(): number {
    return this.#timers.size;
  }

  /** Lets time pass, timer by timer, those that are set on the way included. */
  advance(ms: number): void {
    const until = this.#now + ms;
    for (;;) {
      const [id, due] = [...this.#timers].filter(([, { at }]) => at <= until).sort(([a, x], [b, y]) => x.at - y.at || a - b)[0] ?? [];
      if (id === undefined || due === undefined) break;
      this.#timers.delete(id);
      this.#now = Math.max(this.#now, due.at);
      due.fn();
    }
    this.#now = until;
  }
}
