/** Domains of Xen's through the whole daemon, on the simulated Xen host: xenstore, xl, device models, guests. */
import { connect } from "node:net";
import { join } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import type { Given } from "../src/sim/scenario-file.ts";
import type { SimXen } from "../src/sim/xen.ts";
import type { XenSpec } from "../src/sim/xen-domain.ts";
import { createRig, type Rig } from "./support/rig.ts";

const TIMINGS = { recordSettleMs: 150, phantomMs: 250, backendMs: 400, qusbMs: 400 };
const DAEMONS = ["c", "ocaml"] as const;
const DONGLE = { busid: "1-1", kind: "stick", id: "0951:1666", serial: "A1" } as const;
const OTHER = { busid: "1-2", kind: "stick", id: "0951:1666", serial: "B2" } as const;

const fileOf = (name: string, spec = "", serial = "A1"): string => `apiVersion: plugherd/v1
kind: Domain
metadata: { name: ${name} }
spec:
  ${spec === "" ? "mode: enforce" : spec}
  devices:
    - name: stick
      usb: { vendor: "0951", serial: ${serial} }
`;
let rig: Rig;
let xen: SimXen;
async function start(domains: readonly XenSpec[], more: Given = {}, daemon: "c" | "ocaml" = "ocaml", timings = {}): Promise<void> {
  rig = await createRig(
    {
      xen: { daemon },
      domains: domains as unknown as NonNullable<Given["domains"]>,
      files: Object.fromEntries(domains.map(({ name }) => [`${name}.yaml`, fileOf(name)])),
      ...more,
    },
    { ...TIMINGS, ...timings },
  );
  if (rig.host.xen === null) throw new Error("no Xen host");
  xen = rig.host.xen;
  await rig.settled();
}
afterEach(async () => {
  await rig.close();
});

const QUSB = [{ type: "qusb", version: 2, ports: 4 }] as const;
/** `<devid>:<port> <bus>.<device>` of all that `xl usb-list` shows. */
function listed(name: string): string[] {
  let devid = "";
  return xen
    .usbList(name)
    .split("\n")
    .flatMap((line) => {
      devid = /^(\d+)\s+\S+/.exec(line)?.[1] ?? devid;
      const port = /Port (\d+): Bus ([0-9a-f]+) Device ([0-9a-f]+)/.exec(line);
      return port === null ? [] : [`${devid}:${port[1] ?? ""} ${String(Number(port[2]))}.${String(Number.parseInt(port[3] ?? "", 16))}`];
    });
}
const untilListed = (name: string, wanted: readonly string[]): Promise<void> =>
  rig.wait(() => (JSON.stringify(listed(name)) === JSON.stringify(wanted) ? [] : [`xl usb-list ${name}: ${listed(name).join(", ")}`]));
const marks = (): string[] => xen.dump().filter((line) => /\/plugherd\/\d+\/\d+ = /.test(line));
/** What came over the wire since then, as `path=value`. */
const written = (from: number): string[] =>
  xen.writes.slice(from).flatMap(({ who, path, value }) => (who === "socket" ? [`${path}=${value ?? "removed"}`] : []));
const objectIds = (name: string): (string | null)[] => rig.host.objects(name).map(({ id }) => id);
const addressOf = (busid: string): { hostbus: number; hostaddr: number } => {
  const device = rig.app.view.snapshot().host.find((one) => one.device.busid === busid)?.device;
  if (device === undefined) throw new Error(`the daemon sees nothing at ${busid}`);
  return { hostbus: device.bus, hostaddr: device.address };
};
const ok = async (outcome: Promise<{ readonly ok: boolean }>): Promise<void> => {
  expect(await outcome).toMatchObject({ ok: true });
};

