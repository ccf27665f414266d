/**
 * One life of a plain QEMU domain over one session: what was seen last, when it is looked at again, and what is done to it.
 * Events only say "look again" (no event tells of an addition, and DEVICE_DELETED may be of an older object of the same id).
 */
import type { Clock, Domains, Log, Random } from "../model/contracts.ts";
import type { DomainKey, LiveController, LiveDomain, LiveObject } from "../model/domain.ts";
import { same } from "../model/same.ts";
import type { Timings } from "../model/timings.ts";
import type { QmpEvent } from "../protocol/qmp.ts";
import { transient } from "../protocol/qmp-usb.ts";
import { rootPorts } from "../protocol/qom-usb.ts";
import { createDeviceModel, type Life } from "./device-model.ts";
import type { Gate } from "./gate.ts";
import { type DriverCache, type Identity, readDigest, readIdentity, readListing } from "./qemu-monitor.ts";
import type { QmpSession } from "./qmp-client.ts";

export type QemuDomainDeps = {
  readonly timings: Timings;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  /** Name the device node beside bus and address: only where QEMU's /dev is ours. */
  readonly hostdevice: boolean;
  readonly drivers: DriverCache;
  /** How many domains are listed at one time. */
  readonly listings: Gate;
};

export type QemuDomainOptions = {
  readonly key: DomainKey;
  /** `dial-in` or the socket's path. */
  readonly monitor: string;
  /** Name of a QEMU without `-name`. */
  readonly fallbackName: string | null;
  readonly session: QmpSession;
  /** Where it was asked already. */
  readonly identity: Identity | null;
  readonly publish: (domain: LiveDomain) => void;
};

export type QemuDomain = Pick<Domains, "attach" | "detach"> & {
  /** Lists the domain, after what is under way: resolves once that has been seen and published, or could not be. Never rejects. */
  refresh(): Promise<void>;
  /** Lists it only if a cheap question tells that something may be otherwise than at the last audit. @param awake - until then no timer is set */
  audit(awake: Promise<unknown>): Promise<void>;
  /** Shows it as silent with what was last seen; for a session that was given up on. */
  silence(): void;
};

/** Events that tell nothing of a domain's state, devices or controllers. Whatever is not known is looked at. */
const NOISE =
  /^(RTC_CHANGE|BALLOON_CHANGE|HV_BALLOON_STATUS_REPORT|MEMORY_.*|VNC_.*|SPICE_.*|BLOCK_.*|JOB_.*|QUORUM_.*|VSERPORT_CHANGE|NIC_RX_FILTER_CHANGED|NETDEV_.*|DEVICE_TRAY_MOVED|WATCHDOG|MIGRATION_PASS|DUMP_COMPLETED|ACPI_DEVICE_OST|FAILOVER_NEGOTIATED|UNPLUG_PRIMARY|DISPLAY_RELOAD|RDMA_.*|COLO_.*|VFU_.*)$/;
/** How many removals of ours may wait for their late event. */
const MAX_REMOVED = 1024;

