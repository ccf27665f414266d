/**
 * The loop: what changed in the world -> plan -> targets for the machines. Level-triggered: every decision is the planner's, from the whole
 * world; this file only brings changes in, counts what takes time (history), and tells machines and book what was altered.
 */
import { fulfils } from "../machines/claim.ts";
import type { ActionError, Outcome, Place } from "../model/action.ts";
import type { Contracts } from "../model/contracts.ts";
import type { DesiredDevice } from "../model/desired.ts";
import { type DomainKey, isRecord } from "../model/domain.ts";
import { fingerprintOf, formatAccess, type HostDevice, type InUse, instanceOf } from "../model/hostdev.ts";
import type { Quarantine } from "../model/intentions.ts";
import { err } from "../model/result.ts";
import type { Cause } from "../model/status.ts";
import type { Timings } from "../model/timings.ts";
import {
  type ClaimId,
  type ClaimPlan,
  claimId,
  type DomainPlan,
  type OrphanPlan,
  type Planner,
  type Veto,
  type WorldChange,
} from "../model/world.ts";
import { same } from "../model/same.ts";
import { createPlanner } from "../planner/plan.ts";
import { createRunner, type Runner } from "./claims.ts";
import { createHistory, type History, type Holder } from "./history.ts";
import { ECHO_FAILURES, isEcho, isNews } from "./news.ts";
import { createRegistry, type Registry } from "./registry.ts";
import { runInSlices, type SliceOptions } from "./slices.ts";

export type Reconciler = {
  /** Brings changes in and acts on what they alter, at once. */
  apply(changes: readonly WorldChange[], cause: Cause): void;
  /** The same for very many, in slices: nothing is done before all of it is decided; what is applied meanwhile comes after it. `done`: acted on. */
  applyInSlices(changes: readonly WorldChange[], cause: Cause, done: () => void): void;
  /** Reads the in-use facts again of what was vetoed, and sees to claims that came to rest in the wrong place. */
  audit(): Promise<void>;
  /** Forgives, and tries the claims of an entry again. */
  retry(ids: readonly ClaimId[]): Promise<void>;
  readonly planner: Planner;
  readonly runner: Runner;
  readonly history: History;
  readonly registry: Registry;
  stop(): void;
};

export type ReconcilerEvents = {
  claim(id: string, plan: ClaimPlan | null, cause: Cause | null): void;
  domain(name: string, plan: DomainPlan | null): void;
  host(busid: string): void;
  /** An action of ours ended, or a device was refused: for the journal. */
  acted(id: string, text: string, error: ActionError | null): void;
  /** A device came back at its place as something else. Overrides applied from here are in force before anything is attached. */
  impostor(quarantine: Quarantine, was: string): void;
};

/** Small enough for one step to be short, whatever the changes are. */
const CHANGES_A_STEP = 8;

const BECAUSE_RETRY: Cause = { kind: "retry", file: null, commit: null };