describe.each(DAEMONS)("HVM, %s xenstored", (daemon) => {
  test("a domain without a controller gets one; a device comes, goes, and comes back, mirrored as libxl does", async () => {
    await start([{ name: "hvm1", type: "hvm" }], {}, daemon);
    const from = xen.writes.length;
    rig.host.plug(DONGLE);
    await rig.until("hvm1/stick", "Attached");
    expect(listed("hvm1")).toEqual(["0:1 1.2"]);
    expect(objectIds("hvm1")).toEqual(["xenusb-1-2"]);
    expect(written(from)).toEqual([
      "/libxl/1/device/vusb/0/type=devicemodel",
      "/libxl/1/device/vusb/0/usb-ver=3",
      "/libxl/1/device/vusb/0/num-ports=8",
      "/libxl/1/device/vusb/0/port=",
      ...[1, 2, 3, 4, 5, 6, 7, 8].map((port) => `/libxl/1/device/vusb/0/port/${String(port)}=`),
      "/libxl/1/plugherd/0=hci0",
      "/libxl/1/device/vusb/0/port/1=1-1",
      expect.stringMatching(/^\/libxl\/1\/plugherd\/0\/1=1-1 1\.2 \d+ xenusb-1-2$/),
    ]);
    for (const [busid, address] of [
      ["1-1", 3],
      ["1-3", 4],
    ] as const) {
      rig.host.replug([...rig.host.plugged()][0] ?? "", busid);
      const id = `xenusb-1-${String(address)}`;
      await rig.wait(() => (objectIds("hvm1").join() === id ? [] : [`QEMU has ${objectIds("hvm1").join()}`]));
      await rig.until("hvm1/stick", "Attached");
      expect(listed("hvm1")).toEqual([`0:1 1.${String(address)}`]);
    }
    rig.host.unplug("1-3");
    await untilListed("hvm1", []);
    await rig.wait(() => objectIds("hvm1").map(String));
    expect(marks()).toEqual([]);
  });

  test("what has left the host: its record is cleared before QEMU is asked", async () => {
    await start([{ name: "hvm1", type: "hvm" }], { host: [DONGLE] }, daemon);
    await rig.until("hvm1/stick", "Attached");
    const from = xen.writes.length;
    rig.host.unplug("1-1");
    await rig.wait(() => objectIds("hvm1").map(String));
    expect(written(from)).toEqual(["/libxl/1/device/vusb/0/port/1=", "/libxl/1/plugherd/0/1=removed"]);
  });

  test("reboot: another domid, the same uuid, everything back", async () => {
    await start([{ name: "hvm1", type: "hvm" }], { host: [DONGLE] }, daemon);
    await rig.until("hvm1/stick", "Attached");
    await ok(xen.xl.reboot("hvm1"));
    await rig.until("hvm1/stick", "Attached");
    expect(listed("hvm1")).toEqual(["0:1 1.2"]);
    expect(xen.xl.domain("hvm1").domid).toBe(2);
  });
});

