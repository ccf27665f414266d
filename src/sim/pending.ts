/** Timers of one owner, which end together with it: what a simulated part still meant to do is not done after its end. */
import type { SimTimers } from "./qemu.ts";

export type Pending = {
  /** @returns cancels it */
  after(ms: number, run: () => void): () => void;
  /** @returns asks for one run: any number of calls until it begins are one. */
  once(ms: number, run: () => void): () => void;
  /** Never settles once the owner has ended. */
  wait(ms: number): Promise<void>;
  end(): void;
};

export const realTimers: SimTimers = {
  setTimeout: (run, ms) => setTimeout(run, ms),
  clearTimeout: (timer) => clearTimeout(timer as NodeJS.Timeout),
};

export function createPending(timers: SimTimers = realTimers): Pending {
  const open = new Set<unknown>();
  let ended = false;
  const after = (ms: number, run: () => void): (() => void) => {
    if (ended) return () => undefined;
    const timer = timers.setTimeout(() => {
      open.delete(timer);
      run();
    }, ms);
    open.add(timer);
    return () => {
      open.delete(timer);
      timers.clearTimeout(timer);
    };
  };
  return {
    after,
    once(ms, run) {
      let asked = false;
      return () => {
        if (asked) return;
        asked = true;
        after(ms, () => {
          asked = false;
          run();
        });
      };
    },
    wait: (ms) => new Promise((resolve) => void after(ms, resolve)),
    end() {
      ended = true;
      for (const timer of open) timers.clearTimeout(timer);
      open.clear();
    },
  };
}