export function createReconciler(
  contracts: Pick<Contracts, "host" | "domains" | "clock" | "random" | "log">,
  timings: Timings,
  events: ReconcilerEvents,
  defer: SliceOptions["defer"],
): Reconciler {
  const planner = createPlanner();
  const registry = createRegistry();
  const restless = new Set<ClaimId>();
  /** Places whose node has got another owner or mode: what could not be opened may be now. */
  const opened = new Set<string>();
  /** Buses and names of each live domain's controllers, as they were last shown. */
  const controllers = new Map<DomainKey, string>();
  let queue: WorldChange[] = [];
  let working = false;
  let stopped = false;
  /** Who waits for the end of work that is done in slices. */
  const waiting: (() => void)[] = [];

  const history = createHistory({
    clock: contracts.clock,
    timings,
    onFacts: (claim, facts) => apply([{ kind: "facts", claim, facts }], BECAUSE_RETRY),
  });
  const runner = createRunner({
    clock: contracts.clock,
    random: contracts.random,
    timings,
    attach,
    detach: async (id, at, signal, onStep) => {
      const outcome = await contracts.domains.detach(at, { signal, onStep });
      // The observation comes before the answer, and an orphan that is seen gone is forgotten: then its action is called off, and done.
      const seen = planner.world.domains.get(at.domain)?.objects.some(({ path }) => path === at.path) === true;
      events.acted(id, `${isRecord(at) ? "clear" : "device_del"} ${at.path}`, outcome.ok || !seen ? null : outcome.error);
      return outcome;
    },
    onProgress: (id) => {
      const plan = planner.claims.get(id);
      if (plan === undefined) return;
      const progress = runner.progress(id);
      if (progress === null && !fulfils(plan.owned, plan.target)) restless.add(id);
      else restless.delete(id);
      events.claim(id, plan, null);
    },
  });

  /** Whether what was applied last has been decided; at once, unless work is done in slices. */
  const decided = async (): Promise<void> => {
    if (working) await new Promise<void>((resolve) => waiting.push(resolve));
  };

  /** One action: in-use facts are read at its moment (product.md §3), then the device goes in. */
  async function attach(id: string, place: Place, signal: AbortSignal, onStep: (step: string) => void): Promise<Outcome> {
    const wanted = (): boolean => !signal.aborted && samePlace(planner.claims.get(id)?.target, place);
    for (const veto of vetoesOf(await contracts.host.inUse(place.device))) {
      if (!wanted()) break;
      apply([{ kind: "veto", instance: instanceOf(place.device), veto }], BECAUSE_RETRY);
      await decided();
      if (!wanted())
        return err({ kind: "transient", reason: veto.builtIn === "disk-in-use" ? "DiskInUse" : "DefaultRoute", message: veto.message });
    }
    if (!wanted()) return err({ kind: "transient", reason: "Overtaken", message: "Something changed before it was attached." });
    const answer = await contracts.domains.attach(place, { signal, onStep });
    const outcome =
      answer.ok || answer.error.reason !== "OpenRefused" ? answer : err({ ...answer.error, message: refusedWords(place.device) });
    events.acted(id, `device_add ${place.device.busid} on ${place.bus} port ${String(place.port)}`, outcome.ok ? null : outcome.error);
    return outcome;
  }

  const holderOf = (id: ClaimId, plan: ClaimPlan): Holder => {
    const entry = planner.world.forced.get(plan.domain)?.spec.devices.find(({ name }) => name === plan.device);
    return { id, domain: plan.domain, device: plan.device, anyOf: entry?.kind.type === "usb" && entry.kind.anyOf };
  };

  /** Departures and arrivals are counted before the planner hears of them, so that one answer covers both. */
  const countHost = (change: WorldChange & { kind: "host" }): WorldChange[] => {
    const before = planner.world.host.get(change.busid);
    const extra: WorldChange[] = [];
    if (before !== undefined && change.device !== null && !sameOpening(before, change.device)) opened.add(change.busid);
    if (before !== undefined && (change.device === null || instanceOf(before) !== instanceOf(change.device))) {
      const instance = instanceOf(before);
      const holders = [...registry.holding(instance)].flatMap((id) => {
        const plan = planner.claims.get(id);
        return plan === undefined ? [] : [holderOf(id, plan)];
      });
      history.left(before, holders);
      if (planner.world.vetoes.has(instance)) extra.push({ kind: "veto", instance, veto: null });
    }
    if (change.device !== null && (before === undefined || instanceOf(before) !== instanceOf(change.device))) {
      const impostor = history.came(change.device);
      if (impostor !== null) judge(impostor.holder, change.device, impostor.was);
    }
    return extra;
  };

  /** An alternate that the entry names is the same logical device (product.md §3); anything else is told, and the policy says what follows. */
  const judge = (holder: Holder, device: HostDevice, was: string): void => {
    const entry = planner.world.forced.get(holder.domain)?.spec.devices.find(({ name }) => name === holder.device);
    if (
      entry?.kind.type === "usb" &&
      entry.kind.anyOf &&
      entry.kind.selectors.some((s) => s.vendor === device.vendor && s.product === device.product)
    )
      return;
    events.impostor({ domain: holder.domain, device: holder.device, busid: device.busid, fingerprint: fingerprintOf(device) }, was);
  };

  function apply(changes: readonly WorldChange[], cause: Cause): void {
    queue.push(...changes);
    if (working) return;
    for (const _ of work(cause, Number.POSITIVE_INFINITY));
    if (queue.length > 0) apply([], cause);
  }
  function applyInSlices(changes: readonly WorldChange[], cause: Cause, done: () => void): void {
    queue.push(...changes);
    const later: SliceOptions["defer"] = (fn) =>
      defer(() => {
        if (!stopped) fn();
      });
    runInSlices(work(cause, CHANGES_A_STEP), { clock: contracts.clock, sliceMs: timings.sliceMs, defer: later }, () => {
      if (queue.length > 0) apply([], cause);
      done();
      for (const resolve of waiting.splice(0)) resolve();
    });
  }

  /** What is queued, and what is queued meanwhile. */
  function* batches(most: number): Generator<readonly WorldChange[]> {
    while (queue.length > 0) {
      const all = queue;
      queue = [];
      for (let from = 0; from < all.length; from += most) yield all.slice(from, from + most);
    }
  }

  /** Works on what is queued, and on what is queued meanwhile; yields where it may be interrupted. @param most - changes planned in one step */
  function* work(cause: Cause, most: number): Generator<void> {
    working = true;
    try {
      const orphans = new Map<string, OrphanPlan | null>();
      const claims = new Map<ClaimId, ClaimPlan | null>();
      const domains = new Map<string, DomainPlan | null>();
      /** News, and whether it may be an echo of ours. */
      const touched = new Map<WorldChange, boolean>();
      const edited: ClaimId[] = [];
      for (const batch of batches(most)) {
        const counted = batch.flatMap((change) => (change.kind === "host" ? [...countHost(change), change] : [change]));
        for (const change of counted.filter((one) => isNews(planner.world, one))) touched.set(change, isEcho(planner.world, change));
        for (const change of batch) if (change.kind === "forced") edited.push(...editedEntries(change));
        const delta = planner.apply(counted);
        for (const [id, plan] of delta.orphans) orphans.set(id, plan);
        for (const [id, plan] of delta.claims) claims.set(id, plan);
        for (const [name, plan] of delta.domains) domains.set(name, plan);
        for (const [id, plan] of delta.claims) if (plan !== null) countClaim(id, plan);
        yield;
      }
      for (const [id, plan] of claims) yield registry.set(id, plan);
      for (const [id, plan] of orphans) yield registry.setOrphan(id, plan);
      for (const [name, plan] of domains) yield registry.setDomain(name, plan);
      // A domain that shows what we do to it is not what moved the claim.
      const ours = new Set(cause.kind === "domain" ? [...claims.keys()].filter((id) => runner.isActing(id)) : []);
      yield* dispatch(orphans, claims);
      for (const one of edited) for (const id of registry.ofEntry(one)) runner.retry(id);
      for (const [id, plan] of claims) yield events.claim(id, plan, ours.has(id) && runner.isActing(id) ? null : cause);
      for (const [name, plan] of domains) yield events.domain(name, plan);
      for (const [change, echo] of touched) yield tellTouched(change, echo);
    } finally {
      working = false;
    }
  }

  /** Entries that a person has edited: what was held against them is forgiven, and what needed a person is tried again. */
  const editedEntries = ({ name, domain }: WorldChange & { kind: "forced" }): ClaimId[] => {
    const before = new Map(planner.world.forced.get(name)?.spec.devices.map((device) => [device.name, device]));
    const after = domain === null || domain.standing === "vanished" ? [] : domain.spec.devices;
    const entries = after.filter((device) => {
      const was = before.get(device.name);
      return was !== undefined && wordOf(was) !== wordOf(device);
    });
    for (const device of entries) history.forgiveEntry(name, device.name);
    for (const { name: entry, count } of before.values())
      if (!after.some((device) => device.name === entry && device.count === count)) history.forgetEntry(name, entry);
    return entries.map((device) => claimId(name, device.name, null));
  };

  /** A claim of `count: all` is no more while its device is away; what is counted of it goes on, as with any other. */
  const comesBack = (id: ClaimId): boolean => {
    const slash = id.indexOf("/");
    const at = id.indexOf("@", slash);
    const file = planner.world.forced.get(id.slice(0, slash));
    if (at < 0 || file === undefined || file.standing === "vanished") return false;
    return file.spec.devices.some(({ name, count }) => count === "all" && name === id.slice(slash + 1, at));
  };

  /** Compares with what was last told to the machine: an object that went without us was taken by somebody else. */
  const countClaim = (id: ClaimId, plan: ClaimPlan): void => {
    const before = registry.get(id);
    if (plan.hostdev !== null && (before?.hostdev == null || instanceOf(before.hostdev) !== instanceOf(plan.hostdev))) history.won(id);
    if (before?.live !== plan.live && before?.live != null) {
      history.forgive(id);
      return;
    }
    // Where we did not want it there (paused, observed, on its way out) nobody undoes anything of ours.
    if (before === undefined || before.target === null || before.target === "stay") return;
    if (before.owned === null || plan.owned !== null || runner.isActing(id)) return;
    const live = plan.live === null ? undefined : planner.world.domains.get(plan.live);
    const host = plan.hostdev ?? before.hostdev;
    const stillThere =
      host !== null &&
      planner.world.host.get(host.busid) !== undefined &&
      before.owned.instance === instanceOf(planner.world.host.get(host.busid) ?? host);
    const gone = live?.monitorState === "answering" && !live.objects.some(({ path }) => path === before.owned?.path);
    if (stillThere && gone) history.undone(id);
  };

  /** Objects in the way first, then what moves away, then what comes: commands go out in this order. */
  function* dispatch(orphans: ReadonlyMap<string, OrphanPlan | null>, claims: ReadonlyMap<ClaimId, ClaimPlan | null>): Generator<void> {
    for (const [id, orphan] of orphans) {
      if (orphan === null) runner.forget(id);
      else runner.plan(id, orphan.live, orphan.target, orphan.at);
      yield;
    }
    const coming: ClaimPlan[] = [];
    for (const [id, plan] of claims) {
      if (plan === null) {
        runner.forget(id);
        if (!comesBack(id)) history.forget(id);
        restless.delete(id);
      } else if (plan.owned === null && plan.target !== null && plan.target !== "stay") coming.push(plan);
      else runner.plan(id, plan.live, plan.target, plan.owned);
      yield;
    }
    for (const plan of coming) yield runner.plan(plan.id, plan.live, plan.target, plan.owned);
  }

  const tellTouched = (change: WorldChange, echo: boolean): void => {
    if (change.kind === "host") {
      const reopened = opened.delete(change.busid);
      for (const id of registry.about(change.busid)) {
        if (reopened && runner.progress(id)?.reason === "OpenRefused") runner.retry(id);
        else runner.nudge(id);
      }
      events.host(change.busid);
    } else if (change.kind === "live") {
      // What a claim shows of its domain (controller names) may have changed though its plan has not.
      const names = change.domain?.controllers.map(({ bus, name }) => `${bus} ${name}`).join(", ") ?? "";
      const renamed = (controllers.get(change.key) ?? "") !== names;
      if (names === "") controllers.delete(change.key);
      else controllers.set(change.key, names);
      for (const id of registry.inDomain(change.key)) {
        if (!echo || (runner.progress(id)?.failures ?? 0) < ECHO_FAILURES) runner.nudge(id);
        if (renamed) events.claim(id, planner.claims.get(id) ?? null, null);
      }
      for (const name of registry.boundTo(change.key)) events.domain(name, planner.domains.get(name) ?? null);
    } else if (change.kind === "forced") {
      // Generation, labels and mode show though the plan may be the same.
      events.domain(change.name, planner.domains.get(change.name) ?? null);
    }
  };

  /** What sits where a veto was told. */
  const vetoed = (): readonly HostDevice[] => {
    const busids = new Set([...planner.world.vetoes.keys()].map((instance) => instance.slice(0, instance.lastIndexOf("@"))));
    return [...busids].flatMap((busid) => planner.world.host.get(busid) ?? []);
  };
  const review = async (device: HostDevice): Promise<void> => {
    const instance = instanceOf(device);
    const vetoes = vetoesOf(await contracts.host.inUse(device));
    const known = planner.world.vetoes.get(instance);
    if (known === undefined) return;
    // What the policy lifts may be in use still, and what it does not lift free: of two the one that was told stays only while it is true.
    const veto = vetoes.find(({ builtIn }) => builtIn === known.builtIn) ?? vetoes[0] ?? null;
    if (!same(veto, known)) apply([{ kind: "veto", instance, veto }], BECAUSE_RETRY);
  };

  return {
    apply,
    applyInSlices,
    async audit() {
      for (const device of vetoed()) await review(device);
      for (const id of [...restless]) {
        const plan = planner.claims.get(id);
        restless.delete(id);
        if (plan !== undefined) runner.plan(id, plan.live, plan.target, plan.owned);
      }
    },
    async retry(ids) {
      for (const id of ids) {
        history.forgive(id);
        for (const device of vetoed()) await review(device);
        runner.retry(id);
      }
    },
    planner,
    runner,
    history,
    registry,
    stop() {
      stopped = true;
      runner.stop();
      history.stop();
    },
  };
}

