/** Entries that were edited out of a file and said `onRemove: leave`: their devices stay until the domain is rid of them (product.md §2). */
import type { DesiredDevice, DesiredDomain } from "../model/desired.ts";

/** What an entry matches; two entries of one selection mean one device, whatever they are called. */
const selectionOf = ({ kind, count }: DesiredDevice): string => JSON.stringify([kind, count]);

/**
 * @param before - the domain as it was in force; undefined: it was not
 * @param left - what had been left already
 * @returns what is left now: an entry that is back, under its old name or another, is claimed again
 */
export function leftAfter(
  before: DesiredDomain | undefined,
  after: DesiredDomain,
  left: readonly DesiredDevice[],
): readonly DesiredDevice[] {
  const names = new Set(after.devices.map(({ name }) => name));
  const selections = new Set(after.devices.map(selectionOf));
  const gone = (before?.devices ?? []).filter(({ onRemove }) => onRemove === "leave");
  const all = new Map([...left, ...gone].map((device) => [device.name, device]));
  const kept = [...all.values()].filter((device) => !names.has(device.name) && !selections.has(selectionOf(device)));
  return kept.length === left.length && kept.every((device, i) => device === left[i]) ? left : kept;
}
