/**
 * The QEMUs behind one socket file, one after another: when to connect is the connection machine's, what is shown of it is decided here.
 * Each connection is a life of its own: its key is not used again, for who answers next may be another QEMU.
 */
import type { Socket } from "node:net";
import { stat } from "node:fs/promises";
import { createActor, fromPromise } from "xstate";
import {
  type ConnectInput,
  type ConnectionEvent,
  connectionMachine,
  jitteredReconnect,
  type Made,
  type NegotiateInput,
  type PeerProblem,
  type WatchInput,
} from "../machines/connection.ts";
import type { DomainChange } from "../model/contracts.ts";
import type { DomainKey } from "../model/domain.ts";
import { err, type Result } from "../model/result.ts";
import { UNSEEN } from "./domain-life.ts";
import { createQemuDomain, type QemuDomain, type QemuDomainDeps } from "./qemu-domain.ts";
import { adoptQmp, CLOSED_SILENT, type QmpSession } from "./qmp-client.ts";
import { connectUnix } from "./socket.ts";

export type MonitorPeer = {
  /** Once. */
  start(): void;
  /** Something may be new here: try now. */
  kick(): void;
  /** Nothing is known to be new here: one try, where no timer tries any more. */
  audit(): void;
  /** Whether it is connected to a socket that is no longer the one in this place. */
  replaced(): Promise<boolean>;
  /** No new connection; what is connected stays until it ends. */
  retire(): void;
  close(): void;
};

export type MonitorPeerOptions = {
  readonly path: string;
  /** Name of the socket file without its suffix. */
  readonly name: string;
  readonly nextKey: () => DomainKey;
  readonly emit: (change: DomainChange) => void;
  /** A life begins (its domain) or ends (null). */
  readonly onLife: (key: DomainKey, domain: QemuDomain | null) => void;
  /** Once: the first attempt has an answer. */
  readonly onFirst: () => void;
  /** Once: nothing comes from it any more, not even onFirst. */
  readonly onEnd: () => void;
};

/** What the machine's actors need of a peer. */
type Actors = {
  connect(signal: AbortSignal): Promise<Result<Socket, PeerProblem>>;
  /** Serves a session until it ends. */
  serve(session: QmpSession, signal: AbortSignal): Promise<string>;
};

/** @returns what makes a peer; they share one machine, for making a machine costs more than all that is done with it */
export function createMonitorPeers(deps: QemuDomainDeps): (options: MonitorPeerOptions) => MonitorPeer {
  const { timings, clock, log } = deps;
  // The machine hands on what it was given: a peer is the one that createActor() got below, transport and session are what these made.
  const machine = connectionMachine.provide({
    actors: {
      connect: fromPromise<Made, ConnectInput>(({ input, signal }) =>
        closedIfLate((input.peer as Actors).connect(signal), signal, (socket) => socket.destroy()),
      ),
      negotiate: fromPromise<Made, NegotiateInput>(({ input, signal }) =>
        closedIfLate(adoptQmp(input.transport as Socket, deps, { signal }), signal, (session) => session.close()),
      ),
      watch: fromPromise<string, WatchInput>(({ input, signal }) => (input.peer as Actors).serve(input.session as QmpSession, signal)),
    },
    delays: jitteredReconnect(deps.random),
  });

  return ({ path, name, nextKey, emit, onLife, onFirst, onEnd }) => {
    let closed = false;
    let retired = false;
    let answered = false;
    let inode: number | null = null;
    let told: PeerProblem | null = null;
    /** Shown, though nobody answers: `waiting` for a first answer (that life will have this key), or `lost` with what was last seen of it. */
    let shown: { readonly key: DomainKey; readonly kind: "waiting" | "lost" } | null = null;

    const forget = (): void => {
      if (shown !== null) emit({ kind: "gone", key: shown.key });
      shown = null;
    };
    const first = (): void => {
      if (answered) return;
      answered = true;
      onFirst();
    };
    const serve = async (session: QmpSession, signal: AbortSignal): Promise<string> => {
      signal.addEventListener("abort", () => session.close(), { once: true });
      // A life that was lost in silence is over now, whoever answers.
      if (shown?.kind === "lost") forget();
      const key = shown?.key ?? nextKey();
      shown = null;
      const domain = createQemuDomain(
        { key, monitor: path, fallbackName: name, session, identity: null, publish: (seen) => emit({ kind: "domain", domain: seen }) },
        deps,
      );
      onLife(key, domain);
      void Promise.race([domain.refresh(), session.closed]).then(first);
      const reason = await session.closed;
      onLife(key, null);
      if (signal.aborted) return reason;
      log.info("monitor lost", { path, key, reason });
      shown = { key, kind: "lost" };
      if (reason === CLOSED_SILENT) domain.silence();
      else forget();
      return reason;
    };
    /** What follows from having no session. */
    const without = ({ kind, message }: PeerProblem): void => {
      if (kind === "absent" || kind === "dead") forget();
      else if (kind === "busy" && shown === null) {
        shown = { key: nextKey(), kind: "waiting" };
        emit({ kind: "domain", domain: { ...UNSEEN, key: shown.key, name, monitor: path, monitorState: "busy" } });
      }
      if (kind === "bug") log.error("a bug of plugherd; the monitor is tried again", { path, message });
      else if (kind !== "closed") log.debug("monitor not usable", { path, kind, message });
    };

    const peer: Actors = {
      async connect(signal) {
        inode = await inodeOf(path);
        const made = await connectUnix(path, { timeoutMs: timings.connectMs, clock, signal });
        if (!made.ok || (inode === (await inodeOf(path)) && !retired)) return made;
        // Another QEMU took the place meanwhile: which of the two this is cannot be told, and a peer that has the other's would keep it for ever.
        made.value.destroy();
        return err({ kind: "failed", message: `another socket took the place of ${path}` });
      },
      serve,
    };
    const actor = createActor(machine, { input: { peer, timings }, clock });
    actor.subscribe(({ value, context: { problem } }) => {
      if (value === "connecting" || value === "negotiating" || value === "ready") return;
      if (value === "stopped") {
        if (!closed) forget();
        onEnd();
        return;
      }
      if (problem !== null && problem !== told) without(problem);
      told = problem;
      first();
    });

    const send = (type: ConnectionEvent["type"]): void => {
      if (actor.getSnapshot().status === "active") actor.send({ type });
    };

    return {
      start: () => void actor.start(),
      kick: () => send("NUDGE"),
      audit() {
        // Asked first: a thousand machines that have nothing to do with it would take their time.
        if (actor.getSnapshot().value === "dormant") send("AUDIT");
      },
      async replaced() {
        const now = await inodeOf(path);
        // Asked last: it may have lost its connection, and have another one, while the file was looked at.
        const { value } = actor.getSnapshot();
        return (value === "negotiating" || value === "ready") && inode !== null && inode !== now;
      },
      retire() {
        retired = true;
        send("RETIRE");
      },
      close() {
        closed = true;
        send("STOP");
      },
    };
  };
}

/** What is made when nobody waits for it any more is closed. */
export async function closedIfLate<T, E>(
  making: Promise<Result<T, E>>,
  signal: AbortSignal,
  close: (made: T) => void,
): Promise<Result<T, E>> {
  const made = await making;
  if (made.ok && signal.aborted) close(made.value);
  else if (made.ok) signal.addEventListener("abort", () => close(made.value), { once: true }); // until the machine has taken it
  return made;
}

const inodeOf = (path: string): Promise<number | null> =>
  stat(path).then(
    ({ ino }) => ino,
    () => null,
  );
