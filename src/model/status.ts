/** What a user sees of a claim and of a domain (product.md §4, §5). */

/** In order of precedence: the first that applies is shown. */
export const PHASES = [
  "Paused",
  "Held",
  "Denied",
  "WaitingForDomain",
  "WaitingForHost",
  "Conflict",
  "Ambiguous",
  "Contested",
  "Flapping",
  "Stalled",
  "BackingOff",
  "WaitingForFrontend",
  "Attaching",
  "Detaching",
  "Attached",
] as const;
export type Phase = (typeof PHASES)[number];

export const phaseRank = (phase: Phase): number => PHASES.indexOf(phase);

/** What moved a claim last. */
export type Cause = {
  readonly kind: "file" | "host" | "domain" | "operator" | "retry" | "policy" | "drift" | "start";
  readonly file: string | null;
  readonly commit: string | null;
};

export type HostView = {
  readonly busid: string;
  readonly anchor: string | null;
  readonly bus: number;
  readonly address: number;
  readonly vendor: string;
  readonly product: string;
  readonly serial: string | null;
  readonly text: string;
};
export type GuestView = {
  /** As a file would name the controller; else its bus. */
  readonly controller: string;
  readonly port: number;
  /** QOM or xenstore path; null: not there yet. */
  readonly path: string | null;
  readonly attached: boolean;
};

/** One element of `get devices -o json`. */
export type ClaimStatus = {
  /** metadata.name of the file. */
  readonly domain: string;
  readonly name: string;
  readonly phase: Phase;
  /** CamelCase, stable. */
  readonly reason: string | null;
  /** One sentence a person can act on. */
  readonly message: string;
  /** RFC 3339, of the last change of phase or reason. */
  readonly since: string;
  readonly tries: number;
  readonly nextTryAt: string | null;
  readonly step: string | null;
  readonly host: HostView | null;
  readonly guest: GuestView | null;
  readonly cause: Cause | null;
};

/** With Flux's polarity: Ready always; the others only while true. */
export type Condition = { readonly type: string; readonly status: "True" | "False"; readonly reason: string; readonly message: string };

export type DomainStatus = {
  /** metadata.name, or the live domain's name where no file names it. */
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly mode: "enforce" | "observe" | "paused" | "none";
  readonly file: string | null;
  readonly observedGeneration: string | null;
  readonly commit: string | null;
  readonly live: null | {
    readonly key: string;
    readonly name: string | null;
    readonly uuid: string | null;
    readonly type: string;
    readonly state: string;
    readonly version: string | null;
    readonly monitor: string;
    readonly monitorState: string;
    readonly controllers: readonly {
      readonly name: string;
      readonly driver: string;
      readonly ports: number;
      readonly ours: boolean;
      readonly occupied: readonly number[];
    }[];
    /** Host USB objects of others and dead ones, each with the command that clears it. */
    readonly others: readonly { readonly path: string; readonly text: string }[];
  };
  readonly conditions: readonly Condition[];
  readonly devices: { readonly total: number; readonly attached: number };
};
