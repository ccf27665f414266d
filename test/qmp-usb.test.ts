/** USB over QMP: arguments, ids, what QEMU's object tree says, what its refusals mean. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { controllerId, deviceId, type NewController, type Place } from "../src/model/action.ts";
import { classify, controllerArguments, parseControllerId, parseDeviceId, usbHostArguments } from "../src/protocol/qmp-usb.ts";
import {
  busChildren,
  guessPorts,
  liveController,
  liveObject,
  parseName,
  parsePropertyLists,
  parseQomList,
  parseUuid,
  portsFromQtree,
  rootPort,
} from "../src/protocol/qom-usb.ts";
import { hostDevice, testDevice } from "./support/domains-rig.ts";

const place: Place = { domain: "win10#1", device: hostDevice(testDevice(5)), bus: "xhci.0", port: 3, create: null };
const controller: NewController = { name: "usb3", driver: "qemu-xhci", ports: 8, slot: "rp0" };

describe("arguments", () => {
  test("exact types: integers for the host's address, text for the port", () => {
    expect(usbHostArguments(deviceId(place.device), place, false)).toEqual({
      driver: "usb-host",
      id: "plugherd-1-5-305",
      bus: "xhci.0",
      port: "3",
      hostbus: 1,
      hostaddr: 5,
    });
    expect(usbHostArguments(deviceId(place.device), place, true)["hostdevice"]).toBe("/dev/bus/usb/001/005");
  });
  test("an xHCI gets its ports for both speeds; others have theirs", () => {
    expect(controllerArguments("plugherd-ctrl-usb3", controller)).toEqual({
      ok: true,
      value: { driver: "qemu-xhci", id: "plugherd-ctrl-usb3", bus: "rp0", p2: 8, p3: 8 },
    });
    expect(controllerArguments("plugherd-ctrl-usb3", { ...controller, driver: "usb-ehci", slot: null })).toEqual({
      ok: true,
      value: { driver: "usb-ehci", id: "plugherd-ctrl-usb3" },
    });
  });
  test.each(["a/b", "a b", "", "x".repeat(60), "ü"])("a controller named %j is refused before QEMU sees it", (name) => {
    const odd = { ...controller, name: name === "" ? "\n" : name };
    expect(controllerArguments(controllerId(odd.name), odd)).toMatchObject({
      ok: false,
      error: { kind: "terminal" },
    });
  });
});

describe("ids", () => {
  test("parseDeviceId undoes deviceId", () => {
    const device = fc.record({
      bus: fc.integer({ min: 1, max: 99999 }),
      address: fc.integer({ min: 1, max: 999 }),
      inode: fc.maxSafeNat(),
    });
    fc.assert(
      fc.property(device, (one) => {
        expect(parseDeviceId(deviceId(one))).toEqual(one);
        expect(parseControllerId(deviceId(one))).toBeNull();
      }),
    );
  });
  test("parseControllerId undoes controllerId, and no controller is taken for a device", () => {
    fc.assert(
      fc.property(fc.string({ minLength: 1 }), (name) => {
        expect(parseControllerId(controllerId(name))).toBe(name);
        expect(parseDeviceId(controllerId(name))).toBeNull();
      }),
    );
  });
  test.each(["plugherd-1-5", "plugherd-01-5-3", "plugherd-1-5-3-4", "plugherd-1-5-x", "plugherd--5-3", "xenusb-1-5", "plugherd-0-5-3", ""])(
    "%j is not ours",
    (id) => {
      expect(parseDeviceId(id)).toBeNull();
    },
  );
});

describe("QEMU's object tree", () => {
  test("whatever a listing says, it is read without a throw, and bounded", () => {
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        for (const { name, type } of parseQomList(value)) expect([typeof name, typeof type]).toEqual(["string", "string"]);
        parseName(value);
        parseUuid(value);
        parsePropertyLists(value, 1);
      }),
    );
    const many = Array.from({ length: 10_000 }, (_, i) => ({ name: `child[${String(i)}]`, type: "link<usb-host>" }));
    expect(parseQomList(many).length).toBeLessThanOrEqual(4096);
    expect(parseQomList([{ name: "x".repeat(10_000), type: "child<usb-host>" }])).toEqual([]);
  });
  test("children of a bus come in order of their number, whatever the order of the listing", () => {
    fc.assert(
      fc.property(fc.shuffledSubarray([0, 1, 2, 9, 10, 11, 100]), (numbers) => {
        const list = numbers.map((n) => ({ name: `child[${String(n)}]`, type: "link<usb-host>" }));
        expect(busChildren([{ name: "realized", type: "bool" }, ...list]).map(({ link }) => link)).toEqual(
          [...numbers].sort((a, b) => a - b).map((n) => `child[${String(n)}]`),
        );
      }),
    );
  });

  const object = (properties: object, path = "/machine/peripheral/h1") => liveObject(path, "xhci.0", "1", properties);
  test.each([
    [{ hostbus: 1, hostaddr: 5 }, true],
    [{ hostbus: 1, hostaddr: 5, hostport: "", vendorid: 0 }, true],
    [{ hostbus: 1, hostaddr: 5, vendorid: 0x529 }, false],
    [{ hostbus: 1, hostaddr: 5, hostport: "2.1" }, false],
    [{ hostbus: 1, hostport: "2.1" }, false],
    [{ hostbus: 1 }, false],
    [{ hostdevice: "/dev/bus/usb/001/005" }, true],
    [{}, false],
  ])("%j: exact is %j", (properties, exact) => {
    expect(object(properties).exact).toBe(exact);
  });
  test("ours is what has our id and agrees with it", () => {
    const path = "/machine/peripheral/plugherd-1-5-305";
    expect(object({ hostbus: 1, hostaddr: 5 }, path)).toMatchObject({ ours: true, inode: 305, id: "plugherd-1-5-305" });
    expect(object({ hostbus: 1, hostaddr: 6 }, path)).toMatchObject({ ours: false, inode: null });
    expect(object({ hostbus: 1, hostaddr: 5 }, "/machine/peripheral-anon/device[0]")).toMatchObject({ ours: false, id: null });
  });
  test("ids of devices are four hex digits", () => {
    expect(object({ vendorid: 0x46d, productid: 0xa }).filter).toMatchObject({ vendor: "046d", product: "000a" });
  });

  const raw = { path: "/machine/peripheral/x", bus: "x.0", companions: false, taken: [] };
  test("controllers: ports, speeds, names", () => {
    expect(liveController({ ...raw, driver: "qemu-xhci", p2: 4, p3: 15 })).toMatchObject({
      ports: 15,
      version: 3,
      minSpeed: null,
      maxSpeed: null,
    });
    expect(liveController({ ...raw, driver: "qemu-xhci", p2: 0, p3: 2 })).toMatchObject({ ports: 2, minSpeed: 5000 });
    expect(liveController({ ...raw, driver: "nec-usb-xhci", p2: 4, p3: 0 })).toMatchObject({ ports: 4, maxSpeed: 480 });
    expect(liveController({ ...raw, driver: "usb-ehci" })).toMatchObject({ ports: 6, minSpeed: 480, maxSpeed: 480 });
    expect(liveController({ ...raw, driver: "ich9-usb-ehci1", companions: true })).toMatchObject({ minSpeed: null });
    expect(liveController({ ...raw, driver: "ich9-usb-ehci2" })).toMatchObject({ version: 2, minSpeed: 480 });
    expect(liveController({ ...raw, driver: "sysbus-xhci", p2: "x" })).toMatchObject({ version: 3, ports: 4 });
    expect(liveController({ ...raw, driver: "ich9-ahci" })).toBeNull();
    expect(liveController({ ...raw, driver: "usb-ehci", path: "/machine/peripheral/plugherd-ctrl-usb2" })).toMatchObject({
      name: "usb2",
      ours: true,
    });
    expect(liveController({ ...raw, driver: "usb-ehci", path: "/machine/unattached/device[7]" })).toMatchObject({
      name: null,
      ours: false,
    });
    expect(liveController({ ...raw, driver: "usb-ehci", taken: ["3.1", "1", "3", "3.2.8"] })?.occupied).toEqual([1, 3]);
  });
  test.each([
    ["1", 1],
    ["3.2.8", 3],
    ["0", null],
    ["", null],
    ["1.", null],
    ["-1", null],
    ["1.2.3.4.5.6.7.8", null],
  ])("root port of %j is %j", (port, expected) => {
    expect(rootPort(port)).toBe(expected);
  });

  const qtree = (names: readonly string[]): string =>
    [
      "bus: main",
      "  bus: x.0",
      "    type usb-bus",
      ...names.flatMap((name, i) => [
        `    dev: usb-host, id "h${String(i)}"`,
        '      port = ""',
        `      addr 1.0, port ${String(i + 1)}, speed 480, name ${name}, attached`,
      ]),
      "  bus: y.0",
      "    type usb-bus",
      '    dev: usb-kbd, id ""',
      "      addr 1.0, port 7, speed 12, name K",
    ].join("\r\n");
  test("real ports out of info qtree, the newest device first in it", () => {
    expect(portsFromQtree(qtree(["A", "B"]), "x.0", ["usb-host", "usb-host"])).toEqual(["2", "1"]);
    expect(portsFromQtree(qtree(["A"]), "y.0", ["usb-kbd"])).toEqual(["7"]);
    expect(portsFromQtree(qtree(["A"]), "z.0", [])).toBeNull();
    expect(portsFromQtree(qtree(["A"]), "x.0", ["usb-host", "usb-host"])).toBeNull();
  });
  test("a device whose name imitates the text cannot make a port up: the number of devices no longer fits", () => {
    const evil = 'x\r\n    dev: usb-host, id "h9"\r\n      addr 1.0, port 5, speed 480, name Y';
    expect(portsFromQtree(qtree([evil, "B"]), "x.0", ["usb-host", "usb-host"])).toBeNull();
  });
  test("a guessed port is a free one, and known ones stay", () => {
    fc.assert(
      fc.property(fc.array(fc.option(fc.integer({ min: 1, max: 15 }).map(String)), { maxLength: 20 }), (known) => {
        const ports = guessPorts(known);
        expect(ports.filter((_, i) => known[i] !== null)).toEqual(known.filter((port) => port !== null));
        const guessed = ports.filter((_, i) => known[i] === null);
        expect(new Set(guessed).size).toBe(guessed.length);
        expect(guessed.some((port) => known.includes(port))).toBe(false);
      }),
    );
  });
});

describe("refusals", () => {
  const refused = (desc: string) => ({ kind: "refused", class: "GenericError", desc }) as const;
  test.each([
    ["failed to find host usb device 1:5", "transient", "HostDeviceNotFound"],
    ["failed to open /dev/bus/usb/001/002: No such file or directory", "transient", "HostDeviceNotFound"],
    ["Could not open '/dev/bus/usb/001/002': No such file or directory", "transient", "HostDeviceNotFound"],
    ["failed to open host usb device 1:5", "transient", "OpenRefused"],
    ["usb port 2 (bus xhci.0) not found (in use?)", "transient", "PortBusy"],
    ["tried to attach usb device USB Host Device to a bus with no free ports", "transient", "PortBusy"],
    ["Bus 'nobus.0' not found", "transient", "ControllerGone"],
    ["'usb-host' is not a valid device model name", "terminal", "NoUsbHost"],
    ["device_add not allowed while migrating", "transient", "Migrating"],
    ["The command 'device_add' is permitted only after machine initialization has completed", "transient", "NotReady"],
    ["failed to init libusb", "transient", "NoLibusb"],
    ["something new", "transient", "Refused"],
  ])("attach: %s -> %s %s", (desc, kind, reason) => {
    expect(classify(refused(desc), { kind: "attach", place })).toMatchObject({ kind, reason });
  });
  test.each([
    ["'nope' is not a valid device model name", "terminal", "NoController"],
    ["Parameter 'driver' expects a pluggable device type", "terminal", "NoController"],
    ["Bus 'pcie.0' does not support hotplugging", "terminal", "NoController"],
    ["PCI: slot 0 function 0 already occupied by e1000, new func e1000 cannot be exposed to guest.", "transient", "SlotBusy"],
    ["Bus 'rp0' not found", "transient", "SlotBusy"],
    ["device_add not allowed while migrating", "transient", "Migrating"],
  ])("controller: %s -> %s %s", (desc, kind, reason) => {
    expect(classify(refused(desc), { kind: "controller", controller })).toMatchObject({ kind, reason });
  });
  test("every failure is one sentence for a person", () => {
    const failure = fc.oneof(
      fc.string({ unit: "binary" }).map(refused),
      fc.constant({ kind: "timeout" } as const),
      fc.string({ unit: "binary" }).map((reason) => ({ kind: "closed", reason }) as const),
      fc.string({ unit: "binary" }).map((reason) => ({ kind: "protocol", reason }) as const),
    );
    const aim = fc.constantFrom(
      { kind: "attach", place } as const,
      { kind: "controller", controller } as const,
      { kind: "detach", path: "/p" } as const,
    );
    fc.assert(
      fc.property(failure, aim, (what, goal) => {
        const error = classify(what, goal);
        expect(error.message.endsWith(".")).toBe(true);
        expect(error.reason).toMatch(/^[A-Z][A-Za-z]+$/);
        expect(error.message).not.toMatch(/\p{Cc}/u);
      }),
    );
  });
});
