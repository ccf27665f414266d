/** PV and PVH domains on real Xen: devices through the qusb backend, a handshake with the guest's own driver. */
import assert from "node:assert/strict";
import type { Case } from "../case.ts";
import { oneStick, writeDomain } from "../desired.ts";
import type { Host } from "../host.ts";
import { until } from "../waiting.ts";
import { PV1, type XenConfig } from "../xen-config.ts";
import { untilRight, type XenDomain } from "../xen.ts";
import type { XsEvent } from "../xs-record.ts";

const IDS = "46f4:0001";
const QUSB = ["type=qusb,version=2,ports=4"];

/** In and out, back into the same port and into another, with the guest's kernel as witness. */
async function replugs(host: Host, domain: XenDomain): Promise<void> {
  await host.plug("s1", "usb-storage", { port: "1", serial: "S1" });
  await untilRight(domain, [await host.plugged("2-1")]);
  await host.phase("stick", "Attached");
  await domain.sees(IDS, true);
  for (const port of ["1", "2"]) {
    await host.unplug("s1");
    await host.phase("stick", "WaitingForHost");
    await untilRight(domain, []);
    await domain.sees(IDS, false);
    await host.plug("s1", "usb-storage", { port, serial: "S1" });
    await untilRight(domain, [await host.plugged(`2-${port}`)]);
    await host.phase("stick", "Attached");
    await domain.sees(IDS, true);
  }
  await writeDomain(host, domain.name, []);
  await untilRight(domain, []);
  await domain.sees(IDS, false);
  await until("the host's driver has it again", async () => (await host.driver("2-2")) === "usb-storage");
}

/** The states that a node went through, repeats left out. */
const statesOf = (events: readonly XsEvent[], path: string): string[] =>
  events
    .flatMap((event) => (event.path === path && event.value !== null ? [event.value] : []))
    .filter((state, index, all) => state !== all[index - 1]);

/** A controller's nodes in all three trees with their permissions; what differs from one controller to the next is left out. */
async function shape(host: Host, domid: string, devid: string): Promise<string[]> {
  const roots = [`/local/domain/0/backend/qusb/${domid}`, `/libxl/${domid}/device/vusb`, `/local/domain/${domid}/device/vusb`];
  const trees = await Promise.all(roots.map((root) => host.xen.tree(`${root}/${devid}`)));
  return trees.flat().flatMap(({ path, value, perms }) => {
    const node = path.replace(/\/(qusb\/\d+|vusb)\/\d+/, "/$1/N");
    if (/\/port\/\d+$/.test(node)) return [];
    const shown = /(num-ports|ring-ref|event-channel)$/.test(node) ? "…" : value.replace(/\/\d+$/, "/N");
    return [`${node} = ${shown} ${perms}`];
  });
}

