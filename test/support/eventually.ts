/** Waits for a condition of the world, never for a duration. */

/**
 * @param look - returns something truthy once it is so; what it throws (a failed expect) counts as not yet, and is thrown in the end
 * @returns what `look` returned
 */
export async function eventually<T>(
  look: () => T | Promise<T>,
  { timeoutMs = 10_000, everyMs = 5 }: { readonly timeoutMs?: number; readonly everyMs?: number } = {},
): Promise<T> {
  const until = performance.now() + timeoutMs;
  for (;;) {
    let problem: unknown = new Error("the condition did not come true in time");
    try {
      const found = await look();
      if (found !== false && found !== undefined && found !== null) return found;
    } catch (cause) {
      problem = cause;
    }
    if (performance.now() > until) throw problem;
    await new Promise((resolve) => {
      setTimeout(resolve, everyMs);
    });
  }
}
