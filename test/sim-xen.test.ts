/** The Xen half of the simulated host: what its xl, device models and guests do is what real ones were recorded to do. */
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import type { DomainSpec, Given } from "../src/sim/scenario-file.ts";
import { wrongWorld } from "../src/sim/expectation.ts";
import { playScenario, readScenarios } from "../src/sim/scenario.ts";
import { createSimHost, type SimHost } from "../src/sim/world.ts";
import type { SimXen } from "../src/sim/xen.ts";
import { eventually } from "./support/eventually.ts";
import { smallDelays } from "./support/rig.ts";
import { openRaw } from "./support/xenstored.ts";
import { normalWrites, recordedSteps, runXl, writesSince } from "./support/xl-replay.ts";

let host: SimHost;
let xen: SimXen;
afterEach(() => host.close());
const start = async (given: Given = {}): Promise<void> => {
  host = await createSimHost({ given: { xen: { daemon: "ocaml" }, ...given }, delays: smallDelays });
  if (host.xen === null) throw new Error("no Xen host");
  xen = host.xen;
};
const list = (): string[] => execFileSync(host.paths.xl, ["list", "-v"], { encoding: "utf8", stdio: "pipe" }).trimEnd().split("\n");

const stick = { busid: "1-1", kind: "stick" } as const;
const qusb = [{ type: "qusb", version: 2, ports: 4 }] as const;

/** The device of a story as it was recorded: at this address. */
function plugAt(busid: string, kind: "stick" | "zigbee" | "disk", address: number): void {
  const [bus = ""] = busid.split("-");
  if (!host.plugged().includes(busid)) host.plug({ busid, kind });
  const node = (): string | undefined =>
    readdirSync(join(host.paths.dev, "bus/usb", bus.padStart(3, "0"))).find((name) => Number(name) === address);
  const now = (): number => Number(readFileSync(join(host.paths.sysfs, "bus/usb/devices", busid, "devnum"), "utf8"));
  while (now() !== address && node() === undefined) host.replug(busid);
  expect(now()).toBe(address);
}

/** Before a step of a story: what the recorder did by hand. */
type Between = Readonly<Record<string, () => unknown>>;
const STORIES: readonly {
  readonly story: string;
  readonly domain: DomainSpec;
  readonly devices: readonly (readonly [busid: string, kind: "stick" | "zigbee" | "disk", address: number])[];
  readonly between: Between;
}[] = [
  {
    story: "A-hvm-autoctrl-fails",
    domain: { name: "hvm1", type: "hvm" },
    devices: [
      ["1-4", "zigbee", 4],
      ["2-1", "disk", 2],
    ],
    between: {},
  },
  {
    story: "B-hvm-runtime-ctrl",
    domain: { name: "hvm1", type: "hvm" },
    devices: [
      ["1-4", "zigbee", 4],
      ["2-1", "disk", 2],
    ],
    between: {},
  },
  {
    story: "C-pv-without-device-model-fails",
    domain: { name: "pv1", type: "pv", memory: 192 },
    devices: [["1-4", "zigbee", 4]],
    between: {},
  },
  {
    story: "D-pv-qusb-full-cycle",
    domain: { name: "pv1", type: "pv", memory: 192, usbctrl: qusb },
    devices: [
      ["1-2", "stick", 2],
      ["1-4", "zigbee", 4],
      ["2-1", "disk", 2],
    ],
    between: {},
  },
  {
    story: "E-hvm-surprise-unplug",
    domain: { name: "hvm1", type: "hvm", usbctrl: [{ version: 2 }] },
    devices: [
      ["1-2", "stick", 2],
      ["2-1", "disk", 2],
    ],
    between: { "14-hvm-replugged-attach-again": () => plugAt("1-2", "stick", 5) },
  },
  {
    story: "F-pv-and-hvm-unplug-recovery",
    domain: { name: "pv1", type: "pv", memory: 192, usbctrl: qusb },
    devices: [["1-2", "stick", 5]],
    between: {
      "14-pv-replugged-attach-again": () => plugAt("1-2", "stick", 6),
      "17-pv-detach-while-gone": () => host.unplug("1-2"),
      "18-pv-attach-after-detach-while-gone": () => plugAt("1-2", "stick", 7),
      "30-hvm-attach": () => host.startDomain({ name: "hvm1", type: "hvm", usbctrl: [{ version: 2 }] }),
      "31-hvm-detach-while-gone": () => host.unplug("1-2"),
      "33-hvm-usbctrl-attach-again": () => plugAt("1-2", "stick", 8),
    },
  },
  {
    story: "G-create-with-usb-in-config",
    domain: { name: "hvm2", type: "hvm", usbctrl: [{ version: 2 }], usbdev: [{ busid: "2-1", controller: 0, port: 2 }] },
    devices: [
      ["1-4", "zigbee", 3],
      ["2-1", "disk", 2],
    ],
    between: {},
  },
  {
    story: "I-hvm-manual-recovery",
    domain: { name: "hvm1", type: "hvm", usbctrl: [{ version: 2 }] },
    devices: [["1-2", "stick", 2]],
    between: {
      async "11-hvm-hand-recovery-2-clear-port"() {
        await xen.xl.usbdevAttach("hvm1", { hostbus: 1, hostaddr: 2 });
        plugAt("1-2", "stick", 3);
        host.qemu("hvm1").removeByOther("xenusb-1-2");
      },
      "13-hvm-usbctrl-detach-after-replug": () => plugAt("1-2", "stick", 4),
    },
  },
];

