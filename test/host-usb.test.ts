/** Host devices through real directories: arrival, departure, settling, doubts, anchors, and what a device can do to its reader. */
import { execFileSync } from "node:child_process";
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { watch } from "chokidar";
import fc from "fast-check";
import { describe, expect, onTestFinished, test } from "vitest";
import type { SimDeviceSpec } from "../src/sim/sysfs-spec.ts";
import { createSysfsTree, type SysfsTree } from "../src/sim/sysfs-tree.ts";
import { eventually } from "./support/eventually.ts";
import { holds, newTree, watchHost } from "./support/host-watch.ts";
import { recording } from "./support/sysfs-recording.ts";

const DONGLE: SimDeviceSpec = {
  port: "1-4",
  vendor: "0529",
  product: "0001",
  serial: "0A4C2F",
  manufacturer: "ACME",
  productName: "Dongle",
  removable: "removable",
  interfaces: [{ class: 3, subclass: 0, protocol: 0, driver: "usbhid" }],
};
const at = (port: string, more: Partial<SimDeviceSpec> = {}): SimDeviceSpec => ({ ...DONGLE, port, ...more });
/** Settling that has no end within a test. */
const PATIENT = { hostSettleMs: 60_000, auditMs: 30_000, commandMs: 5_000 };
const node = (path: string): string => join(path, "bus/usb");

