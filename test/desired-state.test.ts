/** Desired state in force: last good versions, settling, moves, renames, clashes and the guards, in simulated time. */
import { describe, expect, test } from "vitest";
import { createDesiredState, type DesiredStateDeps } from "../src/controller/desired-state.ts";
import type { DesiredDevice, DesiredDomain, FileReading, ForcedDomain, TreeReading } from "../src/model/desired.ts";
import { type Intentions, noIntentions } from "../src/model/intentions.ts";
import { SimulatedTime } from "./support/clock.ts";

const VANISH = 5_000;
const noSelector = {
  vendor: null,
  product: null,
  serial: null,
  port: null,
  under: null,
  anyInterface: null,
  allInterfaces: null,
  manufacturer: null,
  productName: null,
  removable: null,
  bus: null,
  address: null,
};
const entry = (name: string, more: Partial<DesiredDevice> = {}, vendor = name): DesiredDevice => ({
  name,
  kind: { type: "usb", selectors: [{ ...noSelector, vendor }], anyOf: false },
  count: 1,
  pick: "none",
  priority: 0,
  controller: null,
  guestPort: null,
  required: false,
  onRemove: "detach",
  after: [],
  mark: { file: "f", line: 1, column: 1 },
  ...more,
});
const spec = (name: string, more: Partial<DesiredDomain> = {}): DesiredDomain => ({
  name,
  labels: {},
  target: { by: "name", name },
  mode: "enforce",
  prune: "managed",
  controllers: null,
  devices: [entry("dongle")],
  mark: { file: `${name}.yaml`, line: 3, column: 9 },
  generation: "0",
  commit: null,
  ...more,
});
const read = (...domains: DesiredDomain[]): FileReading => ({ kind: "read", domains, warnings: [] });
const bad = (...names: string[]): FileReading => ({
  kind: "bad",
  names,
  problems: [{ file: "f", line: 2, column: 3, code: "X", message: "it is bad; mend it", severity: "error", pointer: "" }],
});
const unreadable: FileReading = { kind: "unreadable", message: "permission denied" };
const treeOf = (files: Readonly<Record<string, FileReading>>): TreeReading => ({
  directory: "present",
  files: new Map(Object.entries(files)),
});

const start = (intentions: Partial<Intentions> = {}, more: Partial<DesiredStateDeps> = {}) => {
  const clock = new SimulatedTime();
  const attached = new Map<string, number>();
  const forced = new Map<string, ForcedDomain>();
  const notes: string[] = [];
  const names: string[] = [];
  let saved: Intentions = { ...noIntentions, ...intentions };
  let changes = 0;
  let saves = 0;
  const keeper = createDesiredState({
    clock,
    timings: { vanishMs: VANISH },
    intentions: saved,
    attached: (domain) => (domain === null ? [...attached.values()].reduce((sum, n) => sum + n, 0) : (attached.get(domain) ?? 0)),
    onChange: (all) => {
      for (const change of all) {
        if (change.kind !== "forced") throw new Error(change.kind);
        changes += 1;
        names.push(change.name);
        if (change.domain === null) forced.delete(change.name);
        else forced.set(change.name, change.domain);
      }
    },
    onIntentions: (part) => {
      saves += 1;
      saved = { ...saved, ...part };
    },
    onNote: (_domain, reason) => notes.push(reason),
    ...more,
  });
  const standings = (): Record<string, string> => Object.fromEntries([...forced].map(([name, { standing }]) => [name, standing]));
  const reasons = (): string[] => keeper.conditions().map(({ reason }) => reason);
  return {
    clock,
    attached,
    forced,
    notes,
    names,
    keeper,
    standings,
    reasons,
    saved: () => saved,
    changes: () => changes,
    saves: () => saves,
    files: (files: Readonly<Record<string, FileReading>>) => keeper.reading(treeOf(files)),
  };
};
const a = read(spec("a"));
const b = read(spec("b"));

