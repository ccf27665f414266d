/** What operators have said and identity checks have found: holds, pauses, quarantines. Kept in the intentions, expiring by the clock, in force as part of the world. */
import type { Clock } from "../model/contracts.ts";
import type { Hold, Intentions, Pause, Quarantine } from "../model/intentions.ts";
import type { PolicyState } from "../model/policy.ts";
import type { WorldChange } from "../model/world.ts";
import type { Alarms } from "./alarms.ts";
import type { Book } from "./book.ts";

export type Overrides = {
  /** All of them, as the planner takes them. */
  change(): WorldChange;
  /** Sets the alarms of all holds anew, by the wall clock. */
  schedule(): void;
  pause(domain: string, reason: string | null): void;
  /** @returns false: it was not paused */
  resume(domain: string): boolean;
  hold(hold: Hold): void;
  /** @returns false: there was no hold */
  release(domain: string, device: string): boolean;
  quarantine(quarantine: Quarantine, was: string): void;
  /** @returns false: nothing of that claim is quarantined */
  approve(domain: string, device: string): boolean;
};

export function createOverrides(deps: {
  readonly clock: Clock;
  readonly alarms: Alarms;
  readonly book: Book;
  readonly get: () => Intentions;
  readonly keep: (part: Partial<Intentions>) => void;
  readonly policy: () => PolicyState;
  readonly apply: (changes: readonly WorldChange[]) => void;
}): Overrides {
  const { clock, alarms, book, get, keep } = deps;
  const change = (): WorldChange => {
    const { holds, pauses, quarantines } = get();
    return { kind: "overrides", holds: holds.filter(({ until }) => until > clock.now()), pauses, quarantines };
  };
  const set = (part: Partial<Pick<Intentions, "holds" | "pauses" | "quarantines">>): void => {
    keep(part);
    deps.apply([change()]);
  };
  const nameOf = (hold: Pick<Hold, "domain" | "device">): string => `hold ${hold.domain}/${hold.device}`;
  const others = <T extends { readonly domain: string; readonly device: string }>(of: readonly T[], domain: string, device: string): T[] =>
    of.filter((one) => one.domain !== domain || one.device !== device);
  const schedule = (hold: Hold): void =>
    alarms.set(nameOf(hold), hold.until - clock.now(), () => {
      book.note({ domain: hold.domain, device: hold.device, kind: "operator", reason: "HoldEnded", message: "The hold has ended." });
      set({ holds: others(get().holds, hold.domain, hold.device) });
    });

  return {
    change,
    schedule() {
      for (const hold of get().holds) schedule(hold);
    },
    pause(domain, reason) {
      const pause: Pause = { domain, since: clock.now(), reason };
      set({ pauses: [...get().pauses.filter((one) => one.domain !== domain), pause] });
    },
    resume(domain) {
      const { pauses } = get();
      if (!pauses.some((one) => one.domain === domain)) return false;
      set({ pauses: pauses.filter((one) => one.domain !== domain) });
      return true;
    },
    hold(hold) {
      schedule(hold);
      set({ holds: [...others(get().holds, hold.domain, hold.device), hold] });
    },
    release(domain, device) {
      const rest = others(get().holds, domain, device);
      if (rest.length === get().holds.length) return false;
      alarms.clear(nameOf({ domain, device }));
      set({ holds: rest });
      return true;
    },
    quarantine(quarantine, was) {
      const { domain, device } = quarantine;
      const policy = deps.policy();
      const message = `At ${quarantine.busid} it came back as something else: ${was} is now ${quarantine.fingerprint}.`;
      book.note({ domain, device, kind: "policy", reason: "IdentityChanged", message });
      if (policy.kind === "valid" && policy.policy.onIdentityChange === "report") return;
      const { busid } = quarantine;
      const rest = get().quarantines.filter((one) => one.domain !== domain || one.device !== device || one.busid !== busid);
      set({ quarantines: [...rest, quarantine] });
    },
    approve(domain, device) {
      const rest = others(get().quarantines, domain, device);
      if (rest.length === get().quarantines.length) return false;
      set({ quarantines: rest });
      return true;
    },
  };
}
