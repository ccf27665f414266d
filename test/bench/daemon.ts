/** The daemon, the very same that `plugherd run` starts, in a process of its own. */
import { spawn } from "node:child_process";
import { mkdirSync, openSync, readFileSync } from "node:fs";
import { get } from "node:http";
import { join, resolve } from "node:path";
import { type Child, createChild, nowMs, sleep, until } from "./child.ts";
import type { ProbeHandlers } from "./probe.ts";

export type Daemon = {
  readonly pid: number;
  /** From the start of the process, ms. */
  readonly readyMs: number;
  /** MiB. */
  rss(): number;
  /** Of the main thread. */
  voluntarySwitches(): number;
  /** Of all threads, ms. */
  cpuMs(): number;
  /** Claims by phase, as the live API tells. */
  phases(): Promise<ReadonlyMap<string, number>>;
  stop(): Promise<void>;
};
export type ProbedDaemon = Daemon & { readonly probe: Child<ProbeHandlers>["ask"] };

/** In a directory of its own: the daemon watches the one above. */
const logOf = (root: string): string => {
  mkdirSync(join(root, "log"), { recursive: true });
  return join(root, "log", "daemon.log");
};
const main = resolve(process.env["PLUGHERD_BENCH_MAIN"] ?? "dist/interfaces/cli/main.js");
const probe = new URL("./probe.js", import.meta.url).href;
const argsOf = (root: string, more: Readonly<Record<string, string>>): string[] => [
  "run",
  ...Object.entries({
    specs: "specs",
    policy: "policy.yaml",
    "qmp-dir": "qmp",
    "qmp-listen": "monitor.sock",
    sysfs: "host/sys",
    dev: "host/dev",
    proc: "host/proc",
    state: "state",
    api: "api.sock",
    // A host of its own: that of whoever measures may be one of Xen's.
    xenstore: "run/none",
    "xen-lib": "xen",
    ...more,
  }).flatMap(([flag, path]) => [`--${flag}`, resolve(root, path)]),
];
/** For whoever wants to see where the time goes: `--cpu-prof …`. */
const NODE_ARGS = (process.env["PLUGHERD_BENCH_NODE_ARGS"] ?? "").split(" ").filter((arg) => arg !== "");
const READY_MS = 120_000;

/** Ready, with a probe in it. */
export async function startProbed(root: string, more: Readonly<Record<string, string>> = {}): Promise<ProbedDaemon> {
  const began = nowMs();
  const log = openSync(logOf(root), "a");
  const child = createChild<ProbeHandlers>(main, argsOf(root, more), {
    execArgv: [...NODE_ARGS, "--import", probe],
    stdio: ["ignore", log, log, "ipc"],
  });
  await untilReady(root, child.process);
  return { ...outside(root, child.pid, nowMs() - began), probe: child.ask, stop: child.stop };
}

/** Ready, as any user starts it. */
export async function startPlain(root: string): Promise<Daemon> {
  const began = nowMs();
  const log = openSync(logOf(root), "a");
  const child = spawn(process.execPath, [main, ...argsOf(root, {})], { stdio: ["ignore", log, log] });
  const ended = new Promise((done) => child.once("exit", done));
  await untilReady(root, child);
  const stop = async (): Promise<void> => {
    child.kill("SIGTERM");
    await ended;
  };
  return { ...outside(root, child.pid ?? 0, nowMs() - began), stop };
}

const untilReady = (root: string, child: { readonly exitCode: number | null }): Promise<void> =>
  until(
    async () => {
      if (child.exitCode !== null) throw new Error(`the daemon ended: ${readFileSync(logOf(root), "utf8").slice(-2000)}`);
      return (await ask(root, "/readyz").catch(() => null))?.status === 200;
    },
    READY_MS,
    "the daemon is ready",
  );

function ask(root: string, path: string): Promise<{ readonly status: number; readonly body: string }> {
  return new Promise((done, fail) => {
    get({ socketPath: join(root, "api.sock"), path, agent: false }, (response) => {
      const parts: Buffer[] = [];
      response.on("data", (part: Buffer) => parts.push(part));
      response.on("end", () => done({ status: response.statusCode ?? 0, body: Buffer.concat(parts).toString() }));
      response.on("error", fail);
    }).on("error", fail);
  });
}

const outside = (root: string, pid: number, readyMs: number): Omit<Daemon, "stop"> => {
  const number = (path: string, pattern: RegExp): number => Number(pattern.exec(readFileSync(path, "utf8"))?.[1] ?? Number.NaN);
  return {
    pid,
    readyMs,
    rss: () => number(`/proc/${String(pid)}/status`, /^VmRSS:\s+(\d+) kB/m) / 1024,
    voluntarySwitches: () => number(`/proc/${String(pid)}/task/${String(pid)}/status`, /^voluntary_ctxt_switches:\s+(\d+)/m),
    cpuMs: () => {
      // Clock ticks of 10 ms (Linux, USER_HZ); the name before them may hold anything but the last `)`.
      const stat = readFileSync(`/proc/${String(pid)}/stat`, "utf8");
      const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
      return (Number(fields[11]) + Number(fields[12])) * 10;
    },
    phases: async () => {
      const counts = new Map<string, number>();
      const { body } = await ask(root, "/api/v1/devices");
      for (const phase of body.matchAll(/"phase":"(\w+)"/g)) counts.set(phase[1] ?? "", (counts.get(phase[1] ?? "") ?? 0) + 1);
      return counts;
    },
  };
};

/** Waits until the process has nothing to do: less than a tenth of a core over a second. */
export async function untilQuiet(daemon: Daemon, mostMs: number): Promise<void> {
  const end = nowMs() + mostMs;
  for (let before = daemon.cpuMs(); nowMs() < end; ) {
    await sleep(1_000);
    const after = daemon.cpuMs();
    if (after - before < 100) return;
    before = after;
  }
}
