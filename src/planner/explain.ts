/** Why an entry has, or has not, a device: every candidate, every criterion and rule, in words. */
import { compareBusids } from "../model/busid.ts";
import type { HostDevice } from "../model/hostdev.ts";
import type { ClaimPlan, Explanation } from "../model/world.ts";
import { deviceText } from "./claim-plan.ts";
import type { EntryMatch } from "./match.ts";
import type { Placement } from "./place.ts";
import { admission } from "./refuse.ts";
import { explainSelector, type Step } from "./selector.ts";
import type { Entry, View } from "./view.ts";

/** Devices that match come first; so many others that meet some criterion are shown beside them. */
const NEAR_MISSES = 20;

type Candidate = Explanation["candidates"][number];

function criteria(entry: Entry, device: HostDevice): readonly Step[] {
  const many = entry.selectors.length > 1;
  return entry.selectors.flatMap((selector, i) =>
    explainSelector(selector, device).map((step) => ({ ...step, text: many ? `anyOf ${String(i + 1)}: ${step.text}` : step.text })),
  );
}

function outcomeOf(match: EntryMatch, claim: ClaimPlan, busid: string): string {
  const refusal = match.refusals.find((one) => one.busid === busid);
  if (match.won.includes(busid)) return claim.live === null ? "it would get this one" : "it gets this one";
  if (refusal !== undefined) return `${refusal.kind}: ${refusal.message}`;
  if (match.ambiguous.includes(busid)) return "one of several that may be meant";
  if (match.extras.includes(busid)) return "free, but it has one already";
  return claim.verdict?.message ?? "not chosen";
}

function candidate(view: View, entry: Entry, match: EntryMatch, claim: ClaimPlan, busid: string): Candidate {
  const device = view.device(busid);
  const rules = admission(view, entry.domain, entry.device.name, busid).steps;
  return { device, steps: [...criteria(entry, device), ...rules], outcome: outcomeOf(match, claim, busid) };
}

function placement(claim: ClaimPlan, found: Placement | null): readonly string[] {
  if (found === null) return [claim.verdict?.message ?? "It gets no device, so no port."];
  if (found.kind === "nowhere") return [found.message];
  const where = `${found.bus} port ${String(found.port)}: ${found.why}`;
  const made =
    found.create === null ? [] : [`${found.create.name} (${found.create.driver}, ${String(found.create.ports)} ports) is made first`];
  return [where, ...made];
}

/** @param found - where its device goes; null: it gets none, or its domain does not act */
export function explainEntry(view: View, entry: Entry, match: EntryMatch, claim: ClaimPlan, found: Placement | null): Explanation {
  const matching = claim.busid === null ? match.matching : [claim.busid];
  const near = [...view.world.host.values()]
    .filter((device) => !match.matching.includes(device.busid) && criteria(entry, device).some(({ ok }) => ok))
    .sort((a, b) => compareBusids(a.busid, b.busid))
    .slice(0, NEAR_MISSES);
  return {
    claim,
    candidates: [
      ...matching.map((busid) => candidate(view, entry, match, claim, busid)),
      ...near.map((device) => ({ device, steps: criteria(entry, device), outcome: `${deviceText(device)} does not match` })),
    ],
    placement: placement(claim, found),
  };
}
