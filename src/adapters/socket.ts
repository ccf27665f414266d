/** Unix sockets as clients use them: bounded both ways, every wait ends, and every close has one reason. */
import { connect, type Socket } from "node:net";
import type { Clock } from "../model/contracts.ts";
import { err, ok, type Result } from "../model/result.ts";

/**
 * absent: no such file (ENOENT). dead: a file that nobody listens on (ECONNREFUSED), as a killed process leaves it.
 * busy: somebody else holds the peer: its queue is full (EAGAIN), or it takes the connection and says nothing. failed: all else.
 */
export type ConnectError = { readonly kind: "absent" | "dead" | "busy" | "failed"; readonly message: string };

export type ConnectOptions = { readonly timeoutMs: number; readonly clock: Clock; readonly signal?: AbortSignal };

/** @param path - a unix socket; at most 107 bytes, Linux's limit */
export function connectUnix(path: string, { timeoutMs, clock, signal }: ConnectOptions): Promise<Result<Socket, ConnectError>> {
  if (signal?.aborted === true) return Promise.resolve(err({ kind: "failed", message: "called off" }));
  return new Promise((resolve) => {
    const socket = connect({ path });
    const finish = (result: Result<Socket, ConnectError>): void => {
      clock.clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
      socket.removeListener("connect", onConnect);
      if (!result.ok)
        socket.destroy(); // its error listener stays: a destroyed socket may still tell of one
      else socket.removeListener("error", onError);
      resolve(result);
    };
    const onConnect = (): void => finish(ok(socket));
    const onError = (cause: NodeJS.ErrnoException): void => finish(err(connectErrorOf(path, cause)));
    const onAbort = (): void => finish(err({ kind: "failed", message: "called off" }));
    const timer = clock.setTimeout(() => {
      finish(err({ kind: "failed", message: `${path} took no connection within ${String(timeoutMs)} ms` }));
    }, timeoutMs);
    signal?.addEventListener("abort", onAbort, { once: true });
    socket.once("connect", onConnect);
    socket.on("error", onError);
  });
}

function connectErrorOf(path: string, cause: NodeJS.ErrnoException): ConnectError {
  switch (cause.code) {
    case "ENOENT":
      return { kind: "absent", message: `${path} does not exist` };
    case "ECONNREFUSED":
      return { kind: "dead", message: `nobody listens on ${path}; its owner ended without removing it` };
    case "EAGAIN":
      return { kind: "busy", message: `${path} is held by another client, and others wait for it` };
    default:
      return { kind: "failed", message: `cannot connect to ${path}: ${cause.code ?? cause.message}` };
  }
}

export type SocketUser = {
  /** Bytes as they come. */
  readonly onBytes: (bytes: Uint8Array) => void;
  /** Once. Told also of a close of ours, with our reason; nothing comes after it. */
  readonly onClose: (reason: string) => void;
};

export type OpenSocket = {
  /** Goes to the kernel, with all else that is written now, before any other event is handled. A socket that is closed takes it and does nothing. */
  write(text: string): void;
  /** Idempotent; the first reason stands. */
  close(reason: string): void;
};

/**
 * Takes a connected socket over.
 * @param maxQueuedBytes - what may wait for a peer that does not read, before it is given up
 * @param encoding - of what is written; latin1: each character is a byte
 */
export function takeSocket(
  socket: Socket,
  user: SocketUser,
  maxQueuedBytes = 1024 * 1024,
  encoding: "utf8" | "latin1" = "utf8",
): OpenSocket {
  let open = true;
  const end = (reason: string): void => {
    if (!open) return;
    open = false;
    socket.destroy();
    user.onClose(reason);
  };
  socket.on("data", (bytes: Uint8Array) => {
    if (open) user.onBytes(bytes);
  });
  socket.on("error", (cause: NodeJS.ErrnoException) => end(`the connection broke (${cause.code ?? cause.message})`));
  socket.on("end", () => end("the peer closed the connection"));
  socket.on("close", () => end("the connection was closed"));
  socket.resume(); // a server may hand it over paused
  if (socket.destroyed) queueMicrotask(() => end("the connection was closed")); // before it was taken over
  let waiting = "";
  const send = (): void => {
    const text = waiting;
    waiting = "";
    if (open) socket.write(text, encoding);
  };
  return {
    write(text) {
      if (!open) return;
      // A round of commands that is written in one go costs one system call.
      if (waiting === "") queueMicrotask(send);
      waiting += text;
      const queued = socket.writableLength + waiting.length;
      if (queued > maxQueuedBytes) end(`the peer does not read: ${String(queued)} bytes wait for it`);
    },
    close: end,
  };
}
