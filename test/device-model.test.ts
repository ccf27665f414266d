/** What attach and detach put on the wire, and when; held against a QEMU of a few lines that answers only when it is told to. */
import { Subject } from "rxjs";
import { describe, expect, test } from "vitest";
import { createGate } from "../src/adapters/gate.ts";
import { createQemuDomain, type QemuDomain } from "../src/adapters/qemu-domain.ts";
import type { QmpError, QmpSession } from "../src/adapters/qmp-client.ts";
import type { LiveDomain } from "../src/model/domain.ts";
import { err, ok, type Result } from "../src/model/result.ts";
import type { QmpEvent } from "../src/protocol/qmp.ts";
import { hostDevice, quickTimings, realClock, testDevice } from "./support/domains-rig.ts";
import { eventually } from "./support/eventually.ts";
import { silentLog } from "./support/logs.ts";

type Args = Readonly<Record<string, unknown>>;
type Reply = Result<unknown, QmpError>;
const stick = testDevice(5);
const PATH = "/machine/peripheral/plugherd-1-5-305";
const refused = (desc: string, errorClass = "GenericError"): Reply => err({ kind: "refused", class: errorClass, desc, command: "x" });

/** One xHCI, and the usb-hosts that were added. Commands run in order; their replies wait while it is held. */
function createTinyQemu(hostdevice = false) {
  const sent: { readonly command: string; readonly args: Args }[] = [];
  const objects = new Map<string, Args>();
  const scripted: { command: string; reply: Reply; run: boolean }[] = [];
  const events = new Subject<QmpEvent>();
  let held: (() => void)[] | null = null;
  const list = (names: readonly (readonly [string, string])[]): Reply => ok(names.map(([name, type]) => ({ name, type })));
  const run = (command: string, args: Args): Reply => {
    const at = scripted.findIndex((one) => one.command === command);
    const [script] = at === -1 ? [] : scripted.splice(at, 1);
    if (script !== undefined && !script.run) return script.reply;
    const done = execute(command, args);
    return script === undefined ? done : script.reply;
  };
  const execute = (command: string, args: Args): Reply => {
    const path = String(args["path"]);
    const property = String(args["property"]);
    switch (command) {
      case "query-status":
        return ok({ status: "running" });
      case "query-name":
        return ok({ name: "tiny" });
      case "device_add":
        objects.set(`/machine/peripheral/${String(args["id"])}`, args);
        return ok({});
      case "device_del":
        return objects.delete(`/machine/peripheral/${String(args["id"])}`) ? ok({}) : refused("not found", "DeviceNotFound");
      case "qom-list":
        if (path === "/machine/peripheral")
          return list([["x", "child<qemu-xhci>"], ...[...objects.keys()].map((one) => [one.slice(20), "child<usb-host>"] as const)]);
        if (path === "/machine/peripheral/x") return list([["x.0", "child<usb-bus>"]]);
        if (path === "/machine/peripheral/x/x.0")
          return list([...objects.keys()].map((_, i) => [`child[${String(i)}]`, "link<usb-host>"] as const));
        return refused("not found", "DeviceNotFound");
      case "qom-get": {
        if (path === "/machine/peripheral/x") return property.startsWith("p") ? ok(4) : refused("no");
        const link = /child\[(\d+)\]$/.exec(`${path}/${property}`) ?? /child\[(\d+)\]$/.exec(path);
        const target = link === null ? path : ([...objects.keys()][Number(link[1])] ?? "");
        if (property.startsWith("child[")) return ok(target);
        const object = objects.get(target);
        if (object === undefined) return refused("not found", "DeviceNotFound");
        if (property === "type") return ok("usb-host");
        if (property === "parent_bus") return ok("/machine/peripheral/x/x.0");
        return ok(property === "attached" ? true : (object[property] ?? 0));
      }
      default:
        return refused("unknown", "CommandNotFound");
    }
  };
  const session: QmpSession = {
    version: "7.2.22",
    execute: (command, args = {}) => {
      sent.push({ command, args });
      const reply = run(command, args);
      const waiting = held;
      return waiting === null ? Promise.resolve(reply) : new Promise((resolve) => waiting.push(() => resolve(reply)));
    },
    events$: events,
    closed: new Promise(() => undefined),
    close: () => undefined,
  };
  const published: LiveDomain[] = [];
  const domain: QemuDomain = createQemuDomain(
    { key: "tiny#1", monitor: "/tiny.sock", fallbackName: "tiny", session, identity: null, publish: (one) => published.push(one) },
    {
      timings: { ...quickTimings, findRetriesMs: [1, 1] },
      clock: realClock,
      random: () => 0.5,
      log: silentLog,
      hostdevice,
      drivers: new Map([["7.2.22", ["qemu-xhci"]]]),
      listings: createGate(1),
    },
  );
  return {
    domain,
    sent,
    objects,
    published,
    commands: () => sent.map(({ command }) => command),
    adds: () => sent.filter(({ command }) => command === "device_add").map(({ args }) => args),
    next: (command: string, reply: Reply, executed = false) => scripted.push({ command, reply, run: executed }),
    hold: () => {
      held ??= [];
    },
    release: () => {
      const waiting = held ?? [];
      held = null;
      for (const go of waiting) go();
    },
    tell: (name: string, data: Args = {}) => events.next({ kind: "event", name, data, seconds: 0, microseconds: 0 }),
    last: (): LiveDomain | undefined => published.at(-1),
  };
}
const quiet = { signal: new AbortController().signal, onStep: () => undefined };
const place = { domain: "tiny#1", device: hostDevice(stick), bus: "x.0", port: 2, create: null };
const at = { domain: "tiny#1", path: PATH, bus: "x.0", port: 2, instance: null };

