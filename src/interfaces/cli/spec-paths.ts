/** Files that a person names to `plan` and `validate`: read as the daemon reads its directory (product.md §2, Reading). */
import { readdirSync, readFileSync, realpathSync, statSync } from "node:fs";
import { join, relative } from "node:path";
import { err, ok, type Result } from "../../model/result.ts";
import { type Failure, usage } from "./io.ts";

export type SpecText = { readonly name: string; readonly text: string };

const MOST_FILES = 20_000;
const MOST_BYTES = 1024 * 1024;
const MOST_DEPTH = 32;
const isSpec = (name: string): boolean => /\.(ya?ml|json)$/.test(name) && !name.startsWith(".");

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
      return stats.isDirectory() ? below(path, seen, depth + 1) : stats.isFile() && isSpec(name) ? [path] : [];
    });
}

/**
 * A file is read whatever it is called. `name` is the path as a person would find it again.
 * @param under - `name` is relative to the directory that was given, as in the daemon's tree
 */
export function readSpecTexts(
  paths: readonly string[],
  { under = false }: { readonly under?: boolean } = {},
): Result<readonly SpecText[], Failure> {
  const texts: SpecText[] = [];
  const seen = new Set<string>();
  for (const path of paths) {
    try {
      const stats = statSync(path);
      const files = stats.isDirectory() ? below(path, new Set(), 0) : [path];
      for (const file of files) {
        const name = under && stats.isDirectory() ? relative(path, file) : file;
        if (seen.has(name)) continue;
        seen.add(name);
        if (seen.size > MOST_FILES)
          return err(usage(`${path} holds more than ${String(MOST_FILES)} files.`, "Name the ones that you mean."));
        const { size } = statSync(file);
        if (!statSync(file).isFile() || size > MOST_BYTES)
          return err(
            usage(`${file} is no file of desired state: it is ${String(size)} bytes long, and ${String(MOST_BYTES)} is the most.`),
          );
        texts.push({ name, text: readFileSync(file, "utf8") });
      }
    } catch (cause) {
      const { code, message } = cause as NodeJS.ErrnoException;
      return err(usage(code === "ENOENT" ? `There is no file or directory ${path}.` : `${path} cannot be read: ${message}.`));
    }
  }
  return ok(texts);
}
