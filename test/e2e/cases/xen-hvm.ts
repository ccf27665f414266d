/** HVM domains on real Xen: devices through the device model, records that `xl` reads and writes too. */
import assert from "node:assert/strict";
import type { Case } from "../case.ts";
import { oneStick, writeDomain } from "../desired.ts";
import type { Host } from "../host.ts";
import { sleep, until } from "../waiting.ts";
import { HVM1 } from "../xen-config.ts";
import { untilRight, type XenDomain } from "../xen.ts";
import { pairAttached, pairHas, pairOf, plugPair, unplugPair, writePair } from "../xen-pair.ts";

const IDS = "46f4:0001";
const driverBack = (host: Host, busid: string): Promise<boolean> =>
  until(`the host's driver has ${busid} again`, async () => (await host.driver(busid)) === "usb-storage");

/** The HVM domain of the snapshot, which has no controller, its file and the daemon. */
async function rigHvm(host: Host, spec?: Readonly<Record<string, unknown>>): Promise<XenDomain> {
  await writeDomain(host, HVM1.name, oneStick, spec);
  await host.daemon.start();
  return host.xen.domain(HVM1.name);
}

export const xenHvmCases: readonly Case[] = [
  {
    name: "xen: an HVM domain without a controller gets one; a stick comes, goes, comes back to the same port and to another, and xl agrees",
    mode: "xen",
    start: "guests",
    run: async (host) => {
      const hvm = await rigHvm(host);
      await host.phase("stick", "WaitingForHost");
      await host.plug("s1", "usb-storage", { port: "1", serial: "S1" });
      const stick = await host.plugged("2-1");
      const { guest } = await host.phase("stick", "Attached");
      assert.equal(guest?.attached, true);
      const [object] = await untilRight(hvm, [stick]);
      assert.equal(object?.id, `xenusb-${String(stick.bus)}-${String(stick.address)}`);
      const controllers = await hvm.usbList();
      assert.deepEqual(
        controllers.map(({ devid, type, version, ports }) => [devid, type, version, ports.length]),
        [[0, "devicemodel", 3, 8]],
      );
      assert.ok((await hvm.qemu.peripherals()).includes("xenusb-0"));
      await hvm.sees(IDS, true);
      assert.match((await host.get("/api/v1/domains")).body, /NotSaveable/);

      for (const port of ["1", "2"]) {
        await host.unplug("s1");
        await host.phase("stick", "WaitingForHost");
        await untilRight(hvm, []);
        await hvm.sees(IDS, false);
        await host.plug("s1", "usb-storage", { port, serial: "S1" });
        const again = await host.plugged(`2-${port}`);
        await untilRight(hvm, [again]);
        await host.phase("stick", "Attached");
        await hvm.sees(IDS, true);
      }

      await writeDomain(host, HVM1.name, []);
      await untilRight(hvm, []);
      await driverBack(host, "2-2");
      await hvm.sees(IDS, false);
      // What we left is what xl works with: its own attach and detach follow ours.
      const { bus, address } = await host.plugged("2-2");
      await host.xen.xl(`usbdev-attach hvm1 hostbus=${String(bus)} hostaddr=${String(address)}`);
      await untilRight(hvm, [{ busid: "2-2", bus, address, ours: false }]);
      await hvm.sees(IDS, true);
      await host.xen.xl("usbdev-detach hvm1 0 1");
      await untilRight(hvm, []);
    },
  },
  {
    name: "xen: a device that xl attached is adopted; detached by xl, it is repaired, and after three times Contested until retried",
    mode: "xen",
    slow: true,
    start: "guests",
    run: async (host) => {
      const hvm = host.xen.domain(HVM1.name);
      await host.plug("s1", "usb-storage", { port: "1", serial: "S1" });
      const stick = await host.plugged("2-1");
      await host.xen.xl("usbctrl-attach hvm1 version=3 ports=4");
      await host.xen.xl(`usbdev-attach hvm1 hostbus=${String(stick.bus)} hostaddr=${String(stick.address)}`);
      const told = (await hvm.qemu.changes()).length;
      await rigHvm(host);
      await host.phase("stick", "Attached");
      await untilRight(hvm, [{ ...stick, ours: false }]);
      assert.equal((await hvm.qemu.changes()).length, told, "what was right was touched");
      for (const time of [1, 2, 3]) {
        const before = (await hvm.qemu.changes()).length;
        await host.xen.xl("usbdev-detach hvm1 0 1");
        if (time === 3) break;
        await until("it was attached again", async () =>
          (await hvm.qemu.changes()).slice(before).some((line) => line.includes('"device_add"')),
        );
        await untilRight(hvm, [stick]);
        await host.phase("stick", "Attached");
      }
      const { message } = await host.phase("stick", "Contested");
      assert.match(message, /retry/);
      await untilRight(hvm, []);
      const { rc, err } = await host.plugherd("retry stick hvm1");
      assert.equal(rc, 0, err);
      await untilRight(hvm, [stick]);
      await host.phase("stick", "Attached");
    },
  },
  {
    name: "xen: a reboot by xl, and a destroy and create, bring everything back under another domid",
    mode: "xen",
    slow: true,
    start: "guests",
    timeoutMs: 600_000,
    run: async (host) => {
      const { xen } = host;
      const [hvm, pv] = pairOf(host);
      await writePair(host);
      await host.daemon.start();
      const sticks = await plugPair(host, "1");
      const right = async (): Promise<void> => {
        await pairAttached(host, 120_000);
        await pairHas(host, sticks);
      };
      await right();
      for (const domain of [hvm, pv]) {
        const [before, from] = [await domain.domid(), await domain.consoleSize()];
        await xen.xl(`reboot -F ${domain.name}`);
        await until(
          `${domain.name} has another domid`,
          async () => {
            const now = await domain.domid();
            return now !== null && now !== before;
          },
          { timeoutMs: 120_000, everyMs: 500 },
        );
        await right();
        if (domain === pv) await pv.sees(IDS, true, { from });
      }
      const from = await pv.consoleSize();
      await hvm.destroy();
      await host.phase("h", "WaitingForDomain");
      await driverBack(host, "2-1");
      await pv.destroy();
      await host.phase("p", "WaitingForDomain");
      await hvm.create();
      await pv.create();
      await right();
      await pv.sees(IDS, true, { from });
    },
  },
  {
    name: "xen: nothing is written for a domain that xl is still making, nor sent to its QEMU; a clash destroys nothing",
    mode: "xen",
    run: async (host) => {
      const { xen } = host;
      const hvm = xen.domain("fresh");
      await writeDomain(host, "fresh", oneStick);
      await host.daemon.start();
      await host.plug("s1", "usb-storage", { port: "1", serial: "S1" });
      const stick = await host.plugged("2-1");
      const config = { type: "hvm", usbctrl: ["type=devicemodel,version=3,ports=4", "type=devicemodel,version=2,ports=6"] } as const;
      await hvm.create(config, { paused: true });
      await host.phase("stick", "Attached");
      await untilRight(hvm, [stick]);
      assert.equal((await hvm.usbList()).length, 2);
      assert.deepEqual((await hvm.qemu.changes()).filter((line) => line.includes("usb-host")).length, 1);
    },
  },
  {
    name: "xen: xenstored is replaced underneath, and every domain is served on",
    mode: "xen",
    start: "guests",
    run: async (host) => {
      const { xen } = host;
      const [hvm, pv] = pairOf(host);
      await writePair(host);
      await host.daemon.start();
      const sticks = await plugPair(host, "1");
      await pairHas(host, sticks);
      await pairAttached(host);
      const told = [await hvm.qemu.changes(), await pv.qemu.changes()];
      await xen.liveUpdate();
      // Time for a wrong deed to be done.
      await sleep(2_000);
      await pairHas(host, sticks);
      assert.deepEqual([await hvm.qemu.changes(), await pv.qemu.changes()], told);
      await unplugPair(host);
      await pairHas(host, []);
      await pairHas(host, await plugPair(host, "3"));
      await pv.sees(IDS, true);
    },
  },
];
