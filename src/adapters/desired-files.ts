/**
 * The desired-state tree, watched (product.md §2, Reading). An event only says "look again": the tree is then listed as a whole, and files
 * whose version changed are read; what differs from the last reading is emitted. A file that is written in place is read once it has been
 * left alone for `fileSettleMs`; one that was renamed into place, at once.
 */
import { basename, dirname, join } from "node:path";
import { Observable } from "rxjs";
import type { Clock, DesiredSource, Log } from "../model/contracts.ts";
import type { FileReading, TreeReading } from "../model/desired.ts";
import type { Timings } from "../model/timings.ts";
import { checkTree } from "../model/tree-check.ts";
import { createDirWatch, type DirEvent, queuedEventsTold } from "./dir-watch.ts";
import { createGitReader } from "./git-commit.ts";
import { createLooker } from "./looker.ts";
import { generationOf, readDomainFile } from "./spec-reading.ts";
import { isSpecName, readBytes, type SpecFile, type SpecTree, scanTree } from "./spec-tree.ts";

export type DesiredFilesOptions = {
  readonly dir: string;
  readonly timings: Pick<Timings, "fileSettleMs" | "auditMs">;
  readonly clock: Clock;
  readonly log: Log;
};

/** While git holds its lock, a changed tree is waited for, this many settle times at most: a lock may have been left over. */
const GIT_PATIENCE = 20;

type Known = { readonly version: string; readonly body: string; readonly hash: string; readonly reading: FileReading };
type Reading = { readonly directory: TreeReading["directory"]; readonly files: ReadonlyMap<string, FileReading> };

/** Cold; each subscriber has a watch of its own, which ends with it. Never errors. */
export const createDesiredFiles = (options: DesiredFilesOptions): DesiredSource => ({
  readings$: new Observable<TreeReading>((out) => {
    const watcher = watchTree(options, (reading) => out.next(reading));
    return () => watcher.stop();
  }),
});

