/**
 * A xenstore connection inside the simulator: toolstack, device models and guests use the same tree and the same rules as whoever comes over
 * the socket, but without waiting for it. A transaction is begun and ended in one go, so it never conflicts; others' transactions may.
 */
import type { XENSTORE_TYPES } from "../protocol/xenstore.ts";
import type { StoreCore, StorePeer } from "./xenstore-core.ts";

export type StoreNodes = {
  /** null: no such node. */
  read(path: string): string | null;
  exists(path: string): boolean;
  /** Empty where there is no such node. */
  list(path: string): readonly string[];
  /** What is refused (a guest's write into a foreign tree) throws: the simulator's own parts know what they may. */
  write(path: string, value: string): void;
  mkdir(path: string): void;
  remove(path: string): void;
  permit(path: string, permissions: readonly string[]): void;
};
export type LocalStore = StoreNodes & {
  /** @returns what the body returned; it is undone if that is null */
  transaction<T>(body: (tx: StoreNodes) => T): T;
  /** Told once at the start, and then once after every burst of changes at or below the path: which nodes they were. */
  watch(path: string, look: (changed: ReadonlySet<string>) => void): () => void;
  /** Its watches end. */
  close(): void;
};

/** @param domid - whose rights it has */
export function connectLocally(core: StoreCore, who: string, domid: number): LocalStore {
  const lookers = new Map<string, { readonly changed: Set<string>; readonly look: (changed: ReadonlySet<string>) => void }>();
  let count = 0;
  const peer: StorePeer = {
    who,
    watches: [],
    transactions: new Map(),
    event(path, token) {
      const looker = lookers.get(token);
      if (looker === undefined) return;
      const first = looker.changed.size === 0;
      looker.changed.add(path);
      if (!first) return;
      queueMicrotask(() => {
        const changed = new Set(looker.changed);
        looker.changed.clear();
        if (lookers.get(token) === looker) looker.look(changed);
      });
    },
  };

  const ask = (op: keyof typeof XENSTORE_TYPES, txId: number, strings: readonly string[], text: string): Uint8Array | { error: string } => {
    const { reply, tell } = core.execute(peer, { op, txId, strings, payload: new TextEncoder().encode(text), domid });
    tell();
    if (typeof reply === "string") return new TextEncoder().encode(reply);
    return reply;
  };
  const textOf = (reply: Uint8Array | { error: string }): string | null =>
    reply instanceof Uint8Array ? new TextDecoder().decode(reply) : null;
  const must = (what: string, reply: Uint8Array | { error: string }): string => {
    if (!(reply instanceof Uint8Array)) throw new Error(`${who}: ${what}: ${reply.error}`);
    return new TextDecoder().decode(reply);
  };
  const nodes = (txId: number): StoreNodes => ({
    read: (path) => textOf(ask("read", txId, [path, ""], `${path}\0`)),
    exists: (path) => ask("read", txId, [path, ""], `${path}\0`) instanceof Uint8Array,
    list: (path) => (textOf(ask("directory", txId, [path, ""], `${path}\0`)) ?? "").split("\0").filter((name) => name !== ""),
    write: (path, value) => void must(`write ${path}`, ask("write", txId, [path, value], `${path}\0${value}`)),
    mkdir: (path) => void must(`mkdir ${path}`, ask("mkdir", txId, [path, ""], `${path}\0`)),
    remove: (path) => void ask("rm", txId, [path, ""], `${path}\0`),
    permit: (path, permissions) =>
      void must(`permit ${path}`, ask("set-perms", txId, [path, ...permissions, ""], `${[path, ...permissions].join("\0")}\0`)),
  });

  return {
    ...nodes(0),
    transaction(body) {
      const id = Number.parseInt(must("transaction", ask("transaction-start", 0, ["", ""], "\0")), 10);
      const value = body(nodes(id));
      const end = value === null ? "F" : "T";
      must("transaction end", ask("transaction-end", id, [end, ""], `${end}\0`));
      return value;
    },
    watch(path, look) {
      count += 1;
      const token = `t${String(count)}`;
      lookers.set(token, { changed: new Set(), look });
      must(`watch ${path}`, ask("watch", 0, [path, token, ""], `${path}\0${token}\0`));
      return () => {
        if (lookers.delete(token)) ask("unwatch", 0, [path, token, ""], `${path}\0${token}\0`);
      };
    },
    close() {
      lookers.clear();
      core.leave(peer);
    },
  };
}
