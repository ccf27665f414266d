/** Named one-shot timers on the injected clock. Setting a name again moves it. None is set while nothing waits. */
import type { Clock } from "../model/contracts.ts";

export type Alarms = {
  set(name: string, inMs: number, ring: () => void): void;
  clear(name: string): void;
  stop(): void;
};

/** Node's timers hold 31 bits of milliseconds; a longer wait is taken in pieces. */
const LONGEST_MS = 2 ** 31 - 1;

export function createAlarms(clock: Clock): Alarms {
  const handles = new Map<string, unknown>();
  const clear = (name: string): void => {
    const handle = handles.get(name);
    if (handle === undefined) return;
    handles.delete(name);
    clock.clearTimeout(handle);
  };
  const set = (name: string, inMs: number, ring: () => void): void => {
    clear(name);
    const piece = Math.max(0, Math.min(inMs, LONGEST_MS));
    handles.set(
      name,
      clock.setTimeout(() => {
        handles.delete(name);
        if (inMs > piece) set(name, inMs - piece, ring);
        else ring();
      }, piece),
    );
  };
  return {
    set,
    clear,
    stop() {
      for (const name of [...handles.keys()]) clear(name);
    },
  };
}
