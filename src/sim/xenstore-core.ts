/**
 * A fake xenstored without its socket: the tree, who watches it, transactions, domains coming and going, and who changed what in which order.
 * Source: what both real daemons were seen to do (test/xenstore-contract.test.ts).
 */
import { INTRODUCE_EVENT, RELEASE_EVENT } from "../protocol/xenstore.ts";
import { applyRequest, type Reply, type StoreChange, type StoreLimits, type StoreRequest } from "./xenstore-requests.ts";
import { beginTransaction, type Transaction } from "./xenstore-transaction.ts";
import { emptyTree, find, type StoreNode, walk } from "./xenstore-tree.ts";

/** Somebody with a connection, be it a socket or a part of the simulator itself. */
export type StorePeer = {
  readonly who: string;
  readonly watches: { readonly path: string; readonly token: string }[];
  readonly transactions: Map<number, Transaction>;
  event(path: string, token: string): void;
};
/** One change as a watcher of everything would have read it afterwards: value null if it was removed. */
export type StoreWrite = {
  readonly who: string;
  readonly path: string;
  readonly value: string | null;
  /** Owner first, as on the wire. */
  readonly permissions: readonly string[];
};
export type StoreCore = {
  /** Its watches and transactions end. */
  leave(peer: StorePeer): void;
  root(): StoreNode;
  /** Everything is lost, everybody's watches too. */
  clear(): void;
  /** What a request does, and what it tells others: the daemons differ in which goes out first. */
  execute(peer: StorePeer, request: StoreRequest): { readonly reply: Reply; readonly tell: () => void };
  introduce(domid: number): void;
  /** One that was introduced to an earlier life of the daemon is not known to this one. */
  knows(domid: number): boolean;
  /** Something happened to a domain that lives on: it shut down or is to be saved. */
  tellRelease(): void;
  /** A domain is gone: what it owned is removed with all below it. */
  release(domid: number): void;
  /** The newest {@link WRITE_LOG_LIMIT} at least. */
  readonly writeLog: readonly StoreWrite[];
  /** Told of each change as it happens. */
  onWrite(look: (write: StoreWrite) => void): void;
};

const WRITE_LOG_LIMIT = 20_000;

