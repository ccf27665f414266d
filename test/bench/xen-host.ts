/** The simulated Xen host in a process of its own: so many PV domains, the first few with a device each. */
import { createSimHost, type SimHost } from "../../src/sim/world.ts";
import { answer, nowMs, sleep } from "./child.ts";
import { domainName } from "./fleet.ts";

/** Domains whose files match something that is plugged in. */
const SERVED = 10;
/** Domains that are made at one time. */
const AT_ONCE = 16;
const busidOf = (n: number): string => `1-${String(n + 1)}`;
const serialOf = (n: number): string => `XS${String(n)}`;
const plug = (host: SimHost, n: number): void => host.plug({ busid: busidOf(n), kind: "stick", serial: serialOf(n) });

let host: SimHost | null = null;
const running = (): SimHost => {
  if (host === null) throw new Error("no host was made");
  return host;
};

async function make({ root, domains }: { readonly root: string; readonly domains: number }): Promise<{ readonly xl: string }> {
  const fileOf = (n: number) => ({ devices: [{ name: "stick", usb: { vendor: "0781", serial: serialOf(n) } }] });
  const files = Object.fromEntries(
    Array.from({ length: domains }, (_, n) => [
      `${domainName(n)}.yaml`,
      `apiVersion: plugherd/v1\nkind: Domain\nmetadata: { name: ${domainName(n)} }\nspec: ${JSON.stringify(fileOf(n))}\n`,
    ]),
  );
  host = await createSimHost({
    root,
    given: { xen: { daemon: "ocaml" }, files },
    delays: { stepMs: 0, spawnMs: 0, lookMs: 1, bodgeMs: 0, qmpMs: 120_000 },
    xlLocks: false,
  });
  for (let n = 0; n < SERVED; n += 1) plug(host, n);
  for (let from = 0; from < domains; from += AT_ONCE) {
    const some = Array.from({ length: Math.min(AT_ONCE, domains - from) }, (_, n) => domainName(from + n));
    await Promise.all(some.map((name) => running().startDomain({ name, type: "pv", usbctrl: [{ type: "qusb", version: 2, ports: 2 }] })));
  }
  return { xl: host.paths.xl };
}

/** Out and in again, one after the other, each seen in its guest before the next. @returns ms from plug to the guest having it, each */
async function replug({ rounds }: { readonly rounds: number }): Promise<readonly number[]> {
  const took: number[] = [];
  const has = (n: number): boolean => running().xen?.guestSees(domainName(n)).includes(busidOf(n)) === true;
  const wait = async (is: () => boolean): Promise<void> => {
    const end = nowMs() + 10_000;
    while (!is()) {
      if (nowMs() > end) throw new Error("a device did not come or go in time");
      await sleep(1);
    }
  };
  for (let round = 0; round < rounds; round += 1) {
    for (let n = 0; n < SERVED; n += 1) {
      running().unplug(busidOf(n));
      await wait(() => !has(n));
      const began = nowMs();
      plug(running(), n);
      await wait(() => has(n));
      took.push(nowMs() - began);
    }
  }
  return took;
}

const handlers = { make, replug };
export type XenHostHandlers = typeof handlers;
answer(handlers);
