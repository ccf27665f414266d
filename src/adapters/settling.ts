/** Looks again after 1, 2, 4 … ms, for a bounded time in all, by key. */
import type { Clock } from "../model/contracts.ts";

export type Settling = {
  /** Calls `fn` once, later; a call that is already due stays as it is. */
  again(key: string, fn: () => void): void;
  /** Calls `fn` when the key's time is over; {@link again} comes before that. */
  atEnd(key: string, fn: () => void): void;
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

type State = { waitedMs: number; nextMs: number; timer: unknown; final: boolean };

export function createSettling(clock: Clock, boundMs: number): Settling {
  const keys = new Map<string, State>();
  const waiters = new Set<{ readonly left: Set<string>; readonly resolve: () => void }>();
  const ended = (key: string): void => {
    keys.delete(key);
    for (const waiter of waiters) {
      waiter.left.delete(key);
      if (waiter.left.size === 0 && waiters.delete(waiter)) waiter.resolve();
    }
  };
  const stateOf = (key: string): State => {
    const state = keys.get(key) ?? { waitedMs: 0, nextMs: 1, timer: null, final: false };
    keys.set(key, state);
    return state;
  };
  const wait = (state: State, ms: number, fn: () => void, final: boolean): void => {
    state.final = final;
    state.timer = clock.setTimeout(() => {
      state.timer = null;
      state.waitedMs += ms;
      fn();
    }, ms);
  };
  return {
    again: (key, fn) => {
      const state = stateOf(key);
      if (state.timer !== null && !state.final) return;
      if (state.timer !== null) clock.clearTimeout(state.timer);
      wait(state, Math.min(state.nextMs, boundMs - state.waitedMs), fn, false);
      state.nextMs *= 2;
    },
    atEnd: (key, fn) => {
      const state = stateOf(key);
      if (state.timer === null) wait(state, boundMs - state.waitedMs, fn, true);
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
