/** Looks again when told to: one look at a time, and what is asked for meanwhile is one more look. */
import type { Clock } from "../model/contracts.ts";

export type Looker = {
  now(): void;
  /** Not before this time (clock.now()); the earliest of several counts, and each look asks anew for what it still waits for. */
  at(time: number): void;
  stop(): void;
};

export function createLooker(clock: Clock, look: () => Promise<void>): Looker {
  let again = false;
  let running = false;
  let stopped = false;
  let timer: { readonly time: number; readonly handle: unknown } | null = null;

  const now = (): void => {
    again = true;
    if (running || stopped) return;
    running = true;
    void (async () => {
      while (again && !stopped) {
        again = false;
        await look();
      }
      running = false;
    })();
  };
  return {
    now,
    at(time) {
      if (stopped || (timer !== null && timer.time <= time)) return;
      if (timer !== null) clock.clearTimeout(timer.handle);
      const ring = (): void => {
        timer = null;
        now();
      };
      // Timers may ring a fraction early.
      timer = { time, handle: clock.setTimeout(ring, Math.max(0, time - clock.now()) + 1) };
    },
    stop() {
      stopped = true;
      if (timer !== null) clock.clearTimeout(timer.handle);
      timer = null;
    },
  };
}
