/**
 * One QMP session: greeting, negotiation, commands by id, events. Believes nothing that does not fit, and ends on it.
 * Source: facts of QEMU's monitor: one client at a time, the rest queue up ungreeted; in-band commands run one after another.
 */
import type { Socket } from "node:net";
import { type Observable, Subject } from "rxjs";
import type { Clock } from "../model/contracts.ts";
import { err, ok, type Result } from "../model/result.ts";
import type { Timings } from "../model/timings.ts";
import { createQmpReader, formatQmpCommand, type QmpEvent, type QmpMessage } from "../protocol/qmp.ts";
import { type ConnectError, connectUnix, type OpenSocket, takeSocket } from "./socket.ts";

export type { ConnectError } from "./socket.ts";

export type QmpError =
  /** QEMU said no. Only the class is contractual; desc is for people and hints. */
  | { readonly kind: "refused"; readonly class: string; readonly desc: string; readonly command: string }
  /** No reply in time, or called off by its signal. It may yet be executed; a reply that still comes is dropped. */
  | { readonly kind: "timeout"; readonly command: string }
  /** The session ended first. The command may or may not have been executed: look. */
  | { readonly kind: "closed"; readonly reason: string; readonly command: string; readonly outcomeUnknown: true }
  /** Not sent at all. */
  | { readonly kind: "protocol"; readonly reason: string };

/** `timeoutMs` null: only the signal ends the wait. */
export type ExecuteOptions = { readonly timeoutMs?: number | null; readonly signal?: AbortSignal };

export type QmpSession = {
  /** `7.2.22` */
  readonly version: string;
  /** Goes out with all else of this tick, unless {@link MAX_IN_FLIGHT} are under way. Never rejects. */
  execute(command: string, args?: Readonly<Record<string, unknown>>, options?: ExecuteOptions): Promise<Result<unknown, QmpError>>;
  /** Hot; completes with the session. A command's reply never waits for who listens here. */
  readonly events$: Observable<QmpEvent>;
  /** Resolves once, with the one reason. */
  readonly closed: Promise<string>;
  close(): void;
};

export type QmpDeps = { readonly timings: Pick<Timings, "connectMs" | "greetingMs" | "commandMs">; readonly clock: Clock };
export type OpenOptions = { readonly signal?: AbortSignal };

/** Commands on the wire without a reply; further ones wait in a queue of {@link MAX_QUEUED}, further ones than that are not taken. */
export const MAX_IN_FLIGHT = 256;
export const MAX_QUEUED = 4096;
/** Cheap, and answered in every state of a domain: asked when a command ran out of time and nothing else was heard. */
const PROBE = "query-version";
const CLOSED_BY_US = "closed by plugherd";
/** Reason of a close after which the peer may well live: it was given up because it said nothing. */
export const CLOSED_SILENT = "QEMU does not answer any more";

/**
 * Connects to a monitor, waits for its greeting, negotiates; each with its own time-out. On no greeting the socket is destroyed at once: a
 * connection left waiting would take the monitor from its owner the moment that one reconnects.
 */
export async function openQmp(path: string, deps: QmpDeps, options: OpenOptions = {}): Promise<Result<QmpSession, ConnectError>> {
  const { timings, clock } = deps;
  const socket = await connectUnix(path, { timeoutMs: timings.connectMs, clock, ...options });
  return socket.ok ? await adoptQmp(socket.value, deps, options) : socket;
}

/** The same for a connected socket: QEMU dialled in, or connectUnix() was called before. The socket is ours from here on, however it goes. */
export function adoptQmp(socket: Socket, deps: QmpDeps, { signal }: OpenOptions = {}): Promise<Result<QmpSession, ConnectError>> {
  return new Promise((resolve) => {
    const { timings, clock } = deps;
    const session = createSession(socket, deps, (version) => {
      clock.clearTimeout(timer);
      void session.execute("qmp_capabilities").then((reply) => {
        const { execute, events$, closed, close } = session;
        if (reply.ok) finish(ok({ version, execute, events$, closed, close }));
        else if (reply.error.kind === "timeout") fail("failed", `no answer to the negotiation within ${String(timings.commandMs)} ms`);
        else fail("failed", reply.error.kind === "refused" ? `negotiation refused: ${reply.error.desc}` : reply.error.reason);
      });
    });
    let settled = false;
    const finish = (result: Result<QmpSession, ConnectError>): void => {
      if (settled) return;
      settled = true;
      clock.clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
      if (!result.ok) session.end(result.error.message);
      resolve(result);
    };
    const fail = (kind: ConnectError["kind"], message: string): void => finish(err({ kind, message }));
    const onAbort = (): void => fail("failed", "called off");
    const timer = clock.setTimeout(() => {
      fail("busy", `no greeting within ${String(timings.greetingMs)} ms: another client holds this monitor, or QEMU hangs`);
    }, timings.greetingMs);
    signal?.addEventListener("abort", onAbort, { once: true });
    void session.closed.then((reason) => fail("failed", reason));
    if (signal?.aborted === true) onAbort();
  });
}

