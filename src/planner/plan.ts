/**
 * World -> plans. Every answer depends on the world alone; a change decides anew only the entries and devices that are connected with it
 * (an entry with the devices that it matches, a device with the entries that match it), and the domains that they sit in.
 */
import type { DomainKey } from "../model/domain.ts";
import { same } from "../model/same.ts";
import type { ClaimId, ClaimPlan, DomainPlan, OrphanPlan, PlanDelta, Planner, World, WorldChange } from "../model/world.ts";
import { Census, type Dirt } from "./census.ts";
import { explainEntry } from "./explain.ts";
import { decide, type EntryMatch } from "./match.ts";
import { type Decided, planSite, type Site, type SitePlan } from "./site.ts";
import type { Entry } from "./view.ts";

/** Values by id of which some belong to one owner (a file, a live domain), told apart when the owner is planned anew. */
class Shelf<T> {
  readonly values = new Map<string, T>();
  private readonly ids = new Map<string, readonly string[]>();

  replace(owner: string, next: ReadonlyMap<string, T>, delta: Map<string, T | null>): void {
    for (const id of this.ids.get(owner) ?? []) {
      if (next.has(id)) continue;
      this.values.delete(id);
      delta.set(id, null);
    }
    for (const [id, value] of next) {
      if (same(this.values.get(id), value)) continue;
      this.values.set(id, value);
      delta.set(id, value);
    }
    if (next.size === 0) this.ids.delete(owner);
    else this.ids.set(owner, [...next.keys()]);
  }
}

class Engine implements Planner {
  private readonly census = new Census();
  /** By metadata.name, then by claim. */
  private readonly matches = new Map<string, ReadonlyMap<ClaimId, EntryMatch>>();
  private readonly wonBy = new Map<string, Entry>();
  private readonly claimShelf = new Shelf<ClaimPlan>();
  private readonly orphanShelf = new Shelf<OrphanPlan>();
  private readonly domainShelf = new Shelf<DomainPlan>();
  private readonly decided: Decided = {
    matchOf: (entry) => {
      const match = this.matches.get(entry.domain)?.get(entry.id);
      if (match === undefined) throw new Error(`${entry.id} is not decided`);
      return match;
    },
    winnerOf: (busid) => this.wonBy.get(busid) ?? null,
  };

  get world(): World {
    return this.census.world;
  }
  get claims(): ReadonlyMap<ClaimId, ClaimPlan> {
    return this.claimShelf.values;
  }
  get orphans(): ReadonlyMap<string, OrphanPlan> {
    return this.orphanShelf.values;
  }
  get domains(): ReadonlyMap<string, DomainPlan> {
    return this.domainShelf.values;
  }

  apply(changes: readonly WorldChange[]): PlanDelta {
    for (const change of changes) this.census.apply(change);
    const dirt = this.census.takeDirt();
    this.matchAnew(dirt);
    return this.planAnew(dirt);
  }

  explain(domain: string, device: string): ReturnType<Planner["explain"]> {
    const entry = this.census.entries(domain).find((one) => one.device.name === device);
    if (entry === undefined) return [];
    const { claims, placements } = planSite(this.census, this.siteOf(domain), this.decided);
    const mine = claims.filter((claim) => claim.domain === domain && claim.device === device);
    return mine.map((claim) => explainEntry(this.census, entry, this.decided.matchOf(entry), claim, placements.get(claim.id) ?? null));
  }

  /** Everything connected with what was touched, and no more. */
  private closure(dirt: Dirt): { readonly entries: ReadonlySet<Entry>; readonly devices: ReadonlySet<string> } {
    const entries = new Set<Entry>();
    const devices = new Set<string>();
    const open: (Entry | string)[] = [...dirt.entries, ...dirt.devices];
    for (let next = open.pop(); next !== undefined; next = open.pop()) {
      if (typeof next === "string") {
        if (devices.has(next)) continue;
        devices.add(next);
        open.push(...this.census.entriesFor(next));
      } else {
        if (entries.has(next)) continue;
        entries.add(next);
        open.push(...this.census.devicesFor(next));
      }
    }
    return { entries, devices };
  }

