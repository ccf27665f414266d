/**
 * The guest's half of PV USB, scripted: what a system inside a domain does with its `device/vusb`. `connects` is what Linux's xen-hcd does;
 * the rest is what other systems do, or broken and hostile ones. It acts with its own domain's rights only.
 */
import type { Pending } from "./pending.ts";
import type { LocalStore } from "./xenstore-local.ts";

export const FRONTENDS = [
  /** 1 to 4 as xen-hcd; 6 when its backend closes. */
  "connects",
  /** 1, 3, and 4 once its backend is in 4. */
  "by-way-of-3",
  /** No driver: stays in 1. */
  "never",
  /** 5, then 6, and stays there. */
  "closes",
  /** 6 at once, as when its driver is taken out. */
  "unloads",
  /** From 6 back to 1, and connects. */
  "comes-back",
  /** Through states that do not follow on each other, and some that do not exist. */
  "jumps",
  /** Writes below its own nodes without end of reason. */
  "floods",
  /** Writes nonsense wherever it may. */
  "lies",
] as const;
export type FrontendWay = (typeof FRONTENDS)[number];

export type Frontend = {
  does(way: FrontendWay): void;
  stop(): void;
};
export type FrontendOptions = {
  /** With the domain's own rights. */
  readonly store: LocalStore;
  readonly domid: number;
  readonly way: FrontendWay;
  readonly pending: Pending;
  readonly lookMs: number;
  /** Whether the guest runs: a paused one does nothing. */
  readonly runs: () => boolean;
};

/** What one `floods` writes. */
const FLOOD = 500;

export function createFrontend({ store, domid, way: first, pending, lookMs, runs }: FrontendOptions): Frontend {
  const root = `/local/domain/${String(domid)}/device/vusb`;
  const backends = new Map<string, () => void>();
  /** Those that began again while their backend was still closed. */
  const returning = new Set<string>();
  let way = first;

  const look = pending.once(lookMs, () => {
    if (runs()) act();
  });
  const state = (devid: string): number => Number(store.read(`${root}/${devid}/state`) ?? 0);
  const theirs = (devid: string): number => Number(store.read(`${store.read(`${root}/${devid}/backend`) ?? ""}/state`) ?? 0);
  const setState = (devid: string, value: number | string): void => {
    if (store.exists(`${root}/${devid}/state`)) store.write(`${root}/${devid}/state`, String(value));
  };
  const follow = (devids: readonly string[]): void => {
    for (const [devid, unwatch] of backends) {
      if (devids.includes(devid)) continue;
      unwatch();
      backends.delete(devid);
    }
    for (const devid of devids) {
      if (backends.has(devid)) continue;
      const backend = store.read(`${root}/${devid}/backend`);
      if (backend?.startsWith("/") === true) backends.set(devid, store.watch(`${backend}/state`, look));
    }
  };
  const offerRings = (devid: string): void => {
    store.transaction((tx) => {
      for (const [name, value] of [
        ["urb-ring-ref", "8"],
        ["conn-ring-ref", "9"],
        ["event-channel", "8"],
      ]) {
        tx.write(`${root}/${devid}/${name ?? ""}`, value ?? "");
      }
      return true;
    });
  };
  const connect = (devid: string): void => {
    const [mine, other] = [state(devid), theirs(devid)];
    if (other >= 1 && other <= 4) returning.delete(devid);
    if (other === 5 || other === 6) {
      if (mine !== 6 && returning.has(devid)) return;
      if (mine !== 6 && mine !== 0) setState(devid, 6);
      return;
    }
    if (mine === 1 && other >= 2 && other <= 4) {
      offerRings(devid);
      setState(devid, way === "by-way-of-3" ? 3 : 4);
    } else if (mine === 3 && other === 4) setState(devid, 4);
  };
  const act = (): void => {
    const devids = store.list(root);
    follow(devids);
    for (const devid of devids) {
      if (way === "connects" || way === "by-way-of-3") connect(devid);
    }
  };

  const once: Readonly<Partial<Record<FrontendWay, (devid: string) => void>>> = {
    closes(devid) {
      setState(devid, 5);
      pending.after(lookMs, () => setState(devid, 6));
    },
    unloads: (devid) => setState(devid, 6),
    "comes-back"(devid) {
      returning.add(devid);
      setState(devid, 1);
    },
    jumps(devid) {
      for (const odd of [4, 2, 7, 1, 9, "", "-1", "connected", 4]) setState(devid, odd);
    },
    floods(devid) {
      for (let n = 0; n < FLOOD; n += 1) store.write(`${root}/${devid}/flood-${String(n % 50)}`, "x".repeat(n));
    },
    lies(devid) {
      for (const [name, value] of [
        ["backend", "/local/domain/0/backend/qusb/0/0"],
        ["backend-id", "99999999999999999999"],
        ["state", "04\u0000\ufffd"],
        ["port/1", "1-1"],
        ["type", "devicemodel"],
      ]) {
        store.write(`${root}/${devid}/${name ?? ""}`, value ?? "");
      }
    },
  };

  const unwatch = store.watch(root, look);
  return {
    does(next) {
      way = next === "comes-back" ? "connects" : next;
      const now = once[next];
      if (now !== undefined && runs()) for (const devid of store.list(root)) now(devid);
      look();
    },
    stop() {
      unwatch();
      for (const end of backends.values()) end();
    },
  };
}
