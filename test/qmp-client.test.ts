/** The QMP client against the fake QEMU over real sockets, and against servers that are no QEMU at all. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { adoptQmp, MAX_IN_FLIGHT, MAX_QUEUED, openQmp, type QmpSession } from "../src/adapters/qmp-client.ts";
import type { Clock } from "../src/model/contracts.ts";
import { MAX_LINE_BYTES, type QmpEvent } from "../src/protocol/qmp.ts";
import { createFakeQemu, type FakeQemu, type FakeQemuOptions } from "../src/sim/qmp-server.ts";
import { eventually } from "./support/eventually.ts";

const timers = new Set<unknown>();
const clock: Clock = {
  now: () => Date.now(),
  setTimeout(fn, ms) {
    const timer = setTimeout(() => {
      timers.delete(timer);
      fn();
    }, ms);
    timers.add(timer);
    return timer;
  },
  clearTimeout(timer) {
    timers.delete(timer);
    clearTimeout(timer as NodeJS.Timeout);
  },
};
const patient = { timings: { connectMs: 10_000, greetingMs: 10_000, commandMs: 10_000 }, clock };
const hasty = { timings: { connectMs: 10_000, greetingMs: 60, commandMs: 60 }, clock };

let dir = "";
let path = "";
const closers: (() => unknown)[] = [];
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "plugherd-qmp-"));
  path = join(dir, "vm.sock");
});
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
  rmSync(dir, { recursive: true });
  expect(timers.size).toBe(0);
});

const xhci = { driver: "qemu-xhci", id: "xhci" };
const boot = async (options: FakeQemuOptions = {}): Promise<FakeQemu> => {
  const qemu = createFakeQemu({ path, devices: [xhci], delays: { deletedMs: 1, refusalMs: 1 }, ...options });
  await qemu.start();
  closers.push(() => qemu.stop());
  return qemu;
};
const open = async (deps = patient): Promise<QmpSession> => {
  const session = await openQmp(path, deps);
  if (!session.ok) throw new Error(session.error.message);
  closers.push(() => session.value.close());
  return session.value;
};
/** A server that says what it is told to, and remembers what it hears. */
const serve = async (onConnect: (socket: Socket) => void): Promise<{ heard: () => string; server: Server }> => {
  let heard = "";
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => undefined).on("data", (bytes) => (heard += bytes.toString()));
    onConnect(socket);
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  closers.push(() => {
    for (const socket of sockets) socket.destroy();
    return new Promise((resolve) => server.close(resolve));
  });
  return { heard: () => heard, server };
};
const GREETING = '{"QMP":{"version":{"qemu":{"micro":22,"minor":2,"major":7},"package":""},"capabilities":["oob"]}}\r\n';
/** Greets, negotiates, and answers everything else by `reply`, a line each. */
const serveQmp = (reply: (command: string, id: string, socket: Socket) => string): ReturnType<typeof serve> =>
  serve((socket) => {
    socket.write(GREETING);
    socket.on("data", (bytes) => {
      for (const line of bytes.toString().trim().split("\n")) {
        const { execute, id } = JSON.parse(line) as { execute: string; id: string };
        const text = execute === "qmp_capabilities" ? `{"return":{},"id":"${id}"}\n` : reply(execute, id, socket);
        if (text !== "") socket.write(text);
      }
    });
  });

