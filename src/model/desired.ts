/** Desired state as values: what one file says of one domain (product.md §2), defaults filled in. Reading and checking: desired-check.ts. */
import type { UsbVersion } from "./usbctrl.ts";

/** Where in a file something stands; line and column 1-based. */
export type SourceMark = { readonly file: string; readonly line: number; readonly column: number };

/** One problem of a file, in words: `what is wrong; what would be right`. */
export type Problem = SourceMark & {
  readonly code: string;
  readonly message: string;
  readonly severity: "error" | "warning" /** JSON pointer in its document. */;
  readonly pointer: string;
};

/** Interface class, `03`, `03:01`, `03:01:02`; null: any. */
export type ClassPattern = { readonly class: number; readonly subclass: number | null; readonly protocol: number | null };

/** Every field that is not null must match; at least one is not null. Glob texts know `*` and `?` only. */
export type UsbSelector = {
  readonly vendor: string | null;
  readonly product: string | null;
  readonly serial: string | null;
  /** A busid (`1-1.4`) or an anchored port (`pci-0000:00:14.0/1.4`). */
  readonly port: string | null;
  /** Everything behind the hub in this port, either form; what sits in the port itself, and hubs, left out. */
  readonly under: string | null;
  readonly anyInterface: ClassPattern | null;
  readonly allInterfaces: ClassPattern | null;
  readonly manufacturer: string | null;
  readonly productName: string | null;
  readonly removable: boolean | null;
  /** bus and address only together. */
  readonly bus: number | null;
  readonly address: number | null;
};

export type DesiredController = {
  /** Given, else `hciN` / `pvN` by position. */
  readonly name: string;
  readonly type: "auto" | "emulated" | "pv";
  readonly version: UsbVersion | null;
  /** As written; see controllerModel(). */
  readonly model: string | null;
  readonly index: number | null;
  readonly ports: number;
  readonly backend: string | null;
  readonly mark: SourceMark;
};

export type DesiredDevice = {
  readonly name: string;
  /** `usb`: selectors is what it may be (several: anyOf). `unsupported`: a kind that stalls the device, named in `what`. */
  readonly kind:
    | { readonly type: "usb"; readonly selectors: readonly UsbSelector[]; readonly anyOf: boolean }
    | { readonly type: "unsupported"; readonly what: "emulated" | "pci" | "interface" };
  readonly count: 1 | "all";
  readonly pick: "none" | "lowestPort";
  readonly priority: number;
  readonly controller: string | null;
  readonly guestPort: number | null;
  readonly required: boolean;
  readonly onRemove: "detach" | "leave";
  readonly after: readonly string[];
  readonly mark: SourceMark;
};

export type DesiredDomain = {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly target: { readonly by: "name"; readonly name: string } | { readonly by: "uuid"; readonly uuid: string };
  readonly mode: "enforce" | "observe" | "paused";
  readonly prune: "managed" | "none" | "all";
  /** null: made when needed; []: none is ever made. */
  readonly controllers: readonly DesiredController[] | null;
  readonly devices: readonly DesiredDevice[];
  readonly mark: SourceMark;
  /** Hash of the file's bytes, 12 hex digits: `observedGeneration`. */
  readonly generation: string;
  /** Commit of the git checkout that the file lies in, abbreviated; null: none. */
  readonly commit: string | null;
};

/** What one file said when it was last read. */
export type FileReading =
  | { readonly kind: "read"; readonly domains: readonly DesiredDomain[]; readonly warnings: readonly Problem[] }
  /** Bad input: every problem. `names`: the metadata.names that could still be made out, so that their domains can say InvalidFile. */
  | { readonly kind: "bad"; readonly problems: readonly Problem[]; readonly names: readonly string[] }
  | { readonly kind: "unreadable"; readonly message: string };

/** The whole tree as it is on disk now. Files by path relative to the directory. */
export type TreeReading = {
  readonly directory: "present" | "missing" | "unreadable";
  readonly files: ReadonlyMap<string, FileReading>;
};

/**
 * One domain's desired state as it is in force, after last-good, settling and the guards (controller/desired-state.ts).
 * `settling`, `held-back` (MassDetach, SpecsEmpty, directory missing): the file is away and that is no decision yet: the spec holds in full.
 * `vanished`: its file is gone and was decided to be; nothing is claimed any more, and prune and onRemove hold until the domain is clean.
 */
export type ForcedDomain = {
  readonly spec: DesiredDomain;
  readonly standing: "current" | "last-good" | "settling" | "held-back" | "vanished";
  /** Why it is not `current`: one line a problem; empty for current. */
  readonly problems: readonly string[];
  /** Entries that were in force, said `onRemove: leave`, and are in the file no more: a device that matches one of them stays. */
  readonly left: readonly DesiredDevice[];
};
