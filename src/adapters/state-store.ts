/**
 * `--state`: what plugherd intends, over restarts (model/intentions.ts), as one JSON file. Written beside, synced and renamed into place, so
 * that whatever ends the process leaves the old or the new. What cannot be read is kept aside, told, and does not stop the start.
 */
import { constants } from "node:fs";
import { mkdir, open, readFile, rename, stat } from "node:fs/promises";
import { join } from "node:path";
import type { ActionError } from "../model/action.ts";
import type { IntentionStore, Log } from "../model/contracts.ts";
import { mapping } from "../model/finding.ts";
import { type Intentions, noIntentions } from "../model/intentions.ts";
import { err, ok, type Result } from "../model/result.ts";
import { codeOf } from "./follow-path.ts";
import { hasShape } from "./intentions-shape.ts";

export const STATE_FILE = "intentions.json";
const VERSION = 1;
const MAX_BYTES = 256 * 1024 * 1024;
const MAX_KEPT_ASIDE = 9;
/** What a write that was cut off left is written over; a link that somebody put in its place is not followed. */
const FRESH = constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC | constants.O_NOFOLLOW;

export function createStateStore({ dir, log }: { readonly dir: string; readonly log: Log }): IntentionStore {
  const path = join(dir, STATE_FILE);
  const temporary = join(dir, `.${STATE_FILE}.tmp`);
  let waiting: Intentions | null = null;
  let writing: Promise<void> | null = null;

  const write = async (intentions: Intentions): Promise<void> => {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    const file = await open(temporary, FRESH, 0o600);
    try {
      await file.writeFile(JSON.stringify({ version: VERSION, ...intentions }));
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
    await syncDirectory(dir);
  };

  /** One write at a time; of what comes meanwhile the newest. */
  const pump = async (): Promise<void> => {
    while (waiting !== null) {
      const next: Intentions = waiting;
      waiting = null;
      try {
        await write(next);
      } catch (cause) {
        log.error("what is intended could not be saved; it is tried again with the next change", { path, reason: messageOf(cause) });
      }
    }
    writing = null;
  };

  return {
    async load() {
      try {
        await mkdir(dir, { recursive: true, mode: 0o700 });
        const size = await stat(path).then(
          (stats) => stats.size,
          (cause: unknown) => (codeOf(cause) === "ENOENT" ? null : Promise.reject(cause)),
        );
        if (size === null) return ok(noIntentions);
        const { intentions, problems } = size > MAX_BYTES ? unreadable("it is too big") : read(await readFile(path, "utf8"));
        if (problems.length > 0) {
          const aside = await keepAside(path);
          log.error("what was intended is partly unreadable; the rest is in force", { problems, keptAt: aside });
        }
        return ok(intentions);
      } catch (cause) {
        return failed(path, cause);
      }
    },
    save(intentions) {
      waiting = intentions;
      writing ??= pump();
    },
    async flush() {
      while (writing !== null) await writing;
    },
  };
}

const messageOf = (cause: unknown): string => (cause instanceof Error ? cause.message : String(cause));
const failed = (path: string, cause: unknown): Result<never, ActionError> =>
  err({ kind: "terminal", reason: "StateUnreadable", message: `${path} cannot be read: ${messageOf(cause)}` });

async function syncDirectory(dir: string): Promise<void> {
  const handle = await open(dir, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** @returns where the file is now; null: it could not be moved and will be overwritten */
async function keepAside(path: string): Promise<string | null> {
  for (let n = 1; n <= MAX_KEPT_ASIDE; n += 1) {
    const aside = `${path}.bad-${String(n)}`;
    const free = await stat(aside).then(
      () => false,
      () => true,
    );
    if (!free && n < MAX_KEPT_ASIDE) continue;
    try {
      await rename(path, aside);
      return aside;
    } catch {
      return null;
    }
  }
  return null;
}

type Read = { readonly intentions: Intentions; readonly problems: readonly string[] };
const unreadable = (problem: string): Read => ({ intentions: noIntentions, problems: [problem] });

/** Every part by itself: one bad entry costs that entry. */
function read(written: string): Read {
  let parsed: unknown;
  try {
    parsed = JSON.parse(written);
  } catch (cause) {
    return unreadable(messageOf(cause));
  }
  const root = mapping(parsed);
  if (root === null || root["version"] !== VERSION) return unreadable(`it is not of version ${String(VERSION)}`);
  const problems: string[] = [];
  const entriesOf = <K extends Exclude<keyof Intentions, "lastGoodPolicy">>(key: K): Intentions[K] => {
    const value = root[key];
    if (!Array.isArray(value)) {
      problems.push(`${key} is no list`);
      return noIntentions[key];
    }
    const good = value.filter((entry) => hasShape(key, entry));
    if (good.length < value.length)
      problems.push(`${key}: ${String(value.length - good.length)} of ${String(value.length)} entries are bad`);
    return good as unknown as Intentions[K];
  };
  const policy = root["lastGoodPolicy"];
  const goodPolicy = policy !== null && policy !== undefined && hasShape("lastGoodPolicy", policy);
  if (policy !== null && !goodPolicy) problems.push("lastGoodPolicy is bad");
  const intentions: Intentions = {
    lastGood: entriesOf("lastGood"),
    lastGoodPolicy: goodPolicy ? (policy as Intentions["lastGoodPolicy"]) : null,
    vanished: entriesOf("vanished"),
    left: entriesOf("left"),
    holds: entriesOf("holds"),
    pauses: entriesOf("pauses"),
    quarantines: entriesOf("quarantines"),
  };
  return { intentions, problems };
}
