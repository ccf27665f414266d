/** What only the simulator can be asked: time in its own hands, faults, other hands on the domain, and how little it costs while idle. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { openQmp, type QmpSession } from "../src/adapters/qmp-client.ts";
import type { Clock } from "../src/model/contracts.ts";
import { createFakeQemu, type FakeQemu, type FakeQemuOptions, type SimHostDevice } from "../src/sim/qmp-server.ts";
import { eventually } from "./support/eventually.ts";

const clock: Clock = {
  now: () => Date.now(),
  setTimeout: (fn, ms) => setTimeout(fn, ms),
  clearTimeout: (timer) => clearTimeout(timer as NodeJS.Timeout),
};
const timings = { connectMs: 10_000, greetingMs: 10_000, commandMs: 10_000 };

/** Timers that run when told. */
const handClock = () => {
  let now = 0;
  let next = 0;
  const set = new Map<number, { at: number; run: () => void }>();
  return {
    setTimeout(run: () => void, ms: number): unknown {
      next += 1;
      set.set(next, { at: now + ms, run });
      return next;
    },
    clearTimeout: (id: unknown) => void set.delete(id as number),
    count: () => set.size,
    advance(ms: number) {
      now += ms;
      for (const [id, { at, run }] of [...set]) {
        if (at > now) continue;
        set.delete(id);
        run();
      }
    },
  };
};

let dir = "";
const running: FakeQemu[] = [];
const sessions: QmpSession[] = [];
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "plugherd-sim-"));
});
afterEach(async () => {
  for (const session of sessions.splice(0)) session.close();
  await Promise.all(running.splice(0).map((qemu) => qemu.stop()));
  rmSync(dir, { recursive: true });
});
const boot = async (options: FakeQemuOptions = {}, name = "vm"): Promise<FakeQemu> => {
  const qemu = createFakeQemu({ path: join(dir, `${name}.sock`), devices: [{ driver: "qemu-xhci", id: "xhci" }], ...options });
  await qemu.start();
  running.push(qemu);
  return qemu;
};
const open = async (qemu: FakeQemu): Promise<QmpSession> => {
  const session = await openQmp(qemu.path ?? "", { timings, clock });
  if (!session.ok) throw new Error(session.error.message);
  sessions.push(session.value);
  return session.value;
};
const device = (address: number, rest: Partial<SimHostDevice> = {}): SimHostDevice => ({
  bus: 1,
  address,
  port: "2.1",
  vendor: "046d",
  product: "c077",
  speed: 2,
  node: `/dev/bus/usb/001/00${String(address)}`,
  openable: true,
  ...rest,
});
const exact = { driver: "usb-host", id: "h", bus: "xhci.0", port: "1", hostbus: 1, hostaddr: 5 };
const scanned = { driver: "usb-host", id: "h", bus: "xhci.0", port: "1", vendorid: 0x46d };
const attached = (qemu: FakeQemu): boolean | undefined => qemu.objects().find(({ id }) => id === "h")?.attached;

describe("usb-host", () => {
  test("exact mode holds what it opened and does not notice an unplug", async () => {
    let host = [device(5)];
    const timers = handClock();
    const qemu = await boot({ hostDevices: () => host, timers });
    expect(qemu.addByOther(exact).ok).toBe(true);
    host = [];
    expect(timers.count()).toBe(0);
    expect(attached(qemu)).toBe(true);
    expect(qemu.addByOther({ ...exact, id: "again", port: "2" })).toMatchObject({
      ok: false,
      error: { desc: "failed to find host usb device 1:5" },
    });
  });

  test("hostdevice goes by the node, and by its rights", async () => {
    const qemu = await boot({ hostDevices: () => [device(5), device(6, { openable: false })] });
    expect(qemu.addByOther({ ...exact, hostdevice: "/dev/bus/usb/001/005" }).ok).toBe(true);
    expect(qemu.addByOther({ ...exact, id: "i", port: "2", hostdevice: "/dev/bus/usb/001/006" })).toMatchObject({
      error: { desc: "failed to open /dev/bus/usb/001/006: Permission denied" },
    });
    expect(qemu.addByOther({ ...exact, id: "i", port: "2", hostaddr: 6 })).toMatchObject({
      error: { desc: "failed to open host usb device 1:6" },
    });
  });

  test("auto-scan looks every two seconds while the domain runs, and at once when it goes on or is kicked", async () => {
    let host: SimHostDevice[] = [];
    const timers = handClock();
    const qemu = await boot({ hostDevices: () => host, timers });
    qemu.addByOther(scanned);
    host = [device(5)];
    timers.advance(1999);
    expect(attached(qemu)).toBe(false);
    timers.advance(1);
    expect(attached(qemu)).toBe(true);
    host = [];
    qemu.pause();
    timers.advance(5000);
    expect(attached(qemu)).toBe(true);
    qemu.resume();
    expect(attached(qemu)).toBe(false);
    host = [device(6)];
    qemu.addByOther({ ...scanned, id: "kick", port: "2", vendorid: 0xffff });
    expect(attached(qemu)).toBe(true);
    for (const id of ["h", "kick"]) qemu.removeByOther(id);
    timers.advance(60);
    expect(timers.count()).toBe(0);
  });

  test("auto-scan gives up after three failed opens, until the device was away", async () => {
    let host = [device(5, { openable: false })];
    const timers = handClock();
    const qemu = await boot({ hostDevices: () => host, timers });
    qemu.addByOther(scanned);
    for (let n = 0; n < 3; n += 1) timers.advance(2000);
    host = [device(5)];
    for (let n = 0; n < 3; n += 1) timers.advance(2000);
    expect(attached(qemu)).toBe(false);
    host = [];
    timers.advance(2000);
    host = [device(5)];
    timers.advance(2000);
    expect(attached(qemu)).toBe(true);
  });

  test("full speed on a bare EHCI is refused", async () => {
    const qemu = await boot({ hostDevices: () => [device(5)], devices: [{ driver: "usb-ehci", id: "xhci" }] });
    expect(qemu.addByOther(exact)).toMatchObject({ error: { desc: "failed to open host usb device 1:5" } });
  });
});

