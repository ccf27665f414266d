/** xl and plugherd at work on the same domains at the same time. */
import assert from "node:assert/strict";
import type { Case } from "../case.ts";
import { STICK, writeDomain } from "../desired.ts";
import type { Host } from "../host.ts";
import { until } from "../waiting.ts";
import { untilRight, type Wanted, type XenDomain } from "../xen.ts";

/**
 * `spot`: where xl puts its own device. libxl looks for a free port before its transaction and does not look again in it: told to choose, it
 * overwrites the record of whoever was quicker, another xl as well as us.
 */
type Side = {
  readonly domain: XenDomain;
  readonly spot: string;
  readonly kept: Wanted;
  readonly keptName: string;
  readonly entry: string;
  readonly serial: string;
};

const place = ({ bus, address }: Wanted): string => `hostbus=${String(bus)} hostaddr=${String(address)}`;

/** Where `xl usb-list` shows that device: `CTRL PORT`. */
async function spot(domain: XenDomain, { bus, address }: Wanted): Promise<string> {
  for (const { devid, ports } of await domain.usbList())
    for (const { port, device } of ports) if (device?.bus === bus && device.address === address) return `${String(devid)} ${String(port)}`;
  throw new Error(`xl usb-list ${domain.name} does not show ${String(bus)}.${String(address)}`);
}

async function play(host: Host, rounds: number): Promise<void> {
  const { xen } = host;
  const [hvm, pv] = [xen.domain("hvm1"), xen.domain("pv1")];
  const stick = (serial: string): { vendor: string; product: string; serial: string } => ({ ...STICK, serial });
  await writeDomain(host, "hvm1", [
    { name: "hkept", usb: stick("HK") },
    { name: "hguest", usb: stick("HG") },
  ]);
  await writeDomain(host, "pv1", [
    { name: "pkept", usb: stick("PK") },
    { name: "pguest", usb: stick("PG") },
  ]);
  await host.daemon.start();
  for (const [port, serial] of [
    ["3", "HK"],
    ["4", "PK"],
    ["5", "XL"],
  ] as const)
    await host.plug(serial.toLowerCase(), "usb-storage", { port, serial });
  const [hkept, pkept] = [await host.plugged("2-3"), await host.plugged("2-4")];
  const foreign: Wanted = { ...(await host.plugged("2-5")), ours: false };
  await untilRight(hvm, [hkept]);
  await untilRight(pv, [pkept]);
  const domids = [await hvm.domid(), await pv.domid()];
  const sides: readonly [Side, Side] = [
    { domain: hvm, spot: "controller=0 port=8", kept: hkept, keptName: "hkept", entry: "hguest", serial: "HG" },
    { domain: pv, spot: "controller=0 port=4", kept: pkept, keptName: "pkept", entry: "pguest", serial: "PG" },
  ];
  // xl refuses to work while any record on the host is of a device that just left: that moment passes.
  const xl = (args: string): Promise<string> => until(`xl ${args}`, () => xen.xl(args), { timeoutMs: 20_000, everyMs: 200 });

  for (let round = 1; round <= rounds; round += 1) {
    const [side, other] = round % 2 === 1 ? sides : [sides[1], sides[0]];
    const { domain, kept, entry, serial } = side;
    const port = round % 4 < 2 ? "1" : "2";
    await Promise.all([
      host.plug("guest", "usb-storage", { port, serial }),
      xl(`usbdev-attach ${domain.name} ${place(foreign)} ${side.spot}`),
    ]);
    const guest = await host.plugged(`2-${port}`);
    await host.phase(entry, "Attached");
    await untilRight(domain, [kept, guest, foreign]);
    const at = await spot(domain, foreign);
    await Promise.all([host.unplug("guest"), xl(`usbdev-detach ${domain.name} ${at}`)]);
    await untilRight(domain, [kept]);
    if (round % 10 !== 0) continue;
    const { domain: robbed, kept: taken, keptName } = round % 20 === 0 ? side : other;
    await xl(`usbdev-detach ${robbed.name} ${await spot(robbed, taken)}`);
    const retried = await host.plugherd(`retry ${keptName} ${robbed.name}`);
    assert.equal(retried.rc, 0, retried.err);
    await untilRight(robbed, [taken]);
    await host.phase(keptName, "Attached");
  }
  await untilRight(hvm, [hkept]);
  await untilRight(pv, [pkept]);
  assert.deepEqual([await hvm.domid(), await pv.domid()], domids, "a domain was harmed");
}

const beside = (rounds: number): Case => ({
  name: `xen: xl and plugherd attach and detach at the same time, ${String(rounds)} rounds; xl takes one of ours in every tenth`,
  mode: "xen",
  start: "guests",
  slow: true,
  timeoutMs: rounds > 10 ? 3_600_000 : 900_000,
  run: (host) => play(host, rounds),
});

export const xenBesideCases: readonly Case[] = [beside(10), beside(100)];
