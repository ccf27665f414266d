/**
 * Watches a set of directories, entry by entry, through chokidar's raw events (one inotify watch a directory, nothing below it).
 * chokidar's own idea of a tree is not used: it does not notice a directory that is replaced by another of its name (facts/host-usb.md),
 * nor a symlink further up that is swapped; whoever uses this reads the tree again and says which directories now matter.
 */
import { type FSWatcher, watch } from "chokidar";
import type { Clock } from "../model/contracts.ts";

export type DirEvent = {
  readonly dir: string;
  /** Entry of that directory; its own name where it was itself moved or removed; null: not told. */
  readonly name: string | null;
  /** `rename`: it came, went or was replaced. `change`: it was written to, or its mode changed. */
  readonly kind: "rename" | "change";
};

export type DirWatch = {
  /**
   * Watches these and no others; resolves once they are.
   * @param dirs - real paths, each with what tells one directory there from the next (device and inode)
   * One that could not be watched, or not any longer, is tried again by the next call.
   * @returns whether any is watched that was not before: what happened in it until now has gone unseen
   */
  set(dirs: ReadonlyMap<string, string>): Promise<boolean>;
  close(): Promise<void>;
};

/** chokidar says `ready` once a watch stands; the wait for it has an end. */
const READY_MS = 2_000;

export function createDirWatch(
  clock: Clock,
  on: {
    readonly event: (event: DirEvent) => void;
    /** A directory is not watched: set() must be called again. `news`: it was watched, or not yet tried. */
    readonly error: (dir: string, message: string, news: boolean) => void;
  },
): DirWatch {
  const watched = new Map<string, { readonly identity: string; readonly watcher: FSWatcher; readonly done: () => void }>();
  /** Directories whose last watch failed. */
  const failed = new Set<string>();
  let closed = false;

  const drop = async (dir: string): Promise<void> => {
    const one = watched.get(dir);
    watched.delete(dir);
    await one?.watcher.close();
    one?.done();
  };

  const add = (dir: string, identity: string): Promise<void> =>
    new Promise((resolve) => {
      const watcher = watch(dir, {
        depth: 0,
        atomic: false,
        ignoreInitial: true,
        followSymlinks: false,
        usePolling: false,
        ignored: (path) => path !== dir,
      });
      const timer = clock.setTimeout(() => resolve(), READY_MS);
      const done = (): void => {
        clock.clearTimeout(timer);
        resolve();
      };
      watched.set(dir, { identity, watcher, done });
      watcher.on("ready", done);
      watcher.on("raw", (event: string, name: unknown) => {
        if (watched.get(dir)?.watcher !== watcher) return;
        on.event({ dir, name: typeof name === "string" ? name : null, kind: event === "rename" ? "rename" : "change" });
      });
      watcher.on("error", (cause: unknown) => {
        if (watched.get(dir)?.watcher !== watcher) return;
        const news = !failed.has(dir);
        failed.add(dir);
        void drop(dir);
        on.error(dir, cause instanceof Error ? cause.message : String(cause), news);
      });
    });

  return {
    async set(dirs) {
      const old = [...watched].filter(([dir, { identity }]) => dirs.get(dir) !== identity).map(([dir]) => dir);
      // One after the other: chokidar shares one inotify watch a path, and must have let go of the old directory first.
      await Promise.all(old.map(drop));
      const fresh = closed ? [] : [...dirs].filter(([dir]) => !watched.has(dir));
      await Promise.all(fresh.map(([dir, identity]) => add(dir, identity)));
      if (closed) await Promise.all([...watched.keys()].map(drop));
      const stands = fresh.filter(([dir]) => watched.has(dir));
      for (const [dir] of stands) failed.delete(dir);
      for (const dir of failed) if (!dirs.has(dir)) failed.delete(dir);
      return stands.length > 0;
    },
    async close() {
      closed = true;
      await Promise.all([...watched.keys()].map(drop));
    },
  };
}

/**
 * Resolves once events that the kernel has queued by now are told: after a whole turn of the event loop. The first immediate may still belong
 * to the turn that is under way, whose poll is over.
 */
export const queuedEventsTold = (): Promise<void> =>
  new Promise((resolve) => {
    setImmediate(() => setImmediate(resolve));
  });
