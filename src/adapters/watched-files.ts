/** Which files of a directory are there, by name, as they come and go. The directory may be missing, appear later and be replaced. */
import { readdirSync } from "node:fs";
import { stat } from "node:fs/promises";
import { basename, dirname, join, resolve, sep } from "node:path";
import { type FSWatcher, watch } from "chokidar";

export type WatchedFiles = {
  /** Reads the directory again; tells what the watch missed, and renews the watch where it lost the directory. */
  audit(): Promise<void>;
  close(): void;
};
export type WatchedFilesUser = {
  /** Names that matter. */
  readonly isWanted: (name: string) => boolean;
  /** It is there, or something new is in its place. May be told more than once. */
  readonly onThere: (path: string) => void;
  readonly onGone: (path: string) => void;
  /** Once: the first look is complete. */
  readonly onReady: () => void;
  readonly onTrouble: (cause: unknown) => void;
};

export function watchFiles(directory: string, user: WatchedFilesUser): WatchedFiles {
  const dir = resolve(directory);
  const wanted = (path: string): boolean => dirname(path) === dir && user.isWanted(basename(path));
  /** Of all that is beside and above the directory, only the way to it. */
  const ignored = (path: string): boolean => !(path === dir || dir.startsWith(path.endsWith(sep) ? path : path + sep) || wanted(path));
  const there = new Set<string>();
  let watcher: FSWatcher | null = null;
  let closed = false;
  let ready = false;

  const appeared = (path: string): void => {
    if (closed || !wanted(path)) return;
    there.add(path);
    user.onThere(path);
  };
  const vanished = (path: string): void => {
    if (!closed && there.delete(path)) user.onGone(path);
  };
  /** What is there by a plain look; tells what the watch missed. */
  const sweep = (): void => {
    const names = namesIn(dir);
    const found = new Set(names.map((name) => join(dir, name)).filter(wanted));
    for (const path of [...there].filter((one) => !found.has(one))) vanished(path);
    for (const path of [...found].filter((one) => !there.has(one))) appeared(path);
  };
  const arm = async (): Promise<void> => {
    // Watched from the nearest directory above that exists: chokidar finds no path whose parent is missing too.
    const top = await nearest(dirname(dir));
    if (closed) return;
    void watcher?.close();
    // No `depth`: with it, chokidar reports the directory but nothing in it. Not atomic: an unlink is told at once.
    const mine = watch(top, { ignored, ignoreInitial: false, atomic: false, usePolling: false });
    watcher = mine;
    let complete = false;
    mine
      .on("add", appeared)
      .on("change", appeared) // bound anew in its place
      .on("unlink", vanished)
      .on("error", user.onTrouble)
      // chokidar reads a directory before it watches it, so what came between is seen by neither. Once it is ready a look closes that gap;
      // for a directory that comes later there is no such moment, so it is watched anew.
      .on("addDir", (path) => {
        if (complete && mine === watcher && path === dir) void arm();
      })
      .on("ready", () => {
        complete = true;
        sweep();
        if (ready || closed) return;
        ready = true;
        user.onReady();
      });
  };
  const armed = arm();

  return {
    async audit() {
      await armed;
      sweep();
      if (there.size > 0 && watcher?.getWatched()[dir] === undefined) await arm();
    },
    close() {
      closed = true;
      void armed.then(() => watcher?.close());
    },
  };
}

/** Not on a thread: an audit that waits for one wakes the process once more. */
const namesIn = (directory: string): readonly string[] => {
  try {
    return readdirSync(directory);
  } catch {
    return [];
  }
};

async function nearest(directory: string): Promise<string> {
  const found = await stat(directory).then(
    (stats) => stats.isDirectory(),
    () => false,
  );
  return found || dirname(directory) === directory ? directory : await nearest(dirname(directory));
}
