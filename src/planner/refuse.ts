/** Why a present device is no candidate for an entry: denied, held by an operator, or sitting where it may not be taken from (product.md §2). */
import { instanceOf } from "../model/hostdev.ts";
import type { Hold } from "../model/intentions.ts";
import { openPolicy } from "../model/policy.ts";
import { type Admission, admit } from "./admit.ts";
import type { Seat } from "./seats.ts";
import { type Entry, isSure, type View } from "./view.ts";

export type Refusal = {
  readonly busid: string;
  readonly kind: "denied" | "held" | "taken";
  readonly reason: string;
  readonly message: string;
};

/** Whether the domain that an entry's file means has the device for certain. */
export const sitsIn = (view: View, domain: string, busid: string): Seat | null => {
  const live = view.authority(domain).live?.key;
  const own = live === undefined ? [] : view.seats(busid).filter((seat) => seat.live === live && isSure(view, seat));
  return own.find(({ object }) => object.ours) ?? own[0] ?? null;
};

/** @param entry - null: asked for an object that no entry claims */
export function admission(view: View, domain: string, entry: string | null, busid: string): Admission {
  const { policy, vetoes, quarantines } = view.world;
  const device = view.device(busid);
  return admit({
    policy: policy.kind === "valid" ? policy.policy : openPolicy,
    device,
    domain,
    entry,
    // What is in the domain already is in use there; what the host did with it before says nothing.
    veto: sitsIn(view, domain, busid) === null ? (vetoes.get(instanceOf(device)) ?? null) : null,
    quarantines,
  });
}

const isOut = (view: View, busid: string): boolean => view.seats(busid).length === 0;

/**
 * The operator's hold that keeps a device from every claim. Where the held entry matches several devices, one that sits in a domain
 * other than the entry's own is not the one that was meant.
 */
export function holdFor(view: View, busid: string): { readonly hold: Hold; readonly entry: Entry } | null {
  for (const entry of view.entriesFor(busid)) {
    const hold = view.holdOn(entry);
    if (hold === null || hold.release) continue;
    const [, second] = view.devicesFor(entry);
    if (second === undefined || isOut(view, busid) || sitsIn(view, entry.domain, busid) !== null) return { hold, entry };
  }
  return null;
}

export const untilText = (hold: Hold): string => `${new Date(hold.until).toISOString()}${hold.reason === null ? "" : ` (${hold.reason})`}`;

/** Why an object stays where it is even when another claim wins its device; null: it goes. */
export function staysBecause(view: View, seat: Seat, busid: string): string | null {
  const { object, live } = seat;
  const names = view.governors(live);
  const present = view.world.domains.get(live);
  const place = `domain ${present?.name ?? live}`;
  if (view.world.policy.kind === "invalid") return `${place}, and nothing is detached while the host policy is not valid`;
  const inForce = names.filter((name) => view.world.forced.get(name)?.standing !== "vanished");
  const governor = inForce[0] ?? names[0];
  if (governor === undefined) return `${place}, which no file names`;
  const authority = view.authority(governor);
  if (!authority.gives || inForce.length > 1) {
    const { verdict, observes } = authority;
    if (verdict?.phase === "Paused") return `${place}, which is paused`;
    if (observes) return `${place}, which is only observed`;
    if (authority.silent) return `${place}, whose monitor does not answer`;
    return `${place}, from which nothing can be taken now`;
  }
  if (object.ours) return null;
  if (!isSure(view, seat)) return `${place}: its auto-scan object ${object.path}, attached by somebody else, may take it`;
  const adopted = view
    .entriesFor(busid)
    .some(
      (entry) =>
        entry.domain === governor && (view.holdOn(entry) !== null || admission(view, governor, entry.device.name, busid).denial === null),
    );
  if (adopted) return null;
  const prunes = view.world.forced.get(governor)?.spec.prune === "all" && object.exact;
  return prunes ? null : `${place}, where somebody else attached it as ${object.path}`;
}

function takenBecause(view: View, entry: Entry, busid: string): string | null {
  if (sitsIn(view, entry.domain, busid) !== null) return null;
  const own = view.authority(entry.domain).live?.key;
  for (const seat of view.seats(busid)) {
    if (seat.live === own) return `it may be held by the auto-scan object ${seat.object.path} of the domain itself; remove that object`;
    const why = staysBecause(view, seat, busid);
    if (why !== null) return `it sits in ${why}`;
  }
  for (const other of view.entriesFor(busid)) {
    if (other.domain === entry.domain || !view.authority(other.domain).silent) continue;
    return `it may be in domain ${other.domain}, whose monitor does not answer (entry ${other.device.name} matches it)`;
  }
  return null;
}

/** @returns null: the device is a candidate for the entry */
export function refusalOf(view: View, entry: Entry, busid: string): Refusal | null {
  const { denial } = admission(view, entry.domain, entry.device.name, busid);
  if (denial !== null) return { busid, kind: "denied", ...denial };
  const held = holdFor(view, busid);
  if (held !== null && held.entry !== entry) {
    const message = `an operator holds it for ${held.entry.domain}/${held.entry.device.name} until ${untilText(held.hold)}`;
    return { busid, kind: "held", reason: "OperatorHold", message };
  }
  const taken = takenBecause(view, entry, busid);
  return taken === null ? null : { busid, kind: "taken", reason: "TakenByDomain", message: taken };
}
