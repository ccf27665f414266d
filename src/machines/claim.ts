/**
 * Life of one claim (or of one object that no claim owns): what is attached for it, what should be, what is under way.
 * Table of record: specs/machines/claim.yaml. Says how and when; where is the planner's word.
 */
import { assign, fromPromise, setup } from "xstate";
import type { ActionError, Attached, Outcome, Place } from "../model/action.ts";
import { instanceOf } from "../model/hostdev.ts";
import { err } from "../model/result.ts";
import type { Timings } from "../model/timings.ts";
import type { Target } from "../model/world.ts";

/**
 * PLAN: where it should be and what was seen in place for it. The same again is no news and cuts no backoff short.
 * NUDGE: something that it may have waited for has changed: try now. RETRY: a person says so: also out of `stalled`.
 */
export type ClaimEvent =
  | { readonly type: "PLAN"; readonly target: Target; readonly owned: Attached | null }
  | { readonly type: "NUDGE" }
  | { readonly type: "RETRY" };

export type ClaimInput = {
  /** Handed on to the actions, so that they can tell whose they are. */
  readonly id: string;
  readonly timings: Timings;
  /** What was seen in place at the start. */
  readonly at: Attached | null;
  /** Left out: until told otherwise a device stays where it was found. */
  readonly target?: Target;
};
export type ClaimContext = ClaimInput & {
  /** The newest observation; differs from `at` only while an action is under way. */
  readonly seen: Attached | null;
  readonly target: Target;
  /** Actions that failed in a row since the target last changed. */
  readonly failures: number;
  readonly problem: ActionError | null;
  /** The target changed while the action was under way: its failure says nothing about the new one. */
  readonly stale: boolean;
};

export type AttachInput = { readonly id: string; readonly place: Place };
export type DetachInput = { readonly id: string; readonly at: Attached };

const TIMED_OUT = err({ kind: "transient", reason: "TimedOut", message: "The action did not end in time; it is tried again." } as const);

const NOT_SEEN = err({
  kind: "transient",
  reason: "NotSeen",
  message: "It was accepted, but is not seen in the domain; it is tried again.",
} as const);

/** Upper end of the wait before the next try, in ms; the app draws below it (full jitter). */
export const backoffCeilingMs = (failures: number, t: Timings): number =>
  Math.min(t.backoffBaseMs * 2 ** Math.min(30, Math.max(0, failures - 1)), t.backoffMaxMs);

/** Whether what is in place is what the target asks for. */
export const fulfils = (at: Attached | null, target: Target): boolean => {
  if (target === "stay") return true;
  if (target === null || at === null) return target === at;
  return at.domain === target.domain && at.bus === target.bus && at.port === target.port && at.instance === instanceOf(target.device);
};

const sameTarget = (a: Target, b: Target): boolean =>
  a === b ||
  (a !== null &&
    b !== null &&
    a !== "stay" &&
    b !== "stay" &&
    a.domain === b.domain &&
    a.bus === b.bus &&
    a.port === b.port &&
    instanceOf(a.device) === instanceOf(b.device));
const sameAttached = (a: Attached | null, b: Attached | null): boolean =>
  a === b ||
  (a !== null &&
    b !== null &&
    a.path === b.path &&
    a.bus === b.bus &&
    a.port === b.port &&
    a.instance === b.instance &&
    a.domain === b.domain);

/** Stands in for an injected actor. Actors always resolve, to an Outcome; a rejection is a bug and stalls the claim. */
const notProvided = (): Promise<Outcome> => Promise.reject(new Error("actor not provided"));

