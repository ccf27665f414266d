/** An idle daemon: 10 devices attached, no client, nothing happens. */
import { sleep } from "./child.ts";
import { startPlain, untilQuiet } from "./daemon.ts";
import type { FleetOptions } from "./fleets.ts";
import { startHost } from "./fleets.ts";
import { atMost, type Row } from "./row.ts";

const MINUTE_MS = 60_000;
/** What the start leaves behind is done by then: V8 frees memory some seconds later. */
const AFTER_START_MS = 40_000;

export async function measureIdle({ inRoom, say }: Omit<FleetOptions, "quick">): Promise<readonly Row[]> {
  return inRoom(async (root) => {
    const host = startHost();
    await host.ask("make", { root, domains: 1, devices: 10 });
    const daemon = await startPlain(root);
    try {
      await untilQuiet(daemon, 10_000);
      await sleep(AFTER_START_MS);
      const [switches, cpu] = [daemon.voluntarySwitches(), daemon.cpuMs()];
      await sleep(MINUTE_MS);
      const woken = daemon.voluntarySwitches() - switches;
      const percent = ((daemon.cpuMs() - cpu) / MINUTE_MS) * 100;
      say("idle: done");
      return [
        atMost("idle for a minute, 10 devices: voluntary switches of the main thread", woken, "", 4),
        { ...atMost("idle for a minute, 10 devices: CPU", percent, "%", 0.1), promise: "0 (rounded)" },
      ];
    } finally {
      await daemon.stop();
      await host.stop();
    }
  });
}
