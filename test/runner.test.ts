/** The runner of claims' machines: what it tells of an action while it lasts. */
import { expect, test } from "vitest";
import { SimulatedClock } from "xstate";
import { createRunner, type Progress } from "../src/controller/claims.ts";
import type { Attached, Outcome, Place } from "../src/model/action.ts";
import type { HostDevice } from "../src/model/hostdev.ts";
import { instanceOf } from "../src/model/hostdev.ts";
import { ok } from "../src/model/result.ts";
import { defaultTimings } from "../src/model/timings.ts";

const device = { busid: "1-1", bus: 1, address: 5, inode: 105 } as HostDevice;
const place: Place = { domain: "win10#1", device, bus: "xhci.0", port: 1, create: null };
const attached: Attached = { domain: "win10#1", path: "/machine/peripheral/x", bus: "xhci.0", port: 1, instance: instanceOf(device) };
const ID = "win10/stick";

test("the step of an action is told while it lasts, and a machine at rest is none", async () => {
  let finish: (outcome: Outcome) => void = () => undefined;
  let onStep: (step: string) => void = () => undefined;
  const told: (Progress | null)[] = [];
  const clock = new SimulatedClock();
  const runner = createRunner({
    clock: {
      now: () => clock.now(),
      setTimeout: (fn, ms) => clock.setTimeout(fn, ms),
      clearTimeout: (handle) => clock.clearTimeout(handle as number),
    },
    random: () => 0.5,
    timings: defaultTimings,
    attach: (_id, _place, _signal, step) => {
      onStep = step;
      step("making controller hci0");
      return new Promise((resolve) => {
        finish = resolve;
      });
    },
    detach: () => Promise.resolve(ok(null)),
    onProgress: (id) => told.push(runner.progress(id)),
  });
  runner.plan(ID, "win10#1", place, null);
  expect(runner.progress(ID)).toMatchObject({ state: "attaching", step: "making controller hci0" });
  onStep("attaching to port 1 of xhci.0");
  expect(told.at(-1)).toMatchObject({ state: "attaching", step: "attaching to port 1 of xhci.0" });
  finish(ok(attached));
  await new Promise((resolve) => setImmediate(resolve));
  expect(runner.progress(ID)).toBeNull();
  const tellings = told.length;
  onStep("too late");
  expect(told).toHaveLength(tellings);
});
