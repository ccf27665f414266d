/** A socket of ours that QEMUs dial in to (`-chardev socket,path=…,reconnect=1 -mon …,mode=control`). */
import { createServer, type Socket } from "node:net";
import type { Clock, Log } from "../model/contracts.ts";
import { ok, type Result } from "../model/result.ts";
import { type ListenError, listenOnOwnSocket } from "./own-socket.ts";

export type DialIn = { close(): void };

/** Monitors that may be connected at one time. */
const MAX_CONNECTIONS = 4096;

/** @param onSocket - is given each connection; it is its owner's from then on */
export async function listenForMonitors(
  path: string,
  { clock, connectMs, log }: { readonly clock: Clock; readonly connectMs: number; readonly log: Log },
  onSocket: (socket: Socket) => void,
): Promise<Result<DialIn, ListenError>> {
  const server = createServer(onSocket);
  server.maxConnections = MAX_CONNECTIONS;
  const onTrouble = (message: string): void => log.warn("a QEMU that dialled in could not be taken; it dials again", { message });
  const listening = await listenOnOwnSocket(server, path, { clock, timeoutMs: connectMs, onTrouble });
  return listening.ok ? ok({ close: () => void server.close() }) : listening;
}
