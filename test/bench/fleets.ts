/** Latency, growth, start, memory and storm: rows of product.md §8, on hosts of 100, 1,000 and 10,000 devices. */
import { join } from "node:path";
import { type Child, createChild, nowMs, sleep, until } from "./child.ts";
import { type Daemon, type ProbedDaemon, startProbed, untilQuiet } from "./daemon.ts";
import type { FloorHandlers, FloorTimes } from "./floor.ts";
import type { Size } from "./fleet.ts";
import type { HostHandlers, PaceReport, PlugTime } from "./host.ts";
import { atMost, median, plain, quantile, type Row } from "./row.ts";

export type FleetOptions = {
  readonly quick: boolean;
  readonly inRoom: <T>(work: (root: string) => Promise<T>) => Promise<T>;
  readonly say: (line: string) => void;
};
type Host = Child<HostHandlers>;
/** What one event cost. */
type Cost = { readonly cpuMs: number; readonly p50: number };

const DEVICES = 10;
/** An audit, and V8's own tidying up, are over by then. */
const SETTLED_MS = 60_000;
const script = (name: string): string => new URL(`./${name}.js`, import.meta.url).pathname;
export const startHost = (): Host => createChild<HostHandlers>(script("host"));

export async function measureFleets(options: FleetOptions): Promise<readonly Row[]> {
  const small: Row[] = [];
  const costs: Cost[] = [];
  const measureRest = async (): Promise<void> => {
    for (const domains of [10, 100]) {
      small.push(...(await options.inRoom((root) => measureSmall({ root, domains, devices: DEVICES, ...options }, costs))));
    }
  };
  const large = await options.inRoom((root) => measureLarge({ root, domains: 1_000, devices: DEVICES, ...options }, costs, measureRest));
  return [...small, ...large];
}

type Fleet = Size & FleetOptions & { readonly root: string };

async function measureSmall({ root, ...fleet }: Fleet, costs: Cost[]): Promise<readonly Row[]> {
  const { domains, devices, say } = fleet;
  const host = startHost();
  await host.ask("make", { root, domains, devices });
  const daemon = await startProbed(root);
  try {
    await untilQuiet(daemon, 10_000);
    const { rows, cost } = await measureLatency(host, daemon, fleet);
    costs.push(cost);
    say(`${String(domains)} domains: measured`);
    return rows;
  } finally {
    await daemon.stop();
    await host.stop();
  }
}

/** @param meanwhile - what can be measured elsewhere while this daemon settles: V8 frees memory when it has had nothing to do for a while */
async function measureLarge({ root, ...fleet }: Fleet, costs: readonly Cost[], meanwhile: () => Promise<void>): Promise<readonly Row[]> {
  const { domains, devices, quick, say } = fleet;
  const total = domains * devices;
  const rows: Row[] = [];
  const host = startHost();
  await host.ask("make", { root, domains, devices });
  say(`${String(domains)} domains: made`);
  let daemon = await startProbed(root);
  try {
    const starts: { readyMs: number; pauseMs: number }[] = [];
    for (let round = 0; ; round += 1) {
      await untilQuiet(daemon, 20_000);
      starts.push({ readyMs: daemon.readyMs, pauseMs: await daemon.probe("pause", null) });
      if (quick || round === 2) break;
      await daemon.stop();
      daemon = await startProbed(root);
    }
    const settling = nowMs();
    const of = `start with ${String(domains)} domains x ${String(devices)} devices, all right`;
    const times = quick ? "" : " (median of 3)";
    rows.push(atMost(`${of}: until ready${times}`, median(starts.map(({ readyMs }) => readyMs / 1e3)), "s", 5));
    rows.push(atMost(`${of}: longest pause of the event loop${times}`, median(starts.map(({ pauseMs }) => pauseMs)), "ms", 50));
    rows.push(atMost(`${of}: commands that change anything`, await host.ask("mutations", null), "", 0));
    say(`${String(domains)} domains: started`);
    await meanwhile();
    await sleep(Math.max(0, settling + (quick ? 0 : SETTLED_MS) - nowMs()));
    rows.push(atMost(`resident, ${String(total)} devices settled`, daemon.rss(), "MiB", 120 + (12 * total) / 1024));
    await expectAttached(daemon, total);

    const { rows: latency, cost } = await measureLatency(host, daemon, fleet);
    rows.unshift(...latency);
    const [small] = costs;
    if (small !== undefined) {
      rows.push(atMost("one event, 100 -> 10,000 devices: CPU time", cost.cpuMs / small.cpuMs, "x", 1.5));
      rows.push(atMost("one event, 100 -> 10,000 devices: median latency", cost.p50 / small.p50, "x", 1.5));
      rows.push(plain("CPU time of one event at 10,000 devices", cost.cpuMs, "ms"));
    }
    say(`${String(domains)} domains: measured`);
    rows.push(...(await measureFloor(root, host, fleet)));
    say("floor: measured");
    rows.push(...(await storm(host, daemon, fleet)));
    return rows;
  } finally {
    await daemon.stop();
    await host.stop();
  }
}

const tookOf = (plugs: readonly PlugTime[]): number[] => plugs.flatMap(({ tookMs }) => tookMs ?? []);
const lostOf = (plugs: readonly PlugTime[]): number => plugs.filter(({ tookMs }) => tookMs === null).length;

