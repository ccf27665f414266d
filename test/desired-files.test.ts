/** The desired-state tree on a real file system, through every way that editors, git and mounted volumes replace files. */
import { execFileSync } from "node:child_process";
import { appendFileSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, symlinkSync, unlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Subscription } from "rxjs";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createDesiredFiles } from "../src/adapters/desired-files.ts";
import type { Clock, Log } from "../src/model/contracts.ts";
import type { FileReading, TreeReading } from "../src/model/desired.ts";
import { eventually } from "./support/eventually.ts";
import { silentLog } from "./support/logs.ts";

/** Long enough that what comes "at once" comes well before; short enough to wait for. */
const SETTLE = 400;
const realTime: Clock = {
  now: () => Date.now(),
  setTimeout: (fn, ms) => setTimeout(fn, ms),
  clearTimeout: (handle) => clearTimeout(handle as NodeJS.Timeout),
};

let base = "";
let specs = "";
let readings: TreeReading[] = [];
let errors: string[] = [];
let subscriptions: Subscription[] = [];
const log: Log = { ...silentLog, warn: (m) => void errors.push(m), error: (m) => void errors.push(m) };

beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), "plugherd-specs-"));
  specs = join(base, "specs");
  readings = [];
  errors = [];
});
afterEach(() => {
  for (const one of subscriptions) one.unsubscribe();
  subscriptions = [];
  rmSync(base, { recursive: true, force: true });
  expect(errors).toEqual([]);
});

const yaml = (name: string, mode = "enforce"): string =>
  `apiVersion: plugherd/v1\nkind: Domain\nmetadata: { name: ${name} }\nspec: { mode: ${mode} }\n`;
const watch = (dir = specs, fileSettleMs = SETTLE, auditMs = 3_600_000): void => {
  subscriptions.push(
    createDesiredFiles({ dir, timings: { fileSettleMs, auditMs }, clock: realTime, log }).readings$.subscribe(
      (tree) => void readings.push(tree),
    ),
  );
};
const now = (): TreeReading => readings.at(-1) ?? { directory: "missing", files: new Map() };
const shortly = (reading: FileReading): string =>
  reading.kind === "read"
    ? reading.domains.map(({ name, mode }) => (mode === "enforce" ? name : `${name}/${mode}`)).join("+")
    : reading.kind;
const tree = (): Record<string, string> => Object.fromEntries([...now().files].map(([file, reading]) => [file, shortly(reading)]));
const becomes = (wanted: Readonly<Record<string, string>>): Promise<void> =>
  eventually(() => {
    expect(tree()).toEqual(wanted);
    return true;
  }).then(() => undefined);
const put = (path: string, text: string): void => {
  mkdirSync(join(specs, path, ".."), { recursive: true });
  writeFileSync(join(specs, path), text);
};
const replace = (path: string, text: string): void => {
  writeFileSync(join(specs, `.${path}.tmp`), text);
  renameSync(join(specs, `.${path}.tmp`), join(specs, path));
};
/** Starts on a tree with one file, after which the watch stands. */
const started = async (dir = specs, settleMs = SETTLE): Promise<void> => {
  mkdirSync(specs, { recursive: true });
  put("a.yaml", yaml("a"));
  watch(dir, settleMs);
  await becomes({ "a.yaml": "a" });
};
const everSaid = (word: string): boolean =>
  readings.some(({ files }) => [...files.values()].some((reading) => shortly(reading).includes(word)));

