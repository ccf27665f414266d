/**
 * One life of a domain as an adapter keeps it: what was seen last, when it is looked at again, and what actions of ours do to that.
 * Events only say "look again" (no event tells of an addition, and DEVICE_DELETED may be of an older object of the same id).
 */
import type { ActionError } from "../model/action.ts";
import type { Clock, Random } from "../model/contracts.ts";
import type { LiveController, LiveDomain, LiveObject } from "../model/domain.ts";
import type { Result } from "../model/result.ts";
import { same } from "../model/same.ts";
import type { Timings } from "../model/timings.ts";
import type { QmpEvent } from "../protocol/qmp.ts";
import { rootPorts } from "../protocol/qom-usb.ts";

/** What an action may do to the life it acts on. */
export type Life = {
  readonly seen: () => Pick<LiveDomain, "controllers" | "objects">;
  /** Why nothing can be sent now; null: go on. */
  readonly blocked: () => ActionError | null;
  /** A command's outcome is not known: look before anything else is done. */
  readonly doubt: () => void;
  /** Resolves at once where there is no doubt. */
  readonly settled: () => Promise<void> | null;
  /** Runs a change. A listing that overlaps it counts for nothing and is repeated. `run` begins in this very tick. */
  readonly change: <T>(run: () => Promise<T>) => Promise<T>;
  readonly look: () => void;
  readonly addObject: (object: LiveObject) => void;
  readonly removeObject: (path: string) => void;
  readonly addController: (controller: LiveController, slot: string | null) => void;
};

export type DomainLife = Life & {
  readonly last: () => LiveDomain | null;
  /** Whether an outcome is not known. */
  readonly inDoubt: () => boolean;
  /** Lists the domain, after what is under way: resolves once that has been seen and published, or could not be. Never rejects. */
  refresh(): Promise<void>;
  show(part: Partial<LiveDomain>): void;
  /** An event of its monitor. */
  heard(event: QmpEvent): void;
  /** Nothing is shown or looked at any more. */
  end(): void;
};

/** `lost`: what it was asked over has ended, which is told elsewhere; `failed`: it is shown as silent, and tried again. */
export type Reading = Result<{ readonly part: Partial<LiveDomain>; readonly done?: () => void }, { readonly kind: "lost" | "failed" }>;

export type DomainLifeOptions = {
  /** What is known before it was seen. */
  readonly unseen: LiveDomain;
  /** Everything that may change; `first`: nothing was seen of it yet. Never rejects. */
  readonly read: (first: boolean) => Promise<Reading>;
  /** Only what is otherwise than the last time. */
  readonly publish: (domain: LiveDomain) => void;
  readonly blocked: (last: LiveDomain | null) => ActionError | null;
};
export type DomainLifeDeps = {
  readonly timings: Pick<Timings, "reconnectBaseMs" | "reconnectMaxMs">;
  readonly clock: Clock;
  readonly random: Random;
};

/** Events that tell nothing of a domain's state, devices or controllers. Whatever is not known is looked at. */
const NOISE =
  /^(RTC_CHANGE|BALLOON_CHANGE|HV_BALLOON_STATUS_REPORT|MEMORY_.*|VNC_.*|SPICE_.*|BLOCK_.*|JOB_.*|QUORUM_.*|VSERPORT_CHANGE|NIC_RX_FILTER_CHANGED|NETDEV_.*|DEVICE_TRAY_MOVED|WATCHDOG|MIGRATION_PASS|DUMP_COMPLETED|ACPI_DEVICE_OST|FAILOVER_NEGOTIATED|UNPLUG_PRIMARY|DISPLAY_RELOAD|RDMA_.*|COLO_.*|VFU_.*)$/;
/** How many removals of ours may wait for their late event. */
const MAX_REMOVED = 1024;

export function createDomainLife({ unseen, read, publish, blocked }: DomainLifeOptions, deps: DomainLifeDeps): DomainLife {
  const { timings, clock, random } = deps;
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

  const show = (part: Partial<LiveDomain>): void => {
    if (ended) return;
    const next: LiveDomain = { ...(last ?? unseen), ...part };
    if (last !== null && same(last, next)) return;
    last = next;
    publish(next);
  };

  const quiet = (): Promise<void> => (changes === 0 ? Promise.resolve() : new Promise((resolve) => whenQuiet.push(resolve)));
  const wakeQuiet = (): void => {
    for (const wake of whenQuiet) wake();
    whenQuiet = [];
  };

  /** One listing that no change of ours overlapped, or none at all. */
  const list = async (): Promise<void> => {
    while (!ended) {
      await quiet();
      const before = epoch;
      const seen = await read(last === null);
      if (ended) return;
      if (!seen.ok) {
        if (seen.error.kind === "failed") fail();
        return;
      }
      if (epoch !== before) continue;
      failures = 0;
      inDoubt = false;
      show(seen.value.part);
      seen.value.done?.();
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

  const listed = (path: string): boolean => last?.objects.some((object) => object.path === path) ?? false;
  return {
    last: () => last,
    inDoubt: () => inDoubt,
    refresh,
    show,
    heard({ name, data }) {
      if (NOISE.test(name)) return;
      const path = data["path"];
      // The late echo of a removal of ours; where the path is listed again it may be news all the same.
      if (name === "DEVICE_DELETED" && typeof path === "string" && removed.delete(path) && !listed(path)) return;
      void refresh();
    },
    end() {
      ended = true;
      clock.clearTimeout(retry);
      wakeQuiet();
    },
    seen: () => last ?? unseen,
    blocked: () => blocked(last),
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
        if (changes === 0) wakeQuiet();
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
