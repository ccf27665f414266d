/** What one request does to a fake xenstore's tree: a reply, a new root, and which paths changed. */
import { pathProblem, type XENSTORE_TYPES } from "../protocol/xenstore.ts";
import { noChildren } from "./xenstore-children.ts";
import { type Changed, find, mkdir, remove, setPermissions, type StoreNode, walk, write } from "./xenstore-tree.ts";

/** `like`: whose ways; the numbers are of one connection, but for nodes: all that there are. */
export type StoreLimits = {
  readonly like: "c" | "ocaml";
  readonly valueBytes: number;
  readonly nodes: number;
  readonly watches: number;
  readonly transactions: number;
};
export type StoreRequest = {
  readonly op: keyof typeof XENSTORE_TYPES;
  readonly txId: number;
  readonly payload: Uint8Array;
  /** The payload cut at its NULs. */
  readonly strings: readonly string[];
  /** Who asks. */
  readonly domid: number;
};
/** A payload, or an error's name. */
export type Reply = string | Uint8Array | { readonly error: string };
/** removed: the paths that went with it, itself included. */
export type StoreChange = { readonly path: string; readonly removed: readonly string[] };
export type Applied = { readonly root: StoreNode; readonly reply: Reply; readonly changes: readonly StoreChange[] };

const MAX_PART = 4096;

export function applyRequest(root: StoreNode, request: StoreRequest, limits: StoreLimits): Applied {
  const { op, payload, strings, domid } = request;
  const [path = "", second = ""] = strings;
  const only = (reply: Reply): Applied => ({ root, reply, changes: [] });
  if (pathProblem(path) !== null) return only({ error: "EINVAL" });
  const changed = (next: Changed, change: StoreChange): Applied =>
    next.ok ? { root: next.value, reply: "OK\0", changes: next.value === root ? [] : [change] } : only({ error: next.error });
  const full = (): boolean => limits.nodes !== Infinity && find(root, path) === undefined && count(root) >= limits.nodes;
  const quota: Reply = { error: limits.like === "c" ? "ENOSPC" : "EQUOTA" };
  const node = find(root, path);
  const missing: Reply = { error: "ENOENT" };

  switch (op) {
    case "read":
      return only(node?.value ?? missing);
    case "directory": {
      if (node === undefined) return only(missing);
      const list = listOf(node, limits);
      return only(limits.like === "c" && list.length > MAX_PART ? { error: "E2BIG" } : list);
    }
    case "directory-part":
      return only(node === undefined ? missing : partOf(node, Number(second), limits));
    case "get-perms":
      return only(node === undefined ? missing : `${node.permissions.join("\0")}\0`);
    case "write": {
      const value = payload.slice(payload.indexOf(0) + 1);
      if (value.length > limits.valueBytes) return only({ error: limits.like === "c" ? "ENOSPC" : "E2BIG" });
      return full() ? only(quota) : changed(write(root, path, value, domid), { path, removed: [] });
    }
    case "mkdir":
      return full() ? only(quota) : changed(mkdir(root, path, domid), { path, removed: [] });
    case "rm": {
      if (path === "/" && limits.like === "ocaml") return { root: { ...root, children: noChildren() }, reply: "OK\0", changes: [] };
      const removed = node === undefined ? [] : [...walk(path, node)].map(([one]) => one);
      return changed(remove(root, path, domid), { path, removed });
    }
    case "set-perms":
      return changed(setPermissions(root, path, strings.slice(1, -1), domid), { path, removed: [] });
    default:
      return only({ error: "ENOSYS" });
  }
}

const count = (root: StoreNode): number => [...walk("/", root)].length;

function listOf(node: StoreNode, { like }: StoreLimits): string {
  const names = [...node.children].map(([name]) => name);
  if (like === "ocaml") names.sort();
  return names.map((name) => `${name}\0`).join("");
}

/** Whole names only, as many as fit beside the generation. */
function partOf(node: StoreNode, offset: number, limits: StoreLimits): Reply {
  const generation = `${String(node.generation)}\0`;
  const rest = listOf(node, limits).slice(offset);
  const room = MAX_PART - generation.length - 1;
  if (rest.length <= room) return `${generation}${rest}\0`;
  return `${generation}${rest.slice(0, rest.lastIndexOf("\0", room - 1) + 1)}`;
}
