/** `demo`: the daemon on the simulated host, while a scripted hour of plugging is played on it again and again. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createLog } from "../../adapters/log.ts";
import type { App, AppConfig } from "../../app.ts";
import type { OperatorRequest } from "../../controller/view.ts";
import { err, ok, type Result } from "../../model/result.ts";
import { wrongView } from "../../sim/expectation.ts";
import {
  type Expectation,
  hostOf,
  type Operation,
  playScenario,
  readScenarios,
  restoreHost,
  type Scenario,
  type Stage,
} from "../../sim/scenario.ts";
import type { SimHost } from "../../sim/world.ts";
import { noFilters } from "../filters.ts";
import { specsDir } from "../specs-dir.ts";
import { createApi } from "./client.ts";
import { DEFAULT_HOLD_MS } from "./commands/operate.ts";
import { showLive } from "./commands/watch.ts";
import type { Context } from "./context.ts";
import { startDaemon } from "./daemon.ts";
import { colourOf, type Done, EXIT, type Failure } from "./io.ts";
import { type Format, paint, shown } from "./render.ts";

export type DemoOptions = {
  readonly api?: string;
  readonly speed: number;
  readonly once?: true;
  readonly output: Format;
  readonly debug?: true;
};

const SCENARIO = "scenarios/demo-hour.yaml";
/** What a step leads to is waited for so long at most, so that it is seen before the next one. */
const PATIENCE_MS = 4_000;
const LOOK_MS = 10;

function readScenario(): Result<Scenario, Failure> {
  const read = readScenarios(readFileSync(new URL(SCENARIO, specsDir), "utf8"), SCENARIO);
  const [first] = read.ok ? read.value : [];
  if (first !== undefined) return ok(first);
  return err({ exit: EXIT.bug, message: `The demo's scenario is bad: ${read.ok ? "it is empty" : read.error.join("; ")}.`, remedy: null });
}

/** The simulated host has no Xen. */
const appPathsOf = ({ paths }: SimHost): AppConfig => paths;

/** @returns false: `signal` came first */
const pause = (ms: number, signal: AbortSignal): Promise<boolean> =>
  new Promise((resolve) => {
    if (signal.aborted) return resolve(false);
    const done = (): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve(!signal.aborted);
    };
    const timer = setTimeout(done, Math.max(0, ms));
    signal.addEventListener("abort", done);
  });

function requestOf({ verb, domain = "", device = "", release, reason }: Operation): OperatorRequest {
  const because = reason === undefined ? {} : { reason };
  if (verb === "pause" || verb === "resume") return { verb, domain, ...because };
  if (verb === "detach") return { verb, device, domain, holdMs: DEFAULT_HOLD_MS, release: release === true, ...because };
  if (verb === "approve") return { verb, what: "device", device, domain, ...because };
  if (verb === "approve-mass-detach") return { verb: "approve", what: "mass-detach", ...because };
  return { verb, device, domain, ...because };
}

/** The scenario's clock, `speed` times as fast as the wall's; `tell` hears what is narrated. */
function stageOf(app: App, speed: number, signal: AbortSignal, tell: (text: string) => void): Stage {
  const began = performance.now();
  return {
    async expect(expectation: Expectation) {
      const until = performance.now() + PATIENCE_MS;
      while (performance.now() < until && wrongView(expectation, { ...app.view.snapshot(), journal: [] }).length > 0) {
        if (!(await pause(LOOK_MS, signal))) return;
      }
    },
    note: tell,
    // A viewer who meddles through the API does not end the show.
    missed: () => undefined,
    async operate(operation) {
      await app.view.operate(requestOf(operation));
    },
    // The demo's daemon is this very process.
    daemon: () => Promise.resolve(),
    async reach(atMs) {
      await pause(began + atMs / speed - performance.now(), signal);
    },
  };
}

export async function runDemo({ io, createApp, version }: Context, options: DemoOptions): Promise<Done> {
  const scenario = readScenario();
  if (!scenario.ok) return scenario;
  const live = io.stdout.isTTY === true && options.output !== "json";
  const stop = new AbortController();
  const asked = io.stopping();
  const onAsked = (): void => stop.abort();
  if (asked.aborted) stop.abort();
  asked.addEventListener("abort", onAsked, { once: true });

  const host = await hostOf(scenario.value);
  try {
    const socket = options.api ?? join(host.root, "run", "api.sock");
    // What the table shows is not to be torn by log lines.
    const log = createLog({ level: options.debug === true ? "debug" : live ? "silent" : "warn", format: "text", stream: io.stderr });
    const started = await startDaemon(appPathsOf(host), { createApp, log, version, api: socket, tcp: null });
    if (!started.ok) return started;
    try {
      const colour = colourOf(io.stdout, io.env);
      let narrated = "";
      const say = (text: string): void => {
        narrated = text;
        if (!live && options.output !== "json") io.stdout.write(`# ${shown(text)}\n`);
      };
      const hint = `The live API is open: plugherd get devices --api ${socket}`;
      if (options.output !== "json") io.stdout.write(live ? `${paint(hint, "dim", colour)}\n\n` : `# ${hint}\n`);
      const showing = showLive(
        io,
        createApi(socket),
        {
          kind: "devices",
          format: options.output === "json" ? "json" : "table",
          filters: noFilters,
          ...(live ? { heading: () => paint(shown(narrated), "blue", colour) } : {}),
        },
        stop.signal,
      );
      const playing = (async () => {
        for (;;) {
          await playScenario(scenario.value.steps, host, stageOf(started.value.app, options.speed, stop.signal, say), stop.signal);
          if (stop.signal.aborted || options.once === true) break;
          await restoreHost(host, scenario.value);
        }
        stop.abort();
      })();
      const [shownAll] = await Promise.all([showing, playing]);
      return shownAll;
    } finally {
      await started.value.stop();
    }
  } finally {
    asked.removeEventListener("abort", onAsked);
    await host.close();
  }
}