describe.each(STORIES)("xl as recorded: $story", ({ story, domain, devices, between }) => {
  test("writes, sends and refuses the same, step by step", async () => {
    host = await createSimHost({ given: { xen: { daemon: "ocaml" } }, delays: { ...smallDelays, stepMs: 5, ejectMs: 1 } });
    if (host.xen === null) throw new Error("no Xen host");
    xen = host.xen;
    for (const [busid, kind, address] of devices) plugAt(busid, kind, address);
    const steps = recordedSteps(story);
    if (!steps.some(({ run }) => run === "create")) await host.startDomain(domain);
    const shaken = (): boolean =>
      xen.writes.every(({ path }) => !/vusb\/\d+\/state$/.test(path) || xen.store.read(path) !== "4" || backendOf(path) === "4");
    const backendOf = (path: string): string | null => xen.store.read(`${xen.store.read(path.replace(/state$/, "backend")) ?? ""}/state`);
    for (const { step, run, rc, watched, writes, qmp, out } of steps) {
      await eventually(shaken);
      await between[step]?.();
      const [from, sent] = [xen.writes.length, xen.xlQmp.length];
      let printed = "";
      if (run === "create") await host.startDomain(step.startsWith("02") ? pv2 : domain);
      else if (run.startsWith("xenstore-write")) xen.store.write("/libxl/1/device/vusb/0/port/1", "");
      else {
        const done = await runXl(host, run);
        if (!done.ok) printed = done.error;
        expect([step, done.ok, printed]).toEqual([step, rc === 0, printed]);
      }
      const wanted = normalWrites(writes);
      // The recorder stopped watching when xl was done: what guest and device model went on to do is not in it.
      await eventually(() => expect([step, ...writesSince(host, from, watched).slice(0, wanted.length)]).toEqual([step, ...wanted]));
      expect([step, ...writesSince(host, from, watched).slice(wanted.length)].join("\n")).toMatch(
        /^[^\n]*(\n\S+(\/state = "4"|\/control\/feature-\w+ = "1") \S+)*$/,
      );
      if (qmp !== null) expect([step, ...xen.xlQmp.slice(sent)]).toEqual([step, ...qmp]);
      const plain = out.map((line) => line.replace(/^Domain \d+:/, "")).join("\n");
      for (const line of printed === "" ? [] : printed.split("\n"))
        expect(plain).toContain(line.replace("vusb/1/", `vusb/${String(/vusb.(\d+)/.exec(plain)?.[1])}/`));
    }
  });
});
const pv2: DomainSpec = {
  name: "pv2",
  type: "pv",
  memory: 192,
  usbctrl: qusb,
  usbdev: [{ busid: "1-4", controller: 0, port: 1 }],
};