describe("a file", () => {
  test("is in force as it is read; the same reading again is no news", () => {
    const state = start();
    state.files({ "a.yaml": a, "b.yaml": b });
    expect(state.standings()).toEqual({ a: "current", b: "current" });
    const [changes, saves] = [state.changes(), state.saves()];
    state.files({ "a.yaml": a, "b.yaml": b });
    expect([state.changes(), state.saves(), state.clock.waiting]).toEqual([changes, saves, 0]);
  });

  test("that turns bad leaves its last good version in force, over a restart too", () => {
    const first = start();
    first.files({ "a.yaml": a });
    first.files({ "a.yaml": bad() });
    expect(first.forced.get("a")).toMatchObject({ standing: "last-good", problems: ["f:2:3: it is bad; mend it"] });
    expect(first.reasons()).toEqual(["InvalidFile"]);
    first.clock.advance(10 * VANISH);
    expect(first.standings()).toEqual({ a: "last-good" });

    const second = start(first.saved());
    second.files({ "a.yaml": bad() });
    expect(second.forced.get("a")?.spec.devices).toHaveLength(1);
    second.files({ "a.yaml": a });
    expect(second.standings()).toEqual({ a: "current" });
    expect(second.reasons()).toEqual([]);
  });

  test("that cannot be read is like a bad one, and so is one below a directory that cannot be read", () => {
    const state = start();
    state.files({ "a.yaml": a, "sub/b.yaml": b });
    state.files({ "a.yaml": unreadable, sub: unreadable });
    state.clock.advance(10 * VANISH);
    expect(state.standings()).toEqual({ a: "last-good", b: "last-good" });
    expect(state.forced.get("b")?.problems).toEqual(["sub: permission denied"]);
  });

  test("that was bad from the start is only observed", () => {
    const state = start();
    state.files({ "a.yaml": bad("a") });
    expect(state.forced.get("a")).toMatchObject({ standing: "last-good", spec: { mode: "observe", prune: "none", devices: [] } });
    expect(state.saved().lastGood).toEqual([]);
    state.files({ "a.yaml": a });
    expect(state.standings()).toEqual({ a: "current" });
  });
});

describe("a file that vanishes", () => {
  test("is a decision after the settle time, remembered until the domain is clean", () => {
    const state = start();
    state.files({ "a.yaml": a, "b.yaml": b });
    state.files({ "b.yaml": b });
    expect(state.standings()).toEqual({ a: "settling", b: "current" });
    state.clock.advance(VANISH - 1);
    expect(state.standings()).toEqual({ a: "settling", b: "current" });
    state.clock.advance(1);
    expect(state.standings()).toEqual({ a: "vanished", b: "current" });
    expect([...state.keeper.unclean]).toEqual(["a"]);

    const next = start(state.saved());
    next.files({ "b.yaml": b });
    expect(next.standings()).toEqual({ a: "vanished", b: "current" });
    next.keeper.clean("a");
    expect(next.standings()).toEqual({ b: "current" });
    expect(next.saved().vanished).toEqual([]);
    expect(next.clock.waiting).toBe(0);
  });

  test("is forgotten when a thousand others have vanished since: what never comes clean does not add up", () => {
    const state = start();
    const keep = { "keep.yaml": read(spec("keep")) };
    for (let i = 0; i < 1_002; i += 1) {
      state.files({ ...keep, [`${String(i)}.yaml`]: read(spec(`d${String(i)}`)) });
      state.files(keep);
      state.clock.advance(VANISH);
    }
    expect(state.saved().vanished.map(({ name }) => name)).toEqual(Array.from({ length: 1_000 }, (_, i) => `d${String(i + 2)}`));
    expect(state.standings()).not.toHaveProperty("d1");
    expect(state.keeper.unclean.size).toBe(1_000);
  });
  test("and comes back meanwhile is none", () => {
    const state = start();
    state.files({ "a.yaml": a, "b.yaml": b });
    state.files({ "b.yaml": b });
    state.clock.advance(VANISH - 1);
    state.files({ "a.yaml": a, "b.yaml": b });
    state.clock.advance(10 * VANISH);
    expect(state.standings()).toEqual({ a: "current", b: "current" });
  });

  test("and comes back later is in force again", () => {
    const state = start();
    state.files({ "a.yaml": a, "b.yaml": b });
    state.files({ "b.yaml": b });
    state.clock.advance(VANISH);
    state.files({ "a.yaml": a, "b.yaml": b });
    expect(state.standings()).toEqual({ a: "current", b: "current" });
    expect(state.saved().vanished).toEqual([]);
  });

  test("while the daemon was away settles after the start", () => {
    const state = start({ lastGood: [{ file: "a.yaml", domains: [spec("a")] }] });
    state.files({ "b.yaml": b });
    expect(state.standings()).toEqual({ a: "settling", b: "current" });
    state.clock.advance(VANISH);
    expect(state.standings()).toEqual({ a: "vanished", b: "current" });
  });

  test("is not decided before it is known what is attached", () => {
    let known = false;
    const state = start({}, { attached: () => (known ? 0 : null) });
    state.files({ "a.yaml": a, "b.yaml": b });
    state.files({ "b.yaml": b });
    state.clock.advance(10 * VANISH);
    expect(state.standings()["a"]).toBe("settling");
    known = true;
    state.clock.advance(VANISH);
    expect(state.standings()["a"]).toBe("vanished");
  });

  test("a document edited out of a file settles too", () => {
    const state = start();
    state.files({ "all.yaml": read(spec("a"), spec("b")) });
    state.files({ "all.yaml": read(spec("b")) });
    expect(state.standings()).toEqual({ a: "settling", b: "current" });
    expect(start(state.saved()).saved().lastGood).toEqual([
      { file: "all.yaml", domains: [expect.objectContaining({ name: "a" }), expect.objectContaining({ name: "b" })] },
    ]);
    state.clock.advance(VANISH);
    expect(state.standings()).toEqual({ a: "vanished", b: "current" });
  });
});