type Call = {
  readonly id: string;
  readonly command: string;
  readonly args: Readonly<Record<string, unknown>> | undefined;
  readonly signal: AbortSignal | undefined;
  readonly settle: (result: Result<unknown, QmpError>) => void;
  /** How many messages had been heard when it was written. */
  heardAtSend: number;
};
type Session = Omit<QmpSession, "version"> & { readonly end: (reason: string) => void };

function createSession(socket: Socket, { timings, clock }: QmpDeps, onGreeting: (version: string) => void): Session {
  const reader = createQmpReader();
  const events = new Subject<QmpEvent>();
  const inFlight = new Map<string, Call>();
  const queued = new Map<string, Call>();
  let ended: string | null = null;
  let greeted = false;
  let heard = 0;
  let lastId = 0;
  let probing = false;
  let tellClosed: (reason: string) => void = () => undefined;
  const closed = new Promise<string>((resolve) => {
    tellClosed = resolve;
  });

  const wire: OpenSocket = takeSocket(socket, {
    onBytes: (bytes) => {
      for (const message of reader.push(bytes)) {
        if (ended !== null) return;
        heard += 1;
        receive(message);
      }
    },
    onClose: (reason) => {
      ended = reason;
      const calls = [...inFlight.values(), ...queued.values()];
      inFlight.clear();
      queued.clear();
      for (const { command, settle } of calls) settle(err({ kind: "closed", reason, command, outcomeUnknown: true }));
      events.complete();
      tellClosed(reason);
    },
  });

  const receive = (message: QmpMessage): void => {
    switch (message.kind) {
      case "greeting":
        if (greeted) wire.close("the peer greeted twice");
        else {
          greeted = true;
          onGreeting(message.version);
        }
        break;
      case "malformed":
        wire.close(`the peer does not speak QMP: ${message.reason}`);
        break;
      case "event":
        events.next(message);
        break;
      case "return":
      case "error":
        reply(message);
        break;
    }
  };
  const reply = (message: Extract<QmpMessage, { kind: "return" | "error" }>): void => {
    const { id } = message;
    if (id === undefined) {
      // It answers something that QEMU could not read: which of ours, nobody can tell any more.
      wire.close(message.kind === "error" ? `QEMU could not read a command: ${message.desc}` : "a reply without an id");
      return;
    }
    const call = typeof id === "string" ? inFlight.get(id) : undefined;
    if (call === undefined) return; // came after its time-out
    inFlight.delete(call.id);
    if (message.kind === "return") call.settle(ok(message.value));
    else call.settle(err({ kind: "refused", class: message.class, desc: message.desc, command: call.command }));
    sendQueued();
  };

  const send = (call: Call): void => {
    inFlight.set(call.id, call);
    call.heardAtSend = heard;
    wire.write(formatQmpCommand(call.id, call.command, call.args));
  };
  const sendQueued = (): void => {
    for (const call of queued.values()) {
      if (inFlight.size >= MAX_IN_FLIGHT) return;
      if (call.signal?.aborted === true) continue; // one signal may call off several: its listener is about to take this one, too
      queued.delete(call.id);
      send(call);
    }
  };
  /** Takes a call back: its reply will be dropped. */
  const giveUp = (call: Call): void => {
    const sent = inFlight.delete(call.id);
    queued.delete(call.id);
    call.settle(err({ kind: "timeout", command: call.command }));
    if (sent) sendQueued();
  };

  /** One slow command is no reason to end a session; a peer that says nothing at all, not even to a probe, is. */
  const probe = async (silentSince: number): Promise<void> => {
    if (probing || ended !== null) return;
    probing = true;
    const answer = await execute(PROBE);
    probing = false;
    if (!answer.ok && answer.error.kind === "timeout" && heard === silentSince) wire.close(CLOSED_SILENT);
  };

  const execute: QmpSession["execute"] = (command, args, { timeoutMs = timings.commandMs, signal } = {}) => {
    if (ended !== null) return Promise.resolve(err({ kind: "closed", reason: ended, command, outcomeUnknown: true }));
    if (signal?.aborted === true) return Promise.resolve(err({ kind: "timeout", command }));
    if (queued.size >= MAX_QUEUED) return Promise.resolve(err({ kind: "protocol", reason: "too many commands wait for this monitor" }));
    return new Promise((resolve) => {
      lastId += 1;
      const call: Call = {
        id: `p${lastId.toString(36)}`,
        command,
        args,
        signal,
        heardAtSend: heard,
        settle: (result) => {
          clock.clearTimeout(timer);
          signal?.removeEventListener("abort", onAbort);
          resolve(result);
        },
      };
      const onAbort = (): void => giveUp(call);
      const late = (): void => {
        const silent = inFlight.has(call.id) && heard === call.heardAtSend;
        giveUp(call);
        if (silent && command !== PROBE) void probe(heard);
      };
      const timer = timeoutMs === null ? null : clock.setTimeout(late, timeoutMs);
      signal?.addEventListener("abort", onAbort, { once: true });
      if (inFlight.size < MAX_IN_FLIGHT) send(call);
      else queued.set(call.id, call);
    });
  };

  return { execute, events$: events.asObservable(), closed, close: () => wire.close(CLOSED_BY_US), end: (reason) => wire.close(reason) };
}
