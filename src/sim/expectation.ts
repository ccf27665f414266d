/** Holds an expectation of a scenario against what the daemon shows and against what is really so. */
import type { ClaimStatus, Condition, DomainStatus } from "../model/status.ts";
import type { Expectation } from "./scenario-file.ts";
import type { SimHost } from "./world.ts";
import { withDomids } from "./xen-scenario.ts";

/** What the daemon shows; a part of its snapshot. */
export type Shown = {
  readonly devices: readonly ClaimStatus[];
  /** Keys of `devices`: `<domain>/<name>`, `@<busid>` behind it where count is all. */
  readonly deviceKeys: readonly string[];
  readonly domains: readonly DomainStatus[];
  readonly conditions: readonly Condition[];
  /** Reasons that the journal told since the last mark. */
  readonly journal: readonly (string | null)[];
};

const phaseOf = (claim: ClaimStatus): string => (claim.reason === null ? claim.phase : `${claim.phase}/${claim.reason}`);
/** `Attached` stands for Attached with any reason. */
const fits = (actual: string, wanted: string): boolean => wanted.split(" | ").some((one) => actual === one || actual.split("/")[0] === one);

/** @returns what the daemon shows otherwise, a sentence each; empty: nothing */
export function wrongView(expectation: Expectation, shown: Shown): string[] {
  const claims = new Map(shown.deviceKeys.map((key, index) => [key, shown.devices[index]]));
  const wrong: string[] = [];
  for (const [key, wanted] of Object.entries(expectation.claims ?? {})) {
    const claim = claims.get(key);
    const actual = claim === undefined ? "absent" : phaseOf(claim);
    if (!fits(actual, wanted)) wrong.push(`${key} is ${actual}${claim === undefined ? "" : ` (${claim.message})`}, not ${wanted}`);
  }
  for (const [key, wanted] of Object.entries(expectation.guest ?? {})) {
    const guest = claims.get(key)?.guest;
    const right =
      guest != null &&
      (wanted.controller === undefined || guest.controller === wanted.controller) &&
      (wanted.port === undefined || guest.port === wanted.port);
    if (!right) wrong.push(`${key} sits at ${JSON.stringify(guest ?? null)}, not at ${JSON.stringify(wanted)}`);
  }
  for (const [name, wanted] of Object.entries(expectation.conditions ?? {})) {
    const of = name === "host" ? shown.conditions : (shown.domains.find((domain) => domain.name === name)?.conditions ?? []);
    for (const [type, state] of Object.entries(wanted)) {
      const found = of.filter((condition) => condition.type === type).map(({ status, reason }) => `${status}/${reason}`);
      const actual = found.length === 0 ? ["absent"] : found;
      if (!actual.some((one) => fits(one, state))) wrong.push(`${name}'s condition ${type} is ${actual.join(", ")}, not ${state}`);
    }
  }
  for (const reason of expectation.journal ?? []) {
    if (!shown.journal.includes(reason)) wrong.push(`the journal does not tell ${reason}`);
  }
  return wrong;
}

/** @returns what is really otherwise on the simulated host, a sentence each; empty: nothing */
export function wrongWorld(expectation: Expectation, host: SimHost): string[] {
  const wrong: string[] = [];
  for (const [name, wanted] of Object.entries(expectation.holds ?? {})) {
    const held = [...host.held(name)].sort();
    if (held.join() !== [...wanted].sort().join()) wrong.push(`${name} holds [${held.join(", ")}], not [${wanted.join(", ")}]`);
  }
  const { xen } = host;
  for (const [name, wanted] of Object.entries(expectation.guestSees ?? {})) {
    const seen = xen?.guestSees(name) ?? [];
    if (seen.join() !== [...wanted].sort().join()) wrong.push(`the guest of ${name} has [${seen.join(", ")}], not [${wanted.join(", ")}]`);
  }
  for (const [path, wanted] of Object.entries(expectation.xenstore ?? {})) {
    const value = xen === null ? null : xen.store.read(withDomids(path, xen));
    if (value !== wanted) wrong.push(`${path} of xenstore is ${JSON.stringify(value)}, not ${JSON.stringify(wanted)}`);
  }
  if (expectation.noLeftovers === true) wrong.push(...leftovers(host), ...(xen?.problems() ?? []));
  return wrong;
}

/** Unlike the rest this never becomes true again once it is not: it is asked when everything else holds. */
export const touched = (expectation: Expectation, host: SimHost): string[] =>
  (expectation.untouched ?? []).flatMap((name) => {
    const changes = host.mutations(name);
    return changes.length === 0 ? [] : [`${name} was touched: ${JSON.stringify(changes)}`];
  });

function leftovers(host: SimHost): string[] {
  const owners = new Map<string, string>();
  return host.domainNames().flatMap((name) =>
    host.objects(name).flatMap(({ path, holds }) => {
      if (holds === null) return [`${path} in ${name} is dead`];
      const owner = owners.get(holds);
      owners.set(holds, name);
      return owner === undefined ? [] : [`${holds} is held by ${owner} and by ${name}`];
    }),
  );
}
