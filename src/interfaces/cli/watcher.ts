/** One connection to `/api/v1/watch`, from its opening to its end. */
import { connect } from "node:net";
import { WebSocket } from "ws";
import type { Resume, WatchMessage } from "../http/messages.ts";
import { EXIT, type Failure } from "./io.ts";

export type Watch = {
  readonly socket: string;
  readonly resume: Resume | null /** Ends it without a word. */;
  readonly signal: AbortSignal;
};
/** One of the last three comes once, and nothing after it. */
export type WatchEvents = {
  readonly onMessage: (message: WatchMessage) => void;
  readonly onAway: (cause: Error) => void;
  readonly onNonsense: () => void;
  readonly onRefused: (why: Failure) => void;
};

const CONNECT_MS = 10_000;
const MOST_BYTES = 256 * 1024 * 1024;
/** The daemon pings every 20 s; without a sign of life for longer the connection is taken for dead. */
const SILENCE_MS = 60_000;

export function openWatch({ socket, resume, signal }: Watch, events: WatchEvents): void {
  const query = resume === null ? "" : `?${new URLSearchParams({ id: resume.id, seq: String(resume.seq) }).toString()}`;
  // Not a ws+unix: address, which cannot hold every path.
  const client = new WebSocket(`ws://localhost/api/v1/watch${query}`, {
    createConnection: () => connect(socket),
    perMessageDeflate: false,
    maxPayload: MOST_BYTES,
    handshakeTimeout: CONNECT_MS,
  });
  let ended = false;
  let silence: NodeJS.Timeout | undefined;
  const end = (tell: () => void): void => {
    if (ended) return;
    ended = true;
    clearTimeout(silence);
    signal.removeEventListener("abort", aborted);
    client.terminate();
    tell();
  };
  const aborted = (): void => end(() => undefined);
  const away = (cause: Error): void => end(() => events.onAway(cause));
  const heard = (): void => {
    clearTimeout(silence);
    silence = setTimeout(() => away(new Error("it has fallen silent")), SILENCE_MS);
  };
  signal.addEventListener("abort", aborted);
  client.on("open", heard);
  client.on("ping", heard);
  client.on("error", away);
  client.on("close", (_code, reason) => away(new Error(reason.toString() || "the connection ended")));
  client.on("unexpected-response", (_request, answer) => {
    answer.resume();
    const message = `plugherd refuses to be watched (${String(answer.statusCode)}).`;
    end(() => events.onRefused({ exit: EXIT.unreachable, message, remedy: "Close other watchers, and try again." }));
  });
  client.on("message", (data) => {
    if (ended) return;
    heard();
    const message = parsed(String(data));
    if (message === null) end(events.onNonsense);
    else if (message.type === "snapshot" || message.type === "changes") events.onMessage(message);
  });
}

function parsed(text: string): WatchMessage | null {
  try {
    return JSON.parse(text) as WatchMessage | null;
  } catch {
    return null;
  }
}
