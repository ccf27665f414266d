/** Processes of the benchmark that answer questions: one question, one answer, over Node's own channel. */
import { type ChildProcess, fork, type ForkOptions } from "node:child_process";

type Question = { readonly n: number; readonly name: string; readonly input: unknown };
type Answer = { readonly n: number; readonly output?: unknown; readonly failure?: string };
/** What a process can be asked; inputs and outputs are plain data. */
export type Handlers = Readonly<Record<string, (input: never) => unknown>>;

export type Child<H extends Handlers> = {
  readonly process: ChildProcess;
  readonly pid: number;
  ask<K extends keyof H & string>(name: K, ...input: Parameters<H[K]>): Promise<Awaited<ReturnType<H[K]>>>;
  stop(): Promise<void>;
};

/** In the process that is asked. It ends when nobody can ask any more. */
export function answer(handlers: Handlers): void {
  process.on("message", (message: Question) => {
    const { n, name, input } = message;
    void (async () => {
      let reply: Answer;
      try {
        const handler = handlers[name];
        if (handler === undefined) throw new Error(`nobody answers ${name}`);
        reply = { n, output: await handler(input as never) };
      } catch (cause) {
        reply = { n, failure: cause instanceof Error ? (cause.stack ?? cause.message) : String(cause) };
      }
      if (process.connected) process.send?.(reply);
    })();
  });
  process.on("disconnect", () => process.exit(0));
}

export function createChild<H extends Handlers>(script: string, args: readonly string[] = [], options: ForkOptions = {}): Child<H> {
  const child = fork(script, args, { stdio: ["ignore", "inherit", "inherit", "ipc"], ...options });
  const waiting = new Map<number, { resolve: (output: never) => void; reject: (cause: Error) => void }>();
  let last = 0;
  const ended = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  child.on("message", ({ n, output, failure }: Answer) => {
    const one = waiting.get(n);
    waiting.delete(n);
    if (failure === undefined) one?.resolve(output as never);
    else one?.reject(new Error(failure));
  });
  child.once("exit", (code, signal) => {
    for (const { reject } of waiting.values()) reject(new Error(`${script} ended: ${String(code ?? signal)}`));
    waiting.clear();
  });
  return {
    process: child,
    pid: child.pid ?? 0,
    ask: (name, ...input) =>
      new Promise((resolve, reject) => {
        last += 1;
        waiting.set(last, { resolve, reject });
        child.send({ n: last, name, input: input[0] } satisfies Question, (cause) => cause !== null && reject(cause));
      }),
    stop: async () => {
      child.kill("SIGTERM");
      await ended;
    },
  };
}

/** CLOCK_MONOTONIC in ms: one clock for all processes. */
export const nowMs = (): number => Number(process.hrtime.bigint()) / 1e6;
export const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
export async function until(is: () => boolean | Promise<boolean>, timeoutMs: number, what: string): Promise<void> {
  const end = nowMs() + timeoutMs;
  while (!(await is())) {
    if (nowMs() > end) throw new Error(`${what}: not within ${String(timeoutMs)} ms`);
    await sleep(20);
  }
}
