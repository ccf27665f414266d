/** One suite for the fake QEMU and for a real one, as far as a monitor goes: what holds for both is what the simulator may be trusted with. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { accessSync, constants, mkdtempSync, rmSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { adoptQmp, openQmp, type QmpSession } from "../src/adapters/qmp-client.ts";
import type { Clock } from "../src/model/contracts.ts";
import type { QmpEvent } from "../src/protocol/qmp.ts";
import { createFakeQemu, type DeviceArgs } from "../src/sim/qmp-server.ts";
import { eventually } from "./support/eventually.ts";

const clock: Clock = {
  now: () => Date.now(),
  setTimeout: (fn, ms) => setTimeout(fn, ms),
  clearTimeout: (timer) => clearTimeout(timer as NodeJS.Timeout),
};
const deps = { timings: { connectMs: 20_000, greetingMs: 20_000, commandMs: 20_000 }, clock };
const hasty = { timings: { ...deps.timings, greetingMs: 150 }, clock };

type Setup = {
  readonly machine: "pc" | "q35" | "none";
  readonly running?: boolean;
  readonly usb?: boolean;
  readonly name?: string;
  readonly uuid?: string;
  readonly devices?: readonly DeviceArgs[];
  /** Listens there, or dials there. */
  readonly path: string;
  readonly dials?: boolean;
};
type Process = { kill(): Promise<void>; end(): Promise<void> };
type Kind = { readonly title: string; readonly missing: string | null; boot(setup: Setup): Promise<Process> };

const fake = (version: string): Kind => ({
  title: `simulator as ${version}`,
  missing: null,
  async boot({ path, dials, running = false, ...setup }) {
    const qemu = createFakeQemu({
      ...setup,
      running,
      version,
      ...(dials === true ? {} : { path }),
      delays: { redialMs: 20, refusalMs: 5, deletedMs: 5 },
    });
    await qemu.start();
    if (dials === true) qemu.dialTo(path);
    return { kill: () => qemu.kill(), end: () => qemu.stop() };
  },
});

const BINARY = "qemu-system-x86_64";
const found = (process.env["PATH"] ?? "").split(delimiter).find((dir) => {
  try {
    accessSync(join(dir, BINARY), constants.X_OK);
    return dir !== "";
  } catch {
    return false;
  }
});
const real = (title: string, binary: string | null): Kind => ({
  title: `real ${title}`,
  missing: binary === null ? `${title} is not installed` : null,
  async boot({ machine, running, usb, name, uuid, devices = [], path, dials }) {
    const device = (args: DeviceArgs): string[] => [
      "-device",
      [args["driver"], ...Object.entries(args).flatMap(([key, value]) => (key === "driver" ? [] : [`${key}=${String(value)}`]))].join(","),
    ];
    const redial =
      dials === true && Number(/version (\d+)/.exec(spawnSync(binary ?? title, ["--version"]).stdout.toString())?.[1]) > 9
        ? "reconnect-ms=1000"
        : "reconnect=1";
    const monitor = dials === true ? `socket,id=ctl,path=${path},${redial}` : `socket,id=ctl,path=${path},server=on,wait=off`;
    const args = [
      ...[
        "-M",
        `${machine}${usb === true ? ",usb=on" : ""}`,
        "-accel",
        "tcg",
        "-m",
        "32",
        "-nodefaults",
        "-display",
        "none",
        "-serial",
        "none",
      ],
      ...(running === true ? [] : ["-S"]),
      ...(name === undefined ? [] : ["-name", name]),
      ...(uuid === undefined ? [] : ["-uuid", uuid]),
      ...devices.flatMap(device),
      ...["-chardev", monitor, "-mon", "chardev=ctl,mode=control"],
    ];
    const child: ChildProcess = spawn(binary ?? title, args, { stdio: "ignore" });
    const exited = new Promise<void>((resolve) => child.once("exit", () => resolve()));
    const stop = (signal: NodeJS.Signals) => (): Promise<void> => {
      child.kill(signal);
      return exited;
    };
    return { kill: stop("SIGKILL"), end: stop("SIGTERM") };
  },
});
/** A second QEMU, of another version, where there is one. */
const second = process.env["PLUGHERD_QEMU_10"];
const reals = [real(BINARY, found === undefined ? null : join(found, BINARY)), ...(second === undefined ? [] : [real(second, second)])];