describe("a move", () => {
  test("the same name in another file, at once or within the settle time", () => {
    const state = start();
    state.files({ "a.yaml": a, "b.yaml": b });
    state.files({ "sub/a2.yaml": a, "b.yaml": b });
    expect(state.standings()).toEqual({ a: "current", b: "current" });
    state.files({ "b.yaml": b });
    state.clock.advance(VANISH / 2);
    state.files({ "third.yaml": a, "b.yaml": b });
    state.clock.advance(10 * VANISH);
    expect(state.standings()).toEqual({ a: "current", b: "current" });
    expect(
      state
        .saved()
        .lastGood.map(({ file }) => file)
        .sort(),
    ).toEqual(["b.yaml", "third.yaml"]);
    expect(state.notes).toEqual([]);
  });

  test("into a file that is bad: the last good version stays in force", () => {
    const state = start();
    state.files({ "a.yaml": a, "b.yaml": b });
    state.files({ "a2.yaml": bad("a"), "b.yaml": b });
    state.clock.advance(10 * VANISH);
    expect(state.forced.get("a")).toMatchObject({ standing: "last-good", problems: ["f:2:3: it is bad; mend it"] });
    expect(state.forced.get("a")?.spec.devices).toHaveLength(1);
  });

  test("another metadata.name for the same domain is a rename: nothing of the old one is left, but what was left behind", () => {
    const state = start();
    const before = spec("a", { devices: [entry("dongle"), entry("stick", { onRemove: "leave" })] });
    state.files({ "a.yaml": read(before), "b.yaml": b });
    state.files({ "a.yaml": read(spec("a2", { target: { by: "name", name: "a" } })), "b.yaml": b });
    expect(state.standings()).toEqual({ a2: "current", b: "current" });
    expect(state.forced.get("a2")?.left.map(({ name }) => name)).toEqual(["stick"]);
    state.clock.advance(10 * VANISH);
    expect(state.standings()).toEqual({ a2: "current", b: "current" });
  });
});

describe("who speaks for a domain whose own file is bad", () => {
  test.each([
    ["by name", spec("a", { mark: { file: "a2.yaml", line: 3, column: 9 } })],
    ["by target", spec("other", { target: { by: "name", name: "a" }, mark: { file: "a2.yaml", line: 3, column: 9 } })],
  ])("is the second file of one domain, and bad (%s)", (_, second) => {
    const state = start();
    state.files({ "a.yaml": a, "b.yaml": b });
    state.files({ "a.yaml": bad(), "a2.yaml": read(second), "b.yaml": b });
    expect(state.forced.get("a")).toMatchObject({ standing: "last-good", spec: { mark: { file: "a.yaml" } } });
    expect(state.keeper.conditions()[0]?.message).toContain("a2.yaml:3:9: the domain is that of a.yaml too");
    state.files({ "a2.yaml": read(second), "b.yaml": b });
    expect(state.forced.get(second.name)).toMatchObject({ standing: "current", spec: { mark: { file: "a2.yaml" } } });
    state.clock.advance(10 * VANISH);
    expect(Object.keys(state.standings()).sort()).toEqual([second.name, "b"].sort());
  });
});

