/**
 * The host policy file, watched as the desired-state tree is. Missing: nothing is denied but what is built in. Bad: the last good version
 * stays in force, across restarts too; with none, the policy is invalid (product.md §3).
 */
import { basename, dirname, join } from "node:path";
import { Observable } from "rxjs";
import type { Clock, Log, PolicySource } from "../model/contracts.ts";
import { type HostPolicy, openPolicy, type PolicyState } from "../model/policy.ts";
import type { Timings } from "../model/timings.ts";
import { createDirWatch, queuedEventsTold } from "./dir-watch.ts";
import { followPath } from "./follow-path.ts";
import { createLooker } from "./looker.ts";
import { formatProblem, generationOf, readSpec } from "./spec-reading.ts";
import { readBytes, reasonOf, watchSetOf } from "./spec-tree.ts";

export type PolicyFileOptions = {
  readonly path: string;
  /** As it was in force when the daemon last ran. */
  readonly lastGood: HostPolicy | null;
  readonly timings: Pick<Timings, "fileSettleMs" | "auditMs">;
  readonly clock: Clock;
  readonly log: Log;
};

/** Cold; the first state at once, then one at each change. Never errors. */
export const createPolicyFile = (options: PolicyFileOptions): PolicySource => ({
  policy$: new Observable<PolicyState>((out) => {
    const watcher = watchPolicy(options, (state) => out.next(state));
    return () => watcher.stop();
  }),
});

function watchPolicy(
  { path, timings, clock, log, ...options }: PolicyFileOptions,
  emit: (state: PolicyState) => void,
): { readonly stop: () => void } {
  const settleMs = timings.fileSettleMs;
  let { lastGood } = options;
  let names: ReadonlyMap<string, ReadonlySet<string>> = new Map();
  /** What was told last: the hash of the file, or in words why there is none. */
  let told: string | null = null;
  let missingSince: number | null = null;
  let writtenAt = Number.NEGATIVE_INFINITY;
  let lastEvent = Number.NEGATIVE_INFINITY;
  let real: string | null = null;
  let stopped = false;

  const watch = createDirWatch(clock, {
    event: ({ dir, name, kind }) => {
      if (stopped || (name !== null && name !== basename(dir) && names.get(dir)?.has(name) !== true)) return;
      lastEvent = clock.now();
      if (kind === "change" && name !== null && join(dir, name) === real) writtenAt = lastEvent;
      else if (kind === "rename") writtenAt = Number.NEGATIVE_INFINITY;
      looker.now();
    },
    error: (dir, message, news) => {
      if (news) log.error("the policy's directory cannot be watched; it is looked at now and then", { dir, message });
      looker.at(clock.now() + timings.auditMs);
    },
  });

  const look = async (): Promise<void> => {
    let place = await followPath(path);
    for (let i = 0; i < 8 && !stopped; i += 1) {
      const hinges = place.real === null ? place.hinges : [...place.hinges, { dir: dirname(place.real), name: basename(place.real) }];
      const set = await watchSetOf(hinges);
      names = set.names;
      if (!(await watch.set(set.identities))) break;
      place = await followPath(path);
    }
    if (stopped) return;
    real = place.real;
    const now = clock.now();
    if (lastEvent + settleMs > now) looker.at(lastEvent + settleMs);
    if (told !== null && writtenAt + settleMs > now) return looker.at(writtenAt + settleMs);
    const readFrom = writtenAt;
    const content = real === null ? null : await readBytes(real);
    await queuedEventsTold();
    if (stopped || (told !== null && writtenAt !== readFrom && Number.isFinite(writtenAt))) return looker.at(writtenAt + settleMs);
    if (content === null && place.code === "ENOENT") tellMissing(now, place.hinges.at(-1)?.name !== basename(path));
    else tell(content ?? reasonOf(place.code ?? "EIO"));
  };

  /** Editors take a file away for a moment. A directory that is missing (a mount) is no decision: the last good policy stays. */
  const tellMissing = (now: number, directoryToo: boolean): void => {
    missingSince ??= now;
    const kept = directoryToo && lastGood !== null;
    const words = kept ? "directory missing" : "missing";
    if (told === words) return;
    if (told !== null && now - missingSince < settleMs) {
      looker.at(missingSince + settleMs);
      return;
    }
    told = words;
    if (!kept) lastGood = openPolicy;
    const problems = kept ? [`${path}:1:1: the directory is missing; the last good policy stays in force until it is back`] : [];
    emit({ kind: "valid", policy: lastGood ?? openPolicy, problems });
  };

  const tell = (content: Awaited<ReturnType<typeof readBytes>>): void => {
    missingSince = null;
    const now = typeof content === "string" ? `unreadable: ${content}` : generationOf(content.bytes);
    if (now === told) return;
    told = now;
    const { policy, problems } =
      typeof content === "string"
        ? { policy: null, problems: [`${path}:1:1: the policy cannot be read: ${content}`] }
        : readPolicy(path, content.bytes);
    if (policy !== null) lastGood = policy;
    const state: PolicyState =
      lastGood === null ? { kind: "invalid", problems } : { kind: "valid", policy: lastGood, problems: policy === null ? problems : [] };
    if (problems.length > 0) log.warn(policy === null ? "the policy file is bad" : "the policy file has warnings", { problems });
    emit(state);
  };

  const looker = createLooker(clock, look);
  looker.now();
  return {
    stop() {
      stopped = true;
      looker.stop();
      void watch.close();
    },
  };
}

/** What a policy file says; several documents, or none, are bad input. */
function readPolicy(file: string, bytes: Uint8Array): { readonly policy: HostPolicy | null; readonly problems: readonly string[] } {
  const { policies, problems } = readSpec(file, bytes, ["HostPolicy"]);
  const lines = problems.map(formatProblem);
  const [policy, second] = policies;
  if (second !== undefined) return { policy: null, problems: [...lines, `${file}:1:1: the file holds several policies; keep one`] };
  return { policy: problems.some(({ severity }) => severity === "error") ? null : (policy ?? null), problems: lines };
}
