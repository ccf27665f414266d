/**
 * One life of a Xen domain: a domid, its `vm` path and its device model's process. Looked at in xenstore and, where it has a QEMU that may be
 * asked, over QMP; the two are put together in xen-view.ts.
 */
import { transient, DOMAIN_GONE } from "../model/action.ts";
import type { Subscription } from "rxjs";
import type { Clock, Domains, Log, Random } from "../model/contracts.ts";
import type { DomainKey, LiveDomain, XenSide } from "../model/domain.ts";
import { err, ok, type Result } from "../model/result.ts";
import type { Timings } from "../model/timings.ts";
import { peripheralPath } from "../protocol/qom-usb.ts";
import { TRADITIONAL_BUS } from "../protocol/xenstore-objects.ts";
import { qusbId } from "../protocol/xenstore-usb.ts";
import { createDomainLife, type DomainLife, type Reading, UNSEEN } from "./domain-life.ts";
import type { Gate } from "./gate.ts";
import type { LibxlLocks } from "./libxl-lock.ts";
import { type DriverCache, type Identity, readIdentity, readListing } from "./qemu-monitor.ts";
import type { QmpError } from "./qmp-client.ts";
import { all, qomGet } from "./qom-read.ts";
import { createDmCommandChannel } from "./dm-command-channel.ts";
import { createSteadiness, type Steadiness } from "./xen-steadiness.ts";
import type { Held, XenActionDeps, XenActions } from "./xen-actions.ts";
import { createXenHvm } from "./xen-hvm.ts";
import { createXenMonitor, type MonitorPath, type XenMonitor } from "./xen-monitor.ts";
import type { Usbback } from "./usbback.ts";
import { createXenPv } from "./xen-pv.ts";
import { readXenDomain, type XenFacts } from "./xen-read.ts";
import { createXenRecords, type XenPort, type XenRecords } from "./xen-records.ts";
import { createXenTraditional } from "./xen-traditional.ts";
import { portKey, type QemuSight, type QusbObject, type View, viewOf } from "./xen-view.ts";
import type { XenstoreClient } from "./xenstore-client.ts";

export type XenDomainDeps = {
  readonly timings: Timings;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly store: XenstoreClient;
  readonly hostdevice: boolean;
  readonly drivers: DriverCache;
  readonly listings: Gate;
  readonly locks: LibxlLocks;
  /** libxl's lock of a domain's monitor, and the file that says that libxl has finished making the domain. */
  readonly lockPath: (facts: XenFacts) => string;
  readonly isMade: (facts: XenFacts) => Promise<boolean>;
  readonly usbback: Usbback;
};
/** What of a domain cannot change within one life. */
export type XenIdentity = {
  readonly key: DomainKey;
  readonly domid: number;
  readonly vm: string;
  readonly uuid: string | null;
  readonly deviceModelPid: number | null;
};
export type DeviceModelSight = { readonly paths: readonly MonitorPath[]; readonly restricted: boolean };
export type XenDomainOptions = {
  readonly identity: XenIdentity;
  /** Of its device model's command line; null: it has none in this domain, or none that can be seen (yet: a process begins as its parent). */
  readonly deviceModelOf: (seen: XenFacts) => Promise<DeviceModelSight | null>;
  readonly publish: (domain: LiveDomain) => void;
  /** Whether what is seen is no domain to be served any more. */
  readonly isOver: (seen: XenFacts) => Promise<boolean>;
  /** It is another life now, or none. */
  readonly onOver: () => void;
};

/** What `xl list` says of it; null: it lives. */
export type Halt = "shutdown" | "crashed";
export type XenDomain = Pick<Domains, "attach" | "detach"> & {
  /** Looks at it again; resolves once that has been seen and published, or could not be. */
  refresh(): Promise<void>;
  /** Busids that its ports name. */
  recorded(): Iterable<string>;
  setHalt(halt: Halt | null): void;
  /** Why what is known of it cannot be trusted now; null: it can. */
  setDoubt(message: string | null): void;
  end(): void;
};

const QUSB_PROPERTIES = ["attached", "hostbus", "hostport"] as const;

