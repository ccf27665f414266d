/** Programs of the host that are run for an answer: no shell, a time limit, an output limit, and an end in every case. */
import { spawn } from "node:child_process";
import type { Clock } from "../model/contracts.ts";
import { err, ok, type Result } from "../model/result.ts";

export type ProgramError = {
  /** absent: there is no such program. timeout: it was killed. failed: all else; the message holds its last words. */
  readonly kind: "absent" | "timeout" | "failed";
  readonly message: string;
};
export type ProgramOptions = {
  readonly timeoutMs: number;
  /** Of its output; more is a failure. */
  readonly maxBytes: number;
  readonly clock: Clock;
  /** Kills it. */
  readonly signal?: AbortSignal;
  /** A descriptor of ours that it gets as 3. */
  readonly descriptor?: number;
};

/** What is kept of stderr for the message. */
const MAX_WORDS = 400;

/**
 * @param command - a name that is looked up in PATH, or a path
 * @returns what it wrote to stdout, if it ended with 0. What it leaves behind (a child that keeps the pipe open) is not waited for
 */
export function runProgram(
  command: string,
  args: readonly string[],
  { timeoutMs, maxBytes, clock, signal, descriptor }: ProgramOptions,
): Promise<Result<string, ProgramError>> {
  if (signal?.aborted === true) return Promise.resolve(err({ kind: "failed", message: "called off" }));
  return new Promise((resolve) => {
    const child = spawn(command, args, {
      stdio: ["ignore", "pipe", "pipe", ...(descriptor === undefined ? [] : [descriptor])],
      env: { ...process.env, LC_ALL: "C" },
    });
    const { stdout, stderr } = child;
    const out: Buffer[] = [];
    let size = 0;
    let words = "";
    let open = true;
    const finish = (result: Result<string, ProgramError>): void => {
      if (!open) return;
      open = false;
      clock.clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
      stdout?.destroy();
      stderr?.destroy();
      if (child.exitCode === null && child.signalCode === null) child.kill("SIGKILL");
      resolve(result);
    };
    const onAbort = (): void => finish(err({ kind: "failed", message: "called off" }));
    const timer = clock.setTimeout(
      () => finish(err({ kind: "timeout", message: `${command} did not end within ${String(timeoutMs)} ms` })),
      timeoutMs,
    );
    signal?.addEventListener("abort", onAbort, { once: true });
    stdout?.on("data", (bytes: Buffer) => {
      size += bytes.length;
      if (size > maxBytes) finish(err({ kind: "failed", message: `${command} wrote more than ${String(maxBytes)} bytes` }));
      else out.push(bytes);
    });
    stderr?.on("data", (bytes: Buffer) => {
      if (words.length < MAX_WORDS) words += bytes.toString("utf8").slice(0, MAX_WORDS);
    });
    child.on("error", (cause: NodeJS.ErrnoException) => {
      if (cause.code === "ENOENT") finish(err({ kind: "absent", message: `there is no program ${command}` }));
      else finish(err({ kind: "failed", message: `${command} cannot be run: ${cause.code ?? cause.message}` }));
    });
    child.on("close", (code, killedBy) => {
      if (code === 0) return finish(ok(Buffer.concat(out).toString("utf8")));
      const how = code === null ? `was ended by ${String(killedBy)}` : `ended with ${String(code)}`;
      const said = words.trim().replaceAll(/\s+/g, " ");
      finish(err({ kind: "failed", message: `${command} ${how}${said === "" ? "" : `: ${said}`}` }));
    });
  });
}