  /** Decides anew who gets what, and adds to the dirt whom that concerns. */
  private matchAnew(dirt: Dirt): void {
    const { census } = this;
    const { entries, devices } = this.closure(dirt);
    const touched = new Set([...dirt.devices, ...[...dirt.entries].flatMap((entry) => [...census.devicesFor(entry)])]);
    for (const entry of dirt.entries) dirt.names.add(entry.domain);
    for (const busid of touched) for (const entry of census.entriesFor(busid)) dirt.names.add(entry.domain);

    const { matches, wonBy } = decide(census, [...entries]);
    for (const entry of entries) {
      if (!same(this.matches.get(entry.domain)?.get(entry.id), matches.get(entry.id))) dirt.names.add(entry.domain);
    }
    for (const name of new Set([...dirt.names, ...[...entries].map(({ domain }) => domain)])) this.keepMatches(name, matches);
    for (const busid of devices) {
      const before = this.wonBy.get(busid);
      const after = wonBy.get(busid);
      if (before?.id !== after?.id) touched.add(busid);
      if (after === undefined) this.wonBy.delete(busid);
      else this.wonBy.set(busid, after);
    }
    for (const busid of touched) {
      if (census.world.host.has(busid)) for (const { live } of census.seats(busid)) dirt.lives.add(live);
    }
  }

  /** The new matches of a file's entries, and the known ones of those that were not decided anew. */
  private keepMatches(name: string, anew: ReadonlyMap<ClaimId, EntryMatch>): void {
    const known = this.matches.get(name);
    const kept = this.census.entries(name).flatMap(({ id }) => {
      const match = anew.get(id) ?? known?.get(id);
      return match === undefined ? [] : [[id, match] as const];
    });
    if (kept.length === 0) this.matches.delete(name);
    else this.matches.set(name, new Map(kept));
  }

  private siteOf(name: string): Site {
    const live = this.census.authority(name).live?.key ?? null;
    return live === null ? { live, names: [name] } : { live, names: this.census.governors(live) };
  }

  private planAnew(dirt: Dirt): PlanDelta {
    const delta = {
      orphans: new Map<string, OrphanPlan | null>(),
      claims: new Map<ClaimId, ClaimPlan | null>(),
      domains: new Map<string, DomainPlan | null>(),
    };
    const { forced, domains } = this.world;
    const sites = new Map<DomainKey | string, Site>();
    for (const live of dirt.lives) {
      if (domains.has(live)) sites.set(`live ${live}`, { live, names: this.census.governors(live) });
      else this.forget(live, delta);
    }
    for (const name of dirt.names) {
      if (!forced.has(name)) {
        this.forgetFile(name, delta);
        continue;
      }
      const site = this.siteOf(name);
      sites.set(site.live === null ? `file ${name}` : `live ${site.live}`, site);
    }
    for (const site of sites.values()) this.shelve(site, planSite(this.census, site, this.decided), delta);
    return delta;
  }

  private forget(live: DomainKey, delta: Deltas): void {
    this.orphanShelf.replace(live, new Map(), delta.orphans);
    this.domainShelf.replace(`live ${live}`, new Map(), delta.domains);
  }

  private forgetFile(name: string, delta: Deltas): void {
    this.claimShelf.replace(name, new Map(), delta.claims);
    this.domainShelf.replace(`file ${name}`, new Map(), delta.domains);
    this.matches.delete(name);
  }

  private shelve({ live, names }: Site, plan: SitePlan, delta: Deltas): void {
    if (live !== null) {
      this.orphanShelf.replace(live, new Map(plan.orphans.map((orphan) => [orphan.id, orphan])), delta.orphans);
      this.domainShelf.replace(`live ${live}`, names.length === 0 ? plan.domains : new Map(), delta.domains);
    }
    for (const name of names) {
      const claims = plan.claims.filter(({ domain }) => domain === name);
      this.claimShelf.replace(name, new Map(claims.map((claim) => [claim.id, claim])), delta.claims);
      const domain = plan.domains.get(name);
      this.domainShelf.replace(`file ${name}`, domain === undefined ? new Map() : new Map([[name, domain]]), delta.domains);
    }
  }
}

type Deltas = {
  readonly orphans: Map<string, OrphanPlan | null>;
  readonly claims: Map<ClaimId, ClaimPlan | null>;
  readonly domains: Map<string, DomainPlan | null>;
};

export const createPlanner = (): Planner => new Engine();

/** The changes that make an empty world this one. */
export const changesOf = (world: World): readonly WorldChange[] => [
  { kind: "policy", policy: world.policy },
  { kind: "overrides", holds: world.holds, pauses: world.pauses, quarantines: world.quarantines },
  ...[...world.host.values()].map((device) => ({ kind: "host", busid: device.busid, device }) as const),
  ...[...world.domains].map(([key, domain]) => ({ kind: "live", key, domain }) as const),
  ...[...world.forced].map(([name, domain]) => ({ kind: "forced", name, domain }) as const),
  ...[...world.vetoes].map(([instance, veto]) => ({ kind: "veto", instance, veto }) as const),
  ...[...world.facts].map(([claim, facts]) => ({ kind: "facts", claim, facts }) as const),
];

/** Decides a whole world at once. */
export function planAll(world: World): Planner {
  const planner = createPlanner();
  planner.apply(changesOf(world));
  return planner;
}
