/**
 * A xenstored behind its unix socket or the kernel's device, one connection after another: when to connect is the connection machine's. Watches
 * outlive connections.
 * Source: docs/misc/xenstore.txt. A restarted daemon may come back with an empty or another store, and a watch that is registered fires at once:
 * everything is to be read again.
 */
import { BehaviorSubject, Observable, type Subscriber } from "rxjs";
import { createActor, fromPromise } from "xstate";
import {
  type ConnectionEvent,
  connectionMachine,
  type ConnectInput,
  jitteredReconnect,
  type Made,
  type NegotiateInput,
  type WatchInput,
} from "../machines/connection.ts";
import type { Clock, Log, Random } from "../model/contracts.ts";
import { err, ok, type Result } from "../model/result.ts";
import type { Timings } from "../model/timings.ts";
import { parseStrings } from "../protocol/xenstore.ts";
import { createGate } from "./gate.ts";
import { closedIfLate } from "./monitor-peer.ts";
import { AWAY, createXenstoreNodes, errorOf, type XenstoreError, type XenstoreNodes } from "./xenstore-nodes.ts";
import { createXenstoreSession, type XenstoreSession, type XenstoreTransport } from "./xenstore-session.ts";
import { connectXenstore, XENBUS_DEVICE } from "./xenstore-transport.ts";

/** up: connected, with every watch registered; read everything again. life: 1 for the first connection, and one more for each later one. */
export type XenstoreChange =
  | { readonly kind: "up"; readonly life: number }
  | {
      readonly kind: "down";
      readonly message: string;
      /** false: no connection has been tried yet. */
      readonly tried: boolean;
    };
export type WatchNews =
  /** Something at or below the watched path may be different: look. Also right after each registration. path: the changed node or the watched one. */
  | { readonly kind: "fired"; readonly path: string }
  /** The daemon does not take this watch; it is tried again with the next connection. */
  | { readonly kind: "refused"; readonly error: XenstoreError };
/** What a transaction's body decided: its value counts only if the end of the transaction was answered. */
export type TransactionEnd<T> = { readonly commit: boolean; readonly value: T };

export type XenstoreClient = XenstoreNodes & {
  /** Once. */
  start(): void;
  /** For good. */
  close(): void;
  /** Something may be new at the socket: try now. */
  kick(): void;
  /** Nothing is known to be new: one try, where no timer tries any more. */
  audit(): void;
  /** Tells the newest one to who comes late; completes at the close. Never errors. */
  readonly changes$: Observable<XenstoreChange>;
  /** Cold: registered while subscribed, in each connection anew; completes at the close. Never errors. path: absolute, or an `@` event. */
  watch(path: string): Observable<WatchNews>;
  /**
   * All or nothing. The body is run again in a new transaction when others were quicker; it should ask nothing but `tx`, and throw only for bugs.
   * What it read is believed only once the end was answered: until then the transaction may be one that the daemon has lost.
   */
  transaction<T>(body: (tx: XenstoreNodes) => Promise<Result<TransactionEnd<T>, XenstoreError>>): Promise<Result<T, XenstoreError>>;
};

export type XenstoreClientDeps = {
  readonly timings: Timings;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  /** The kernel's way to xenstored, for where the socket is missing. */
  readonly device?: string;
};

/** Open ones at a time: more only wait for each other, in conflicts. */
const MAX_TRANSACTIONS = 8;
const MAX_REGISTERING = 64;
const CLOSED_BY_US = "closed by plugherd";

type Held = { readonly path: string; readonly token: string; readonly out: Subscriber<WatchNews> };

