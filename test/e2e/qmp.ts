/** A QMP client for the tests: the witness's eyes and the hand on the cable. Not the program's own client, on purpose. */
import { once } from "node:events";
import type { Duplex } from "node:stream";

export type QmpEvent = { readonly event: string; readonly data: Readonly<Record<string, unknown>> };

export type Qmp = {
  /** Resolves to `return`; rejects with QEMU's own words. */
  call(command: string, args?: Readonly<Record<string, unknown>>): Promise<unknown>;
  /** Resolves with the next event that fits, from now on. */
  event(fits: (event: QmpEvent) => boolean, timeoutMs?: number): Promise<QmpEvent>;
  close(): void;
};

const CALL_MS = 30_000;

type Message = {
  readonly id?: number;
  readonly QMP?: unknown;
  readonly return?: unknown;
  readonly error?: { readonly desc: string };
  readonly event?: string;
  readonly data?: Readonly<Record<string, unknown>>;
};
type Waiter = { readonly resolve: (value: unknown) => void; readonly reject: (error: Error) => void };

/** Negotiates on a connection. Rejects when there is no greeting within `greetingMs`. */
export async function openQmp(stream: Duplex, greetingMs = 30_000): Promise<Qmp> {
  const pending = new Map<number, Waiter>();
  const listeners = new Set<(event: QmpEvent) => void>();
  let text = "";
  let nextId = 1;
  let greet: () => void = () => undefined;
  const greeted = new Promise<void>((resolve) => {
    greet = resolve;
  });
  stream.setEncoding("utf8");
  stream.on("data", (chunk: string) => {
    text += chunk;
    for (let end = text.indexOf("\n"); end >= 0; end = text.indexOf("\n")) {
      const line = text.slice(0, end).trim();
      text = text.slice(end + 1);
      if (line !== "") take(line);
    }
  });
  const fail = (error: Error): void => {
    for (const waiter of pending.values()) waiter.reject(error);
    pending.clear();
  };
  stream.on("error", fail);
  stream.on("close", () => {
    fail(new Error("the monitor closed the connection"));
  });

  function take(line: string): void {
    let message: Message;
    try {
      message = JSON.parse(line) as Message;
    } catch {
      stream.destroy(new Error(`not QMP: ${line.slice(0, 200)}`));
      return;
    }
    if (message.QMP !== undefined) greet();
    else if (message.event !== undefined) for (const listen of [...listeners]) listen({ event: message.event, data: message.data ?? {} });
    else if (message.id !== undefined) {
      const waiter = pending.get(message.id);
      pending.delete(message.id);
      if (message.error === undefined) waiter?.resolve(message.return);
      else waiter?.reject(new Error(message.error.desc));
    }
  }
  const within = async <T>(promise: Promise<T>, ms: number, what: string): Promise<T> => {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(() => {
        reject(new Error(`${what}: no answer in ${String(ms)} ms`));
      }, ms);
    });
    try {
      return await Promise.race([promise, late]);
    } finally {
      clearTimeout(timer);
    }
  };
  const call: Qmp["call"] = (command, args = {}) => {
    const id = nextId;
    nextId += 1;
    const answer = new Promise<unknown>((resolve, reject) => {
      pending.set(id, { resolve, reject });
      stream.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
    });
    return within(answer, CALL_MS, command);
  };
  try {
    await within(Promise.race([greeted, once(stream, "close")]), greetingMs, "greeting");
    await call("qmp_capabilities");
  } catch (error) {
    stream.destroy();
    throw error;
  }
  return {
    call,
    event: (fits, timeoutMs = 30_000) => {
      let listen: (event: QmpEvent) => void = () => undefined;
      const seen = new Promise<QmpEvent>((resolve) => {
        listen = (event) => {
          if (fits(event)) resolve(event);
        };
        listeners.add(listen);
      });
      return within(seen, timeoutMs, "event").finally(() => listeners.delete(listen));
    },
    close: () => {
      stream.destroy();
    },
  };
}