export function createStoreCore(limits: StoreLimits): StoreCore {
  const { like } = limits;
  /** Who watches what, by path: a change costs by its depth, not by the number of watches. */
  const watchers = new Map<string, { readonly peer: StorePeer; readonly token: string }[]>();
  const known = new Set<number>([0]);
  const writeLog: StoreWrite[] = [];
  const lookers: ((write: StoreWrite) => void)[] = [];
  let root = emptyTree(like);
  let lastTransaction = 0;

  const quota = (code: string): Reply => ({ error: like === "c" ? code : "EQUOTA" });
  const record = (who: string, changes: readonly StoreChange[]): void => {
    for (const { path } of changes) {
      const node = find(root, path);
      const value = node === undefined ? null : new TextDecoder().decode(node.value);
      const write = { who, path, value, permissions: node?.permissions ?? [] };
      writeLog.push(write);
      for (const look of lookers) look(write);
    }
    if (writeLog.length > 2 * WRITE_LOG_LIMIT) writeLog.splice(0, writeLog.length - WRITE_LOG_LIMIT);
  };
  const forget = (peer: StorePeer, path: string, token: string): void => {
    const left = (watchers.get(path) ?? []).filter((one) => one.peer !== peer || one.token !== token);
    if (left.length > 0) watchers.set(path, left);
    else watchers.delete(path);
  };
  const tell = (watched: string, epath: string): void => {
    for (const { peer, token } of watchers.get(watched) ?? []) peer.event(epath, token);
  };
  /** Tells every watch that a change concerns. */
  const fire = (changes: readonly StoreChange[]): void => {
    for (const { path, removed } of changes) {
      for (let at = path; at !== ""; at = at.slice(0, at.lastIndexOf("/"))) tell(at, path);
      if (path !== "/" && !path.startsWith("@")) tell("/", path);
      if (removed.length === 0) continue;
      // C xenstored tells those below a removed node whose own node went; oxenstored tells them all.
      const below = like === "c" ? removed.filter((one) => one !== path) : [...watchers.keys()].filter((one) => one.startsWith(`${path}/`));
      for (const one of below) tell(one, one);
    }
  };
  const introduce = (domid: number): void => {
    if (known.has(domid)) return;
    known.add(domid);
    fire([{ path: INTRODUCE_EVENT, removed: [] }]);
  };
  const release = (domid: number): void => {
    known.delete(domid);
    const owned = [...walk("/", root)].filter(([one, { permissions }]) => one !== "/" && Number(permissions[0]?.slice(1)) === domid);
    for (const [path] of owned) {
      if (find(root, path) === undefined) continue;
      const payload = new TextEncoder().encode(`${path}\0`);
      const done = applyRequest(root, { op: "rm", txId: 0, payload, strings: [path, ""], domid: 0 }, limits);
      root = done.root;
      record("xenstored", done.changes);
      fire(done.changes);
    }
    fire([{ path: RELEASE_EVENT, removed: [] }]);
  };
  const silent = (reply: Reply): { reply: Reply; tell: () => void } => ({ reply, tell: () => undefined });

  return {
    leave(peer) {
      for (const { path, token } of peer.watches.splice(0)) forget(peer, path, token);
      peer.transactions.clear();
    },
    writeLog,
    root: () => root,
    clear() {
      root = emptyTree(like);
      known.clear();
      known.add(0);
      for (const { peer } of [...watchers.values()].flat()) peer.watches.length = 0;
      watchers.clear();
    },
    introduce,
    release,
    knows: (domid) => known.has(domid),
    tellRelease: () => fire([{ path: RELEASE_EVENT, removed: [] }]),
    onWrite: (look) => void lookers.push(look),
    execute(peer, request) {
      const [first = "", second = ""] = request.strings;
      switch (request.op) {
        case "watch": {
          const special = first.startsWith("@");
          if (!special && !first.startsWith("/")) return silent({ error: "EINVAL" });
          if (peer.watches.some((one) => one.path === first && one.token === second)) return silent({ error: "EEXIST" });
          if (peer.watches.length >= limits.watches) return silent(quota("E2BIG"));
          peer.watches.push({ path: first, token: second });
          watchers.set(first, [...(watchers.get(first) ?? []), { peer, token: second }]);
          // The event of a registration comes after its reply, in both daemons.
          return {
            reply: "OK\0",
            tell: () => queueMicrotask(() => peer.event(first, second)),
          };
        }
        case "unwatch": {
          const at = peer.watches.findIndex((one) => one.path === first && one.token === second);
          if (at === -1) return silent({ error: "ENOENT" });
          peer.watches.splice(at, 1);
          forget(peer, first, second);
          return silent("OK\0");
        }
        case "transaction-start": {
          if (request.txId !== 0) return silent({ error: "EBUSY" });
          if (peer.transactions.size >= limits.transactions) return silent(quota("ENOSPC"));
          lastTransaction += 1;
          peer.transactions.set(lastTransaction, beginTransaction(root, limits));
          return silent(`${String(lastTransaction)}\0`);
        }
        case "transaction-end": {
          const transaction = peer.transactions.get(request.txId);
          if (transaction === undefined) return silent({ error: request.txId === 0 || like === "c" ? "ENOENT" : "EIO" });
          peer.transactions.delete(request.txId);
          if (first !== "T" && first !== "F") return silent({ error: "EINVAL" });
          if (first === "F") return silent("OK\0");
          const done = transaction.commit(root);
          if (done === null) return silent({ error: "EAGAIN" });
          root = done.root;
          record(peer.who, done.changes);
          return { reply: "OK\0", tell: () => fire(done.changes) };
        }
        case "introduce":
          introduce(Number(first));
          return silent("OK\0");
        case "release":
          release(Number(first));
          return silent("OK\0");
        case "is-introduced":
          return silent(known.has(Number(first)) ? "T\0" : "F\0");
        default: {
          if (request.txId !== 0) {
            const transaction = peer.transactions.get(request.txId);
            return silent(transaction === undefined ? { error: like === "c" ? "ENOENT" : "EIO" } : transaction.apply(request));
          }
          const { root: next, reply, changes } = applyRequest(root, request, limits);
          root = next;
          record(peer.who, changes);
          return { reply, tell: () => fire(changes) };
        }
      }
    },
  };
}
