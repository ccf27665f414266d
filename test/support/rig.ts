/** The real app on a simulated host in a temp directory, with small timings; everything is closed after. */
import { join } from "node:path";
import { type App, createApp } from "../../src/app.ts";
import type { JournalEntry } from "../../src/controller/view.ts";
import type { Log } from "../../src/model/contracts.ts";
import type { Phase } from "../../src/model/status.ts";
import { defaultTimings, type Timings } from "../../src/model/timings.ts";
import { touched, wrongView, wrongWorld } from "../../src/sim/expectation.ts";
import { type Expectation, type Operation, playScenario, type Scenario, type Stage } from "../../src/sim/scenario.ts";
import type { SimDelays } from "../../src/sim/qmp-server.ts";
import type { Given } from "../../src/sim/scenario-file.ts";
import { createSimHost, type SimHost } from "../../src/sim/world.ts";
import type { XenDelays } from "../../src/sim/xen-device-model.ts";
import { eventually } from "./eventually.ts";

/** What a person would wait for is short; what counts events over a while keeps its length. */
export const smallTimings: Partial<Timings> = {
  fileSettleMs: 20,
  vanishMs: 250,
  connectMs: 500,
  greetingMs: 250,
  commandMs: 1_000,
  actionMs: 2_000,
  backoffBaseMs: 5,
  backoffMaxMs: 50,
  reconnectBaseMs: 5,
  reconnectMaxMs: 50,
  auditMs: 300,
  hostSettleMs: 200,
  flapHoldMs: 400,
  reEnumerateMs: 600,
};
export const smallDelays: Partial<SimDelays & XenDelays> = {
  deletedMs: 2,
  refusalMs: 2,
  scanMs: 50,
  redialMs: 10,
  lookMs: 1,
  stepMs: 1,
  spawnMs: 2,
  bodgeMs: 10,
  stateMs: 300,
  qmpMs: 3_000,
};

/** Phases in which a claim rests. */
const BUSY: ReadonlySet<Phase> = new Set<Phase>(["Attaching", "Detaching", "BackingOff"]);

export type Rig = {
  readonly host: SimHost;
  readonly app: App;
  /** Waits until a claim shows this (`Phase` or `Phase/Reason`). @param claim - its key, `domain/name` */
  until(claim: string, phase: string): Promise<void>;
  /** Waits until it is so, all at one moment. */
  expect(expectation: Expectation): Promise<void>;
  /** Waits until nothing is wrong any more. @param wrong - what is, a sentence each */
  wait(wrong: () => readonly string[]): Promise<void>;
  /** Waits until every source has reported and no claim is on its way. */
  settled(): Promise<void>;
  operate(operation: Operation): Promise<void>;
  /** The daemon ends, and starts again on what it kept. */
  restart(): Promise<void>;
  stop(): Promise<void>;
  start(): Promise<void>;
  play(scenario: Scenario): Promise<void>;
  /** Statuses, what is really so, journal and the newest log lines, for a failure. */
  report(): string;
  close(): Promise<void>;
};