describe("HVM", () => {
  test("nothing is written or sent before libxl has finished making the domain", async () => {
    await start([], { host: [DONGLE], files: { "hvm1.yaml": fileOf("hvm1") } });
    const sent: string[] = [];
    await ok(
      xen.xl.create(
        { name: "hvm1", type: "hvm" },
        {
          at: async (step) => {
            if (step !== "json") return;
            await rig.until("hvm1/stick", "WaitingForDomain/DomainStarting");
            sent.push(...written(0), ...rig.host.mutations("hvm1").map(({ command }) => command));
          },
        },
      ),
    );
    await rig.until("hvm1/stick", "Attached");
    expect(sent).toEqual([]);
  });

  test("what xl attached is adopted where a file wants it, and left alone where none does", async () => {
    await start([{ name: "hvm1", type: "hvm", usbctrl: [{ type: "devicemodel", version: 3 }] }], { host: [DONGLE, OTHER], files: {} });
    await ok(xen.xl.usbdevAttach("hvm1", addressOf("1-1")));
    await ok(xen.xl.usbdevAttach("hvm1", addressOf("1-2")));
    const from = xen.writes.length;
    rig.host.files.write({ "hvm1.yaml": fileOf("hvm1") });
    await rig.until("hvm1/stick", "Attached/Adopted");
    expect(listed("hvm1")).toEqual(["0:1 1.2", "0:2 1.3"]);
    expect(written(from)).toEqual([]);
  });

  test("xl detaches what is ours: it is attached again, and at the third time that is Contested until a person retries", async () => {
    await start([{ name: "hvm1", type: "hvm" }], { host: [DONGLE] });
    await rig.until("hvm1/stick", "Attached");
    for (const phase of ["Attached", "Attached", "Contested/UndoneByOthers"]) {
      await ok(xen.xl.usbdevDetach("hvm1", 0, 1));
      await rig.until("hvm1/stick", phase);
      await untilListed("hvm1", phase === "Attached" ? ["0:1 1.2"] : []);
    }
    await rig.wait(() => marks()); // xl knows nothing of it, and left it
    await rig.operate({ verb: "retry", domain: "hvm1", device: "stick" });
    await rig.until("hvm1/stick", "Attached");
    expect(listed("hvm1")).toEqual(["0:1 1.2"]);
  });

  test("a dead record of xl's, which stops every attach of the host, is cleared", async () => {
    await start([{ name: "hvm1", type: "hvm", usbctrl: [{ type: "devicemodel", version: 3 }] }], { host: [OTHER], files: {} });
    await ok(xen.xl.usbdevAttach("hvm1", addressOf("1-2")));
    rig.host.unplug("1-2");
    rig.host.plug(DONGLE);
    await rig.wait(() => (rig.app.view.snapshot().host.some(({ device }) => device.busid === "1-1") ? [] : ["not seen"]));
    expect(await xen.xl.usbdevAttach("hvm1", addressOf("1-1"))).toMatchObject({ ok: false });
    rig.host.files.write({ "hvm1.yaml": fileOf("hvm1") });
    await rig.until("hvm1/stick", "Attached");
    await rig.wait(() =>
      objectIds("hvm1")
        .filter((id) => id !== "xenusb-1-3")
        .map(String),
    );
    await untilListed("hvm1", ["0:1 1.3"]);
  });

  test("a dead record of the 2014 layout is cleared; a live device in it is adopted", async () => {
    await start([{ name: "hvm1", type: "hvm", usbversion: 3 }], { host: [DONGLE], files: {} });
    xen.store.write("/libxl/1/usb/hostdev-0001-0009/hostaddr", "9");
    xen.store.write("/libxl/1/usb/hostdev-0001-0002/hostaddr", "2");
    rig.host.attachByHand("hvm1", "1-1", "usb-hostdev-0001.0002");
    rig.host.files.write({ "hvm1.yaml": fileOf("hvm1") });
    await rig.until("hvm1/stick", "Attached/Adopted");
    await rig.wait(() => xen.dump().filter((line) => line.includes("hostdev-0001-0009")));
    expect(xen.dump().filter((line) => line.includes("hostdev-0001-0002"))).not.toEqual([]);
  });

  test("a controller that libxl does not know is used under ids of our own, with no record", async () => {
    await start([{ name: "hvm1", type: "hvm", usbversion: 3 }], { host: [DONGLE] });
    await rig.until("hvm1/stick", "Attached");
    expect(objectIds("hvm1")).toEqual([expect.stringMatching(/^plugherd-1-2-\d+$/)]);
    expect(written(0)).toEqual([]);
  });

  test("where xentop holds the statistics monitor, libxl's own is borrowed for each operation, and xl works beside us", async () => {
    await start([{ name: "hvm1", type: "hvm", paused: true }], { host: [OTHER] });
    const socket = join(rig.host.root, "run", "xen", "qmp-libxenstat-1");
    await rig.stop();
    const xentop = connect(socket);
    await new Promise((resolve) => xentop.once("data", resolve));
    try {
      await rig.start();
      rig.host.plug(DONGLE);
      await rig.until("hvm1/stick", "Attached");
      expect(rig.app.view.snapshot().domains[0]?.live?.monitor).toMatch(/qmp-libxl-1$/);
      await ok(xen.xl.usbdevAttach("hvm1", addressOf("1-2")));
      await untilListed("hvm1", ["0:1 1.3", "0:2 1.2"]);
      rig.host.unplug("1-1");
      await untilListed("hvm1", ["0:2 1.2"]);
      await rig.wait(() =>
        objectIds("hvm1")
          .filter((id) => id !== "xenusb-1-2")
          .map(String),
      );
    } finally {
      xentop.destroy();
    }
  });

  test("a monitor of the domain's own is used, and the domain is one", async () => {
    await start([{ name: "hvm1", type: "hvm", monitor: true }], { host: [DONGLE] });
    await rig.until("hvm1/stick", "Attached");
    const { domains } = rig.app.view.snapshot();
    expect(domains.map(({ name, live }) => [name, live?.monitor])).toEqual([["hvm1", expect.stringMatching(/qmp\/hvm1\.sock$/)]]);
    expect(listed("hvm1")).toEqual(["0:1 1.2"]);
  });

  test.each([
    [{ foreign: true }, "Stalled/ForeignToolstack"],
    [{ stubdom: true }, "Stalled/StubDomain"],
  ] as const)("%j is told and left alone", async (odd, phase) => {
    await start([{ name: "hvm1", type: "hvm", ...odd }], { host: [DONGLE] });
    await rig.until("hvm1/stick", phase);
    expect(written(0)).toEqual([]);
  });

  test("a domain of another toolstack with a monitor for us is served like a plain one", async () => {
    await start([{ name: "hvm1", type: "hvm", foreign: true, monitor: true }], { host: [DONGLE] });
    await rig.until("hvm1/stick", "Attached");
    expect(objectIds("hvm1")).toEqual([expect.stringMatching(/^plugherd-1-2-\d+$/)]);
    expect(written(0)).toEqual([]);
  });

  test("shut down and kept: its devices are given back", async () => {
    await start([{ name: "hvm1", type: "hvm" }], { host: [DONGLE] });
    await rig.until("hvm1/stick", "Attached");
    xen.xl.shutDown("hvm1", 0);
    await rig.until("hvm1/stick", "WaitingForDomain/DomainShutDown");
    await untilListed("hvm1", []);
  });

  test("renamed: it is the domain of the other file", async () => {
    await start([{ name: "hvm1", type: "hvm" }], { host: [DONGLE], files: { "a.yaml": fileOf("hvm1"), "b.yaml": fileOf("web") } });
    await rig.until("hvm1/stick", "Attached");
    xen.xl.rename("hvm1", "web");
    await rig.until("web/stick", "Attached");
    await rig.until("hvm1/stick", "WaitingForDomain");
  });

  test("a restarted daemon adopts what is its own and changes nothing", async () => {
    await start([{ name: "hvm1", type: "hvm" }], { host: [DONGLE] });
    await rig.until("hvm1/stick", "Attached");
    const from = xen.writes.length;
    rig.host.mark();
    await rig.restart();
    await rig.until("hvm1/stick", "Attached");
    expect(written(from)).toEqual([]);
    expect(rig.host.mutations("hvm1")).toEqual([]);
    rig.host.files.write({ "hvm1.yaml": fileOf("hvm1", "prune: managed", "nothing") });
    await untilListed("hvm1", []); // it is known to be ours
  });

  test.each(["controller", "device"] as const)("what a crash left between the record of a %s and QEMU is put right", async (what) => {
    await start([{ name: "hvm1", type: "hvm", ...(what === "device" ? { usbctrl: [{ type: "devicemodel", version: 3 }] } : {}) }]);
    await rig.stop();
    rig.host.plug(DONGLE);
    const nodes =
      what === "device"
        ? { "device/vusb/0/port/1": "1-1", "plugherd/0/1": "1-1 1.2 77 xenusb-1-2" }
        : { "device/vusb/0/type": "devicemodel", "device/vusb/0/usb-ver": "3", "device/vusb/0/num-ports": "8", "plugherd/0": "hci0" };
    for (const [path, value] of Object.entries(nodes)) xen.store.write(`/libxl/1/${path}`, value);
    await rig.start();
    await rig.until("hvm1/stick", "Attached");
    const devid = what === "device" ? 0 : 1;
    await untilListed("hvm1", [`${String(devid)}:1 1.2`]);
    expect(xen.dump().filter((line) => /vusb\/\d+ = /.test(line))).toHaveLength(1);
    expect(marks()).toHaveLength(1);
  });

  test("cannot be saved with it: that is a condition", async () => {
    await start([{ name: "hvm1", type: "hvm" }], { host: [DONGLE] });
    await rig.until("hvm1/stick", "Attached");
    const conditions = (): readonly string[] => rig.app.view.snapshot().domains[0]?.conditions.map(({ type }) => type) ?? [];
    await rig.wait(() => (conditions().includes("NotSaveable") ? [] : ["no NotSaveable"]));
  });
});