/** Plugs and unplugs at a calm pace. */
async function measureLatency(
  host: Host,
  daemon: ProbedDaemon,
  { domains, devices, quick }: Pick<Fleet, "domains" | "devices" | "quick">,
): Promise<{ readonly rows: readonly Row[]; readonly cost: Cost }> {
  // Code that runs for the first time is not what is promised.
  await host.ask("replug", { seconds: quick ? 1 : 5, eventsPerSecond: 100, seed: 1, patienceSeconds: 15 });
  const before = await daemon.probe("cpu", null);
  const { plugs, events } = await host.ask("replug", { seconds: quick ? 2.5 : 20, eventsPerSecond: 100, seed: 2, patienceSeconds: 15 });
  await sleep(300);
  const cpuMs = ((await daemon.probe("cpu", null)) - before) / events;
  const took = tookOf(plugs);
  const of = `node readable -> device_add on the wire, ${String(domains)} domains x ${String(devices)}`;
  const [p50, p99] = [quantile(took, 0.5), quantile(took, 0.99)];
  if (lostOf(plugs) > 0) throw new Error(`${of}: ${String(lostOf(plugs))} of ${String(plugs.length)} were never attached`);
  const promised = domains === 1_000;
  return {
    rows: [
      promised ? atMost(`${of}: p50`, p50, "ms", 3) : plain(`${of}: p50`, p50, "ms"),
      promised ? atMost(`${of}: p99`, p99, "ms", 10) : plain(`${of}: p99`, p99, "ms"),
    ],
    cost: { cpuMs, p50 },
  };
}

/** Ours beside bare chokidar and a bare monitor, on the same plugs. */
async function measureFloor(root: string, host: Host, { quick }: Pick<Fleet, "quick">): Promise<readonly Row[]> {
  const floor = createChild<FloorHandlers>(script("floor"));
  try {
    await floor.ask("start", { nodes: join(root, "host/dev/bus/usb"), monitor: join(root, "floor.sock") });
    await host.ask("replug", { seconds: 0.5, eventsPerSecond: 60, seed: 3, patienceSeconds: 15 });
    await floor.ask("take", null);
    const { plugs } = await host.ask("replug", { seconds: quick ? 2 : 15, eventsPerSecond: 60, seed: 4, patienceSeconds: 15 });
    await sleep(300);
    const times: FloorTimes = await floor.ask("take", null);
    const floors = plugs.flatMap(({ node, at }) => {
      const one = times[node];
      return one === undefined || typeof one.replied !== "number" ? [] : [one.replied - at];
    });
    const [ours, theirs] = [median(tookOf(plugs)), median(floors)];
    return [
      atMost("node readable -> device_add, beside chokidar's add + one QMP round trip: median", ours / theirs, "x", 2),
      plain("… ours", ours, "ms"),
      plain("… chokidar's add + one QMP round trip", theirs, "ms"),
    ];
  } finally {
    await floor.stop();
  }
}

async function storm(
  host: Host,
  daemon: Daemon,
  { quick, domains, devices }: Pick<Fleet, "quick" | "domains" | "devices">,
): Promise<readonly Row[]> {
  const seconds = quick ? 5 : 60;
  const before = daemon.rss();
  const samples: number[] = [];
  const timer = setInterval(() => samples.push(daemon.rss()), 500);
  const patienceSeconds = quick ? 5 : 60;
  const report: PaceReport = await host.ask("replug", { seconds, eventsPerSecond: 1_000, seed: 5, patienceSeconds });
  clearInterval(timer);
  const during = samples.slice(0, seconds * 2);
  // What is right in QEMU must be seen to be right, too.
  const settled = async (): Promise<boolean> => {
    const phases = await daemon.phases();
    return phases.size === 1 && phases.get("Attached") === domains * devices && (await host.ask("wrong", null)).length === 0;
  };
  const converged = await until(settled, patienceSeconds * 1e3, "all attached").then(
    () => true,
    () => false,
  );
  const took = tookOf(report.plugs);
  const third = Math.floor(during.length / 3);
  const of = `storm of ${String(seconds)} s`;
  return [
    plain(`${of}: plugs and unplugs a second`, report.events / report.seconds, ""),
    atMost(`${of}: node readable -> device_add on the wire: p99`, quantile(took, 0.99), "ms", 50),
    plain(`${of}: p50`, median(took), "ms"),
    atMost(`${of}: domains that are not exactly right in the end`, (await host.ask("wrong", null)).length, "", 0),
    atMost(
      `${of}: claims not Attached in the end`,
      converged ? 0 : domains * devices - ((await daemon.phases()).get("Attached") ?? 0),
      "",
      0,
    ),
    plain(`${of}: resident before`, before, "MiB"),
    plain(`${of}: most resident`, Math.max(...during), "MiB"),
    ...(quick
      ? []
      : [
          atMost(
            `${of}: most resident in the last third over the middle one`,
            Math.max(...during.slice(2 * third)) / Math.max(...during.slice(third, 2 * third)),
            "x",
            1.1,
          ),
        ]),
  ];
}

async function expectAttached(daemon: Daemon, total: number): Promise<void> {
  const phases = await daemon.phases();
  if (phases.get("Attached") !== total || phases.size > 1)
    throw new Error(
      `not all ${String(total)} are Attached: ${[...phases].map(([phase, count]) => `${String(count)} ${phase}`).join(", ")}`,
    );
}
