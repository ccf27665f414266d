/** Latency, growth, start, memory and storm: rows of product.md §8, on hosts of 100, 1,000 and 10,000 devices. */
import { join } from "node:path";
import { type Child, createChild, sleep } from "./child.ts";
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
const script = (name: string): string => new URL(`./${name}.js`, import.meta.url).pathname;
export const startHost = (): Host => createChild<HostHandlers>(script("host"));

export async function measureFleets(options: FleetOptions): Promise<readonly Row[]> {
  const rows: Row[] = [];
  const costs: Cost[] = [];
  for (const domains of [10, 100]) {
    rows.push(...(await options.inRoom((root) => measureSmall({ root, domains, devices: DEVICES, ...options }, costs))));
  }
  rows.push(...(await options.inRoom((root) => measureLarge({ root, domains: 1_000, devices: DEVICES, ...options }, costs))));
  return rows;
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
    say(`${String(domains)} domains: done`);
    return rows;
  } finally {
    await daemon.stop();
    await host.stop();
  }
}

async function measureLarge({ root, ...fleet }: Fleet, costs: Cost[]): Promise<readonly Row[]> {
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
    await expectAttached(daemon, total);
    const of = `start with ${String(domains)} domains x ${String(devices)} devices, all right`;
    rows.push(atMost(`${of}: until ready${quick ? "" : " (median of 3)"}`, median(starts.map(({ readyMs }) => readyMs / 1e3)), "s", 5));
    rows.push(
      atMost(
        `${of}: longest pause of the event loop${quick ? "" : " (median of 3)"}`,
        median(starts.map(({ pauseMs }) => pauseMs)),
        "ms",
        50,
      ),
    );
    rows.push(atMost(`${of}: commands that change anything`, await host.ask("mutations", null), "", 0));
    say("started");

    const { rows: latency, cost } = await measureLatency(host, daemon, fleet);
    rows.unshift(...latency);
    const [small] = costs;
    if (small !== undefined) {
      rows.push(atMost("one event, 100 -> 10,000 devices: CPU time", cost.cpuMs / small.cpuMs, "x", 1.5));
      rows.push(atMost("one event, 100 -> 10,000 devices: median latency", cost.p50 / small.p50, "x", 1.5));
      rows.push(plain("CPU time of one event at 10,000 devices", cost.cpuMs, "ms"));
    }
    rows.push(...(await measureFloor(root, host, fleet)));
    await untilQuiet(daemon, 20_000);
    rows.push(atMost(`resident, ${String(total)} devices settled`, daemon.rss(), "MiB", 120 + (12 * total) / 1024));
    say("settled");
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
  await host.ask("replug", { seconds: quick ? 1.5 : 5, eventsPerSecond: 100, seed: 1 });
  const before = await daemon.probe("cpu", null);
  const { plugs, events } = await host.ask("replug", { seconds: quick ? 3 : 15, eventsPerSecond: 100, seed: 2 });
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
    await host.ask("replug", { seconds: 1, eventsPerSecond: 60, seed: 3 });
    await floor.ask("take", null);
    const { plugs } = await host.ask("replug", { seconds: quick ? 3 : 15, eventsPerSecond: 60, seed: 4 });
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
  const report: PaceReport = await host.ask("replug", { seconds, eventsPerSecond: 1_000, seed: 5 });
  clearInterval(timer);
  await untilQuiet(daemon, 20_000);
  const wrong = await host.ask("wrong", null);
  if (wrong.length > 0) process.stderr.write(`${wrong.slice(0, 5).join("\n")}\n`);
  const took = tookOf(report.plugs);
  const half = Math.floor(samples.length / 2);
  const growth = Math.max(...samples.slice(half)) - Math.max(...samples.slice(0, half));
  const of = `storm of ${String(seconds)} s`;
  await expectAttached(daemon, domains * devices);
  return [
    plain(`${of}: plugs and unplugs a second`, report.events / report.seconds, ""),
    atMost(`${of}: node readable -> device_add on the wire: p99`, quantile(took, 0.99), "ms", 50),
    plain(`${of}: p50`, median(took), "ms"),
    atMost(`${of}: plugs that were never attached`, lostOf(report.plugs), "", 0),
    atMost(`${of}: domains that are not exactly right afterwards`, wrong.length, "", 0),
    plain(`${of}: resident before`, before, "MiB"),
    plain(`${of}: most resident`, Math.max(...samples), "MiB"),
    plain(`${of}: growth of the most resident, second half over first`, growth, "MiB"),
  ];
}

async function expectAttached(daemon: Daemon, total: number): Promise<void> {
  const phases = await daemon.phases();
  if (phases.get("Attached") !== total || phases.size > 1)
    throw new Error(
      `not all ${String(total)} are Attached: ${[...phases].map(([phase, count]) => `${String(count)} ${phase}`).join(", ")}`,
    );
}
