/** Faults of a fake QEMU's monitor: scripted (the next N of a command) or drawn by chance from a seed. Without any it costs nothing. */
import type { Refusal } from "./qemu-values.ts";

/** What happens to one command. */
export type Fault = {
  /** Refused without being executed. */
  readonly refuse?: Refusal;
  /** Answered this much later. */
  readonly delayMs?: number;
  /** The connection is cut before it is executed, or after that but before its reply. */
  readonly drop?: "before" | "after";
  /** Executed, never answered. */
  readonly swallow?: boolean;
  /** Its reply is cut in the middle of the line. */
  readonly garble?: boolean;
};
export type ChanceFault = Fault & {
  /** 0 to 1, for each command that no scripted fault takes. */ readonly probability: number;
  /** Only these commands; left out: any. */
  readonly commands?: readonly string[];
};

export type Faults = {
  /** The next `times` (1) of a command; `*`: of any. Scripted faults are taken in the order in which they were made. */
  next(command: string, fault: Fault, times?: number): void;
  /** Short for next(command, { refuse }). */
  refuse(command: string, desc: string, times?: number, errorClass?: Refusal["class"]): void;
  /** From now on, by chance; the same seed draws the same. */
  byChance(seed: number, faults: readonly ChanceFault[]): void;
  clear(): void;
};

export function createFaults(): { readonly faults: Faults; readonly take: (command: string) => Fault | undefined } {
  const scripted: { readonly command: string; readonly fault: Fault; left: number }[] = [];
  let chances: readonly ChanceFault[] = [];
  let random = mulberry32(0);
  const next = (command: string, fault: Fault, times = 1): void => {
    scripted.push({ command, fault, left: times });
  };
  return {
    faults: {
      next,
      refuse: (command, desc, times = 1, errorClass = "GenericError") => next(command, { refuse: { class: errorClass, desc } }, times),
      byChance(seed, faults) {
        random = mulberry32(seed);
        chances = faults;
      },
      clear() {
        scripted.length = 0;
        chances = [];
      },
    },
    take(command) {
      const found = scripted.find((entry) => entry.command === command || entry.command === "*");
      if (found !== undefined) {
        found.left -= 1;
        if (found.left <= 0) scripted.splice(scripted.indexOf(found), 1);
        return found.fault;
      }
      return chances.find(({ commands, probability }) => (commands?.includes(command) ?? true) && random() < probability);
    },
  };
}

/** A small generator of chance, in [0, 1): the same seed, the same numbers. */
function mulberry32(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}
