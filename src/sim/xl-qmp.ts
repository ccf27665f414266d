/**
 * QMP as libxl speaks it: one connection an operation, under the domain's qmp-socket-lock, numbers as strings, no event read.
 * Source: recordings (specs/transcripts/xen); tools/libs/light: libxl_qmp.c, libxl_internal.c (libxl__lock_file).
 */
import { type ChildProcess, spawn } from "node:child_process";
import { rmSync, statSync } from "node:fs";
import { connect } from "node:net";
import { err, ok, type Result } from "../model/result.ts";
import type { Pending } from "./pending.ts";

/** What a command of xl would print on stderr, without source lines. */
export type XlOutcome = Result<null, string>;
export type QmpArguments = Readonly<Record<string, string>>;
export type LibxlQmp = {
  /**
   * Refused: what QEMU said, or why it was not reached.
   * @param locked - while the lock is held, before anything is sent
   */
  execute(command: string, args?: QmpArguments, locked?: () => unknown): Promise<XlOutcome>;
};
export type LibxlQmpOptions = {
  readonly socket: string;
  /** null: no lock is taken. */
  readonly lockFile: string | null;
  /** LIBXL_QMP_CMD_TIMEOUT, for the whole of connection and command. */
  readonly timeoutMs: number;
  readonly pending: Pending;
  /** Told of each line that goes out, without its end. */
  readonly onLine: (line: string) => void;
};

/** libxl's first id; its capabilities command goes by the next one. */
export const LIBXL_COMMAND_ID = 0x786c7100;

export function createLibxlQmp(options: LibxlQmpOptions): LibxlQmp {
  return {
    async execute(command, args, locked) {
      const release = options.lockFile === null ? null : await takeLock(options.lockFile);
      try {
        await locked?.();
        return await converse(options, command, args);
      } finally {
        release?.();
      }
    },
  };
}

const converse = ({ socket: path, timeoutMs, pending, onLine }: LibxlQmpOptions, command: string, args?: QmpArguments) =>
  new Promise<XlOutcome>((resolve) => {
    const socket = connect({ path });
    let text = "";
    const cancel = pending.after(timeoutMs, () => finish(err("timed out while waiting for a reply of the device model")));
    const finish = (outcome: XlOutcome): void => {
      cancel();
      socket.destroy();
      resolve(outcome);
    };
    const send = (message: object): void => {
      const line = JSON.stringify(message);
      onLine(line);
      socket.write(`${line}\r\n`);
    };
    const take = (line: string): void => {
      const message = JSON.parse(line) as { QMP?: unknown; id?: number; error?: { desc: string } };
      if (message.QMP !== undefined) send({ execute: "qmp_capabilities", id: LIBXL_COMMAND_ID + 1 });
      if (message.id === LIBXL_COMMAND_ID + 1)
        send({ execute: command, id: LIBXL_COMMAND_ID, ...(args === undefined ? {} : { arguments: args }) });
      if (message.id === LIBXL_COMMAND_ID) finish(message.error === undefined ? ok(null) : err(message.error.desc));
    };
    socket.on("error", ({ message }) => finish(err(message)));
    socket.on("close", () => finish(err("the device model closed the connection")));
    socket.on("data", (bytes) => {
      text += bytes.toString("utf8");
      for (let end = text.indexOf("\r\n"); end !== -1; end = text.indexOf("\r\n")) {
        const line = text.slice(0, end);
        text = text.slice(end + 2);
        take(line);
      }
    });
  });

/**
 * A real flock, so that others see who holds it: flock(1) opens the file, takes it and becomes a `cat` that lives as long as we hold it.
 * @returns lets go as libxl does: the file is removed, then closed
 */
async function takeLock(path: string): Promise<() => void> {
  for (;;) {
    const holder = spawn("flock", ["--exclusive", "--no-fork", path, "cat"], { stdio: ["pipe", "pipe", "ignore"] });
    if (!(await held(holder))) return () => undefined; // no such program here
    if (isSameFile(path, holder)) {
      return () => {
        rmSync(path, { force: true });
        holder.stdin?.end();
      };
    }
    holder.stdin?.end(); // whoever had it before has removed it meanwhile
  }
}
const held = (holder: ChildProcess): Promise<boolean> =>
  new Promise((resolve) => {
    for (const emitter of [holder, holder.stdin]) emitter?.on("error", () => resolve(false));
    holder.on("exit", () => resolve(false));
    holder.stdout?.once("data", () => resolve(true));
    holder.stdin?.write("held"); // comes back once cat runs
  });
function isSameFile(path: string, { pid }: ChildProcess): boolean {
  try {
    return statSync(path).ino === statSync(`/proc/${String(pid)}/fd/3`).ino;
  } catch {
    return false;
  }
}
