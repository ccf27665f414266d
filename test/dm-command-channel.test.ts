/** The command channel of qemu-xen-traditional, with a device model written from its sources at the other end of the simulator's xenstored. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { createDmCommandChannel, type DmCommandChannel } from "../src/adapters/dm-command-channel.ts";
import { createXenstoreClient, type XenstoreClient } from "../src/adapters/xenstore-client.ts";
import { createFakeXenstored, type FakeXenstored } from "../src/sim/xenstored.ts";
import { quickTimings, realClock } from "./support/domains-rig.ts";
import { eventually } from "./support/eventually.ts";
import { strictLog } from "./support/logs.ts";

const P = "/local/domain/0/device-model/7";
let dir: string;
let daemon: FakeXenstored;
let store: XenstoreClient;
let model: DmCommandChannel;
const open: (() => unknown)[] = [];

async function connect(): Promise<XenstoreClient> {
  const client = createXenstoreClient(daemon.path, { timings: quickTimings, clock: realClock, random: () => 0.1, log: strictLog });
  let up = false;
  client.changes$.subscribe((change) => (up = change.kind === "up"));
  client.start();
  open.push(() => client.close());
  await eventually(() => up);
  return client;
}
const create = (dmCommandMs = 10_000): DmCommandChannel =>
  createDmCommandChannel({ store, domid: 7, vm: "/vm/uuid", clock: realClock, timings: { dmCommandMs } });

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), "plugherd-traditional-"));
  daemon = createFakeXenstored({ path: join(dir, "socket") });
  await daemon.start();
  open.push(() => daemon.kill());
  store = await connect();
  daemon.write("/local/domain/7/vm", "/vm/uuid");
  daemon.write(`${P}/state`, "running");
  model = create();
});
afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close();
  rmSync(dir, { recursive: true, force: true });
});

type Model = { readonly executed: string[]; readonly devices: Set<string>; onCommand: () => Promise<void> | undefined; stop(): void };
/** xenstore.c: command is read and removed, executed, and the state written; usb-added whether the device could be opened or not. */
async function startModel({ refuses = "" } = {}): Promise<Model> {
  const own = await connect();
  const executed: string[] = [];
  const devices = new Set<string>();
  const act = async (): Promise<void> => {
    const command = await own.read(`${P}/command`);
    if (!command.ok) return;
    await own.remove(`${P}/command`);
    const parameter = await own.read(`${P}/parameter`);
    const what = parameter.ok ? parameter.value : "";
    executed.push(`${command.value} ${what}`);
    await self.onCommand();
    if (command.value === "usb-add" && what !== refuses) devices.add(what);
    if (command.value === "usb-del") devices.delete(what);
    await own.write(`${P}/state`, command.value === "usb-add" ? "usb-added" : "usb-deleted");
  };
  const watch = own.watch(`${P}/command`).subscribe(() => void act());
  const self: Model = { executed, devices, onCommand: () => undefined, stop: () => watch.unsubscribe() };
  return self;
}
const reasonOf = (result: { ok: boolean; error?: { reason: string } }): string => result.error?.reason ?? "ok";

test("adds and deletes, and puts the state back", async () => {
  const qemu = await startModel();
  expect(reasonOf(await model.usbAdd(1, 5))).toBe("ok");
  expect([...qemu.devices]).toEqual(["host:1.5"]);
  expect(daemon.read(`${P}/state`)).toBe("running");
  expect(reasonOf(await model.usbDel(1, 5))).toBe("ok");
  expect([...qemu.devices]).toEqual([]);
  expect(qemu.executed).toEqual(["usb-add host:1.5", "usb-del host:1.5"]);
  expect([daemon.read(`${P}/state`), daemon.read(`${P}/command`)]).toEqual(["running", null]);
  await eventually(() => daemon.watches().length === 1 && daemon.transactions() === 0); // the device model's own
});

test("a device that could not be opened is told as added", async () => {
  const qemu = await startModel({ refuses: "host:1.5" });
  expect(reasonOf(await model.usbAdd(1, 5))).toBe("ok");
  expect([...qemu.devices]).toEqual([]);
});

