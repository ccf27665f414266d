/**
 * createController: the sources of a host in, devices kept in place, a view for CLI and live API out.
 * Silent until every source has reported once (host, domains with their monitors, files, policy): nothing is decided on half a picture.
 */
import type { Subscription } from "rxjs";
import type { Contracts, HostChange } from "../model/contracts.ts";
import type { DesiredDomain, Problem } from "../model/desired.ts";
import type { DomainKey } from "../model/domain.ts";
import type { HostDevice } from "../model/hostdev.ts";
import type { Intentions } from "../model/intentions.ts";
import { openPolicy, type PolicyState } from "../model/policy.ts";
import type { Cause } from "../model/status.ts";
import type { Timings } from "../model/timings.ts";
import { claimId, type WorldChange } from "../model/world.ts";
import { createAlarms } from "./alarms.ts";
import { type Book, createBook } from "./book.ts";
import { createDesiredState, type DesiredStateKeeper } from "./desired-state.ts";
import { dryRun } from "./dry-run.ts";
import { hostStatus } from "./host-status.ts";
import { createJournal } from "./journal.ts";
import { createOperator } from "./operate.ts";
import { createOverrides } from "./overrides.ts";
import { createReconciler, type Reconciler, type ReconcilerEvents } from "./reconcile.ts";
import { claimStatus, domainStatus, inTotal, policyConditions } from "./status.ts";
import type { ControllerView } from "./view.ts";

export type Controller = {
  /** Subscribes to every source; readiness is `view.ready`. */
  start(): void;
  /** Stops deciding and acting; what is attached stays attached. */
  stop(): void;
  readonly view: ControllerView;
};

export type ControllerOptions = {
  readonly timings: Timings;
  /** Told to clients, so that change numbers of another life are not taken for this one's. */
  readonly life: string;
  /** Runs a function soon, after what is under way now: what is shown does not hold up what is done. */
  readonly defer: (fn: () => void) => void;
  /** Reads the files that `plan` is given, as the files in force are read. */
  readonly readFiles: (files: readonly { readonly name: string; readonly text: string }[]) => {
    readonly domains: readonly DesiredDomain[];
    readonly problems: readonly Problem[];
  };
  /** As read from the state directory. */
  readonly intentions: Intentions;
};

const because = (kind: Cause["kind"]): Cause => ({ kind, file: null, commit: null });
const SOURCES = ["host", "domains", "files", "policy"] as const;
type SourceName = (typeof SOURCES)[number];

