/**
 * Contract Domains for Xen: which domains live, as xenstore and, for what it does not tell, `xl list -v` say. A store that comes back without
 * a domain is doubt and no evidence: the domain is left alone until it is there again, or its device model's process is gone.
 */
import { access } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { Observable, Subscription } from "rxjs";
import { DOMAIN_GONE } from "../model/action.ts";
import type { Clock, DomainChange, Domains, Log, Random } from "../model/contracts.ts";
import type { DomainKey } from "../model/domain.ts";
import { err } from "../model/result.ts";
import type { Timings } from "../model/timings.ts";
import { INTRODUCE_EVENT, RELEASE_EVENT } from "../protocol/xenstore.ts";
import { number, paths } from "../protocol/xenstore-usb.ts";
import { createGate } from "./gate.ts";
import type { LibxlLocks } from "./libxl-lock.ts";
import { createLooker } from "./looker.ts";
import { cmdlineOf, findQemu } from "./qemu-processes.ts";
import { watchFiles } from "./watched-files.ts";
import { createXenDomain, type DeviceModelSight, type Halt, type XenDomain, type XenDomainDeps, type XenIdentity } from "./xen-domain.ts";
import { monitorPaths } from "./xen-monitor.ts";
import { readXenDomain, type XenFacts } from "./xen-read.ts";
import type { XenstoreClient } from "./xenstore-client.ts";
import type { Xl } from "./xl.ts";

export type XenDomainsOptions = {
  readonly timings: Timings;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly store: XenstoreClient;
  /** Where xenstored's socket is, or will be. */
  readonly storePath: string;
  /** libxl's files about its domains: `userdata-*`. */
  readonly xenLib: string;
  readonly proc: string;
  /** Where monitors lie that are for plugherd alone. */
  readonly qmpDir: string;
  readonly devDir: string;
  readonly xl: Xl;
  readonly locks: LibxlLocks;
  readonly usbback: XenDomainDeps["usbback"];
};
export type XenDomains = Domains & {
  /** Whether a monitor in our directory is that of a domain of libxl's, served here. */
  owns(socket: string): Promise<boolean>;
};

/** One domid. */
type Tracked = {
  readonly domid: number;
  readonly watches: Subscription;
  life: { readonly identity: XenIdentity; readonly domain: XenDomain } | null;
  /** The life of the store in which it was last seen there; in another than the present one it is in doubt. */
  seenIn: number;
  halt: Halt | null;
};

const LISTINGS = 32;
const AUDITS = 2;
const LOST = "xenstored does not answer; nothing is done in this domain until it does";
const MISSING = "xenstored came back without this domain, whose device model still runs; nothing is done in it until it is there again";
/** Names that libxl gives to the two ends of a migration (xl_migrate.c). */
const MIGRATING = /--(incoming|migratedaway)$/;
const JSON_FILE = /^userdata-d\.(\d{1,5})\.[0-9a-f-]{36}\.libxl-json$/;
/** Paths that are watched for all domains at once, and where in them the domid stands. */
const SHARED = ["/libxl", "/local/domain/0/device-model", "/local/domain/0/backend/qusb", "/local/domain/0/backend/vusb"] as const;
const DOMID_IN =
  /^(?:\/libxl|\/local\/domain\/0\/device-model|\/local\/domain\/0\/backend\/(?:qusb|vusb)|\/local\/domain)\/(\d{1,5})(?:\/|$)/;
/** Xen's reason code of a domain that only pauses to be saved or migrated (xen/include/public/sched.h). */
const SUSPEND = 2;
const CRASH = 3;

