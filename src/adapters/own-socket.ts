/** A unix socket of our own: one that nobody answers on is taken over, one that answers is left alone, and so is whatever is no socket. */
import { chmodSync } from "node:fs";
import { lstat, mkdir, unlink } from "node:fs/promises";
import type { Server } from "node:net";
import { dirname } from "node:path";
import { err, ok, type Result } from "../model/result.ts";
import { type ConnectOptions, connectUnix } from "./socket.ts";

/** sun_path of Linux, without the closing zero. Node cuts a longer one off without a word. */
const LONGEST_PATH = 107;

/** `held`: somebody answers on the socket. `failed`: it cannot be made there. In words, without what to do about it. */
export type ListenError = { readonly kind: "held" | "failed"; readonly message: string };

export type OwnSocketOptions = ConnectOptions & {
  /** Once it listens: a connection could not be taken (no file descriptors left); the next may be. */
  readonly onTrouble: (message: string) => void;
};

/** Makes the directory and listens, owner and group only. Whoever closes the server removes the socket. */
export async function listenOnOwnSocket(server: Server, path: string, options: OwnSocketOptions): Promise<Result<void, ListenError>> {
  const free = await freePath(path, options);
  return free.ok ? await listen(server, path, options) : free;
}

async function freePath(path: string, options: ConnectOptions): Promise<Result<void, ListenError>> {
  if (Buffer.byteLength(path) > LONGEST_PATH)
    return failed(`${path} is too long for a unix socket (${String(LONGEST_PATH)} bytes at most)`);
  try {
    await mkdir(dirname(path), { recursive: true, mode: 0o755 });
  } catch (cause) {
    return failed(`the directory of ${path} cannot be made: ${said(cause)}`);
  }
  const before = await lstat(path).catch(() => null);
  if (before === null) return ok(undefined);
  // Connecting to a plain file is refused as by a dead socket: without this look it would be removed as one.
  if (!before.isSocket()) return failed(`${path} is there and is no socket`);
  const holder = await connectUnix(path, options);
  if (holder.ok) holder.value.destroy();
  if (holder.ok || holder.error.kind === "busy") return err({ kind: "held", message: `${path} is answered by another process` });
  if (holder.error.kind === "failed") return failed(holder.error.message);
  // Somebody may have taken it over while we asked.
  const now = await lstat(path).catch(() => null);
  if (now === null) return ok(undefined);
  if (now.ino !== before.ino) return err({ kind: "held", message: `${path} was taken by another process just now` });
  try {
    await unlink(path);
    return ok(undefined);
  } catch (cause) {
    return failed(`the dead socket ${path} cannot be removed: ${said(cause)}`);
  }
}

function listen(server: Server, path: string, { onTrouble }: OwnSocketOptions): Promise<Result<void, ListenError>> {
  return new Promise((resolve) => {
    let listening = false;
    server.on("error", (cause) => {
      if (listening) onTrouble(`${path}: ${said(cause)}`);
      else resolve(failed(`cannot listen on ${path}: ${said(cause)}`));
    });
    const umask = process.umask(0o117); // binding happens within listen(): not for a moment is the mode wider
    try {
      server.listen(path, () => {
        listening = true;
        try {
          chmodSync(path, 0o660);
          resolve(ok(undefined));
        } catch (cause) {
          server.close();
          resolve(failed(`the mode of ${path} cannot be set: ${said(cause)}`));
        }
      });
    } finally {
      process.umask(umask);
    }
  });
}

const failed = (message: string): { readonly ok: false; readonly error: ListenError } => err({ kind: "failed", message });
const said = (cause: unknown): string => (cause instanceof Error ? cause.message : String(cause));
