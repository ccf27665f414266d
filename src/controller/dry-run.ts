/** `plan`: what would change if these files were in force, against the world as it is now. Decides with the very planner; touches nothing. */
import { fulfils } from "../machines/claim.ts";
import type { DesiredDomain, ForcedDomain } from "../model/desired.ts";
import type { ClaimPlan, Planner, World } from "../model/world.ts";
import { planAll } from "../planner/plan.ts";
import type { PlannedChange } from "./view.ts";

/** @param specs - stand in for the ones in force, by metadata.name; null: nothing is replaced */
export function dryRun(planner: Planner, specs: readonly DesiredDomain[] | null): readonly PlannedChange[] {
  const plan = specs === null ? planner : planAll(withSpecs(planner.world, specs));
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

const withSpecs = (world: World, specs: readonly DesiredDomain[]): World => {
  const forced = new Map(world.forced);
  for (const spec of specs) {
    const before = forced.get(spec.name);
    const next: ForcedDomain = { spec, standing: "current", problems: [], left: before?.left ?? [] };
    forced.set(spec.name, next);
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
