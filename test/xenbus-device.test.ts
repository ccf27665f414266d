/** xenstored behind a character device: the client on a stand-in for the kernel's, and what the kernel's does that no stand-in can. */
import { spawn, spawnSync } from "node:child_process";
import {
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readlinkSync,
  readdirSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createXenbusTransport, type DeviceFile, openXenbus } from "../src/adapters/xenbus-device.ts";
import { createXenstoreClient, type WatchNews, type XenstoreChange } from "../src/adapters/xenstore-client.ts";
import { createXenstoreSession } from "../src/adapters/xenstore-session.ts";
import { connectXenstore, type XenbusPlace, xenstoreWay } from "../src/adapters/xenstore-transport.ts";
import { ok } from "../src/model/result.ts";
import { formatXenstorePacket } from "../src/protocol/xenstore.ts";
import { createFakeXenstored, type FakeXenstored } from "../src/sim/xenstored.ts";
import { compileInto } from "./support/compiled.ts";
import { quickTimings, realClock } from "./support/domains-rig.ts";
import { eventually } from "./support/eventually.ts";
import { strictLog } from "./support/logs.ts";

let dir: string;
let socket: string;
let device: string;
const open: (() => unknown)[] = [];
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "plugherd-xenbus-"));
  socket = join(dir, "hidden");
  device = join(dir, "xenbus");
});
afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close();
  rmSync(dir, { recursive: true, force: true });
});

const deps = { timings: quickTimings, clock: realClock, random: () => 0.1, log: strictLog };
/** As on a host that this system controls. */
const xenbus = (): XenbusPlace => {
  mkdirSync(join(dir, "proc/xen"), { recursive: true });
  writeFileSync(join(dir, "proc/xen/capabilities"), "control_d\n");
  return { device, proc: join(dir, "proc") };
};
const kindOf = (result: { ok: boolean; error?: { kind: string } }): string => result.error?.kind ?? "ok";