describe("what is read", () => {
  test("yaml, yml and json at any depth; nothing whose name begins with a dot, at any level", async () => {
    put("a.yaml", yaml("a"));
    put("deep/er/b.yml", yaml("b"));
    put("deep/c.json", JSON.stringify({ apiVersion: "plugherd/v1", kind: "Domain", metadata: { name: "c" }, spec: {} }));
    for (const path of [".a.yaml", ".git/b.yaml", "deep/.c/d.yaml", "notes.txt", "a.yaml~", "a.yaml.swp", "yaml"]) put(path, yaml("no"));
    watch();
    await becomes({ "a.yaml": "a", "deep/c.json": "c", "deep/er/b.yml": "b" });
    expect(readings).toHaveLength(1);
  });

  test("symlinks are followed, circles and all", async () => {
    mkdirSync(join(base, "outside/sub"), { recursive: true });
    writeFileSync(join(base, "outside/sub/b.yaml"), yaml("b"));
    writeFileSync(join(base, "outside/c"), yaml("c"));
    put("a.yaml", yaml("a"));
    symlinkSync(join(base, "outside/sub"), join(specs, "linked"));
    symlinkSync("../outside/c", join(specs, "c.yaml"));
    symlinkSync(".", join(specs, "circle"));
    symlinkSync("self.yaml", join(specs, "self.yaml"));
    symlinkSync("nowhere", join(specs, "dangling.yaml"));
    watch();
    await becomes({ "a.yaml": "a", "c.yaml": "c", "dangling.yaml": "unreadable", "linked/b.yaml": "b", "self.yaml": "unreadable" });
    writeFileSync(join(base, "outside/c"), yaml("c2"));
    writeFileSync(join(base, "outside/sub/d.yaml"), yaml("d"));
    await becomes({
      "a.yaml": "a",
      "c.yaml": "c2",
      "dangling.yaml": "unreadable",
      "linked/b.yaml": "b",
      "linked/d.yaml": "d",
      "self.yaml": "unreadable",
    });
  });

  test("a few directories whose links to each other make an endless tree are not read at all, and it is said why", async () => {
    for (let i = 0; i < 30; i += 1) {
      mkdirSync(join(specs, String(i)), { recursive: true });
      for (const name of ["a", "b"]) symlinkSync(`../${String(i + 1)}`, join(specs, String(i), name));
    }
    put("a.yaml", yaml("a"));
    watch();
    await eventually(() => now().directory === "unreadable");
    expect(tree()).toEqual({});
    expect(errors.splice(0)).toEqual([expect.stringContaining("more than 4096 directories") as string]);
    rmSync(join(specs, "15"), { recursive: true });
    rmSync(join(specs, "7"), { recursive: true });
    rmSync(join(specs, "22"), { recursive: true });
    await becomes({ "a.yaml": "a" });
  });

  test("a pipe, a directory of such a name and a file that is too big are told, and nothing waits for them", async () => {
    mkdirSync(join(specs, "dir.yaml"), { recursive: true });
    execFileSync("mkfifo", [join(specs, "pipe.yaml"), join(specs, ".git")]);
    put("big.yaml", "#".repeat(3 * 1024 * 1024));
    put("a.yaml", yaml("a"));
    watch();
    await becomes({ "a.yaml": "a", "big.yaml": "bad", "pipe.yaml": "unreadable" });
  });

  test.skipIf(process.getuid?.() !== 0)("what may not be read is told, directory or file, and is no vanishing", async () => {
    put("a.yaml", yaml("a"));
    put("closed/b.yaml", yaml("b"));
    put("c.yaml", yaml("c"));
    execFileSync("chmod", ["-R", "a+rX", base]);
    process.seteuid?.(65_534);
    try {
      watch();
      await becomes({ "a.yaml": "a", "c.yaml": "c", "closed/b.yaml": "b" });
      process.seteuid?.(0);
      execFileSync("chmod", ["0", join(specs, "closed"), join(specs, "c.yaml")]);
      process.seteuid?.(65_534);
      await eventually(() => tree()["closed"] === "unreadable");
      expect(now().files.get("closed")).toEqual({
        kind: "unreadable",
        message: "the directory cannot be read: permission denied: let plugherd read it",
      });
      process.seteuid?.(0);
      execFileSync("chmod", ["0", specs]);
      process.seteuid?.(65_534);
      await eventually(() => now().directory === "unreadable");
    } finally {
      process.seteuid?.(0);
      execFileSync("chmod", ["-R", "a+rX", base]);
    }
    await becomes({ "a.yaml": "a", "c.yaml": "c", "closed/b.yaml": "b" });
  });

  test.skipIf(process.getuid?.() !== 0)("what cannot be watched is told once, and looked at all the same", async () => {
    for (const name of ["one", "two"]) {
      mkdirSync(join(base, name));
      writeFileSync(join(base, name, "a.yaml"), yaml(name));
    }
    symlinkSync("one", join(base, "link"));
    execFileSync("chmod", ["-R", "a+rX", base]);
    execFileSync("chmod", ["0711", base]);
    const turn = (to: string): void => {
      process.seteuid?.(0);
      symlinkSync(to, join(base, "next"));
      renameSync(join(base, "next"), join(base, "link"));
      process.seteuid?.(65_534);
    };
    process.seteuid?.(65_534);
    try {
      watch(join(base, "link"), SETTLE, 50);
      await becomes({ "a.yaml": "one" });
      await eventually(() => errors.length > 0);
      for (const to of ["two", "one", "two"]) {
        turn(to);
        await becomes({ "a.yaml": to });
      }
    } finally {
      process.seteuid?.(0);
    }
    expect(errors.splice(0)).toEqual([expect.stringContaining("cannot be watched") as string]);
  });

  test("two files with one name are both bad, and good again when one goes", async () => {
    await started();
    replace("b.yaml", yaml("a"));
    await becomes({ "a.yaml": "bad", "b.yaml": "bad" });
    unlinkSync(join(specs, "a.yaml"));
    await becomes({ "b.yaml": "a" });
  });

  test("a file that is touched, or rewritten with what it holds, is no news", async () => {
    await started();
    put("a.yaml", yaml("a"));
    replace("a.yaml", yaml("a"));
    replace("b.yaml", yaml("b"));
    await becomes({ "a.yaml": "a", "b.yaml": "b" });
    expect(readings).toHaveLength(2);
    expect(readings[1]?.files.get("a.yaml")).toBe(readings[0]?.files.get("a.yaml"));
  });
});