export function createQemuDomain(
  { key, monitor, fallbackName, session, publish, ...options }: QemuDomainOptions,
  deps: QemuDomainDeps,
): QemuDomain {
  const { timings, clock, random, log } = deps;
  let identity = options.identity;
  let last: LiveDomain | null = null;
  let ended = false;
  let inDoubt = false;
  let changes = 0;
  let epoch = 0;
  let failures = 0;
  let retry: unknown = null;
  let whenQuiet: (() => void)[] = [];
  let running: Promise<void> | null = null;
  let queued: Promise<void> | null = null;
  const removed = new Set<string>();
  /** What the domain looked like at an audit, if what is shown has not changed since. */
  let digest: string | null = null;

  const show = (part: Partial<LiveDomain>): void => {
    if (ended) return;
    const before = last ?? { ...UNSEEN, key, monitor, name: fallbackName, version: session.version };
    const next: LiveDomain = { ...before, ...part };
    if (last !== null && same(last, next)) return;
    last = next;
    digest = null;
    publish(next);
  };

  const quiet = (): Promise<void> => (changes === 0 ? Promise.resolve() : new Promise((resolve) => whenQuiet.push(resolve)));

  /** One listing that no change of ours overlapped, or none at all. */
  const list = async (): Promise<void> => {
    while (!ended) {
      await quiet();
      const before = epoch;
      let first: string | null = null;
      const seen = await deps.listings(async () => {
        const known = identity === null ? await readIdentity(session, deps.drivers) : null;
        if (known !== null && !known.ok) return known;
        identity = known?.value ?? identity;
        // A life begins with its digest, or the first audit would list every domain of the host once more.
        const digested = last === null ? await readDigest(session, {}) : null;
        if (digested?.ok === true) first = digested.value;
        return await readListing(session);
      });
      if (ended) return;
      if (!seen.ok) {
        if (seen.error.kind !== "closed") fail();
        return;
      }
      if (epoch !== before) continue;
      failures = 0;
      inDoubt = false;
      show({ ...identity, name: identity?.name ?? fallbackName, ...seen.value, monitorState: "answering" });
      if (first !== null) digest = first;
      return;
    }
  };
  const fail = (): void => {
    show({ monitorState: "silent" });
    failures += 1;
    const ceiling = Math.min(timings.reconnectBaseMs * 2 ** Math.min(failures, 20), timings.reconnectMaxMs);
    clock.clearTimeout(retry);
    retry = clock.setTimeout(() => void refresh(), random() * ceiling);
  };
  /** One at a time, and one more for all who ask meanwhile: theirs begins after they asked. */
  const refresh = (): Promise<void> => {
    if (running === null) {
      running = list().finally(() => {
        running = null;
      });
      return running;
    }
    queued ??= running.then(() => {
      queued = null;
      return refresh();
    });
    return queued;
  };

  const audit = async (awake: Promise<unknown>): Promise<void> => {
    if (ended || inDoubt || last?.monitorState !== "answering") return await refresh();
    const stop = new AbortController();
    let timer: unknown = null;
    let answered = false;
    void awake.then(() => {
      if (!answered) timer = clock.setTimeout(() => stop.abort(), timings.commandMs);
    });
    const seen = await readDigest(session, { timeoutMs: null, signal: stop.signal });
    answered = true;
    clock.clearTimeout(timer);
    if (seen.ok && seen.value !== null && seen.value === digest) return;
    await refresh();
    // A change between the two shows at the next audit.
    if (seen.ok) digest = seen.value;
  };

  const listed = (path: string): boolean => last?.objects.some((object) => object.path === path) ?? false;
  const onEvent = ({ name, data }: QmpEvent): void => {
    if (NOISE.test(name)) return;
    const path = data["path"];
    // The late echo of a removal of ours; where the path is listed again it may be news all the same.
    if (name === "DEVICE_DELETED" && typeof path === "string" && removed.delete(path) && !listed(path)) return;
    void refresh();
  };
  const subscription = session.events$.subscribe(onEvent);
  void session.closed.then(() => {
    ended = true;
    subscription.unsubscribe();
    clock.clearTimeout(retry);
    for (const wake of whenQuiet) wake();
    whenQuiet = [];
  });

  const life: Life = {
    session,
    seen: () => last ?? UNSEEN,
    blocked: () =>
      ended
        ? transient("MonitorLost", "The monitor of this domain is gone.")
        : last?.monitorState === "answering"
          ? null
          : transient("MonitorSilent", "The monitor of this domain does not answer; nothing is sent until it does."),
    doubt: () => {
      inDoubt = true;
      void refresh();
    },
    settled: () => (inDoubt ? refresh() : null),
    change: async (run) => {
      changes += 1;
      epoch += 1;
      try {
        return await run();
      } finally {
        changes -= 1;
        if (changes === 0) {
          for (const wake of whenQuiet) wake();
          whenQuiet = [];
        }
      }
    },
    look: () => void refresh(),
    addObject: (object) => {
      if (last === null) return;
      const objects = [...last.objects.filter(({ path }) => path !== object.path), object].sort((a, b) => (a.path < b.path ? -1 : 1));
      show({ objects, controllers: occupy(last.controllers, object, true) });
    },
    removeObject: (path) => {
      if (removed.size < MAX_REMOVED) removed.add(path);
      const object = last?.objects.find((one) => one.path === path);
      if (last === null || object === undefined) return;
      show({ objects: last.objects.filter((one) => one !== object), controllers: occupy(last.controllers, object, false) });
    },
    addController: (controller, slot) => {
      if (last === null) return;
      const controllers = [...last.controllers.filter(({ path }) => path !== controller.path), controller].sort((a, b) =>
        a.bus < b.bus ? -1 : 1,
      );
      // pci.0 has room for more; what else may have is found by the listing that follows.
      show({ controllers, freeSlots: last.freeSlots.filter((free) => free !== slot || free === "pci.0") });
    },
  };
  log.debug("monitor answers", { key, monitor, version: session.version });
  return {
    ...createDeviceModel(life, { hostdevice: deps.hostdevice, clock, timings }),
    refresh,
    audit,
    silence: () => {
      ended = false;
      show({ monitorState: "silent" });
      ended = true;
    },
  };
}

/** What is known of a domain that has not answered. */
export const UNSEEN: Omit<LiveDomain, "key" | "monitor"> = {
  name: null,
  uuid: null,
  type: "qemu",
  state: "unknown",
  version: null,
  monitorState: "silent",
  controllers: [],
  objects: [],
  freeSlots: [],
  drivers: null,
  machine: null,
};

/** An object behind a hub (`2.1`) neither takes nor frees a root port: its hub has it. */
const occupy = (controllers: readonly LiveController[], { bus, port }: LiveObject, taken: boolean): readonly LiveController[] =>
  port.includes(".")
    ? controllers
    : controllers.map((one) => {
        if (one.bus !== bus) return one;
        const others = one.occupied.filter((occupied) => String(occupied) !== port);
        return { ...one, occupied: taken ? rootPorts([...others.map(String), port]) : others };
      });