describe("opening", () => {
  test("greeting, negotiation, version", async () => {
    await boot({ version: "10.0.13" });
    const session = await open();
    expect(session.version).toBe("10.0.13");
    expect(await session.execute("query-status")).toEqual({ ok: true, value: { status: "running", running: true } });
  });

  test("no file: absent; a file that nobody listens on: dead; something that is no socket: no session either", async () => {
    expect(await openQmp(path, patient)).toMatchObject({ ok: false, error: { kind: "absent" } });
    const qemu = await boot();
    await qemu.kill();
    expect(await openQmp(path, patient)).toMatchObject({ ok: false, error: { kind: "dead" } });
    writeFileSync(join(dir, "text"), "");
    expect(await openQmp(join(dir, "text"), patient)).toMatchObject({ ok: false });
  });

  test("a second client is not greeted: busy, and it does not stay in the queue", async () => {
    const qemu = await boot();
    const first = await open();
    expect(await openQmp(path, hasty)).toMatchObject({ ok: false, error: { kind: "busy" } });
    expect(await first.execute("query-name")).toEqual({ ok: true, value: {} });
    first.close();
    await eventually(() => qemu.clients() === 0);
    await open();
  });

  test("a process that hangs: busy, too", async () => {
    const qemu = await boot();
    qemu.hang(true);
    expect(await openQmp(path, hasty)).toMatchObject({ ok: false, error: { kind: "busy" } });
  });

  test("no answer to the negotiation: failed", async () => {
    await serve((socket) => socket.write(GREETING));
    expect(await openQmp(path, hasty)).toMatchObject({ ok: false, error: { kind: "failed" } });
  });

  test.each([
    ["hangs up", (socket: Socket) => socket.end()],
    ["speaks something else", (socket: Socket) => socket.write("SSH-2.0-OpenSSH_9.2\r\n")],
    ["greets twice", (socket: Socket) => socket.write(GREETING + GREETING)],
    [
      "refuses the negotiation",
      (socket: Socket) => socket.write(`${GREETING}{"error":{"class":"GenericError","desc":"no"},"id":"p1"}\r\n`),
    ],
  ])("a peer that %s: failed, at once", async (_, behave) => {
    await serve(behave);
    expect(await openQmp(path, patient)).toMatchObject({ ok: false, error: { kind: "failed" } });
  });

  test("called off: the socket is closed", async () => {
    const qemu = await boot();
    qemu.mute(true);
    const control = new AbortController();
    const opening = openQmp(path, patient, { signal: control.signal });
    setImmediate(() => control.abort());
    expect(await opening).toMatchObject({ ok: false, error: { kind: "failed", message: "called off" } });
    expect(await openQmp(path, patient, { signal: control.signal })).toMatchObject({ ok: false });
  });

  test("a QEMU that dials in is adopted, and dials again when it is let go", async () => {
    const dialled: Socket[] = [];
    const server = createServer({ pauseOnConnect: true }, (socket) => dialled.push(socket));
    await new Promise<void>((resolve) => server.listen(path, resolve));
    closers.push(() => server.close());
    const qemu = createFakeQemu({ name: "vm7", delays: { redialMs: 1 } });
    closers.push(() => qemu.stop());
    qemu.dialTo(path);
    await qemu.start();
    for (const turn of [1, 2]) {
      const socket = await eventually(() => dialled[turn - 1]);
      if (socket === undefined) throw new Error("nobody dialled");
      const session = await adoptQmp(socket, patient);
      if (!session.ok) throw new Error(session.error.message);
      expect(await session.value.execute("query-name")).toEqual({ ok: true, value: { name: "vm7" } });
      session.value.close();
    }
  });

  test("adopting a socket that is closed already fails", async () => {
    const dialled: Socket[] = [];
    await serve((socket) => dialled.push(socket));
    const qemu = createFakeQemu();
    closers.push(() => qemu.stop());
    await qemu.start();
    qemu.dialTo(path);
    const socket = await eventually(() => dialled[0]);
    if (socket === undefined) throw new Error("nobody dialled");
    socket.destroy();
    expect(await adoptQmp(socket, patient)).toMatchObject({ ok: false, error: { kind: "failed" } });
  });
});

