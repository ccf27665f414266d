/** What `--domain`, `--phase` and `--label` let through; the same on the server (query) and in the commands. Pure. */
import { type ClaimStatus, type DomainStatus, PHASES, type Phase } from "../model/status.ts";
import { err, ok, type Result } from "../model/result.ts";
import type { HostDeviceStatus } from "../controller/view.ts";

/** `key=value`, `key!=value`, or `key` alone: it is there. All must hold. */
export type LabelTest = { readonly key: string; readonly op: "=" | "!=" | "exists"; readonly value: string };

/** Empty arrays let everything through. */
export type Filters = { readonly domains: readonly string[]; readonly phases: readonly Phase[]; readonly labels: readonly LabelTest[] };
export const noFilters: Filters = { domains: [], phases: [], labels: [] };

/** @param text - one or more, separated by commas */
export function parseLabels(text: string): Result<readonly LabelTest[], string> {
  const tests: LabelTest[] = [];
  for (const part of text.split(",")) {
    const match = /^\s*([^=!,\s]+)\s*(?:(!=|==?)\s*([^=!,]*?))?\s*$/.exec(part);
    if (match?.[1] === undefined) return err(`${JSON.stringify(part)} is no label test; write key=value, key!=value or key`);
    tests.push({ key: match[1], op: match[2] === undefined ? "exists" : match[2] === "!=" ? "!=" : "=", value: match[3] ?? "" });
  }
  return ok(tests);
}

/** Upper and lower case are the same. @returns undefined: no such phase */
export const parsePhase = (text: string): Phase | undefined => PHASES.find((phase) => phase.toLowerCase() === text.trim().toLowerCase());

const holds = (labels: Readonly<Record<string, string>>, { key, op, value }: LabelTest): boolean => {
  const has = Object.hasOwn(labels, key);
  return op === "exists" ? has : op === "=" ? has && labels[key] === value : !has || labels[key] !== value;
};
const named = (names: readonly string[], name: string | null): boolean => names.length === 0 || (name !== null && names.includes(name));

export function createSelection(filters: Filters, labelsOf: (domain: string) => Readonly<Record<string, string>>) {
  const { domains, phases, labels } = filters;
  const labelled = (domain: string | null): boolean =>
    labels.length === 0 || (domain !== null && labels.every((test) => holds(labelsOf(domain), test)));
  return {
    device: (claim: ClaimStatus): boolean =>
      named(domains, claim.domain) && (phases.length === 0 || phases.includes(claim.phase)) && labelled(claim.domain),
    /** Phases concern devices; a domain passes whatever they are. */
    domain: (domain: DomainStatus): boolean => named(domains, domain.name) && labelled(domain.name),
    /** A host device passes for any of its claims, or its holder. */
    host: ({ claims, holder }: HostDeviceStatus): boolean => {
      if (domains.length === 0 && phases.length === 0 && labels.length === 0) return true;
      const claimed = claims.some(
        ({ domain, phase }) => named(domains, domain) && (phases.length === 0 || phases.includes(phase)) && labelled(domain),
      );
      return claimed || (phases.length === 0 && holder !== null && named(domains, holder) && labelled(holder));
    },
    event: (entry: { readonly domain: string | null }): boolean => named(domains, entry.domain) && labelled(entry.domain),
  };
}

/** Reads `domain=`, `phase=`, `label=` of a query; each may be repeated, and hold several separated by commas (a domain may not). */
export function filtersOfQuery(query: URLSearchParams): Result<Filters, string> {
  const phases: Phase[] = [];
  for (const text of query.getAll("phase").flatMap((value) => value.split(","))) {
    const phase = parsePhase(text);
    if (phase === undefined) return err(`there is no phase ${JSON.stringify(text)}; the phases are ${PHASES.join(", ")}`);
    phases.push(phase);
  }
  const labels: LabelTest[] = [];
  for (const text of query.getAll("label")) {
    const tests = parseLabels(text);
    if (!tests.ok) return tests;
    labels.push(...tests.value);
  }
  return ok({ domains: query.getAll("domain"), phases, labels });
}

/** Inverse of {@link filtersOfQuery}. */
export function queryOfFilters({ domains, phases, labels }: Filters): URLSearchParams {
  const query = new URLSearchParams();
  for (const domain of domains) query.append("domain", domain);
  for (const phase of phases) query.append("phase", phase);
  for (const { key, op, value } of labels) query.append("label", op === "exists" ? key : `${key}${op}${value}`);
  return query;
}
