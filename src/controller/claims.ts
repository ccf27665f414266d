/**
 * One machine a claim, and one an object that no claim owns, while there is something to do: spawned when the plan and what is in place
 * differ, dropped when they agree again. A claim at rest is its plan alone, so thousands of settled claims cost nothing but their values.
 */
import { type Actor, createActor, fromPromise } from "xstate";
import { type AttachInput, backoffCeilingMs, claimMachine, type DetachInput, fulfils } from "../machines/claim.ts";
import type { Attached, Outcome, Place } from "../model/action.ts";
import type { Clock, Random } from "../model/contracts.ts";
import type { DomainKey } from "../model/domain.ts";
import type { Timings } from "../model/timings.ts";
import type { Target } from "../model/world.ts";

/** What a machine can be asked about. `at rest`: there is none. */
export type Progress = {
  readonly state: "attaching" | "detaching" | "backoff" | "stalled";
  readonly reason: string | null;
  readonly message: string | null;
  readonly step: string | null;
  readonly failures: number;
  /** Wall clock, ms; null unless in backoff. */
  readonly nextTryAt: number | null;
};

export type Runner = {
  /** Tells the machine of `id` (a claim's or an orphan's) where its device should be and what was seen; makes one only if the two differ. */
  plan(id: string, live: DomainKey | null, target: Target, owned: Attached | null): void;
  /** Something that it may have waited for has changed. */
  nudge(id: string): void;
  /** A person says: try again, whatever it was. */
  retry(id: string): void;
  progress(id: string): Progress | null;
  /** Whether we ourselves are moving it: then a disappearance is ours. */
  isActing(id: string): boolean;
  forget(id: string): void;
  stop(): void;
};

type Machine = typeof claimMachine;
/** `step`: how far the action that is under way says it is. */
type Entry = { readonly actor: Actor<Machine>; readonly live: DomainKey; step: string | null };

export function createRunner(deps: {
  readonly clock: Clock;
  readonly random: Random;
  readonly timings: Timings;
  readonly attach: (id: string, place: Place, signal: AbortSignal, onStep: (step: string) => void) => Promise<Outcome>;
  readonly detach: (id: string, at: Attached, signal: AbortSignal, onStep: (step: string) => void) => Promise<Outcome>;
  /** The machine of `id` moved on, or came to rest. */
  readonly onProgress: (id: string) => void;
}): Runner {
  const { clock, random, timings } = deps;
  const entries = new Map<string, Entry>();
  const nextTries = new Map<string, number>();

  const machine = claimMachine.provide({
    actors: {
      attach: fromPromise<Outcome, AttachInput>(({ input, signal }) =>
        deps.attach(input.id, input.place, signal, stepsOf(input.id, signal)),
      ),
      detach: fromPromise<Outcome, DetachInput>(({ input, signal }) => deps.detach(input.id, input.at, signal, stepsOf(input.id, signal))),
    },
    delays: {
      backoff: ({ context }) => {
        const waitMs = random() * backoffCeilingMs(context.failures, timings);
        nextTries.set(context.id, clock.now() + waitMs);
        return waitMs;
      },
    },
  });

  /** Kept beside the machine: how far an action is decides nothing. */
  const stepsOf = (id: string, signal: AbortSignal): ((step: string) => void) => {
    const entry = entries.get(id);
    if (entry !== undefined) entry.step = null;
    return (step) => {
      if (entry === undefined || signal.aborted || entries.get(id) !== entry) return;
      entry.step = step;
      deps.onProgress(id);
    };
  };

  const drop = (id: string): void => {
    const entry = entries.get(id);
    if (entry === undefined) return;
    entries.delete(id);
    nextTries.delete(id);
    entry.actor.stop();
  };

  const spawn = (id: string, live: DomainKey, target: Target, owned: Attached | null): void => {
    const actor = createActor(machine, { input: { id, timings, at: owned, target }, clock });
    const entry: Entry = { actor, live, step: null };
    entries.set(id, entry);
    actor.subscribe((snapshot) => {
      if (entries.get(id) !== entry) return;
      if (snapshot.value !== "backoff") nextTries.delete(id);
      // At rest, and not only in passing: the plan that it was told is what is in place.
      if ((snapshot.value === "attached" || snapshot.value === "detached") && snapshot.context.target !== "stay") drop(id);
      deps.onProgress(id);
    });
    actor.start();
  };

  return {
    plan(id, live, target, owned) {
      const known = entries.get(id);
      if (live === null || (known !== undefined && known.live !== live)) drop(id);
      if (live === null) return;
      const entry = entries.get(id);
      if (entry !== undefined) entry.actor.send({ type: "PLAN", target, owned });
      else if (!fulfils(owned, target)) spawn(id, live, target, owned);
      const after = entries.get(id);
      if (after !== undefined && target === "stay" && !isActing(after)) drop(id);
    },
    nudge(id) {
      entries.get(id)?.actor.send({ type: "NUDGE" });
    },
    retry(id) {
      entries.get(id)?.actor.send({ type: "RETRY" });
    },
    progress(id) {
      const entry = entries.get(id);
      if (entry === undefined) return null;
      const { value, context } = entry.actor.getSnapshot();
      if (value !== "attaching" && value !== "detaching" && value !== "backoff" && value !== "stalled") return null;
      return {
        state: value,
        reason: context.problem?.reason ?? null,
        message: context.problem?.message ?? null,
        step: value === "attaching" || value === "detaching" ? entry.step : null,
        failures: context.failures,
        nextTryAt: nextTries.get(id) ?? null,
      };
    },
    isActing(id) {
      const entry = entries.get(id);
      return entry !== undefined && isActing(entry);
    },
    forget: drop,
    stop() {
      for (const id of [...entries.keys()]) drop(id);
    },
  };
}

const isActing = ({ actor }: Entry): boolean => {
  const { value } = actor.getSnapshot();
  return value === "attaching" || value === "detaching";
};
