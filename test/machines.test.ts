/** The claim machine: its table of record, reachability, and time on a simulated clock. */
import { readFileSync } from "node:fs";
import { createActor, fromPromise, SimulatedClock, transition, waitFor } from "xstate";
import { getShortestPaths } from "xstate/graph";
import { describe, expect, test } from "vitest";
import { parse } from "yaml";
import { type AttachInput, type ClaimContext, type ClaimEvent, claimMachine, type DetachInput } from "../src/machines/claim.ts";
import type { ActionError, Attached, Outcome, Place } from "../src/model/action.ts";
import { type HostDevice, instanceOf } from "../src/model/hostdev.ts";
import { err, ok } from "../src/model/result.ts";
import { defaultTimings } from "../src/model/timings.ts";
import type { Target } from "../src/model/world.ts";

const device = (address: number): HostDevice => ({
  busid: "1-1",
  anchor: null,
  bus: 1,
  address,
  inode: address,
  node: `/dev/bus/usb/001/00${String(address)}`,
  vendor: "0529",
  product: "0001",
  deviceClass: null,
  interfaces: null,
  speed: 12,
  serial: null,
  manufacturer: null,
  productName: null,
  removable: null,
  hub: false,
  drivers: [],
});
const place = (address: number, port: number): Place => ({ domain: "win10#1", device: device(address), bus: "hci0.0", port, create: null });
const places: Record<string, Place> = { p1: place(5, 1), p2: place(5, 2), q1: place(6, 1) };
const attachedAt = ({ domain, device, bus, port }: Place): Attached => ({
  domain,
  path: `/machine/peripheral/plugherd-1-${String(device.address)}-${String(device.inode)}`,
  bus,
  port,
  instance: instanceOf(device),
});
const targetOf = (name: string | null): Target => (name === "stay" || name === null ? name : (places[name] ?? null));
const attachedOf = (name: string | null | undefined): Attached | null => {
  const found = name == null ? undefined : places[name];
  return found === undefined ? null : attachedAt(found);
};

type Answer = { ok: true; value: string | null } | { ok: false; error: { kind: ActionError["kind"]; reason: string } };
type Row = {
  from: string;
  at: string | null;
  seen?: string | null;
  target: string | null;
  failures?: number;
  stale?: boolean;
  event?: { type: string; target?: string | null; owned?: string | null };
  answer?: { attach?: Answer; detach?: Answer };
  elapsed?: string;
  to: string;
  why: string;
};
const rows = parse(readFileSync("specs/machines/claim.yaml", "utf8")) as Row[];
const outcomeOf = (answer: Answer): Outcome => (answer.ok ? ok(attachedOf(answer.value)) : err({ ...answer.error, message: "because" }));

/** xstate's names for what happens inside. */
const eventOf = (row: Row): ClaimEvent => {
  if (row.event?.type === "PLAN") return { type: "PLAN", target: targetOf(row.event.target ?? null), owned: attachedOf(row.event.owned) };
  if (row.event !== undefined) return { type: row.event.type } as ClaimEvent;
  if (row.elapsed !== undefined) return { type: `xstate.after.${row.elapsed}.claim.${row.from}` } as unknown as ClaimEvent;
  const [actor, answer] = Object.entries(row.answer ?? {})[0] ?? [];
  return { type: `xstate.done.actor.${String(actor)}`, output: outcomeOf(answer as Answer) } as unknown as ClaimEvent;
};
const contextOf = (row: Row): ClaimContext => ({
  id: "win10/dongle",
  timings: defaultTimings,
  at: attachedOf(row.at),
  seen: attachedOf(row.seen === undefined ? row.at : row.seen),
  target: targetOf(row.target),
  failures: row.failures ?? (row.from === "backoff" || row.from === "stalled" ? 1 : 0),
  problem:
    row.from === "backoff"
      ? { kind: "transient", reason: "PortBusy", message: "" }
      : row.from === "stalled"
        ? { kind: "terminal", reason: "NoController", message: "" }
        : null,
  stale: row.stale ?? false,
});

describe("table", () => {
  test.each(rows)("$from, $target: $event$answer$elapsed -> $to ($why)", (row) => {
    const before = claimMachine.resolveState({ value: row.from, context: contextOf(row) });
    const [after] = transition(claimMachine, before, eventOf(row));
    expect(after.value).toBe(row.to);
  });

  test("every state can be reached, and the table has a row for each", () => {
    const events = rows.map(eventOf);
    const reached = getShortestPaths(claimMachine, {
      input: { id: "win10/dongle", timings: defaultTimings, at: null },
      events,
      serializeState: (state) =>
        JSON.stringify([state.value, { ...state.context, failures: Math.min(5, (state.context as ClaimContext).failures) }]),
    }).map((path) => path.state.value);
    const lasting = Object.keys(claimMachine.states).filter((state) => state !== "settle");
    expect(new Set(reached)).toEqual(new Set(lasting));
    expect(new Set(rows.map((row) => row.from))).toEqual(new Set(lasting));
  });
});

describe("time", () => {
  const start = (attach: (input: AttachInput) => Promise<Outcome>) => {
    const clock = new SimulatedClock();
    const machine = claimMachine.provide({
      actors: {
        attach: fromPromise<Outcome, AttachInput>(({ input }) => attach(input)),
        detach: fromPromise<Outcome, DetachInput>(() => Promise.resolve(ok(null))),
      },
    });
    const actor = createActor(machine, { input: { id: "win10/dongle", timings: defaultTimings, at: null }, clock }).start();
    return { clock, actor };
  };
  const p1 = place(5, 1);
  const busy = err({ kind: "transient", reason: "PortBusy", message: "" } as const);

  test("tries again after the backoff, with no real time passing", async () => {
    const answers: Outcome[] = [busy, ok(attachedAt(p1))];
    const { clock, actor } = start(() => Promise.resolve(answers.shift() ?? ok(null)));
    actor.send({ type: "PLAN", target: p1, owned: null });
    await waitFor(actor, (s) => s.matches("backoff"));
    clock.increment(99);
    expect(actor.getSnapshot().value).toBe("backoff");
    clock.increment(1);
    await waitFor(actor, (s) => s.matches("attached"));
  });

  test("the wait doubles with each failure and ends at the ceiling", async () => {
    const { clock, actor } = start(() => Promise.resolve(busy));
    actor.send({ type: "PLAN", target: p1, owned: null });
    const waits: number[] = [];
    for (let i = 0; i < 12; i += 1) {
      await waitFor(actor, (s) => s.matches("backoff"));
      const from = clock.now();
      while (actor.getSnapshot().matches("backoff")) clock.increment(100);
      waits.push(clock.now() - from);
    }
    expect(waits.slice(0, 9)).toEqual([100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600]);
    expect(waits.at(-1)).toBe(defaultTimings.backoffMaxMs);
  });

  test("an action that never answers ends at its time-out, and its late answer is not heard", async () => {
    let late: ((outcome: Outcome) => void) | undefined;
    const { clock, actor } = start(() => new Promise((resolve) => (late = resolve)));
    actor.send({ type: "PLAN", target: p1, owned: null });
    clock.increment(defaultTimings.actionMs);
    expect(actor.getSnapshot().value).toBe("backoff");
    late?.(ok(attachedAt(p1)));
    await Promise.resolve();
    expect(actor.getSnapshot().value).toBe("backoff");
  });
});