describe.each([
  ["plain directories, read at once", false],
  ["a sysfs that makes readers wait, read from threads", true],
])("%s", (_, mayWait) => {
  test("the first change is a snapshot of everything, told whole", async () => {
    const tree = newTree();
    const { node: path } = tree.plug(DONGLE);
    const { changes } = await watchHost(tree, { mayWait });
    expect(changes).toEqual([
      {
        kind: "snapshot",
        devices: [
          {
            busid: "1-4",
            anchor: "pci-0000:00:14.0/4",
            bus: 1,
            address: 2,
            inode: statSync(path).ino,
            node: join(tree.dev, "bus/usb/001/002"),
            vendor: "0529",
            product: "0001",
            deviceClass: { class: 0, subclass: 0, protocol: 0 },
            interfaces: [{ class: 3, subclass: 0, protocol: 0 }],
            speed: 480,
            serial: "0A4C2F",
            manufacturer: "ACME",
            productName: "Dongle",
            removable: true,
            hub: false,
            drivers: ["usbhid"],
            access: { mode: statSync(path).mode & 0o7777, uid: statSync(path).uid, gid: statSync(path).gid },
          },
        ],
      },
    ]);
  });

  test("a plug is one change, an unplug another, and nothing runs in between", async () => {
    const tree = newTree();
    const seen = await watchHost(tree, { mayWait });
    tree.plug(DONGLE);
    expect(await seen.device("1-4")).toMatchObject({ address: 2, serial: "0A4C2F", productName: "Dongle" });
    await eventually(() => seen.timers.size === 0);
    tree.unplug("1-4");
    await seen.gone("1-4");
    await eventually(() => seen.timers.size === 0);
    await seen.host.audit();
    expect(seen.told("1-4")).toEqual([2, null]);
  });

  test("the same place, enumerated again, comes with its new address, and with what it is now", async () => {
    const tree = newTree();
    tree.plug(DONGLE);
    const seen = await watchHost(tree, { mayWait });
    tree.reenumerate("1-4", { product: "0df0", serial: "BOOT" });
    await holds(() => expect(seen.now().get("1-4")).toMatchObject({ address: 3, serial: "BOOT" }));
    await seen.host.audit();
    expect(seen.told("1-4").at(-1)).toBe(3);
    expect(seen.told("1-4").filter((address) => address === 3)).toHaveLength(1);
  });

  test("64 devices at once are all told, once each, and all go", async () => {
    const tree = newTree({ detail: "lean", controllers: [{ path: "pci0000:00/0000:00:14.0", ports2: 64, ports3: 0 }] });
    const seen = await watchHost(tree, { mayWait, timings: PATIENT });
    const busids = Array.from({ length: 64 }, (_none, i) => `1-${String(i + 1)}`);
    tree.plugAll(busids.map((busid, i) => at(busid, { serial: `S${String(i)}` })));
    await eventually(() => seen.now().size === 64);
    expect(busids.map((busid) => seen.now().get(busid)?.serial)).toEqual(busids.map((_none, i) => `S${String(i)}`));
    for (const busid of busids) tree.unplug(busid);
    await eventually(() => seen.now().size === 0);
    await seen.host.audit();
    expect(seen.changes.filter(({ kind }) => kind === "device")).toHaveLength(128);
  });

  test("a port that flaps ends as it is, and never tells a departure twice in a row", async () => {
    const tree = newTree({ detail: "lean" });
    const seen = await watchHost(tree, { mayWait });
    for (let i = 0; i < 150; i += 1) {
      tree.plug(DONGLE);
      if (i % 3 === 0) await new Promise((resolve) => setImmediate(resolve));
      if (i < 149) tree.unplug("1-4");
    }
    const last = [...tree.devices()].find(({ port, bus }) => port === "4" && bus === 1)?.address;
    await holds(() => expect(seen.now().get("1-4")?.address).toBe(last));
    await seen.host.audit();
    const told = seen.told("1-4");
    expect(told.filter((address, i) => address === null && told[i - 1] === null)).toEqual([]);
    expect(told.at(-1)).toBe(last);
  });

  test("nothing is told of a device before its descriptors are there, and then at once", async () => {
    const tree = newTree();
    const seen = await watchHost(tree, { mayWait, timings: PATIENT });
    tree.plug({ ...DONGLE, interfacesLater: "step", lateDescriptors: true });
    tree.plug(at("1-5"));
    await seen.device("1-5");
    await eventually(() => seen.timers.size > 0);
    expect(seen.told("1-4")).toEqual([]);
    tree.finish("1-4");
    await seen.device("1-4");
    expect(seen.told("1-4")).toEqual([2]);
  });

  test("descriptors are enough: interface directories are not waited for", async () => {
    const tree = newTree();
    const seen = await watchHost(tree, { mayWait, timings: PATIENT });
    tree.plug({ ...DONGLE, interfacesLater: "step" });
    expect((await seen.device("1-4")).interfaces).toEqual([{ class: 3, subclass: 0, protocol: 0 }]);
  });

  test("one that never gets configured is told after its time, interfaces unknown, and corrected later", async () => {
    const tree = newTree();
    const seen = await watchHost(tree, { mayWait });
    tree.plug({ ...DONGLE, interfacesLater: "step", lateDescriptors: true });
    expect(await seen.device("1-4")).toMatchObject({ interfaces: null, serial: "0A4C2F" });
    tree.finish("1-4");
    await seen.host.audit();
    await holds(() => expect(seen.now().get("1-4")?.interfaces).toHaveLength(1));
  });

  test("one that comes and goes before it has settled is never told, and leaves nothing behind", async () => {
    const tree = newTree();
    const seen = await watchHost(tree, { mayWait, timings: PATIENT });
    tree.plug({ ...DONGLE, interfacesLater: "step", lateDescriptors: true });
    await eventually(() => seen.timers.size > 0);
    tree.unplug("1-4");
    await eventually(() => seen.timers.size === 0);
    tree.plug(at("1-5"));
    await seen.device("1-5");
    expect(seen.told("1-4")).toEqual([]);
  });

  test("what is still settling at the start belongs to the first snapshot", async () => {
    const tree = newTree();
    tree.plug({ ...DONGLE, interfacesLater: "step", lateDescriptors: true });
    const seen = await watchHost(tree, { mayWait });
    expect(seen.changes[0]).toMatchObject({ kind: "snapshot", devices: [{ busid: "1-4", interfaces: null }] });
  });

  test("an audit tells what differs, and nothing else", async () => {
    const tree = newTree();
    tree.plugAll([DONGLE, at("1-5"), at("1-6")]);
    const seen = await watchHost(tree, { mayWait });
    await seen.host.audit();
    expect(seen.changes).toHaveLength(1);
    writeFileSync(join(tree.sysfs, "bus/usb/devices/1-5/speed"), "12\n");
    await seen.host.audit();
    expect(seen.changes.slice(1)).toMatchObject([{ busid: "1-5", device: { speed: 12 } }]);
  });
});

