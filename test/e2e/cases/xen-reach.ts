/** Other ways to the store: the C daemon, and the kernel's own device where there is no socket. */
import assert from "node:assert/strict";
import type { Case } from "../case.ts";
import { writeDomain } from "../desired.ts";
import type { Host } from "../host.ts";
import { untilHeld, untilRight, type Wanted, type XenDomain } from "../xen.ts";
import { pairAttached, pairHas, pairOf, plugPair, unplugPair, writePair } from "../xen-pair.ts";

/** Both kinds of domain get their stick, lose it, get it back elsewhere, and give it back when the file says so. */
async function base(host: Host, check: (domain: XenDomain, devices: readonly Wanted[]) => Promise<unknown>): Promise<void> {
  const [, pv] = pairOf(host);
  const first = await plugPair(host, "1");
  await pairAttached(host);
  await pairHas(host, first, check);
  await pv.sees("46f4:0001", true);
  await unplugPair(host);
  await pairHas(host, [], check);
  await pv.sees("46f4:0001", false);
  await pairHas(host, await plugPair(host, "3"), check);
  await pv.sees("46f4:0001", true);
  for (const { name } of pairOf(host)) await writeDomain(host, name, []);
  await pairHas(host, [], check);
}

export const xenReachCases: readonly Case[] = [
  {
    name: "xen: the C xenstored serves as well, live-updated too",
    mode: "xen-c",
    slow: true,
    run: async (host) => {
      const { xen } = host;
      assert.equal((await host.sh("pidof -s xenstored && ! pidof oxenstored")).trim() === "", false);
      await writePair(host);
      await host.daemon.start();
      await xen.domain("hvm1").create({ type: "hvm" }, { paused: true });
      await xen.domain("pv1").boot();
      await base(host, untilRight);
      await xen.liveUpdate();
      await writePair(host);
      await pairHas(host, [await host.plugged("2-3"), await host.plugged("2-2")]);
    },
  },
  {
    name: "xen: without xenstored's socket, the kernel's device serves as well",
    mode: "xen",
    slow: true,
    start: "guests",
    run: async (host) => {
      await host.sh("mv /run/xenstored/socket /run/xenstored/socket.away");
      await writePair(host);
      await host.daemon.start();
      await base(host, untilHeld);
      await host.sh("mv /run/xenstored/socket.away /run/xenstored/socket");
      await pairHas(host, []);
    },
  },
];
