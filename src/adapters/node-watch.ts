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
  close(): void;
};

/** Every bus and device node has a name of three digits (Linux, drivers/usb/core/usb.c, usb_devnode). */
const NUMBER = /^\d{3}$/;
/**
 * Node tells nobody that inotify's queue (16,384 events by default, shared by all watches of the process) has overflown. So many events in one
 * go mean that it may have.
 */
const BURST = 4096;

type Tree = { readonly buses: Map<string, () => void>; readonly end: () => void };

/** Starts at once; tells of a doubt when the tree is being watched, at first too. The tree or its parents may be missing: noticed when they appear. */
export function createNodeWatch(root: string, events: NodeWatchEvents): NodeWatch {
  let closed = false;
  let tree: Tree | null = null;
  let ancestor: FSWatcher | null = null;
  let burst = 0;

  const drop = (): void => {
    ancestor?.close();
    ancestor = null;
    const old = tree;
    tree = null;
    old?.end();
    for (const close of old?.buses.values() ?? []) close();
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
    const end = watchNames(root, {
      onName: (name, moved) => {
        count();
        if (!moved || !NUMBER.test(name)) return;
        // It may have been replaced: a watch stays with the directory that it was put on.
        buses.get(name)?.();
        buses.delete(name);
        if (exists(join(root, name))) watchBus(buses, name);
        events.onBus(Number(name));
      },
      onGone: gone,
      onError,
    });
    const mine: Tree = { buses, end };
    tree = mine;
    for (const name of numbersIn(root)) watchBus(buses, name);
    queueMicrotask(() => {
      if (tree === mine) events.onDoubt(null);
    });
  };
  const watchBus = (buses: Tree["buses"], bus: string): void => {
    const close = watchNames(join(root, bus), {
      onName: (name) => {
        count();
        if (NUMBER.test(name)) events.onNode(Number(bus), Number(name));
      },
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
    close: () => {
      closed = true;
      drop();
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
