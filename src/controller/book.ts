/**
 * What is shown, as values: the statuses of all claims, domains and host devices, kept by key, renewed only where something was touched,
 * and told as numbered changes in batches (one a turn of the event loop). Feeds CLI and live API.
 */
import { Subject } from "rxjs";
import type { Clock } from "../model/contracts.ts";
import type { Cause, ClaimStatus, Condition, DomainStatus } from "../model/status.ts";
import { same } from "../model/same.ts";
import type { Journal } from "./journal.ts";
import type { Change, HostDeviceStatus, JournalEntry, Snapshot } from "./view.ts";

/** Names of domains that are not Ready, are Reconciling, are Stalled. */
export type Troubled = { readonly [type in "Ready" | "Reconciling" | "Stalled"]: ReadonlySet<string> };

export type Source = {
  /** The claim's status now; null: it is no more. */
  claim(id: string, moved: { readonly since: number; readonly cause: Cause | null }): ClaimStatus | null;
  domain(name: string, claims: readonly ClaimStatus[]): DomainStatus | null;
  host(busid: string): HostDeviceStatus | null;
  /** @param total - how many domains there are */
  conditions(domains: Troubled, total: number): readonly Condition[];
};

export type Book = {
  /** Marks what has to be looked at again; done with the others of this turn. */
  claim(id: string, domain: string, cause: Cause | null): void;
  domain(name: string): void;
  host(busid: string): void;
  conditions(): void;
  note(entry: Omit<JournalEntry, "seq" | "time">): void;
  /** Does now what is marked. */
  flush(): void;
  snapshot(): Snapshot;
  statusOf(id: string): ClaimStatus | undefined;
  claimsOf(domain: string): readonly ClaimStatus[];
  readonly changes$: Subject<readonly Change[]>;
  since(id: string, seq: number): readonly Change[] | null;
};

/** Changes kept for clients that come back. */
const MOST_CHANGES = 4_096;

