/** What the rim promises to the controller. Adapters implement these; tests fake them with plain objects. */
import type { Observable } from "rxjs";
import type { ActionError, Attached, Outcome, Place } from "./action.ts";
import type { TreeReading } from "./desired.ts";
import type { DomainKey, LiveDomain } from "./domain.ts";
import type { HostDevice, InUse } from "./hostdev.ts";
import type { Intentions } from "./intentions.ts";
import type { PolicyState } from "./policy.ts";
import type { Result } from "./result.ts";

/** Time and chance, handed in. Timers have xstate's Clock shape. */
export type Clock = {
  /** Wall clock, ms since 1970. */
  now(): number;
  setTimeout(fn: (...args: unknown[]) => void, ms: number): unknown;
  clearTimeout(handle: unknown): void;
};
/** In [0, 1). */
export type Random = () => number;

export type Log = {
  debug(message: string, fields?: Readonly<Record<string, unknown>>): void;
  info(message: string, fields?: Readonly<Record<string, unknown>>): void;
  warn(message: string, fields?: Readonly<Record<string, unknown>>): void;
  error(message: string, fields?: Readonly<Record<string, unknown>>): void;
};

/** The first change is a snapshot, and there is one after every doubt; between them one device at a time. `null`: nothing at that busid any more. */
export type HostChange =
  | { readonly kind: "snapshot"; readonly devices: readonly HostDevice[] }
  | { readonly kind: "device"; readonly busid: string; readonly device: HostDevice | null };
export type HostUsb = {
  /** Cold; one subscriber. Subscribing starts the watch, unsubscribing ends it. Never errors: trouble is logged and answered by a re-read. */
  readonly changes$: Observable<HostChange>;
  /** Reads the in-use facts now. */
  inUse(device: HostDevice): Promise<InUse>;
  /** Slow audit: reads everything again, reports what differs. */
  audit(): Promise<void>;
};

/** `ready` once: every monitor found at the start has answered or timed out. A domain is reported whole at each change. */
export type DomainChange =
  | { readonly kind: "ready" }
  | { readonly kind: "domain"; readonly domain: LiveDomain }
  | { readonly kind: "gone"; readonly key: DomainKey };
export type ActionOptions = {
  readonly signal: AbortSignal /** Told each step as it begins, e.g. `making controller hci0`. */;
  readonly onStep: (step: string) => void;
};
export type Domains = {
  /** Cold; one subscriber; never errors. An observation that an action made is emitted before the action's promise resolves. */
  readonly changes$: Observable<DomainChange>;
  /** Makes the controller if told to, attaches, and resolves once the device is *seen* in the domain. Safe to repeat. */
  attach(place: Place, options: ActionOptions): Promise<Outcome>;
  /** Removes the object and resolves once it is *seen* gone. Safe to repeat; an object that is not there is success. */
  detach(at: Attached, options: ActionOptions): Promise<Outcome>;
  /** Slow audit: lists every domain again. */
  audit(): Promise<void>;
};

/** The desired-state tree: the first reading at once, then one after each settled change. */
export type DesiredSource = { readonly readings$: Observable<TreeReading> };
export type PolicySource = { readonly policy$: Observable<PolicyState> };

/** `--state`: intentions only. Saving is atomic; a save that fails is reported and tried again with the next. */
export type IntentionStore = {
  load(): Promise<Result<Intentions, ActionError>>;
  save(intentions: Intentions): void;
  /** Resolves once what was to be saved is on the disk, or could not be written. */
  flush(): Promise<void>;
};

export type Contracts = {
  readonly host: HostUsb;
  readonly domains: Domains;
  readonly desired: DesiredSource;
  readonly policy: PolicySource;
  readonly store: IntentionStore;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
};