describe("doubts", () => {
  test("after a sleep of the host an audit is a snapshot", async () => {
    const tree = newTree();
    tree.plug(DONGLE);
    const seen = await watchHost(tree);
    await seen.host.audit();
    expect(seen.changes).toHaveLength(1);
    seen.sleep(100_000);
    await seen.host.audit();
    expect(seen.changes.slice(1)).toMatchObject([{ kind: "snapshot", devices: [{ busid: "1-4" }] }]);
  });

  test.each(["", "bus", "bus/usb"])("a device tree whose /dev/%s is missing at first is noticed when it appears", async (part) => {
    const tree = newTree();
    const place = join(tree.dev, part);
    renameSync(place, `${tree.dev}-away`);
    const seen = await watchHost(tree);
    expect(seen.now().size).toBe(0);
    renameSync(`${tree.dev}-away`, place);
    tree.plug(DONGLE);
    expect((await seen.device("1-4")).inode).toBeGreaterThan(0);
  });

  test("sysfs and /dev may both be missing; nothing is there then", async () => {
    const root = mkdtempSync(join(tmpdir(), "plugherd-none-"));
    onTestFinished(() => rmSync(root, { recursive: true, force: true }));
    const paths = { sysfs: join(root, "a/sys"), dev: join(root, "a/b/dev"), proc: join(root, "proc") };
    const seen = await watchHost(paths);
    expect(seen.changes).toEqual([{ kind: "snapshot", devices: [] }]);
    const tree = createSysfsTree(join(root, "later"));
    tree.plug(DONGLE);
    mkdirSync(join(root, "a/b"), { recursive: true });
    renameSync(tree.sysfs, paths.sysfs);
    renameSync(tree.dev, paths.dev);
    expect((await seen.device("1-4")).address).toBe(2);
  });

  test("a device that is listed but has no node is told after its time, as not there to open", async () => {
    const tree = newTree();
    const { node: path } = tree.plug(DONGLE);
    rmSync(path);
    const seen = await watchHost(tree);
    expect(seen.now().get("1-4")).toMatchObject({ inode: 0, address: 2 });
    writeFileSync(path, "");
    await holds(() => expect(seen.now().get("1-4")?.inode).toBe(statSync(path).ino));
  });

  test("a node that goes while sysfs lingers is a departure, and no audit brings it back", async () => {
    const tree = newTree();
    const { node: path } = tree.plug(DONGLE);
    const seen = await watchHost(tree);
    rmSync(path);
    await seen.gone("1-4");
    await seen.host.audit();
    expect(seen.told("1-4")).toEqual([null]);
    writeFileSync(path, "");
    await seen.device("1-4");
  });

  test("another owner or mode of the node is news, for whoever could not open it", async () => {
    const tree = newTree();
    const { node: path } = tree.plug(DONGLE);
    const seen = await watchHost(tree);
    chmodSync(path, 0o600);
    await holds(() => expect(seen.told("1-4")).toEqual([2]));
  });

  test("controllers come and go, with what hangs on them", async () => {
    const tree = newTree();
    const seen = await watchHost(tree);
    const { usb2 } = tree.addController({ path: "pci0000:00/0000:00:1a.0", ports2: 4, ports3: 0 });
    tree.plug(at(`${String(usb2)}-1`));
    expect((await seen.device(`${String(usb2)}-1`)).anchor).toBe("pci-0000:00:1a.0/1");
    tree.removeController("pci0000:00/0000:00:1a.0");
    await seen.gone(`${String(usb2)}-1`);
  });

  test("a bus directory that is replaced by another of its name is watched again", async () => {
    const tree = newTree();
    tree.plug(DONGLE);
    const seen = await watchHost(tree);
    const bus = join(node(tree.dev), "001");
    rmSync(bus, { recursive: true });
    mkdirSync(bus);
    await seen.gone("1-4");
    tree.plug(at("1-5"));
    await seen.device("1-5");
    tree.plug(at("1-6"));
    await seen.device("1-6");
  });

  test("the whole node tree replaced is watched again", async () => {
    const tree = newTree();
    tree.plug(DONGLE);
    const seen = await watchHost(tree);
    renameSync(node(tree.dev), `${tree.dev}-old`);
    await seen.gone("1-4");
    renameSync(`${tree.dev}-old`, node(tree.dev));
    await seen.device("1-4");
    tree.plug(at("1-5"));
    await seen.device("1-5");
    expect(seen.warnings.join()).toContain("is gone");
  });

  test("more events in one go than the kernel may have kept are a doubt", async () => {
    const tree = newTree();
    const seen = await watchHost(tree);
    const path = join(node(tree.dev), "001/099");
    for (let i = 0; i < 3000; i += 1) {
      writeFileSync(path, "");
      rmSync(path);
    }
    await eventually(() => seen.changes.filter(({ kind }) => kind === "snapshot").length === 2);
    expect(seen.warnings.join()).toContain("some may be lost");
  });

  test("after the end nothing is told and nothing runs", async () => {
    const tree = newTree();
    const seen = await watchHost(tree);
    seen.close();
    tree.plug(DONGLE);
    await seen.host.audit();
    expect([seen.changes.length, seen.timers.size]).toEqual([1, 0]);
  });
});

