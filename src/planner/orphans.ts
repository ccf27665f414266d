/** Objects in a live domain that no claim owns: what goes, what stays, and why (product.md §2, "Removing", "Whose is it?"). */
import { isRecord, type LiveObject } from "../model/domain.ts";
import { describeDevice } from "../model/hostdev.ts";
import type { ForcedDomain } from "../model/desired.ts";
import type { OrphanPlan } from "../model/world.ts";
import { admission, holdFor, staysBecause } from "./refuse.ts";
import { attachedAt, isTraceable, type Seat } from "./seats.ts";
import { selectorMatches } from "./selector.ts";
import type { Entry, View } from "./view.ts";

const orphanId = (live: string, path: string): string => `${live} ${path}`;

/** The command that a person clears an object with, at the domain's own monitor; a record of Xen's, in the host's shell. */
const clearWith = (object: LiveObject): string => {
  const { id, path } = object;
  if (!isRecord(object)) return `device_del ${id ?? path}`;
  return path.includes("/port/") ? `xenstore-write ${path} ""` : `xenstore-rm ${path}`;
};

/** What files that mean this live domain say of it; the most careful of them counts. */
function governing(view: View, live: string): readonly ForcedDomain[] {
  return view.governors(live).flatMap((name) => view.world.forced.get(name) ?? []);
}

/** Entries that are no more and said `onRemove: leave`. */
const leaves = (forced: ForcedDomain): ForcedDomain["left"] => [
  ...forced.left,
  ...(forced.standing === "vanished" ? forced.spec.devices.filter(({ onRemove }) => onRemove === "leave") : []),
];

function isLeft(view: View, forced: readonly ForcedDomain[], busid: string): boolean {
  const device = view.device(busid);
  return forced
    .flatMap(leaves)
    .some(({ kind }) => kind.type === "usb" && kind.selectors.some((selector) => selectorMatches(selector, device)));
}

type Fate = { readonly target: null | "stay"; readonly why: string };
const goes = (why: string): Fate => ({ target: null, why });
const stays = (why: string): Fate => ({ target: "stay", why });

function fateOfDead(view: View, seat: Seat): Fate {
  const { object, live } = seat;
  const names = view.governors(live);
  const what = object.ours && !object.attached ? "QEMU has lost its device" : "its device has left the host";
  const command = `clear it with: ${clearWith(object)}`;
  if (names.length === 0) return stays(`${what}, and no file names the domain; ${command}`);
  const able = names.every((name) => view.authority(name).gives);
  return able ? goes(what) : stays(`${what}, and nothing is touched in this domain now; ${command}`);
}

function fateOfHolding(view: View, seat: Seat, busid: string, winner: Entry | null): Fate {
  const { object, live } = seat;
  const forced = governing(view, live);
  const [first] = forced;
  if (first === undefined) return stays("no file names the domain");
  const stuck = staysBecause(view, seat, busid);
  if (winner !== null && !forced.some(({ spec }) => spec.name === winner.domain) && stuck === null)
    return goes(`${winner.domain}/${winner.device.name} gets the device`);
  const able = forced.every(({ spec }) => view.authority(spec.name).gives) && view.world.policy.kind === "valid";
  if (!able) return stays("nothing is touched in this domain now");
  const { spec } = forced.find(({ standing }) => standing !== "vanished") ?? first;
  if (object.ours) {
    if (view.authority(spec.name).down) return goes("the domain is shut down: its devices are given back");
    const { denial } = admission(view, spec.name, null, busid);
    if (denial !== null) return goes(denial.message);
    const held = holdFor(view, busid);
    if (held !== null) return goes(`an operator holds the device for ${held.entry.domain}/${held.entry.device.name}`);
  }
  if (forced.some((one) => one.spec.prune === "none")) return stays("no entry claims it, and `prune: none` leaves it");
  if (isLeft(view, forced, busid)) return stays("no entry claims it, and the one that did said `onRemove: leave`");
  if (object.ours) return goes("no entry claims it any more");
  return forced.every((one) => one.spec.prune === "all") && object.exact
    ? goes("somebody else attached it, no entry claims it, and the file says `prune: all`")
    : stays("somebody else attached it, and no entry claims it");
}

/**
 * @param winner - the entry that gets the device behind the object; null: none
 */
export function planOrphan(view: View, seat: Seat, winner: (busid: string) => Entry | null): OrphanPlan {
  const { object, live } = seat;
  const [busid] = view.heldBy(seat);
  const dead = busid === undefined && isTraceable(object);
  const base = { id: orphanId(live, object.path), live, ours: object.ours, dead };
  if (dead) return { ...base, at: attachedAt(seat, null), ...fateOfDead(view, seat) };
  if (busid === undefined || !object.exact) {
    const what = object.exact ? "what it holds cannot be told" : "an auto-scan object of somebody else";
    return { ...base, at: attachedAt(seat, null), ...stays(what) };
  }
  const device = view.device(busid);
  const fate = fateOfHolding(view, seat, busid, winner(busid));
  return { ...base, at: attachedAt(seat, device), target: fate.target, why: `${busid} (${describeDevice(device)}): ${fate.why}` };
}