describe("commands", () => {
  test("go out in the tick in which they are given", async () => {
    await serveQmp(() => "");
    const socket = connect({ path });
    const adopted = await adoptQmp(socket, patient);
    if (!adopted.ok) throw new Error(adopted.error.message);
    closers.push(() => adopted.value.close());
    const written: unknown[] = [];
    socket.write = (text: unknown) => written.push(text) > 0;
    void adopted.value.execute("device_add", { driver: "usb-host", hostbus: 1 });
    await Promise.resolve();
    expect(written).toEqual(['{"execute":"device_add","arguments":{"driver":"usb-host","hostbus":1},"id":"p2"}\n']);
  });

  test("a refusal keeps class, text and command", async () => {
    await boot();
    const session = await open();
    expect(await session.execute("device_del", { id: "nope" })).toEqual({
      ok: false,
      error: { kind: "refused", class: "DeviceNotFound", desc: "Device 'nope' not found", command: "device_del" },
    });
  });

  test("any number at once, each with its own reply", async () => {
    await boot();
    const session = await open();
    const adds = Array.from({ length: 15 * 20 }, (_, n) =>
      session.execute("qom-get", { path: "/machine/peripheral/xhci", property: n % 2 === 0 ? "p2" : "type" }),
    );
    const replies = await Promise.all(adds);
    expect(replies.map((reply) => reply.ok && reply.value)).toEqual(adds.map((_, n) => (n % 2 === 0 ? 4 : "qemu-xhci")));
  });

  test("replies by id, whatever their order", async () => {
    const late: string[] = [];
    await serveQmp((command, id, socket) => {
      late.unshift(`{"return":"${command}","id":"${id}"}\n`);
      if (late.length === 3) socket.write(late.join(""));
      return "";
    });
    const session = await open();
    const replies = await Promise.all(["a", "b", "c"].map((command) => session.execute(command)));
    expect(replies).toEqual(["a", "b", "c"].map((value) => ({ ok: true, value })));
  });

  test("what is on the wire and what waits is bounded", async () => {
    const { heard } = await serveQmp(() => "");
    const session = await open();
    const calls = Array.from({ length: MAX_IN_FLIGHT + MAX_QUEUED }, () => session.execute("query-status"));
    expect(await session.execute("query-status")).toMatchObject({ ok: false, error: { kind: "protocol" } });
    await eventually(() => heard().split("query-status").length - 1 === MAX_IN_FLIGHT);
    session.close();
    const ends = await Promise.all(calls);
    expect(ends.every((end) => !end.ok && end.error.kind === "closed")).toBe(true);
  });

  test("queued ones go out as replies come in, and one that is called off never does", async () => {
    const ids: string[] = [];
    const { heard } = await serveQmp((_, id) => {
      ids.push(id);
      return "";
    });
    const session = await open();
    const control = new AbortController();
    for (let n = 0; n < MAX_IN_FLIGHT - 1; n += 1) void session.execute("stop");
    const first = session.execute("stop", undefined, { signal: control.signal });
    const called = session.execute("cont", undefined, { signal: control.signal });
    const queued = session.execute("query-name");
    await eventually(() => ids.length === MAX_IN_FLIGHT);
    control.abort();
    expect(await first).toEqual({ ok: false, error: { kind: "timeout", command: "stop" } });
    expect(await called).toEqual({ ok: false, error: { kind: "timeout", command: "cont" } });
    await eventually(() => heard().includes("query-name"));
    expect(heard()).not.toContain('"cont"');
    session.close();
    expect(await queued).toMatchObject({ ok: false, error: { kind: "closed" } });
  });

  test("one that is not answered times out; its late reply is dropped and the session goes on", async () => {
    const qemu = await boot();
    const session = await open();
    qemu.faults.next("qom-list", { swallow: true });
    qemu.faults.next("qom-get", { delayMs: 40 });
    const unanswered = session.execute("qom-list", { path: "/machine" }, { timeoutMs: 30 });
    const slow = session.execute("qom-get", { path: "/machine", property: "type" }, { timeoutMs: 1 });
    expect(await slow).toEqual({ ok: false, error: { kind: "timeout", command: "qom-get" } });
    expect(await unanswered).toEqual({ ok: false, error: { kind: "timeout", command: "qom-list" } });
    expect(await session.execute("query-name")).toEqual({ ok: true, value: {} });
  });

  test("a peer that answers nothing at all any more is given up", async () => {
    const qemu = await boot();
    const session = await open(hasty);
    qemu.hang(true);
    expect(await session.execute("query-status")).toMatchObject({ ok: false, error: { kind: "timeout" } });
    expect(await session.closed).toBe("QEMU does not answer any more");
    expect(await session.execute("query-status")).toMatchObject({
      ok: false,
      error: { kind: "closed", reason: "QEMU does not answer any more" },
    });
  });
});

