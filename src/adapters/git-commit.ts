/** The commit of the git checkout that a directory lies in, read from its files; no git process, no object is opened. */
import { stat } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { readStart } from "./bounded-read.ts";

const ABBREVIATED = 12;
const MAX_PACKED_BYTES = 16 * 1024 * 1024;

export type Checkout = {
  /** Abbreviated; null: none yet, or told in a way that is not known here. */
  readonly commit: string | null;
  /** git is writing to the tree right now. */
  readonly busy: boolean;
};

/** Remembers what it found: make a new one for each reading of a tree. */
export function createGitReader(): { readonly checkoutOf: (dir: string) => Promise<Checkout | null> } {
  const known = new Map<string, Promise<Checkout | null>>();
  const checkoutOf = (dir: string): Promise<Checkout | null> => {
    const found = known.get(dir) ?? look(dir);
    known.set(dir, found);
    return found;
  };
  const look = async (dir: string): Promise<Checkout | null> => {
    const gitDir = await gitDirOf(join(dir, ".git"));
    if (gitDir !== null) return { commit: await commitOf(gitDir), busy: await exists(join(gitDir, "index.lock")) };
    return dirname(dir) === dir ? null : checkoutOf(dirname(dir));
  };
  return { checkoutOf };
}

const exists = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    () => false,
  );

/** The file's beginning; null: missing or not readable. A pipe that is called `.git` is not waited for. */
async function text(path: string, limit = 4096): Promise<string | null> {
  const bytes = await readStart(path, limit);
  return bytes === null ? null : new TextDecoder().decode(bytes);
}

/** `.git` is a directory, or a file that names one (worktrees, submodules). */
async function gitDirOf(path: string): Promise<string | null> {
  if (await exists(join(path, "HEAD"))) return path;
  const target = /^gitdir: (.+)$/m.exec((await text(path)) ?? "")?.[1];
  return target === undefined ? null : resolve(dirname(path), target.trim());
}

async function commitOf(gitDir: string): Promise<string | null> {
  const head = (await text(join(gitDir, "HEAD")))?.trim() ?? "";
  const ref = /^ref: (refs\/\S+)$/.exec(head)?.[1];
  if (ref === undefined) return abbreviate(head);
  if (ref.split("/").includes("..")) return null;
  const common = (await text(join(gitDir, "commondir")))?.trim();
  const homes = common === undefined ? [gitDir] : [gitDir, resolve(gitDir, common)];
  for (const home of homes) {
    const loose = abbreviate((await text(join(home, ref)))?.trim() ?? "");
    if (loose !== null) return loose;
  }
  const packed = await text(join(homes.at(-1) ?? gitDir, "packed-refs"), MAX_PACKED_BYTES);
  const line = packed?.split("\n").find((one) => one.endsWith(` ${ref}`));
  return abbreviate(line?.split(" ")[0] ?? "");
}

const abbreviate = (hash: string): string | null => (/^[0-9a-f]{40,64}$/.test(hash) ? hash.slice(0, ABBREVIATED) : null);
