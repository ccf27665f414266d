/** What a command is given and what it hands back. Nothing here touches the process: tests run commands in-process with an Io of their own. */
import type { Result } from "../../model/result.ts";

export type Output = {
  write(text: string): unknown;
  /** A person's terminal: colour and redraw are allowed. */
  readonly isTTY?: boolean | undefined;
  readonly columns?: number | undefined;
  readonly rows?: number | undefined;
};
export type Io = {
  readonly stdout: Output;
  readonly stderr: Output;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Wall clock, ms since 1970. */
  readonly now: () => number;
  /** Aborts when the command is asked to end (SIGINT, SIGTERM). Asking for it takes the signals over. */
  readonly stopping: () => AbortSignal;
};

/** product.md §5. */
export const EXIT = { ok: 0, differs: 1, usage: 2, badState: 3, unreachable: 4, cannotStart: 5, bug: 70 } as const;
export type ExitCode = (typeof EXIT)[keyof typeof EXIT];

/** Why a command ended without doing what it was asked; `remedy` is what to do about it. */
export type Failure = { readonly exit: ExitCode; readonly message: string; readonly remedy: string | null };
/** How a command ended. */
export type Done = Result<ExitCode, Failure>;

export const usage = (message: string, remedy: string | null = null): Failure => ({ exit: EXIT.usage, message, remedy });

export const colourOf = (output: Output, env: Io["env"]): boolean =>
  output.isTTY === true && (env["NO_COLOR"] ?? "") === "" && env["TERM"] !== "dumb";
