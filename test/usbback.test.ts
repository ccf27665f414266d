/** Binding to usbback on a sysfs of files: what is written down when, crashes between any two steps, and a kernel that says no. */
import { mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createUsbback, type Usbback } from "../src/adapters/usbback.ts";
import { createXenstoreClient } from "../src/adapters/xenstore-client.ts";
import type { XenstoreError, XenstoreNodes } from "../src/adapters/xenstore-nodes.ts";
import { err, ok } from "../src/model/result.ts";
import { createFakeXenstored } from "../src/sim/xenstored.ts";
import { quickTimings, realClock } from "./support/domains-rig.ts";
import { eventually } from "./support/eventually.ts";
import { createUsbDrivers, type UsbDrivers } from "./support/usb-drivers.ts";
import { strictLog } from "./support/logs.ts";
import type { Log } from "../src/model/contracts.ts";

const A = "3-1.4:1.0";
const B = "3-1.4:1.1";
const MEMORY = "/libxl/usbback/3-1_4";
const nodeOf = (name: string): string => `${MEMORY}/${name.replaceAll(".", "_").replaceAll(":", "@")}/driver_path`;

let dir: string;
let drivers: UsbDrivers;
let probed: string | null;
const open: (() => unknown)[] = [];
beforeEach(() => {
  dir = realpathSync(mkdtempSync(join(tmpdir(), "plugherd-usbback-")));
  probed = null;
  drivers = createUsbDrivers(join(dir, "sys"), ["usbhid", "snd", "usbback"], () => probed);
  open.push(() => drivers.close());
  drivers.plug("3-1.4", null);
  drivers.plug("3-1.40:1.0", "usbhid"); // another device's
  drivers.plug(A, "usbhid");
  drivers.plug(B, null);
});
afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close();
  rmSync(dir, { recursive: true, force: true });
});

const warnings: unknown[] = [];
const log: Log = { ...strictLog, warn: (_, fields) => void warnings.push(fields?.["interface"]) };
/** Long enough for the stand-in to follow on a busy machine; where something is to be given up, it is waited for. */
const timings = { driverMs: 5_000, hostSettleMs: 5_000 };
const SHORT = 300;
const create = (nodes: Pick<XenstoreNodes, "read" | "write" | "remove" | "directory">, hostSettleMs = timings.hostSettleMs): Usbback =>
  createUsbback({ nodes, sysfs: drivers.sysfs, clock: realClock, timings: { ...timings, hostSettleMs }, log });
const pathOf = (driver: string): string => join(drivers.sysfs, "bus/usb/drivers", driver);
const state = (): (string | null)[] => [drivers.driverOf(A), drivers.driverOf(B)];
const reasonOf = (result: { ok: boolean; error?: { reason: string } }): string => result.error?.reason ?? "ok";

type Store = {
  readonly nodes: Pick<XenstoreNodes, "read" | "write" | "remove" | "directory">;
  read(path: string): string | null;
  write(path: string, value: string): void;
};
function memory(): Store & { fail: string | null } {
  const values = new Map<string, string>();
  const missing = err<XenstoreError>({ kind: "missing", message: "missing" });
  const guard = (path: string): XenstoreError | null =>
    store.fail !== null && path.includes(store.fail) ? { kind: "away", message: "xenstored is not connected" } : null;
  const store = {
    fail: null as string | null,
    read: (path: string) => values.get(path) ?? null,
    write: (path: string, value: string) => void values.set(path, value),
    nodes: {
      async read(path: string) {
        const problem = guard(path);
        if (problem !== null) return err(problem);
        const value = values.get(path);
        return value === undefined ? missing : ok(value);
      },
      async write(path: string, value: string) {
        const problem = guard(path);
        if (problem !== null) return err(problem);
        values.set(path, value);
        return ok(undefined);
      },
      async remove(path: string) {
        for (const one of [...values.keys()]) if (one === path || one.startsWith(`${path}/`)) values.delete(one);
        return ok(undefined);
      },
      async directory(path: string) {
        const names = [...values.keys()]
          .filter((one) => one.startsWith(`${path}/`))
          .map((one) => one.slice(path.length + 1).split("/")[0] ?? "");
        return names.length === 0 ? missing : ok([...new Set(names)]);
      },
    },
  };
  return store;
}
async function simulated(): Promise<Store> {
  const daemon = createFakeXenstored({ path: join(dir, "socket") });
  await daemon.start();
  open.push(() => daemon.kill());
  const client = createXenstoreClient(daemon.path, { timings: quickTimings, clock: realClock, random: () => 0.1, log });
  let up = false;
  client.changes$.subscribe((change) => (up = change.kind === "up"));
  client.start();
  open.push(() => client.close());
  await eventually(() => up);
  return { nodes: client, read: (path) => daemon.read(path), write: (path, value) => void daemon.write(path, value) };
}