if (process.env["PLUGHERD_REQUIRE_REAL"] === "1") test.each(reals)("$title is there", ({ missing }) => expect(missing).toBeNull());

describe.each([fake("7.2.22"), fake("10.0.13"), ...reals])("$title", (kind) => {
  if (kind.missing !== null) {
    test.skip(`left out: ${kind.missing}`, () => undefined);
    return;
  }
  let dir = "";
  let path = "";
  const closers: (() => unknown)[] = [];
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), "plugherd-real-"));
    path = join(dir, "vm.sock");
  });
  afterEach(async () => {
    for (const close of closers.splice(0).reverse()) await close();
    rmSync(dir, { recursive: true });
  });

  const boot = async (setup: Omit<Setup, "path">): Promise<Process> => {
    const running = await kind.boot({ path, ...setup });
    closers.push(() => running.end());
    return running;
  };
  const open = async (): Promise<QmpSession> => {
    const session = await eventually(async () => {
      const opened = await openQmp(path, deps);
      return opened.ok ? opened.value : null;
    });
    if (session === null) throw new Error("no session");
    closers.push(() => session.close());
    return session;
  };
  const start = async (setup: Omit<Setup, "path">): Promise<QmpSession> => {
    await boot(setup);
    return open();
  };
  const xhci = { driver: "qemu-xhci", id: "xhci" };
  const tablet = (id: string, port: string, bus = "xhci.0"): DeviceArgs => ({ driver: "usb-tablet", id, bus, port });
  const ask = async (session: QmpSession, command: string, args?: Readonly<Record<string, unknown>>): Promise<unknown> => {
    const reply = await session.execute(command, args);
    return reply.ok ? reply.value : reply.error.kind === "refused" ? `${reply.error.class}: ${reply.error.desc}` : reply.error;
  };
  const entries = async (session: QmpSession, of: string): Promise<Record<string, string>> => {
    const list = (await ask(session, "qom-list", { path: of })) as { name: string; type: string }[];
    return Object.fromEntries(list.map(({ name, type }) => [name, type]));
  };
  const peripherals = (session: QmpSession): Promise<Record<string, string>> => entries(session, "/machine/peripheral");
  const get = (session: QmpSession, of: string, property: string): Promise<unknown> => ask(session, "qom-get", { path: of, property });
  const old = (session: QmpSession): boolean => Number(session.version.split(".")[0]) < 9;

  describe("the monitor", () => {
    test("takes one client; the next is not greeted until that one is gone", async () => {
      const first = await start({ machine: "none" });
      expect(await openQmp(path, hasty)).toMatchObject({ ok: false, error: { kind: "busy" } });
      expect(await ask(first, "query-name")).toEqual({});
      const waiting = openQmp(path, deps);
      first.close();
      const second = await waiting;
      expect(second.ok).toBe(true);
      if (second.ok) second.value.close();
    });

    test("a killed process leaves a file that nobody answers for, one that quits leaves none", async () => {
      const killed = await boot({ machine: "none" });
      const session = await open();
      await killed.kill();
      await session.closed;
      expect(await openQmp(path, deps)).toMatchObject({ ok: false, error: { kind: "dead" } });
      const next = await start({ machine: "none" });
      expect(await ask(next, "quit")).toEqual({});
      await next.closed;
      await eventually(async () => {
        expect(await openQmp(path, deps)).toMatchObject({ ok: false, error: { kind: "absent" } });
        return true;
      });
    });

    test("hundreds of commands at once are answered each", async () => {
      const session = await start({ machine: "none" });
      const replies = await Promise.all(Array.from({ length: 400 }, () => session.execute("query-status")));
      expect(replies.every((reply) => reply.ok)).toBe(true);
    });

    test("says no in known words", async () => {
      const session = await start({ machine: "none" });
      expect(await ask(session, "bogus")).toBe("CommandNotFound: The command bogus has not been found");
      expect(await ask(session, "qmp_capabilities")).toBe("CommandNotFound: Capabilities negotiation is already complete, command ignored");
      expect(await ask(session, "device_del")).toBe("GenericError: Parameter 'id' is missing");
      expect(await ask(session, "device_del", { id: 5 })).toBe("GenericError: Invalid parameter type for 'id', expected: string");
      expect(await ask(session, "query-status", { zz: 1 })).toBe("GenericError: Parameter 'zz' is unexpected");
    });

    test("a connection that breaks takes nothing with it but itself", async () => {
      const session = await start({ machine: "pc", devices: [xhci] });
      const add = session.execute("device_add", tablet("t", "1"));
      session.close();
      expect(await add).toMatchObject({ ok: false, error: { kind: "closed", outcomeUnknown: true } });
      const again = await open();
      const before = await peripherals(again);
      const added = await ask(again, "device_add", tablet("t", "1"));
      expect(added).toEqual(before["t"] === undefined ? {} : "GenericError: Duplicate device ID 't'");
    });

    test("dials in, and again after it was let go; name and uuid tell who it is", async () => {
      const waiting: Socket[] = [];
      const server = createServer({ pauseOnConnect: true }, (socket) => waiting.push(socket));
      await new Promise<void>((resolve) => server.listen(path, resolve));
      closers.push(() => new Promise((resolve) => server.close(resolve)));
      await boot({ machine: "none", dials: true, name: "vm7", uuid: "11111111-2222-3333-4444-555555555555" });
      for (const turn of [1, 2]) {
        const socket = await eventually(() => waiting[turn - 1]);
        if (socket === undefined) throw new Error("nobody dialled");
        const session = await adoptQmp(socket, deps);
        if (!session.ok) throw new Error(session.error.message);
        expect(await ask(session.value, "query-name")).toEqual({ name: "vm7" });
        expect(await ask(session.value, "query-uuid")).toEqual({ UUID: "11111111-2222-3333-4444-555555555555" });
        session.value.close();
      }
    });
  });

  describe("run state", () => {
    test("stop, cont and reset are told and seen", async () => {
      const session = await start({ machine: "pc" });
      const events: QmpEvent[] = [];
      session.events$.subscribe((event) => events.push(event));
      expect(await ask(session, "query-status")).toMatchObject({ status: "prelaunch", running: false });
      await ask(session, "cont");
      expect(await ask(session, "query-status")).toMatchObject({ status: "running", running: true });
      await ask(session, "stop");
      await ask(session, "stop");
      expect(await ask(session, "query-status")).toMatchObject({ status: "paused", running: false });
      await ask(session, "system_reset");
      await eventually(() => events.some(({ name }) => name === "RESET"));
      const told = events.filter(({ name, data }) => name !== "RESET" || data["guest"] === false);
      expect(told.map(({ name }) => name)).toEqual(["RESUME", "STOP", "RESET"]);
      expect(told[2]?.data).toEqual({ guest: false, reason: "host-qmp-system-reset" });
    });
  });

  describe("devices", () => {
    test("are listed where they are, with what they were given", async () => {
      const session = await start({ machine: "pc", usb: true, devices: [xhci, { driver: "piix3-usb-uhci" }] });
      expect(await get(session, "/machine", "type")).toMatch(/^pc-i440fx-\d+\.\d+-machine$/);
      await ask(session, "device_add", tablet("t", "2"));
      await ask(session, "device_add", { driver: "usb-kbd", bus: "xhci.0", port: "3" });
      expect(await peripherals(session)).toEqual({ type: "string", xhci: "child<qemu-xhci>", t: "child<usb-tablet>" });
      expect(await entries(session, "/machine/peripheral-anon")).toEqual({
        type: "string",
        "device[0]": "child<piix3-usb-uhci>",
        "device[1]": "child<usb-kbd>",
      });
      expect(await get(session, "/machine/peripheral/t", "port")).toBe("2");
      expect(await get(session, "/machine/peripheral/t", "type")).toBe("usb-tablet");
      expect(await get(session, "/machine/peripheral/t", "attached")).toBe(true);
      expect(await get(session, "/machine/peripheral/t", "parent_bus")).toBe("/machine/peripheral/xhci/xhci.0");
      expect(await get(session, "/machine/peripheral/xhci", "parent_bus")).toBe("/machine/i440fx/pci.0");
      expect(await entries(session, "/machine/peripheral/xhci")).toMatchObject({ "xhci.0": "child<usb-bus>" });
      expect(await entries(session, "/machine/peripheral-anon/device[0]")).toMatchObject({ "usb-bus.1": "child<usb-bus>" });
      expect(await entries(session, "/machine/peripheral/xhci/xhci.0")).toEqual({
        type: "string",
        realized: "bool",
        "hotplug-handler": "link<hotplug-handler>",
        "child[0]": "link<usb-tablet>",
        "child[1]": "link<usb-kbd>",
      });
      expect(await get(session, "/machine/peripheral/xhci/xhci.0", "child[1]")).toBe("/machine/peripheral-anon/device[1]");
      expect(await get(session, "/machine/peripheral/xhci/xhci.0/child[0]", "port")).toBe("2");
      expect(Object.values(await entries(session, "/machine/i440fx/pci.0"))).toContain("link<qemu-xhci>");
      // Its own controller: 7.2 has it among the unattached, 10 and 11 inside the PIIX3 there; the PCI bus knows in all.
      const pci = await entries(session, "/machine/i440fx/pci.0");
      const [own = ""] = Object.keys(pci)
        .filter((name) => pci[name] === "link<piix3-usb-uhci>")
        .sort();
      const at = await get(session, "/machine/i440fx/pci.0", own);
      expect(at).toMatch(old(session) ? /^\/machine\/unattached\/device\[\d+\]$/ : /^\/machine\/unattached\/device\[\d+\]\/uhci$/);
      expect(await entries(session, String(at))).toMatchObject({ "usb-bus.0": "child<usb-bus>" });
      expect(await ask(session, "human-monitor-command", { "command-line": "info usb" })).toBe(
        "  Device 1.0, Port 2, Speed 480 Mb/s, Product QEMU USB Tablet, ID: t\r\n  Device 1.0, Port 3, Speed 480 Mb/s, Product QEMU USB Keyboard\r\n",
      );
    });

    test("what is not there is refused in known words", async () => {
      const session = await start({ machine: "pc", devices: [xhci, tablet("t", "1")] });
      const nope = "DeviceNotFound: Device '/machine/nope' not found";
      expect(await ask(session, "qom-list", { path: "/machine/nope" })).toBe(nope);
      expect(await get(session, "/machine/nope", "type")).toBe(nope);
      expect(await get(session, "/machine/peripheral/xhci", "zz")).toBe("GenericError: Property 'qemu-xhci.zz' not found");
      expect(await ask(session, "device_del", { id: "nope" })).toBe("DeviceNotFound: Device 'nope' not found");
      expect(await ask(session, "device-list-properties", { typename: "usb-nope" })).toBe("DeviceNotFound: Device 'usb-nope' not found");
      expect(await ask(session, "qom-set", { path: "/machine/peripheral/t", property: "port", value: "2" })).toBe(
        "GenericError: Attempt to set property 'port' on device 't' (type 'usb-tablet') after it was realized",
      );
    });

    test("an add is refused in known words, and leaves nothing", async () => {
      const session = await start({ machine: "pc", devices: [xhci, { driver: "usb-ehci", id: "ehci" }] });
      await ask(session, "device_add", tablet("t", "1"));
      const add = (args: DeviceArgs): Promise<unknown> => ask(session, "device_add", args);
      expect(await add(tablet("t", "2"))).toBe("GenericError: Duplicate device ID 't'");
      expect(await add(tablet("u", "1"))).toBe("GenericError: usb port 1 (bus xhci.0) not found (in use?)");
      expect(await add(tablet("u", "99"))).toBe("GenericError: usb port 99 (bus xhci.0) not found (in use?)");
      expect(await add(tablet("u", "1", "nobus.0"))).toBe("GenericError: Bus 'nobus.0' not found");
      expect(await add(tablet("u", "1", "xhci"))).toBe("GenericError: Bus 'xhci' not found");
      expect(await add(tablet("u", "1", "pci.0"))).toBe("GenericError: Device 'usb-tablet' can't go on PCI bus");
      expect(await add({ driver: "qemu-xhci", id: "u", bus: "xhci.0" })).toBe("GenericError: Device 'qemu-xhci' can't go on usb-bus bus");
      expect(await add({ driver: "usb-nope", id: "u" })).toBe("GenericError: 'usb-nope' is not a valid device model name");
      expect(await add({ driver: "usb-device", id: "u" })).toBe("GenericError: Parameter 'driver' expects a non-abstract device type");
      expect(await add({ driver: "ich9-usb-ehci1", id: "u" })).toBe(
        old(session)
          ? "GenericError: Parameter 'driver' expects a pluggable device type"
          : "GenericError: Device 'ich9-usb-ehci1' does not support hotplugging",
      );
      expect(await add({ ...tablet("u", "2"), frob: 1 })).toBe("GenericError: Property 'usb-tablet.frob' not found");
      expect(await add({ id: "u" })).toBe("GenericError: Parameter 'driver' is missing");
      expect(await add({ driver: "usb-hub", id: "u", bus: "ehci.0", port: "1" })).toBe(
        'GenericError: Warning: speed mismatch trying to attach usb device "QEMU USB Hub" (full speed) to bus "ehci.0", port "1" (high speed)',
      );
      expect(Object.keys(await peripherals(session)).sort()).toEqual(["ehci", "t", "type", "xhci"]);
    });

    test("a removal is done at once: id and port are free, the event comes later, when a new one may already stand there", async () => {
      const session = await start({ machine: "pc", devices: [xhci] });
      const gone: unknown[] = [];
      session.events$.subscribe(({ name, data }) => gone.push([name, data]));
      await ask(session, "device_add", tablet("t", "1"));
      expect(await Promise.all([ask(session, "device_del", { id: "t" }), ask(session, "device_add", tablet("t", "1"))])).toEqual([{}, {}]);
      await eventually(() => gone.length > 0);
      expect(gone).toEqual([["DEVICE_DELETED", { device: "t", path: "/machine/peripheral/t" }]]);
      expect(await peripherals(session)).toHaveProperty("t");
    });

    test("a hub takes what is behind it along, deepest first; anonymous ones go by their path", async () => {
      const session = await start({ machine: "pc", devices: [xhci] });
      const gone: unknown[] = [];
      session.events$.subscribe(({ data }) => gone.push(data["device"] ?? data["path"]));
      const steps: [string, Readonly<Record<string, unknown>>][] = [
        ["device_add", { driver: "usb-hub", id: "h", bus: "xhci.0", port: "1" }],
        ["device_add", tablet("a", "1.2")],
        ["device_add", { driver: "usb-hub", id: "i", bus: "xhci.0", port: "1.1" }],
        ["device_add", tablet("b", "1.1.8")],
        ["device_add", { driver: "usb-kbd", bus: "xhci.0", port: "2" }],
        ["device_del", { id: "h" }],
        ["device_del", { id: "/machine/peripheral-anon/device[0]" }],
      ];
      for (const [command, args] of steps) expect(await ask(session, command, args)).toEqual({});
      await eventually(() => gone.length === 5);
      expect(gone).toEqual(["b", "i", "a", "h", "/machine/peripheral-anon/device[0]"]);
    });

    test("without a port, the last free one gets a hub in between", async () => {
      const session = await start({ machine: "pc", devices: [{ driver: "piix3-usb-uhci", id: "u" }] });
      for (const id of ["a", "b"]) await ask(session, "device_add", { driver: "usb-mouse", id, bus: "u.0" });
      expect(await get(session, "/machine/peripheral/b", "port")).toBe("");
      expect(await ask(session, "human-monitor-command", { "command-line": "info usb" })).toBe(
        "  Device 0.0, Port 1, Speed 12 Mb/s, Product QEMU USB Mouse, ID: a\r\n  Device 0.0, Port 2, Speed 12 Mb/s, Product QEMU USB Hub\r\n" +
          "  Device 0.0, Port 2.1, Speed 12 Mb/s, Product QEMU USB Mouse, ID: b\r\n",
      );
      expect(Object.values(await entries(session, "/machine/unattached"))).toContain("child<usb-hub>");
      expect(await ask(session, "device_add", tablet("c", "2", "u.0"))).toBe("GenericError: usb port 2 (bus u.0) not found (in use?)");
    });

    test("what happens while nobody is connected is not told later", async () => {
      const session = await start({ machine: "pc", devices: [xhci] });
      await ask(session, "device_add", tablet("t", "1"));
      await ask(session, "device_del", { id: "t" });
      session.close();
      const again = await open();
      const events: string[] = [];
      again.events$.subscribe(({ name }) => events.push(name));
      await ask(again, "device_add", tablet("v", "1"));
      await ask(again, "device_del", { id: "v" });
      await eventually(() => events.length > 0);
      expect(await peripherals(again)).toEqual({ type: "string", xhci: "child<qemu-xhci>" });
    });
  });

  describe("controllers", () => {
    test("pc takes them on its root bus, at once usable; more ports than 15 are 15", async () => {
      const session = await start({ machine: "pc" });
      for (const driver of ["piix3-usb-uhci", "usb-ehci", "nec-usb-xhci"]) {
        expect(await ask(session, "device_add", { driver, id: driver })).toEqual({});
      }
      expect(await ask(session, "device_add", { driver: "qemu-xhci", id: "x", bus: "pci.0", p2: 16, p3: 8 })).toEqual({});
      expect([await get(session, "/machine/peripheral/x", "p2"), await get(session, "/machine/peripheral/x", "p3")]).toEqual([15, 8]);
      expect(await ask(session, "device_add", tablet("t", "15", "x.0"))).toEqual({});
    });

    test("q35 takes them on a root port only", async () => {
      const session = await start({ machine: "q35", devices: [{ driver: "pcie-root-port", id: "rp0", chassis: 1 }] });
      const no = "GenericError: Bus 'pcie.0' does not support hotplugging";
      expect(await ask(session, "device_add", xhci)).toBe(no);
      expect(await ask(session, "device_add", { ...xhci, bus: "pcie.0" })).toBe(no);
      expect(await entries(session, "/machine/peripheral/rp0")).toMatchObject({ rp0: "child<PCIE>" });
      expect(Object.keys(await entries(session, "/machine/peripheral/rp0/rp0")).some((name) => name.startsWith("child["))).toBe(false);
      expect(await ask(session, "device_add", { ...xhci, bus: "rp0" })).toEqual({});
      expect(Object.values(await entries(session, "/machine/peripheral/rp0/rp0"))).toContain("link<qemu-xhci>");
      expect(await get(session, "/machine", "type")).toMatch(/^pc-q35-/);
    });

    test("q35's own controllers: an EHCI that takes slow devices, too, and companions without a bus", async () => {
      const session = await start({ machine: "q35", usb: true });
      expect(await ask(session, "device_add", { driver: "usb-mouse", id: "m", bus: "usb-bus.0", port: "6", usb_version: 1 })).toEqual({});
      const of = "/machine/q35/pcie.0";
      const pci = await entries(session, of);
      const links = Object.keys(pci).filter((name) => pci[name]?.includes("usb"));
      const paths = await Promise.all(links.map((name) => get(session, of, name)));
      const buses = await Promise.all(
        paths.map(async (path) => Object.values(await entries(session, String(path))).includes("child<usb-bus>")),
      );
      expect(buses.sort()).toEqual([false, false, false, true]);
    });

    test("no USB at all", async () => {
      const session = await start({ machine: "none" });
      expect(await get(session, "/machine", "type")).toBe("none-machine");
      expect(await ask(session, "device_add", { driver: "usb-kbd", id: "k" })).toBe(
        "GenericError: No 'usb-bus' bus found for device 'usb-kbd'",
      );
      expect(await ask(session, "device_add", xhci)).toBe("GenericError: No 'PCI' bus found for device 'qemu-xhci'");
      expect(await ask(session, "query-pci")).toEqual([]);
    });

    test("a removal waits for the guest, and happens at a reset with everything on it; 7.2 does not tell of an xHCI", async () => {
      const session = await start({ machine: "pc" });
      const gone: unknown[] = [];
      session.events$.subscribe(({ name, data }) => name === "DEVICE_DELETED" && gone.push(data["device"] ?? data["path"]));
      for (const args of [{ driver: "usb-ehci", id: "e" }, xhci, tablet("t", "1"), tablet("v", "2"), tablet("w", "1", "e.0")]) {
        expect(await ask(session, "device_add", args)).toEqual({});
      }
      expect(await ask(session, "device_del", { id: "xhci" })).toEqual({});
      expect(await ask(session, "device_del", { id: "xhci" })).toBe("GenericError: Device xhci is already in the process of unplug");
      expect(await peripherals(session)).toHaveProperty("xhci");
      expect(await ask(session, "device_add", { driver: "usb-kbd", id: "k", bus: "xhci.0", port: "4" })).toEqual({});
      await ask(session, "system_reset");
      await eventually(async () => !("xhci" in (await peripherals(session))));
      expect(await ask(session, "device_del", { id: "e" })).toEqual({});
      await ask(session, "system_reset");
      await eventually(() => gone.includes("e"));
      const own = old(session) ? [] : ["/machine/peripheral/xhci/xhci-core", "xhci"];
      expect(gone).toEqual(["k", "v", "t", ...own, "w", "e"]);
    });
  });

  describe("usb-host", () => {
    test("exact mode says at once when the device is not there; auto-scan waits for it, and its filter can be read back", async () => {
      const session = await start({ machine: "pc", devices: [xhci] });
      const host = { driver: "usb-host", id: "h", bus: "xhci.0", port: "1" };
      expect(await ask(session, "device_add", { ...host, hostbus: 1, hostaddr: 5 })).toBe(
        "GenericError: failed to find host usb device 1:5",
      );
      expect(await ask(session, "device_add", { ...host, hostbus: 1, hostaddr: 128 })).toBe("GenericError: hostaddr out of range");
      expect(await ask(session, "device_add", { ...host, vendorid: 65536 })).toBe("GenericError: vendorid out of range");
      const node = join(dir, "no-such-node");
      expect(await ask(session, "device_add", { ...host, hostbus: 1, hostaddr: 5, hostdevice: node })).toBe(
        `GenericError: ${old(session) ? `failed to open ${node}` : `Could not open '${node}'`}: No such file or directory`,
      );
      expect(await ask(session, "device_add", { ...host, hostbus: 1, hostport: "2.1", vendorid: 0x529 })).toEqual({});
      const read = ["hostbus", "hostaddr", "hostport", "vendorid", "productid", "hostdevice", "port", "attached"];
      expect(await Promise.all(read.map((name) => get(session, "/machine/peripheral/h", name)))).toEqual([
        1,
        0,
        "2.1",
        0x529,
        0,
        "",
        "1",
        false,
      ]);
      expect(await ask(session, "qom-set", { path: "/machine/peripheral/h", property: "attached", value: true })).toBe(
        "GenericError: Property 'usb-host.attached' is not writable",
      );
      expect(await ask(session, "device-list-properties", { typename: "usb-host" })).toContainEqual({ name: "hostdevice", type: "str" });
    });
  });
});
