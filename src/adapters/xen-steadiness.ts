/** How long what was seen has stayed as it is; asks for another look when something will have stayed long enough. */
import type { Clock } from "../model/contracts.ts";
import type { Timings } from "../model/timings.ts";

export type Steadiness = {
  /** A look begins: what is not asked for until it finishes is forgotten. */
  begin(): void;
  /** Whether `key` has been in this state for so long; if not, there will be a look then. */
  isSteady(key: string, state: string, ms: number): boolean;
  /** @param held - what could have been judged must wait for somebody else: look again soon */
  finish(held: boolean): void;
  stop(): void;
};

export function createSteadiness(clock: Clock, timings: Pick<Timings, "recordSettleMs">, look: () => void): Steadiness {
  let seen = new Map<string, { readonly state: string; readonly since: number }>();
  let asked = new Map<string, { readonly state: string; readonly since: number }>();
  let next: number | null = null;
  let timer: unknown = null;
  return {
    begin() {
      asked = new Map();
      next = null;
    },
    isSteady(key, state, ms) {
      const known = seen.get(key);
      const now = clock.now();
      const since = known?.state === state ? known.since : now;
      asked.set(key, { state, since });
      const due = since + ms;
      if (now >= due) return true;
      next = Math.min(next ?? due, due);
      return false;
    },
    finish(held) {
      seen = asked;
      const due = held ? clock.now() + timings.recordSettleMs : next;
      clock.clearTimeout(timer);
      // Timers may ring a fraction early.
      timer = due === null ? null : clock.setTimeout(look, Math.max(0, due - clock.now()) + 1);
    },
    stop: () => clock.clearTimeout(timer),
  };
}