export async function createRig(given: Given = {}, timings: Partial<Timings> = {}): Promise<Rig> {
  const host = await createSimHost({ given, delays: smallDelays });
  const lines: string[] = [];
  const say =
    (level: string) =>
    (message: string, fields?: Readonly<Record<string, unknown>>): void => {
      lines.push(`${level} ${message} ${fields === undefined ? "" : JSON.stringify(fields)}`);
    };
  const log: Log = { debug: say("debug"), info: say("info"), warn: say("warn"), error: say("error") };
  let app: App | null = null;
  let journal: JournalEntry[] = [];
  let marked = 0;

  const alive = (): App => {
    if (app === null) throw new Error("the daemon is stopped");
    return app;
  };
  const events = (): JournalEntry[] => [...journal, ...(app?.view.events({}) ?? [])];
  const report = (): string => {
    const { devices = [], domains = [], conditions = [] } = app?.view.snapshot() ?? {};
    return [
      "statuses:",
      ...devices.map(
        (claim) =>
          `  ${claim.domain}/${claim.name} ${claim.phase}/${claim.reason ?? "-"} ${claim.message} ${claim.host?.busid ?? ""} ${JSON.stringify(claim.guest)} tries ${String(claim.tries)}`,
      ),
      ...domains.map(
        ({ name, live, conditions: of, observedGeneration }) =>
          `  ${name} ${observedGeneration ?? "-"} ${live?.state ?? "no"} ${live?.monitorState ?? ""} ${of.map(({ type, status, reason }) => `${type}=${status}/${reason}`).join(" ")} others ${JSON.stringify(live?.others ?? [])}`,
      ),
      `  host ${conditions.map(({ type, status, reason }) => `${type}=${status}/${reason}`).join(" ")} plugged ${host.plugged().join(" ")}`,
      ...host.domainNames().map((name) => `  ${name} really has ${JSON.stringify(host.objects(name))}`),
      "journal:",
      ...events().map(
        (entry) =>
          `  ${entry.time.slice(17)} ${entry.domain ?? ""}/${entry.device ?? ""} ${entry.kind} ${entry.reason ?? ""} ${entry.message}`,
      ),
      "log:",
      ...lines.slice(-60).map((line) => `  ${line}`),
    ].join("\n");
  };
  /** @param wrong - what is not yet so, a sentence each */
  const wait = async (wrong: () => readonly string[]): Promise<void> => {
    try {
      await eventually(() => {
        const now = wrong();
        if (now.length > 0) throw new Error(now.join("\n"));
        return true;
      });
    } catch (cause) {
      throw new Error(`${cause instanceof Error ? cause.message : String(cause)}\n${report()}`);
    }
  };

  const rig: Rig = {
    host,
    report,
    wait,
    get app() {
      return alive();
    },
    until: (claim, phase) => rig.expect({ claims: { [claim]: phase } }),
    async expect(expectation) {
      await wait(() => {
        const { view } = alive();
        if (!view.ready) return ["not every source has reported"];
        const shown = {
          ...view.snapshot(),
          journal: events()
            .slice(marked)
            .map(({ reason }) => reason),
        };
        return [...wrongView(expectation, shown), ...wrongWorld(expectation, host)];
      });
      const wrong = touched(expectation, host);
      if (wrong.length > 0) throw new Error(`${wrong.join("\n")}\n${report()}`);
    },
    settled: () =>
      wait(() => {
        const { view } = alive();
        if (!view.ready) return ["not every source has reported"];
        return view
          .snapshot()
          .devices.flatMap((claim) =>
            BUSY.has(claim.phase) && claim.reason !== "ObserveOnly" ? [`${claim.domain}/${claim.name} is ${claim.phase}`] : [],
          );
      }),
    async operate(operation) {
      const request = requestOf(operation);
      const answer = await alive().view.operate(request);
      if (!answer.ok) throw new Error(`${answer.message}\n${report()}`);
    },
    async restart() {
      await rig.stop();
      await rig.start();
    },
    async stop() {
      const ending = alive();
      journal = events();
      app = null;
      await ending.stop();
    },
    async start() {
      app = await createApp({ ...host.paths, timings: { ...smallTimings, ...timings } }, { log });
      await app.start();
    },
    async play(scenario) {
      const stage: Stage = {
        note: () => undefined,
        reach: () => Promise.resolve(),
        operate: rig.operate,
        daemon: (what) => rig[what](),
        async expect(expectation, where) {
          try {
            await rig.expect(expectation);
          } catch (cause) {
            throw new Error(`${where}: ${cause instanceof Error ? cause.message : String(cause)}`);
          }
        },
      };
      await playScenario(
        scenario.steps,
        markingHost(host, () => (marked = events().length)),
        stage,
      );
    },
    async close() {
      if (app !== null) await rig.stop();
      await host.close();
    },
  };
  await rig.start();
  return rig;
}

/** The journal has marks, too. */
const markingHost = (host: SimHost, onMark: () => void): SimHost => ({
  ...host,
  mark() {
    host.mark();
    onMark();
  },
});

function requestOf({ verb, domain = "", device = "", release = false, reason }: Operation): Parameters<App["view"]["operate"]>[0] {
  const because = reason === undefined ? {} : { reason };
  if (verb === "pause" || verb === "resume") return { verb, domain, ...because };
  if (verb === "detach") return { verb, domain, device, release, holdMs: defaultTimings.holdMs, ...because };
  if (verb === "approve") return { verb, what: "device", domain, device, ...because };
  if (verb === "approve-mass-detach") return { verb: "approve", what: "mass-detach", ...because };
  return { verb, domain, device, ...because };
}

/** Where scenarios are. */
export const scenarioPath = (name: string): string => join("specs", "scenarios", name);
