/**
 * Life of one peer behind a socket: connecting, negotiating, ready, and the waits between. Knows no protocol. A peer that nobody answers for is
 * asked by a timer only while its backoff grows; then it is dormant and costs nothing until something is new.
 * Table of record: specs/machines/connection.yaml.
 */
import { assign, fromPromise, setup } from "xstate";
import type { Random } from "../model/contracts.ts";
import { err, type Result } from "../model/result.ts";
import type { Timings } from "../model/timings.ts";

/**
 * Why there is no session. absent: nothing there. dead: something left behind, nobody answers for it. busy: somebody else holds the peer.
 * closed: there was a session and it ended. bug: an actor rejected. failed: all else.
 */
export type PeerProblem = { readonly kind: "absent" | "dead" | "busy" | "failed" | "closed" | "bug"; readonly message: string };
/** A transport or a session, as its adapter makes it; the machine only hands it on. */
export type Made = Result<unknown, PeerProblem>;

/**
 * NUDGE: something is new where the peer is: try at once, and count failures afresh. AUDIT: nothing is known to be new; worth one try where
 * nothing else tries. RETIRE: no new connection; one that is made or under way lives until it ends. STOP: for good; what is open is closed.
 */
export type ConnectionEvent =
  | { readonly type: "NUDGE" }
  | { readonly type: "AUDIT" }
  | { readonly type: "RETIRE" }
  | { readonly type: "STOP" };
export type ConnectionInput = {
  /** Whom it is about: handed on to the actors, so that many peers share one machine. */
  readonly peer: unknown;
  readonly timings: Pick<Timings, "connectMs" | "greetingMs" | "commandMs" | "reconnectBaseMs" | "reconnectMaxMs">;
};
export type ConnectionContext = ConnectionInput & {
  /** Tries in a row that led to no session that lasted. */
  readonly failures: number;
  /** Why there is no session now; kept while the next try is under way, null once ready. */
  readonly problem: PeerProblem | null;
  /** While negotiating. */
  readonly transport: unknown;
  /** While ready. */
  readonly session: unknown;
  readonly retired: boolean;
};
export type ConnectInput = { readonly peer: unknown };
export type NegotiateInput = { readonly peer: unknown; readonly transport: unknown };
export type WatchInput = { readonly peer: unknown; readonly session: unknown };

/** Upper end of the wait before the next try, in ms: doubles with each failure. */
export const reconnectCeilingMs = (failures: number, t: ConnectionInput["timings"]): number =>
  Math.min(t.reconnectBaseMs * 2 ** Math.min(30, Math.max(0, failures - 1)), t.reconnectMaxMs);

/** Delays to provide where it runs for real: full jitter, so that a thousand peers that fell silent together do not come back together. */
export const jitteredReconnect = (random: Random) => ({
  retry: ({ context }: { readonly context: ConnectionContext }): number => random() * reconnectCeilingMs(context.failures, context.timings),
});

/**
 * Stand in for the injected actors. All resolve; a rejection is a bug and counts as a failure. When the actor's signal aborts (its state was
 * left), it closes what it has opened or was given. `watch` resolves with the reason when the session ends, and closes it when aborted.
 */
const notProvided = (): Promise<never> => Promise.reject(new Error("actor not provided"));
const noTransport: Made = err({ kind: "failed", message: "took no connection in time" });
const noSession: Made = err({ kind: "failed", message: "did not finish negotiating in time" });