describe("chokidar on device nodes", () => {
  /** What chokidar tells of one node that is removed and made again at once, and then removed. */
  const tell = async (options: { atomic?: boolean }): Promise<string[]> => {
    const root = mkdtempSync(join(tmpdir(), "plugherd-nodes-"));
    onTestFinished(() => rmSync(root, { recursive: true, force: true }));
    const path = join(root, "005");
    writeFileSync(path, "");
    const told: string[] = [];
    const watcher = watch(root, { ignoreInitial: true, ...options });
    onTestFinished(() => watcher.close());
    await new Promise((resolve) => watcher.on("ready", () => resolve(undefined)));
    watcher.on("all", (event, changed) => {
      if (changed === path) told.push(event);
    });
    rmSync(path);
    await eventually(() => watcher.getWatched()[root]?.includes("005") === false);
    writeFileSync(path, "");
    await eventually(() => told.length > 0 && watcher.getWatched()[root]?.includes("005") === true && told.at(-1) !== "unlink");
    return told;
  };

  test("with its defaults a replug at one address looks like a change of the same device; hence atomic: false", async () => {
    expect(await tell({})).toEqual(["change"]);
    expect(await tell({ atomic: false })).toEqual(["unlink", "add"]);
  });
});

describe("anchors", () => {
  test("both halves of a socket have one anchor, counted as the USB 2 root hub counts", async () => {
    const socket3 = (port: number): number | null => (port === 4 ? null : port + 5);
    const tree = newTree({ controllers: [{ path: "pci0000:00/0000:00:14.0", ports2: 10, ports3: 4, socket3 }] });
    tree.plugAll([at("1-6"), at("2-2", { speed: 5000 }), at("2-4", { speed: 5000 })]);
    const { now } = await watchHost(tree);
    expect([...now()].map(([busid, { anchor }]) => [busid, anchor]).sort()).toEqual([
      ["1-6", "pci-0000:00:14.0/6"],
      ["2-2", "pci-0000:00:14.0/7"],
      ["2-4", "pci-0000:00:14.0/4"],
    ]);
    expect(realpathSync(join(tree.sysfs, "bus/usb/devices/usb2/2-0:1.0/usb2-port2/peer"))).toMatch(/usb1-port7$/);
  });

  test("below hubs too; platform controllers by their name", async () => {
    const tree = newTree({
      controllers: [
        { path: "pci0000:00/0000:00:14.0", ports2: 10, ports3: 4, socket3: (port) => port + 5 },
        { path: "platform/soc/3f980000.usb", ports2: 1, ports3: 0 },
      ],
    });
    tree.plugAll([
      at("1-6", { hub: 4 }),
      at("2-1", { hub: 4, speed: 5000 }),
      at("1-6.3"),
      at("2-1.3", { speed: 5000 }),
      at("3-1", { hub: 2 }),
      at("3-1.2"),
    ]);
    const { now } = await watchHost(tree);
    expect(Object.fromEntries([...now()].map(([busid, { anchor, hub }]) => [busid, [anchor, hub]]))).toEqual({
      "1-6": ["pci-0000:00:14.0/6", true],
      "2-1": ["pci-0000:00:14.0/6", true],
      "1-6.3": ["pci-0000:00:14.0/6.3", false],
      "2-1.3": ["pci-0000:00:14.0/6.3", false],
      "3-1": ["platform-3f980000.usb/1", true],
      "3-1.2": ["platform-3f980000.usb/1.2", false],
    });
  });

  test("a hub takes what is behind it along", async () => {
    const tree = newTree();
    tree.plugAll([at("1-3", { hub: 4 }), at("1-3.2", { hub: 4 }), at("1-3.2.1")]);
    const seen = await watchHost(tree);
    tree.unplug("1-3");
    await eventually(() => seen.now().size === 0);
    expect(seen.changes.slice(1)).toHaveLength(3);
  });

  test("whatever numbers the buses get, a place keeps its anchor", async () => {
    const anyController = fc.record({
      slot: fc.integer({ min: 0, max: 0xff }),
      ports3: fc.integer({ min: 0, max: 4 }),
      shift: fc.integer({ min: 0, max: 4 }),
    });
    const anyHost = fc.record({
      controllers: fc.uniqueArray(anyController, { minLength: 1, maxLength: 4, selector: ({ slot }) => slot }),
      plugs: fc.uniqueArray(fc.record({ controller: fc.nat(), port: fc.integer({ min: 1, max: 4 }), fast: fc.boolean() }), {
        maxLength: 8,
        selector: ({ controller, port, fast }) => `${String(controller % 4)} ${String(port)} ${String(fast)}`,
      }),
    });
    await fc.assert(
      fc.asyncProperty(anyHost, async ({ controllers, plugs }) => {
        const root = mkdtempSync(join(tmpdir(), "plugherd-anchor-"));
        try {
          const paths = controllers.map(({ slot }) => `0000:${slot.toString(16).padStart(2, "0")}:00.0`);
          const tree = createSysfsTree(root, {
            detail: "lean",
            controllers: controllers.map(({ ports3, shift }, i) => ({
              path: `pci0000:00/${paths[i] ?? ""}`,
              ports2: 8,
              ports3,
              socket3: (port: number) => port + shift,
            })),
          });
          const wanted = new Map<string, string>();
          plugs.forEach(({ controller, port, fast }, i) => {
            const index = controller % controllers.length;
            const { ports3 = 0, shift = 0 } = controllers[index] ?? {};
            const anchor = `pci-${paths[index] ?? ""}/${String(fast && port <= ports3 ? port + shift : port)}`;
            try {
              tree.plug(at(anchor, { serial: String(i), speed: fast && port <= ports3 ? 5000 : 480 }));
              wanted.set(String(i), anchor);
            } catch {
              // the socket is taken
            }
          });
          const read = async (): Promise<Record<string, string | null>> => {
            const seen = await watchHost(tree);
            seen.close();
            return Object.fromEntries([...seen.now().values()].map(({ serial, anchor }) => [serial, anchor]));
          };
          const before = await read();
          expect(before).toEqual(Object.fromEntries(wanted));
          const moved = tree.renumberBuses();
          expect(moved.size).toBe(wanted.size);
          expect(await read()).toEqual(before);
        } finally {
          rmSync(root, { recursive: true, force: true });
        }
      }),
      { numRuns: 10 },
    );
  });
});

