/** The Xen half of the simulated host: what its xl, device models and guests do is what real ones were recorded to do. */
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import type { Given } from "../src/sim/scenario-file.ts";
import { createSimHost, type SimHost } from "../src/sim/world.ts";
import type { SimXen } from "../src/sim/xen.ts";
import { eventually } from "./support/eventually.ts";
import { smallDelays } from "./support/rig.ts";

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
    expect(xen.xlQmp.filter((line) => !line.includes("qmp_capabilities"))).toEqual([
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
