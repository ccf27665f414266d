/** What of a change is news to whoever waits for something: nothing where it tells the same again, little where it shows what we do ourselves. */
import type { LiveDomain } from "../model/domain.ts";
import type { World, WorldChange } from "../model/world.ts";
import { same } from "../model/same.ts";

/** Claims whose action has failed so often in a row hear no echo: their wait is not cut short by what they bring about themselves. */
export const ECHO_FAILURES = 3;

/** The same told again (a snapshot after a doubt, a listing after a refusal) is nothing that anybody waits for: it cuts no backoff short. */
export const isNews = (world: World, change: WorldChange): boolean =>
  change.kind === "host"
    ? !same(world.host.get(change.busid) ?? null, change.device)
    : change.kind !== "live" || !same(world.domains.get(change.key) ?? null, change.domain);

/** All of a domain but our objects and what follows from them. */
const withoutOurs = (domain: LiveDomain): LiveDomain => ({
  ...domain,
  objects: domain.objects.filter(({ ours }) => !ours),
  controllers: domain.controllers.map((controller) => ({ ...controller, occupied: [] })),
  freeSlots: [],
});

/**
 * Whether a domain may have changed by our own actions alone: objects of ours came and went. A port or a slot that is free again changes the
 * plan where it matters, and a new plan is tried at once whatever this says.
 */
export function isEcho(world: World, change: WorldChange): boolean {
  if (change.kind !== "live" || change.domain === null) return false;
  const before = world.domains.get(change.key);
  return before !== undefined && same(withoutOurs(before), withoutOurs(change.domain));
}
