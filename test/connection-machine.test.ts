/** The connection machine: its table of record, reachability, and time on a simulated clock. */
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { createActor, fromPromise, SimulatedClock, transition, waitFor } from "xstate";
import { getShortestPaths } from "xstate/graph";
import { parse } from "yaml";
import {
  type ConnectInput,
  type ConnectionContext,
  type ConnectionEvent,
  connectionMachine,
  jitteredReconnect,
  type Made,
  type NegotiateInput,
  type PeerProblem,
  type WatchInput,
} from "../src/machines/connection.ts";
import { err, ok } from "../src/model/result.ts";
import { defaultTimings as timings } from "../src/model/timings.ts";
import { answer, elapsed, rejection } from "./support/xstate.ts";

type Answer = { ok: true; value: string } | { ok: false; error: PeerProblem["kind"] };
type Row = {
  from: string;
  failures?: number;
  retired?: boolean;
  event?: ConnectionEvent["type"];
  answer?: Record<string, Answer | string>;
  rejection?: string;
  elapsed?: string;
  to: string;
  then?: { failures?: number; problem?: PeerProblem["kind"] | null; session?: string | null; retired?: boolean };
  why: string;
};
const rows = parse(readFileSync("specs/machines/connection.yaml", "utf8")) as Row[];

const outputOf = (given: Answer | string | undefined): unknown => {
  if (given === undefined || typeof given === "string") return given;
  return given.ok ? ok(given.value) : err({ kind: given.error, message: "because" });
};
const eventOf = (row: Row): ConnectionEvent => {
  if (row.event !== undefined) return { type: row.event };
  if (row.elapsed !== undefined) return elapsed(row.elapsed, "connection", row.from);
  if (row.rejection !== undefined) return rejection(row.rejection, new Error("bug"));
  const [actor = "", given] = Object.entries(row.answer ?? {})[0] ?? [];
  return answer(actor, outputOf(given));
};
const problemOf: Record<string, PeerProblem["kind"]> = { busy: "busy", backoff: "closed", dormant: "dead" };
const contextOf = ({ from, failures, retired }: Row): ConnectionContext => ({
  peer: "peer",
  timings,
  failures: failures ?? 0,
  retired: retired ?? false,
  problem: problemOf[from] === undefined ? null : { kind: problemOf[from], message: "because" },
  transport: from === "negotiating" ? "transport" : null,
  session: from === "ready" ? "session" : null,
});

describe("table", () => {
  test.each(rows)("$from: $event$answer$rejection$elapsed -> $to ($why)", (row) => {
    const before = connectionMachine.resolveState({ value: row.from, context: contextOf(row) });
    const [after] = transition(connectionMachine, before, eventOf(row));
    expect(after.value).toBe(row.to);
    if (row.then?.failures !== undefined) expect(after.context.failures).toBe(row.then.failures);
    if (row.then?.problem !== undefined) expect(after.context.problem?.kind ?? null).toBe(row.then.problem);
    if (row.then?.session !== undefined) expect(after.context.session).toBe(row.then.session);
    if (row.then?.retired !== undefined) expect(after.context.retired).toBe(row.then.retired);
  });

  test("every state can be reached, and the table has a row for each but the last", () => {
    const reached = getShortestPaths(connectionMachine, {
      input: { peer: "peer", timings },
      events: rows.map(eventOf),
      // Eight failures are as many as more.
      serializeState: ({ value, context }) => {
        const { problem, failures, retired } = context as ConnectionContext;
        return JSON.stringify([value, problem, Math.min(failures, 8), retired]);
      },
    }).map((path) => path.state.value);
    expect(new Set(reached)).toEqual(new Set(Object.keys(connectionMachine.states)));
    expect(new Set([...rows.map((row) => row.from), "stopped"])).toEqual(new Set(Object.keys(connectionMachine.states)));
  });
});