describe("domains", () => {
  test("an HVM domain with a qusb controller: tree, process, monitors, json file, list", async () => {
    await start({ host: [stick], domains: [{ name: "hvm1", type: "hvm", usbctrl: qusb }] });
    const { domid, uuid } = xen.xl.domain("hvm1");
    const pid = xen.store.read(`/local/domain/${String(domid)}/image/device-model-pid`) ?? "";
    const words = readFileSync(join(host.paths.proc, pid, "cmdline"), "utf8").split("\0");
    expect(words.slice(0, 3)).toEqual(["/usr/libexec/xen-qemu-system-i386", "-xen-domid", String(domid)]);
    for (const name of ["libxl", "libxenstat"]) {
      const path = join(host.root, "run/xen", `qmp-${name}-${String(domid)}`);
      expect(words).toContain(`socket,id=${name}-cmd,path=${path},server=on,wait=off`);
      expect(existsSync(path)).toBe(true);
    }
    expect(readdirSync(host.paths.xenLib)).toEqual([`userdata-d.${String(domid)}.${uuid}.libxl-json`]);
    expect(xen.store.read(`/local/domain/0/device-model/${String(domid)}/state`)).toBe("running");
    expect(list()[2]).toMatch(/^hvm1 +1 +256 +1 {5}-b---- +12\.5 [-0-9a-f]{36} +- +-$/);
    await eventually(() => xen.store.read(`/local/domain/0/backend/qusb/${String(domid)}/0/state`) === "4");
    expect(await xen.xl.usbdevAttach("hvm1", { hostbus: 1, hostaddr: 2 })).toEqual({ ok: true, value: null });
    await eventually(() => xen.guestSees("hvm1").join() === "1-1");
    expect(xen.usbList("hvm1")).toContain("  Port 1: Bus 001 Device 002\n  Port 2:\n");
    expect(await xen.xl.usbdevDetach("hvm1", 0, 1)).toEqual({ ok: true, value: null });
    await eventually(() => host.objects("hvm1").length === 0);
    await xen.xl.destroy("hvm1");
    expect(xen.dump().filter((line) => /\/(1|hvm1)[ /]/.test(line))).toEqual([]);
    expect(readdirSync(host.paths.xenLib)).toEqual([]);
    expect(list()).toHaveLength(2);
    expect(existsSync(join(host.paths.proc, pid))).toBe(false);
  });
  test("an HVM domain with an emulated controller: xl speaks QMP under its lock, and what it sends is what libxl sends", async () => {
    await start({ host: [stick], domains: [{ name: "hvm1", type: "hvm", usbctrl: [{ version: 3, ports: 4 }] }] });
    expect(await xen.xl.usbdevAttach("hvm1", { hostbus: 1, hostaddr: 2 })).toEqual({ ok: true, value: null });
    expect(xen.xlQmp.filter((line) => line.includes("device_add"))).toEqual([
      '{"execute":"device_add","id":2020372736,"arguments":{"driver":"nec-usb-xhci","p2":"4","p3":"4","id":"xenusb-0"}}',
      '{"execute":"device_add","id":2020372736,"arguments":{"id":"xenusb-1-2","driver":"usb-host","bus":"xenusb-0.0","port":"1","hostbus":"1","hostaddr":"2"}}',
    ]);
    expect(host.objects("hvm1")).toMatchObject([{ id: "xenusb-1-2", holds: "1-1" }]);
  });
  test("a PV domain: its frontend connects, a device comes and goes", async () => {
    await start({ host: [stick], domains: [{ name: "pv1", type: "pv", usbctrl: qusb }] });
    await eventually(() => xen.store.read("/local/domain/1/device/vusb/0/state") === "4");
    await xen.xl.usbdevAttach("pv1", { hostbus: 1, hostaddr: 2 });
    await eventually(() => xen.guestSees("pv1").join() === "1-1");
    host.replug("1-1");
    expect(xen.guestSees("pv1")).toEqual([]);
    await eventually(() => xen.usbList("pv1").includes("  Port 1: Bus 001 Device 003"));
    expect(host.objects("pv1")).toMatchObject([{ id: "xen-qusb-0-1", holds: null }]);
    await xen.xl.destroy("pv1");
    expect(host.domainNames()).toEqual([]);
  });
});

