/** Waiting for a condition, with an end. */
import { setTimeout as sleep } from "node:timers/promises";

export { sleep };

/**
 * Asks `probe` again and again until it answers with something that is not false, null or undefined, and returns that.
 * A probe that throws counts as "not yet"; its last error is told when the time is up.
 *
 * @param what - the condition in words, for the message of the failure
 */
export async function until<T>(
  what: string,
  probe: () => Promise<T | false | null | undefined> | T | false | null | undefined,
  { timeoutMs = 60_000, everyMs = 50 }: { readonly timeoutMs?: number; readonly everyMs?: number } = {},
): Promise<T> {
  const end = Date.now() + timeoutMs;
  let last: unknown;
  for (;;) {
    try {
      const value = await probe();
      if (value !== false && value !== null && value !== undefined) return value;
      last = value;
    } catch (error) {
      last = error;
    }
    if (Date.now() >= end) throw new Error(`waited ${String(timeoutMs)} ms in vain until ${what}; last: ${tell(last)}`);
    await sleep(everyMs);
  }
}

const tell = (value: unknown): string =>
  value instanceof Error ? value.message : (JSON.stringify(value) ?? String(value)).slice(0, 2_000);
