/** One life of a plain QEMU domain over one session: when it is looked at, and what is done to it. */
import { transient } from "../model/action.ts";
import type { Clock, Domains, Log, Random } from "../model/contracts.ts";
import type { DomainKey, LiveDomain } from "../model/domain.ts";
import { err, ok } from "../model/result.ts";
import type { Timings } from "../model/timings.ts";
import { createDeviceModel, ownIds } from "./device-model.ts";
import { createDomainLife, type DomainLife, type Reading, UNSEEN } from "./domain-life.ts";
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

export function createQemuDomain(
  { key, monitor, fallbackName, session, publish, ...options }: QemuDomainOptions,
  deps: QemuDomainDeps,
): QemuDomain {
  const { timings, clock, log } = deps;
  const unseen: LiveDomain = { ...UNSEEN, key, monitor, name: fallbackName, version: session.version };
  let identity = options.identity;
  let ended = false;
  /** What the domain looked like at an audit, if what is shown has not changed since. */
  let digest: string | null = null;

  const read = (first: boolean): Promise<Reading> =>
    deps.listings(async () => {
      const known = identity === null ? await readIdentity(session, deps.drivers) : null;
      if (known !== null && !known.ok) return err({ kind: known.error.kind === "closed" ? "lost" : "failed" });
      identity = known?.value ?? identity;
      // A life begins with its digest, or the first audit would list every domain of the host once more.
      const digested = first ? await readDigest(session, {}) : null;
      const seen = await readListing(session);
      if (!seen.ok) return err({ kind: seen.error.kind === "closed" ? "lost" : "failed" });
      return ok({
        part: { ...identity, name: identity?.name ?? fallbackName, ...seen.value, monitorState: "answering" as const },
        done: () => {
          if (digested?.ok === true && digested.value !== null) digest = digested.value;
        },
      });
    });
  const life: DomainLife = createDomainLife(
    {
      unseen,
      read,
      publish: (domain) => {
        digest = null;
        publish(domain);
      },
      blocked: (last) =>
        ended
          ? transient("MonitorLost", "The monitor of this domain is gone.")
          : last?.monitorState === "answering"
            ? null
            : transient("MonitorSilent", "The monitor of this domain does not answer; nothing is sent until it does."),
    },
    deps,
  );

  const audit = async (awake: Promise<unknown>): Promise<void> => {
    if (ended || life.inDoubt() || life.last()?.monitorState !== "answering") return await life.refresh();
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
    await life.refresh();
    // A change between the two shows at the next audit.
    if (seen.ok) digest = seen.value;
  };

  const subscription = session.events$.subscribe((event) => life.heard(event));
  void session.closed.then(() => {
    ended = true;
    subscription.unsubscribe();
    life.end();
  });
  log.debug("monitor answers", { key, monitor, version: session.version });
  return {
    ...createDeviceModel({ life, session, ids: ownIds }, { hostdevice: deps.hostdevice, clock, timings }),
    refresh: () => life.refresh(),
    audit,
    silence: () => publish({ ...(life.last() ?? unseen), monitorState: "silent" }),
  };
}
