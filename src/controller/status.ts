/** Plans and progress in the words of product.md §4: a claim's phase, a domain's conditions. Pure. */
import { CONTROLLER_PREFIX } from "../model/action.ts";
import type { ForcedDomain } from "../model/desired.ts";
import type { LiveDomain } from "../model/domain.ts";
import { describeDevice, type HostDevice, printable } from "../model/hostdev.ts";
import type { PolicyState } from "../model/policy.ts";
import {
  type Cause,
  type ClaimStatus,
  type Condition,
  type DomainStatus,
  type GuestView,
  type HostView,
  type Phase,
  phaseRank,
} from "../model/status.ts";
import type { ClaimPlan, DomainPlan, OrphanPlan } from "../model/world.ts";
import type { Troubled } from "./book.ts";
import type { Progress } from "./claims.ts";

export type Shown = { readonly phase: Phase; readonly reason: string | null; readonly message: string };

const STATE_PHASE = { attaching: "Attaching", detaching: "Detaching", backoff: "BackingOff", stalled: "Stalled" } as const;

const controllerName = (bus: string, live: LiveDomain | undefined): string => {
  const name = live?.controllers.find((controller) => controller.bus === bus)?.name;
  return name ?? (bus.startsWith(CONTROLLER_PREFIX) ? bus.slice(CONTROLLER_PREFIX.length).replace(/\.0$/, "") : bus);
};

/** What of a claim shows: the planner's word and the machine's, whichever comes first in PHASES. */
export function shownOf(plan: ClaimPlan, progress: Progress | null, live: LiveDomain | undefined): Shown {
  const { verdict, target, owned, remark } = plan;
  const where = (): string => {
    const at = owned ?? (target !== null && target !== "stay" ? target : null);
    return at === null ? "" : ` on ${controllerName(at.bus, live)} port ${String(at.port)}`;
  };
  const own = ((): Shown => {
    if (progress !== null) {
      const phase = STATE_PHASE[progress.state];
      if (phase === "Attaching")
        return {
          phase,
          reason: progress.reason,
          message: progress.step === null ? `Being attached${where()}.` : `Being attached: ${progress.step}.`,
        };
      if (phase === "Detaching")
        return {
          phase,
          reason: progress.reason,
          message: progress.step === null ? "Being detached." : `Being detached: ${progress.step}.`,
        };
      return { phase, reason: progress.reason, message: progress.message ?? "" };
    }
    if (owned !== null) return { phase: "Attached", reason: remark?.reason ?? null, message: remark?.message ?? `Attached${where()}.` };
    return { phase: "Attaching", reason: null, message: `To be attached${where()}.` };
  })();
  return verdict !== null && phaseRank(verdict.phase) <= phaseRank(own.phase) ? verdict : own;
}

export const hostView = (device: HostDevice): HostView => ({
  busid: device.busid,
  anchor: device.anchor,
  bus: device.bus,
  address: device.address,
  vendor: device.vendor,
  product: device.product,
  serial: device.serial === null ? null : printable(device.serial),
  text: describeDevice(device),
});

const guestView = ({ owned, target }: ClaimPlan, live: LiveDomain | undefined): GuestView | null => {
  if (owned !== null)
    return { controller: controllerName(owned.bus, live), port: owned.port, path: owned.path, attached: owned.instance !== null };
  if (target === null || target === "stay") return null;
  return { controller: controllerName(target.bus, live), port: target.port, path: null, attached: false };
};

export function claimStatus(
  plan: ClaimPlan,
  progress: Progress | null,
  live: LiveDomain | undefined,
  moved: { readonly since: number; readonly cause: Cause | null },
): ClaimStatus {
  return {
    domain: plan.domain,
    name: plan.device,
    ...shownOf(plan, progress, live),
    since: new Date(moved.since).toISOString(),
    tries: progress?.failures ?? 0,
    nextTryAt: progress?.nextTryAt == null ? null : new Date(progress.nextTryAt).toISOString(),
    step: progress?.step ?? null,
    host: plan.hostdev === null ? null : hostView(plan.hostdev),
    guest: guestView(plan, live),
    cause: moved.cause,
  };
}

/** Phases in which nothing is wrong: `Ready` stays true (product.md §4). */
const CONTENT: ReadonlySet<Phase> = new Set<Phase>(["Attached", "WaitingForHost", "Paused", "Held"]);
const BUSY: ReadonlySet<Phase> = new Set<Phase>(["Attaching", "Detaching", "BackingOff", "WaitingForFrontend", "Flapping"]);
const NEEDS_PERSON: ReadonlySet<Phase> = new Set<Phase>(["Stalled", "Contested", "Denied", "Ambiguous", "Conflict"]);

const capital = (text: string): string => `${text.charAt(0).toUpperCase()}${text.slice(1)}`;