export function createController(contracts: Contracts, options: ControllerOptions): Controller {
  const { clock, log } = contracts;
  const { timings } = options;
  const journal = createJournal(clock);
  const alarms = createAlarms(clock);
  const awaited = new Set<SourceName>(SOURCES);
  const subscriptions: Subscription[] = [];
  const knownHost = new Map<string, HostDevice>();
  let early: WorldChange[] = [];
  let { intentions } = options;
  let desired: DesiredStateKeeper | null = null;
  let ready = false;
  let stopped = false;

  const book: Book = createBook({
    life: options.life,
    clock,
    journal,
    defer: options.defer,
    sliceMs: timings.sliceMs,
    source: {
      claim: (id, moved) => {
        const plan = reconciler.planner.claims.get(id);
        return plan === undefined ? null : claimStatus(plan, reconciler.runner.progress(id), liveOf(plan.live), moved);
      },
      domain: (name, claims) => {
        const plan = reconciler.planner.domains.get(name);
        const forced = reconciler.planner.world.forced.get(name);
        if (plan === undefined || (plan.live === null && forced?.standing === "vanished")) return null;
        const orphans = plan.live === null ? [] : reconciler.registry.orphansIn(plan.live);
        return domainStatus(plan, forced, liveOf(plan.live), claims, orphans);
      },
      host: (busid) => hostStatus(busid, reconciler, (id) => book.statusOf(id)),
      conditions: (troubled, total) => [
        ...inTotal(troubled, total),
        ...(desired?.conditions() ?? []),
        ...policyConditions(reconciler.planner.world.policy),
      ],
    },
  });
  const liveOf = (key: DomainKey | null) => (key === null ? undefined : reconciler.planner.world.domains.get(key));

  const reconcilerEvents: ReconcilerEvents = {
    claim: (id, plan, cause) => {
      const slash = id.indexOf("/");
      book.claim(id, id.slice(0, slash), cause === null || cause.kind !== "file" ? cause : fileCause(id.slice(0, slash)));
      const before = reconciler.registry.get(id)?.hostdev?.busid;
      for (const busid of new Set([before, plan?.hostdev?.busid])) if (busid !== undefined) book.host(busid);
    },
    domain: (name) => book.domain(name),
    host: (busid) => book.host(busid),
    acted: (id, text, error) => {
      const plan = reconciler.planner.claims.get(id);
      const message = error === null ? `${text}: done` : `${text}: ${error.reason}: ${error.message}`;
      book.note({ domain: plan?.domain ?? null, device: plan?.device ?? null, kind: "action", reason: error?.reason ?? null, message });
      log.info(message, { id });
    },
    impostor: (quarantine, was) => overrides.quarantine(quarantine, was),
  };
  const reconciler: Reconciler = createReconciler(contracts, timings, reconcilerEvents, options.defer);
  /**
   * What is remembered of a vanished file or entry is dropped once nothing of ours is left over in its domain, at two audits in a row: what
   * was on its way in as the file vanished is seen by then.
   */
  const tidy = (): void => {
    const isClean = (name: string): boolean => {
      const live = liveOf(reconciler.planner.domains.get(name)?.live ?? null);
      return live?.monitorState === "answering" && reconciler.registry.orphansIn(live.key).every(({ ours }) => !ours);
    };
    const now = [...(desired?.unclean ?? [])].filter(isClean);
    for (const name of now) if (clean.has(name)) desired?.clean(name);
    clean = new Set(now);
  };
  /** Unclean no more at the last audit. */
  let clean: ReadonlySet<string> = new Set();
  const fileCause = (domain: string): Cause => {
    const spec = reconciler.planner.world.forced.get(domain)?.spec;
    return { kind: "file", file: spec?.mark.file ?? null, commit: spec?.commit ?? null };
  };

  const keep = (part: Partial<Intentions>): void => {
    intentions = { ...intentions, ...part };
    contracts.store.save(intentions);
  };
  const overrides = createOverrides({
    clock,
    alarms,
    book,
    get: () => intentions,
    keep,
    policy: () => reconciler.planner.world.policy,
    apply: (changes) => bring(null, changes, because("operator")),
  });

  /** Collects until every source has reported, then works on all of it at once; afterwards each change at once. */
  const bring = (from: SourceName | null, changes: readonly WorldChange[], cause: Cause): void => {
    if (stopped) return;
    if (awaited.size === 0) {
      reconciler.apply(changes, cause);
      return;
    }
    early.push(...changes);
    if (from === null) return;
    awaited.delete(from);
    if (awaited.size > 0) return;
    const all = early;
    early = [];
    log.info("every source has reported", { devices: knownHost.size });
    reconciler.applyInSlices(inBestOrder(all), because("start"), () => {
      if (stopped) return;
      ready = true;
      book.note({ domain: null, device: null, kind: "daemon", reason: "Ready", message: "Every source has reported; reconciling." });
      book.conditions();
    });
  };

  const onHost = (change: HostChange): void => {
    if (change.kind === "device") {
      if (change.device === null) knownHost.delete(change.busid);
      else knownHost.set(change.busid, change.device);
      bring("host", [{ kind: "host", busid: change.busid, device: change.device }], because("host"));
      return;
    }
    const present = new Map(change.devices.map((device) => [device.busid, device]));
    const gone = [...knownHost.keys()].filter((busid) => !present.has(busid));
    knownHost.clear();
    for (const [busid, device] of present) knownHost.set(busid, device);
    bring(
      "host",
      [
        ...gone.map((busid) => ({ kind: "host", busid, device: null }) as const),
        ...[...present].map(([busid, device]) => ({ kind: "host", busid, device }) as const),
      ],
      because("host"),
    );
  };

  const onPolicy = (policy: PolicyState): void => {
    bring("policy", [{ kind: "policy", policy }], because("policy"));
    // Having no file is no version: a bad one that appears later finds nothing to fall back on.
    if (policy.kind === "valid" && policy.problems.length === 0)
      keep({ lastGoodPolicy: policy.policy === openPolicy ? null : policy.policy });
    for (const problem of policy.problems)
      book.note({ domain: null, device: null, kind: "policy", reason: "InvalidPolicy", message: problem });
    book.conditions();
  };

  const audit = (): void => {
    alarms.set("audit", timings.auditMs, () => {
      // A timer stands still while the host sleeps, and the wall clock may be set.
      overrides.schedule();
      void Promise.allSettled([contracts.host.audit(), contracts.domains.audit(), reconciler.audit()]).then(() => {
        if (stopped) return;
        tidy();
        audit();
      });
    });
  };

  const operator = createOperator({ book, reconciler, overrides, desired: () => desired, timings, now: () => clock.now() });

  return {
    start() {
      desired = createDesiredState({
        clock,
        timings,
        intentions,
        attached: (domain) => (ready ? attachedIn(reconciler, domain) : null),
        onChange: (changes) => {
          bring(null, changes, because("file"));
          book.conditions();
        },
        onIntentions: keep,
        onNote: (domain, reason, message) => book.note({ domain, device: null, kind: "file", reason, message }),
      });
      early.push(overrides.change());
      overrides.schedule();
      subscriptions.push(
        contracts.policy.policy$.subscribe(onPolicy),
        contracts.desired.readings$.subscribe((tree) => {
          desired?.reading(tree);
          bring("files", [], because("file"));
        }),
        contracts.host.changes$.subscribe(onHost),
        contracts.domains.changes$.subscribe((change) => {
          if (change.kind === "ready") bring("domains", [], because("start"));
          else if (change.kind === "gone") bring(null, [{ kind: "live", key: change.key, domain: null }], because("domain"));
          else bring(null, [{ kind: "live", key: change.domain.key, domain: change.domain }], because("domain"));
        }),
      );
      audit();
    },
    stop() {
      stopped = true;
      for (const subscription of subscriptions) subscription.unsubscribe();
      alarms.stop();
      desired?.stop();
      reconciler.stop();
    },
    view: {
      get ready() {
        return ready;
      },
      snapshot: () => book.snapshot(),
      changes$: book.changes$,
      since: (id, seq) => book.since(id, seq),
      events: (filter) => journal.list(filter),
      explain: (device, domain) => operator.explain(device, domain),
      plan: (files) => {
        if (files === null) return { problems: [], changes: dryRun(reconciler.planner, null) };
        const { domains, problems } = options.readFiles(files);
        // A bad one changes nothing: what is in force of it stays.
        const bad = new Set(problems.flatMap(({ file, severity }) => (severity === "error" ? [file] : [])));
        const read = new Set(files.map(({ name }) => name).filter((name) => !bad.has(name)));
        return { problems, changes: dryRun(reconciler.planner, { files: read, specs: domains }) };
      },
      operate: async (request) => {
        const answer = await operator.operate(request);
        await contracts.store.flush();
        return answer;
      },
    },
  };
}

