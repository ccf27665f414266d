/** What one event costs as Xen domains become more: rows of the simulated Xen host. */
import { createChild, sleep } from "./child.ts";
import { startProbed, untilQuiet } from "./daemon.ts";
import type { FleetOptions } from "./fleets.ts";
import { atMost, median, plain, type Row } from "./row.ts";
import type { XenHostHandlers } from "./xen-host.ts";

const SIZES = [10, 1_000] as const;
/** A claim is plugged at most ten times in ten seconds, or it would be Flapping. */
const ROUNDS = 3;

export async function measureXen({ inRoom, say }: Pick<FleetOptions, "inRoom" | "say">): Promise<readonly Row[]> {
  const costs: { readonly cpuMs: number; readonly took: number }[] = [];
  for (const domains of SIZES) {
    costs.push(
      await inRoom(async (root) => {
        const host = createChild<XenHostHandlers>(new URL("./xen-host.js", import.meta.url).pathname);
        const { xl } = await host.ask("make", { root, domains });
        say(`${String(domains)} Xen domains: made`);
        const daemon = await startProbed(root, { xenstore: "run/xenstored/socket", "xen-lib": "xen", xl });
        try {
          await untilQuiet(daemon, 30_000);
          await host.ask("replug", { rounds: ROUNDS });
          await sleep(10_000);
          await untilQuiet(daemon, 10_000);
          const before = await daemon.probe("cpu", null);
          const took = await host.ask("replug", { rounds: ROUNDS });
          await sleep(300);
          const cpuMs = ((await daemon.probe("cpu", null)) - before) / (2 * took.length);
          say(`${String(domains)} Xen domains: measured`);
          return { cpuMs, took: median(took) };
        } finally {
          await daemon.stop();
          await host.stop();
        }
      }),
    );
  }
  const [few, many] = costs;
  if (few === undefined || many === undefined) return [];
  return [
    atMost("one event, 10 -> 1,000 Xen domains (PV): CPU time", many.cpuMs / few.cpuMs, "x", 1.5),
    plain("CPU time of one event at 1,000 Xen domains", many.cpuMs, "ms"),
    plain("plug -> the guest of a PV domain has it, 1,000 Xen domains: median", many.took, "ms"),
  ];
}