describe("entries edited out", () => {
  const both = read(spec("a", { devices: [entry("dongle"), entry("stick", { onRemove: "leave" })] }));
  test("are remembered where they said leave, over a restart, until the domain is clean or they are back", () => {
    const state = start();
    state.files({ "a.yaml": both });
    state.files({ "a.yaml": a });
    expect(state.forced.get("a")?.left.map(({ name }) => name)).toEqual(["stick"]);
    const next = start(state.saved());
    next.files({ "a.yaml": a });
    expect(next.forced.get("a")?.left.map(({ name }) => name)).toEqual(["stick"]);
    expect([...next.keeper.unclean]).toEqual(["a"]);
    next.files({ "a.yaml": both });
    expect(next.forced.get("a")?.left).toEqual([]);
    next.files({ "a.yaml": read(spec("a", { devices: [] })) });
    expect(next.forced.get("a")?.left.map(({ name }) => name)).toEqual(["stick"]);
    next.keeper.clean("a");
    expect(next.forced.get("a")).toMatchObject({ standing: "current", left: [] });
  });
  test("and given another name are claimed again", () => {
    const state = start();
    state.files({ "a.yaml": both });
    state.files({ "a.yaml": read(spec("a", { devices: [entry("dongle"), entry("memory", {}, "stick")] })) });
    expect(state.forced.get("a")?.left).toEqual([]);
  });
  test("while the file was away and has come back are edited out as well", () => {
    const state = start();
    state.files({ "a.yaml": both, "b.yaml": b });
    state.files({ "b.yaml": b });
    state.clock.advance(VANISH);
    state.files({ "a.yaml": a, "b.yaml": b });
    expect(state.forced.get("a")).toMatchObject({ standing: "current", left: [{ name: "stick" }] });
  });
});

describe("a tree that goes away as a whole", () => {
  test.each(["missing", "unreadable"] as const)("%s: never a decision, not even an approved one", (directory) => {
    const state = start();
    state.files({ "a.yaml": a, "b.yaml": b });
    state.keeper.reading({ directory, files: new Map() });
    expect(state.standings()).toEqual({ a: "held-back", b: "held-back" });
    expect(state.reasons()).toEqual([directory === "missing" ? "SpecsMissing" : "SpecsUnreadable"]);
    state.clock.advance(10 * VANISH);
    expect(state.keeper.approveMassDetach()).toBe(false);
    expect(state.standings()).toEqual({ a: "held-back", b: "held-back" });
    state.files({ "a.yaml": a, "b.yaml": b });
    expect(state.standings()).toEqual({ a: "current", b: "current" });
    expect([state.reasons(), state.clock.waiting]).toEqual([[], 0]);
  });

  test("missing in the middle of settling: what is away settles anew once it is back", () => {
    const state = start();
    state.files({ "a.yaml": a, "b.yaml": b });
    state.files({ "b.yaml": b });
    state.clock.advance(VANISH - 1);
    state.keeper.reading({ directory: "missing", files: new Map() });
    state.clock.advance(VANISH);
    state.files({ "b.yaml": b });
    state.clock.advance(VANISH - 1);
    expect(state.standings()).toEqual({ a: "settling", b: "current" });
    state.clock.advance(1);
    expect(state.standings()).toEqual({ a: "vanished", b: "current" });
  });

  test("gone empty waits for a person, who can make it a decision", () => {
    const state = start();
    state.files({ "a.yaml": a });
    state.files({});
    state.clock.advance(10 * VANISH);
    expect(state.standings()).toEqual({ a: "held-back" });
    expect(state.reasons()).toEqual(["SpecsEmpty"]);
    expect(state.keeper.approveMassDetach()).toBe(true);
    expect(state.standings()).toEqual({ a: "vanished" });
    expect(state.reasons()).toEqual([]);
    expect(state.keeper.approveMassDetach()).toBe(false);
  });

  test("empty from the start is nothing to speak of", () => {
    const state = start();
    state.files({});
    expect([state.reasons(), state.keeper.approveMassDetach()]).toEqual([[], false]);
  });

  test("empty after a restart is gone empty, not decided", () => {
    const state = start({ lastGood: [{ file: "a.yaml", domains: [spec("a")] }] });
    state.files({});
    state.clock.advance(10 * VANISH);
    expect(state.standings()).toEqual({ a: "held-back" });
  });
});

