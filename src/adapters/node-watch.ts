/** Watches the tree of USB device nodes, `<dev>/bus/usb/<bus>/<address>`, and says where to look again. It never says what happened. */
import { type FSWatcher, lstatSync, readdirSync, watch as watchDirectory } from "node:fs";
import { basename, dirname, join } from "node:path";
import { watchNames } from "./directory-names.ts";

export type NodeWatchEvents = {
  /** Look at this node again. */
  onNode(bus: number, address: number): void;
  /** Look at every node of this bus again: its directory came or went. */
  onBus(bus: number): void;
  /** Anything may have been missed: read everything again. null: nothing went wrong, the watch begins here. */
  onDoubt(reason: string | null): void;
};
export type NodeWatch = {
  /** Looks whether the tree is there by now. Called when there is reason to; cheap. */
  check(): void;
  close(): Promise<void>;
};

/** Every bus and device node has a name of three digits (Linux, drivers/usb/core/usb.c, usb_devnode). */
const NUMBER = /^\d{3}$/;
/**
 * Node tells nobody that inotify's queue (16,384 events by default, shared by all watches of the process) has overflown. So many events in one
 * go mean that it may have.
 */
const BURST = 4096;
/** Directories taken under watch at a time at the start: chokidar reads each in one go. */
const AT_A_TIME = 4;

type Tree = { readonly buses: Map<string, () => Promise<void>>; readonly end: () => Promise<void> };

/** Starts at once; tells of a doubt when the tree is being watched, at first too. The tree or its parents may be missing: noticed when they appear. */
export function createNodeWatch(root: string, events: NodeWatchEvents): NodeWatch {
  let closed = false;
  let tree: Tree | null = null;
  let ancestor: FSWatcher | null = null;
  let ending: Promise<unknown> = Promise.resolve();
  let burst = 0;

  const end = (close: () => Promise<void>): void => {
    ending = Promise.all([ending, close()]);
  };
  const drop = (): void => {
    ancestor?.close();
    ancestor = null;
    const old = tree;
    tree = null;
    for (const close of [...(old?.buses.values() ?? []), ...(old === null ? [] : [old.end])]) end(close);
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
    const buses: Tree["buses"] = new Map();
    const mine: Tree = {
      buses,
      end: watchNames(root, {
        onName: (name, moved) => {
          count();
          if (!moved || !NUMBER.test(name)) return;
          // It may have been replaced: a watch stays with the directory that it was put on.
          const old = buses.get(name);
          if (old !== undefined && buses.delete(name)) end(old);
          if (exists(join(root, name))) watchBus(mine, name, () => events.onBus(Number(name)));
          events.onBus(Number(name));
        },
        onReady: () => {
          const names = numbersIn(root);
          const next = (): void => {
            const name = names.pop();
            if (tree !== mine) return;
            if (name === undefined) {
              started += 1;
              if (started === AT_A_TIME) events.onDoubt(null);
            } else if (buses.has(name)) next();
            else watchBus(mine, name, next);
          };
          let started = 0;
          for (let i = 0; i < AT_A_TIME; i += 1) next();
        },
        onGone: gone,
        onError,
      }),
    };
    tree = mine;
  };
  const watchBus = ({ buses }: Tree, bus: string, onReady: () => void): void => {
    const close = watchNames(join(root, bus), {
      onName: (name) => {
        count();
        if (NUMBER.test(name)) events.onNode(Number(bus), Number(name));
      },
      onReady,
      onGone: () => events.onBus(Number(bus)), // the root's watch tells too, and knows what is in its place
      onError,
    });
    buses.set(bus, close);
  };
  const onError = (message: string): void => events.onDoubt(`watching ${root}: ${message}`);
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
      await ending;
    },
  };
}

const numbersIn = (directory: string): string[] => {
  try {
    return readdirSync(directory).filter((name) => NUMBER.test(name));
  } catch {
    return [];
  }
};
const exists = (path: string): boolean => {
  try {
    return lstatSync(path, { throwIfNoEntry: false }) !== undefined;
  } catch {
    return false; // below a file, or not for us to see
  }
};
