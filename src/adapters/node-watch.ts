/**
 * Watches the tree of USB device nodes, `<dev>/bus/usb/<bus>/<address>`, and says where to look again. It never says what happened.
 *
 * chokidar watches the directories. Its `raw` event is inotify's own word, handed on before chokidar reads and stats the directory again:
 * measured 0.4 ms after the node was made, against 1.1 ms (3 ms in a full bus) for `add`. Nodes themselves are ignored: a watch each would cost
 * 3 KiB, and chokidar's `unlink` is late (`atomic`) or, twice within 100 ms for one path, never told (its throttle).
 */
import { type FSWatcher as AncestorWatch, lstatSync, watch as watchDirectory } from "node:fs";
import { basename, dirname, join, relative } from "node:path";
import { type FSWatcher, watch } from "chokidar";

export type NodeWatchEvents = {
  /** Look at this node again. */
  onNode(bus: number, address: number): void;
  /** Look at every node of this bus again: its directory came or went. */
  onBus(bus: number): void;
  /** Anything may have been missed: read everything again. null: nothing went wrong, the watch begins here. */
  onDoubt(reason: string | null): void;
};
export type NodeWatch = {
  /** Looks whether the tree is there by now, or is another one. Called when there is reason to; cheap. */
  check(): void;
  close(): Promise<void>;
};

/** Every device node has a name of three digits (Linux, drivers/usb/core/usb.c, usb_devnode). */
const NUMBER = /^\d{3}$/;
/**
 * Node tells nobody that inotify's queue (16,384 events by default, shared by all watches of the process) has overflown. So many events in one
 * go mean that it may have.
 */
const BURST = 4096;

/** Starts at once; tells of a doubt when the tree is being watched, at first too. The tree or its parents may be missing: noticed when they appear. */
export function createNodeWatch(root: string, events: NodeWatchEvents): NodeWatch {
  let closed = false;
  let tree: FSWatcher | null = null;
  let ancestor: AncestorWatch | null = null;
  let closing: Promise<void> = Promise.resolve();
  /** Buses whose directory chokidar watches; `stale`: the directory went, chokidar has not told so yet. */
  let buses = new Set<string>();
  let stale = new Set<string>();
  let burst = 0;

  const drop = (): void => {
    ancestor?.close();
    ancestor = null;
    const old = tree;
    tree = null;
    buses = new Set();
    stale = new Set();
    if (old !== null) closing = Promise.all([closing, old.close()]).then(() => undefined);
  };

  const restart = (): void => {
    drop();
    if (closed) return;
    if (exists(root)) watchTree();
    else waitForTree();
  };

  const count = (): void => {
    if (burst === 0) {
      setImmediate(() => {
        const seen = burst;
        burst = 0;
        if (seen >= BURST && !closed) events.onDoubt(`${String(seen)} events at once: some may be lost`);
      });
    }
    burst += 1;
  };

  const watchTree = (): void => {
    const mine = watch(root, {
      atomic: false,
      ignoreInitial: true,
      followSymlinks: false,
      usePolling: false,
      depth: 1,
      ignored: (_path, stats) => stats !== undefined && !stats.isDirectory(),
    });
    tree = mine;
    const busOf = (path: string): string | null => {
      const name = relative(root, path);
      return NUMBER.test(name) ? name : null;
    };
    mine.on("raw", (event, name: string | null, details: unknown) => {
      if (tree !== mine) return;
      count();
      const watched = relative(root, watchedPath(details) ?? root);
      if (NUMBER.test(watched)) {
        if (name !== null && NUMBER.test(name)) events.onNode(Number(watched), Number(name));
      } else if (watched === "" && name !== null && NUMBER.test(name)) {
        if (event === "rename") busMoved(name);
      } else if (watched === "" && event === "rename" && name === basename(root)) gone();
    });
    mine.on("addDir", (path) => {
      const bus = busOf(path);
      if (tree !== mine || bus === null) return;
      buses.add(bus);
      events.onBus(Number(bus));
    });
    mine.on("unlinkDir", (path) => {
      if (tree !== mine) return;
      if (relative(root, path) === "") gone();
      const bus = busOf(path);
      if (bus === null) return;
      buses.delete(bus);
      stale.delete(bus);
      events.onBus(Number(bus));
    });
    mine.on("error", (cause) => {
      if (tree === mine) events.onDoubt(`watching ${root}: ${cause instanceof Error ? cause.message : String(cause)}`);
    });
    mine.on("ready", () => {
      if (tree !== mine) return;
      for (const name of mine.getWatched()[root] ?? []) if (NUMBER.test(name)) buses.add(name);
      events.onDoubt(null);
    });
  };

  /** A name came or went in the root. chokidar does not notice a watched directory that was replaced by another of its name. */
  const busMoved = (bus: string): void => {
    const there = exists(join(root, bus));
    if (there && (buses.has(bus) || stale.has(bus))) {
      restart();
      return;
    }
    if (buses.delete(bus)) stale.add(bus);
    events.onBus(Number(bus));
  };
  const gone = (): void => {
    restart();
    events.onDoubt(`${root} is gone`);
  };

  const waitForTree = (): void => {
    let missing = root;
    let parent = dirname(root);
    while (!exists(parent) && parent !== dirname(parent)) {
      missing = parent;
      parent = dirname(parent);
    }
    try {
      const mine = watchDirectory(parent, (_event, name) => {
        if (ancestor === mine && (name === null || name === basename(missing) || name === basename(parent))) restart();
      });
      mine.on("error", () => {
        if (ancestor === mine) ancestor = null;
        mine.close();
      });
      ancestor = mine;
      // It may have come between the look and the watch.
      if (exists(missing)) restart();
    } catch {
      ancestor = null; // no watch to be had: check() looks again
    }
  };

  restart();
  if (tree === null) events.onDoubt(null);
  return {
    check: () => {
      if (closed || (tree !== null && exists(root)) || (ancestor !== null && !exists(root))) return;
      restart();
    },
    close: async () => {
      closed = true;
      drop();
      await closing;
    },
  };
}

const watchedPath = (details: unknown): string | null =>
  typeof details === "object" && details !== null && "watchedPath" in details && typeof details.watchedPath === "string"
    ? details.watchedPath
    : null;
const exists = (path: string): boolean => {
  try {
    return lstatSync(path, { throwIfNoEntry: false }) !== undefined;
  } catch {
    return false; // below a file, or not for us to see
  }
};
