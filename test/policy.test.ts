/** The host policy: what a file says, and the file watched. */
import { mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Subscription } from "rxjs";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createPolicyFile } from "../src/adapters/policy-file.ts";
import { formatProblem, readSpec } from "../src/adapters/spec-reading.ts";
import type { Clock } from "../src/model/contracts.ts";
import { type HostPolicy, openPolicy, type PolicyState } from "../src/model/policy.ts";
import { eventually } from "./support/eventually.ts";
import { readFileSync } from "node:fs";
import { silentLog } from "./support/logs.ts";

const clock: Clock = {
  now: () => Date.now(),
  setTimeout: (fn, ms) => setTimeout(fn, ms),
  clearTimeout: (handle) => clearTimeout(handle as NodeJS.Timeout),
};
const text = (answer: "allow" | "deny", more = ""): string => `apiVersion: plugherd/v1\nkind: HostPolicy\ndefault: ${answer}\n${more}`;
const denying: HostPolicy = { ...openPolicy, default: "deny" };

describe("what a policy says", () => {
  test("the example", () => {
    const { policies, problems } = readSpec("policy.yaml", readFileSync("specs/examples/policy.yaml"), ["HostPolicy"]);
    expect(problems).toEqual([]);
    expect(policies).toEqual([
      {
        default: "allow",
        onIdentityChange: "quarantine",
        rules: [
          {
            name: "kvm-switch",
            verdict: "allow",
            match: expect.objectContaining({ vendor: "046d", product: "c31c" }) as unknown,
            domain: "lab-*",
            lift: ["input"],
            mark: { file: "policy.yaml", line: 8, column: 5 },
          },
          {
            name: "no-modems",
            verdict: "deny",
            match: expect.objectContaining({ anyInterface: { class: 2, subclass: null, protocol: null } }) as unknown,
            domain: null,
            lift: [],
            mark: { file: "policy.yaml", line: 12, column: 5 },
          },
        ],
      },
    ]);
  });
  test("nothing but its head is a policy that denies nothing of its own", () => {
    expect(readSpec("p", new TextEncoder().encode("apiVersion: plugherd/v1\nkind: HostPolicy\nrules:\n"), ["HostPolicy"]).policies).toEqual(
      [openPolicy],
    );
  });
  test("a desired state is none", () => {
    const { problems } = readSpec("p", readFileSync("specs/examples/minimal.yaml"), ["HostPolicy"]);
    expect(problems.map(formatProblem)).toEqual(["p:3:7: a Domain is no policy; keep it in the desired-state tree, where --specs says"]);
  });
});

describe("the file, watched", () => {
  let base = "";
  let file = "";
  let states: PolicyState[] = [];
  let subscription: Subscription | undefined;
  beforeEach(() => {
    base = mkdtempSync(join(tmpdir(), "plugherd-policy-"));
    mkdirSync(join(base, "etc"));
    file = join(base, "etc/policy.yaml");
    states = [];
  });
  afterEach(() => {
    subscription?.unsubscribe();
    rmSync(base, { recursive: true, force: true });
  });
  const watch = (lastGood: HostPolicy | null = null, fileSettleMs = 150): void => {
    subscription = createPolicyFile({
      path: file,
      lastGood,
      timings: { fileSettleMs, auditMs: 3_600_000 },
      clock,
      log: silentLog,
    }).policy$.subscribe((state) => void states.push(state));
  };
  const last = (): PolicyState | undefined => states.at(-1);
  const becomes = (answer: "allow" | "deny"): Promise<true> =>
    eventually(() => {
      expect(last()).toMatchObject({ kind: "valid", policy: { default: answer }, problems: [] });
      return true;
    });
  const replace = (content: string): void => {
    writeFileSync(`${file}.tmp`, content);
    renameSync(`${file}.tmp`, file);
  };

  test("missing is open; then made, written in place, replaced, removed", async () => {
    watch();
    await becomes("allow");
    replace(text("deny"));
    await becomes("deny");
    writeFileSync(file, text("allow"));
    await becomes("allow");
    replace(text("deny", "# again\n"));
    await becomes("deny");
    rmSync(file);
    await becomes("allow");
    expect(states).toHaveLength(5);
  });

  test("bad at the start with no last good version is invalid; mended, it counts", async () => {
    writeFileSync(file, text("deny", "rule: []\n"));
    watch();
    await eventually(() => states.length === 1);
    expect(states).toEqual([{ kind: "invalid", problems: [`${file}:4:1: unknown key "rule"; did you mean "rules"?`] }]);
    replace(text("deny"));
    await becomes("deny");
  });

  test("bad at the start: the last good version of an earlier run stays", async () => {
    writeFileSync(file, "[");
    watch(denying);
    await eventually(() => states.length === 1);
    expect(states[0]).toMatchObject({ kind: "valid", policy: denying, problems: [expect.stringContaining(`${file}:`)] });
  });

  test("bad later: the last good one stays, with the problems beside it", async () => {
    writeFileSync(file, text("deny"));
    watch();
    await becomes("deny");
    replace(`${text("allow")}---\n${text("allow")}`);
    await eventually(() => states.length === 2);
    expect(last()).toEqual({
      kind: "valid",
      policy: expect.objectContaining({ default: "deny" }) as unknown,
      problems: [`${file}:1:1: the file holds several policies; keep one`],
    });
    replace(text("deny"));
    await becomes("deny");
  });

  test("in a mounted volume, swapped at once", async () => {
    file = join(base, "etc/policy.yaml");
    for (const [name, answer] of [
      ["..1", "deny"],
      ["..2", "allow"],
    ] as const) {
      mkdirSync(join(base, "etc", name));
      writeFileSync(join(base, "etc", name, "policy.yaml"), text(answer));
    }
    symlinkSync("..1", join(base, "etc/..data"));
    symlinkSync("..data/policy.yaml", file);
    watch(null, 3_600_000);
    await becomes("deny");
    symlinkSync("..2", join(base, "etc/..new"));
    renameSync(join(base, "etc/..new"), join(base, "etc/..data"));
    await becomes("allow");
  });

  test("its directory missing is no decision where there is a last good version; there is one when it comes back", async () => {
    writeFileSync(file, text("deny"));
    watch();
    await becomes("deny");
    renameSync(join(base, "etc"), join(base, "away"));
    await eventually(() => states.length === 2);
    expect(last()).toMatchObject({
      kind: "valid",
      policy: { default: "deny" },
      problems: [expect.stringContaining("the directory is missing")],
    });
    renameSync(join(base, "away"), join(base, "etc"));
    await becomes("deny");
    replace(text("allow"));
    await becomes("allow");
  });

  test("a pipe in its place does not block", async () => {
    mkdirSync(file);
    watch(denying);
    await eventually(() => states.length === 1);
    expect(last()).toMatchObject({ kind: "valid", policy: denying, problems: [expect.stringContaining("cannot be read")] });
  });
});