describe("what a device or a host can do to us", () => {
  const attribute = (tree: SysfsTree, busid: string, name: string): string => join(tree.sysfs, "bus/usb/devices", busid, name);

  test("texts of any kind and length are taken, bounded and raw", async () => {
    const tree = newTree();
    tree.plug({ ...DONGLE, serial: "x".repeat(100_000), manufacturer: "\u001b[2J\u202e\n\0", productName: "€".repeat(3000) });
    const { now } = await watchHost(tree);
    const device = now().get("1-4");
    expect(device?.serial).toBe("x".repeat(256));
    expect(device?.manufacturer).toBe("\u001b[2J\u202e\n\0");
    expect([...(device?.productName ?? "")].length).toBe(256);
  });

  test("only ids, bus and address are needed", async () => {
    const tree = newTree();
    const { node: path } = tree.plug(DONGLE);
    const directory = attribute(tree, "1-4", "");
    for (const name of readdirSync(directory))
      if (!["idVendor", "idProduct", "busnum", "devnum"].includes(name)) rmSync(join(directory, name), { recursive: true });
    const seen = await watchHost(tree);
    expect(seen.now().get("1-4")).toMatchObject({
      vendor: "0529",
      interfaces: null,
      deviceClass: null,
      speed: null,
      serial: null,
      inode: statSync(path).ino,
      drivers: [],
    });
    rmSync(join(directory, "idVendor"));
    await seen.host.audit();
    await seen.gone("1-4");
  });

  test("a flat tree without the kernel's links is read as well", async () => {
    const tree = newTree();
    rmSync(join(tree.sysfs, "dev"), { recursive: true });
    const seen = await watchHost(tree);
    const directory = join(tree.sysfs, "bus/usb/devices/1-9");
    mkdirSync(directory);
    for (const [name, text] of Object.entries({ idVendor: "0529", idProduct: "0001", busnum: "1", devnum: "77" }))
      writeFileSync(join(directory, name), `${text}\n`);
    writeFileSync(join(node(tree.dev), "001/077"), "");
    expect(await seen.device("1-9")).toMatchObject({ address: 77, interfaces: null, anchor: "pci-0000:00:14.0/9" });
  });

  test("a node that is there before its directory is found a moment later", async () => {
    const tree = newTree();
    const seen = await watchHost(tree, { timings: PATIENT });
    writeFileSync(join(node(tree.dev), "001/002"), "");
    await eventually(() => seen.timers.size > 0);
    rmSync(join(node(tree.dev), "001/002"));
    tree.plug(DONGLE);
    await seen.device("1-4");
  });

  test("a pipe, a directory or a loop of links in an attribute's place holds nobody", async () => {
    const tree = newTree();
    tree.plug(DONGLE);
    for (const name of ["serial", "product", "speed", "descriptors"]) rmSync(attribute(tree, "1-4", name));
    execFileSync("mkfifo", [attribute(tree, "1-4", "serial")]);
    mkdirSync(attribute(tree, "1-4", "product"));
    execFileSync("ln", ["-s", "descriptors", attribute(tree, "1-4", "descriptors")]);
    const seen = await watchHost(tree);
    expect(seen.now().get("1-4")).toMatchObject({ serial: null, productName: null, speed: null, interfaces: [{ class: 3 }] });
  });

  test("a busid and a busnum that do not agree are no device", async () => {
    const tree = newTree();
    tree.plug({ ...DONGLE, attributes: { busnum: "7\n" } });
    const { now } = await watchHost(tree);
    expect(now().size).toBe(0);
  });

  test("descriptors that make no sense leave the interfaces to the kernel's own view", async () => {
    const tree = newTree();
    tree.plug({ ...DONGLE, descriptors: Uint8Array.from([0, 0, 0]) });
    const { now } = await watchHost(tree);
    expect(now().get("1-4")?.interfaces).toEqual([{ class: 3, subclass: 0, protocol: 0 }]);
  });
});

