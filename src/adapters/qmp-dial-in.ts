/** A socket of ours that QEMUs dial in to (`-chardev socket,path=…,reconnect=1 -mon …,mode=control`). */
import { chmod, mkdir, unlink } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import { dirname } from "node:path";
import type { Clock } from "../model/contracts.ts";
import { err, ok, type Result } from "../model/result.ts";
import { connectUnix } from "./socket.ts";

export type DialIn = { close(): void };
/** `held`: somebody answers on the socket. `failed`: it cannot be made there. */
export type ListenError = { readonly kind: "held" | "failed"; readonly message: string };

/** Monitors that may be connected at one time. */
const MAX_CONNECTIONS = 4096;

/**
 * Makes the directory and listens; a socket file that nobody answers on is taken over.
 * @param onSocket - is given each connection; it is its owner's from then on
 */
export async function listenForMonitors(
  path: string,
  { clock, connectMs }: { readonly clock: Clock; readonly connectMs: number },
  onSocket: (socket: Socket) => void,
): Promise<Result<DialIn, ListenError>> {
  try {
    await mkdir(dirname(path), { recursive: true });
  } catch (cause) {
    return err({ kind: "failed", message: `cannot make the directory of ${path}: ${said(cause)}` });
  }
  const holder = await connectUnix(path, { timeoutMs: connectMs, clock });
  if (holder.ok) holder.value.destroy();
  if (holder.ok || holder.error.kind === "busy")
    return err({ kind: "held", message: `${path} is answered by another process; end it first` });
  if (holder.error.kind === "dead") await unlink(path).catch(() => undefined);
  else if (holder.error.kind !== "absent") return err({ kind: "failed", message: holder.error.message });

  const server = createServer(onSocket);
  server.maxConnections = MAX_CONNECTIONS;
  const problem = await listening(server, path);
  if (problem !== null) return err({ kind: "failed", message: `cannot listen on ${path}: ${problem}` });
  // QEMUs of another user connect through the group.
  await chmod(path, 0o660).catch(() => undefined);
  return ok({ close: () => void server.close() });
}

const listening = (server: Server, path: string): Promise<string | null> =>
  new Promise((resolve) => {
    // Also after it listens: accept() may fail (no file descriptors left), and the next may work.
    server.on("error", (cause) => resolve(said(cause)));
    server.listen(path, () => resolve(null));
  });

const said = (cause: unknown): string => (cause instanceof Error ? cause.message : String(cause));