const NOTHING_MADE: Pick<XenSide, "nextDevid" | "emulated" | "backends" | "pending" | "phantoms" | "notSaveable"> = {
  nextDevid: 0,
  emulated: false,
  backends: [],
  pending: [],
  phantoms: [],
  notSaveable: null,
};

export function createXenDomain({ identity, deviceModelOf, publish, isOver, onOver }: XenDomainOptions, deps: XenDomainDeps): XenDomain {
  const { timings, clock, log, store } = deps;
  const { key, domid, vm } = identity;
  let facts: XenFacts | null = null;
  let about: Identity | null = null;
  let halt: Halt | null = null;
  let doubt: string | null = null;
  let ended = false;
  const busy = new Map<string, number>();
  /** What we have written since the last look. */
  const own = new Map<string, Held>();
  const steadiness: Steadiness = createSteadiness(clock, timings, () => void life.refresh());
  let deviceModel: DeviceModelSight | null = null;
  let monitor: XenMonitor | null = null;
  let hvm: XenActions | null = null;
  let made = false;
  const subscriptions: Subscription[] = [];
  const unseen: LiveDomain = {
    ...UNSEEN,
    key,
    monitor: "xenstore",
    uuid: identity.uuid,
    xen: { domid, obstacle: null, ...NOTHING_MADE },
  };

  /** Its monitors, once its command line can be read. */
  const meet = async (seen: XenFacts): Promise<void> => {
    if (deviceModel !== null || seen.deviceModelPid === null) return;
    const found = await deviceModelOf(seen);
    if (found === null || ended || deviceModel !== null) return;
    deviceModel = found;
    if (found.paths.length === 0) return;
    const opened = createXenMonitor(found.paths, (run) => deps.locks.withLock(deps.lockPath(seen), run), deps);
    monitor = opened;
    hvm = createXenHvm(shared, opened, { hostdevice: deps.hostdevice, clock, timings });
    subscriptions.push(
      opened.events$.subscribe((event) => life.heard(event)),
      opened.changed$.subscribe(() => void life.refresh()),
    );
  };
  const askQemu = async (seen: XenFacts, monitor: XenMonitor): Promise<Result<QemuSight, QmpError>> => {
    const told = about === null ? await readIdentity(monitor, deps.drivers) : ok(about);
    if (!told.ok) return told;
    about = told.value;
    const ids = seen.records.flatMap(({ type, devid, holds }) =>
      type === "qusb" ? [...holds.keys()].map((port) => qusbId(devid, port)) : [],
    );
    const [listing, qusb] = await Promise.all([
      readListing(monitor),
      all(ids.flatMap((id) => QUSB_PROPERTIES.map((name) => qomGet(monitor, peripheralPath(id), name)))),
    ]);
    if (!listing.ok) return listing;
    if (!qusb.ok) return qusb;
    const found = ids.flatMap((id, i): readonly (readonly [string, QusbObject])[] => {
      const [attached, hostbus, hostport] = qusb.value.slice(i * QUSB_PROPERTIES.length);
      if (typeof attached !== "boolean") return [];
      const isTold = typeof hostbus === "number" && hostbus > 0 && typeof hostport === "string" && hostport !== "";
      return [[id, { attached, busid: isTold ? `${String(hostbus)}-${hostport}` : null }]];
    });
    return ok({ listing: listing.value, qusb: new Map(found) });
  };

  /** Nothing is written, nor sent to QEMU, while one of these holds. */
  const obstacleOf = async (seen: XenFacts): Promise<XenSide["obstacle"]> => {
    const stalled = (reason: string, message: string): XenSide["obstacle"] => ({ phase: "Stalled", reason, message });
    if (seen.type === null)
      return stalled("ForeignToolstack", "another toolstack than libxl made this domain; give its QEMU a monitor in plugherd's directory");
    if (seen.stubdom !== null)
      return stalled(
        "StubDomain",
        "its device model runs in a stub domain, which sees no host devices; start it without `device_model_stubdomain_override`",
      );
    made ||= await deps.isMade(seen);
    if (!made)
      return {
        phase: "WaitingForDomain",
        reason: "DomainStarting",
        message: "libxl is still making this domain; it goes on when that is done",
      };
    if (seen.type === "hvm" && deviceModel?.restricted === true)
      return stalled(
        "DeviceModelRestricted",
        "its device model is restricted and can open no host devices; start it without `dm_restrict`",
      );
    return null;
  };

  const over = (): Reading => {
    onOver();
    return err({ kind: "lost" });
  };
  const read = (): Promise<Reading> =>
    deps.listings(async () => {
      const seen = await readXenDomain(store, domid);
      if (!seen.ok) return err({ kind: seen.error.kind === "away" || seen.error.kind === "unknown" ? "lost" : "failed" });
      if (seen.value === null || seen.value.vm !== vm || seen.value.deviceModelPid !== identity.deviceModelPid) return over();
      if (await isOver(seen.value)) return over();
      await meet(seen.value);
      facts = seen.value;
      const obstacle = await obstacleOf(facts);
      const asked = obstacle === null && facts.deviceModel && !facts.traditional ? monitor : null;
      const qemu = asked === null ? null : await askQemu(facts, asked);
      // A paravirtual domain shows enough in xenstore; of an emulated controller only QEMU can tell.
      const silent = facts.type === "hvm" && !facts.traditional && obstacle === null && (qemu === null || !qemu.ok);
      if (silent && qemu !== null && !qemu.ok) log.debug("monitor not usable", { key, problem: JSON.stringify(qemu.error) });
      if (silent && asked !== null) return err({ kind: "failed" });
      const shown = await look(facts, qemu?.ok === true ? qemu.value : null);
      const backends = await backendsOf(facts);
      return ok({
        part: {
          name: facts.name,
          type: facts.type ?? "pv",
          state: halt ?? (qemu?.ok === true ? qemu.value.listing.state : "running"),
          monitor: monitor?.path ?? "xenstore",
          monitorState: silent || doubt !== null ? "silent" : "answering",
          version: qemu?.ok === true ? (monitor?.version ?? null) : null,
          machine: about?.machine ?? null,
          drivers: about?.drivers ?? null,
          ...(shown === null ? {} : { controllers: shown.controllers, objects: shown.objects }),
          freeSlots: [],
          xen: sideOf(obstacle, shown, backends, facts.type === "hvm" && qemu?.ok === true),
        },
        done: () => {
          own.clear();
          for (const { port, mark } of shown?.strays ?? [])
            if (life.blocked() === null) void life.change(() => written.dropMark(port, mark));
        },
      });
    });
  const steadyMs = { port: timings.recordSettleMs, controller: timings.phantomMs, device: timings.qusbMs };
  const look = async (seen: XenFacts, qemu: QemuSight | null): Promise<View | null> => {
    if (seen.type === "hvm" && qemu === null && !seen.traditional) return null;
    const view = (lockFree: boolean): View => {
      steadiness.begin();
      return viewOf({
        facts: seen,
        qemu,
        previous: life.last() ?? { objects: [] },
        isBusy: (one) => (busy.get(one) ?? 0) > 0,
        isSteady: (one, state, kind) => steadiness.isSteady(one, state, steadyMs[kind]) && (lockFree || kind !== "port"),
      });
    };
    const first = view(true);
    const held = first.disagreeing.length + first.strays.length > 0 && (await deps.locks.isHeld(deps.lockPath(seen)));
    const result = held ? view(false) : first;
    steadiness.finish(held);
    return result;
  };
  const backendsOf = async ({ type, qusb }: XenFacts): Promise<XenSide["backends"]> => [
    ...(type !== null && (await deps.usbback.available()) ? (["usbback"] as const) : []),
    ...(qusb ? (["qusb"] as const) : []),
  ];
  const sideOf = (obstacle: XenSide["obstacle"], view: View | null, backends: XenSide["backends"], emulated: boolean): XenSide => ({
    domid,
    obstacle: doubt === null ? obstacle : { phase: "WaitingForDomain", reason: "StoreInDoubt", message: doubt },
    nextDevid: view?.nextDevid ?? 0,
    emulated,
    backends,
    pending: view?.pending ?? [],
    phantoms: view?.phantoms ?? [],
    notSaveable: view?.notSaveable ?? null,
  });

  const life: DomainLife = createDomainLife(
    {
      unseen,
      read,
      publish,
      blocked: (last) => {
        if (ended) return DOMAIN_GONE;
        if (doubt !== null) return transient("StoreInDoubt", doubt);
        if (last?.xen?.obstacle != null) return transient(last.xen.obstacle.reason, last.xen.obstacle.message);
        if (last?.type === "hvm" && facts?.traditional !== true && last.monitorState !== "answering")
          return transient("MonitorSilent", "The monitor of this domain does not answer; nothing is sent until it does.");
        // It goes first when a domain is destroyed: from then on every write would be too late.
        const isEnding = facts !== null && facts.deviceModelPid !== null && !facts.deviceModel;
        return isEnding ? transient("DomainEnding", "The domain is being destroyed.") : null;
      },
    },
    deps,
  );

  const written = createXenRecords(store, { domid, vm });
  const records: XenRecords = {
    ...written,
    set: async (port, mark) => noted(port, { busid: mark.busid, mark }, await written.set(port, mark)),
    clear: async (port, busid, mark) => noted(port, { busid: "", mark: null }, await written.clear(port, busid, mark)),
  };
  const noted = <T extends { readonly ok: boolean }>({ devid, port }: XenPort, held: Held, done: T): T => {
    if (done.ok) own.set(portKey(devid, port), held);
    return done;
  };
  const shared: XenActionDeps = {
    domid,
    life,
    records,
    holds: ({ devid, port }: XenPort): Held =>
      own.get(portKey(devid, port)) ?? {
        busid: facts?.records.find((one) => one.devid === devid)?.holds.get(port) ?? "",
        mark: facts?.marks.get(portKey(devid, port)) ?? null,
      },
    forsaken: (name: string): readonly number[] =>
      [...(facts?.names ?? [])].flatMap(([devid, one]) =>
        one !== name || life.seen().controllers.some((live) => live.name === name && live.ours) ? [] : [devid],
      ),
    isRecorded: (devid: number): boolean => facts?.records.some((one) => one.devid === devid && one.type === "devicemodel") ?? false,
    onPort: async <T>({ devid, port }: XenPort, run: () => Promise<T>): Promise<T> => {
      const at = portKey(devid, port);
      busy.set(at, (busy.get(at) ?? 0) + 1);
      try {
        return await run();
      } finally {
        const left = (busy.get(at) ?? 1) - 1;
        if (left > 0) busy.set(at, left);
        else busy.delete(at);
      }
    },
  };
  const pv = createXenPv({
    ...shared,
    store,
    session: () => (facts?.deviceModel === true && !facts.traditional ? monitor : null),
    usbback: deps.usbback,
    clock,
    timings,
  });
  const traditional = createXenTraditional(shared, createDmCommandChannel({ store, domid, vm, clock, timings }));
  const actionsFor = (bus: string): XenActions =>
    bus === TRADITIONAL_BUS ? traditional : hvm === null || bus.startsWith("xen-qusb-") || bus.startsWith("usbback-") ? pv : hvm;

  return {
    refresh: () => life.refresh(),
    recorded: () => [...(facts?.records ?? [])].flatMap(({ holds }) => [...holds.values()]),
    setHalt(next) {
      if (halt === next) return;
      halt = next;
      void life.refresh();
    },
    setDoubt(message) {
      if (doubt === message) return;
      doubt = message;
      if (message === null) void life.refresh();
      else {
        const last = life.last();
        if (last !== null)
          life.show({
            monitorState: "silent",
            xen: {
              ...(last.xen ?? sideOf(null, null, [], false)),
              obstacle: { phase: "WaitingForDomain", reason: "StoreInDoubt", message },
            },
          });
      }
    },
    attach: (place, options) => actionsFor(place.bus).attach(place, options),
    detach: (at, options) => actionsFor(at.bus).detach(at, options),
    end() {
      if (ended) return;
      ended = true;
      for (const subscription of subscriptions) subscription.unsubscribe();
      steadiness.stop();
      monitor?.close();
      life.end();
    },
  };
}
