/**
 * Ends connections that dawdle. Node's own check runs by an interval for as long as a server listens, and would wake an idle daemon for
 * nothing; these timers exist only while a connection does.
 */
import type { Server } from "node:http";
import type { Socket } from "node:net";

export type Deadlines = {
  /** From the connection, or from the end of the last answer, until a request's headers are complete. */
  readonly headersMs: number;
  /** From there until the answer is out, body and all. */
  readonly answerMs: number;
};
export const defaultDeadlines: Deadlines = { headersMs: 10_000, answerMs: 60_000 };

/** For `createServer`: so far apart that the check never runs. */
export const NEVER_CHECK = { connectionsCheckingInterval: 2 ** 31 - 1 } as const;

export function keepDeadlines(server: Server, { headersMs, answerMs }: Deadlines): void {
  const timers = new Map<Socket, NodeJS.Timeout>();
  const clear = (socket: Socket): void => {
    clearTimeout(timers.get(socket));
    timers.delete(socket);
  };
  const within = (socket: Socket, ms: number): void => {
    clear(socket);
    if (!socket.destroyed) timers.set(socket, setTimeout(() => socket.destroy(), ms).unref());
  };
  server.on("connection", (socket) => {
    within(socket, headersMs);
    socket.once("close", () => clear(socket));
  });
  server.on("request", ({ socket }, response) => {
    within(socket, answerMs);
    response.once("finish", () => within(socket, headersMs));
  });
  // The live stream has a heartbeat of its own.
  server.on("upgrade", ({ socket }) => clear(socket));
}
