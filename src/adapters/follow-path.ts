/** Where a path really leads, and which directories tell when it comes to lead elsewhere: every symlink on the way can be swapped. */
import { lstat, readlink } from "node:fs/promises";
import { dirname, isAbsolute, join, resolve } from "node:path";

/** As Linux bounds it (path_resolution(7)). */
const MAX_LINKS = 40;

export type Followed = {
  /** Without a symlink in it; null: it leads nowhere. */
  readonly real: string | null;
  /** Error code where it leads nowhere: ENOENT, ELOOP, EACCES … */
  readonly code: string | null;
  /** Directories on the way and the name in each that decides: symlinks, and what is missing. */
  readonly hinges: readonly { readonly dir: string; readonly name: string }[];
};

/** @param from - a real directory that a relative path starts in */
export async function followPath(path: string, from = "/"): Promise<Followed> {
  const absolute = isAbsolute(path) || from !== "/" ? path : resolve(path);
  const hinges: { dir: string; name: string }[] = [];
  let at = isAbsolute(absolute) ? "/" : from;
  let names = absolute.split("/");
  let links = 0;
  for (let name = names.shift(); name !== undefined; name = names.shift()) {
    if (name === "" || name === ".") continue;
    if (name === "..") {
      at = dirname(at);
      continue;
    }
    const next = join(at, name);
    try {
      if ((await lstat(next)).isSymbolicLink()) {
        hinges.push({ dir: at, name });
        links += 1;
        if (links > MAX_LINKS) return { real: null, code: "ELOOP", hinges };
        const target = await readlink(next);
        names = [...target.split("/"), ...names];
        if (isAbsolute(target)) at = "/";
      } else at = next;
    } catch (cause) {
      return { real: null, code: codeOf(cause), hinges: [...hinges, { dir: at, name }] };
    }
  }
  return { real: at, code: null, hinges };
}

/** The errno name of a failed call to the file system. */
export const codeOf = (cause: unknown): string => {
  const code = (cause as { readonly code?: unknown } | null)?.code;
  return typeof code === "string" ? code : "EIO";
};