describe("the end of a session", () => {
  test.each([
    ["before", 1],
    ["after", 2],
  ] as const)("a connection cut %s a command was executed: its outcome is unknown, and looking tells", async (drop, objects) => {
    const qemu = await boot();
    const session = await open();
    qemu.faults.next("device_add", { drop });
    const [add, next] = await Promise.all([
      session.execute("device_add", { driver: "usb-tablet", id: "t", bus: "xhci.0", port: "1" }),
      session.execute("query-name"),
    ]);
    expect(add).toMatchObject({ ok: false, error: { kind: "closed", command: "device_add", outcomeUnknown: true } });
    expect(next).toMatchObject({ ok: false, error: { kind: "closed", command: "query-name" } });
    expect(qemu.objects().length).toBe(objects);
    expect((await (await open()).execute("qom-list", { path: "/machine/peripheral" })).ok).toBe(true);
  });

  test.each([
    ["an error without id", () => '{"error":{"class":"GenericError","desc":"JSON parse error, expecting value"}}\n', /JSON parse error/],
    ["a reply without id", () => '{"return":{}}\n', /without an id/],
    ["garbage", () => "\u0000\u0001 what\n", /does not speak QMP/],
    ["half a line", (id: string) => `{"return":{},"id":"${id}\n`, /does not speak QMP/],
    ["a line without end", () => "x".repeat(MAX_LINE_BYTES + 2), /more than 16777216 bytes/],
  ])("%s ends it with that reason", async (_, answer, reason) => {
    await serveQmp((__, id) => answer(id));
    const session = await open();
    const call = await session.execute("query-status");
    expect(await session.closed).toMatch(reason);
    expect(call).toMatchObject({ ok: false, error: { kind: "closed", reason: await session.closed } });
  });

  test("replies to nobody are no reason", async () => {
    await serveQmp((_, id) => `{"return":1,"id":"p999"}\n{"return":1,"id":7}\n{"return":2,"id":"${id}"}\n`);
    expect(await (await open()).execute("x")).toEqual({ ok: true, value: 2 });
  });

  test("a garbled reply, a quit, a kill, our own close: one reason each, and events end", async () => {
    const qemu = await boot();
    const reasons: string[] = [];
    const ended: number[] = [];
    const enders: ((session: QmpSession) => unknown)[] = [
      (session) => {
        qemu.faults.next("query-name", { garble: true });
        void session.execute("query-name");
      },
      (session) => session.close(),
      () => qemu.disconnect(),
      (session) => session.execute("quit"),
    ];
    for (const [n, end] of enders.entries()) {
      const session = await open();
      session.events$.subscribe({ complete: () => ended.push(n) });
      await end(session);
      reasons.push(await session.closed);
      session.close();
    }
    expect(reasons).toEqual([
      expect.stringMatching(/does not speak QMP/),
      "closed by plugherd",
      "the peer closed the connection",
      "the peer closed the connection",
    ]);
    expect(ended).toEqual([0, 1, 2, 3]);
    await eventually(async () => {
      expect(await openQmp(path, patient)).toMatchObject({ ok: false, error: { kind: "absent" } });
      return true;
    });
  });

  test("a peer that does not read is given up", async () => {
    await serve((socket) => {
      socket.write(`${GREETING}{"return":{},"id":"p1"}\r\n`);
      socket.pause();
    });
    const session = await open();
    const calls = Array.from({ length: 8 }, () => session.execute("x", { text: "x".repeat(1_000_000) }));
    expect(await session.closed).toMatch(/does not read/);
    expect((await Promise.all(calls)).every(({ ok }) => !ok)).toBe(true);
  });
});

describe("events", () => {
  test("come with name, data and time", async () => {
    await boot({ now: () => 1_795_228_516_767 });
    const session = await open();
    const events: QmpEvent[] = [];
    session.events$.subscribe((event) => events.push(event));
    await session.execute("device_add", { driver: "usb-tablet", id: "t", bus: "xhci.0", port: "1" });
    await session.execute("stop");
    await session.execute("device_del", { id: "t" });
    await eventually(() => events.length === 2);
    expect(events).toEqual([
      { kind: "event", name: "STOP", data: {}, seconds: 1_795_228_516, microseconds: 767_000 },
      {
        kind: "event",
        name: "DEVICE_DELETED",
        data: { device: "t", path: "/machine/peripheral/t" },
        seconds: 1_795_228_516,
        microseconds: 767_000,
      },
    ]);
  });
});