describe.each(DAEMONS)("PV, %s xenstored", (daemon) => {
  test.each(["pv", "pvh"] as const)(
    "%s: one write attaches, the guest really has it, also after a replug into the same port",
    async (type) => {
      await start([{ name: "pv1", type, usbctrl: QUSB }], {}, daemon);
      const from = xen.writes.length;
      rig.host.plug(DONGLE);
      await rig.until("pv1/stick", "Attached");
      expect(written(from)).toEqual([
        "/local/domain/0/backend/qusb/1/0/port/1=1-1",
        expect.stringMatching(/^\/libxl\/1\/plugherd\/0\/1=1-1 1\.2 \d+ xen-qusb-0-1$/),
      ]);
      expect(xen.guestSees("pv1")).toEqual(["1-1"]);
      for (const to of ["1-1", "1-3"]) {
        rig.host.replug(rig.host.plugged()[0] ?? "", to);
        await rig.wait(() => (xen.guestSees("pv1").join() === to ? [] : [`the guest has ${xen.guestSees("pv1").join()}`]));
        await rig.until("pv1/stick", "Attached");
      }
      rig.host.unplug("1-3");
      await untilListed("pv1", []);
      await rig.wait(() => marks());
    },
  );
});

describe("PV", () => {
  test("a controller is made at run time where the device model serves qusb, with the handshake", async () => {
    await start([{ name: "pv1", type: "pv", deviceModel: true }], { host: [DONGLE] });
    await rig.until("pv1/stick", "Attached");
    expect(xen.guestSees("pv1")).toEqual(["1-1"]);
    const states = xen.writes
      .filter(({ path }) => /qusb\/1\/0\/state$|vusb\/0\/state$/.test(path))
      .map(({ who, value }) => `${who.split(":")[0] ?? ""} ${value ?? ""}`);
    expect(states).toEqual(
      ["socket 1", "socket 1", "socket 1", "qemu 1", "qemu 2", "guest 4", "qemu 4"].filter((one) => states.includes(one)),
    );
    expect(states.at(-1)).toBe("qemu 4");
  });

  test("no device model: no controller can be made, and the line to add is told", async () => {
    await start([{ name: "pv1", type: "pv" }], { host: [DONGLE] });
    await rig.until("pv1/stick", "Stalled/NoController");
    expect(rig.report()).toContain('usbctrl=["type=qusb,version=2,ports=8"]');
    expect(written(0)).toEqual([]);
  });

  test("a frontend that never connects: in place, and said what to load", async () => {
    await start([{ name: "pv1", type: "pv", usbctrl: QUSB, frontend: "never" }], { host: [DONGLE] });
    await rig.until("pv1/stick", "WaitingForFrontend/FrontendNotConnected");
    expect(rig.report()).toContain("xen-hcd");
    xen.frontend("pv1", "connects");
    await rig.until("pv1/stick", "Attached");
  });

  test.each(["by-way-of-3", "floods", "lies", "jumps"] as const)("a frontend that %s harms nobody", async (way) => {
    await start([
      { name: "pv1", type: "pv", usbctrl: QUSB },
      { name: "pv2", type: "pv", usbctrl: QUSB, ...(way === "by-way-of-3" ? { frontend: way } : {}) },
    ]);
    if (way !== "by-way-of-3") xen.frontend("pv2", way);
    rig.host.files.write({ "pv1.yaml": fileOf("pv1"), "pv2.yaml": fileOf("pv2", "mode: enforce", "B2") });
    rig.host.plug(DONGLE);
    await rig.until("pv1/stick", "Attached");
    if (way !== "by-way-of-3") return;
    rig.host.plug(OTHER);
    await rig.until("pv2/stick", "Attached");
  });

  test("a frontend that closes and comes back: waited for, not replaced", async () => {
    await start([{ name: "pv1", type: "pv", usbctrl: QUSB }], { host: [DONGLE] });
    await rig.until("pv1/stick", "Attached");
    xen.frontend("pv1", "closes");
    await rig.until("pv1/stick", "WaitingForFrontend/FrontendClosed");
    xen.frontend("pv1", "comes-back");
    await rig.until("pv1/stick", "Attached");
    expect(xen.dump().filter((line) => /backend\/qusb\/1\/\d+ = /.test(line))).toHaveLength(1);
  });

  test("xl's own attach is adopted, and what it proves is said", async () => {
    await start([{ name: "pv1", type: "pv", usbctrl: QUSB }], { host: [DONGLE], files: {} });
    await ok(xen.xl.usbdevAttach("pv1", addressOf("1-1")));
    rig.host.files.write({ "pv1.yaml": fileOf("pv1") });
    await rig.until("pv1/stick", "Attached/Unconfirmed");
  });

  test("detached by hand: repaired", async () => {
    await start([{ name: "pv1", type: "pv", usbctrl: QUSB }], { host: [DONGLE] });
    await rig.until("pv1/stick", "Attached");
    await ok(xen.xl.usbdevDetach("pv1", 0, 1));
    await rig.wait(() =>
      xen.writes.filter(({ path, value }) => path.endsWith("qusb/1/0/port/1") && value === "1-1").length < 2 ? ["not yet"] : [],
    );
    await rig.until("pv1/stick", "Attached");
  });

  test("a backend in another domain is told", async () => {
    await start([{ name: "pv1", type: "pv", deviceModel: true }], {
      host: [DONGLE],
      files: { "pv1.yaml": fileOf("pv1", "controllers: [{ name: far, type: pv, backend: usbvm }]") },
    });
    await rig.until("pv1/stick", "Stalled/BackendNotLocal");
  });
});