describe.skipIf(spawnSync("python3", ["--version"]).status !== 0)("a client whose socket is missing", () => {
  let daemon: FakeXenstored;
  const startDevice = async (): Promise<() => Promise<void>> => {
    const child = spawn("python3", ["test/support/pty-device.py", socket, device], { stdio: ["pipe", "inherit", "inherit"] });
    const ended = new Promise<void>((resolve) => void child.once("exit", () => resolve()));
    await eventually(() => existsSync(device));
    return async () => {
      child.stdin.destroy();
      await ended;
      rmSync(device, { force: true });
    };
  };
  const createClient = (path = join(dir, "socket")) => {
    const client = createXenstoreClient(path, { ...deps, xenbus: xenbus() });
    const told: XenstoreChange[] = [];
    client.changes$.subscribe((change) => told.push(change));
    client.start();
    open.push(() => client.close());
    return { ...client, told, up: (life = 1) => eventually(() => told.some((one) => one.kind === "up" && one.life === life)) };
  };
  beforeEach(async () => {
    daemon = createFakeXenstored({ path: socket });
    open.push(() => daemon.kill());
    await daemon.start();
  });

  test("reaches xenstored through the device: nodes, watches, transactions, many at once", async () => {
    open.push(await startDevice());
    const client = createClient();
    await client.up();
    const news: WatchNews[] = [];
    client.watch("/t").subscribe((one) => news.push(one));
    await eventually(() => news.length === 1);
    const done = await Promise.all(Array.from({ length: 300 }, (_, i) => client.write(`/t/${String(i)}`, "x".repeat(i))));
    expect(done.every((one) => one.ok)).toBe(true);
    expect(daemon.read("/t/299")).toBe("x".repeat(299));
    const names = await client.directory("/t");
    expect(names.ok && names.value).toHaveLength(300);
    await eventually(() => news.length > 1);
    const moved = await client.transaction(async (tx) => {
      const value = await tx.read("/t/7");
      await tx.write("/t/a", "7");
      return value.ok ? ok({ commit: true, value: value.value }) : value;
    });
    expect(moved).toEqual(ok("x".repeat(7)));
  });

  test("sends nothing that is longer than the kernel takes", async () => {
    open.push(await startDevice());
    const client = createClient();
    await client.up();
    expect(kindOf(await client.write("/t", "x".repeat(4080 - 3)))).toBe("ok");
    expect(kindOf(await client.write("/t", "x".repeat(4080 - 2)))).toBe("too-large");
  });

  test("uses the device that it was named, and the socket once there is one", async () => {
    const stop = await startDevice();
    open.push(stop);
    const client = createClient(device);
    await client.up();
    expect(await xenstoreWay(device, { device: "/none", proc: "/none" })).toEqual({ kind: "device", path: device });
    expect(await xenstoreWay(join(dir, "socket"), xenbus())).toEqual({ kind: "device", path: device });
    // A guest's own, of which nothing can be seen.
    expect((await xenstoreWay(join(dir, "socket"), { device, proc: "/none" })).kind).toBe("absent");
    expect(await xenstoreWay(socket, xenbus())).toEqual({ kind: "socket", path: socket });
    expect(await xenstoreWay(join(dir, "socket"), { ...xenbus(), device: dir })).toEqual({ kind: "absent", path: join(dir, "socket") });
  });

  test("loses it and finds it again, with its watches", async () => {
    const stop = await startDevice();
    const client = createClient();
    await client.up();
    const news: WatchNews[] = [];
    client.watch("/t").subscribe((one) => news.push(one));
    await eventually(() => news.length === 1);
    await stop();
    await eventually(() => client.told.at(-1)?.kind === "down");
    expect(kindOf(await client.read("/t"))).toBe("away");
    open.push(await startDevice());
    client.kick();
    await client.up(2);
    await eventually(() => news.length === 2);
  });

  test("leaves no connection and no reader behind when it is closed", async () => {
    open.push(await startDevice());
    const real = readlinkSync(device);
    const client = createClient();
    await client.up();
    expect(daemon.clients()).toBe(1);
    expect(holdersOf(real).length).toBeGreaterThan(1);
    client.close();
    await eventually(() => daemon.clients() === 0);
    await eventually(() => holdersOf(real).length === 0);
  });

  test("is absent where neither is there, and refused where the path is something else", async () => {
    const options = { xenbus: xenbus(), timeoutMs: 1_000, clock: realClock };
    expect(kindOf(await connectXenstore(join(dir, "socket"), options))).toBe("absent");
    writeFileSync(join(dir, "socket"), "");
    expect(kindOf(await connectXenstore(join(dir, "socket"), options))).toBe("dead");
    expect(kindOf(await openXenbus(join(dir, "none")))).toBe("absent");
  });
});

/** Processes, this one included, that have a file open. */
function holdersOf(path: string): readonly string[] {
  const pids = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  return pids.filter((pid) => {
    try {
      return readdirSync(`/proc/${pid}/fd`).some((fd) => {
        try {
          return readlinkSync(`/proc/${pid}/fd/${fd}`) === path;
        } catch {
          return false;
        }
      });
    } catch {
      return false;
    }
  });
}

