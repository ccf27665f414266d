/** The peer behind one socket file: when it is tried, when it is left alone, and that nothing is left open. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { createGate } from "../src/adapters/gate.ts";
import { createMonitorPeers, type MonitorPeer } from "../src/adapters/monitor-peer.ts";
import type { Clock, DomainChange } from "../src/model/contracts.ts";
import { createFakeQemu } from "../src/sim/qmp-server.ts";
import { quickTimings, realClock } from "./support/domains-rig.ts";
import { eventually } from "./support/eventually.ts";

let dir: string;
let path: string;
const open: (() => unknown)[] = [];
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "plugherd-peer-"));
  path = join(dir, "win10.sock");
});
afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close();
  rmSync(dir, { recursive: true, force: true });
});

/** A clock that tells how many of its timers are set. */
const countingClock = (): Clock & { readonly waiting: () => number } => {
  const timers = new Set<unknown>();
  return {
    ...realClock,
    setTimeout: (fn, ms) => {
      const timer = realClock.setTimeout(() => {
        timers.delete(timer);
        fn();
      }, ms);
      timers.add(timer);
      return timer;
    },
    clearTimeout: (timer) => {
      timers.delete(timer);
      realClock.clearTimeout(timer);
    },
    waiting: () => timers.size,
  };
};

type Rig = {
  readonly peer: MonitorPeer;
  readonly clock: ReturnType<typeof countingClock>;
  /** How each try that led to no session ended. */
  readonly refusals: string[];
  readonly changes: DomainChange[];
  readonly told: string[];
  shown(): string | null;
};
const createRig = (): Rig => {
  const clock = countingClock();
  const refusals: string[] = [];
  const changes: DomainChange[] = [];
  const told: string[] = [];
  let lives = 0;
  const createPeer = createMonitorPeers({
    timings: quickTimings,
    clock,
    random: () => 0.1,
    log: {
      debug: (_, fields) => {
        if (fields?.["kind"] !== undefined) refusals.push(String(fields["kind"]));
      },
      info: () => undefined,
      warn: () => undefined,
      error: (message) => told.push(message),
    },
    hostdevice: false,
    drivers: new Map(),
    listings: createGate(1),
  });
  const peer = createPeer({
    path,
    name: "win10",
    nextKey: () => {
      lives += 1;
      return `win10#${String(lives)}`;
    },
    emit: (change) => changes.push(change),
    onLife: (key, domain) => told.push(`${key} ${domain === null ? "ends" : "begins"}`),
    onFirst: () => told.push("first"),
    onEnd: () => told.push("end"),
  });
  open.push(() => peer.close());
  const shown = (): string | null => {
    const last = changes.at(-1);
    return last?.kind === "domain" ? `${last.domain.key} ${last.domain.monitorState}` : null;
  };
  return { peer, clock, refusals, changes, told, shown };
};
const startQemu = async (): Promise<{ kill(): Promise<void> }> => {
  const qemu = createFakeQemu({ name: "win10", path, version: "7.2.22", hostDevices: () => [] });
  await qemu.start();
  open.push(() => qemu.kill());
  return qemu;
};
/** A monitor that somebody else holds: it takes connections and says nothing. */
const startHeld = async (): Promise<{ readonly sockets: Set<Socket>; close(): Promise<void> }> => {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => undefined);
    socket.on("close", () => sockets.delete(socket));
    socket.resume();
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  const close = async (): Promise<void> => {
    for (const socket of sockets) socket.destroy();
    await new Promise<void>((resolve) => server.close(() => resolve()));
  };
  open.push(() => (server.listening ? close() : undefined));
  return { sockets, close };
};
const dormant = ({ refusals, clock }: Rig, tries: number): Promise<boolean> =>
  eventually(() => refusals.length === tries && clock.waiting() === 0);

test.each([
  ["left behind", "dead"],
  ["not there", "absent"],
])("a socket that is %s is left alone by every timer, tried once an audit, and afresh after a file event", async (_, kind) => {
  if (kind === "dead") writeFileSync(path, ""); // connecting to it is refused as to a dead socket
  const rig = createRig();
  rig.peer.start();
  await dormant(rig, 5); // ceilings of 10, 20, 40, 80 ms; the next would be reconnectMaxMs
  expect(rig.told).toEqual(["first"]);
  rig.peer.audit();
  await dormant(rig, 6);
  rig.peer.kick();
  await dormant(rig, 11);
  expect(new Set(rig.refusals)).toEqual(new Set([kind]));
  expect(rig.changes).toEqual([]);
});

test("a QEMU whose coming no file event told of is found by the audit", async () => {
  const rig = createRig();
  rig.peer.start();
  await dormant(rig, 5);
  await startQemu();
  rig.peer.audit();
  await eventually(() => rig.shown() === "win10#1 answering");
  rig.peer.audit(); // nothing to try
  expect(rig.told).toEqual(["first", "win10#1 begins"]);
});

test("a QEMU that is killed is gone at once, and its socket is left alone soon after", async () => {
  const qemu = await startQemu();
  const rig = createRig();
  rig.peer.start();
  await eventually(() => rig.shown() === "win10#1 answering");
  await qemu.kill();
  await eventually(() => rig.changes.at(-1)?.kind === "gone");
  await eventually(() => rig.refusals.length > 0 && rig.clock.waiting() === 0);
  expect(rig.told).toEqual(["win10#1 begins", "first", "win10#1 ends"]);
});

test("a held monitor is shown as busy under one key and tried for as long as it is there", async () => {
  const held = await startHeld();
  const rig = createRig();
  rig.peer.start();
  await eventually(() => rig.refusals.length >= 6); // more than an absent one would get
  expect(new Set(rig.refusals)).toEqual(new Set(["busy"]));
  expect(rig.changes).toHaveLength(1);
  expect(rig.shown()).toBe("win10#1 busy");
  await held.close();
  await eventually(() => rig.changes.at(-1)?.kind === "gone");
});

test("retired while it is tried: the try ends, what it showed goes, and nothing comes after", async () => {
  const held = await startHeld();
  const rig = createRig();
  rig.peer.start();
  await eventually(() => rig.shown() === "win10#1 busy" && held.sockets.size === 1);
  rig.peer.retire();
  await eventually(() => rig.told.includes("end"));
  expect(rig.changes.at(-1)).toEqual({ kind: "gone", key: "win10#1" });
  await eventually(() => held.sockets.size === 0);
  rig.peer.kick();
  expect(rig.clock.waiting()).toBe(0);
});

test("retired while it serves: its life goes on until it ends", async () => {
  const qemu = await startQemu();
  const rig = createRig();
  rig.peer.start();
  await eventually(() => rig.shown() === "win10#1 answering");
  rig.peer.retire();
  expect(rig.told).not.toContain("end");
  await qemu.kill();
  await eventually(() => rig.told.includes("end"));
  expect(rig.changes.at(-1)).toEqual({ kind: "gone", key: "win10#1" });
});

test.each(["negotiating", "ready"])("closed while %s: the connection and every timer go, and nothing is told", async (state) => {
  const held = state === "negotiating" ? await startHeld() : null;
  if (held === null) await startQemu();
  const rig = createRig();
  rig.peer.start();
  await eventually(() => (held === null ? rig.shown() === "win10#1 answering" : held.sockets.size === 1));
  const before = rig.changes.length;
  rig.peer.close();
  await eventually(() => rig.clock.waiting() === 0 && (held?.sockets.size ?? 0) === 0);
  expect(rig.told.filter((line) => line === "end")).toHaveLength(1);
  expect(rig.changes).toHaveLength(before);
});
