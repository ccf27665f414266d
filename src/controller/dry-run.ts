/** `plan`: what would change if these files were in force, against the world as it is now. Decides with the very planner; touches nothing. */
import { fulfils } from "../machines/claim.ts";
import type { DesiredDomain } from "../model/desired.ts";
import type { ClaimPlan, Planner, World } from "../model/world.ts";
import { same } from "../model/same.ts";
import { planAll } from "../planner/plan.ts";
import { leftAfter } from "./left-behind.ts";
import type { PlannedChange } from "./view.ts";

/** Files that stand in for the ones in force: the names of those that could be read, and what they say. */
export type StandIns = { readonly files: ReadonlySet<string>; readonly specs: readonly DesiredDomain[] };

/** @param standIns - by file name and by metadata.name; null: nothing is replaced */
export function dryRun(planner: Planner, standIns: StandIns | null): readonly PlannedChange[] {
  const plan = standIns === null ? planner : planAll(withSpecs(planner.world, standIns));
  const changes: PlannedChange[] = [];
  const controllers = new Set<string>();
  for (const orphan of plan.orphans.values()) {
    if (orphan.target !== null) continue;
    const domain = plan.world.domains.get(orphan.live)?.name ?? orphan.live;
    changes.push({ domain, name: orphan.at.path.split("/").at(-1) ?? orphan.at.path, action: "detach", text: orphan.why });
  }
  for (const claim of plan.claims.values()) changes.push(...changesOf(claim, controllers));
  return changes;
}

/** As if these files had been written and what they say no more had been decided to be gone. */
const withSpecs = (world: World, { files, specs }: StandIns): World => {
  const forced = new Map(world.forced);
  for (const spec of specs) {
    const before = forced.get(spec.name);
    forced.set(spec.name, { spec, standing: "current", problems: [], left: leftAfter(before?.spec, spec, before?.left ?? []) });
  }
  const said = new Set(specs.map(({ name }) => name));
  for (const [name, one] of world.forced) {
    if (said.has(name) || !(one.standing === "vanished" || files.has(one.spec.mark.file))) continue;
    const follower = specs.find(({ target }) => same(target, one.spec.target));
    const followed = follower === undefined ? undefined : forced.get(follower.name);
    if (followed === undefined) forced.set(name, { ...one, standing: "vanished", problems: [] });
    else {
      forced.delete(name);
      forced.set(followed.spec.name, { ...followed, left: leftAfter(one.spec, followed.spec, [...one.left, ...followed.left]) });
    }
  }
  return { ...world, forced };
};

const changesOf = (claim: ClaimPlan, controllers: Set<string>): PlannedChange[] => {
  const { domain, device: name, target, owned, verdict, hostdev } = claim;
  const about = hostdev === null ? name : `${hostdev.busid} (${hostdev.vendor}:${hostdev.product})`;
  if (fulfils(owned, target)) {
    if (verdict === null) return [];
    return [
      { domain, name, action: "none", text: `${verdict.phase}${verdict.reason === null ? "" : `/${verdict.reason}`}: ${verdict.message}` },
    ];
  }
  if (target === null) return [{ domain, name, action: "detach", text: `${about}${verdict === null ? "" : `: ${verdict.message}`}` }];
  if (target === "stay") return [];
  const made = `${target.domain} ${target.bus}`;
  const create: PlannedChange[] = [];
  if (target.create !== null && !controllers.has(made)) {
    controllers.add(made);
    create.push({
      domain,
      name,
      action: "create-controller",
      text: `${target.create.name}: ${target.create.driver} with ${String(target.create.ports)} ports`,
    });
  }
  const where = `${target.create?.name ?? target.bus} port ${String(target.port)}`;
  return [...create, { domain, name, action: owned === null ? "attach" : "move", text: `${about} to ${where}` }];
};