/** Plays steps without a daemon; what is expected of the world must come true. */
async function play(given: string, steps: string): Promise<void> {
  const read = readScenarios(
    `name: n\nabout: a\ngiven: { xen: { daemon: c${given === "" ? "" : `, ${given}`} }\nsteps:\n${steps}`,
    "x.yaml",
  );
  if (!read.ok) throw new Error(read.error.join("\n"));
  const [scenario] = read.value;
  if (scenario === undefined) throw new Error("no scenario");
  host = await createSimHost({ given: scenario.given, delays: smallDelays });
  if (host.xen === null) throw new Error("no Xen host");
  xen = host.xen;
  await playScenario(scenario.steps, host, {
    note: () => undefined,
    reach: () => Promise.resolve(),
    operate: () => Promise.resolve(),
    daemon: () => Promise.resolve(),
    expect: (wanted, where) => eventually(() => expect([where, ...wrongWorld(wanted, host)]).toEqual([where])).then(() => undefined),
  });
}
const PV = "{ name: pv1, type: pv, usbctrl: [{ type: qusb, ports: 4 }] }";
const FE = "/local/domain/{pv1}/device/vusb/0/state";
const BE = "/local/domain/0/backend/qusb/{pv1}/0";

describe("the qusb backend", () => {
  test("a port that is changed at once from one device to another keeps the first; cleared, looked at and set again it changes", () =>
    play(
      `}, host: [{ busid: 1-1, kind: stick }, { busid: 1-2, kind: zigbee }], domains: [${PV}]`,
      `
  - xlUsbdevAttach: { domain: pv1, busid: 1-1 }
  - expect: { guestSees: { pv1: [1-1] } }
  - xenstoreWrite: { path: "${BE}/port/1", value: "" }
  - xenstoreWrite: { path: "${BE}/port/1", value: 1-2 }
  - expect: { guestSees: { pv1: [1-1] }, xenstore: { "${BE}/port/1": 1-2 } }
  - xenstoreWrite: { path: "${BE}/port/1", value: "" }
  - expect: { guestSees: { pv1: [] }, holds: { pv1: [] } }
  - xenstoreWrite: { path: "${BE}/port/1", value: 1-2 }
  - expect: { guestSees: { pv1: [1-2] }, noLeftovers: true }
`,
    ));
  test("after a replug into the same port the guest has nothing, until it is cleared and set", () =>
    play(
      `}, host: [{ busid: 1-1, kind: stick }], domains: [${PV}]`,
      `
  - xlUsbdevAttach: { domain: pv1, busid: 1-1 }
  - expect: { guestSees: { pv1: [1-1] } }
  - replug: { busid: 1-1 }
  - expect: { guestSees: { pv1: [] }, holds: { pv1: [] }, xenstore: { "${BE}/port/1": 1-1 } }
  - xlUsbdevDetach: { domain: pv1, controller: 0, port: 1 }
  - xlUsbdevAttach: { domain: pv1, busid: 1-1 }
  - expect: { guestSees: { pv1: [1-1] }, noLeftovers: true }
`,
    ));
  test("a controller that is not in state 1 when it is first seen is left alone; USB 1 does not take a fast device", () =>
    play(
      `}, host: [{ busid: 1-1, kind: stick }], domains: [${PV}]`,
      `
  - xlUsbctrlAttach: { domain: pv1, type: qusb, version: 1, ports: 2 }
  - expect: { xenstore: { "/local/domain/{pv1}/device/vusb/1/state": "4" } }
  - xlUsbdevAttach: { domain: pv1, busid: 1-1, controller: 1 }
  - expect: { holds: { pv1: [] }, guestSees: { pv1: [] } }
`,
    ));
});

