/** `--state`: what is saved is read back; whatever ends the process leaves the old or the new; what is bad costs only itself. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { readDomainFile, readSpec } from "../src/adapters/spec-reading.ts";
import { createStateStore, STATE_FILE } from "../src/adapters/state-store.ts";
import type { Log } from "../src/model/contracts.ts";
import { type Intentions, noIntentions } from "../src/model/intentions.ts";
import { compileInto } from "./support/compiled.ts";

let dir = "";
const said: string[] = [];
const note = (message: string, fields?: Readonly<Record<string, unknown>>): void => void said.push(`${message} ${JSON.stringify(fields)}`);
const log: Log = { debug: note, info: note, warn: note, error: note };
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "plugherd-state-"));
  said.length = 0;
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const jsDir = (): string => {
  const made = join(dir, "js");
  mkdirSync(made);
  return made;
};
const state = (): string => join(dir, "state");
const path = (): string => join(state(), STATE_FILE);
const store = () => createStateStore({ dir: state(), log });
const load = async (): Promise<Intentions> => {
  const loaded = await store().load();
  if (!loaded.ok) throw new Error(loaded.error.message);
  return loaded.value;
};
const reading = readDomainFile("lab.yaml", readFileSync("specs/examples/lab.yaml"), "abc123");
const domains = reading.kind === "read" ? reading.domains : [];
const [policy] = readSpec("policy.yaml", readFileSync("specs/examples/policy.yaml"), ["HostPolicy"]).policies;
const full: Intentions = {
  lastGood: [{ file: "lab.yaml", domains }],
  lastGoodPolicy: policy ?? null,
  vanished: domains,
  left: [{ domain: "lab-bench-1", devices: domains[0]?.devices ?? [] }],
  holds: [{ domain: "a", device: "b", until: 1_700_000_000_000, release: false, reason: null }],
  pauses: [{ domain: "a", since: 1, reason: "saving it" }],
  quarantines: [{ domain: "a", device: "b", busid: "1-1", fingerprint: "0529|0001" }],
};
const save = async (intentions: Intentions): Promise<void> => {
  const one = store();
  one.save(intentions);
  await one.flush();
};

test("nothing is there at first; the directory is made, for its owner alone", async () => {
  expect(await load()).toEqual(noIntentions);
  expect(statSync(state()).mode & 0o777).toBe(0o700);
  expect(said).toEqual([]);
});

test("everything comes back as it was, from a file for its owner alone, with nothing beside it", async () => {
  expect(domains).toHaveLength(2);
  expect(policy).toBeDefined();
  await save(full);
  expect(await load()).toEqual(full);
  expect(statSync(path()).mode & 0o777).toBe(0o600);
  expect(readdirSync(state())).toEqual([STATE_FILE]);
  expect(said).toEqual([]);
});

test("of many saves the newest is kept", async () => {
  const one = store();
  for (let i = 0; i < 100; i += 1) one.save({ ...noIntentions, pauses: [{ domain: "a", since: i, reason: null }] });
  await one.flush();
  expect((await load()).pauses).toEqual([{ domain: "a", since: 99, reason: null }]);
});

test("a save that fails is told, and the next one is tried", async () => {
  writeFileSync(state(), "in the way");
  const one = store();
  one.save(full);
  await one.flush();
  expect(said).toEqual([expect.stringContaining("could not be saved")]);
  rmSync(state());
  one.save(full);
  await one.flush();
  expect(await load()).toEqual(full);
});

test("a directory that cannot be read is an error, not an empty state", async () => {
  writeFileSync(state(), "in the way");
  expect(await store().load()).toMatchObject({ ok: false, error: { kind: "terminal", reason: "StateUnreadable" } });
});

describe("what is bad is kept aside, and told; the rest is in force", () => {
  const put = (text: string): void => {
    mkdirSync(state(), { recursive: true });
    writeFileSync(path(), text);
  };
  test.each([
    ["no JSON", "{"],
    ["empty", ""],
    ["a list", "[]"],
    ["another version", JSON.stringify({ ...full, version: 99 })],
    ["binary", "\u0000\u0001\uFFFD"],
    ["deep", "[".repeat(100_000)],
  ])("%s", async (_, text) => {
    put(text);
    expect(await load()).toEqual(noIntentions);
    expect(readFileSync(`${path()}.bad-1`, "utf8")).toBe(text);
    expect(said).toEqual([expect.stringContaining(".bad-1")]);
    put(text);
    await load();
    expect(readdirSync(state()).sort()).toEqual([`${STATE_FILE}.bad-1`, `${STATE_FILE}.bad-2`]);
  });

  test("one bad entry costs that entry", async () => {
    const hostile = { ...full.lastGood[0], domains: [{ ...domains[0], name: "../x" }] };
    put(JSON.stringify({ version: 1, ...full, lastGood: [...full.lastGood, hostile, 7], holds: "none", lastGoodPolicy: { rules: 1 } }));
    expect(await load()).toEqual({ ...full, holds: [], lastGoodPolicy: null });
    expect(said).toHaveLength(1);
    expect(said[0]).toContain("lastGood: 2 of 3 entries are bad");
    expect(said[0]).toContain("holds is no list");
    expect(said[0]).toContain("lastGoodPolicy is bad");
    expect(readdirSync(state())).toEqual([`${STATE_FILE}.bad-1`]);
  });

  test("no more than nine are kept", async () => {
    for (let i = 0; i < 12; i += 1) {
      put(String(i));
      await load();
    }
    expect(readdirSync(state())).toHaveLength(9);
    expect(readFileSync(`${path()}.bad-9`, "utf8")).toBe("11");
  });

  test("what a write that was cut off left is written over; loading leaves it, for it may be another daemon's that is at it", async () => {
    await save(full);
    writeFileSync(join(state(), `.${STATE_FILE}.tmp`), "half");
    expect(await load()).toEqual(full);
    expect(readdirSync(state())).toHaveLength(2);
    await save(full);
    expect(readdirSync(state())).toEqual([STATE_FILE]);
  });

  test("a link in the place of what is written first is not followed", async () => {
    const precious = join(dir, "precious");
    writeFileSync(precious, "precious");
    mkdirSync(state());
    symlinkSync(precious, join(state(), `.${STATE_FILE}.tmp`));
    await save(full);
    expect(readFileSync(precious, "utf8")).toBe("precious");
    expect(said.join("\n")).toContain("could not be saved");
  });
});

test("kill -9 at any moment of a writer leaves the old or the new, whole", async () => {
  const module = compileInto(jsDir(), "src/adapters/state-store.ts");
  const script = join(dir, "writer.mjs");
  writeFileSync(
    script,
    `import { createStateStore } from ${JSON.stringify(module)};
     const log = { debug() {}, info() {}, warn() {}, error(m, f) { console.error(m, f); } };
     const store = createStateStore({ dir: ${JSON.stringify(state())}, log });
     const filler = Array.from({ length: 2000 }, (_, i) => ({ domain: "d", device: "x" + i, until: 1, release: false, reason: "r".repeat(50) }));
     for (let since = Number(process.argv[2]); ; since += 1) {
       store.save({ lastGood: [], lastGoodPolicy: null, vanished: [], left: [], holds: filler, quarantines: [], pauses: [{ domain: "n", since, reason: null }] });
       await store.flush();
       process.stdout.write(since + "\\n");
     }`,
  );
  let done = 0;
  for (let round = 0; round < 8; round += 1) {
    const child = spawn(process.execPath, [script, String(done + 1)], { stdio: ["ignore", "pipe", "inherit"] });
    const ended = once(child, "exit");
    let seen = "";
    await new Promise<void>((resolve) => {
      child.stdout.on("data", (chunk: Buffer) => {
        seen += chunk.toString();
        // Some whole writes, then the blow falls at a point of the next that differs from round to round.
        if (seen.split("\n").length > 2 + round) resolve();
      });
    });
    child.kill("SIGKILL");
    await ended;
    const told = Number(seen.trimEnd().split("\n").at(-1));
    const { pauses, holds } = await load();
    expect(holds).toHaveLength(2000);
    expect(pauses[0]?.since).toBeGreaterThanOrEqual(told);
    done = pauses[0]?.since ?? 0;
  }
  // What the last blow left unfinished goes with the next save.
  await save(full);
  expect(readdirSync(state())).toEqual([STATE_FILE]);
  expect(said).toEqual([]);
});

test("a directory that exists keeps its mode", async () => {
  mkdirSync(state());
  chmodSync(state(), 0o750);
  await save(full);
  expect(statSync(state()).mode & 0o777).toBe(0o750);
});