export const xenPvCases: readonly Case[] = [
  {
    name: "xen: a PV domain: a stick comes, goes, comes back to the same port and to another, and its kernel sees it",
    mode: "xen",
    start: "guests",
    run: async (host) => {
      await writeDomain(host, PV1.name, oneStick);
      await host.daemon.start();
      await host.phase("stick", "WaitingForHost");
      await replugs(host, host.xen.domain(PV1.name));
    },
  },
  {
    name: "xen: a PVH domain likewise",
    mode: "xen",
    slow: true,
    run: async (host) => {
      const pvh = host.xen.domain("pvh1");
      await writeDomain(host, "pvh1", oneStick);
      await host.daemon.start();
      await pvh.boot({ type: "pvh", usbctrl: QUSB });
      await replugs(host, pvh);
    },
  },
  {
    name: "xen: a controller of our own in a PV domain goes 1, 2, 4 with its frontend and serves",
    mode: "xen",
    slow: true,
    start: "guests",
    run: async (host) => {
      const pv = host.xen.domain(PV1.name);
      const domid = String(await pv.domid());
      const [fe, be] = [`/local/domain/${domid}/device/vusb/1`, `/local/domain/0/backend/qusb/${domid}/1`];
      const watch = await host.xen.watch(`/local/domain/${domid}/device/vusb`, `/local/domain/0/backend/qusb/${domid}`);
      await writeDomain(host, PV1.name, [{ ...(oneStick[0] as (typeof oneStick)[number]), controller: "mine" }], {
        controllers: [{ name: "mine", type: "pv", version: 2, ports: 3 }],
      });
      await host.daemon.start();
      await host.plug("s1", "usb-storage", { port: "1", serial: "S1" });
      const stick = await host.plugged("2-1");
      await host.phase("stick", "Attached");
      const [object] = await untilRight(pv, [stick]);
      assert.equal(object?.id, "xen-qusb-1-1");
      await pv.sees(IDS, true);
      const events = await watch.stop();
      assert.deepEqual([statesOf(events, `${be}/state`).at(-1), statesOf(events, `${fe}/state`).at(-1)], ["4", "4"]);
      assert.deepEqual(
        statesOf(events, `${be}/state`).filter((state) => !["1", "2", "4"].includes(state)),
        [],
      );
      // Node for node and permission for permission as xl's own controller beside it.
      assert.deepEqual(await shape(host, domid, "1"), await shape(host, domid, "0"));
      const mark = await host.xen.read(`/libxl/${domid}/plugherd/1`);
      assert.equal(mark, "mine");
      await host.daemon.kill9();
      await host.daemon.start();
      await host.phase("stick", "Attached");
      assert.equal((await pv.usbList()).length, 2);
    },
  },
  {
    name: "xen: a PV domain whose frontend never connects is WaitingForFrontend with what to load, and served once it does",
    mode: "xen",
    run: async (host) => {
      const { xen } = host;
      const pv = xen.domain("pv2");
      await writeDomain(host, "pv2", oneStick);
      await host.daemon.start();
      await pv.create({ type: "pv", usbctrl: QUSB }, { paused: true });
      await host.plug("s1", "usb-storage", { port: "1", serial: "S1" });
      const stick = await host.plugged("2-1");
      const { message } = await host.phase("stick", "WaitingForFrontend");
      assert.match(message, /xen-hcd/);
      await xen.xl("unpause pv2");
      await host.phase("stick", "Attached");
      await untilRight(pv, [stick]);
      await pv.sees(IDS, true);
    },
  },
  {
    name: "xen: a PV domain without a device model says NoController and the line to add",
    mode: "xen",
    run: async (host) => {
      await writeDomain(host, "pv3", oneStick);
      await host.daemon.start();
      await host.plug("s1", "usb-storage", { port: "1", serial: "S1" });
      await host.plugged("2-1");
      await host.xen.domain("pv3").create({ type: "pv" } satisfies XenConfig, { paused: true });
      const { message } = await host.phase("stick", "Stalled", { reason: "NoController" });
      assert.match(message, /usbctrl/);
    },
  },
  {
    name: "xen: a PV domain is saved and restored with its device",
    mode: "xen",
    slow: true,
    start: "guests",
    run: async (host) => {
      const pv = host.xen.domain(PV1.name);
      await writeDomain(host, PV1.name, oneStick);
      await host.daemon.start();
      await host.plug("s1", "usb-storage", { port: "1", serial: "S1" });
      const stick = await host.plugged("2-1");
      await host.phase("stick", "Attached");
      await pv.sees(IDS, true);
      const before = await pv.domid();
      await host.xen.xl("save pv1 /var/tmp/pv1.save", 120_000);
      await host.phase("stick", "WaitingForDomain");
      await until("the host's driver has it again", async () => (await host.driver("2-1")) === "usb-storage");
      const from = await pv.consoleSize();
      await host.sh(
        "xl restore /var/tmp/pv1.save </dev/null >/var/log/e2e/xl-restore.log 2>&1 || { cat /var/log/e2e/xl-restore.log; exit 1; }",
        120_000,
      );
      assert.notEqual(await pv.domid(), before);
      await host.phase("stick", "Attached");
      await untilRight(pv, [await host.plugged("2-1")]);
      assert.equal(stick.busid, "2-1");
      await pv.sees(IDS, true, { from });
    },
  },
];
