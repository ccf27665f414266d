/** The plans as they were last acted on, found by what they concern: host device, place, live domain. Derived from plans; never decides. */
import { instanceOf } from "../model/hostdev.ts";
import type { DomainKey } from "../model/domain.ts";
import { type ClaimId, type ClaimPlan, claimId, type DomainPlan, type OrphanPlan } from "../model/world.ts";
import { createKeyIndex, type KeyIndex } from "../planner/key-index.ts";

export type Registry = {
  get(id: ClaimId): ClaimPlan | undefined;
  set(id: ClaimId, plan: ClaimPlan | null): void;
  setOrphan(id: string, plan: OrphanPlan | null): void;
  setDomain(name: string, plan: DomainPlan | null): void;
  /** Claims that have, or are getting, this enumeration of a device. */
  holding(instance: string): Iterable<ClaimId>;
  /** Claims and orphans that are about whatever is plugged in there. */
  about(busid: string): Iterable<string>;
  inDomain(key: DomainKey): Iterable<string>;
  /** Claims of an entry; `count: all` has several. */
  ofEntry(entry: ClaimId): Iterable<ClaimId>;
  orphansIn(key: DomainKey): readonly OrphanPlan[];
  /** Names of the domain plans that concern this live domain. */
  boundTo(key: DomainKey): Iterable<string>;
};

/** An index in which null is filed nowhere. */
function createIndex(): Omit<KeyIndex<string>, "add" | "remove"> & Record<"add" | "delete", (key: string | null, id: string) => void> {
  const index = createKeyIndex<string>();
  return {
    get: index.get,
    add: (key, id) => {
      if (key !== null) index.add(key, id);
    },
    delete: (key, id) => {
      if (key !== null) index.remove(key, id);
    },
  };
}

/** The enumeration that the claim was admitted for: in place, on its way, or held off for flapping. */
const admitted = (plan: ClaimPlan): string | null => {
  if (plan.owned?.instance != null) return plan.owned.instance;
  if (plan.target !== null && plan.target !== "stay") return instanceOf(plan.target.device);
  return plan.verdict?.phase === "Flapping" && plan.hostdev !== null ? instanceOf(plan.hostdev) : null;
};
const busidOf = (instance: string | null): string | null => (instance === null ? null : instance.slice(0, instance.lastIndexOf("@")));

export function createRegistry(): Registry {
  const plans = new Map<ClaimId, ClaimPlan>();
  const orphans = new Map<string, OrphanPlan>();
  const holding = createIndex();
  const about = createIndex();
  const inDomain = createIndex();
  const ofEntry = createIndex();
  const domains = new Map<string, DomainPlan>();
  const boundTo = createIndex();
  return {
    get: (id) => plans.get(id),
    set(id, plan) {
      const before = plans.get(id);
      if (before !== undefined) {
        holding.delete(admitted(before), id);
        about.delete(before.hostdev?.busid ?? null, id);
        inDomain.delete(before.live, id);
        ofEntry.delete(claimId(before.domain, before.device, null), id);
        plans.delete(id);
      }
      if (plan === null) return;
      plans.set(id, plan);
      holding.add(admitted(plan), id);
      about.add(plan.hostdev?.busid ?? null, id);
      inDomain.add(plan.live, id);
      ofEntry.add(claimId(plan.domain, plan.device, null), id);
    },
    setOrphan(id, plan) {
      const before = orphans.get(id);
      if (before !== undefined) {
        about.delete(busidOf(before.at.instance), id);
        inDomain.delete(before.live, id);
        orphans.delete(id);
      }
      if (plan === null) return;
      orphans.set(id, plan);
      about.add(busidOf(plan.at.instance), id);
      inDomain.add(plan.live, id);
    },
    setDomain(name, plan) {
      boundTo.delete(domains.get(name)?.live ?? null, name);
      domains.delete(name);
      if (plan === null) return;
      domains.set(name, plan);
      boundTo.add(plan.live, name);
    },
    boundTo: (key) => boundTo.get(key),
    holding: (instance) => holding.get(instance),
    about: (busid) => about.get(busid),
    ofEntry: (entry) => ofEntry.get(entry),
    inDomain: (key) => inDomain.get(key),
    orphansIn: (key) => [...inDomain.get(key)].flatMap((id) => orphans.get(id) ?? []),
  };
}