/**
 * So that each thing is decided once: what entries are matched with before the entries, and a domain beside the file of its name. Changes of
 * the same thing keep their order; any order leads to the same plans.
 */
function inBestOrder(changes: readonly WorldChange[]): readonly WorldChange[] {
  const names = new Map(
    changes.flatMap((one) => (one.kind === "live" && one.domain !== null ? [[one.key, one.domain.name ?? one.key]] : [])),
  );
  const others: WorldChange[] = [];
  const groups = new Map<string, WorldChange[]>();
  for (const change of changes) {
    const group = change.kind === "forced" ? change.name : change.kind === "live" ? (names.get(change.key) ?? change.key) : null;
    const list = group === null ? others : (groups.get(group) ?? []);
    if (group !== null) groups.set(group, list);
    list.push(change);
  }
  return [...others, ...[...groups.values()].flat()];
}

/** How many devices are attached for claims in all (null), or would be detached if this domain's file were gone. */
const attachedIn = ({ planner, registry }: Reconciler, domain: string | null): number => {
  if (domain === null) {
    let count = 0;
    for (const { owned } of planner.claims.values()) if (owned !== null) count += 1;
    return count;
  }
  const spec = planner.world.forced.get(domain)?.spec;
  const ids = (spec?.devices ?? []).flatMap(({ name, onRemove }) =>
    onRemove === "leave" ? [] : [...registry.ofEntry(claimId(domain, name, null))],
  );
  return ids.filter((id) => {
    const plan = planner.claims.get(id);
    return plan?.owned != null && (plan.ours || spec?.prune === "all");
  }).length;
};
