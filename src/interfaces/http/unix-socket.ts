/** Taking a unix socket's path: one that nobody answers on is taken over, one that answers is left and its holder named. */
import { lstat, mkdir, unlink } from "node:fs/promises";
import { request, type Server } from "node:http";
import { connect } from "node:net";
import { dirname } from "node:path";
import { chmodSync } from "node:fs";
import { socketHolder } from "../../adapters/socket-holder.ts";
import { err, ok, type Result } from "../../model/result.ts";

/** sun_path of Linux, without the closing zero. */
const LONGEST_PATH = 107;
/** A daemon that is alive accepts at once; one that is busy answers within this. */
const ANSWER_MS = 2_000;

const reason = (cause: unknown): string => (cause instanceof Error ? cause.message : String(cause));

const accepts = (path: string): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect(path);
    const end = (answer: boolean): void => {
      socket.destroy();
      resolve(answer);
    };
    socket.once("connect", () => end(true));
    // A full backlog (EAGAIN) is a sign of life; refusal and absence are none.
    socket.once("error", (cause: NodeJS.ErrnoException) => end(cause.code !== "ECONNREFUSED" && cause.code !== "ENOENT"));
  });

/** Asks whoever holds the socket who it is, and the kernel where it does not say. */
const holder = (path: string): Promise<string> =>
  new Promise((resolve) => {
    const unknown = (): void => void socketHolder(path).then((found) => resolve(found ?? "a program that does not say who it is"));
    const asked = request({ socketPath: path, path: "/healthz", timeout: ANSWER_MS }, (answer) => {
      let text = "";
      answer.setEncoding("utf8");
      answer.on("data", (chunk: string) => {
        text = `${text}${chunk}`.slice(0, 4_096);
      });
      answer.on("error", unknown);
      answer.on("end", () => {
        try {
          const body = JSON.parse(text) as { name?: unknown; pid?: unknown };
          if (body.name === "plugherd" && Number.isSafeInteger(body.pid)) resolve(`plugherd, process ${String(body.pid)}`);
          else unknown();
        } catch {
          unknown();
        }
      });
    });
    asked.on("timeout", () => asked.destroy(new Error("no answer")));
    asked.on("error", unknown);
    asked.end();
  });

/** Makes the parent directory and clears a dead socket away. An error says what is in the way and what to do. */
export async function freeSocketPath(path: string): Promise<Result<void, string>> {
  if (Buffer.byteLength(path) > LONGEST_PATH)
    return err(`${path} is too long for a unix socket (${String(LONGEST_PATH)} bytes at most); give a shorter --api`);
  try {
    await mkdir(dirname(path), { recursive: true, mode: 0o755 });
  } catch (cause) {
    return err(`the directory of ${path} cannot be made: ${reason(cause)}; make it, or give another --api`);
  }
  const before = await lstat(path).catch(() => null);
  if (before === null) return ok(undefined);
  if (!before.isSocket()) return err(`${path} is there and is no socket; move it away, or give another --api`);
  if (await accepts(path)) return err(`${path} is answered by ${await holder(path)}; stop it, or give another --api`);
  // Somebody may have taken it over while we asked.
  const now = await lstat(path).catch(() => null);
  if (now === null) return ok(undefined);
  if (now.ino !== before.ino) return err(`${path} was taken by another program just now; stop it, or give another --api`);
  try {
    await unlink(path);
    return ok(undefined);
  } catch (cause) {
    return err(`the dead socket ${path} cannot be removed: ${reason(cause)}`);
  }
}

/** Listens, never with a wider mode than 0660, not even for a moment. */
export function listenOnSocket(server: Server, path: string): Promise<Result<void, string>> {
  return new Promise((resolve) => {
    const failed = (cause: Error): void => resolve(err(`cannot listen on ${path}: ${cause.message}`));
    server.once("error", failed);
    const umask = process.umask(0o117); // binding happens within listen()
    try {
      server.listen(path, () => {
        server.off("error", failed);
        try {
          chmodSync(path, 0o660);
          resolve(ok(undefined));
        } catch (cause) {
          resolve(err(`the mode of ${path} cannot be set: ${reason(cause)}`));
        }
      });
    } finally {
      process.umask(umask);
    }
  });
}
