/** Names that people type, held against what the daemon knows. An unknown one is exit 2, with the nearest known one named. */
import { nearest } from "../../model/nearest.ts";
import { err, ok, type Result } from "../../model/result.ts";
import type { ClaimStatus, DomainStatus } from "../../model/status.ts";
import type { ReadyBody } from "../http/messages.ts";
import type { Api } from "./client.ts";
import { type Failure, usage } from "./io.ts";
import { shown } from "./render.ts";

export type Known = { readonly domains: readonly DomainStatus[]; readonly devices: readonly ClaimStatus[] };

export async function known(api: Api): Promise<Result<Known, Failure>> {
  const [domains, devices] = await Promise.all([api.get<DomainStatus[]>("/api/v1/domains"), api.get<ClaimStatus[]>("/api/v1/devices")]);
  if (!domains.ok) return domains;
  return devices.ok ? ok({ domains: domains.value, devices: devices.value }) : devices;
}

/** Whether the daemon has read all of its sources once; before that a name may be unknown only for now. */
export async function isReady(api: Api): Promise<boolean> {
  const answer = await api.ask("/readyz");
  return answer.ok && (answer.value.body as Partial<ReadyBody> | null)?.ready === true;
}

/** What to say of a name that is not there. */
export function unknownName(
  what: string,
  name: string,
  names: readonly string[],
  remedy = "`plugherd get domains` lists the domains.",
): Failure {
  const near = nearest(name, [...new Set(names)]);
  return usage(`There is no ${what} ${JSON.stringify(shown(name))}.`, near === null ? remedy : `Did you mean ${shown(near)}?`);
}

export const domainNames = ({ domains, devices }: Known): string[] => [
  ...new Set([...domains.map(({ name }) => name), ...devices.map(({ domain }) => domain)]),
];

export function checkDomain(all: Known, name: string): Result<void, Failure> {
  const names = domainNames(all);
  return names.includes(name) ? ok(undefined) : err(unknownName("domain", name, names));
}

/** @returns every claim of that entry: one, or several where `count: all` or where domains share the name */
export function findEntries(all: Known, device: string, domain: string | undefined): Result<readonly ClaimStatus[], Failure> {
  if (domain !== undefined) {
    const checked = checkDomain(all, domain);
    if (!checked.ok) return checked;
  }
  const within = all.devices.filter((claim) => domain === undefined || claim.domain === domain);
  const found = within.filter((claim) => claim.name === device);
  if (found.length > 0) return ok(found);
  const elsewhere = all.devices.filter((claim) => claim.name === device).map((claim) => claim.domain);
  if (elsewhere.length > 0)
    return err(
      usage(
        `Domain ${shown(domain ?? "")} has no device ${JSON.stringify(shown(device))}.`,
        `It is an entry of ${[...new Set(elsewhere)].map((name) => shown(name)).join(", ")}.`,
      ),
    );
  const names = within.map((claim) => claim.name);
  const where = domain === undefined ? "device" : `device of ${shown(domain)} named`;
  return err(unknownName(where, device, names, "`plugherd get devices` lists the entries."));
}