describe.each([
  ["an object", async () => memory()],
  ["the simulator's xenstored", simulated],
])("on %s", (_, createStore) => {
  test("takes each interface, remembers its driver, and gives it back", async () => {
    const store = await createStore();
    const usbback = create(store.nodes);
    expect(await usbback.available()).toBe(true);
    for (const _ of [1, 2]) {
      expect(await usbback.bind("3-1.4")).toEqual(ok(undefined));
      expect(state()).toEqual(["usbback", "usbback"]);
      expect(store.read(nodeOf(A))).toBe(pathOf("usbhid"));
      expect(store.read(nodeOf(B))).toBe(null);
      expect(await usbback.remembered()).toEqual(ok(["3-1.4"]));
    }
    for (const _ of [1, 2]) {
      expect(await usbback.unbind("3-1.4")).toEqual(ok(undefined));
      expect(state()).toEqual([null, null]);
      expect(store.read(nodeOf(A))).toBe(pathOf("usbhid"));
    }
    for (const _ of [1, 2]) {
      expect(await usbback.release("3-1.4")).toEqual(ok(undefined));
      expect(state()).toEqual(["usbhid", null]);
      expect(store.read(MEMORY)).toBe(null);
      expect(await usbback.remembered()).toEqual(ok([]));
    }
    expect(drivers.written).toEqual([
      ...[`usbhid/unbind ${A}`, `usbback/bind ${A}`, `usbback/bind ${B}`],
      ...[`usbback/unbind ${A}`, `usbback/unbind ${B}`, `usbhid/bind ${A}`],
    ]);
    expect(drivers.driverOf("3-1.40:1.0")).toBe("usbhid");
  });

  // Two interfaces with drivers of their own, and what is done to them, step by step.
  const binding = (store: Store): readonly (() => unknown)[] => [
    () => store.write(nodeOf(A), pathOf("usbhid")),
    () => drivers.set(A, null),
    () => drivers.set(A, "usbback"),
    () => store.write(nodeOf(B), pathOf("snd")),
    () => drivers.set(B, null),
    () => drivers.set(B, "usbback"),
  ];
  const unbinding = (store: Store): readonly (() => unknown)[] => [
    ...binding(store),
    () => drivers.set(A, null),
    () => drivers.set(B, null),
    () => drivers.set(A, "usbhid"),
    () => drivers.set(B, "snd"),
  ];
  test.each(Array.from({ length: 11 }, (_, i) => i))("after a crash at step %i either way is found", async (steps) => {
    for (const way of ["bind", "give back"]) {
      drivers.set(A, "usbhid");
      drivers.set(B, "snd");
      const store = await createStore();
      for (const step of unbinding(store).slice(0, steps)) step();
      const usbback = create(store.nodes);
      if (way === "bind") {
        expect(await usbback.bind("3-1.4")).toEqual(ok(undefined));
        expect(state()).toEqual(["usbback", "usbback"]);
        expect([store.read(nodeOf(A)), store.read(nodeOf(B))]).toEqual([pathOf("usbhid"), pathOf("snd")]);
      }
      expect(await usbback.unbind("3-1.4")).toEqual(ok(undefined));
      expect(await usbback.release("3-1.4")).toEqual(ok(undefined));
      expect(state()).toEqual(["usbhid", "snd"]);
      expect(store.read(MEMORY) ?? store.read(nodeOf(A)) ?? store.read(nodeOf(B))).toBe(null);
      for (const close of open.splice(1).reverse()) await close();
    }
  });
});

