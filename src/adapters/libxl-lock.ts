/**
 * libxl's lock files, in libxl's own way, so that its commands and ours wait for each other: open (made if missing), flock exclusively, and hold it
 * only if the path still is that file; given back by unlink, then close.
 * Source: xen, tools/libs/light/libxl_internal.c (libxl__lock_file, libxl__unlock_file).
 * Node has no flock: flock(1) takes it on a descriptor that it inherits. The lock belongs to the open file, so it stays when flock(1) ends,
 * and the kernel gives it back when plugherd ends, however that happens.
 */
import type { Stats } from "node:fs";
import { constants, open, type FileHandle, readFile, stat, unlink } from "node:fs/promises";
import type { Clock } from "../model/contracts.ts";
import { err, ok, type Result } from "../model/result.ts";
import type { Timings } from "../model/timings.ts";
import { deviceOfMount, parseLocks } from "../protocol/proc-locks.ts";
import { createGate, type Gate } from "./gate.ts";
import { readBytesSync } from "./bounded-read.ts";
import { runProgram } from "./program.ts";

/** held: somebody else has it, and kept it for as long as we wait. failed: the file or flock(1) cannot be had. */
export type LockError = { readonly kind: "held" | "failed"; readonly message: string };
export type LibxlLocks = {
  /**
   * Runs `run` while we hold the lock, and hands on what it gives. Of this process, too, one at a time a path. `run` has no time limit here.
   * @param path - e.g. `/var/lib/xen/userdata-l.<domid>.<uuid>.qmp-socket-lock`; its directory must be there
   */
  withLock<T>(path: string, run: () => Promise<T>): Promise<Result<T, LockError>>;
  /**
   * Whether somebody else holds it now, or waits for it while we do. A file that is missing is held by nobody; when it cannot be told, it is held.
   * Takes no lock, so that nobody is made to wait.
   */
  isHeld(path: string): Promise<boolean>;
};
export type LibxlLockDeps = {
  readonly clock: Clock;
  readonly timings: Pick<Timings, "libxlLockMs">;
  /** Name or path of flock(1). */
  readonly command?: string;
  readonly proc?: string;
};

const FLAGS = constants.O_RDWR | constants.O_CREAT;
const MODE = 0o600;
/** Some 60 bytes a lock. */
const MAX_LOCKS_BYTES = 4 * 1024 * 1024;

const same = (a: Stats, b: Stats | null): boolean => b !== null && a.ino === b.ino && a.dev === b.dev;
const statOf = (path: string): Promise<Stats | null> => stat(path).catch(() => null);

export function createLibxlLocks({ clock, timings, command = "flock", proc = "/proc" }: LibxlLockDeps): LibxlLocks {
  const queues = new Map<string, { readonly gate: Gate; users: number }>();
  const ours = new Set<string>();

  /** One after the other, so that we never wait for ourselves in flock(1). */
  const inTurn = async <T>(path: string, run: () => Promise<T>): Promise<T> => {
    const queue = queues.get(path) ?? { gate: createGate(1), users: 0 };
    queues.set(path, queue);
    queue.users += 1;
    try {
      return await queue.gate(run);
    } finally {
      queue.users -= 1;
      if (queue.users === 0) queues.delete(path);
    }
  };
  /** @returns the open file that holds the lock */
  const take = async (path: string): Promise<Result<FileHandle, LockError>> => {
    const until = clock.now() + timings.libxlLockMs;
    for (;;) {
      const file = await open(path, FLAGS, MODE).catch((cause: NodeJS.ErrnoException) => cause);
      if (file instanceof Error) return err({ kind: "failed", message: `${path} cannot be opened: ${file.code ?? file.message}` });
      const timeoutMs = until - clock.now();
      const locked = timeoutMs > 0 ? await runProgram(command, ["-x", "3"], { timeoutMs, maxBytes: 0, clock, descriptor: file.fd }) : null;
      // Who had it before us has removed it: others make and lock a new one.
      if (locked?.ok === true && same(await file.stat(), await statOf(path))) return ok(file);
      await file.close();
      if (locked === null || (!locked.ok && locked.error.kind === "timeout"))
        return err({ kind: "held", message: `${path} was not free within ${String(timings.libxlLockMs)} ms` });
      if (!locked.ok) return err({ kind: "failed", message: `${path} cannot be locked: ${locked.error.message}` });
    }
  };
  const release = async (path: string, file: FileHandle): Promise<void> => {
    // Removed with all else of a destroyed domain, it may be another's by now.
    if (same(await file.stat(), await statOf(path))) await unlink(path).catch(() => undefined);
    await file.close();
  };

  return {
    withLock: (path, run) =>
      inTurn(path, async () => {
        const taken = await take(path);
        if (!taken.ok) return taken;
        ours.add(path);
        try {
          return ok(await run());
        } finally {
          await release(path, taken.value);
          ours.delete(path);
        }
      }),
    async isHeld(path) {
      const file = await statOf(path);
      if (file === null) return false;
      const text = readBytesSync(`${proc}/locks`, MAX_LOCKS_BYTES);
      if (text === null) return true;
      const locks = parseLocks(new TextDecoder().decode(text)).filter(
        ({ kind, inode, waits }) => kind === "FLOCK" && inode === file.ino && (waits || !ours.has(path)),
      );
      if (locks.length === 0) return false;
      const { major, minor } = (await deviceOf(path)) ?? deviceNumber(file.dev);
      return locks.some((lock) => lock.major === major && lock.minor === minor);
    },
  };
}

/** What /proc/locks calls the filesystem that a path is on; null: not told. */
async function deviceOf(path: string): Promise<{ readonly major: number; readonly minor: number } | null> {
  const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK).catch(() => null);
  if (file === null) return null;
  const text = (name: string): Promise<string> => readFile(`/proc/self/${name}`, "utf8").catch(() => "");
  const [fdinfo, mountinfo] = await Promise.all([text(`fdinfo/${String(file.fd)}`), text("mountinfo")]);
  await file.close();
  return deviceOfMount(fdinfo, mountinfo);
}
/** As Linux packs a device number for user space (include/linux/kdev_t.h, new_encode_dev). */
const deviceNumber = (dev: number): { readonly major: number; readonly minor: number } => ({
  major: (dev & 0xfff00) >> 8,
  minor: (dev & 0xff) | ((dev >> 12) & 0xfff00),
});
