/** One connection to a xenstored: requests by req_id, watch events. Believes nothing that does not fit, and ends on it. */
import type { Clock } from "../model/contracts.ts";
import { err, ok, type Result } from "../model/result.ts";
import type { Timings } from "../model/timings.ts";
import {
  createXenstoreReader,
  formatXenstoreRequest,
  HEADER_BYTES,
  parseXenstoreMessage,
  type RequestProblem,
  XENSTORE_TYPES,
  type XenstoreMessage,
  type XenstoreRequest,
} from "../protocol/xenstore.ts";
import type { SocketUser } from "./socket.ts";

/** What carries a connection's bytes. */
export type XenstoreTransport = {
  /** Longest payload of a request that it takes. */
  readonly maxPayloadBytes: number;
  /** Takes it over, once. */
  take(user: SocketUser): XenstoreWire;
  /** Closes it, taken over or not. */
  drop(): void;
};
export type XenstoreWire = {
  /**
   * One whole message.
   * @param message - a byte a character
   * @param refused - it was not taken, and no answer comes to it; code: as in an answer, e.g. `EINVAL`
   */
  write(message: string, refused: (code: string) => void): void;
  /** Idempotent; the first reason stands. */
  close(reason: string): void;
};

export type SessionError =
  /** The daemon said no. code: e.g. `ENOENT`. */
  | { readonly kind: "refused"; readonly code: string }
  /** No answer: none in time, or the connection ended first. sent: it may have been executed all the same. */
  | { readonly kind: "unanswered"; readonly sent: boolean; readonly message: string }
  /** Not sent at all. */
  | { readonly kind: "overload"; readonly message: string }
  | RequestProblem;

export type SessionOptions = {
  /** 0: none. */
  readonly txId?: number;
  readonly timeoutMs?: number;
  /** The answer came after its time-out. */
  readonly onLate?: (payload: Uint8Array) => void;
};
export type XenstoreSession = {
  /** @returns the answer's payload. Never rejects. */
  request(request: XenstoreRequest, options?: SessionOptions): Promise<Result<Uint8Array, SessionError>>;
  /** Resolves once, with the one reason. */
  readonly closed: Promise<string>;
  close(reason: string): void;
};
export type SessionDeps = { readonly timings: Pick<Timings, "commandMs" | "greetingMs">; readonly clock: Clock };

/** Requests on the wire without an answer; further ones wait in a queue of {@link MAX_QUEUED}, further ones than that are not taken. */
export const MAX_IN_FLIGHT = 128;
export const MAX_QUEUED = 4096;
const MAX_ID = 0xffff_ffff;
/** Cheap, and always there: read when a request ran out of time and nothing else was heard. */
const PROBE: XenstoreRequest = { op: "read", path: "/" };

type Call = {
  readonly type: number;
  /** The request, a byte a character. */
  readonly bytes: string;
  readonly settle: (result: Result<Uint8Array, SessionError>) => void;
  /** How many messages had been heard when it was written. */
  heardAtSend: number;
};