export function createXenDomains(options: XenDomainsOptions): XenDomains {
  const { store, storePath, xenLib, proc, xl, log, clock, timings, usbback } = options;
  const qmpDir = resolve(options.qmpDir);
  const lives = new Map<DomainKey, XenDomain>();
  const tracked = new Map<number, Tracked>();
  const audits = createGate(AUDITS);
  /** A look asks some forty questions at once; a store takes so many of those together. */
  const looks = createGate(LISTINGS);
  const probing = new Map<number, Promise<void>>();
  const again = new Set<number>();
  let forgotten: ReadonlySet<string> = new Set();
  let storeLife = 0;
  let up = false;
  let stopped = false;
  let emit: (change: DomainChange) => void = () => undefined;
  let auditFiles: () => Promise<void> = () => Promise.resolve();
  let tellKnown: () => void = () => undefined;
  /** Whether there is a xenstored at all is known. */
  const known = new Promise<void>((done) => {
    tellKnown = done;
  });

  const isMade = ({ domid, uuid }: XenFacts): Promise<boolean> =>
    uuid === null ? Promise.resolve(false) : exists(join(xenLib, `userdata-d.${String(domid)}.${uuid}.libxl-json`));
  const deps: XenDomainDeps = {
    ...options,
    hostdevice: options.devDir === "/dev",
    drivers: new Map(),
    listings: createGate(LISTINGS),
    lockPath: ({ domid, uuid }) => join(xenLib, `userdata-l.${String(domid)}.${uuid ?? ""}.qmp-socket-lock`),
    isMade,
  };
  const isOwn = (path: string): boolean => dirname(resolve(path)) === qmpDir;

  const deviceModelOf = async ({ domid, deviceModelPid }: XenFacts): Promise<DeviceModelSight | null> => {
    const cmdline = deviceModelPid === null ? null : await cmdlineOf(proc, deviceModelPid);
    // The pid may have been given to another process since.
    if (cmdline === null || cmdline.xenDomid !== domid) return null;
    const sockets = cmdline.sockets.filter(({ server }) => server).map(({ path }) => path);
    return { paths: monitorPaths(sockets, isOwn), restricted: cmdline.restricted };
  };

  /** Of another toolstack, with a monitor for us: it is served like a plain QEMU domain. Such a one does not say which process its QEMU is. */
  const isServedElsewhere = async ({ type, domid }: XenFacts): Promise<boolean> =>
    type === null &&
    (await findQemu(proc, ({ xenDomid, sockets }) => xenDomid === domid && sockets.some(({ path }) => isOwn(path)))) !== null;

  const end = (one: Tracked): void => {
    if (one.life === null) return;
    const { identity, domain } = one.life;
    one.life = null;
    domain.end();
    lives.delete(identity.key);
    emit({ kind: "gone", key: identity.key });
  };
  const forget = (one: Tracked): void => {
    end(one);
    one.watches.unsubscribe();
    tracked.delete(one.domid);
  };

  const track = (domid: number): Tracked => {
    const home = paths.domain(domid);
    const one: Tracked = {
      domid,
      life: null,
      seenIn: storeLife,
      halt: null,
      watches: store.watch(`${home}/name`).subscribe((news) => {
        if (news.kind === "fired") touched(domid);
      }),
    };
    let looked = Number.NEGATIVE_INFINITY;
    const guest = createLooker(clock, () => {
      looked = clock.now();
      touched(domid);
      return Promise.resolve();
    });
    one.watches.add(() => guest.stop());
    for (const [path, look] of [
      [`${home}/image`, () => touched(domid)],
      // The one that a guest writes.
      [`${home}/device/vusb`, () => (clock.now() < looked + timings.guestEventMs ? guest.at(looked + timings.guestEventMs) : guest.now())],
    ] as const)
      one.watches.add(
        store.watch(path).subscribe((news) => {
          if (news.kind === "fired") look();
        }),
      );
    tracked.set(domid, one);
    return one;
  };

  /** It is not in the store: gone, or the store is not to be believed. */
  const missing = async (one: Tracked): Promise<void> => {
    if (one.seenIn === storeLife || one.life === null) return forget(one);
    const { deviceModelPid } = one.life.identity;
    const isGone = deviceModelPid === null ? await isUnlisted(one.domid) : (await cmdlineOf(proc, deviceModelPid)) === null;
    if (stopped || tracked.get(one.domid) !== one) return;
    if (isGone) forget(one);
    else one.life?.domain.setDoubt(MISSING);
  };
  /** `xl list` does not have it; false: it cannot be told. */
  const isUnlisted = async (domid: number): Promise<boolean> => {
    const rows = await xl.list();
    return rows.ok && !rows.value.some((row) => row.domid === domid);
  };

  /** Looks at one domid: a new life, the same, or none. */
  const look = async (domid: number): Promise<void> => {
    const facts = await readXenDomain(store, domid);
    if (stopped || !up) return;
    if (!facts.ok) return log.debug("a domain cannot be read", { domid, message: facts.error.message });
    const one = tracked.get(domid);
    if (facts.value === null) return one === undefined ? undefined : await missing(one);
    const found = one ?? track(domid);
    found.seenIn = storeLife;
    const { vm, uuid, deviceModelPid, name, isStubdom } = facts.value;
    const key = `${uuid ?? "-"}/${String(domid)}/${String(deviceModelPid ?? "-")}`;
    if (found.life !== null && (found.life.identity.key !== key || found.life.identity.vm !== vm)) end(found);
    if (isStubdom || isPassing(name) || (await isServedElsewhere(facts.value))) return end(found);
    if (stopped || tracked.get(domid) !== found) return;
    if (found.life !== null) {
      found.life.domain.setDoubt(null);
      return await found.life.domain.refresh();
    }
    const identity: XenIdentity = { key, domid, vm, uuid, deviceModelPid };
    const domain = createXenDomain(
      {
        identity,
        deviceModelOf,
        publish: (seen) => {
          if (found.life?.domain === domain) emit({ kind: "domain", domain: seen });
        },
        isOver: async (seen) => isPassing(seen.name) || (await isServedElsewhere(seen)),
        onOver: () => probe(domid),
      },
      deps,
    );
    found.life = { identity, domain };
    lives.set(key, domain);
    domain.setHalt(found.halt);
    await domain.refresh();
  };
  /** An event: a life looks at itself. */
  const touched = (domid: number): void => {
    const one = tracked.get(domid);
    if (one?.life == null || one.seenIn !== storeLife) probe(domid);
    else void one.life.domain.refresh();
  };
  /** One look at a time, and one more for all that came meanwhile. */
  const probe = (domid: number): void => {
    if (stopped || domid === 0) return;
    if (probing.has(domid)) {
      again.add(domid);
      return;
    }
    probing.set(
      domid,
      looks(() => look(domid)).finally(() => {
        probing.delete(domid);
        if (again.delete(domid)) probe(domid);
      }),
    );
  };

  /** @param whole - look at all of them; else at those that have come or gone */
  const scan = async (whole: boolean): Promise<void> => {
    const listed = await store.directory("/local/domain");
    if (!listed.ok && listed.error.kind !== "missing") return;
    const domids = new Set(listed.ok ? listed.value.flatMap((name) => number(name, 0x7fef) ?? []) : []);
    for (const domid of domids) if (whole || !tracked.has(domid)) probe(domid);
    for (const domid of tracked.keys()) if (!domids.has(domid)) probe(domid);
    if (whole) await Promise.all([...probing.values()]);
  };
  /** What only the hypervisor knows: that a domain is shut down, or crashed, and kept. */
  const readHalts = async (): Promise<void> => {
    if (tracked.size === 0) return;
    const rows = await xl.list();
    if (stopped || !rows.ok) return;
    for (const { domid, state, reason } of rows.value) {
      const one = tracked.get(domid);
      if (one === undefined) continue;
      const halted = (state.shutdown || state.crashed) && reason !== SUSPEND;
      one.halt = !halted ? null : state.crashed || reason === CRASH ? "crashed" : "shutdown";
      one.life?.domain.setHalt(one.halt);
    }
  };

  /** Devices that usbback was given and no port names at two audits in a row: what a crash left in the middle of a detach. */
  const releaseForgotten = async (): Promise<void> => {
    const remembered = await usbback.remembered();
    if (!remembered.ok || stopped) return;
    const named = new Set([...lives.values()].flatMap((domain) => [...domain.recorded()]));
    const now = new Set(remembered.value.filter((busid) => !named.has(busid)));
    for (const busid of now) if (forgotten.has(busid)) await usbback.release(busid);
    forgotten = now;
  };

  const changes$ = new Observable<DomainChange>((out) => {
    emit = (change) => out.next(change);
    const subscriptions: Subscription[] = [];
    let readyTold = false;
    const tellReady = (): void => {
      if (readyTold) return;
      readyTold = true;
      tellKnown();
      emit({ kind: "ready" });
    };
    const touchedBy = (path: string): void => {
      const domid = JSON_FILE.exec(path.slice(path.lastIndexOf("/") + 1))?.[1];
      if (domid !== undefined && up) touched(Number(domid));
    };
    /** Once there is a xenstored: a host without Xen is not woken by what happens around directories that it does not have. */
    const watchDirectories = (): void => {
      const json = watchFiles(xenLib, {
        isWanted: (name) => JSON_FILE.test(name),
        onThere: touchedBy,
        onGone: touchedBy,
        onReady: () => undefined,
        onTrouble: (cause) =>
          log.warn("watching libxl's files failed; they are looked at now and then", { directory: xenLib, cause: String(cause) }),
      });
      const socket = watchFiles(dirname(storePath), {
        isWanted: (name) => join(dirname(storePath), name) === resolve(storePath),
        onThere: () => store.kick(),
        onGone: () => undefined,
        onReady: () => undefined,
        onTrouble: (cause) =>
          log.warn("watching for xenstored failed; it is looked for now and then", { path: storePath, cause: String(cause) }),
      });
      auditFiles = async () => {
        await Promise.all([json.audit(), socket.audit()]);
      };
      subscriptions.push(
        new Subscription(() => {
          json.close();
          socket.close();
        }),
      );
    };
    for (const path of SHARED)
      subscriptions.push(
        store.watch(path).subscribe((news) => {
          const domid = news.kind === "fired" ? DOMID_IN.exec(news.path)?.[1] : undefined;
          if (domid !== undefined && up) touched(Number(domid));
        }),
      );
    subscriptions.push(
      store.watch(INTRODUCE_EVENT).subscribe((news) => {
        if (news.kind === "fired" && up) void scan(false);
      }),
      store.watch(RELEASE_EVENT).subscribe((news) => {
        if (news.kind !== "fired" || !up) return;
        void scan(false);
        void readHalts();
      }),
      store.changes$.subscribe((change) => {
        if (change.kind === "up") {
          up = true;
          if (storeLife === 0) watchDirectories();
          storeLife = change.life;
          tellKnown();
          void (async () => {
            await scan(true);
            await readHalts();
            tellReady();
          })();
          return;
        }
        up = false;
        for (const { life } of tracked.values()) life?.domain.setDoubt(LOST);
        if (change.tried) tellReady();
      }),
    );
    store.start();
    return () => {
      stopped = true;
      for (const subscription of subscriptions) subscription.unsubscribe();
      for (const { life, watches } of tracked.values()) {
        watches.unsubscribe();
        life?.domain.end();
      }
      tracked.clear();
      lives.clear();
      store.close();
    };
  });

  return {
    changes$,
    attach: (place, actions) => lives.get(place.domain)?.attach(place, actions) ?? Promise.resolve(err(DOMAIN_GONE)),
    detach: (at, actions) => lives.get(at.domain)?.detach(at, actions) ?? Promise.resolve(err(DOMAIN_GONE)),
    async audit() {
      await auditFiles();
      store.audit();
      if (!up) return;
      // One that could not be read when it came is found here.
      await scan(false);
      await Promise.all([...tracked.keys()].map((domid) => audits(() => look(domid))));
      await releaseForgotten();
    },
    async owns(path) {
      await known;
      if (!up) return false;
      const found = await findQemu(proc, ({ sockets }) => sockets.some((one) => resolve(one.path) === resolve(path)));
      const domid = found?.xenDomid ?? null;
      if (domid === null || !(await store.read(`${paths.libxl(domid)}/type`)).ok) return false;
      touched(domid);
      return true;
    },
  };
}

/** No domain to be served: it has no name yet, or is one end of a migration. */
const isPassing = (name: string | null): boolean => name === null || MIGRATING.test(name);

const exists = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  );