describe("the guard against mass detach", () => {
  const fleet = (...names: string[]) => Object.fromEntries(names.map((name) => [`${name}.yaml`, read(spec(name))]));
  const prepared = () => {
    const state = start();
    state.files(fleet("a", "b", "c", "d"));
    for (const name of ["a", "b", "c", "d"]) state.attached.set(name, 1);
    return state;
  };
  test("three devices and more than half: held back until approved", () => {
    const state = prepared();
    state.files(fleet("d"));
    state.clock.advance(VANISH);
    expect(state.standings()).toEqual({ a: "held-back", b: "held-back", c: "held-back", d: "current" });
    expect(state.reasons()).toEqual(["MassDetach"]);
    state.clock.advance(10 * VANISH);
    const next = start(state.saved());
    for (const name of ["a", "b", "c", "d"]) next.attached.set(name, 1);
    next.files(fleet("d"));
    next.clock.advance(VANISH);
    expect(next.reasons()).toEqual(["MassDetach"]);
    expect(next.keeper.approveMassDetach()).toBe(true);
    expect(next.standings()).toEqual({ a: "vanished", b: "vanished", c: "vanished", d: "current" });
    expect(next.reasons()).toEqual([]);
  });
  test("one after the other within the settle time counts together", () => {
    const state = prepared();
    state.files(fleet("b", "c", "d"));
    state.clock.advance(VANISH / 3);
    state.files(fleet("c", "d"));
    state.clock.advance(VANISH / 3);
    state.files(fleet("d"));
    state.clock.advance(VANISH);
    expect(state.reasons()).toEqual(["MassDetach"]);
    expect(Object.values(state.standings())).not.toContain("vanished");
  });
  test.each([
    ["two devices, though they are all", ["a", "b"], { a: 1, b: 1 }, {}],
    ["three of seven", ["a", "b", "c"], { a: 1, b: 1, c: 1, d: 4 }, {}],
    ["what is not pruned", ["a", "b", "c"], { a: 1, b: 1, c: 1, d: 1 }, { prune: "none" as const }],
    ["what is only observed", ["a", "b", "c"], { a: 1, b: 1, c: 1, d: 1 }, { mode: "observe" as const }],
  ])("lets %s go", (_, gone, attached, more) => {
    const state = start();
    const file = (name: string) => [`${name}.yaml`, read(spec(name, more))] as const;
    const all = Object.fromEntries(["a", "b", "c", "d"].map(file));
    state.files(all);
    for (const [name, n] of Object.entries(attached)) state.attached.set(name, n);
    state.files(Object.fromEntries(Object.entries(all).filter(([name]) => !gone.includes(name.replace(".yaml", "")))));
    state.clock.advance(VANISH);
    expect(gone.map((name) => state.standings()[name])).toEqual(gone.map(() => "vanished"));
  });
  test("files that come back are no longer held, and the rest is judged anew", () => {
    const state = prepared();
    state.files(fleet("d"));
    state.clock.advance(VANISH);
    state.files(fleet("a", "b", "d"));
    expect(state.standings()).toEqual({ a: "current", b: "current", c: "settling", d: "current" });
    state.clock.advance(VANISH - 1);
    expect(state.standings()["c"]).toBe("settling");
    state.clock.advance(1);
    expect(state.standings()["c"]).toBe("vanished");
    expect(state.reasons()).toEqual([]);
  });
});

test("changes name only what changed", () => {
  const state = start();
  state.files({ "a.yaml": a, "b.yaml": b });
  state.names.length = 0;
  state.files({ "a.yaml": a, "b.yaml": read(spec("b", { mode: "paused" })) });
  expect(state.names).toEqual(["b"]);
});
