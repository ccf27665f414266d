/** The Xen half of the simulated host: what its xl, device models and guests do is what real ones were recorded to do. */
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import type { DomainSpec, Given } from "../src/sim/scenario-file.ts";
import { createSimHost, type SimHost } from "../src/sim/world.ts";
import type { SimXen } from "../src/sim/xen.ts";
import { eventually } from "./support/eventually.ts";
import { smallDelays } from "./support/rig.ts";
import { normalWrites, recordedSteps, runXl, writesSince } from "./support/xl-replay.ts";

let host: SimHost;
let xen: SimXen;
afterEach(() => host.close());
const start = async (given: Given = {}): Promise<void> => {
  host = await createSimHost({ given: { xen: { daemon: "ocaml" }, ...given }, delays: smallDelays });
  if (host.xen === null) throw new Error("no Xen host");
  xen = host.xen;
};
const list = (): string[] => execFileSync(host.paths.xl, ["list", "-v"], { encoding: "utf8" }).trimEnd().split("\n");

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
    for (const { step, run, rc, watched, writes, qmp, out } of steps) {
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
