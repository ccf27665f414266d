/** What sysfs, descriptors and /proc tell, read: against a recording of a real kernel, properties, and nonsense. */
import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { UsbClass } from "../src/model/hostdev.ts";
import { parseDefaultRoutes, parseMounts, parseSwaps } from "../src/protocol/proc-use.ts";
import {
  controllerOf,
  formatAnchor,
  isSuperSpeed,
  type LockedReading,
  type PlainReading,
  parseAddress,
  parseDevice,
  parsePeer,
  portDirectory,
} from "../src/protocol/sysfs-usb.ts";
import { formatDescriptors, parseDescriptors } from "../src/protocol/usb-descriptors.ts";
import { recordedDevice, recordedDevices, recording } from "./support/sysfs-recording.ts";

const anyClass: fc.Arbitrary<UsbClass> = fc.record({
  class: fc.integer({ min: 0, max: 255 }),
  subclass: fc.integer({ min: 0, max: 255 }),
  protocol: fc.integer({ min: 0, max: 255 }),
});
const anyConfigurations = fc.array(fc.array(anyClass, { maxLength: 6 }), { minLength: 1, maxLength: 4 });
const bytesOf = (deviceClass: UsbClass, configurations: readonly (readonly UsbClass[])[]): Uint8Array =>
  formatDescriptors({ vendor: 0x0529, product: 1, deviceClass, configurations });

const PLAIN: PlainReading = {
  busid: { bus: 1, ports: [4] },
  idVendor: "0529\n",
  idProduct: "0001\n",
  busnum: "1\n",
  devnum: "7\n",
  speed: null,
  removable: null,
  drivers: [],
  anchor: null,
  node: "/dev/bus/usb/001/007",
  inode: 33,
};
const LOCKED: LockedReading = { descriptors: null, serial: null, manufacturer: null, product: null, kernel: null };

describe("descriptors", () => {
  test("what was written is read back, every configuration of it", () => {
    fc.assert(
      fc.property(anyClass, anyConfigurations, (deviceClass, configurations) => {
        expect(parseDescriptors(bytesOf(deviceClass, configurations))).toEqual({
          deviceClass,
          interfaces: configurations.flat(),
          complete: true,
        });
      }),
    );
  });

  test("cut anywhere, they are never taken for complete, and nothing is made up", () => {
    fc.assert(
      fc.property(anyClass, anyConfigurations, fc.nat(), (deviceClass, configurations, at) => {
        const whole = bytesOf(deviceClass, configurations);
        const part = parseDescriptors(whole.subarray(0, at % whole.length));
        const all = configurations.flat();
        expect(part.interfaces).toEqual(all.slice(0, part.interfaces.length));
        expect(part.complete).toBe(false);
      }),
    );
  });

  test("a total length that lies hides no interface", () => {
    const keyboard: UsbClass = { class: 3, subclass: 1, protocol: 1 };
    for (const total of [0, 9, 18, 0xffff]) {
      const bytes = bytesOf({ class: 0, subclass: 0, protocol: 0 }, [[{ class: 8, subclass: 6, protocol: 80 }, keyboard]]);
      bytes[20] = total & 0xff;
      bytes[21] = total >> 8;
      expect(parseDescriptors(bytes).interfaces).toContainEqual(keyboard);
    }
  });

  test("takes any bytes", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), (bytes) => {
        const { interfaces } = parseDescriptors(bytes);
        expect(interfaces.length).toBeLessThanOrEqual(bytes.length / 9);
      }),
      { numRuns: 2000 },
    );
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (tail) => {
        const head = bytesOf({ class: 0, subclass: 0, protocol: 0 }, [[]]);
        expect(parseDescriptors(Uint8Array.from([...head, ...tail])).deviceClass).not.toBeNull();
      }),
      { numRuns: 2000 },
    );
  });

  test("a flood of interfaces is no list to decide by", () => {
    const many = Array.from({ length: 7000 }, (): UsbClass => ({ class: 8, subclass: 6, protocol: 80 }));
    expect(parseDescriptors(bytesOf({ class: 0, subclass: 0, protocol: 0 }, [many])).complete).toBe(false);
  });
});

