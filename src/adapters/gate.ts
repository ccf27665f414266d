/** Lets at most `limit` pieces of work run at one time; the rest wait in order of arrival. */
export type Gate = <T>(run: () => Promise<T>) => Promise<T>;

/** @param limit - at least 1 */
export function createGate(limit: number): Gate {
  let running = 0;
  const waiting: (() => void)[] = [];
  return async (run) => {
    if (running >= limit) await new Promise<void>((resolve) => waiting.push(resolve));
    else running += 1;
    try {
      return await run();
    } finally {
      const next = waiting.shift();
      // The place is handed on: nobody who comes now can take it first.
      if (next === undefined) running -= 1;
      else next();
    }
  };
}
