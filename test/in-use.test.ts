/** What of the host depends on a device, read from a simulated host. */
import { mkdirSync, rmSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { createInUse } from "../src/adapters/in-use.ts";
import type { InUse } from "../src/model/hostdev.ts";
import type { SimDeviceSpec } from "../src/sim/sysfs-spec.ts";
import type { SysfsTree } from "../src/sim/sysfs-tree.ts";
import { newTree, watchHost } from "./support/host-watch.ts";

const at = (more: Partial<SimDeviceSpec>, port = "1-4"): SimDeviceSpec => ({ port, vendor: "0529", product: "0001", ...more });
const inUse = async (tree: SysfsTree, busid = "1-4"): Promise<InUse> => {
  const { host, now } = await watchHost(tree);
  const device = now().get(busid);
  if (device === undefined) throw new Error(`no ${busid}`);
  return host.inUse(device);
};

describe("disks", () => {
  test.each<[string, SimDeviceSpec["block"], string[]]>([
    ["free", [{ name: "sdb", partitions: [{ name: "sdb1" }] }], []],
    ["mounted whole", [{ name: "sdb", mounted: "/srv" }], ["sdb (mounted on /srv)"]],
    [
      "a mounted partition",
      [{ name: "sdb", partitions: [{ name: "sdb1" }, { name: "sdb2", mounted: "/mnt/a b" }] }],
      ["sdb2 (mounted on /mnt/a b)"],
    ],
    ["swap", [{ name: "sdb", partitions: [{ name: "sdb1", swap: true }] }], ["sdb1 (swap)"]],
    ["LVM, RAID", [{ name: "sdb", holders: ["dm-0", "md1"] }], ["sdb (held by dm-0, md1)"]],
    ["several", [{ name: "sdb", mounted: "/a" }, { name: "sdc" }, { name: "sdd", swap: true }], ["sdb (mounted on /a)", "sdd (swap)"]],
  ])("%s", async (_, block, expected) => {
    const tree = newTree();
    tree.plugAll([at({ block: block ?? [] }), at({ block: [{ name: "sdz", mounted: "/other" }] }, "1-5")]);
    expect(await inUse(tree)).toEqual({ disks: expected, routes: [] });
  });

  test("are read when asked, not kept", async () => {
    const tree = newTree();
    tree.plug(at({ block: [{ name: "sdb" }] }));
    expect((await inUse(tree)).disks).toEqual([]);
    tree.use.mount("sdb", "/srv");
    expect((await inUse(tree)).disks).toEqual(["sdb (mounted on /srv)"]);
    tree.use.release("sdb");
    expect((await inUse(tree)).disks).toEqual([]);
  });

  test("behind a hub are their own devices' matter", async () => {
    const tree = newTree();
    tree.plugAll([at({ hub: 4 }), at({ block: [{ name: "sdb", mounted: "/srv" }] }, "1-4.1")]);
    expect(await inUse(tree)).toEqual({ disks: [], routes: [] });
    expect((await inUse(tree, "1-4.1")).disks).toEqual(["sdb (mounted on /srv)"]);
  });

  test("names of mounts are made safe to show", async () => {
    const tree = newTree();
    tree.plug(at({ block: [{ name: "sdb", mounted: "/a\u001b[2J\n" }] }));
    expect((await inUse(tree)).disks).toEqual(["sdb (mounted on /a?[2J?)"]);
  });

  test("a device or a /proc that is gone has nothing in use", async () => {
    const tree = newTree();
    tree.plug(at({ block: [{ name: "sdb", mounted: "/srv" }] }));
    const { host, now } = await watchHost(tree);
    const device = now().get("1-4");
    if (device === undefined) throw new Error("no 1-4");
    rmSync(tree.proc, { recursive: true });
    expect(await host.inUse(device)).toEqual({ disks: [], routes: [] });
    mkdirSync(join(tree.proc, "self"), { recursive: true });
    mkdirSync(join(tree.proc, "net"), { recursive: true });
    tree.unplug("1-4");
    expect(await host.inUse(device)).toEqual({ disks: [], routes: [] });
  });

  test("a host that does not answer counts as in use", async () => {
    const tree = newTree();
    tree.plug(at({ block: [{ name: "sdb" }] }));
    const { now } = await watchHost(tree);
    const device = now().get("1-4");
    if (device === undefined) throw new Error("no 1-4");
    const clock = { now: () => 0, setTimeout: (fn: () => void): void => fn(), clearTimeout: () => undefined };
    const { sysfs, dev, proc } = tree;
    const late = await createInUse({ sysfs, dev, proc, clock, timings: { commandMs: 1 } })(device);
    const reasons = ["1-4 (the host did not answer)"];
    expect(late).toEqual({ disks: reasons, routes: reasons });
  });

  test("a device with more below it than is looked at counts as in use", async () => {
    const tree = newTree();
    tree.plug(at({ block: [{ name: "sdb" }] }));
    for (let i = 0; i < 600; i += 1) mkdirSync(join(tree.sysfs, "bus/usb/devices/1-4/1-4:1.0", `a${String(i)}`));
    expect((await inUse(tree)).disks).toEqual(["1-4 (more hangs on it than is looked at)"]);
  });
});

describe("network interfaces", () => {
  test.each<[string, SimDeviceSpec["net"], string[]]>([
    ["without a route", [{ name: "usb0" }], []],
    ["with the default route", [{ name: "usb0", defaultRoute: true }], ["usb0 (default route)"]],
    ["in a bridge without it", [{ name: "usb0", master: "br0" }], []],
  ])("%s", async (_, net, expected) => {
    const tree = newTree();
    tree.plug(at({ net: net ?? [] }));
    expect(await inUse(tree)).toEqual({ disks: [], routes: expected });
  });

  test("in a bridge that has it, directly or by a VLAN on it", async () => {
    const tree = newTree();
    tree.plug(at({ net: [{ name: "usb0", master: "br0" }] }));
    tree.use.route("br0");
    expect((await inUse(tree)).routes).toEqual(["usb0 (part of br0, which has the default route)"]);
    tree.use.unroute("br0");
    tree.use.route("br0.7");
    symlinkSync("../br0.7", join(tree.sysfs, "class/net/br0/upper_br0.7"));
    expect((await inUse(tree)).routes).toEqual(["usb0 (part of br0.7, which has the default route)"]);
  });

  test("a ring of bridges ends", async () => {
    const tree = newTree();
    tree.plug(at({ net: [{ name: "usb0", master: "br0" }] }));
    symlinkSync("../br0", join(tree.sysfs, "class/net/br0/master"));
    symlinkSync("../usb0", join(tree.sysfs, "class/net/br0/upper_usb0"));
    expect((await inUse(tree)).routes).toEqual([]);
  });
});