describe("a device", () => {
  test("as a real kernel shows it", () => {
    expect(recordedDevice("2-1")).toEqual({
      settled: true,
      device: {
        busid: "2-1",
        anchor: "pci-0000:00:04.0/1",
        bus: 2,
        address: 2,
        inode: 1,
        node: "/dev/bus/usb/002/002",
        vendor: "46f4",
        product: "0001",
        deviceClass: { class: 0, subclass: 0, protocol: 0 },
        interfaces: [{ class: 8, subclass: 6, protocol: 80 }],
        speed: 5000,
        serial: "S1",
        manufacturer: "QEMU",
        productName: "QEMU USB HARDDRIVE",
        removable: null,
        hub: false,
        drivers: ["usb-storage"],
      },
    });
    const read = recordedDevices();
    expect(read.every((one) => one?.settled === true)).toBe(true);
    expect(
      Object.fromEntries(
        read.flatMap((one) => (one === null ? [] : [[one.device.busid, [one.device.anchor, one.device.hub, one.device.speed]]])),
      ),
    ).toEqual({
      "1-2": ["pci-0000:00:04.0/2", false, 480],
      "1-3": ["pci-0000:00:04.0/3", true, 12],
      "1-3.2": ["pci-0000:00:04.0/3.2", false, 12],
      "1-4": ["pci-0000:00:04.0/4", false, 12],
      "2-1": ["pci-0000:00:04.0/1", false, 5000],
    });
  });

  test("a network device tells the interfaces of both its configurations, alternate settings with them", () => {
    const { device } = recordedDevice("1-4") ?? { device: null };
    expect(device?.interfaces).toHaveLength(5);
    expect(device?.interfaces?.filter((face) => face.class === 2)).toHaveLength(2);
  });

  test("needs its ids, bus and address, nothing else; what is missing is unknown", () => {
    expect(parseDevice(PLAIN, LOCKED)).toEqual({
      settled: false,
      device: {
        busid: "1-4",
        anchor: null,
        bus: 1,
        address: 7,
        inode: 33,
        node: "/dev/bus/usb/001/007",
        vendor: "0529",
        product: "0001",
        deviceClass: null,
        interfaces: null,
        speed: null,
        serial: null,
        manufacturer: null,
        productName: null,
        removable: null,
        hub: false,
        drivers: [],
      },
    });
    for (const name of ["idVendor", "idProduct", "busnum", "devnum"] as const) {
      for (const text of [null, "", "\n", "xyzw\n", "05290\n", "-1\n", "0\n1\n"])
        expect(parseDevice({ ...PLAIN, [name]: text }, LOCKED)).toBeNull();
    }
    expect(parseAddress({ busnum: "1\n", devnum: "128\n" })).toBeNull();
  });

  test.each([
    ["speed", { speed: "1.5\n" }, { speed: 1.5 }],
    ["speed", { speed: "20000\n" }, { speed: 20000 }],
    ["no speed", { speed: "unknown\n" }, { speed: null }],
    ["removable", { removable: "removable\n" }, { removable: true }],
    ["fixed", { removable: "fixed\n" }, { removable: false }],
    ["removable unknown", { removable: "unknown\n" }, { removable: null }],
    ["removable of another world", { removable: "constructor\n" }, { removable: null }],
    ["upper case", { idVendor: "0A5C\n" }, { vendor: "0a5c" }],
    ["drivers once each", { drivers: ["usbhid", "usbhid", "cdc_acm"] }, { drivers: ["usbhid", "cdc_acm"] }],
  ])("%s", (_, texts, expected) => {
    expect(parseDevice({ ...PLAIN, ...texts }, LOCKED)?.device).toMatchObject(expected);
  });

  test("where descriptors are missing or broken, the kernel's interface directories count once there are enough", () => {
    const kernel = { deviceClass: ["00\n", "00\n", "00\n"], interfaces: [["03\n", "01\n", "01\n"]], bNumInterfaces: " 1\n" } as const;
    const keyboard = { class: 3, subclass: 1, protocol: 1 };
    expect(parseDevice(PLAIN, { ...LOCKED, kernel })).toMatchObject({ settled: true, device: { interfaces: [keyboard] } });
    expect(parseDevice(PLAIN, { ...LOCKED, kernel: { ...kernel, bNumInterfaces: " 2\n" } })).toMatchObject({
      settled: false,
      device: { interfaces: null },
    });
    expect(parseDevice(PLAIN, { ...LOCKED, kernel: { ...kernel, bNumInterfaces: "" } })).toMatchObject({ device: { interfaces: null } });
    expect(parseDevice(PLAIN, { ...LOCKED, kernel: { ...kernel, interfaces: [["03\n", null, "01\n"]] } })).toMatchObject({
      device: { interfaces: null },
    });
    const disk = { class: 8, subclass: 6, protocol: 80 };
    const broken = Uint8Array.from([...bytesOf({ class: 0, subclass: 0, protocol: 0 }, [[disk]]), 0, 0]);
    expect(parseDevice(PLAIN, { ...LOCKED, descriptors: broken })).toMatchObject({ settled: false, device: { interfaces: null } });
    expect(parseDevice(PLAIN, { ...LOCKED, descriptors: broken, kernel })?.device.interfaces).toEqual([disk, keyboard]);
  });

  test("is a hub by its own class or by an interface's", () => {
    const disk = { class: 8, subclass: 6, protocol: 80 };
    const hub = { class: 9, subclass: 0, protocol: 0 };
    const none = { class: 0, subclass: 0, protocol: 0 };
    const isHub = (descriptors: Uint8Array): boolean | undefined => parseDevice(PLAIN, { ...LOCKED, descriptors })?.device.hub;
    expect([isHub(bytesOf(hub, [[disk]])), isHub(bytesOf(none, [[disk, hub]])), isHub(bytesOf(none, [[disk]]))]).toEqual([
      true,
      true,
      false,
    ]);
  });

  test("takes any texts, keeps them raw and bounded", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary", maxLength: 600 }), (text) => {
        const serial = parseDevice(PLAIN, { ...LOCKED, serial: `${text}\n` })?.device.serial ?? "";
        expect([...serial].length).toBeLessThanOrEqual(256);
        expect(text.startsWith(serial)).toBe(true);
      }),
    );
    const anyText = fc.option(fc.string({ unit: "binary", maxLength: 20 }), { nil: null });
    fc.assert(
      fc.property(
        fc.record({ idVendor: anyText, idProduct: anyText, busnum: anyText, devnum: anyText, speed: anyText, removable: anyText }),
        fc.option(fc.uint8Array({ maxLength: 60 }), { nil: null }),
        (texts, descriptors) => {
          const read = parseDevice({ ...PLAIN, ...texts }, { ...LOCKED, descriptors });
          expect(read === null || /^[0-9a-f]{4}$/.test(read.device.vendor)).toBe(true);
        },
      ),
    );
  });
});

