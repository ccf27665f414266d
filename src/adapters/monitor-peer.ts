/**
 * The QEMUs behind one socket file, one after another. Connects, lists, notices the end, connects again with backoff and full jitter.
 * Each connection is a life of its own: its key is not used again, for who answers next may be another QEMU.
 */
import { stat } from "node:fs/promises";
import type { DomainChange } from "../model/contracts.ts";
import type { DomainKey } from "../model/domain.ts";
import { createQemuDomain, type QemuDomain, type QemuDomainDeps, UNSEEN } from "./qemu-domain.ts";
import { CLOSED_SILENT, openQmp } from "./qmp-client.ts";

export type MonitorPeer = {
  /** Once. */
  start(): void;
  /** Something may be new here: try now. */
  kick(): void;
  /** Whether it is connected to a socket that is no longer the one in this place. */
  replaced(): Promise<boolean>;
  /** No new connection; what is connected stays until it ends. */
  retire(): void;
  close(): void;
};

export type MonitorPeerOptions = {
  readonly path: string;
  /** Name of the socket file without its suffix. */
  readonly name: string;
  readonly nextKey: () => DomainKey;
  readonly emit: (change: DomainChange) => void;
  /** A life begins (its domain) or ends (null). */
  readonly onLife: (key: DomainKey, domain: QemuDomain | null) => void;
  /** Once: the first attempt has an answer. */
  readonly onFirst: () => void;
  /** Once: nothing comes from it any more. */
  readonly onEnd: () => void;
};

export function createMonitorPeer(
  { path, name, nextKey, emit, onLife, onFirst, onEnd }: MonitorPeerOptions,
  deps: QemuDomainDeps,
): MonitorPeer {
  const { timings, clock, random, log } = deps;
  const stop = new AbortController();
  let retired = false;
  let failures = 0;
  let wake: (() => void) | null = null;
  let kicked = false;
  let close: (() => void) | null = null;
  let inode: number | null = null;
  /** Shown, though nobody answers: `waiting` for a first answer (that life will have this key), or `lost` with what was last seen of it. */
  let shown: { readonly key: DomainKey; readonly kind: "waiting" | "lost" } | null = null;

  const forget = (): void => {
    if (shown !== null) emit({ kind: "gone", key: shown.key });
    shown = null;
  };
  /** @param ms - null: until kicked */
  const rest = (ms: number | null): Promise<void> =>
    new Promise((resolve) => {
      if (kicked || stop.signal.aborted || retired) {
        resolve();
        return;
      }
      const timer = ms === null ? null : clock.setTimeout(() => wake?.(), ms);
      wake = () => {
        wake = null;
        if (timer !== null) clock.clearTimeout(timer);
        resolve();
      };
    });
  const backoffMs = (): number => random() * Math.min(timings.reconnectBaseMs * 2 ** Math.min(failures, 20), timings.reconnectMaxMs);

  /** One attempt, and the life that it leads to. Returns how long to wait for the next, null: until something is new here. */
  const attempt = async (): Promise<number | null> => {
    inode = await inodeOf(path);
    const opened = await openQmp(path, deps, { signal: stop.signal });
    if (stop.signal.aborted) {
      if (opened.ok) opened.value.close();
      return null;
    }
    if (!opened.ok) {
      const { kind, message } = opened.error;
      log.debug("monitor not usable", { path, kind, message });
      if (kind === "absent" || kind === "dead") forget();
      else if (kind === "busy" && shown === null) {
        shown = { key: nextKey(), kind: "waiting" };
        emit({ kind: "domain", domain: { ...UNSEEN, key: shown.key, name, monitor: path, monitorState: "busy" } });
      }
      failures += 1;
      return kind === "absent" ? null : backoffMs();
    }
    const session = opened.value;
    // A life that was lost in silence is over now, whoever answers.
    if (shown?.kind === "lost") forget();
    const key = shown?.key ?? nextKey();
    shown = null;
    failures = 0;
    const domain = createQemuDomain(
      { key, monitor: path, fallbackName: name, session, identity: null, publish: (seen) => emit({ kind: "domain", domain: seen }) },
      deps,
    );
    onLife(key, domain);
    close = () => session.close();
    await Promise.race([domain.refresh(), session.closed]);
    onFirst();
    const reason = await session.closed;
    close = null;
    onLife(key, null);
    if (stop.signal.aborted) return null;
    log.info("monitor lost", { path, key, reason });
    shown = { key, kind: "lost" };
    if (reason === CLOSED_SILENT) domain.silence();
    else forget();
    return random() * timings.reconnectBaseMs;
  };
  const run = async (): Promise<void> => {
    while (!stop.signal.aborted && !retired) {
      kicked = false;
      const wait = await attempt();
      onFirst();
      await rest(wait);
    }
    if (!stop.signal.aborted) forget();
    onEnd();
  };

  return {
    start: () => void run(),
    kick() {
      failures = 0;
      kicked = true;
      wake?.();
    },
    async replaced() {
      return close !== null && inode !== null && inode !== (await inodeOf(path));
    },
    retire() {
      retired = true;
      wake?.();
    },
    close() {
      stop.abort();
      close?.();
      wake?.();
    },
  };
}

const inodeOf = (path: string): Promise<number | null> =>
  stat(path).then(
    ({ ino }) => ino,
    () => null,
  );