describe("guests", () => {
  const given = (does: string): string =>
    `}, host: [{ busid: 1-1, kind: stick }], domains: [{ name: pv1, type: pv, frontend: ${does}, usbctrl: [{ type: qusb, ports: 2 }] }]`;
  test("one by way of 3", () => play(given("by-way-of-3"), `  - expect: { xenstore: { "${FE}": "4", "${BE}/state": "4" } }`));
  test("one that never connects, closes or comes back", () =>
    play(
      given("never"),
      `
  - xlUsbdevAttach: { domain: pv1, busid: 1-1 }
  - expect: { xenstore: { "${FE}": "1", "${BE}/state": "2" }, holds: { pv1: [1-1] }, guestSees: { pv1: [] } }
  - frontend: { domain: pv1, does: connects }
  - expect: { xenstore: { "${FE}": "4", "${BE}/state": "4" }, guestSees: { pv1: [1-1] } }
  - frontend: { domain: pv1, does: closes }
  - expect: { xenstore: { "${FE}": "6", "${BE}/state": "6" }, guestSees: { pv1: [] } }
  - frontend: { domain: pv1, does: comes-back }
  - expect: { xenstore: { "${FE}": "4", "${BE}/state": "4" }, guestSees: { pv1: [1-1] } }
  - frontend: { domain: pv1, does: unloads }
  - expect: { xenstore: { "${FE}": "6", "${BE}/state": "6" } }
`,
    ));
  test("one that is paused does nothing until it runs", () =>
    play(
      `}, domains: [{ name: pv1, type: pv, paused: true, usbctrl: [{ type: qusb }] }]`,
      `
  - expect: { xenstore: { "${FE}": "1", "${BE}/state": "2" } }
  - xlUnpause: pv1
  - expect: { xenstore: { "${FE}": "4", "${BE}/state": "4" } }
`,
    ));
  test("one that jumps, floods and lies breaks nothing but itself", () =>
    play(
      given("connects"),
      `
  - expect: { xenstore: { "${FE}": "4" } }
  - frontend: { domain: pv1, does: jumps }
  - frontend: { domain: pv1, does: floods }
  - frontend: { domain: pv1, does: lies }
  - xlUsbctrlDetach: { domain: pv1, controller: 0 }
  - xlDestroy: pv1
  - expect: { noLeftovers: true }
`,
    ));
});

describe("the kernel's backend", () => {
  const VBE = "/local/domain/0/backend/vusb/{pv1}/0";
  test("a pv controller connects; a device is taken from its driver, given to usbback, and back", async () => {
    await play(
      `usbback: true }, host: [{ busid: 1-1, kind: stick }], domains: [{ name: pv1, type: pv, usbctrl: [{ ports: 2 }] }]`,
      `
  - expect: { xenstore: { "${FE}": "4", "${VBE}/state": "4", "/libxl/{pv1}/device/vusb/0/type": pv } }
  - xlUsbdevAttach: { domain: pv1, busid: 1-1 }
  - expect: { guestSees: { pv1: [1-1] }, holds: { pv1: [1-1] } }
  - replug: { busid: 1-1 }
  - expect: { guestSees: { pv1: [] } }
`,
    );
    expect(xen.drivers.driverOf("1-1:1.0")).toBe("usb-storage");
    expect(xen.store.read("/libxl/usbback/1-1/1-1@1_0/driver_path")).toBe(join(host.paths.sysfs, "bus/usb/drivers/usb-storage"));
    await xen.xl.usbdevDetach("pv1", 0, 1);
    expect(xen.store.read("/libxl/usbback/1-1")).toBe(null);
    await xen.xl.usbdevAttach("pv1", xen.addressOf("1-1"));
    expect(xen.guestSees("pv1")).toEqual(["1-1"]);
    await xen.xl.usbdevDetach("pv1", 0, 1);
    expect(xen.drivers.driverOf("1-1:1.0")).toBe("usb-storage");
    await xen.xl.usbctrlDetach("pv1", 0);
    expect(xen.dump().filter((line) => line.includes("vusb"))).toEqual([]);
  });
});

