/**
 * A fake xenstore's nodes. A tree is a value: a change makes a new root and shares the rest, so that a transaction's snapshot costs nothing.
 * Source: tools/xenstore/xenstored_core.c; a node's generation changes with its value, its permissions and the list of its children.
 */
import { err, ok, type Result } from "../model/result.ts";
import { type Children, noChildren } from "./xenstore-children.ts";

export type StoreNode = {
  readonly value: Uint8Array;
  /** As on the wire, owner first. */
  readonly permissions: readonly string[];
  /** In order of creation. */
  readonly children: Children<StoreNode>;
  readonly generation: number;
};
export type StoreCode = "EACCES" | "EINVAL" | "ENOENT" | "EPERM";
export type Changed = Result<StoreNode, StoreCode>;

const EMPTY = new Uint8Array(0);
let generations = 0;
const renewed = (node: StoreNode): StoreNode => {
  generations += 1;
  return { ...node, generation: generations };
};

/** @param like - oxenstored has some nodes from the start that C xenstored has not */
export function emptyTree(like: "c" | "ocaml"): StoreNode {
  let root: StoreNode = renewed({ value: EMPTY, permissions: ["n0"], children: noChildren(), generation: 0 });
  for (const name of like === "c" ? ["tool"] : ["@introduceDomain", "@releaseDomain", "local", "tool"]) {
    const made = mkdir(root, `/${name}`, 0);
    if (made.ok) root = made.value;
  }
  return root;
}

export const namesOf = (path: string): readonly string[] => (path === "/" ? [] : path.slice(1).split("/"));
export const parentOf = (path: string): string => path.slice(0, path.lastIndexOf("/")) || "/";

export function find(root: StoreNode, path: string): StoreNode | undefined {
  let node: StoreNode | undefined = root;
  for (const name of namesOf(path)) node = node?.children.get(name);
  return node;
}

/** Every node below a path and itself, deepest last. */
export function* walk(path: string, node: StoreNode): Generator<readonly [path: string, node: StoreNode]> {
  yield [path, node];
  for (const [name, child] of node.children) yield* walk(path === "/" ? `/${name}` : `${path}/${name}`, child);
}

/** Whether a domain may read (`r`) or write (`w`) a node; dom0 and the owner always may. */
export function may(node: StoreNode, domid: number, need: "r" | "w"): boolean {
  const [owner = "n0", ...others] = node.permissions;
  if (domid === 0 || Number(owner.slice(1)) === domid) return true;
  const mine = others.find((one) => Number(one.slice(1)) === domid) ?? owner;
  return mine.startsWith(need) || mine.startsWith("b");
}

/** Creates what is missing on the way, each with its parent's permissions; who is not privileged becomes the owner of what it creates. */
function upsert(node: StoreNode, names: readonly string[], domid: number, change: (node: StoreNode) => StoreNode): Changed {
  const [name, ...rest] = names;
  if (name === undefined) return may(node, domid, "w") ? ok(change(node)) : err("EACCES");
  const child = node.children.get(name);
  if (child === undefined && !may(node, domid, "w")) return err("EACCES");
  const [owner = "n0", ...others] = node.permissions;
  const permissions = domid === 0 ? node.permissions : [`${owner.charAt(0)}${String(domid)}`, ...others];
  const changed = upsert(child ?? renewed({ value: EMPTY, permissions, children: noChildren(), generation: 0 }), rest, domid, change);
  if (!changed.ok) return changed;
  const next = { ...node, children: node.children.with(name, changed.value) };
  return ok(child === undefined ? renewed(next) : next);
}

export const write = (root: StoreNode, path: string, value: Uint8Array, domid: number): Changed =>
  upsert(root, namesOf(path), domid, (node) => renewed({ ...node, value }));

/** One that is there stays as it is. */
export const mkdir = (root: StoreNode, path: string, domid: number): Changed =>
  find(root, path) === undefined ? upsert(root, namesOf(path), domid, (node) => node) : ok(root);

export function setPermissions(root: StoreNode, path: string, permissions: readonly string[], domid: number): Changed {
  const node = find(root, path);
  if (node === undefined) return err("ENOENT");
  const owner = (list: readonly string[]): string => (list[0] ?? "n0").slice(1);
  if (domid !== 0 && Number(owner(node.permissions)) !== domid) return err("EACCES");
  if (domid !== 0 && owner(permissions) !== owner(node.permissions)) return err("EPERM");
  return upsert(root, namesOf(path), 0, (found) => renewed({ ...found, permissions }));
}

/** With all below it. Of one that is missing only the parent must be there. */
export function remove(root: StoreNode, path: string, domid: number): Changed {
  const parent = find(root, parentOf(path));
  const name = namesOf(path).at(-1);
  if (name === undefined) return err("EINVAL");
  if (parent === undefined) return err("ENOENT");
  const node = parent.children.get(name);
  if (node === undefined) return ok(root);
  if (!may(node, domid, "w")) return err("EACCES");
  return upsert(root, namesOf(parentOf(path)), 0, (found) => renewed({ ...found, children: found.children.without(name) }));
}