describe("time", () => {
  const away: Made = err({ kind: "absent", message: "not there" });
  const held: Made = err({ kind: "busy", message: "held" });
  const start = (connect: () => Promise<Made>, delays: Parameters<typeof connectionMachine.provide>[0]["delays"] = {}) => {
    const clock = new SimulatedClock();
    const ends: ((reason: string) => void)[] = [];
    const aborted: string[] = [];
    const machine = connectionMachine.provide({
      actors: {
        connect: fromPromise<Made, ConnectInput>(connect),
        negotiate: fromPromise<Made, NegotiateInput>(() => Promise.resolve(ok("session"))),
        watch: fromPromise<string, WatchInput>(({ input, signal }) => {
          signal.addEventListener("abort", () => aborted.push(String(input.session)));
          return new Promise((resolve) => ends.push(resolve));
        }),
      },
      delays,
    });
    const actor = createActor(machine, { input: { peer: "peer", timings }, clock }).start();
    return { clock, actor, ends, aborted };
  };

  test("a busy peer is tried for ever: the wait doubles with each failure up to its ceiling", async () => {
    const { clock, actor } = start(() => Promise.resolve(held));
    const waits: number[] = [];
    for (let i = 0; i < 9; i += 1) {
      await waitFor(actor, (s) => s.matches("busy"));
      const from = clock.now();
      while (actor.getSnapshot().matches("busy")) clock.increment(50);
      waits.push(clock.now() - from);
    }
    expect(waits).toEqual([50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
  });

  test("nobody there: tried until the wait would be at its ceiling, then never again by a timer", async () => {
    let tries = 0;
    const { clock, actor } = start(() => {
      tries += 1;
      return Promise.resolve(away);
    });
    for (let i = 0; i < 7; i += 1) {
      await waitFor(actor, (s) => s.matches("backoff"));
      clock.increment(timings.reconnectMaxMs);
    }
    await waitFor(actor, (s) => s.matches("dormant"));
    expect(tries).toBe(8);
    for (let i = 0; i < 100; i += 1) clock.increment(timings.reconnectMaxMs);
    expect(actor.getSnapshot().value).toBe("dormant");
    actor.send({ type: "AUDIT" });
    await waitFor(actor, (s) => s.matches("dormant"));
    expect(tries).toBe(9);
    actor.send({ type: "NUDGE" });
    await waitFor(actor, (s) => s.matches("backoff"));
    expect(actor.getSnapshot().context.failures).toBe(1);
  });

  test("with jitter it waits a part of that", async () => {
    const { clock, actor } = start(
      () => Promise.resolve(away),
      jitteredReconnect(() => 0.5),
    );
    await waitFor(actor, (s) => s.matches("backoff"));
    clock.increment(24);
    expect(actor.getSnapshot().value).toBe("backoff");
    clock.increment(1);
    expect(actor.getSnapshot().value).toBe("connecting");
  });

  test("a nudge cuts the wait short", async () => {
    const answers: Made[] = [away, ok("transport")];
    const { actor } = start(() => Promise.resolve(answers.shift() ?? away));
    await waitFor(actor, (s) => s.matches("backoff"));
    actor.send({ type: "NUDGE" });
    await waitFor(actor, (s) => s.matches("ready"));
    expect(actor.getSnapshot().context).toMatchObject({ session: "session", problem: null });
  });

  test("a session that ends soon counts as a failure, one that lasted does not", async () => {
    const { clock, actor, ends } = start(() => Promise.resolve(ok("transport")));
    for (const failures of [1, 2]) {
      await waitFor(actor, (s) => s.matches("ready"));
      ends.pop()?.("the peer closed the connection");
      await waitFor(actor, (s) => s.matches("backoff"));
      expect(actor.getSnapshot().context.failures).toBe(failures);
      clock.increment(timings.reconnectMaxMs);
    }
    await waitFor(actor, (s) => s.matches("ready"));
    clock.increment(timings.reconnectMaxMs);
    expect(actor.getSnapshot().context.failures).toBe(0);
  });

  test("a peer that takes no connection is given up in time, and its late answer is not heard", async () => {
    let late: ((made: Made) => void) | undefined;
    const { clock, actor } = start(() => new Promise((resolve) => (late = resolve)));
    clock.increment(timings.connectMs);
    expect(actor.getSnapshot().value).toBe("backoff");
    late?.(ok("transport"));
    await Promise.resolve();
    expect(actor.getSnapshot().value).toBe("backoff");
  });

  test("stopping closes what is open and ends the machine", async () => {
    const { actor, aborted } = start(() => Promise.resolve(ok("transport")));
    await waitFor(actor, (s) => s.matches("ready"));
    actor.send({ type: "STOP" });
    expect(actor.getSnapshot().status).toBe("done");
    expect(aborted).toEqual(["session"]);
  });
});
