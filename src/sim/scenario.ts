/** Plays a scenario on a simulated host: the world's verbs itself, the rest through the one who watches (a test, the demo, the benchmark). */
import type { FakeQemu } from "./qmp-server.ts";
import { type Expectation, type Fault, type Operation, readScenarios, type Scenario, type Step } from "./scenario-file.ts";
import { playXen } from "./xen-scenario.ts";
import { createSimHost, type SimHost, type SimHostOptions } from "./world.ts";

export type { Expectation, Operation, Scenario };
export { readScenarios };

/** Who watches. A promise that is pending holds the scenario up; one that is rejected ends it. */
export type Stage = {
  /** A test waits until it holds; the demo lets it pass. @param where - `file:line` */
  expect(expectation: Expectation, where: string): Promise<void>;
  /** Told to viewers. */
  note(text: string): void;
  operate(operation: Operation): Promise<void>;
  daemon(what: "restart" | "stop" | "start"): Promise<void>;
  /** The scenario's clock is to stand here (ms from its start) before the next step. */
  reach(atMs: number): Promise<void>;
  /** The world does not allow a step as it is now (somebody meddled). Left out: that ends the scenario. */
  missed?(where: string, why: string): void;
};

/** The world of a scenario as it is before the daemon starts. */
export const hostOf = (scenario: Scenario, options: Omit<SimHostOptions, "given"> = {}): Promise<SimHost> =>
  createSimHost({ ...options, given: scenario.given });

/** @param signal - ends it between two steps */
export async function playScenario(steps: readonly Step[], host: SimHost, stage: Stage, signal?: AbortSignal): Promise<void> {
  for (const step of steps) {
    if (step.atMs !== null) await stage.reach(step.atMs);
    if (signal?.aborted === true) return;
    if (step.say !== null) stage.note(step.say);
    try {
      await play(step, host, stage, signal);
    } catch (cause) {
      if (stage.missed === undefined) throw cause;
      stage.missed(step.where, cause instanceof Error ? cause.message : String(cause));
    }
  }
}

/** Brings the world back to what a scenario began with, where it is not so: for one that is played again and again. */
export async function restoreHost(host: SimHost, { given }: Scenario): Promise<void> {
  const wanted = new Set((given.host ?? []).map(({ busid }) => busid));
  for (const busid of host.plugged()) if (!wanted.has(busid) && host.plugged().includes(busid)) host.unplug(busid);
  for (const spec of given.host ?? []) if (!host.plugged().includes(spec.busid)) host.plug(spec);
  for (const spec of given.domains ?? []) {
    if (!host.domainNames().includes(spec.name)) await host.startDomain(spec);
    if (spec.type !== undefined && host.xen?.xl.domain(spec.name).model?.qemu == null) continue;
    host.qemu(spec.name).faults.clear();
    host.releaseMonitor(spec.name);
  }
}

const faultOf = ({ how, delayMs = 0 }: Fault): Parameters<FakeQemu["faults"]["next"]>[1] => {
  if (how === "cut-before" || how === "cut-after") return { drop: how === "cut-before" ? "before" : "after" };
  return how === "swallow" ? { swallow: true } : how === "garble" ? { garble: true } : { delayMs };
};

async function play(step: Step, host: SimHost, stage: Stage, signal: AbortSignal | undefined): Promise<void> {
  switch (step.verb) {
    case null:
      return;
    case "expect":
      return stage.expect(step.value, step.where);
    case "operate":
      return stage.operate(step.value);
    case "daemon":
      return stage.daemon(step.value);
    case "repeat":
      for (let n = 0; n < step.value.times && signal?.aborted !== true; n += 1) await playScenario(step.value.steps, host, stage, signal);
      return;
    case "plug":
      return host.plug(step.value);
    case "unplug":
      return host.unplug(step.value);
    case "replug":
      return host.replug(step.value.busid, step.value.to);
    case "reenumerate":
      return host.reenumerate(step.value.busid, step.value);
    case "deny":
      return host.setOpenable(step.value, false);
    case "permit":
      return host.setOpenable(step.value, true);
    case "mount":
      return host.mount(step.value);
    case "unmount":
      return host.unmount(step.value);
    case "route":
      return host.route(step.value);
    case "start":
      return host.startDomain(step.value);
    case "kill":
      return host.killDomain(step.value);
    case "quit":
      return host.quitDomain(step.value);
    case "restart":
      return host.restartDomain(step.value);
    case "reset":
      return host.qemu(step.value).reset();
    case "pause":
      return host.qemu(step.value).pause();
    case "resume":
      return host.qemu(step.value).resume();
    case "shutDown":
      return host.qemu(step.value).endGuest("shutdown");
    case "holdMonitor":
      return host.holdMonitor(step.value);
    case "releaseMonitor":
      return host.releaseMonitor(step.value);
    case "silence":
      return host.qemu(step.value).hang(true);
    case "unsilence":
      return host.qemu(step.value).hang(false);
    case "cut":
      return host.qemu(step.value).disconnect();
    case "refuse":
      return host.qemu(step.value.domain).faults.refuse(step.value.command, step.value.message ?? "refused", step.value.times);
    case "fault":
      return host.qemu(step.value.domain).faults.next(step.value.command, faultOf(step.value), step.value.times ?? 1);
    case "leaveDuring":
      return host.leaveDuring(step.value.domain, step.value.busid);
    case "detachByHand":
      return host.detachByHand(step.value.domain, step.value.busid);
    case "attachByHand":
      return host.attachByHand(step.value.domain, step.value.busid, step.value.id);
    case "write":
      return host.files.write(step.value);
    case "writeInPlace":
      return host.files.writeInPlace(step.value);
    case "move":
      return host.files.move(step.value.from, step.value.to);
    case "remove":
      for (const name of step.value) host.files.remove(name);
      return;
    case "swapTree":
      return host.files.swap(step.value);
    case "removeTree":
      return host.files.removeTree();
    case "policy":
      return host.setPolicy(step.value === "none" ? null : step.value);
    case "mark":
      return host.mark();
    default:
      return playXen(step, host.xen);
  }
}