describe("a file is replaced", () => {
  test("in place, in pieces: read once it is left alone, never half", async () => {
    await started();
    const text = yaml("b", "observe");
    const file = join(specs, "b.yaml");
    for (const piece of text.match(/[\s\S]{1,12}/g) ?? []) {
      appendFileSync(file, piece);
      await new Promise((resolve) => setImmediate(resolve));
    }
    await becomes({ "a.yaml": "a", "b.yaml": "b/observe" });
    expect(everSaid("bad")).toBe(false);
    writeFileSync(file, "");
    writeFileSync(file, yaml("b", "paused"));
    await becomes({ "a.yaml": "a", "b.yaml": "b/paused" });
    expect(everSaid("bad")).toBe(false);
  });

  test("by rename: at once, though written files would settle for an hour", async () => {
    await started(specs, 3_600_000);
    replace("a.yaml", yaml("a", "observe"));
    await becomes({ "a.yaml": "a/observe" });
    replace("b.yaml", yaml("b"));
    await becomes({ "a.yaml": "a/observe", "b.yaml": "b" });
    renameSync(join(specs, "b.yaml"), join(specs, "c.yaml"));
    await becomes({ "a.yaml": "a/observe", "c.yaml": "b" });
  });

  test("as vim does: the old one aside, a new one written, the old one removed", async () => {
    await started();
    for (const mode of ["observe", "paused", "observe"]) {
      writeFileSync(join(specs, "4913"), "");
      unlinkSync(join(specs, "4913"));
      writeFileSync(join(specs, ".a.yaml.swp"), mode);
      renameSync(join(specs, "a.yaml"), join(specs, "a.yaml~"));
      put("a.yaml", yaml("a", mode));
      unlinkSync(join(specs, "a.yaml~"));
      await becomes({ "a.yaml": `a/${mode}` });
    }
    expect(readings.every(({ files }) => files.size === 1)).toBe(true);
  });

  test("as sed -i does, and by a hard link", async () => {
    await started();
    execFileSync("sed", ["-i", "s/enforce/observe/", join(specs, "a.yaml")]);
    await becomes({ "a.yaml": "a/observe" });
    writeFileSync(join(specs, "b.tmp"), yaml("b"));
    execFileSync("ln", [join(specs, "b.tmp"), join(specs, "b.yaml")]);
    await becomes({ "a.yaml": "a/observe", "b.yaml": "b" });
  });

  test("removed, and back", async () => {
    await started();
    put("b.yaml", yaml("b"));
    await becomes({ "a.yaml": "a", "b.yaml": "b" });
    unlinkSync(join(specs, "b.yaml"));
    await becomes({ "a.yaml": "a" });
    replace("b.yaml", yaml("b"));
    await becomes({ "a.yaml": "a", "b.yaml": "b" });
  });

  test("moved within the tree: never in both places, never in none", async () => {
    await started();
    mkdirSync(join(specs, "sub"));
    for (const [from, to] of [
      ["a.yaml", "sub/b.yaml"],
      ["sub/b.yaml", "c.yaml"],
      ["c.yaml", "sub/d.yml"],
    ] as const) {
      renameSync(join(specs, from), join(specs, to));
      await becomes({ [to]: "a" });
    }
    expect(readings.map(({ files }) => files.size)).toEqual([1, 1, 1, 1]);
    expect(everSaid("bad")).toBe(false);
  });
});