describe("the simulated tree", () => {
  test("has what a real kernel's has", () => {
    const tree = newTree({ controllers: [{ path: "pci0000:00/0000:00:04.0", ports2: 8, ports3: 8 }] });
    tree.plug({
      port: "2-1",
      vendor: "46f4",
      product: "0001",
      serial: "S1",
      manufacturer: "QEMU",
      productName: "QEMU USB HARDDRIVE",
      speed: 5000,
      interfaces: [{ class: 8, subclass: 6, protocol: 80, driver: "usb-storage" }],
      block: [{ name: "sda" }],
    });
    for (const busid of ["2-1", "usb1", "usb2"]) {
      const real = recording.devices[busid];
      const directory = join(tree.sysfs, "bus/usb/devices", busid);
      expect(realpathSync(directory).slice(tree.sysfs.length)).toBe(real?.path.slice("/sys".length));
      expect(readFileSync(join(directory, "busnum"), "utf8")).toBe(real?.attributes["busnum"]);
      for (const name of [
        "idVendor",
        "idProduct",
        "devnum",
        "speed",
        "removable",
        "dev",
        "devpath",
        "bNumInterfaces",
        "bDeviceClass",
        "maxchild",
        "version",
      ]) {
        expect([busid, name, readFileSync(join(directory, name), "utf8")]).toEqual([busid, name, real?.attributes[name]]);
      }
      for (const [face, { attributes, ports }] of Object.entries(real?.interfaces ?? {})) {
        for (const name of ["bInterfaceClass", "bInterfaceSubClass", "bInterfaceNumber", "bAlternateSetting"]) {
          expect([face, name, readFileSync(join(directory, face, name), "utf8")]).toEqual([face, name, attributes[name]]);
        }
        for (const [port, { peer }] of Object.entries(ports)) {
          expect(realpathSync(join(directory, face, port, "peer"))).toBe(resolve(realpathSync(join(directory, face, port)), peer ?? "-"));
        }
      }
      expect(realpathSync(join(tree.sysfs, "dev/char", `${(real?.attributes["dev"] ?? "").trim()}`))).toBe(realpathSync(directory));
    }
    expect(realpathSync(join(tree.sysfs, "bus/usb/devices", recording.children[0] ?? "-"))).toMatch(/block\/sda$/);
  });

  test("counts addresses up to 127 and then takes the lowest free one", () => {
    const tree = newTree({ detail: "lean" });
    const addresses = Array.from({ length: 128 }, () => {
      const { address } = tree.plug(DONGLE);
      tree.unplug("1-4");
      return address;
    });
    expect(addresses.slice(0, 2)).toEqual([2, 3]);
    expect(addresses.slice(125)).toEqual([127, 2, 3]);
  });

  test("lists devices as libusb would", () => {
    const tree = newTree();
    tree.plugAll([at("1-3", { hub: 4, speed: 12 }), at("1-3.2", { speed: 1.5 }), at("2-1", { speed: 10_000 })]);
    tree.setOpenable("1-3.2", false);
    expect(
      [...tree.devices()].filter(({ port }) => port !== "").map(({ bus, port, speed, openable }) => [bus, port, speed, openable]),
    ).toEqual([
      [1, "3", 2, true],
      [1, "3.2", 1, false],
      [2, "1", 4, true],
    ]);
  });
});
