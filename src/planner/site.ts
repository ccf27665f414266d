/** Everything of one live domain and the files that mean it, decided together: its ports are shared. */
import type { DomainKey, LiveDomain } from "../model/domain.ts";
import type { ClaimPlan, DomainPlan, OrphanPlan, Verdict } from "../model/world.ts";
import { planClaim } from "./claim-plan.ts";
import { standingVerdict } from "./domains.ts";
import { type Draft, draftClaims } from "./drafts.ts";
import { driftOf } from "./make.ts";
import type { EntryMatch } from "./match.ts";
import { planOrphan } from "./orphans.ts";
import { type Placement, type PlaceRequest, placeAll, type Spot } from "./place.ts";
import { rootPort } from "./seats.ts";
import type { Entry, View } from "./view.ts";

/** A live domain with the files that mean it, or a file that means none. */
export type Site = { readonly live: DomainKey | null; readonly names: readonly string[] };
export type SitePlan = {
  readonly claims: readonly ClaimPlan[];
  readonly orphans: readonly OrphanPlan[];
  readonly domains: ReadonlyMap<string, DomainPlan>;
  /** For explain: by claim. */
  readonly placements: ReadonlyMap<string, Placement>;
};
export type Decided = { readonly matchOf: (entry: Entry) => EntryMatch; readonly winnerOf: (busid: string) => Entry | null };

type Drafted = { readonly name: string; readonly drafts: readonly Draft[] };

const spotOf = ({ bus, port }: { readonly bus: string; readonly port: string }): Spot => ({ bus, port: rootPort(port) });
/** What hangs on a virtual hub frees no root port when it goes: the hub stays. */
const isOnRoot = (port: string): boolean => !port.includes(".");

function domainVerdict(view: View, name: string): Verdict | null {
  const forced = view.world.forced.get(name);
  if (forced === undefined || forced.standing === "vanished") return null;
  const { verdict } = view.authority(name);
  const standing = standingVerdict(forced);
  if (standing !== null || verdict !== null) return standing ?? verdict;
  const { policy } = view.world;
  return policy.kind === "valid"
    ? null
    : { phase: "Stalled", reason: "InvalidPolicy", message: `The host policy is not valid: ${policy.problems[0] ?? "it cannot be read"}` };
}

function domainPlans(view: View, { live, names }: Site, present: LiveDomain | null): ReadonlyMap<string, DomainPlan> {
  if (names.length === 0 && live !== null) return new Map([[live, { name: present?.name ?? live, live, verdict: null, drift: [] }]]);
  return new Map(
    names.map((name) => {
      const forced = view.world.forced.get(name);
      const drift =
        present === null || forced === undefined || forced.standing === "vanished" ? [] : driftOf(forced.spec.controllers, present);
      return [name, { name, live, verdict: domainVerdict(view, name), drift }];
    }),
  );
}

/** Why a device that is won is not attached at once. */
function waitsOf(view: View, draft: Draft, siblings: readonly Draft[]): readonly Verdict[] {
  const { entry, device } = draft;
  if (!draft.won || device === null) return [];
  const found: Verdict[] = [];
  const wait = (reason: string, message: string): void => {
    found.push({ phase: "Attaching", reason, message });
  };
  for (const name of entry.device.after) {
    const others = siblings.filter((other) => other.entry.device.name === name);
    const open = others.filter(
      (other) => other.entry.selectors.length === 0 || (other.match.matching.length > 0 && !(other.won && other.owned !== null)),
    );
    if (open.length > 0) wait("WaitingForOther", `It waits until ${name} is attached (\`after\`).`);
  }
  const live = view.authority(entry.domain).live?.key;
  const elsewhere = view.seats(device.busid).filter((seat) => seat.live !== live && seat.object.exact);
  const [first] = elsewhere;
  if (first !== undefined) {
    wait("WaitingForRelease", `It waits until domain ${view.world.domains.get(first.live)?.name ?? first.live} has given it back.`);
  }
  if (device.inode === 0) wait("NodeMissing", `It waits for its device node ${device.node}.`);
  return found;
}

function place(view: View, present: LiveDomain, { name, drafts }: Drafted, orphans: readonly OrphanPlan[]): ReadonlyMap<string, Placement> {
  const objects = new Map(present.objects.map((object) => [object.path, object]));
  const going = orphans.filter(({ target, at }) => target === null && isOnRoot(objects.get(at.path)?.port ?? "."));
  const lost = drafts.filter((draft) => !draft.won && draft.owned !== null && draft.owned.object.ours && isOnRoot(draft.owned.object.port));
  const requests: PlaceRequest[] = drafts.flatMap(({ id, won, device, entry, index, owned }) =>
    won && device !== null ? [{ id, entry: entry.device, index, device, current: owned === null ? null : spotOf(owned.object) }] : [],
  );
  return placeAll({
    live: present,
    declared: view.world.forced.get(name)?.spec.controllers ?? null,
    requests,
    entries: view.entries(name).map(({ device }) => device),
    dead: going.filter(({ dead }) => dead).map(({ at }) => at),
    leaving: [
      ...going.filter(({ dead }) => !dead).map(({ at }) => at),
      ...lost.flatMap(({ owned }) => (owned === null ? [] : [spotOf(owned.object)])),
    ],
  });
}

export function planSite(view: View, site: Site, { matchOf, winnerOf }: Decided): SitePlan {
  const present = site.live === null ? null : (view.world.domains.get(site.live) ?? null);
  const owned = new Set<string>();
  const drafted = site.names.map((name) => ({ name, drafts: draftClaims(view, name, matchOf, owned) }));
  const orphans = (present?.objects ?? [])
    .filter(({ path }) => !owned.has(path))
    .map((object) => planOrphan(view, { live: present?.key ?? "", object }, winnerOf));
  const placements = new Map<string, Placement>();
  const claims = drafted.flatMap(({ name, drafts }) => {
    const authority = view.authority(name);
    const usable = present !== null && (authority.acts || (authority.observes && authority.verdict === null));
    const placed = usable ? place(view, present, { name, drafts }, orphans) : new Map<string, Placement>();
    for (const [id, placement] of placed) placements.set(id, placement);
    const { policy, facts } = view.world;
    return drafts.map((draft) =>
      planClaim({
        draft,
        authority,
        hold: view.holdOn(draft.entry),
        facts: facts.get(draft.id) ?? null,
        badPolicy: policy.kind === "invalid" ? policy.problems : null,
        placement: placed.get(draft.id) ?? null,
        waits: waitsOf(view, draft, drafts),
      }),
    );
  });
  return { claims, orphans, domains: domainPlans(view, site, present), placements };
}
