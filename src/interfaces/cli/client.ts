/** The commands' way to the daemon: HTTP and WebSocket over its unix socket. */
import { request } from "node:http";
import { err, ok, type Result } from "../../model/result.ts";
import type { ErrorBody, Resume, WatchMessage } from "../http/messages.ts";
import { EXIT, type Failure, usage } from "./io.ts";

export type ApiAnswer = { readonly status: number; readonly body: unknown };
export type Watching = { close(): void };
export type WatchEvents = { readonly onMessage: (message: WatchMessage) => void; readonly onEnd: (why: Failure) => void };

export type Api = {
  readonly socket: string;
  /** GET; anything but 2xx is a failure. The type is the schema's word, which the tests hold. */
  get<T>(path: string, query?: URLSearchParams): Promise<Result<T, Failure>>;
  /** POST; any status that the daemon answers with. */
  post(path: string, body: unknown): Promise<Result<ApiAnswer, Failure>>;
  /** Any status. */
  ask(path: string): Promise<Result<ApiAnswer, Failure>>;
  watch(resume: Resume | null, events: WatchEvents): Watching;
};

const ANSWER_MS = 30_000;
const MOST_BYTES = 256 * 1024 * 1024;

function unreachable(socket: string, cause: NodeJS.ErrnoException): Failure {
  const start = "Start it with `plugherd run`, or name its socket with --api or PLUGHERD_API.";
  const said = (message: string, remedy: string): Failure => ({ exit: EXIT.unreachable, message, remedy });
  if (cause.code === "ENOENT") return said(`plugherd does not run here: there is no socket ${socket}.`, start);
  if (cause.code === "ECONNREFUSED") return said(`plugherd does not run here: nobody answers on ${socket}.`, start);
  if (cause.code === "EACCES" || cause.code === "EPERM")
    return said(`You may not open ${socket}.`, "Use sudo, or join the group that owns the socket.");
  if (cause.code === "ENOTSOCK" || cause.code === "ENOTDIR") return said(`${socket} is no socket of plugherd.`, start);
  return said(`plugherd could not be asked on ${socket}: ${cause.message}.`, start);
}

const broken = (socket: string): Failure => ({
  exit: EXIT.unreachable,
  message: `What answers on ${socket} does not speak plugherd's API.`,
  remedy: "Check --api, and that daemon and command are of one version.",
});

/** The daemon's own words. A request that it does not take is one of ours gone wrong: usage. */
function refusal(socket: string, { status, body }: ApiAnswer): Failure {
  const error = (body as Partial<ErrorBody> | null)?.error;
  if (typeof error?.message !== "string") return broken(socket);
  if (status >= 500) return { exit: EXIT.unreachable, message: error.message, remedy: error.remedy ?? null };
  return usage(error.message, error.remedy ?? null);
}

export function createApi(socket: string): Api {
  const call = (method: string, path: string, body: unknown): Promise<Result<ApiAnswer, Failure>> =>
    new Promise((resolve) => {
      const text = body === undefined ? null : JSON.stringify(body);
      const asked = request({
        socketPath: socket,
        path,
        method,
        agent: false,
        headers: text === null ? {} : { "content-type": "application/json", "content-length": Buffer.byteLength(text) },
      });
      const failed = (cause: Error): void => resolve(err(unreachable(socket, cause)));
      asked.setTimeout(ANSWER_MS, () => asked.destroy(new Error(`no answer within ${String(ANSWER_MS / 1_000)} s`)));
      asked.on("error", failed);
      asked.on("response", (answer) => {
        const chunks: Buffer[] = [];
        let size = 0;
        answer.on("data", (chunk: Buffer) => {
          size += chunk.length;
          if (size > MOST_BYTES) answer.destroy(new Error("the answer is too long"));
          else chunks.push(chunk);
        });
        answer.on("error", failed);
        answer.on("end", () => {
          try {
            resolve(ok({ status: answer.statusCode ?? 0, body: JSON.parse(Buffer.concat(chunks).toString("utf8")) as unknown }));
          } catch {
            resolve(err(broken(socket)));
          }
        });
      });
      asked.end(text ?? undefined);
    });

  return {
    socket,
    async get<T>(path: string, query?: URLSearchParams) {
      const answer = await call("GET", query === undefined || query.size === 0 ? path : `${path}?${query.toString()}`, undefined);
      if (!answer.ok) return answer;
      return answer.value.status >= 200 && answer.value.status < 300 ? ok(answer.value.body as T) : err(refusal(socket, answer.value));
    },
    post: (path, body) => call("POST", path, body),
    ask: (path) => call("GET", path, undefined),
    watch(resume, { onMessage, onEnd }) {
      const closed = new AbortController();
      // Loaded for the commands that watch only.
      import("./watcher.ts")
        .then(({ openWatch }) => {
          if (closed.signal.aborted) return;
          openWatch(
            { socket, resume, signal: closed.signal },
            { onMessage, onAway: (cause) => onEnd(unreachable(socket, cause)), onNonsense: () => onEnd(broken(socket)), onRefused: onEnd },
          );
        })
        .catch((cause: unknown) => {
          queueMicrotask(() => {
            throw cause;
          });
        });
      return { close: () => closed.abort() };
    },
  };
}