describe("the tree is replaced", () => {
  test("a mounted volume turns its ..data link: at once, as a whole", async () => {
    mkdirSync(specs);
    const fill = (generation: number, mode: string): void => {
      mkdirSync(join(specs, `..${String(generation)}`));
      for (const name of ["a", "b"]) writeFileSync(join(specs, `..${String(generation)}`, `${name}.yaml`), yaml(name, mode));
      symlinkSync(`..${String(generation)}`, join(specs, "..data_tmp"));
      renameSync(join(specs, "..data_tmp"), join(specs, "..data"));
      if (generation > 0) rmSync(join(specs, `..${String(generation - 1)}`), { recursive: true });
    };
    fill(0, "enforce");
    for (const name of ["a", "b"]) symlinkSync(`..data/${name}.yaml`, join(specs, `${name}.yaml`));
    watch(specs, 3_600_000);
    await becomes({ "a.yaml": "a", "b.yaml": "b" });
    for (const [generation, mode] of [
      [1, "observe"],
      [2, "paused"],
      [3, "observe"],
    ] as const) {
      fill(generation, mode);
      await becomes({ "a.yaml": `a/${mode}`, "b.yaml": `b/${mode}` });
    }
    expect(readings).toHaveLength(4);
  });

  test("a git syncer turns the link that the tree is: at once, as a whole", async () => {
    const fill = (name: string, mode: string): void => {
      mkdirSync(join(base, name, "hosts"), { recursive: true });
      writeFileSync(join(base, name, "hosts/a.yaml"), yaml("a", mode));
      symlinkSync(name, join(base, "next"));
      renameSync(join(base, "next"), specs);
    };
    fill("rev1", "enforce");
    watch(specs, 3_600_000);
    await becomes({ "hosts/a.yaml": "a" });
    fill("rev2", "observe");
    await becomes({ "hosts/a.yaml": "a/observe" });
    fill("rev3", "paused");
    await becomes({ "hosts/a.yaml": "a/paused" });
    expect(readings).toHaveLength(3);
  });

  test("one directory is renamed over another, the tree itself or what is above it, again and again", async () => {
    specs = join(base, "site/domains");
    await started();
    for (let i = 0; i < 3; i += 1) {
      const [victim, next] = i === 1 ? [join(base, "site"), join(base, "next/domains")] : [specs, join(base, "next")];
      mkdirSync(next, { recursive: true });
      writeFileSync(join(next, "b.yaml"), yaml(`b${String(i)}`));
      renameSync(victim, join(base, `old${String(i)}`));
      renameSync(join(base, "next"), victim);
      await becomes({ "b.yaml": `b${String(i)}` });
      put("c.yaml", yaml("c"));
      await becomes({ "b.yaml": `b${String(i)}`, "c.yaml": "c" });
    }
  });

  test("missing at the start, made, vanished, back: each is noticed", async () => {
    specs = join(base, "not/yet/there");
    watch();
    await eventually(() => readings.length === 1);
    expect(now().directory).toBe("missing");
    put("a.yaml", yaml("a"));
    await becomes({ "a.yaml": "a" });
    rmSync(join(base, "not"), { recursive: true });
    await eventually(() => now().directory === "missing");
    mkdirSync(specs, { recursive: true });
    await eventually(() => now().directory === "present");
    put("b.yaml", yaml("b"));
    await becomes({ "b.yaml": "b" });
  });

  test("a git checkout goes to another commit and back; each file says which it came from", async () => {
    const git = (...args: string[]): string =>
      execFileSync("git", ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main", ...args], {
        cwd: specs,
        encoding: "utf8",
      }).trim();
    mkdirSync(specs);
    git("init", "-q");
    put("a.yaml", yaml("a"));
    put("sub/b.yaml", yaml("b"));
    git("add", ".");
    git("commit", "-qm", "one");
    const one = git("rev-parse", "HEAD").slice(0, 12);
    watch();
    await becomes({ "a.yaml": "a", "sub/b.yaml": "b" });
    const commits = (): (string | null)[] =>
      [...now().files.values()].map((reading) => (reading.kind === "read" ? (reading.domains[0]?.commit ?? null) : null));
    expect(commits()).toEqual([one, one]);

    git("checkout", "-q", "-b", "other");
    git("mv", "sub/b.yaml", "c.yaml");
    put("a.yaml", yaml("a", "observe"));
    git("commit", "-qam", "two");
    const two = git("rev-parse", "HEAD").slice(0, 12);
    await becomes({ "a.yaml": "a/observe", "c.yaml": "b" });
    git("checkout", "-q", "main");
    await becomes({ "a.yaml": "a", "sub/b.yaml": "b" });
    expect(commits()).toEqual([one, one]);
    git("pack-refs", "--all");
    git("checkout", "-q", "other");
    await becomes({ "a.yaml": "a/observe", "c.yaml": "b" });
    expect(commits()).toEqual([two, two]);
    expect(everSaid("bad")).toBe(false);

    const worktree = join(base, "worktree");
    git("worktree", "add", "-q", worktree, "main");
    readings = [];
    watch(worktree);
    await becomes({ "a.yaml": "a", "sub/b.yaml": "b" });
    expect(commits()).toEqual([one, one]);
  });

  test("a whole tree is copied in, directory by directory", async () => {
    await started();
    const more = join(base, "more");
    for (let i = 0; i < 40; i += 1) {
      mkdirSync(join(more, String(i % 7), "x"), { recursive: true });
      writeFileSync(join(more, String(i % 7), "x", `n${String(i)}.yaml`), yaml(`n${String(i)}`));
    }
    execFileSync("cp", ["-r", more, join(specs, "more")]);
    await eventually(() => now().files.size === 41);
    expect(everSaid("bad")).toBe(false);
    rmSync(join(specs, "more"), { recursive: true });
    await becomes({ "a.yaml": "a" });
  });
});

test("nothing is watched any more once nobody listens", async () => {
  await started();
  const open = (): number => readdirSync("/proc/self/fd").length;
  const before = open();
  for (const one of subscriptions) one.unsubscribe();
  await eventually(() => open() < before || open() === before);
  const count = readings.length;
  replace("b.yaml", yaml("b"));
  watch();
  await eventually(() => readings.length > count);
  expect(readings).toHaveLength(count + 1);
});
