/** Other ways to the store: the C daemon, and the kernel's own device where there is no socket. */
import assert from "node:assert/strict";
import type { Case } from "../case.ts";
import { STICK, writeDomain } from "../desired.ts";
import type { Host } from "../host.ts";
import { untilHeld, untilRight, type Wanted, type XenDomain } from "../xen.ts";

/** Both kinds of domain get their stick, lose it, get it back elsewhere, and give it back when the file says so. */
async function base(host: Host, check: (domain: XenDomain, devices: readonly Wanted[]) => Promise<unknown>): Promise<void> {
  const [hvm, pv] = [host.xen.domain("hvm1"), host.xen.domain("pv1")];
  await host.plug("sh", "usb-storage", { port: "1", serial: "H" });
  await host.plug("sp", "usb-storage", { port: "2", serial: "P" });
  const [one, two] = [await host.plugged("2-1"), await host.plugged("2-2")];
  await host.phase("h", "Attached");
  await host.phase("p", "Attached");
  await check(hvm, [one]);
  await check(pv, [two]);
  await pv.sees("46f4:0001", true);
  await host.unplug("sh");
  await host.unplug("sp");
  await check(hvm, []);
  await check(pv, []);
  await pv.sees("46f4:0001", false);
  await host.plug("sh", "usb-storage", { port: "3", serial: "H" });
  await host.plug("sp", "usb-storage", { port: "2", serial: "P" });
  await check(hvm, [await host.plugged("2-3")]);
  await check(pv, [await host.plugged("2-2")]);
  await pv.sees("46f4:0001", true);
  await writeDomain(host, "hvm1", []);
  await writeDomain(host, "pv1", []);
  await check(hvm, []);
  await check(pv, []);
}

async function write(host: Host): Promise<void> {
  await writeDomain(host, "hvm1", [{ name: "h", usb: { ...STICK, serial: "H" } }]);
  await writeDomain(host, "pv1", [{ name: "p", usb: { ...STICK, serial: "P" } }]);
}

export const xenReachCases: readonly Case[] = [
  {
    name: "xen: the C xenstored serves as well, live-updated too",
    mode: "xen-c",
    slow: true,
    run: async (host) => {
      const { xen } = host;
      assert.equal((await host.sh("pidof -s xenstored && ! pidof oxenstored")).trim() === "", false);
      await write(host);
      await host.daemon.start();
      await xen.domain("hvm1").create({ type: "hvm" }, { paused: true });
      await xen.domain("pv1").boot();
      await base(host, untilRight);
      await xen.liveUpdate();
      await write(host);
      await untilRight(xen.domain("hvm1"), [await host.plugged("2-3")]);
      await untilRight(xen.domain("pv1"), [await host.plugged("2-2")]);
    },
  },
  {
    name: "xen: without xenstored's socket, the kernel's device serves as well",
    mode: "xen",
    slow: true,
    start: "guests",
    run: async (host) => {
      await host.sh("mv /run/xenstored/socket /run/xenstored/socket.away");
      await write(host);
      await host.daemon.start();
      await base(host, untilHeld);
      await host.sh("mv /run/xenstored/socket.away /run/xenstored/socket");
      await untilRight(host.xen.domain("hvm1"), []);
      await untilRight(host.xen.domain("pv1"), []);
    },
  },
];