export const connectionMachine = setup({
  types: { context: {} as ConnectionContext, input: {} as ConnectionInput, events: {} as ConnectionEvent },
  actors: {
    connect: fromPromise<Made, ConnectInput>(notProvided),
    negotiate: fromPromise<Made, NegotiateInput>(notProvided),
    watch: fromPromise<string, WatchInput>(notProvided),
  },
  delays: {
    connect: ({ context }) => context.timings.connectMs,
    // The adapter tells of a missing greeting itself, after greetingMs; this ends what it should fail to end.
    negotiate: ({ context }) => context.timings.greetingMs + context.timings.commandMs,
    retry: ({ context }) => reconnectCeilingMs(context.failures, context.timings),
    // A session that ends sooner than this counts as one more failure: a peer that takes and drops us is not asked in a tight loop.
    lasting: ({ context }) => context.timings.reconnectMaxMs,
  },
  guards: {
    made: (_, made: Made) => made.ok,
    busy: (_, made: Made) => !made.ok && made.error.kind === "busy",
    // Nobody is there, and has not been for as long as the backoff took to reach its ceiling: longer than it takes from bind to listen.
    deserted: ({ context }, made: Made) =>
      !made.ok &&
      (made.error.kind === "absent" || made.error.kind === "dead") &&
      reconnectCeilingMs(context.failures + 1, context.timings) >= context.timings.reconnectMaxMs,
    retired: ({ context }) => context.retired,
  },
  actions: {
    keepTransport: assign({ transport: (_, made: Made) => (made.ok ? made.value : null) }),
    keepSession: assign({ session: (_, made: Made) => (made.ok ? made.value : null), transport: null, problem: null }),
    fail: assign(({ context }, made: Made) => ({
      failures: context.failures + 1,
      problem: made.ok ? null : made.error,
      transport: null,
      session: null,
    })),
    forget: assign({ failures: 0 }),
    retire: assign({ retired: true }),
  },
}).createMachine({
  id: "connection",
  context: ({ input }) => ({ ...input, failures: 0, problem: null, transport: null, session: null, retired: false }),
  initial: "connecting",
  on: { STOP: { target: ".stopped" }, RETIRE: { actions: "retire" } },
  states: {
    connecting: {
      invoke: {
        id: "connect",
        src: "connect",
        input: ({ context: { peer } }) => ({ peer }),
        onDone: [
          {
            guard: { type: "made", params: ({ event }) => event.output },
            target: "negotiating",
            actions: { type: "keepTransport", params: ({ event }) => event.output },
          },
          {
            guard: { type: "busy", params: ({ event }) => event.output },
            target: "busy",
            actions: { type: "fail", params: ({ event }) => event.output },
          },
          {
            guard: { type: "deserted", params: ({ event }) => event.output },
            target: "dormant",
            actions: { type: "fail", params: ({ event }) => event.output },
          },
          { target: "backoff", actions: { type: "fail", params: ({ event }) => event.output } },
        ],
        onError: { target: "backoff", actions: { type: "fail", params: ({ event }) => bug(event.error) } },
      },
      after: { connect: { target: "backoff", actions: { type: "fail", params: noTransport } } },
      on: { NUDGE: { actions: "forget" } }, // it may have been tried a moment too early: the next try is soon
    },
    negotiating: {
      invoke: {
        id: "negotiate",
        src: "negotiate",
        input: ({ context: { peer, transport } }) => ({ peer, transport }),
        onDone: [
          {
            guard: { type: "made", params: ({ event }) => event.output },
            target: "ready",
            actions: { type: "keepSession", params: ({ event }) => event.output },
          },
          {
            guard: { type: "busy", params: ({ event }) => event.output },
            target: "busy",
            actions: { type: "fail", params: ({ event }) => event.output },
          },
          { target: "backoff", actions: { type: "fail", params: ({ event }) => event.output } },
        ],
        onError: { target: "backoff", actions: { type: "fail", params: ({ event }) => bug(event.error) } },
      },
      after: { negotiate: { target: "backoff", actions: { type: "fail", params: noSession } } },
      on: { NUDGE: { actions: "forget" } },
    },
    ready: {
      invoke: {
        id: "watch",
        src: "watch",
        input: ({ context: { peer, session } }) => ({ peer, session }),
        onDone: { target: "backoff", actions: { type: "fail", params: ({ event }) => err({ kind: "closed", message: event.output }) } },
        onError: { target: "backoff", actions: { type: "fail", params: ({ event }) => bug(event.error) } },
      },
      after: { lasting: { actions: "forget" } },
    },
    // Somebody else holds the peer: told apart from a peer that is away. Nothing tells when it is free, so it is tried for as long as it is there.
    busy: {
      always: { guard: "retired", target: "stopped" },
      after: { retry: "connecting" },
      on: { NUDGE: { target: "connecting", actions: "forget" } },
    },
    backoff: {
      always: { guard: "retired", target: "stopped" },
      after: { retry: "connecting" },
      on: { NUDGE: { target: "connecting", actions: "forget" } },
    },
    dormant: {
      always: { guard: "retired", target: "stopped" },
      on: { NUDGE: { target: "connecting", actions: "forget" }, AUDIT: "connecting" },
    },
    stopped: { type: "final" },
  },
});

const bug = (cause: unknown): Made => err({ kind: "bug", message: String(cause) });
