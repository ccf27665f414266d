/** What xenstore and QEMU tell, put together: protocol/xenstore-usb.ts, adapters/xen-view.ts. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { QemuSight, ViewInput } from "../src/adapters/xen-view.ts";
import { viewOf } from "../src/adapters/xen-view.ts";
import type { XenFacts } from "../src/adapters/xen-read.ts";
import type { LiveObject } from "../src/model/domain.ts";
import { linkOf } from "../src/protocol/xenstore-objects.ts";
import {
  devidOf,
  formatMark,
  legacyObjectId,
  type Mark,
  parseMark,
  parsePortPath,
  parseRecord,
  portPath,
  recordWrites,
  type RecordTexts,
  type UsbRecord,
} from "../src/protocol/xenstore-usb.ts";
import { liveController } from "./support/planner-worlds.ts";

describe("paths, marks, records", () => {
  const busid = fc
    .tuple(fc.integer({ min: 1, max: 99 }), fc.array(fc.integer({ min: 1, max: 15 }), { minLength: 1, maxLength: 5 }))
    .map(([bus, ports]) => `${String(bus)}-${ports.join(".")}`);
  test("parseMark undoes formatMark, and takes nothing else", () => {
    const mark: fc.Arbitrary<Mark> = fc.record({
      busid,
      bus: fc.integer({ min: 1, max: 99_999 }),
      address: fc.integer({ min: 1, max: 127 }),
      inode: fc.maxSafeNat(),
      id: fc.constantFrom(null, "xenusb-1-5", "xen-qusb-0-1"),
    });
    fc.assert(
      fc.property(mark, (one) => {
        expect(parseMark(formatMark(one))).toEqual(one);
      }),
    );
    fc.assert(fc.property(fc.string({ unit: "binary" }), (text) => void parseMark(text)));
  });
  test.each(["", "1-1", "1-1 1.2 3", "x 1.2 3 -", "1-1 1.2 99999999999999999999 -", "1-1 1.2 3 a b"])("%j is no mark", (text) => {
    expect(parseMark(text)).toBeNull();
  });
  test("parsePortPath undoes portPath", () => {
    const place = fc.record({
      domid: fc.integer({ min: 1, max: 32_751 }),
      devid: fc.integer({ min: 0, max: 999 }),
      type: fc.constantFrom("devicemodel", "qusb", "pv"),
      port: fc.integer({ min: 1, max: 31 }),
    });
    fc.assert(
      fc.property(place, (one) => {
        const { domid, devid, type, port } = one;
        const kind = type as UsbRecord["type"];
        expect(parsePortPath(portPath(domid, devid, kind, port))).toEqual(one);
      }),
    );
    expect(parsePortPath("/machine/peripheral/xenusb-1-2")).toBeNull();
  });
  test.each([
    ["xenusb-3.0", 3],
    ["xenusb-3", 3],
    ["xenusb-1-5", null],
    ["usb.0", null],
  ] as const)("devid of %s: %s", (name, devid) => expect(devidOf(name)).toBe(devid));
  test("ids of the 2014 layout", () => {
    expect(legacyObjectId("hostdev-0001-0005")).toBe("usb-hostdev-0001.0005");
    expect(legacyObjectId("hostdev-1-5")).toBeNull();
  });
  test.each([
    [{ type: "vif" }],
    [{ "usb-ver": "4" }],
    [{ "usb-ver": "0" }],
    [{ "num-ports": "0" }],
    [{ "num-ports": "99" }],
    [{ "num-ports": "-1" }],
    [{ "num-ports": null }],
  ] as const)("a record with %j is none", (odd) => {
    expect(parseRecord(0, { ...texts(), ...odd })).toBeNull();
  });
  test("an emulated controller's nodes lie with libxl alone; a paravirtual one's with both halves, owned by them", () => {
    const devicemodel = recordWrites({ domid: 7, devid: 1, type: "devicemodel", version: 3, ports: 2 });
    expect(devicemodel.map(({ path }) => path.replace("/libxl/7/device/vusb/1/", ""))).toEqual([
      "type",
      "usb-ver",
      "num-ports",
      "port",
      "port/1",
      "port/2",
    ]);
    const made = recordWrites({ domid: 7, devid: 0, type: "qusb", version: 2, ports: 1 }).flatMap((one) =>
      one.kind === "make" ? [one] : [],
    );
    expect(made).toMatchObject([
      {
        path: "/local/domain/7/device/vusb/0",
        permissions: [
          { domid: 7, access: "none" },
          { domid: 0, access: "read" },
        ],
      },
      {
        path: "/local/domain/0/backend/qusb/7/0",
        permissions: [
          { domid: 0, access: "none" },
          { domid: 7, access: "read" },
        ],
      },
    ]);
  });
});

const texts = (change: Partial<RecordTexts> = {}): RecordTexts => ({
  type: "devicemodel",
  "usb-ver": "3",
  "num-ports": "4",
  online: null,
  backendState: null,
  frontendState: null,
  backend: null,
  ports: new Map(),
  ...change,
});
const record = (devid: number, change: Partial<RecordTexts> = {}): UsbRecord => {
  const parsed = parseRecord(devid, texts(change));
  if (parsed === null) throw new Error("no record");
  return parsed;
};
const pv = (
  backend: number,
  frontend: number,
  ports: readonly (readonly [number, string])[] = [],
  change: Partial<RecordTexts> = {},
): UsbRecord =>
  record(0, {
    type: "qusb",
    "usb-ver": "2",
    online: "1",
    backend: "/local/domain/0/backend/qusb/7/0",
    backendState: String(backend),
    frontendState: String(frontend),
    ports: new Map(ports),
    ...change,
  });
const facts = (records: readonly UsbRecord[], change: Partial<XenFacts> = {}): XenFacts => ({
  domid: 7,
  vm: "/vm/u",
  uuid: "u",
  name: "d",
  type: "hvm",
  traditional: false,
  deviceModelPid: 100,
  stubdom: null,
  isStubdom: false,
  deviceModel: true,
  qusb: false,
  records,
  marks: new Map(),
  names: new Map(),
  legacy: [],
  ...change,
});
const object = (id: string, port: number, bus: number, address: number): LiveObject => ({
  path: `/machine/peripheral/${id}`,
  id,
  bus: "xenusb-0.0",
  port: String(port),
  ours: false,
  inode: null,
  filter: { bus, address, hostport: null, vendor: null, product: null, hostdevice: null },
  exact: true,
  attached: true,
});
const qemu = (objects: readonly LiveObject[], qusb: readonly (readonly [string, boolean, string?])[] = []): QemuSight => ({
  listing: { state: "running", controllers: [liveController("xenusb-0.0", { driver: "nec-usb-xhci", ports: 4 })], objects, freeSlots: [] },
  qusb: new Map(qusb.map(([id, attached, busid = null]) => [id, { attached, busid }])),
});
const view = (input: Partial<ViewInput> & Pick<ViewInput, "facts">) =>
  viewOf({ qemu: null, previous: { objects: [] }, isBusy: () => false, isSteady: () => true, ...input });
const mark: Mark = { busid: "1-1", bus: 1, address: 5, inode: 312, id: "xenusb-1-5" };
const marked = (one: Mark = mark) => ({ marks: new Map([["0/1", one]]), names: new Map([[0, "usb3"]]) });
const held = record(0, { ports: new Map([[1, "1-1"]]) });

describe("an emulated controller that libxl knows", () => {
  test("ours with its name, and the device that our mark agrees with", () => {
    const seen = view({ facts: facts([held], marked()), qemu: qemu([object("xenusb-1-5", 1, 1, 5)]) });
    expect(seen.controllers).toMatchObject([{ bus: "xenusb-0.0", name: "usb3", ours: true, occupied: [1] }]);
    expect(seen.objects).toMatchObject([{ id: "xenusb-1-5", ours: true, inode: 312 }]);
    expect(seen).toMatchObject({ nextDevid: 1, pending: [], phantoms: [], disagreeing: [] });
  });
  test.each([
    ["another enumeration", { ...mark, address: 6 }],
    ["another id", { ...mark, id: "xenusb-1-9" }],
    ["another place", { ...mark, busid: "1-2" }],
  ])("a mark of %s counts for nothing", (_, odd) => {
    const seen = view({ facts: facts([held], marked(odd)), qemu: qemu([object("xenusb-1-5", 1, 1, 5)]) });
    expect(seen.objects).toMatchObject([{ id: "xenusb-1-5", ours: false, inode: null }]);
  });
  test("a record without its object: what was seen before, until it has stayed so; then it is dead", () => {
    const before = object("xenusb-1-5", 1, 1, 5);
    const input = { facts: facts([held], marked()), qemu: qemu([]), previous: { objects: [before] } };
    expect(view({ ...input, isSteady: () => false })).toMatchObject({ objects: [before], disagreeing: ["0/1"] });
    expect(view({ ...input, isBusy: (key) => key === "0/1" }).objects).toEqual([before]);
    expect(view(input).objects).toMatchObject([{ path: "/libxl/7/device/vusb/0/port/1", id: null, attached: false }]);
    expect(view(input).controllers[0]?.occupied).toEqual([1]);
  });
  test("an object without its record: shown, and somebody else's", () => {
    const seen = view({ facts: facts([record(0)], marked()), qemu: qemu([object("xenusb-1-5", 1, 1, 5)]) });
    expect(seen).toMatchObject({ objects: [{ id: "xenusb-1-5", ours: false }], disagreeing: ["0/1"] });
  });
  test("a mark that its port does not bear out is a stray, once it has stayed so", () => {
    const cleared = { facts: facts([record(0)], marked()), qemu: qemu([]) };
    expect(view(cleared).strays).toEqual([{ port: { devid: 0, port: 1, type: "devicemodel" }, mark }]);
    expect(view({ ...cleared, isSteady: () => false }).strays).toEqual([]);
    expect(view({ ...cleared, isBusy: () => true }).strays).toEqual([]);
    expect(view({ facts: facts([held], marked()), qemu: qemu([]) }).strays).toEqual([]);
  });
  test("a record without a controller is waited for, then a phantom", () => {
    const only = facts([record(0), record(1)]);
    expect(view({ facts: only, qemu: qemu([]), isSteady: () => false })).toMatchObject({ pending: ["xenusb-1"], phantoms: [] });
    expect(view({ facts: only, qemu: qemu([]) })).toMatchObject({
      pending: [],
      phantoms: [{ path: "/libxl/7/device/vusb/1", text: expect.stringContaining("controller 1") }],
      nextDevid: 2,
    });
  });
});

describe("a paravirtual controller", () => {
  test.each([
    [1, 1, null],
    [2, 1, "waiting"],
    [2, 3, "waiting"],
    [4, 4, "connected"],
    [4, 6, "closed"],
    [5, 4, "closed"],
    [6, 6, "closed"],
    [3, 1, null],
    [0, 0, null],
  ] as const)("backend %i, frontend %i: %s", (backend, frontend, link) => {
    expect(linkOf(pv(backend, frontend))).toBe(link);
  });
  test("one that is being removed cannot be used", () => expect(linkOf(pv(5, 4, [], { online: "0" }))).toBeNull());
  test("one with its backend elsewhere is told", () => {
    const far = pv(4, 4, [], { backend: "/local/domain/3/backend/qusb/7/0" });
    expect(view({ facts: facts([far], { type: "pv" }) })).toMatchObject({
      controllers: [],
      phantoms: [{ path: "/libxl/7/device/vusb/0", text: expect.stringContaining("another domain") }],
    });
  });
  test("marked and taken by QEMU: ours; attached by QEMU's word", () => {
    const qusbMark = { ...mark, id: "xen-qusb-0-1" };
    const input = { facts: facts([pv(4, 4, [[1, "1-1"]])], { type: "pv", ...marked(qusbMark) }) };
    const objects = (attached: boolean) => view({ ...input, qemu: qemu([], [["xen-qusb-0-1", attached]]) }).objects;
    expect(objects(true)).toMatchObject([{ ours: true, inode: 312, attached: true, filter: { bus: 1, address: 5 } }]);
    expect(objects(true)[0]).not.toHaveProperty("remark");
    expect(objects(false)).toMatchObject([{ ours: true, attached: false }]);
    // Lost a moment ago: QEMU may open it again.
    const young = view({ ...input, qemu: qemu([], [["xen-qusb-0-1", false]]), isSteady: (_, __, kind) => kind !== "device" });
    expect(young.objects).toMatchObject([{ ours: true, attached: true }]);
    expect(view({ ...input, qemu: qemu([]) }).objects).toMatchObject([{ attached: false }]);
    // Nobody to ask: the record alone.
    expect(view(input).objects).toMatchObject([{ ours: true, attached: true, remark: "Unconfirmed" }]);
  });
  test("a record that somebody has written over while QEMU holds the former device: judged, then dead", () => {
    const input = { facts: facts([pv(4, 4, [[1, "2-5"]])], { type: "pv" }), qemu: qemu([], [["xen-qusb-0-1", true, "1-1"]]) };
    expect(view(input)).toMatchObject({ disagreeing: ["0/1"], objects: [{ attached: false, filter: { bus: 2, hostport: "5" } }] });
    expect(view({ ...input, qemu: qemu([], [["xen-qusb-0-1", true, "2-5"]]) })).toMatchObject({
      disagreeing: [],
      objects: [{ attached: true }],
    });
  });
  test("of xl: by its place, and unconfirmed, whatever QEMU says", () => {
    const seen = view({ facts: facts([pv(4, 4, [[2, "1-1.4"]])], { type: "pv" }), qemu: qemu([], [["xen-qusb-0-2", false]]) });
    expect(seen.objects).toMatchObject([
      { ours: false, attached: true, remark: "Unconfirmed", filter: { bus: 1, hostport: "1.4", address: null } },
    ]);
  });
});

test("which domains cannot be saved: HVM with a controller that was added, or with any host device", () => {
  const boot = liveController("usb.0", { path: "/machine/peripheral/usb" });
  const saveable = { listing: { state: "running", controllers: [boot], objects: [], freeSlots: [] }, qusb: new Map() };
  expect(view({ facts: facts([]), qemu: saveable }).notSaveable).toBeNull();
  expect(view({ facts: facts([record(0)]), qemu: qemu([]) }).notSaveable).toContain("usbversion=3");
  expect(view({ facts: facts([pv(4, 4)], { type: "pv" }), qemu: null }).notSaveable).toBeNull();
});
