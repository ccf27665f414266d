/** Looks again after 1, 2, 4 … ms, for a bounded time in all, by key. */
import type { Clock } from "../model/contracts.ts";

export type Settling = {
  /** Calls `fn` once, later; a call that is already due stays as it is. */
  again(key: string, fn: () => void): void;
  /** Whether the key has had its whole time: it is taken as it is now. */
  isOver(key: string): boolean;
  /** Gives the key its whole time once more. */
  more(key: string): void;
  /** The key needs no more looks. */
  end(key: string): void;
  /** Resolves once every key that is settling now has ended. */
  idle(): Promise<void>;
  close(): void;
};

export function createSettling(clock: Clock, boundMs: number): Settling {
  const keys = new Map<string, { waitedMs: number; nextMs: number; timer: unknown }>();
  const waiters = new Set<{ readonly left: Set<string>; readonly resolve: () => void }>();
  const ended = (key: string): void => {
    keys.delete(key);
    for (const waiter of waiters) {
      waiter.left.delete(key);
      if (waiter.left.size === 0 && waiters.delete(waiter)) waiter.resolve();
    }
  };
  return {
    again: (key, fn) => {
      const state = keys.get(key) ?? { waitedMs: 0, nextMs: 1, timer: null };
      keys.set(key, state);
      if (state.timer !== null) return;
      const ms = Math.min(state.nextMs, boundMs - state.waitedMs);
      state.timer = clock.setTimeout(() => {
        state.timer = null;
        state.waitedMs += ms;
        state.nextMs *= 2;
        fn();
      }, ms);
    },
    isOver: (key) => (keys.get(key)?.waitedMs ?? 0) >= boundMs,
    more: (key) => {
      const state = keys.get(key);
      if (state === undefined) return;
      state.waitedMs = 0;
      state.nextMs = 1;
    },
    end: (key) => {
      const state = keys.get(key);
      if (state === undefined) return;
      if (state.timer !== null) clock.clearTimeout(state.timer);
      ended(key);
    },
    idle: () => (keys.size === 0 ? Promise.resolve() : new Promise((resolve) => void waiters.add({ left: new Set(keys.keys()), resolve }))),
    close: () => {
      for (const { timer } of keys.values()) if (timer !== null) clock.clearTimeout(timer);
      for (const key of [...keys.keys()]) ended(key);
    },
  };
}