/** Whether who may open the node is as before. */
const sameOpening = (a: HostDevice, b: HostDevice): boolean =>
  a.access?.mode === b.access?.mode && a.access?.uid === b.access?.uid && a.access?.gid === b.access?.gid;
const refusedWords = ({ node, access }: HostDevice): string =>
  `QEMU finds ${node}${access === undefined ? "" : ` (${formatAccess(access)})`} but cannot open it; let its user read and write the node, see QEMU's own log, or replug.`;

/** What an entry says, wherever in the file it stands. */
const wordOf = (device: DesiredDevice): string => JSON.stringify({ ...device, mark: null });

const samePlace = (target: ClaimPlan["target"] | undefined, place: Place): boolean =>
  target !== undefined &&
  target !== null &&
  target !== "stay" &&
  target.domain === place.domain &&
  target.bus === place.bus &&
  target.port === place.port &&
  instanceOf(target.device) === instanceOf(place.device);

const vetoesOf = (inUse: InUse): Veto[] => [
  ...(inUse.disks.length > 0 ? [{ builtIn: "disk-in-use", message: `The host uses its disk: ${inUse.disks.join(", ")}.` } as const] : []),
  ...(inUse.routes.length > 0
    ? [{ builtIn: "default-route", message: `The host's default route goes over it: ${inUse.routes.join(", ")}.` } as const]
    : []),
];