/** @param transport - connected; ours from here on. onEvent is called as events come: before or after the answer to what caused them */
export function createXenstoreSession(
  transport: XenstoreTransport,
  { timings, clock }: SessionDeps,
  onEvent: (path: string, token: string) => void,
): XenstoreSession {
  const reader = createXenstoreReader();
  const inFlight = new Map<number, Call>();
  const queued = new Map<number, Call>();
  /** Timed out, and of interest if it is answered yet. */
  const late = new Map<number, (payload: Uint8Array) => void>();
  let ended: string | null = null;
  let heard = 0;
  let lastId = 0;
  let probing = false;
  let tellClosed: (reason: string) => void = () => undefined;
  const closed = new Promise<string>((resolve) => {
    tellClosed = resolve;
  });

  const wire = transport.take({
    onBytes: (bytes) => {
      for (const input of reader.push(bytes)) {
        if (ended !== null) return;
        heard += 1;
        receive("kind" in input ? input : parseXenstoreMessage(input));
      }
    },
    onClose: (reason) => {
      ended = reason;
      const sent = [...inFlight.values()];
      const unsent = [...queued.values()];
      inFlight.clear();
      queued.clear();
      late.clear();
      for (const { settle } of sent) settle(err({ kind: "unanswered", sent: true, message: reason }));
      for (const { settle } of unsent) settle(err({ kind: "unanswered", sent: false, message: reason }));
      tellClosed(reason);
    },
  });

  const receive = (message: XenstoreMessage): void => {
    if (message.kind === "malformed") wire.close(`the peer does not speak xenstore: ${message.reason}`);
    else if (message.kind === "event") onEvent(message.path, message.token);
    else answer(message);
  };
  const answer = (message: Extract<XenstoreMessage, { kind: "error" | "reply" }>): void => {
    const call = inFlight.get(message.reqId);
    if (call === undefined) {
      const onLate = late.get(message.reqId);
      late.delete(message.reqId);
      if (message.kind === "reply") onLate?.(message.payload);
      return;
    }
    inFlight.delete(message.reqId);
    if (message.kind === "error") call.settle(err({ kind: "refused", code: message.code }));
    else if (message.type === call.type) call.settle(ok(message.payload));
    else {
      call.settle(err({ kind: "unanswered", sent: true, message: "answered as another type" }));
      wire.close("the peer does not speak xenstore: an answer of another type");
    }
    sendQueued();
  };
  const send = (id: number, call: Call): void => {
    inFlight.set(id, call);
    call.heardAtSend = heard;
    wire.write(call.bytes, (code) => {
      if (ended === null) answer({ kind: "error", reqId: id, code });
    });
  };
  const sendQueued = (): void => {
    for (const [id, call] of queued) {
      if (inFlight.size >= MAX_IN_FLIGHT) return;
      queued.delete(id);
      send(id, call);
    }
  };
  const nextId = (): number => {
    do lastId = lastId === MAX_ID ? 1 : lastId + 1;
    while (inFlight.has(lastId) || queued.has(lastId) || late.has(lastId));
    return lastId;
  };
  /** One slow request is no reason to end a session; a daemon that says nothing at all, not even to a probe, is. */
  const probe = async (silentSince: number): Promise<void> => {
    if (probing || ended !== null) return;
    probing = true;
    const answer = await request(PROBE);
    probing = false;
    if (!answer.ok && answer.error.kind === "unanswered" && heard === silentSince) wire.close("xenstored does not answer any more");
  };

  const request: XenstoreSession["request"] = (what, { txId = 0, timeoutMs = timings.commandMs, onLate } = {}) => {
    if (ended !== null) return Promise.resolve(err({ kind: "unanswered", sent: false, message: ended }));
    // An end never waits in the queue: there it could run out of time, and its transaction would stay open.
    const ends = what.op === "transaction-end";
    if (queued.size >= MAX_QUEUED && !ends)
      return Promise.resolve(err({ kind: "overload", message: "too many requests wait for xenstored" }));
    const id = nextId();
    const bytes = formatXenstoreRequest(what, id, txId);
    if (!bytes.ok) return Promise.resolve(bytes);
    const most = transport.maxPayloadBytes;
    if (bytes.value.length > HEADER_BYTES + most)
      return Promise.resolve(err({ kind: "too-large", message: `more than ${String(most)} bytes` }));
    return new Promise((resolve) => {
      const timer = clock.setTimeout(() => {
        const sent = inFlight.delete(id);
        queued.delete(id);
        if (sent && onLate !== undefined && late.size < MAX_QUEUED) late.set(id, onLate);
        resolve(err({ kind: "unanswered", sent, message: `no answer to a ${what.op} within ${String(timeoutMs)} ms` }));
        if (sent && what !== PROBE && heard === call.heardAtSend) void probe(heard);
        sendQueued();
      }, timeoutMs);
      const call: Call = {
        type: XENSTORE_TYPES[what.op],
        bytes: Buffer.from(bytes.value).toString("latin1"),
        settle: (result) => {
          clock.clearTimeout(timer);
          resolve(result);
        },
        heardAtSend: heard,
      };
      if (inFlight.size < MAX_IN_FLIGHT || ends) send(id, call);
      else queued.set(id, call);
    });
  };

  return { request, closed, close: (reason) => wire.close(reason) };
}