describe("anchors", () => {
  test.each([
    ["/sys/devices/pci0000:00/0000:00:14.0/usb1", "pci-0000:00:14.0"],
    ["/sys/devices/pci0000:00/0000:00:1c.4/0000:06:00.0/usb3", "pci-0000:06:00.0"],
    ["/sys/devices/pci10000:e0/10000:e0:06.0/usb3", "pci-10000:e0:06.0"],
    ["/sys/devices/pci0000:00/0000:00:0d.1/dwc3.2.auto/xhci-hcd.3.auto/usb3", "pci-0000:00:0d.1"],
    ["/sys/devices/platform/40000000.pcie/pci0000:00/0000:00:00.0/0000:01:00.0/usb1", "pci-0000:01:00.0"],
    ["/sys/devices/platform/soc/3f980000.usb/usb1", "platform-3f980000.usb"],
    ["/sys/devices/platform/a600000.usb/xhci-hcd.0.auto/usb2", "platform-a600000.usb"],
    ["/sys/devices/platform/xhci-hcd.0.auto/usb1", "platform-xhci-hcd.0.auto"],
    ["/sys/devices/platform/vhci_hcd.0/usb5", "platform-vhci_hcd.0"],
    ["/sys/devices/vusb-0/usb1", null],
    ["/usb1", null],
    ["", null],
  ])("controller of %s", (path, expected) => {
    expect(controllerOf(path)).toBe(expected);
  });

  test.each([
    ["../../../usb1/1-0:1.0/usb1-port1", 1],
    ["../../../../1-1/1-1:1.0/1-1-port3", 3],
    ["../../1-1.2:1.0/1-1.2-port12", 12],
    ["../../../usb1/1-0:1.0/usb1-port0", null],
    ["../../../usb1/1-0:1.0/usb1-port999", null],
    ["somewhere/else", null],
    [null, null],
  ])("peer link %s", (link, expected) => {
    expect(parsePeer(link)).toBe(expected);
  });

  test("port directories are named as the kernel names them", () => {
    expect(portDirectory(2, [], 1)).toBe("usb2-port1");
    expect(portDirectory(1, [3], 2)).toBe("1-3-port2");
    expect(recording.devices["1-3"]?.interfaces["1-3:1.0"]?.ports).toHaveProperty(portDirectory(1, [3], 2));
  });

  test("no bus number is in it, and a SuperSpeed port counts as its socket's USB 2 port", () => {
    expect(formatAnchor("pci-0000:00:14.0", [1, 4], [])).toBe("pci-0000:00:14.0/1.4");
    expect(formatAnchor("pci-0000:00:14.0", [1, 4], [5, null])).toBe("pci-0000:00:14.0/5.4");
    expect(formatAnchor(null, [1], [])).toBeNull();
    expect([isSuperSpeed("480\n"), isSuperSpeed("5000\n"), isSuperSpeed("20000\n"), isSuperSpeed("unknown\n"), isSuperSpeed(null)]).toEqual(
      [false, true, true, false, false],
    );
  });
});