describe("when it cannot be done", () => {
  test("without usbback, without the device, with a device that is gone", async () => {
    const usbback = create(memory().nodes, SHORT);
    expect(reasonOf(await usbback.bind("3-7"))).toBe("HostDeviceGone");
    expect(await usbback.unbind("3-7")).toEqual(ok(undefined));
    expect(await usbback.release("3-7")).toEqual(ok(undefined));
    rmSync(pathOf("usbback"), { recursive: true });
    expect(await usbback.available()).toBe(false);
    expect(reasonOf(await usbback.bind("3-1.4"))).toBe("NoController");
    expect(state()).toEqual(["usbhid", null]);
  });

  test("what was remembered of a device that is gone is forgotten", async () => {
    const store = memory();
    const usbback = create(store.nodes, SHORT);
    await usbback.bind("3-1.4");
    for (const name of [A, B]) drivers.unplug(name);
    expect(await usbback.unbind("3-1.4")).toEqual(ok(undefined));
    expect(await usbback.release("3-1.4")).toEqual(ok(undefined));
    expect(store.read(nodeOf(A))).toBe(null);
  });

  test("everything is back where it was when usbback does not take an interface", async () => {
    const store = memory();
    drivers.set(B, "snd");
    drivers.ignore("usbback", "bind");
    expect(reasonOf(await create(store.nodes, SHORT).bind("3-1.4"))).toBe("DriverRefused");
    expect(state()).toEqual(["usbhid", "snd"]);
    expect(store.read(nodeOf(A))).toBe(null);
  });

  test("everything is back where it was when a driver does not let go of a later one", async () => {
    const store = memory();
    drivers.set(B, "snd");
    drivers.ignore("snd", "unbind");
    expect(reasonOf(await create(store.nodes, SHORT).bind("3-1.4"))).toBe("DriverRefused");
    expect(state()).toEqual(["usbhid", "snd"]);
    expect(store.read(nodeOf(A)) ?? store.read(nodeOf(B))).toBe(null);
  });

  test("nothing is taken from a driver that could not be written down", async () => {
    const store = memory();
    store.fail = "driver_path";
    expect(reasonOf(await create(store.nodes, SHORT).bind("3-1.4"))).toBe("StoreRefused");
    expect(state()).toEqual(["usbhid", null]);
    expect(drivers.written).toEqual([]);
  });

  test("usbback that does not let go is told, and the rest is released", async () => {
    const usbback = create(memory().nodes, SHORT);
    await usbback.bind("3-1.4");
    drivers.ignore("usbback", "unbind");
    expect(reasonOf(await usbback.unbind("3-1.4"))).toBe("DriverRefused");
    expect(drivers.written.filter((line) => line.startsWith("usbback/unbind"))).toHaveLength(2);
  });

  test("a driver that will not take its interface again: the kernel is asked for one, else it is told", async () => {
    const store = memory();
    const usbback = create(store.nodes, SHORT);
    drivers.ignore("usbhid", "bind");
    for (const [driver, without] of [
      ["snd", []],
      [null, [A]],
    ] as const) {
      drivers.set(A, "usbhid");
      probed = driver;
      await usbback.bind("3-1.4");
      await usbback.unbind("3-1.4");
      warnings.length = 0;
      expect(await usbback.release("3-1.4")).toEqual(ok(undefined));
      expect(warnings).toEqual(without);
      expect(drivers.driverOf(A)).toBe(driver);
      expect(store.read(nodeOf(A))).toBe(null);
    }
  });

  test("nothing is written outside the drivers of USB", async () => {
    const elsewhere = createUsbDrivers(join(dir, "elsewhere"), ["trap"]);
    open.push(() => elsewhere.close());
    mkdirSync(join(pathOf("usbhid"), "deeper"));
    symlinkSync(join(dir, "elsewhere/bus/usb/drivers/trap"), pathOf("link"));
    for (const path of [
      join(dir, "elsewhere/bus/usb/drivers/trap"),
      join(pathOf("usbhid"), "deeper"),
      `${pathOf("usbhid")}/../../../..`,
      "",
    ]) {
      const store = memory();
      store.write(nodeOf(A), path);
      drivers.set(A, null);
      expect(await create(store.nodes, SHORT).release("3-1.4")).toEqual(ok(undefined));
    }
    expect(elsewhere.written).toEqual([]);
  });
});
