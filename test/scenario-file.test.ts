/** Scenario files: the reader and specs/scenario.schema.json say the same of them. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Ajv2020 } from "ajv/dist/2020.js";
import { describe, expect, test } from "vitest";
import { parse, parseAllDocuments } from "yaml";
import { readScenarios } from "../src/sim/scenario-file.ts";

const DIR = "specs/scenarios";
const validate = new Ajv2020({ strict: true, strictRequired: false, allErrors: true }).compile(
  JSON.parse(readFileSync("specs/scenario.schema.json", "utf8")) as Record<string, unknown>,
);
const files = readdirSync(DIR).filter((name) => name.endsWith(".yaml"));

describe.each(files)("%s", (name) => {
  const content = readFileSync(join(DIR, name), "utf8");
  test("is valid by the schema", () => {
    for (const document of parseAllDocuments(content)) {
      validate(document.toJS());
      expect(validate.errors ?? []).toEqual([]);
    }
  });
  test("reads, and no two of its scenarios have one name", () => {
    const read = readScenarios(content, name);
    expect(read.ok ? [] : read.error).toEqual([]);
    const names = read.ok ? read.value.map((scenario) => scenario.name) : [];
    expect(new Set(names).size).toBe(names.length);
  });
});

const broken = (steps: string, given = "{}"): string => `name: n\nabout: a\ngiven: ${given}\nsteps:\n${steps}\n`;
test.each([
  ["an unknown verb", broken("  - plugg: { busid: 1-1, kind: stick }"), "x.yaml:5: steps.0.plugg is no verb"],
  ["a key too many", broken("  - plug: { busid: 1-1, kind: stick, colour: red }"), "x.yaml:5: steps.0.plug.colour is unknown; known are"],
  ["no busid", broken("  - mark: true\n  - plug: { kind: stick }"), 'x.yaml:6: steps.1.plug needs "busid"'],
  ["a bad phase", broken("  - expect: { claims: { a/b: attached } }"), "x.yaml:5: steps.0.expect.claims.a/b must be Phase, Phase/Reason"],
  [
    "an unknown kind",
    broken("  - mark: true", "{ host: [{ busid: 1-1, kind: toaster }] }"),
    "x.yaml:3: given.host.0.kind must be one of dongle",
  ],
  [
    "inside a repeat",
    broken("  - repeat: { times: 2, steps: [{ unplug: one }] }"),
    "x.yaml:5: steps.0.repeat.steps.0.unplug must be a busid",
  ],
  ["a step that says nothing", broken('  - at: "00:01:00"'), "x.yaml:5: steps.0 needs a verb"],
])("refuses %s and says where", (_, content, message) => {
  const read = readScenarios(content, "x.yaml");
  expect(read.ok ? "" : read.error.join("\n")).toContain(message);
  expect(validate(parse(content))).toBe(false);
});

test("two verbs in one step are refused", () => {
  const read = readScenarios(broken("  - { mark: true, unplug: 1-1 }"), "x.yaml");
  expect(read.ok ? "" : read.error.join("\n")).toContain("has several verbs: mark, unplug");
});

test("a mapping in place of a text is a file that names its domain like itself", () => {
  const read = readScenarios(broken("  - mark: true", "{ files: { site/lab.yaml: { devices: [] } } }"), "x.yaml");
  const text = read.ok ? (read.value[0]?.given.files?.["site/lab.yaml"] ?? "") : "";
  expect(parse(text)).toEqual({
    apiVersion: "plugherd/v1",
    kind: "Domain",
    metadata: { name: "lab" },
    spec: { domain: { name: "lab" }, devices: [] },
  });
});
