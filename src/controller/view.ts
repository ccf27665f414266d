/** What the controller shows and takes: everything that the interfaces (commands, live API) may know of it. */
import type { Observable } from "rxjs";
import type { Problem } from "../model/desired.ts";
import type { ClaimStatus, Condition, DomainStatus, HostView, Phase } from "../model/status.ts";
import type { Explanation } from "../model/world.ts";

/** A device on the host, as `get host` shows it. */
export type HostDeviceStatus = {
  readonly device: HostView & {
    /** Mb/s. */
    readonly speed: number | null;
    /** `03:01:02`. */
    readonly class: string | null;
    readonly interfaces: readonly string[] | null;
    readonly removable: boolean | null;
    readonly hub: boolean;
    readonly drivers: readonly string[];
  };
  /** Entries that match it, each with its phase. */
  readonly claims: readonly { readonly domain: string; readonly name: string; readonly phase: Phase }[];
  /** Whether any domain may have it, and the rule that says so, in words. */
  readonly policy: { readonly allowed: boolean; readonly text: string };
  /** Name of the domain it sits in now; null: none. */
  readonly holder: string | null;
};

/** One decision or event. `seq` counts journal entries from 1, not changes. */
export type JournalEntry = {
  readonly seq: number;
  /** RFC 3339. */
  readonly time: string;
  readonly domain: string | null;
  readonly device: string | null;
  readonly kind: "phase" | "action" | "operator" | "file" | "host" | "domain" | "policy" | "daemon";
  readonly reason: string | null;
  readonly message: string;
};

/** Everything at one moment. `id` names the life of the daemon, `seq` the last change that is in it (0: none yet). */
export type Snapshot = {
  readonly id: string;
  readonly seq: number;
  readonly domains: readonly DomainStatus[];
  readonly devices: readonly ClaimStatus[];
  /** Change keys of `devices`, in their order: a status alone does not tell whether its entry says `count: all`. */
  readonly deviceKeys: readonly string[];
  readonly host: readonly HostDeviceStatus[];
  readonly conditions: readonly Condition[];
};

/** Numbered without gaps within one life. Key of a device: `<domain>/<name>`, or `<domain>/<name>@<busid>`; of a domain its name, of a host device its busid. null: gone. */
export type Change =
  | { readonly seq: number; readonly kind: "device"; readonly key: string; readonly value: ClaimStatus | null }
  | { readonly seq: number; readonly kind: "domain"; readonly key: string; readonly value: DomainStatus | null }
  | { readonly seq: number; readonly kind: "host"; readonly key: string; readonly value: HostDeviceStatus | null }
  | { readonly seq: number; readonly kind: "conditions"; readonly value: readonly Condition[] }
  | { readonly seq: number; readonly kind: "event"; readonly value: JournalEntry };

/** `device` is the entry's name, `domain` its file's metadata.name. */
export type OperatorRequest =
  | { readonly verb: "pause" | "resume"; readonly domain: string; readonly reason?: string }
  | {
      readonly verb: "detach";
      readonly device: string;
      readonly domain: string;
      readonly holdMs: number;
      readonly release: boolean;
      readonly reason?: string;
    }
  | { readonly verb: "attach" | "retry"; readonly device: string; readonly domain: string; readonly reason?: string }
  | { readonly verb: "approve"; readonly what: "mass-detach"; readonly reason?: string }
  | { readonly verb: "approve"; readonly what: "device"; readonly device: string; readonly domain: string; readonly reason?: string };

export type OperatorAnswer =
  | { readonly ok: true; readonly message: string }
  | { readonly ok: false; readonly kind: "unknown-name" | "not-applicable"; readonly message: string; readonly suggestion: string | null };

/** One thing that would be done. `none`: nothing moves, but something is to be said (Conflict, Ambiguous …). */
export type PlannedChange = {
  readonly domain: string;
  readonly name: string;
  readonly action: "attach" | "detach" | "move" | "create-controller" | "none";
  readonly text: string;
};
export type PlanAnswer = { readonly problems: readonly Problem[]; readonly changes: readonly PlannedChange[] };

export type EventFilter = { readonly domain?: string; readonly device?: string; readonly limit?: number };

export type ControllerView = {
  snapshot(): Snapshot;
  /** Hot; emits after the change is in `snapshot()`. Never errors, never completes before stop. */
  readonly changes$: Observable<readonly Change[]>;
  /** @returns the changes after `seq`, oldest first; null: too old, or of another life */
  since(id: string, seq: number): readonly Change[] | null;
  /** @returns newest last */
  events(filter: EventFilter): readonly JournalEntry[];
  /** @returns null: no such entry (or domain) */
  explain(device: string, domain?: string): readonly Explanation[] | null;
  /** @param files - stand in for the ones in force, by name relative to the tree; null: the tree as it is */
  plan(files: readonly { readonly name: string; readonly text: string }[] | null): PlanAnswer;
  operate(request: OperatorRequest): Promise<OperatorAnswer>;
  /** Every source has reported once. */
  readonly ready: boolean;
};