describe("other device models", () => {
  test("qemu-traditional takes its commands in xenstore, and says that it has added even what it has not", async () => {
    await play(
      `}, host: [{ busid: 1-1, kind: dongle }], domains: [{ name: hvm1, type: hvm, traditional: true, usb: true }]`,
      "  - mark: true",
    );
    const at = "/local/domain/0/device-model/1";
    expect(xen.store.read("/libxl/1/dm-version")).toBe("qemu_xen_traditional");
    const order = async (command: string, parameter: string, answer: string): Promise<void> => {
      xen.store.write(`${at}/parameter`, parameter);
      xen.store.write(`${at}/command`, command);
      await eventually(() => xen.store.read(`${at}/state`) === answer);
      expect(xen.store.read(`${at}/command`)).toBe(null);
      xen.store.write(`${at}/state`, "running");
    };
    await order("usb-add", "host:1.2", "usb-added");
    expect(host.held("hvm1")).toEqual(["1-1"]);
    await order("usb-add", "host:1.9", "usb-added");
    expect(host.held("hvm1")).toEqual(["1-1"]);
    await order("usb-del", "host:1.2", "usb-deleted");
    expect(host.held("hvm1")).toEqual([]);
  });
  test("one in a stub domain: two domains, no libxenstat monitor, a proxy in dom0", async () => {
    await play("}, domains: [{ name: hvm1, type: hvm, stubdom: true }]", "  - mark: true");
    expect(xen.store.read("/local/domain/1/image/device-model-domid")).toBe("2");
    expect(xen.store.read("/local/domain/2/target")).toBe("1");
    expect(xen.store.read("/local/domain/1/image/device-model-pid")).toBe(null);
    expect(xen.store.read("/local/domain/2/device-model/1/state")).toBe("running");
    expect(readdirSync(join(host.root, "run/xen"))).toEqual(["qmp-libxl-1"]);
    expect(list()).toHaveLength(4);
    await xen.xl.destroy("hvm1");
    expect(list()).toHaveLength(2);
    expect(xen.problems()).toEqual([]);
  });
  test("a domain of another toolstack: nothing of libxl, perhaps a monitor of its own", async () => {
    await play("}, domains: [{ name: hvm1, type: hvm, foreign: true, monitor: true }]", "  - mark: true");
    expect(xen.store.read("/local/domain/1/name")).toBe("hvm1");
    expect(xen.dump().filter((line) => line.startsWith("/libxl/"))).toEqual([]);
    expect(readdirSync(host.paths.xenLib)).toEqual([]);
    expect(readdirSync(host.paths.qmpDir)).toEqual(["hvm1.sock"]);
    await xen.xl.destroy("hvm1");
    expect(xen.problems()).toEqual([]);
  });
  test("a boot-time controller and a monitor of its own are on the command line", async () => {
    await play("}, domains: [{ name: hvm1, type: hvm, usbversion: 3, monitor: true }]", "  - mark: true");
    const words = readFileSync(join(host.paths.proc, "1001/cmdline"), "utf8").split("\0");
    expect(words).toContain("nec-usb-xhci,id=usb");
    expect(words).toContain(`unix:${join(host.paths.qmpDir, "hvm1.sock")},server=on,wait=off`);
    expect(host.qemu("hvm1").objects()).toMatchObject([{ id: "usb" }, { id: "xen-vkbd-0" }]);
    expect(xen.usbList("hvm1")).toBe("");
  });
});

