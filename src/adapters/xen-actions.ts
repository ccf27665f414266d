/** What attaching and detaching in a domain of Xen's have in common, whatever kind its controllers are. */
import { type ActionError, CALLED_OFF } from "../model/action.ts";
import type { Domains } from "../model/contracts.ts";
import type { Mark } from "../protocol/xenstore-usb.ts";
import type { Life } from "./domain-life.ts";
import type { XenPort, XenRecords } from "./xen-records.ts";

export type XenActions = Pick<Domains, "attach" | "detach">;
/** What a port is recorded to hold; busid "": nothing. */
export type Held = { readonly busid: string; readonly mark: Mark | null };
export type XenActionDeps = {
  readonly domid: number;
  readonly life: Life;
  readonly records: XenRecords;
  /** By the last look and what we have written since. */
  readonly holds: (port: XenPort) => Held;
  /** Whether libxl knows this emulated controller. */
  readonly isRecorded: (devid: number) => boolean;
  /** Controllers of ours of this name that are recorded and not there: what a crash left between record and QEMU. */
  readonly forsaken: (name: string) => readonly number[];
  /** Runs an action on a port: what is seen there meanwhile is nobody else's doing. */
  readonly onPort: <T>(port: XenPort, run: () => Promise<T>) => Promise<T>;
};

/** Waits until what is seen can be believed. @returns why nothing can be done; null: go on */
export async function hindrance(life: Life, signal: AbortSignal): Promise<ActionError | null> {
  await life.settled();
  return life.blocked() ?? (signal.aborted ? CALLED_OFF : null);
}