export const claimMachine = setup({
  types: { context: {} as ClaimContext, input: {} as ClaimInput, events: {} as ClaimEvent },
  actors: {
    attach: fromPromise<Outcome, AttachInput>(notProvided),
    detach: fromPromise<Outcome, DetachInput>(notProvided),
  },
  delays: {
    action: ({ context }) => context.timings.actionMs,
    backoff: ({ context }) => backoffCeilingMs(context.failures, context.timings),
  },
  guards: {
    news: ({ context }, plan: { target: Target; owned: Attached | null }) =>
      !sameTarget(plan.target, context.target) || !sameAttached(plan.owned, context.at),
    fulfilled: ({ context }) => fulfils(context.at, context.target),
    placed: ({ context }) => context.at !== null,
    failed: ({ context }) => context.problem !== null,
    // A device that QEMU finds but cannot open is a person's matter after some tries (product.md §4).
    hopeless: ({ context }) =>
      context.problem?.kind === "terminal" || (context.problem?.reason === "OpenRefused" && context.failures >= context.timings.openTries),
  },
  actions: {
    replan: assign(({ context }, plan: { target: Target; owned: Attached | null }) => ({
      target: plan.target,
      seen: plan.owned,
      ...(sameTarget(plan.target, context.target) ? {} : { failures: 0, problem: null, stale: true }),
    })),
    catchUp: assign(({ context }) => ({ at: context.seen, problem: null })),
    record: assign(({ context }, outcome: Outcome) =>
      outcome.ok
        ? { at: outcome.value, seen: outcome.value, failures: 0, problem: null }
        : context.stale
          ? { at: context.seen }
          : { at: context.seen, failures: context.failures + 1, problem: outcome.error },
    ),
    forgive: assign({ problem: null }),
    forget: assign({ problem: null, failures: 0 }),
    begin: assign({ stale: false }),
  },
}).createMachine({
  id: "claim",
  context: ({ input: { target = "stay", ...input } }) => ({ ...input, target, seen: input.at, failures: 0, problem: null, stale: false }),
  initial: "settle",
  on: {
    PLAN: [
      {
        guard: { type: "news", params: ({ event }) => event },
        target: ".settle",
        actions: [{ type: "replan", params: ({ event }) => event }, "catchUp"],
      },
    ],
  },
  states: {
    // Left at once: goes on from where the device is, not from where it was going.
    settle: {
      always: [
        { guard: ({ context }) => fulfils(context.at, context.target) && context.at !== null, target: "attached", actions: "forget" },
        { guard: "fulfilled", target: "detached", actions: "forget" },
        { guard: "hopeless", target: "stalled" },
        { guard: "failed", target: "backoff" },
        { guard: "placed", target: "detaching" },
        { target: "attaching" },
      ],
    },
    detached: {},
    attached: {},
    attaching: {
      entry: "begin",
      invoke: {
        id: "attach",
        src: "attach",
        input: ({ context }) => ({ id: context.id, place: placeOf(context.target) }),
        onDone: {
          target: "settle",
          actions: { type: "record", params: ({ event: { output } }) => (output.ok && output.value === null ? NOT_SEEN : output) },
        },
        onError: { target: "settle", actions: { type: "record", params: ({ event }) => bug(event.error) } },
      },
      on: { PLAN: { actions: { type: "replan", params: ({ event }) => event } } },
      after: { action: { target: "settle", actions: { type: "record", params: TIMED_OUT } } },
    },
    detaching: {
      entry: "begin",
      invoke: {
        id: "detach",
        src: "detach",
        input: ({ context }) => ({ id: context.id, at: attachedOf(context.at) }),
        onDone: { target: "settle", actions: { type: "record", params: ({ event }) => event.output } },
        onError: { target: "settle", actions: { type: "record", params: ({ event }) => bug(event.error) } },
      },
      on: { PLAN: { actions: { type: "replan", params: ({ event }) => event } } },
      after: { action: { target: "settle", actions: { type: "record", params: TIMED_OUT } } },
    },
    backoff: {
      after: { backoff: { target: "settle", actions: "forgive" } },
      on: { NUDGE: { target: "settle", actions: "forgive" }, RETRY: { target: "settle", actions: "forget" } },
    },
    stalled: { on: { RETRY: { target: "settle", actions: "forget" } } },
  },
});

const bug = (cause: unknown): Outcome =>
  err({ kind: "terminal", reason: "InternalError", message: `A bug of plugherd: ${String(cause)}. Please report it.` });
function placeOf(target: Target): Place {
  if (target === null || target === "stay") throw new Error("attaching without a place");
  return target;
}
function attachedOf(at: Attached | null): Attached {
  if (at === null) throw new Error("detaching nothing");
  return at;
}