/** Locks that the simulated /proc shows, of files in libxl's directory. */
function lockHolders(): readonly string[] {
  const inodes = readdirSync(host.paths.xenLib).map((name) => String(statSync(join(host.paths.xenLib, name)).ino));
  return readFileSync(join(host.paths.proc, "locks"), "utf8")
    .split("\n")
    .filter((line) => line.includes("FLOCK") && inodes.some((inode) => line.includes(`:${inode} `)));
}

describe("lives of domains", () => {
  const HVM = "{ name: hvm1, type: hvm, usbctrl: [{ version: 3 }] }";
  const states = (): readonly string[] =>
    list()
      .slice(2)
      .map((line) => line.replace(/^(\S+) +(\d+) .* ([-rbpscSd]{6}) .* [-0-9a-f]{36} +(\S+) +-$/, "$1 $2 $3 $4"));
  test("a reboot: a new domid, the same uuid, and what was hot-plugged is lost", async () => {
    await play(`}, host: [{ busid: 1-1, kind: stick }], domains: [${HVM}]`, "  - xlUsbdevAttach: { domain: hvm1, busid: 1-1 }");
    const { uuid } = xen.xl.domain("hvm1");
    await xen.xl.reboot("hvm1");
    expect(xen.xl.domain("hvm1")).toMatchObject({ domid: 2, uuid });
    expect(xen.usbList("hvm1")).toContain("0      devicemodel  0   0     3       8    \n  Port 1:\n");
    expect(xen.problems()).toEqual([]);
  });
  test("what xl does can be held up: with the record written, and with its lock held", async () => {
    await play(`}, host: [{ busid: 1-1, kind: stick }], domains: [${HVM}]`, "  - mark: true");
    const seen: unknown[] = [];
    await xen.xl.usbdevAttach("hvm1", xen.addressOf("1-1"), {
      recorded: () => seen.push(xen.problems()),
      locked: () => seen.push(readdirSync(host.paths.xenLib).filter((name) => name.endsWith("lock")).length, lockHolders().length),
    });
    expect(seen).toEqual([["/libxl/1/device/vusb/0/port/1 holds 1-1, but hvm1 has nothing there"], 1, 1]);
    expect(xen.problems()).toEqual([]);
    expect(readdirSync(host.paths.xenLib)).toHaveLength(1);
    expect(host.mutations("hvm1")).toEqual([]);
  });
  test("a device model that is killed takes its process along, and leaves its nodes", async () => {
    await play(`}, domains: [${HVM}]`, "  - kill: hvm1");
    expect(host.objects("hvm1")).toEqual([]);
    expect(existsSync(join(host.paths.proc, "1001"))).toBe(false);
    expect(xen.store.read("/local/domain/0/device-model/1/state")).toBe("running");
    await xen.xl.destroy("hvm1");
    expect(xen.problems()).toEqual([]);
  });
  test("a helper's controller record in the middle of a creation kills it", async () => {
    await play("}", "  - releaseEvent: true");
    const made = await xen.xl.create(
      { name: "hvm1", type: "hvm", usbctrl: [{ version: 3 }] },
      { at: (step, { domid }) => step === "running" && xen.store.write(`/libxl/${String(domid)}/device/vusb/0/type`, "devicemodel") },
    );
    expect(made).toEqual({ ok: false, error: "device already exists in xenstore" });
    expect(host.domainNames()).toEqual([]);
    expect(xen.problems()).toEqual([]);
  });
  test("paused, renamed, shut down, crashed: as the list tells", async () => {
    await play(`}, domains: [${PV}, ${HVM}]`, "  - xlPause: pv1\n  - xlRename: { domain: hvm1, to: hvm2 }");
    expect(states()).toEqual(["pv1 1 --p--- -", "hvm2 2 -b---- -"]);
    expect(xen.store.read(`/local/domain/2/name`)).toBe("hvm2");
    xen.xl.shutDown("pv1", 0);
    xen.xl.shutDown("hvm2", 3);
    expect(states()).toEqual(["pv1 1 --ps-- 0", "hvm2 2 ---sc- 3"]);
    expect(host.qemu("hvm2").status()).toBe("guest-panicked");
  });
  test("a checkpoint passes through suspend; a saved PV domain comes back, an HVM one with an emulated controller is lost", async () => {
    await play(`}, domains: [${PV}, ${HVM}]`, "  - expect: {}");
    let suspended = "";
    await xen.xl.save("pv1", { checkpoint: true, during: () => (suspended = states()[0] ?? "") });
    expect(suspended).toBe("pv1 1 ---ss- 2");
    expect(states()[0]).toBe("pv1 1 -b---- -");
    await xen.xl.save("pv1");
    expect(host.domainNames()).toEqual(["hvm1"]);
    expect((await xen.xl.restore("pv1")).ok).toBe(true);
    await xen.xl.save("hvm1");
    expect(await xen.xl.restore("hvm1")).toEqual({ ok: false, error: "Unknown savevm section; the guest is lost" });
    expect(host.domainNames()).toEqual(["pv1"]);
  });
  test("migration: another name on the way in, and one for what is left behind", async () => {
    await play("}", "  - xlMigrateIn: { name: pv1, type: pv }\n  - xlMigrateOut: pv1");
    expect(states()).toEqual(["pv1--migratedaway 1 ---ss- 2"]);
    const names = xen.writes.filter(({ path }) => path === "/local/domain/1/name").map(({ value }) => value);
    expect(names).toEqual(["pv1--incoming", "pv1", "pv1--migratedaway"]);
  });
  test("a xenstored that is started again is empty; a listing still tells who lives; xl does nothing while it is away", async () => {
    await play(`}, domains: [${PV}]`, "  - xenstored: restart");
    expect(xen.dump()).toEqual(['/tool = ""   (n0)']);
    expect(states()).toEqual(["(null) 1 -b---- -"]);
    await xen.stopStore();
    expect(() => list()).toThrow("cannot connect to xenstore");
  });
  test("what a late writer makes of a dead domain's tree is a problem", async () => {
    await play(`}, domains: [${PV}]`, "  - xlDestroy: pv1");
    expect(xen.problems()).toEqual([]);
    const port = "/local/domain/0/backend/qusb/1/0/port/1";
    const raw = await openRaw(host.paths.xenstore);
    await raw.ask(11, [port, "1-1"].join("\0"));
    raw.close();
    expect(xen.problems()).toEqual([
      "/local/domain/0/backend/qusb/1: qusb backends without the domain",
      `${port} was written, but domain 1 was not there`,
    ]);
    expect(xen.writes.at(-1)).toEqual({ who: "socket", path: port, value: "1-1", permissions: ["n0"] });
  });
  test("a mark whose record says otherwise is stray", async () => {
    await play(`}, domains: [${HVM}]`, '  - xenstoreWrite: { path: "/libxl/{hvm1}/plugherd/0/1", value: "1-1 1.2 77 xenusb-1-2" }');
    expect(xen.strayMarks()).toEqual(["/libxl/1/plugherd/0/1 marks 1-1, but the record holds "]);
  });
  test("a host that is none of Xen's has no xenstore", async () => {
    host = await createSimHost({ delays: smallDelays });
    expect(host.xen).toBe(null);
    expect(readdirSync(host.root).sort()).toEqual(["host", "qmp", "room", "specs"]);
  });
});
