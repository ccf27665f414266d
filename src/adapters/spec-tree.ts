/** The desired-state tree as it lies on disk: which files there are, what tells one version of a file from the next, what must be watched. */
import type { BigIntStats } from "node:fs";
import { constants } from "node:fs";
import { open, readdir, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import type { TreeReading } from "../model/desired.ts";
import { codeOf, followPath } from "./follow-path.ts";
import { MAX_BYTES } from "./yaml-document.ts";

/** A tree with more is not read at all: half of it would look as if the other half had vanished. */
const MAX_FILES = 20_000;
/** Each counts as often as it is reached: symlinks to directories that hold symlinks to directories make endless trees of few. */
const MAX_DIRECTORIES = 4096;
const MAX_DEPTH = 32;
const BATCH = 64;

export type SpecFile = {
  readonly real: string;
  /** Device, inode, size, times: equal means unchanged. */
  readonly version: string;
  /** The part of it that a rename leaves as it was. */
  readonly body: string;
  readonly mtimeMs: number;
  /** The symlink that it is reached through, or the directory that was moved to where it is: it may have been whole before it came here. */
  readonly placed: string | null;
};
export type SpecTree = {
  readonly directory: TreeReading["directory"];
  /** Where the directory is unreadable because there is too much in it: in words. */
  readonly excess: string | null;
  /** By path relative to the root. A text: why it cannot be read. A directory that cannot be read stands here too. */
  readonly files: ReadonlyMap<string, SpecFile | string>;
  /** Real directories to watch: identity, which names in it matter, and whether all that belong to a tree do. */
  readonly watch: ReadonlyMap<string, { readonly identity: string; readonly names: ReadonlySet<string>; readonly all: boolean }>;
};

export const isSpecName = (name: string): boolean => !name.startsWith(".") && /\.(?:ya?ml|json)$/.test(name);

const REASONS: Readonly<Record<string, string>> = {
  EACCES: "permission denied: let plugherd read it",
  EPERM: "permission denied: let plugherd read it",
  ELOOP: "it is a symlink in a circle",
  ENOENT: "it is a symlink to nothing",
  ENOTDIR: "it is no directory",
};
export const reasonOf = (code: string): string => REASONS[code] ?? code;

export async function scanTree(root: string): Promise<SpecTree> {
  const files = new Map<string, SpecFile | string>();
  const watch = new Map<string, { identity: string; names: Set<string>; all: boolean }>();
  let entered = 0;
  let excess: string | null = null;
  /** @param name - null: all of the tree's */
  const note = async (dir: string, name: string | null): Promise<void> => {
    if (!watch.has(dir)) {
      const stats = await stat(dir, { bigint: true }).catch(() => null);
      if (stats?.isDirectory() !== true) return;
      if (!watch.has(dir)) watch.set(dir, { identity: inodeOf(stats), names: new Set(), all: false });
    }
    const known = watch.get(dir);
    if (known === undefined) return;
    if (name === null) known.all = true;
    else known.names.add(name);
  };

  const walk = async (dir: string, path: string, above: readonly string[], placed: string | null): Promise<void> => {
    if (above.includes(dir) || excess !== null) return;
    if (above.length > MAX_DEPTH) return void files.set(path, `more than ${String(MAX_DEPTH)} directories deep; nothing below it is read`);
    entered += 1;
    if (entered > MAX_DIRECTORIES) {
      excess = `more than ${String(MAX_DIRECTORIES)} directories, those behind symlinks counted`;
      return;
    }
    await note(dir, null);
    const names = await readdir(dir, { withFileTypes: true });
    const seen = names.filter(({ name }) => !name.startsWith(".")).sort((a, b) => (a.name < b.name ? -1 : 1));
    for (let i = 0; i < seen.length; i += BATCH) {
      await Promise.all(
        seen.slice(i, i + BATCH).map(async (entry) => {
          const where = path === "" ? entry.name : `${path}/${entry.name}`;
          if (entry.isDirectory()) return descend(join(dir, entry.name), where, [...above, dir], placed);
          if (!entry.isSymbolicLink()) return isSpecName(entry.name) ? look(join(dir, entry.name), where, placed) : undefined;
          const target = await followPath(entry.name, dir);
          for (const hinge of target.hinges) await note(hinge.dir, hinge.name);
          if (target.real === null) {
            if (isSpecName(entry.name)) files.set(where, reasonOf(target.code ?? "EIO"));
            return;
          }
          const stats = await stat(target.real).catch(() => null);
          if (stats?.isDirectory() === true) return descend(target.real, where, [...above, dir], `${where} -> ${target.real}`);
          if (!isSpecName(entry.name)) return;
          await note(dirname(target.real), basename(target.real));
          return look(target.real, where, `${where} -> ${target.real}`);
        }),
      );
    }
  };

  const descend = async (dir: string, path: string, above: readonly string[], placed: string | null): Promise<void> => {
    try {
      await walk(dir, path, above, placed ?? (await moveOf(dir)));
    } catch (cause) {
      const code = codeOf(cause);
      if (code !== "ENOENT" && code !== "ENOTDIR") files.set(path, `the directory cannot be read: ${reasonOf(code)}`);
    }
  };

  const look = async (real: string, path: string, placed: string | null): Promise<void> => {
    if (files.size >= MAX_FILES) excess = `more than ${String(MAX_FILES)} files`;
    if (excess !== null) return;
    try {
      const stats = await stat(real, { bigint: true });
      if (!stats.isFile()) files.set(path, "it is no regular file");
      else files.set(path, { real, version: versionOf(stats), body: bodyOf(stats), mtimeMs: Number(stats.mtimeMs), placed });
    } catch (cause) {
      const code = codeOf(cause);
      if (code !== "ENOENT") files.set(path, reasonOf(code));
    }
  };

  const { real, code, hinges } = await followPath(root);
  for (const hinge of hinges) await note(hinge.dir, hinge.name);
  for (const hinge of await ancestorsOf(real ?? hinges.at(-1)?.dir ?? "/")) await note(hinge.dir, hinge.name);
  if (real === null) return { directory: code === "ENOENT" ? "missing" : "unreadable", excess, files, watch };
  try {
    await walk(real, "", [], hinges.length > 0 ? `-> ${real}` : await moveOf(real));
    return excess === null ? { directory: "present", excess, files, watch } : { directory: "unreadable", excess, files: new Map(), watch };
  } catch (cause) {
    return { directory: codeOf(cause) === "ENOENT" ? "missing" : "unreadable", excess, files: new Map(), watch };
  }
}

/**
 * The directories above, each with the name that leads down: any of them can be replaced. Those that everybody may write to (/tmp) are
 * too busy to listen to, except the nearest.
 */
async function ancestorsOf(dir: string): Promise<readonly { readonly dir: string; readonly name: string }[]> {
  const found: { dir: string; name: string }[] = [];
  for (let at = dir; dirname(at) !== at; at = dirname(at)) {
    const parent = dirname(at);
    const mode = (await stat(parent).catch(() => null))?.mode ?? 0;
    if (found.length === 0 || (parent !== "/" && (mode & 0o002) === 0)) found.push({ dir: parent, name: basename(at) });
  }
  return found;
}

/** Making entries in a directory moves both its times; moving the directory moves only the change time. */
const moveOf = async (dir: string): Promise<string | null> => {
  const stats = await stat(dir, { bigint: true }).catch(() => null);
  return stats !== null && stats.ctimeNs > stats.mtimeNs ? inodeOf(stats) : null;
};

const inodeOf = (stats: BigIntStats): string => `${String(stats.dev)}.${String(stats.ino)}`;
const bodyOf = (stats: BigIntStats): string => `${inodeOf(stats)}.${String(stats.size)}.${String(stats.mtimeNs)}`;
const versionOf = (stats: BigIntStats): string => `${bodyOf(stats)}.${String(stats.ctimeNs)}`;

/** The real directories that hinges stand in: identity, and the names in each that matter. */
export async function watchSetOf(hinges: readonly { readonly dir: string; readonly name: string }[]): Promise<{
  readonly identities: ReadonlyMap<string, string>;
  readonly names: ReadonlyMap<string, ReadonlySet<string>>;
}> {
  const identities = new Map<string, string>();
  const names = new Map<string, Set<string>>();
  for (const { dir, name } of hinges) {
    const stats = await stat(dir, { bigint: true }).catch(() => null);
    if (stats?.isDirectory() !== true) continue;
    identities.set(dir, inodeOf(stats));
    names.set(dir, (names.get(dir) ?? new Set()).add(name));
  }
  return { identities, names };
}

/** What a file holds, with the version that was read; a text: why it cannot be read. Never waits for a pipe or a device. */
export async function readBytes(real: string): Promise<{ readonly bytes: Uint8Array; readonly version: string } | string> {
  try {
    const file = await open(real, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      const stats = await file.stat({ bigint: true });
      if (!stats.isFile()) return "it is no regular file";
      // One byte more than is taken, so that a file that is too big is seen to be.
      const buffer = Buffer.alloc(Math.min(Number(stats.size), MAX_BYTES) + 1);
      let length = 0;
      while (length < buffer.length) {
        const { bytesRead } = await file.read(buffer, length, buffer.length - length, length);
        if (bytesRead === 0) break;
        length += bytesRead;
      }
      return { bytes: buffer.subarray(0, length), version: versionOf(stats) };
    } finally {
      await file.close();
    }
  } catch (cause) {
    return reasonOf(codeOf(cause));
  }
}