describe("a xenstored that is not to be believed", () => {
  test.each(["hvm", "pv"] as const)(
    "%s: a store that comes back empty is doubt: nothing is detached, forgotten or attached",
    async (type) => {
      await start([{ name: "d1", type, usbctrl: type === "pv" ? QUSB : [{ type: "devicemodel", version: 3 }] }], { host: [DONGLE] });
      await rig.until("d1/stick", "Attached");
      rig.host.mark();
      await xen.restartStore();
      await rig.until("d1/stick", "WaitingForDomain/StoreInDoubt");
      const from = xen.writes.length;
      rig.host.plug(OTHER);
      await rig.wait(() => (rig.app.view.snapshot().host.length === 2 ? [] : ["not seen"]));
      expect(written(from)).toEqual([]);
      expect(rig.host.mutations("d1")).toEqual([]);
      await rig.until("d1/stick", "WaitingForDomain/StoreInDoubt");
    },
  );

  test("stopped and started with what it had: everything goes on", async () => {
    await start([{ name: "hvm1", type: "hvm" }], { host: [DONGLE] });
    await rig.until("hvm1/stick", "Attached");
    await xen.stopStore();
    await rig.until("hvm1/stick", "WaitingForDomain/StoreInDoubt");
    rig.host.replug("1-1", "1-3");
    await xen.startStore();
    await rig.until("hvm1/stick", "Attached");
    await untilListed("hvm1", ["0:1 1.3"]);
  });

  test("one that comes later is noticed", async () => {
    await start([], { files: { "hvm1.yaml": fileOf("hvm1") }, host: [DONGLE] });
    await xen.stopStore();
    await rig.restart();
    await rig.settled();
    await xen.startStore();
    await ok(xen.xl.create({ name: "hvm1", type: "hvm" }));
    await rig.until("hvm1/stick", "Attached");
  });
});

test("destroyed in the middle of an attach: no tree is brought to life again", async () => {
  await start([{ name: "hvm1", type: "hvm", usbctrl: [{ type: "devicemodel", version: 3 }] }]);
  for (let round = 0; round < 5; round += 1) {
    rig.host.plug(DONGLE);
    await xen.xl.destroy("hvm1");
    await rig.until("hvm1/stick", "WaitingForDomain");
    expect(xen.dump().filter((line) => /^\/(libxl|local\/domain)\/[1-9]/.test(line))).toEqual([]);
    rig.host.unplug("1-1");
    await ok(xen.xl.create({ name: "hvm1", type: "hvm", usbctrl: [{ type: "devicemodel", version: 3 }] }));
    await rig.until("hvm1/stick", "WaitingForHost");
  }
});
