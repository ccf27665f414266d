/** What survives a restart (product.md §2, `--state`): intentions only, never what is attached. JSON-plain. */
import type { DesiredDevice, DesiredDomain } from "./desired.ts";
import type { HostPolicy } from "./policy.ts";

/** An operator keeps a device out of a claim (release: out of this one only, else out of every claim) until `until` (ms since 1970). */
export type Hold = {
  readonly domain: string;
  readonly device: string;
  readonly until: number;
  readonly release: boolean;
  readonly reason: string | null;
};
export type Pause = { readonly domain: string; readonly since: number; readonly reason: string | null };
/** A device that came back as something else; denied until approved. */
export type Quarantine = { readonly domain: string; readonly device: string; readonly busid: string; readonly fingerprint: string };

/** One file as it was last good. */
export type LastGood = {
  readonly file: string;
  readonly domains: readonly DesiredDomain[];
};
/** Entries of one domain that were edited out with `onRemove: leave`, until the domain is clean of them. */
export type Left = { readonly domain: string; readonly devices: readonly DesiredDevice[] };

export type Intentions = {
  readonly lastGood: readonly LastGood[];
  readonly lastGoodPolicy: HostPolicy | null;
  /** Domains whose file vanished and was decided to have, until they are clean. */
  readonly vanished: readonly DesiredDomain[];
  readonly left: readonly Left[];
  readonly holds: readonly Hold[];
  readonly pauses: readonly Pause[];
  readonly quarantines: readonly Quarantine[];
};

export const noIntentions: Intentions = {
  lastGood: [],
  lastGoodPolicy: null,
  vanished: [],
  left: [],
  holds: [],
  pauses: [],
  quarantines: [],
};