describe("the kernel's device", () => {
  /** A pipe stands for what can be read from it; writes go to `taken`, each as the kernel would see it. */
  const createDevice = (answer: (bytes: Buffer) => number | string | Promise<number | string> = (bytes) => bytes.length) => {
    spawnSync("mkfifo", [device]);
    const fd = openSync(device, constants.O_RDWR);
    const taken: Buffer[] = [];
    let closed = 0;
    const file: DeviceFile = {
      fd,
      async write(bytes) {
        taken.push(Buffer.from(bytes));
        return answer(Buffer.from(bytes));
      },
      close() {
        closed += 1;
        closeSync(fd);
      },
    };
    const session = createXenstoreSession(createXenbusTransport(file, device), deps, () => undefined);
    open.push(() => session.close("the test is over"));
    const reply = (reqId: number, type: number, text: string): void => {
      writeSync(fd, formatXenstorePacket({ type, reqId, txId: 0, payload: Buffer.from(text) }));
    };
    return { session, taken, reply, closes: () => closed };
  };

  test("gets one message a write, one after the other", async () => {
    let inside = 0;
    const { session, taken, reply } = createDevice(async (bytes) => {
      inside += 1;
      expect(inside).toBe(1);
      await new Promise((resolve) => setImmediate(resolve));
      inside -= 1;
      return bytes.length;
    });
    const asked = ["/a", "/b", "/c"].map((path) => session.request({ op: "read", path }));
    await eventually(() => taken.length === 3);
    expect(taken.map((bytes) => [bytes.length, bytes.readUInt32LE(4), bytes.subarray(16).toString()])).toEqual([
      [19, 1, "/a\0"],
      [19, 2, "/b\0"],
      [19, 3, "/c\0"],
    ]);
    for (const id of [3, 1, 2]) reply(id, 2, String(id));
    const answers = await Promise.all(asked);
    expect(answers.map((one) => one.ok && Buffer.from(one.value).toString())).toEqual(["1", "2", "3"]);
  });

  test("may take a message in pieces", async () => {
    const { session, taken, reply } = createDevice(() => 10);
    const asked = session.request({ op: "read", path: "/abc" });
    await eventually(() => taken.length === 3);
    expect(taken.map(({ length }) => length)).toEqual([21, 11, 1]);
    reply(1, 2, "x");
    expect((await asked).ok).toBe(true);
  });

  test("may refuse by the write itself, and goes on", async () => {
    const { session, reply } = createDevice((bytes) => (bytes.readUInt32LE(0) === 4 ? "EINVAL" : bytes.length));
    expect(await session.request({ op: "watch", path: "/t", token: "p1" })).toEqual({
      ok: false,
      error: { kind: "refused", code: "EINVAL" },
    });
    const asked = session.request({ op: "read", path: "/t" });
    reply(2, 2, "x");
    expect((await asked).ok).toBe(true);
  });

  test("that is gone ends the connection, with what was asked unanswered", async () => {
    const { session, closes } = createDevice(() => "ENODEV");
    expect(await session.request({ op: "read", path: "/t" })).toMatchObject({ ok: false, error: { kind: "unanswered", sent: true } });
    expect(await session.closed).toContain("cannot be written any more (ENODEV)");
    expect(closes()).toBe(1);
  });

  test("is not closed while a write is under way, and then at once", async () => {
    let finish: (count: number) => void = () => undefined;
    const { session, taken, closes } = createDevice(() => new Promise((resolve) => (finish = resolve)));
    void session.request({ op: "read", path: "/t" });
    await eventually(() => taken.length === 1);
    session.close("enough");
    expect(await session.closed).toBe("enough");
    expect(closes()).toBe(0);
    finish(18);
    await eventually(() => closes() === 1);
  });

  test("that takes nothing is given up before all memory is full", async () => {
    const { session } = createDevice(() => new Promise(() => undefined));
    // Ends of transactions wait in no queue of the session's.
    for (let i = 0; i < 60_000; i += 1) void session.request({ op: "transaction-end", commit: true });
    expect(await session.closed).toContain("takes no more");
  });
});

test("the reader ends with the program that it reads for", async () => {
  spawnSync("mkfifo", [device]);
  const module = compileInto(join(dir, "js"), "src/adapters/xenbus-device.ts");
  const script = `
    const { openXenbus } = await import(${JSON.stringify(module)});
    const made = await openXenbus(${JSON.stringify(device)});
    made.value.take({ onBytes: () => undefined, onClose: () => undefined });`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", script], { stdio: "inherit" });
  const ended = new Promise((resolve) => void child.once("exit", resolve));
  await eventually(() => holdersOf(device).length === 2); // the program and the reader; the shell has let go of it
  child.kill("SIGKILL");
  await ended;
  await eventually(() => holdersOf(device).length === 0);
});