export function createBook(deps: {
  readonly life: string;
  readonly clock: Clock;
  readonly source: Source;
  readonly journal: Journal;
  readonly defer: (fn: () => void) => void;
  /** Showing lets others have their turn after so long. */
  readonly sliceMs: number;
}): Book {
  const { clock, source, journal, life } = deps;
  const claims = new Map<
    string,
    { readonly status: ClaimStatus; readonly moved: { readonly since: number; readonly cause: Cause | null } }
  >();
  const claimsByDomain = new Map<string, Set<string>>();
  const domains = new Map<string, DomainStatus>();
  const hosts = new Map<string, HostDeviceStatus>();
  const troubled = { Ready: new Set<string>(), Reconciling: new Set<string>(), Stalled: new Set<string>() };
  let conditions: readonly Condition[] = [];

  const touchedClaims = new Map<string, { readonly domain: string; readonly cause: Cause | null }>();
  const touchedDomains = new Set<string>();
  const touchedHosts = new Set<string>();
  let touchedConditions = true;
  let planned = false;

  const changes$ = new Subject<readonly Change[]>();
  const recent: Change[] = [];
  let batch: Change[] = [];
  let seq = 0;

  const plan = (): void => {
    if (planned) return;
    planned = true;
    deps.defer(flushSome);
  };
  // Distributes over the union, so that each kind keeps its own fields.
  type Unnumbered<T> = T extends unknown ? Omit<T, "seq"> : never;
  const push = (change: Unnumbered<Change>): void => {
    seq += 1;
    batch.push({ ...change, seq } as Change);
  };

  const renewClaim = (id: string, domain: string, cause: Cause | null): void => {
    const before = claims.get(id);
    const moved = before?.moved ?? { since: clock.now(), cause };
    const status = source.claim(id, moved);
    if (status === null) {
      if (before === undefined) return;
      claims.delete(id);
      claimsByDomain.get(domain)?.delete(id);
      push({ kind: "device", key: id, value: null });
      return;
    }
    const shifted = before !== undefined && (before.status.phase !== status.phase || before.status.reason !== status.reason);
    const now = shifted ? { since: clock.now(), cause: cause ?? before.moved.cause } : moved;
    const next = shifted ? { ...status, since: new Date(now.since).toISOString(), cause: now.cause } : status;
    if (before !== undefined && same(before.status, next)) return;
    claims.set(id, { status: next, moved: now });
    const siblings = claimsByDomain.get(domain);
    if (siblings === undefined) claimsByDomain.set(domain, new Set([id]));
    else siblings.add(id);
    push({ kind: "device", key: id, value: next });
    if (before === undefined || shifted) {
      const entry = {
        domain,
        device: next.name,
        kind: "phase",
        reason: next.reason,
        message: `${before === undefined ? "" : `${before.status.phase} → `}${next.phase}: ${next.message}`,
      } as const;
      push({ kind: "event", value: journal.add(entry) });
    }
  };

  const renew = <T>(kept: Map<string, T>, key: string, next: T | null): boolean => {
    const before = kept.get(key);
    if (next === null) return kept.delete(key);
    if (before !== undefined && same(before, next)) return false;
    kept.set(key, next);
    return true;
  };

  const claimsOf = (domain: string): ClaimStatus[] => [...(claimsByDomain.get(domain) ?? [])].flatMap((id) => claims.get(id)?.status ?? []);

  /** What is marked, one thing a step. A claim's domain and host device are shown after it. */
  function* renewals(): Generator<void> {
    for (const [id, { domain, cause }] of touchedClaims) {
      touchedClaims.delete(id);
      renewClaim(id, domain, cause);
      touchedDomains.add(domain);
      yield;
    }
    for (const name of touchedDomains) {
      touchedDomains.delete(name);
      const value = source.domain(name, claimsOf(name));
      if (renew(domains, name, value)) push({ kind: "domain", key: name, value });
      for (const type of ["Ready", "Reconciling", "Stalled"] as const) {
        const bad = type === "Ready" ? "False" : "True";
        const is = value?.conditions.some((one) => one.type === type && one.status === bad) === true;
        if (is === troubled[type].has(name)) continue;
        if (is) troubled[type].add(name);
        else troubled[type].delete(name);
        touchedConditions = true;
      }
      yield;
    }
    for (const busid of touchedHosts) {
      touchedHosts.delete(busid);
      const value = source.host(busid);
      if (renew(hosts, busid, value)) push({ kind: "host", key: busid, value });
      yield;
    }
    if (touchedConditions) {
      touchedConditions = false;
      const next = source.conditions(troubled, domains.size);
      if (JSON.stringify(next) !== JSON.stringify(conditions)) {
        conditions = next;
        push({ kind: "conditions", value: [...next] });
      }
    }
  }
  const tell = (): void => {
    if (batch.length === 0) return;
    const told = batch;
    batch = [];
    for (const change of told) recent.push(change);
    if (recent.length > MOST_CHANGES * 1.25) recent.splice(0, recent.length - MOST_CHANGES);
    changes$.next(told);
  };
  /** The whole of it, for who reads now. */
  function flush(): void {
    for (const _ of renewals());
    tell();
  }
  /** As much as fits into a slice; the rest in a later turn. */
  function flushSome(): void {
    planned = false;
    const begin = clock.now();
    for (const _ of renewals()) {
      if (clock.now() - begin < deps.sliceMs) continue;
      plan();
      break;
    }
    tell();
  }

  return {
    claim(id, domain, cause) {
      touchedClaims.set(id, { domain, cause: cause ?? touchedClaims.get(id)?.cause ?? null });
      plan();
    },
    domain(name) {
      touchedDomains.add(name);
      plan();
    },
    host(busid) {
      touchedHosts.add(busid);
      plan();
    },
    conditions() {
      touchedConditions = true;
      plan();
    },
    note(entry) {
      push({ kind: "event", value: journal.add(entry) });
      plan();
    },
    flush,
    snapshot() {
      flush();
      return {
        id: life,
        seq,
        domains: [...domains.values()],
        devices: [...claims.values()].map(({ status }) => status),
        deviceKeys: [...claims.keys()],
        host: [...hosts.values()],
        conditions: [...conditions],
      };
    },
    statusOf: (id) => claims.get(id)?.status,
    claimsOf,
    changes$,
    since(id, from) {
      if (id !== life || from > seq) return null;
      flush();
      if (from === seq) return [];
      const oldest = recent[0]?.seq ?? seq + 1;
      return from + 1 < oldest ? null : recent.slice(from + 1 - oldest);
    },
  };
}
