/** Which file speaks for which domain: what a reading of the tree says, held against the last good versions that are in force. */
import type { DesiredDomain, FileReading, TreeReading } from "../model/desired.ts";

/** One domain as it was last good. `away`: no file speaks for it; since when (ms since 1970), and whether a person must decide. */
export type Kept = {
  readonly file: string;
  readonly spec: DesiredDomain;
  readonly away: { readonly since: number; readonly held: boolean } | null;
};

export type Accepted = {
  readonly said: ReadonlyMap<string, { readonly file: string; readonly spec: DesiredDomain }>;
  /** Files that speak for a domain whose own file is bad now, so that its last good version is in force; why, by file. */
  readonly rejected: ReadonlyMap<string, string>;
};

/** A file that is there and bad keeps its domains (product.md §2): who else speaks for one of them is the second file of one name. */
export function acceptedOf(tree: TreeReading, kept: ReadonlyMap<string, Kept>): Accepted {
  const rejected = new Map<string, string>();
  for (;;) {
    const before = rejected.size;
    const holders = [...kept.values()].filter(({ file, away }) => {
      const reading = tree.files.get(file);
      return (
        away === null && ((reading !== undefined && reading.kind !== "read") || rejected.has(file) || unreadableAt(file, tree) !== null)
      );
    });
    const byName = new Map(holders.map((one) => [one.spec.name, one]));
    const byTarget = new Map(holders.map((one) => [JSON.stringify(one.spec.target), one]));
    for (const [file, reading] of tree.files) {
      if (reading.kind !== "read" || rejected.has(file)) continue;
      for (const spec of reading.domains) {
        const holder = byName.get(spec.name) ?? byTarget.get(JSON.stringify(spec.target));
        if (holder === undefined || holder.file === file) continue;
        const { line, column } = spec.mark;
        rejected.set(
          file,
          `${file}:${String(line)}:${String(column)}: the domain is that of ${holder.file} too, which is bad input and whose last good version is in force; mend or remove ${holder.file}`,
        );
      }
    }
    if (rejected.size === before) break;
  }
  const said = new Map<string, { file: string; spec: DesiredDomain }>();
  for (const [file, reading] of tree.files) {
    if (reading.kind === "read" && !rejected.has(file)) for (const spec of reading.domains) said.set(spec.name, { file, spec });
  }
  return { said, rejected };
}

/** @returns the words for a directory above the file that cannot be read; null: there is none */
export function unreadableAt(file: string, { files }: TreeReading): string | null {
  for (let slash = file.lastIndexOf("/"); slash > 0; slash = file.lastIndexOf("/", slash - 1)) {
    const above = file.slice(0, slash);
    const reading = files.get(above);
    if (reading?.kind === "unreadable") return `${above}: ${reading.message}`;
  }
  return null;
}

/** A reading's errors, one a line. */
export const problemsOf = (file: string, reading: FileReading): readonly string[] =>
  reading.kind === "read"
    ? []
    : reading.kind === "unreadable"
      ? [`${file}: ${reading.message}`]
      : reading.problems
          .filter(({ severity }) => severity === "error")
          .map((one) => `${one.file}:${String(one.line)}:${String(one.column)}: ${one.message}`);

/** A bad file without a last good version: its domain is only looked at. */
export const onlyObserved = (name: string, file: string): DesiredDomain => ({
  name,
  labels: {},
  target: { by: "name", name },
  mode: "observe",
  prune: "none",
  controllers: [],
  devices: [],
  mark: { file, line: 1, column: 1 },
  generation: "",
  commit: null,
});