describe("attach", () => {
  test("writes device_add in the tick in which it is called, and its questions right behind", async () => {
    const qemu = createTinyQemu();
    await qemu.domain.refresh();
    const before = qemu.sent.length;
    const outcome = qemu.domain.attach(place, quiet);
    expect(qemu.commands().slice(before)[0]).toBe("device_add");
    expect(await outcome).toMatchObject({ ok: true, value: { path: PATH } });
    // One round trip, and no listing of the domain.
    expect(new Set(qemu.commands().slice(before + 1))).toEqual(new Set(["qom-get"]));
    expect(qemu.last()?.objects).toMatchObject([{ path: PATH }]);
  });

  test("names the node beside the integers where told to; the integers alone are the second try", async () => {
    const qemu = createTinyQemu(true);
    await qemu.domain.refresh();
    qemu.next("device_add", refused("failed to open host usb device 1:5"));
    expect(await qemu.domain.attach(place, quiet)).toMatchObject({ ok: true });
    expect(qemu.adds()).toEqual([
      expect.objectContaining({ hostbus: 1, hostaddr: 5, hostdevice: "/dev/bus/usb/001/005" }),
      expect.not.objectContaining({ hostdevice: expect.anything() }),
    ]);
  });

  test("never names the node again to a QEMU that does not know the property", async () => {
    const qemu = createTinyQemu(true);
    await qemu.domain.refresh();
    qemu.next("device_add", refused("Property 'usb-host.hostdevice' not found"));
    expect(await qemu.domain.attach(place, quiet)).toMatchObject({ ok: true });
    await qemu.domain.detach(at, quiet);
    await qemu.domain.attach(place, quiet);
    expect(qemu.adds().map((args) => "hostdevice" in args)).toEqual([true, false, false]);
  });

  test("a QEMU without usb-host is asked once in its life", async () => {
    const qemu = createTinyQemu();
    await qemu.domain.refresh();
    qemu.next("device_add", refused("'usb-host' is not a valid device model name"));
    for (const _ of [1, 2])
      expect(await qemu.domain.attach(place, quiet)).toMatchObject({ ok: false, error: { kind: "terminal", reason: "NoUsbHost" } });
    expect(qemu.adds()).toHaveLength(1);
  });

  test("a reply is no proof: what is not seen is not attached", async () => {
    const qemu = createTinyQemu();
    await qemu.domain.refresh();
    qemu.next("device_add", ok({}));
    expect(await qemu.domain.attach(place, quiet)).toMatchObject({ ok: false, error: { reason: "Vanished" } });
    qemu.next("device_del", ok({}));
    await qemu.domain.attach(place, quiet);
    expect(await qemu.domain.detach(at, quiet)).toMatchObject({ ok: false, error: { reason: "StillThere" } });
  });

  test("after a command without an answer it looks before it does anything else", async () => {
    const qemu = createTinyQemu();
    await qemu.domain.refresh();
    qemu.next("device_add", err({ kind: "timeout", command: "device_add" }), true); // executed all the same
    expect(await qemu.domain.attach(place, quiet)).toMatchObject({ ok: false, error: { kind: "transient", reason: "TimedOut" } });
    const before = qemu.sent.length;
    expect(await qemu.domain.detach(at, quiet)).toEqual({ ok: true, value: null });
    const after = qemu.commands().slice(before);
    expect(qemu.published.some(({ objects }) => objects.length === 1)).toBe(true); // it was seen
    expect(after.indexOf("device_del")).toBeGreaterThanOrEqual(0);
    expect(qemu.last()?.objects).toEqual([]);
  });
});

describe("looking", () => {
  test("a listing that an attach of ours overlapped is not believed but repeated", async () => {
    const qemu = createTinyQemu();
    await qemu.domain.refresh();
    qemu.hold();
    const stale = qemu.domain.refresh(); // asked before, answered after
    const attached = qemu.domain.attach(place, quiet);
    qemu.release();
    expect(await attached).toMatchObject({ ok: true });
    const from = qemu.published.length - 1;
    await stale;
    expect(qemu.published.slice(from).every(({ objects }) => objects.length === 1)).toBe(true);
    expect(qemu.last()?.controllers[0]?.occupied).toEqual([2]);
  });

  test("the late echo of our own removal costs nothing; news does", async () => {
    const qemu = createTinyQemu();
    await qemu.domain.refresh();
    await qemu.domain.attach(place, quiet);
    await qemu.domain.detach(at, quiet);
    const before = qemu.sent.length;
    qemu.tell("DEVICE_DELETED", { device: "plugherd-1-5-305", path: PATH });
    qemu.tell("RTC_CHANGE", { offset: 1 });
    expect(qemu.sent.length).toBe(before);
    qemu.tell("DEVICE_DELETED", { path: PATH }); // a second one was not ours
    await eventually(() => qemu.sent.length > before);
  });

  test("a burst of events costs one listing, and one more", async () => {
    const qemu = createTinyQemu();
    await qemu.domain.refresh();
    const before = qemu.commands().filter((command) => command === "query-status").length;
    for (let i = 0; i < 50; i += 1) qemu.tell("STOP");
    await qemu.domain.refresh();
    expect(qemu.commands().filter((command) => command === "query-status").length - before).toBe(2);
  });

  test("what has not changed is not told again", async () => {
    const qemu = createTinyQemu();
    await qemu.domain.refresh();
    await qemu.domain.refresh();
    expect(qemu.published).toHaveLength(1);
  });
});