describe("who uses what, from /proc", () => {
  test("a real host's", () => {
    const { mountinfo, route, ipv6_route, swaps } = recording.proc;
    expect(parseMounts(mountinfo).find(({ on }) => on === "/")).toEqual({ device: "254:0", on: "/", source: "/dev/vda" });
    expect([...parseDefaultRoutes(route, ipv6_route)]).toEqual(["eth0"]);
    expect(parseSwaps(swaps)).toEqual([]);
  });

  test("names with blanks, optional fields, swap files", () => {
    expect(parseMounts("36 35 98:0 /mnt1 /mnt/a\\040b rw,noatime master:1 shared:2 - ext3 /dev/root\\011x rw\n")).toEqual([
      { device: "98:0", on: "/mnt/a b", source: "/dev/root\tx" },
    ]);
    expect(parseSwaps("Filename Type\n/dev/sdb2 partition 1 0 -2\n/swap\\040file file 1 0 -3\n")).toEqual(["/dev/sdb2", "/swap file"]);
  });

  test("routes that are down, refused or over lo do not count", () => {
    const head = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n";
    expect([...parseDefaultRoutes(`${head}usb0\t00000000\t01\t0002\t0\t0\t0\t00000000\n`, "")]).toEqual([]);
    expect([...parseDefaultRoutes(`${head}usb0\t00000000\t01\t0203\t0\t0\t0\t00000000\n`, "")]).toEqual([]);
    expect([...parseDefaultRoutes(`${head}usb0\t0000000A\t01\t0001\t0\t0\t0\t000000FF\n`, "")]).toEqual([]);
    const zero = "0".repeat(32);
    expect([
      ...parseDefaultRoutes(
        "",
        `${zero} 00 ${zero} 00 ${zero} 00000400 1 0 00000003 wwan0\n${zero} 00 ${zero} 00 ${zero} ffffffff 1 0 00200200 lo\n`,
      ),
    ]).toEqual(["wwan0"]);
  });

  test("take any text", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), fc.string({ unit: "binary" }), (one, other) => {
        parseMounts(one);
        parseSwaps(one);
        parseDefaultRoutes(one, other);
      }),
    );
  });
});

test("the recording is what it says", () => {
  expect(readFileSync("specs/transcripts/sysfs/usb-hotplug.json", "utf8")).toContain('"captured": "Linux 6.1');
});
