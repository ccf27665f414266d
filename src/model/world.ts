/** The planner's input and output as values. `World` is everything an answer may depend on; nothing else does (house rule 1). */
import type { Attached, Place } from "./action.ts";
import type { ForcedDomain } from "./desired.ts";
import type { DomainKey, LiveDomain } from "./domain.ts";
import type { HostDevice } from "./hostdev.ts";
import type { Hold, Pause, Quarantine } from "./intentions.ts";
import { openPolicy, type PolicyState } from "./policy.ts";
import type { Phase } from "./status.ts";

/** `<domain>/<entry>`, and `<domain>/<entry>@<busid>` where `count: all`. Domain is metadata.name (no `/` in it). */
export type ClaimId = string;
export const claimId = (domain: string, entry: string, busid: string | null): ClaimId =>
  `${domain}/${entry}${busid === null ? "" : `@${busid}`}`;

/** What takes time to become true, counted by the controller, given as a value. A claim without facts has none of them. */
export type ClaimFacts = {
  /** Somebody else undid it too often (product.md §4). */
  readonly contested: boolean;
  /** It disconnected too often and has not stayed long enough since. */
  readonly flapping: boolean;
  /** Its device (an `anyOf`) left less than 30 s ago. */
  readonly reEnumerating: boolean;
};

/** A host device that may not be attached now for a reason that was read at the moment of an action (disk-in-use, default-route). By instance. */
export type Veto = { readonly builtIn: "disk-in-use" | "default-route"; readonly message: string };

export type World = {
  /** By busid. */
  readonly host: ReadonlyMap<string, HostDevice>;
  readonly domains: ReadonlyMap<DomainKey, LiveDomain>;
  /** By metadata.name. */
  readonly forced: ReadonlyMap<string, ForcedDomain>;
  readonly policy: PolicyState;
  readonly holds: readonly Hold[];
  readonly pauses: readonly Pause[];
  readonly quarantines: readonly Quarantine[];
  /** By instanceOf(device). */
  readonly vetoes: ReadonlyMap<string, Veto>;
  readonly facts: ReadonlyMap<ClaimId, ClaimFacts>;
};

export const emptyWorld: World = {
  host: new Map(),
  domains: new Map(),
  forced: new Map(),
  policy: { kind: "valid", policy: openPolicy, problems: [] },
  holds: [],
  pauses: [],
  quarantines: [],
  vetoes: new Map(),
  facts: new Map(),
};

/** One part of the world that is now so. `null`: it is gone. */
export type WorldChange =
  | { readonly kind: "host"; readonly busid: string; readonly device: HostDevice | null }
  | { readonly kind: "live"; readonly key: DomainKey; readonly domain: LiveDomain | null }
  | { readonly kind: "forced"; readonly name: string; readonly domain: ForcedDomain | null }
  | { readonly kind: "policy"; readonly policy: PolicyState }
  | {
      readonly kind: "overrides";
      readonly holds: readonly Hold[];
      readonly pauses: readonly Pause[];
      readonly quarantines: readonly Quarantine[];
    }
  | { readonly kind: "veto"; readonly instance: string; readonly veto: Veto | null }
  | { readonly kind: "facts"; readonly claim: ClaimId; readonly facts: ClaimFacts | null };

/** Decided by the planner; comes before anything a machine says, by the precedence of PHASES. */
export type Verdict = { readonly phase: Phase; readonly reason: string | null; readonly message: string };

/**
 * Where a claim's device should be. A place: there. `null`: nowhere (removal, denial, hold, loss to another claim, a domain given back, a device
 * that left). `stay`: leave things as they are, start nothing (paused, observed, contested, a monitor that does not answer, no way yet).
 */
export type Target = Place | null | "stay";

export type ClaimPlan = {
  readonly id: ClaimId;
  readonly domain: string;
  readonly device: string;
  /** Where `count: all`: which match; else null. */
  readonly busid: string | null;
  /** The live domain it concerns; null: none, so there is no machine. */
  readonly live: DomainKey | null;
  readonly target: Target;
  /** The object in that domain that holds this claim's device now (ours or adopted); null: none. */
  readonly owned: Attached | null;
  /** Whether that object is ours by its mark, and so may be removed by prune. */
  readonly ours: boolean;
  /** The host device it won, or the one that it is about (Denied, Conflict); null: none or several. */
  readonly hostdev: HostDevice | null;
  /** null: the machine's own phase shows. */
  readonly verdict: Verdict | null;
  /** Extra remark for an attached claim (`ExtraCandidates`, `ObserveOnly`, `Adopted`): reason and sentence. */
  readonly remark: { readonly reason: string; readonly message: string } | null;
};

/** An object that no claim owns. `target` null: remove it; `stay`: leave it and show why. */
export type OrphanPlan = {
  /** `<domain key> <path>`. */
  readonly id: string;
  readonly live: DomainKey;
  readonly at: Attached;
  readonly ours: boolean;
  /** Its host device left: clearing it is no detach. */
  readonly dead: boolean;
  readonly target: null | "stay";
  readonly why: string;
};

/** What there is to say of a domain as a whole. By metadata.name; for live domains without a file by `key`. */
export type DomainPlan = {
  readonly name: string;
  readonly live: DomainKey | null;
  /** Why none of its claims can move: not running, Ambiguous, InvalidFile … */
  readonly verdict: Verdict | null;
  /** Declared controllers that differ from the live ones, a sentence each (ControllerDrift). */
  readonly drift: readonly string[];
};

/** What a change altered: new values by id, `null` for what is no more. Everything else stands as before. Order: orphans are to be acted on before claims. */
export type PlanDelta = {
  readonly orphans: ReadonlyMap<string, OrphanPlan | null>;
  readonly claims: ReadonlyMap<ClaimId, ClaimPlan | null>;
  readonly domains: ReadonlyMap<string, DomainPlan | null>;
};

/** What `explain` shows of one entry: every candidate and every rule, in words. */
export type Explanation = {
  readonly claim: ClaimPlan;
  readonly candidates: readonly {
    readonly device: HostDevice;
    /** One line a criterion or rule: `vendor 0529: yes`, `rule no-modems (policy.yaml:9:5): denied`. */
    readonly steps: readonly { readonly ok: boolean; readonly text: string }[];
    readonly outcome: string;
  }[];
  /** How the controller and port were chosen, a sentence each. */
  readonly placement: readonly string[];
};

export type Planner = {
  /** Takes changes in, returns what they altered. Cost: the claims, devices and domains that a change can touch, not the fleet. */
  apply(changes: readonly WorldChange[]): PlanDelta;
  readonly world: World;
  readonly claims: ReadonlyMap<ClaimId, ClaimPlan>;
  readonly orphans: ReadonlyMap<string, OrphanPlan>;
  readonly domains: ReadonlyMap<string, DomainPlan>;
  /** @returns one explanation a claim of that entry; empty: no such entry */
  explain(domain: string, device: string): readonly Explanation[];
};
