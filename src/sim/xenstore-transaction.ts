/**
 * A transaction of a fake xenstore, and when its commit conflicts.
 * C xenstored: when any node that it touched (a create: the parent too) has changed since. oxenstored: when what it did, done again on the tree as
 * it is now, is answered differently; one that only reads never.
 */
import { applyRequest, type Reply, type StoreChange, type StoreLimits, type StoreRequest } from "./xenstore-requests.ts";
import { find, parentOf, type StoreNode } from "./xenstore-tree.ts";

export type Transaction = {
  apply(request: StoreRequest): Reply;
  /** @returns the tree with it, and the changed paths (C xenstored tells each once); null: a conflict */
  commit(root: StoreNode): { readonly root: StoreNode; readonly changes: readonly StoreChange[] } | null;
};

const WRITES = new Set<StoreRequest["op"]>(["write", "mkdir", "rm", "set-perms"]);

export function beginTransaction(start: StoreNode, limits: StoreLimits): Transaction {
  const done: { readonly request: StoreRequest; readonly reply: Reply }[] = [];
  const touched = new Set<string>();
  let own = start;

  /** Also the parents that a create would make, up to the first that is there. */
  const touch = (path: string, creates: boolean): void => {
    touched.add(path);
    if (creates && path !== "/" && find(start, path) === undefined) touch(parentOf(path), true);
  };
  const sameAs = (root: StoreNode): boolean => [...touched].every((path) => find(root, path)?.generation === find(start, path)?.generation);

  return {
    apply(request) {
      const { root, reply } = applyRequest(own, request, limits);
      const [path = ""] = request.strings;
      own = root;
      done.push({ request, reply });
      touch(path, WRITES.has(request.op));
      if (request.op === "rm" && path !== "/") touch(parentOf(path), false);
      return reply;
    },
    commit(root) {
      const writes = done.some(({ request }) => WRITES.has(request.op));
      if (limits.like === "c" && !sameAs(root)) return null;
      if (!writes) return { root, changes: [] };
      const changes: StoreChange[] = [];
      let next = root;
      for (const { request, reply } of done) {
        const again = applyRequest(next, request, limits);
        if (limits.like === "ocaml" && root !== start && !sameReply(again.reply, reply)) return null;
        next = again.root;
        changes.push(...again.changes);
      }
      const last = new Map(changes.map((change) => [change.path, change]));
      return { root: next, changes: limits.like === "c" ? [...last.values()] : changes };
    },
  };
}

function sameReply(a: Reply, b: Reply): boolean {
  const text = (reply: Reply): string =>
    typeof reply === "string" ? reply : reply instanceof Uint8Array ? new TextDecoder("latin1").decode(reply) : `\0${reply.error}`;
  return text(a) === text(b);
}