/** @param path - of the daemon's socket, or of a character device that speaks the same */
export function createXenstoreClient(
  path: string,
  { timings, clock, random, log, device = XENBUS_DEVICE }: XenstoreClientDeps,
): XenstoreClient {
  const changes = new BehaviorSubject<XenstoreChange>({ kind: "down", message: "not connected yet", tried: false });
  const held = new Map<string, Held>();
  const transactions = createGate(MAX_TRANSACTIONS);
  const registering = createGate(MAX_REGISTERING);
  let current: XenstoreSession | null = null;
  let lives = 0;
  let tokens = 0;
  let closed = false;

  const onEvent = (where: string, token: string): void => held.get(token)?.out.next({ kind: "fired", path: where });
  const register = async (session: XenstoreSession, { path: watched, token, out }: Held): Promise<void> => {
    if (out.closed) return; // it was let go while it waited for its turn
    const request = { op: "watch", path: watched, token } as const;
    const answer = await session.request(request);
    if (answer.ok || session !== current || out.closed) return;
    const error = errorOf(request, answer.error, 0);
    // Without an answer it may be registered, and a connection that is gone is followed by another.
    if (error.kind === "unknown" || error.kind === "away") return;
    log.warn("xenstore watch refused", { path: watched, message: error.message });
    out.next({ kind: "refused", error });
  };

  const serve = async (session: XenstoreSession, signal: AbortSignal): Promise<string> => {
    signal.addEventListener("abort", () => session.close(CLOSED_BY_US), { once: true });
    let alive = true;
    void session.closed.then(() => {
      alive = false;
    });
    current = session;
    await Promise.all([...held.values()].map((one) => registering(() => register(session, one))));
    if (alive) {
      lives += 1;
      changes.next({ kind: "up", life: lives });
    }
    const ended = await session.closed;
    if (current === session) current = null;
    changes.next({ kind: "down", message: ended, tried: true });
    if (!signal.aborted) log.warn("xenstored lost", { path, reason: ended });
    return ended;
  };
  const negotiate = async (transport: XenstoreTransport): Promise<Result<XenstoreSession, { kind: "failed"; message: string }>> => {
    const session = createXenstoreSession(transport, { timings, clock }, onEvent);
    const answer = await session.request({ op: "read", path: "/" }, { timeoutMs: timings.greetingMs });
    if (answer.ok || answer.error.kind === "refused") return ok(session);
    session.close(answer.error.message);
    return err({ kind: "failed", message: answer.error.message });
  };
  const machine = connectionMachine.provide({
    actors: {
      connect: fromPromise<Made, ConnectInput>(({ signal }) =>
        closedIfLate(connectXenstore(path, { device, timeoutMs: timings.connectMs, clock, signal }), signal, (made) => made.drop()),
      ),
      negotiate: fromPromise<Made, NegotiateInput>(({ input, signal }) =>
        closedIfLate(negotiate(input.transport as XenstoreTransport), signal, (session) => session.close(CLOSED_BY_US)),
      ),
      watch: fromPromise<string, WatchInput>(({ input, signal }) => serve(input.session as XenstoreSession, signal)),
    },
    delays: jitteredReconnect(random),
  });
  const actor = createActor(machine, { input: { peer: null, timings }, clock });
  actor.subscribe(({ value, context: { problem } }) => {
    if (problem === null || value === "connecting" || value === "negotiating" || problem.kind === "closed") return;
    if (problem.kind === "bug") log.error("a bug of plugherd; xenstored is tried again", { path, message: problem.message });
    const last = changes.value;
    if (!closed && (last.kind === "up" || last.message !== problem.message))
      changes.next({ kind: "down", message: problem.message, tried: true });
  });
  const send = (type: ConnectionEvent["type"]): void => {
    if (actor.getSnapshot().status === "active") actor.send({ type });
  };

  /** One try. */
  const attempt = async <T>(
    body: (tx: XenstoreNodes) => Promise<Result<TransactionEnd<T>, XenstoreError>>,
  ): Promise<Result<T, XenstoreError>> => {
    const session = current;
    if (session === null) return AWAY;
    const end = (txId: number, commit: boolean) => session.request({ op: "transaction-end", commit }, { txId });
    const began = await session.request(
      { op: "transaction-start" },
      // Nobody waits for this one any more, and an open one delays the daemon's live update.
      { onLate: (payload) => void end(idOf(payload) ?? 0, false) },
    );
    if (!began.ok) {
      const error = errorOf({ op: "transaction-start" }, began.error, 0);
      return err(error.kind === "unknown" ? { kind: "lost", message: error.message } : error);
    }
    const txId = idOf(began.value);
    if (txId === null) return err({ kind: "refused", message: "a transaction without an id" });
    let decision: Result<TransactionEnd<T>, XenstoreError> | null = null;
    try {
      decision = await body(createXenstoreNodes(() => session, txId));
    } finally {
      if (decision === null) void end(txId, false);
    }
    const commit = decision.ok && decision.value.commit;
    const ended = await end(txId, commit);
    if (ended.ok) return decision.ok ? ok(decision.value.value) : decision;
    const error = errorOf({ op: "transaction-end", commit }, ended.error, txId);
    // Without a commit that was sent, nothing was written.
    const nothing = error.kind === "away" || (error.kind === "unknown" && !commit);
    return err(nothing ? { kind: "lost", message: error.message } : error);
  };
  const transaction: XenstoreClient["transaction"] = async (body) => {
    for (let tries = 1; ; tries += 1) {
      const result = await transactions(() => attempt(body));
      if (result.ok || result.error.kind !== "conflict" || tries >= timings.transactionTries) return result;
      await new Promise<void>((resolve) => {
        clock.setTimeout(() => resolve(), random() * timings.transactionBackoffMs * tries);
      });
    }
  };

  return {
    ...createXenstoreNodes(() => current),
    start: () => void actor.start(),
    close() {
      if (closed) return;
      closed = true;
      send("STOP");
      current?.close(CLOSED_BY_US);
      current = null;
      changes.next({ kind: "down", message: CLOSED_BY_US, tried: true });
      changes.complete();
      for (const { out } of [...held.values()]) out.complete();
    },
    kick: () => send("NUDGE"),
    audit() {
      if (actor.getSnapshot().value === "dormant") send("AUDIT");
    },
    changes$: changes.asObservable(),
    watch: (watched) =>
      new Observable((out) => {
        if (closed) return out.complete();
        tokens += 1;
        const one: Held = { path: watched, token: `p${tokens.toString(36)}`, out };
        held.set(one.token, one);
        if (current !== null) void register(current, one);
        out.add(() => {
          held.delete(one.token);
          // An event of it that is on its way is dropped by its token.
          void current?.request({ op: "unwatch", path: watched, token: one.token });
        });
      }),
    transaction,
  };
}

function idOf(payload: Uint8Array): number | null {
  const [text = ""] = parseStrings(payload) ?? [];
  const id = /^\d{1,10}$/.test(text) ? Number(text) : 0;
  return id > 0 && id <= 0xffff_ffff ? id : null;
}
