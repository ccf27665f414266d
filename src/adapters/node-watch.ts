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
/**
 * Looks in one turn of the event loop. inotify is read until it is empty before anything else gets its turn, so nothing is looked at while it is:
 * where events come as fast as they are looked at, monitors would never be heard. Of several events of one node one look is left.
 */
const LOOKS_A_TURN = 8;

type Tree = { readonly buses: Map<string, () => void>; readonly end: () => void };

/** Starts at once; tells of a doubt when the tree is being watched, at first too. The tree or its parents may be missing: noticed when they appear. */
export function createNodeWatch(root: string, events: NodeWatchEvents): NodeWatch {
  let closed = false;
  let tree: Tree | null = null;
  let ancestor: FSWatcher | null = null;
  let burst = 0;
  let planned = false;
  /** What is to be told, by node or bus. */
  const due = new Map<string, () => void>();

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

  const plan = (): void => {
    if (planned) return;
    planned = true;
    setImmediate(turn);
  };
  const turn = (): void => {
    planned = false;
    if (closed) return;
    if (burst >= BURST) events.onDoubt(`${String(burst)} events at once: some may be lost`);
    burst = 0;
    let looks = 0;
    for (const [key, tell] of due) {
      due.delete(key);
      tell();
      looks += 1;
      if (looks === LOOKS_A_TURN) break;
    }
    if (due.size > 0) plan();
  };
  const count = (): void => {
    burst += 1;
    plan();
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
        due.set(name, () => events.onBus(Number(name)));
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
        if (NUMBER.test(name)) due.set(`${bus}/${name}`, () => events.onNode(Number(bus), Number(name)));
      },
      onGone: () => undefined, // the root's watch tells, and knows what is in its place
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