test("one command at a time", async () => {
  const qemu = await startModel();
  let inside = 0;
  qemu.onCommand = async () => {
    inside += 1;
    expect([inside, daemon.read(`${P}/state`)]).toEqual([1, "running"]);
    await new Promise((resolve) => setImmediate(resolve));
    inside -= 1;
  };
  const all = await Promise.all([model.usbAdd(1, 5), model.usbAdd(1, 6), model.usbDel(1, 5)]);
  expect(all.map(reasonOf)).toEqual(["ok", "ok", "ok"]);
  expect(qemu.executed).toEqual(["usb-add host:1.5", "usb-add host:1.6", "usb-del host:1.5"]);
});

test("waits until the device model is up, has finished a save, and another's command", async () => {
  const qemu = await startModel();
  for (const before of [
    () => daemon.remove(`${P}/state`),
    () => daemon.write(`${P}/state`, "paused"),
    () => daemon.write(`${P}/state`, "pci-inserted"),
  ]) {
    before();
    const added = model.usbAdd(1, 5);
    await eventually(() => daemon.watches().length === 2);
    expect(daemon.read(`${P}/parameter`) ?? "").not.toBe("host:1.5");
    daemon.write(`${P}/state`, "running");
    expect(reasonOf(await added)).toBe("ok");
    expect(reasonOf(await model.usbDel(2, 2))).toBe("ok");
  }
  expect(qemu.executed).toHaveLength(6);
});

test.each(["usb-added", "usb-deleted"])("a state that a crash left (%s) is put back first", async (state) => {
  daemon.write(`${P}/state`, state);
  const qemu = await startModel();
  qemu.onCommand = async () => expect(daemon.read(`${P}/state`)).toBe("running");
  expect(reasonOf(await model.usbDel(1, 5))).toBe("ok");
  expect(daemon.read(`${P}/state`)).toBe("running");
});

test("a device model that takes no command, or does not execute it, is not waited for without end", async () => {
  const brief = create(100);
  expect(reasonOf(await brief.usbAdd(1, 5))).toBe("DeviceModelSilent");
  expect([daemon.read(`${P}/state`), daemon.read(`${P}/command`)]).toEqual(["running", null]); // taken back
  daemon.write(`${P}/state`, "paused");
  expect(reasonOf(await brief.usbAdd(1, 5))).toBe("DeviceModelBusy");
  daemon.write(`${P}/state`, "running");
  const qemu = await startModel();
  let execute: () => void = () => undefined;
  qemu.onCommand = () => new Promise((resolve) => (execute = resolve));
  expect(reasonOf(await brief.usbAdd(1, 5))).toBe("DeviceModelSilent");
  execute(); // late
  await eventually(() => daemon.read(`${P}/state`) === "usb-added");
  qemu.onCommand = () => undefined;
  expect(reasonOf(await model.usbDel(1, 5))).toBe("ok");
  expect(daemon.read(`${P}/state`)).toBe("running");
});

test("nothing is written for another life of the domid, nor for one that went", async () => {
  const qemu = await startModel();
  daemon.write("/local/domain/7/vm", "/vm/other");
  expect(reasonOf(await model.usbAdd(1, 5))).toBe("DomainGone");
  daemon.write("/local/domain/7/vm", "/vm/uuid");
  qemu.onCommand = async () => {
    daemon.remove("/local/domain/7");
    daemon.remove(P);
    qemu.stop();
  };
  expect(reasonOf(await model.usbAdd(1, 5))).toBe("DomainGone");
  expect(qemu.executed).toEqual(["usb-add host:1.5"]);
});

test("is called off, and lost with xenstored", async () => {
  const abort = new AbortController();
  const called = model.usbAdd(1, 5, abort.signal);
  await eventually(() => daemon.read(`${P}/command`) === "usb-add");
  abort.abort();
  expect(reasonOf(await called)).toBe("CalledOff");
  expect(daemon.read(`${P}/command`)).toBe(null);
  expect(reasonOf(await model.usbAdd(1, 5, abort.signal))).toBe("CalledOff");
  const lost = create(300).usbAdd(1, 6);
  await eventually(() => daemon.read(`${P}/command`) === "usb-add");
  await daemon.stop();
  expect(["StoreLost", "DeviceModelSilent"]).toContain(reasonOf(await lost));
  expect(reasonOf(await create(100).usbAdd(1, 6))).toBe("DeviceModelBusy");
  store.close();
  expect(reasonOf(await model.usbAdd(1, 6))).toBe("StoreLost");
});
