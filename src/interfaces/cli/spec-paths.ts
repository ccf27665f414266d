/** Files that a person names to `plan` and `validate`: found as the daemon finds them in its directory (product.md §2, Reading). */
import { readdirSync, readFileSync, realpathSync, statSync } from "node:fs";
import { join, relative } from "node:path";
import { isSpecName } from "../../adapters/spec-tree.ts";
import { err, ok, type Result } from "../../model/result.ts";
import { type Failure, usage } from "./io.ts";

export type SpecBytes = { readonly name: string; readonly bytes: Uint8Array };

const MOST_FILES = 20_000;
/** Far above what a file of desired state may hold, which its reader says; this only keeps a disk image out. */
const MOST_BYTES = 16 * 1024 * 1024;
const MOST_DEPTH = 32;

/** Every spec file below a directory, at any depth; symlinks are followed, but no circle of them. */
function below(dir: string, visited: ReadonlySet<string>, depth: number): string[] {
  const real = realpathSync(dir);
  if (visited.has(real) || depth > MOST_DEPTH) return [];
  const seen = new Set([...visited, real]);
  return readdirSync(dir)
    .filter((name) => !name.startsWith("."))
    .sort()
    .flatMap((name) => {
      const path = join(dir, name);
      const stats = statSync(path, { throwIfNoEntry: false });
      if (stats === undefined) return [];
      return stats.isDirectory() ? below(path, seen, depth + 1) : stats.isFile() && isSpecName(name) ? [path] : [];
    });
}

/**
 * A file is read whatever it is called. `name` is the path as a person would find it again.
 * @param under - `name` is relative to the directory that was given, as in the daemon's tree
 */
export function readSpecFiles(
  paths: readonly string[],
  { under = false }: { readonly under?: boolean } = {},
): Result<readonly SpecBytes[], Failure> {
  const found = new Map<string, Uint8Array>();
  for (const path of paths) {
    try {
      const isDirectory = statSync(path).isDirectory();
      for (const file of isDirectory ? below(path, new Set(), 0) : [path]) {
        const name = under && isDirectory ? relative(path, file) : file;
        const stats = statSync(file);
        if (!stats.isFile() || stats.size > MOST_BYTES)
          return err(usage(`${file} is no file of desired state.`, "Name YAML or JSON files, or directories of them."));
        if (found.size >= MOST_FILES)
          return err(usage(`${path} holds more than ${String(MOST_FILES)} files.`, "Name the ones that you mean."));
        found.set(name, readFileSync(file));
      }
    } catch (cause) {
      const { code, message } = cause as NodeJS.ErrnoException;
      return err(usage(code === "ENOENT" ? `There is no file or directory ${path}.` : `${path} cannot be read: ${message}.`));
    }
  }
  return ok([...found].map(([name, bytes]) => ({ name, bytes })));
}
