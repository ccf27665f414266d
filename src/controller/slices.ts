/** Long work in slices, so that the event loop gets its turns between them (product.md §8: no pause over 50 ms). */
import type { Clock } from "../model/contracts.ts";

export type SliceOptions = {
  readonly clock: Pick<Clock, "now">;
  /** How long a slice may take before the next turn is waited for. */
  readonly sliceMs: number;
  /** Runs a function in a later turn of the event loop. */
  readonly defer: (fn: () => void) => void;
};

/** Begins at once; work that fits into one slice is done when this returns. @param work - yields wherever it may be interrupted */
export function runInSlices(work: Iterator<unknown>, options: SliceOptions, done: () => void): void {
  const { clock, sliceMs, defer } = options;
  const begin = clock.now();
  while (work.next().done !== true) {
    if (clock.now() - begin < sliceMs) continue;
    defer(() => runInSlices(work, options, done));
    return;
  }
  done();
}
