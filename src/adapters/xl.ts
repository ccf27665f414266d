/** `xl`, asked for what xenstore does not tell: which domains the hypervisor has, and why one is shut down. */
import type { Clock, Log } from "../model/contracts.ts";
import { err, type Result } from "../model/result.ts";
import type { Timings } from "../model/timings.ts";
import { parseXlList, type XlDomain } from "../protocol/xl-list.ts";
import { runProgram } from "./program.ts";

export type XlError = { readonly message: string };
export type Xl = {
  /**
   * Every domain, Domain-0 too, as it was after the call: who asks while one is being listed gets the next listing, with all others that ask
   * meanwhile. Never rejects; no `xl` is an error like any other.
   */
  list(): Promise<Result<readonly XlDomain[], XlError>>;
};
export type XlDeps = {
  /** Name or path of the program. */
  readonly command: string;
  readonly clock: Clock;
  readonly timings: Pick<Timings, "xlMs">;
  readonly log: Log;
};

/** Some 130 bytes a domain, and 32,752 of them at most. */
const MAX_BYTES = 8 * 1024 * 1024;

/** Every domain, by one call of its own. Never rejects. */
export async function listDomains({ command, clock, timings }: Omit<XlDeps, "log">): Promise<Result<readonly XlDomain[], XlError>> {
  const output = await runProgram(command, ["list", "-v"], { timeoutMs: timings.xlMs, maxBytes: MAX_BYTES, clock });
  return output.ok ? parseXlList(output.value) : output;
}

export function createXl({ log, ...deps }: XlDeps): Xl {
  let running: Promise<Result<readonly XlDomain[], XlError>> | null = null;
  let next: Promise<Result<readonly XlDomain[], XlError>> | null = null;
  let told = "";

  const run = async (): Promise<Result<readonly XlDomain[], XlError>> => {
    const rows = await listDomains(deps);
    const message = rows.ok ? "" : rows.error.message;
    if (message !== told && message !== "") log.warn("the domains cannot be listed", { message });
    told = message;
    return rows.ok ? rows : err({ message });
  };
  const begin = (): Promise<Result<readonly XlDomain[], XlError>> => {
    const mine = run().finally(() => {
      if (running === mine) running = null;
    });
    running = mine;
    return mine;
  };
  return {
    list() {
      if (running === null) return begin();
      next ??= running.then(() => {
        next = null;
        return begin();
      });
      return next;
    },
  };
}
