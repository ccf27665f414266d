/**
 * The directory of desired-state files as people and their tools change it: by rename, in place, moved, a whole tree at once.
 * Three forms: a plain directory; a link to one (git syncers turn the link); a mounted volume (each file a link through `..data`, which turns).
 */
import { mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";

export type TreeForm = "directory" | "link" | "volume";
/** Texts by path below the directory. */
export type Files = Readonly<Record<string, string>>;

export type SpecsTree = {
  /** By rename; in a tree that was removed the directory is made again. A volume can only be swapped. */
  write(files: Files): void;
  writeInPlace(files: Files): void;
  move(from: string, to: string): void;
  remove(path: string): void;
  /** Everything is replaced at once. */
  swap(files: Files): void;
  removeTree(): void;
};

/** @param room - a directory of ours beside the tree, on the same file system */
export function createSpecsTree(path: string, room: string, form: TreeForm, files: Files): SpecsTree {
  let count = 0;
  const fresh = (name: string): string => {
    count += 1;
    return join(room, `${name}-${String(count)}`);
  };
  const fill = (dir: string, content: Files): void => {
    mkdirSync(dir, { recursive: true });
    for (const [name, text] of Object.entries(content)) {
      mkdirSync(dirname(join(dir, name)), { recursive: true });
      writeFileSync(join(dir, name), text);
    }
  };
  const turn = (link: string, target: string): void => {
    const next = fresh("link");
    symlinkSync(target, next);
    renameSync(next, link);
  };
  /** What is reachable by name in a volume, first parts of the paths. */
  let shown = new Set<string>();
  const swapVolume = (content: Files): void => {
    count += 1;
    const data = `..${String(count)}`;
    fill(join(path, data), content);
    turn(join(path, "..data"), data);
    const names = new Set(Object.keys(content).map((name) => name.split("/")[0] ?? name));
    for (const name of names) if (!shown.has(name)) symlinkSync(join("..data", name), join(path, name));
    for (const name of shown) if (!names.has(name)) rmSync(join(path, name));
    shown = names;
  };

  mkdirSync(room, { recursive: true });
  if (form === "directory") fill(path, files);
  if (form === "link") {
    const target = fresh("tree");
    fill(target, files);
    symlinkSync(target, path);
  }
  if (form === "volume") {
    mkdirSync(path);
    swapVolume(files);
  }

  return {
    write(content) {
      for (const [name, text] of Object.entries(content)) {
        const temporary = fresh("file");
        writeFileSync(temporary, text);
        mkdirSync(dirname(join(path, name)), { recursive: true });
        renameSync(temporary, join(path, name));
      }
    },
    writeInPlace: (content) => fill(path, content),
    move(from, to) {
      mkdirSync(dirname(join(path, to)), { recursive: true });
      renameSync(join(path, from), join(path, to));
    },
    remove: (name) => rmSync(join(path, name)),
    swap(content) {
      if (form === "volume") return swapVolume(content);
      const target = fresh("tree");
      fill(target, content);
      if (form === "link") return turn(path, target);
      renameSync(path, fresh("old"));
      renameSync(target, path);
    },
    removeTree: () => rmSync(path, { recursive: true, force: true }),
  };
}