describe("time", () => {
  test("a refused add is answered 60 ms late, and what comes after it waits; DEVICE_DELETED comes 60 ms late", async () => {
    const timers = handClock();
    const qemu = await boot({ timers });
    const session = await open(qemu);
    const order: string[] = [];
    session.events$.subscribe(({ name }) => order.push(name));
    const add = session.execute("device_add", { driver: "usb-nope" }).then(() => order.push("add"));
    const name = session.execute("query-name").then(() => order.push("name"));
    await eventually(() => timers.count() === 1);
    timers.advance(59);
    expect(order).toEqual([]);
    timers.advance(1);
    await Promise.all([add, name]);
    await session.execute("device_add", { driver: "usb-tablet", id: "t", bus: "xhci.0", port: "1" });
    await session.execute("device_del", { id: "t" });
    timers.advance(60);
    await eventually(() => order.length === 3);
    expect(order).toEqual(["add", "name", "DEVICE_DELETED"]);
  });

  test("a guest's system lets a controller go when told, or by itself after a time", async () => {
    const timers = handClock();
    const qemu = await boot({ timers });
    expect(qemu.eject("xhci")).toBe(false);
    qemu.removeByOther("xhci");
    expect(qemu.objects().length).toBe(1);
    expect(qemu.eject("xhci")).toBe(true);
    expect(qemu.objects()).toEqual([]);
    const willing = await boot({ timers, delays: { ejectMs: 500 } }, "willing");
    willing.removeByOther("xhci");
    timers.advance(500);
    expect(willing.objects()).toEqual([]);
  });

  test("a thousand idle ones have no timer among them", async () => {
    const timers = handClock();
    const qemus = await Promise.all(Array.from({ length: 1000 }, (_, n) => boot({ timers, hostDevices: () => [device(5)] }, String(n))));
    for (const qemu of qemus) qemu.addByOther(exact);
    expect(timers.count()).toBe(0);
  });
});

describe("hands and faults", () => {
  test("every change is in the log, in order, whoever made it; looking is not", async () => {
    const qemu = await boot();
    const session = await open(qemu);
    await session.execute("qom-list", { path: "/machine/peripheral" });
    await session.execute("device_add", { driver: "usb-tablet", id: "t", bus: "xhci.0", port: "1" });
    qemu.addByOther({ driver: "usb-kbd", id: "k", bus: "xhci.0", port: "2" });
    await session.execute("human-monitor-command", { "command-line": "info usb" });
    await session.execute("human-monitor-command", { "command-line": "device_del k" });
    await session.execute("device_del", { id: "nope" });
    expect(qemu.mutationLog.map(({ command, ok, by }) => `${command} ${String(ok)} ${by}`)).toEqual([
      "device_add true monitor",
      "device_add true other",
      "human-monitor-command true monitor",
      "device_del false monitor",
    ]);
    expect(qemu.objects().map(({ id, port }) => [id, port])).toEqual([
      ["xhci", null],
      ["t", "1"],
    ]);
  });

  test("faults hit the next of a command, in order, as often as told", async () => {
    const qemu = await boot({ delays: { refusalMs: 0 } });
    const session = await open(qemu);
    qemu.faults.refuse("device_add", "failed to open host usb device 1:5", 2);
    const add = () => session.execute("device_add", { driver: "usb-tablet", id: "t", bus: "xhci.0", port: "1" });
    expect([(await add()).ok, (await add()).ok, (await add()).ok]).toEqual([false, false, true]);
  });

  test("chance is the same for the same seed", async () => {
    const outcomes = async (seed: number, name: string): Promise<boolean[]> => {
      const qemu = await boot({ delays: { refusalMs: 0 } }, name);
      const session = await open(qemu);
      qemu.faults.byChance(seed, [{ probability: 0.5, commands: ["query-name"], refuse: { class: "GenericError", desc: "by chance" } }]);
      const replies = await Promise.all(Array.from({ length: 64 }, () => session.execute("query-name")));
      expect((await session.execute("query-uuid")).ok).toBe(true);
      return replies.map(({ ok }) => ok);
    };
    const first = await outcomes(7, "a");
    expect(await outcomes(7, "b")).toEqual(first);
    expect(await outcomes(8, "c")).not.toEqual(first);
    expect(new Set(first).size).toBe(2);
  });

  test("a restart has what the command line says and nothing else", async () => {
    const qemu = await boot();
    qemu.addByOther({ driver: "usb-tablet", id: "t", bus: "xhci.0", port: "1" });
    await qemu.kill();
    expect(qemu.status()).toBe("ended");
    await qemu.start();
    expect(qemu.objects().map(({ id }) => id)).toEqual(["xhci"]);
    expect((await (await open(qemu)).execute("query-name")).ok).toBe(true);
  });

  test("a guest that shut down keeps its devices until it is reset", async () => {
    const qemu = await boot();
    const session = await open(qemu);
    qemu.endGuest("shutdown");
    expect(await session.execute("query-status")).toMatchObject({ value: { status: "shutdown", running: false } });
    expect(await session.execute("cont")).toMatchObject({ error: { desc: "Resetting the Virtual Machine is required" } });
    await session.execute("system_reset");
    expect((await session.execute("cont")).ok).toBe(true);
    expect(qemu.objects().length).toBe(1);
  });
});
