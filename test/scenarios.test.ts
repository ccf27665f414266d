/** Every scenario of specs/scenarios through the real app: real sockets, real directories, small timings. */
import { readdirSync, readFileSync } from "node:fs";
import { afterEach, describe, expect, test } from "vitest";
import { readScenarios } from "../src/sim/scenario.ts";
import { createRig, type Rig, scenarioPath } from "./support/rig.ts";

let rig: Rig | null = null;
afterEach(async () => {
  await rig?.close();
  rig = null;
});

describe.each(readdirSync(scenarioPath("")).filter((name) => name.endsWith(".yaml")))("%s", (file) => {
  const read = readScenarios(readFileSync(scenarioPath(file), "utf8"), scenarioPath(file));
  test("reads", () => expect(read.ok ? [] : read.error).toEqual([]));
  for (const scenario of read.ok ? read.value : []) {
    test(scenario.name, async () => {
      rig = await createRig(scenario.given);
      await rig.play(scenario);
    });
  }
});