function watchTree({ dir, timings, clock, log }: DesiredFilesOptions, emit: (reading: TreeReading) => void): { readonly stop: () => void } {
  const settleMs = timings.fileSettleMs;
  const known = new Map<string, Known>();
  /** Real paths that were written to, and when last; they are read once that is `settleMs` ago. */
  const written = new Map<string, number>();
  let watching: SpecTree["watch"] = new Map();
  /** Symlinks followed and directories moved in, as of the last look: what newly comes by one of them is whole. */
  let places: ReadonlySet<string> = new Set();
  let emitted: Reading | null = null;
  /** When it was first seen that something is not there any more; null: nothing is missing. */
  let missingSince: number | null = null;
  /** Since when git has been writing to the tree; null: it is not. */
  let gitSince: number | null = null;
  let lastEvent = Number.NEGATIVE_INFINITY;
  /** As it was told last. */
  let excess: string | null = null;
  let stopped = false;

  const relevant = ({ dir: where, name, kind }: DirEvent): boolean => {
    const watched = watching.get(where);
    if (name === null || name === basename(where)) return true;
    if (watched === undefined) return false;
    // A link on the way counts whatever its name: mounted volumes turn `..data`.
    if (watched.names.has(name)) return true;
    return watched.all && !name.startsWith(".") && (kind === "rename" || isSpecName(name));
  };

  const watch = createDirWatch(clock, {
    event: (event) => {
      if (stopped || !relevant(event)) return;
      lastEvent = clock.now();
      const path = join(event.dir, event.name ?? "");
      if (event.kind === "change" && event.name !== null) written.set(path, lastEvent);
      else written.delete(path);
      looker.now();
    },
    error: (where, message, news) => {
      const remedy = "raise fs.inotify.max_user_watches if it says ENOSPC; until then it is looked at now and then";
      if (news) log.error(`a directory of the desired state cannot be watched: ${remedy}`, { dir: where, message });
      looker.at(clock.now() + timings.auditMs);
    },
  });

  const lookOnce = async (): Promise<void> => {
    const before = watching;
    let tree = await scanTree(dir);
    // A directory counts as seen from when it is watched: what is new in the set is listed once more.
    for (let i = 0; i < 8 && !stopped; i += 1) {
      watching = tree.watch;
      if (!(await watch.set(new Map([...tree.watch].map(([path, { identity }]) => [path, identity]))))) break;
      tree = await scanTree(dir);
    }
    if (stopped) return;
    if (tree.excess !== null && tree.excess !== excess)
      log.error(`the desired state is not read: the directory holds ${tree.excess}; what was in force stays`, { dir });
    excess = tree.excess;
    const read = await readChanged(tree, before);
    // A write that came before our read counts against what was read.
    await queuedEventsTold();
    if (!stopped) settle(tree, read);
  };

  /** Marks what may still be written to, and reads the rest of what changed. */
  const readChanged = async (tree: SpecTree, before: SpecTree["watch"]): Promise<ReadonlyMap<string, Known>> => {
    const now = clock.now();
    const git = createGitReader();
    const read = new Map<string, Known>();
    const bodies = new Set([...known.values()].map(({ body }) => body));
    for (const [path, file] of tree.files) {
      if (typeof file === "string" || known.get(path)?.version === file.version) continue;
      const unseen = emitted !== null && before.get(dirname(file.real))?.identity !== tree.watch.get(dirname(file.real))?.identity;
      const whole = (file.placed !== null && !places.has(file.placed)) || bodies.has(file.body);
      if (unseen && !whole && !written.has(file.real) && file.mtimeMs > now - settleMs) written.set(file.real, now);
      if (isWritten(file, now)) continue;
      const checkout = await git.checkoutOf(dirname(file.real));
      if (checkout?.busy === true && emitted !== null) {
        gitSince ??= now;
        if (now - gitSince < GIT_PATIENCE * settleMs) {
          looker.at(now + settleMs);
          return new Map();
        }
      } else gitSince = null;
      const content = await readBytes(file.real);
      read.set(path, readingOf(path, file, content, checkout?.commit ?? null));
    }
    return read;
  };

  const isWritten = (file: SpecFile, now: number): boolean => {
    const at = written.get(file.real);
    if (at === undefined || emitted === null) return false;
    if (now - at >= settleMs || at > now) {
      written.delete(file.real);
      return false;
    }
    looker.at(at + settleMs);
    return true;
  };

  const readingOf = (path: string, file: SpecFile, content: Awaited<ReturnType<typeof readBytes>>, commit: string | null): Known => {
    if (typeof content === "string") return { version: file.version, body: file.body, hash: "", reading: unreadable(path, content) };
    const hash = generationOf(content.bytes);
    const old = known.get(path);
    const reading = old !== undefined && old.hash === hash ? old.reading : readDomainFile(path, content.bytes, commit);
    return { version: content.version, body: file.body, hash, reading };
  };

  const unreadable = (path: string, message: string): FileReading => {
    const old = known.get(path)?.reading ?? emitted?.files.get(path);
    return old?.kind === "unreadable" && old.message === message ? old : { kind: "unreadable", message };
  };

  /** Puts the new reading together and emits it where it differs. */
  const settle = (tree: SpecTree, read: ReadonlyMap<string, Known>): void => {
    const files = new Map<string, FileReading>();
    for (const [path, file] of [...tree.files].sort(([a], [b]) => (a < b ? -1 : 1))) {
      const fresh = read.get(path);
      if (fresh !== undefined && typeof file !== "string" && !(emitted !== null && written.has(file.real))) known.set(path, fresh);
      else if (fresh !== undefined && typeof file !== "string") looker.at((written.get(file.real) ?? clock.now()) + settleMs);
      const reading = typeof file === "string" ? unreadable(path, file) : known.get(path)?.reading;
      if (reading !== undefined) files.set(path, reading);
    }
    const next: Reading = { directory: tree.directory, files };
    if (lastEvent + settleMs > clock.now()) looker.at(lastEvent + settleMs);
    if (emitted !== null && isSame(emitted, next)) {
      missingSince = null;
    } else if (emitted === null || !onlyMisses(emitted, next) || isOver()) {
      missingSince = null;
      emitted = next;
      for (const path of known.keys()) if (!tree.files.has(path)) known.delete(path);
      emit({ directory: next.directory, files: checkTree(files) });
    }
    places = new Set([...tree.files.values()].flatMap((file) => (typeof file === "string" ? [] : (file.placed ?? []))));
    const present = new Set([...tree.files.values()].map((file) => (typeof file === "string" ? "" : file.real)));
    for (const [path, at] of written) if (!present.has(path) || clock.now() - at >= settleMs) written.delete(path);
  };

  /** Editors take a file away for a moment, and git before it writes the next: what is missing is told once it has been so for a while. */
  const isOver = (): boolean => {
    const now = clock.now();
    missingSince ??= now;
    const patience = written.size > 0 ? 3 * settleMs : settleMs;
    if (now - missingSince >= patience) return true;
    looker.at(missingSince + patience);
    return false;
  };

  const looker = createLooker(clock, lookOnce);
  looker.now();
  return {
    stop() {
      stopped = true;
      looker.stop();
      void watch.close();
    },
  };
}

const isSame = (a: Reading, b: Reading): boolean =>
  a.directory === b.directory && a.files.size === b.files.size && [...a.files].every(([path, reading]) => b.files.get(path) === reading);

/** Whether `b` is `a` with something taken away and nothing else. */
const onlyMisses = (a: Reading, b: Reading): boolean => [...b.files].every(([path, reading]) => a.files.get(path) === reading);
