/** Files that a person names to `plan` and `validate`: found and read as the daemon finds them in its directory (product.md §2, Reading). */
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { readBytes, scanTree } from "../../adapters/spec-tree.ts";
import { err, ok, type Result } from "../../model/result.ts";
import { type Failure, usage } from "./io.ts";

export type SpecBytes = { readonly name: string; readonly bytes: Uint8Array };
/** `within`: its path below the directory that was named; `file`: where it is. */
type Found = { readonly within: string; readonly file: string };

/** What is in a directory, in order; null: it is none. */
async function filesBelow(path: string): Promise<Result<readonly Found[], Failure> | null> {
  const stats = await stat(path).catch((cause: NodeJS.ErrnoException) => cause);
  if (stats instanceof Error)
    return err(usage(stats.code === "ENOENT" ? `There is no file or directory ${path}.` : `${path} cannot be read: ${stats.message}.`));
  if (!stats.isDirectory()) return null;
  const { directory, excess, files } = await scanTree(path);
  if (excess !== null) return err(usage(`${path} holds ${excess}.`, "Name the files that you mean."));
  if (directory !== "present") return err(usage(`${path} cannot be read.`));
  const found: Found[] = [];
  for (const [within, file] of files) {
    if (typeof file === "string") return err(usage(`${join(path, within)} cannot be read: ${file}.`));
    found.push({ within, file: file.real });
  }
  return ok(found.sort((a, b) => (a.within < b.within ? -1 : 1)));
}

/**
 * A file is read whatever it is called. `name` is the path as a person would find it again.
 * @param under - `name` is relative to the directory that was given, as in the daemon's tree
 */
export async function readSpecFiles(
  paths: readonly string[],
  { under = false }: { readonly under?: boolean } = {},
): Promise<Result<readonly SpecBytes[], Failure>> {
  const read = new Map<string, Uint8Array>();
  for (const path of paths) {
    const below = await filesBelow(path);
    if (below?.ok === false) return below;
    for (const { within, file } of below?.value ?? [{ within: "", file: path }]) {
      const name = below === null ? path : under ? within : join(path, within);
      const content = await readBytes(file);
      if (typeof content === "string") return err(usage(`${name} cannot be read: ${content}.`));
      read.set(name, content.bytes);
    }
  }
  return ok([...read].map(([name, bytes]) => ({ name, bytes })));
}