export function domainConditions(
  plan: DomainPlan,
  forced: ForcedDomain | undefined,
  claims: readonly ClaimStatus[],
  live: LiveDomain | undefined,
): Condition[] {
  const required = new Set(forced?.spec.devices.filter((device) => device.required).map((device) => device.name));
  const isThere = ({ phase, guest }: ClaimStatus): boolean => phase === "Attached" || (phase === "Paused" && guest?.attached === true);
  const missing = claims.filter((claim) => required.has(claim.name) && !isThere(claim));
  const wrong = claims.filter((claim) => !CONTENT.has(claim.phase));
  const list = (of: readonly ClaimStatus[]): string =>
    of.map((claim) => `${claim.name} is ${claim.phase}${claim.reason === null ? "" : `/${claim.reason}`}`).join(", ");
  const paused = plan.verdict?.phase === "Paused" ? plan.verdict : null;
  const ready: Condition =
    plan.verdict !== null && paused === null
      ? { type: "Ready", status: "False", reason: plan.verdict.reason ?? plan.verdict.phase, message: plan.verdict.message }
      : missing.length > 0
        ? { type: "Ready", status: "False", reason: "DevicesMissing", message: `Required and not attached: ${list(missing)}.` }
        : wrong.length > 0
          ? { type: "Ready", status: "False", reason: wrong[0]?.phase ?? "", message: `${list(wrong)}.` }
          : {
              type: "Ready",
              status: "True",
              reason: paused?.reason ?? "AsDesired",
              message: paused?.message ?? "Every device is where it should be, or not on the host.",
            };
  const busy = claims.filter((claim) => BUSY.has(claim.phase));
  const stuck = claims.filter((claim) => NEEDS_PERSON.has(claim.phase));
  const invalid = forced !== undefined && (forced.standing === "last-good" || forced.standing === "held-back");
  return [
    ready,
    ...(busy.length > 0 ? [{ type: "Reconciling", status: "True", reason: busy[0]?.phase ?? "", message: `${list(busy)}.` } as const] : []),
    ...(plan.verdict?.phase === "Stalled"
      ? [{ type: "Stalled", status: "True", reason: plan.verdict.reason ?? "Stalled", message: plan.verdict.message } as const]
      : invalid
        ? [
            {
              type: "Stalled",
              status: "True",
              reason: forced.standing === "last-good" ? "InvalidFile" : "HeldBack",
              message: forced.problems.join("\n"),
            } as const,
          ]
        : stuck.length > 0
          ? [{ type: "Stalled", status: "True", reason: stuck[0]?.reason ?? stuck[0]?.phase ?? "", message: `${list(stuck)}.` } as const]
          : []),
    ...(live?.xen?.notSaveable == null
      ? []
      : [{ type: "NotSaveable", status: "True", reason: "NotSaveable", message: `${capital(live.xen.notSaveable)}.` } as const]),
    ...plan.drift.map((message) => ({ type: "ControllerDrift", status: "True", reason: "ControllerDrift", message }) as const),
  ];
}

export function domainStatus(
  plan: DomainPlan,
  forced: ForcedDomain | undefined,
  live: LiveDomain | undefined,
  claims: readonly ClaimStatus[],
  orphans: readonly OrphanPlan[],
): DomainStatus {
  // A file that has vanished says nothing any more, though what it said of pruning still holds.
  const spec = forced?.standing === "vanished" ? undefined : forced?.spec;
  return {
    name: plan.name,
    labels: spec?.labels ?? {},
    mode: spec?.mode ?? "none",
    file: spec?.mark.file ?? null,
    observedGeneration: spec?.generation ?? null,
    commit: spec?.commit ?? null,
    live:
      live === undefined
        ? null
        : {
            key: live.key,
            name: live.name === null ? null : printable(live.name),
            uuid: live.uuid,
            type: live.type,
            state: live.state,
            version: live.version,
            monitor: live.monitor,
            monitorState: live.monitorState,
            controllers: live.controllers.map((controller) => ({
              name: controller.name ?? controller.bus,
              driver: controller.driver,
              ports: controller.ports,
              ours: controller.ours,
              occupied: controller.occupied,
            })),
            others: [...orphans.map((orphan) => ({ path: orphan.at.path, text: orphan.why })), ...(live.xen?.phantoms ?? [])],
          },
    conditions: domainConditions(plan, forced, claims, live),
    devices: { total: claims.length, attached: claims.filter((claim) => claim.phase === "Attached").length },
  };
}

/** Names that a sentence lists before it only counts. */
const NAMED = 5;

/** The host as a whole: Ready while every domain is, Reconciling and Stalled while one is. */
export function inTotal(domains: Troubled, total: number): Condition[] {
  const say = (of: ReadonlySet<string>, what: string): string => {
    const names: string[] = [];
    for (const name of of) if (names.push(name) === NAMED) break;
    return `${String(of.size)} of ${String(total)} domains are ${what}: ${names.join(", ")}${of.size > NAMED ? " and others" : ""}.`;
  };
  const { Ready: unready, Reconciling: reconciling, Stalled: stalled } = domains;
  return [
    unready.size === 0
      ? { type: "Ready", status: "True", reason: "AsDesired", message: "Every domain is as its file says." }
      : { type: "Ready", status: "False", reason: "DomainsNotReady", message: say(unready, "not ready") },
    ...(reconciling.size === 0
      ? []
      : [{ type: "Reconciling", status: "True", reason: "DomainsReconciling", message: say(reconciling, "being reconciled") } as const]),
    ...(stalled.size === 0
      ? []
      : [{ type: "Stalled", status: "True", reason: "DomainsStalled", message: say(stalled, "stalled") } as const]),
  ];
}

export const policyConditions = (policy: PolicyState): Condition[] =>
  policy.problems.length === 0 ? [] : [{ type: "Stalled", status: "True", reason: "InvalidPolicy", message: policy.problems.join("\n") }];
