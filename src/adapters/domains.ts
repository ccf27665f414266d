/** Contract Domains for plain QEMU: sockets in a directory, and QEMUs that dial in. */
import { lstat } from "node:fs/promises";
import type { Socket } from "node:net";
import { basename } from "node:path";
import { Observable } from "rxjs";
import { DOMAIN_GONE } from "../model/action.ts";
import type { DomainChange, Domains } from "../model/contracts.ts";
import type { DomainKey, LiveDomain } from "../model/domain.ts";
import { err, ok, type Result } from "../model/result.ts";
import { createGate } from "./gate.ts";
import { createMonitorPeers, type MonitorPeer } from "./monitor-peer.ts";
import { createQemuDomain, type QemuDomain, type QemuDomainDeps } from "./qemu-domain.ts";
import { readIdentity } from "./qemu-monitor.ts";
import type { ListenError } from "./own-socket.ts";
import { type DialIn, listenForMonitors } from "./qmp-dial-in.ts";
import { adoptQmp, type QmpSession } from "./qmp-client.ts";
import { watchFiles } from "./watched-files.ts";

export type DomainsOptions = Pick<QemuDomainDeps, "timings" | "clock" | "random" | "log"> & {
  /** A socket a QEMU, `NAME.sock`. May be missing. */
  readonly qmpDir: string;
  /** Our socket for QEMUs that dial in; null: none. */
  readonly qmpListen: string | null;
  /** Where the host's device nodes are; only where it is `/dev` does QEMU know them by the same path. */
  readonly devDir: string;
  /** Whether a monitor is that of a domain that somebody else here serves. */
  readonly isOthers?: (path: string) => Promise<boolean>;
};
export type QemuDomains = Domains & {
  /** Whether the dial-in socket is ours; resolves after changes$ is subscribed to. */
  readonly listening: Promise<Result<null, ListenError>>;
};

const SOCKET_SUFFIX = ".sock";
/** Domains that are listed at one time: as they appear, and in an audit, which is in no hurry and holds nobody up. */
const LISTINGS = 32;
const AUDITS = 2;
/** Some 5 ms: several times what a QEMU takes to answer an audit. */
const TURNS_AWAKE = 1_000;
/** Monitors that are connected to in one turn of the event loop. */
const STARTS_A_TURN = 16;

export function createDomains({ qmpDir, qmpListen, devDir, isOthers, timings, clock, random, log }: DomainsOptions): QemuDomains {
  const deps: QemuDomainDeps = {
    timings,
    clock,
    random,
    log,
    hostdevice: devDir === "/dev",
    drivers: new Map(),
    listings: createGate(LISTINGS),
  };
  const lives = new Map<DomainKey, QemuDomain>();
  const generations = new Map<string, number>();
  const nextKey = (name: string): DomainKey => {
    const generation = (generations.get(name) ?? 0) + 1;
    generations.set(name, generation);
    return `${name}#${String(generation)}`;
  };
  const onLife = (key: DomainKey, domain: QemuDomain | null): void => {
    if (domain === null) lives.delete(key);
    else lives.set(key, domain);
  };
  let auditFiles: () => Promise<void> = () => Promise.resolve();
  let tellListening: (result: Result<null, ListenError>) => void = () => undefined;
  const listening = new Promise<Result<null, ListenError>>((resolve) => {
    tellListening = resolve;
  });

  const changes$ = new Observable<DomainChange>((out) => {
    const emit = (change: DomainChange): void => out.next(change);
    const sockets = watchSockets(emit);
    auditFiles = sockets.audit;
    const dialIn = qmpListen === null ? null : takeDialIns(qmpListen, emit);
    return () => {
      sockets.close();
      dialIn?.();
      lives.clear();
      auditFiles = () => Promise.resolve();
    };
  });

  /** One peer a socket file. */
  const watchSockets = (emit: (change: DomainChange) => void): { audit(): Promise<void>; close(): void } => {
    const createPeer = createMonitorPeers(deps);
    const peers = new Map<string, MonitorPeer>();
    const all = new Set<MonitorPeer>();
    /** Sockets of which it is being asked whose they are. */
    const asking = new Set<string>();
    let closed = false;
    /** Sockets of the start that have not answered yet. */
    const firsts = new Set<string>();
    /** Not all in one turn of the event loop: a directory of a thousand sockets is told at once. */
    const starting: (() => void)[] = [];
    const startSome = (): void => {
      for (const start of starting.splice(0, STARTS_A_TURN)) start();
      if (starting.length > 0) setImmediate(startSome);
    };
    let filesKnown = false;
    let readyTold = false;
    const tellReady = (): void => {
      if (!filesKnown || readyTold || firsts.size > 0) return;
      readyTold = true;
      emit({ kind: "ready" });
    };
    const open = (path: string): void => {
      if (!readyTold) firsts.add(path);
      if (isOthers === undefined) {
        openOwn(path);
        return;
      }
      if (asking.has(path)) return;
      asking.add(path);
      void isOthers(path).then((others) => {
        asking.delete(path);
        if (others) {
          if (firsts.delete(path)) tellReady();
        } else if (!closed && !peers.has(path)) openOwn(path);
      });
    };
    const openOwn = (path: string): void => {
      const name = basename(path, SOCKET_SUFFIX);
      const first = (): void => {
        if (firsts.delete(path)) tellReady();
      };
      const peer: MonitorPeer = createPeer({
        path,
        name,
        nextKey: () => nextKey(name),
        emit,
        onLife,
        onFirst: first,
        onEnd: () => {
          all.delete(peer);
          first();
        },
      });
      peers.set(path, peer);
      all.add(peer);
      starting.push(() => peer.start());
      if (starting.length === 1) setImmediate(startSome);
    };
    const isThere = (path: string): Promise<boolean> =>
      lstat(path).then(
        () => true,
        () => false,
      );
    const appeared = async (path: string): Promise<void> => {
      const peer = peers.get(path);
      if (peer === undefined) open(path);
      else if (!(await peer.replaced())) peer.kick();
      else if (peers.get(path) === peer) {
        // Another QEMU took the place while the former one still lives; both are served.
        peer.retire();
        peers.delete(path);
        open(path);
      }
    };
    const vanished = async (path: string): Promise<void> => {
      const peer = peers.get(path);
      // A QEMU that is restarted is back before this is told, and its peer may be connected to the new one already.
      if (await isThere(path)) return appeared(path);
      if (peer === undefined) return;
      if (peers.get(path) !== peer) return;
      peer.retire();
      peers.delete(path);
    };
    const files = watchFiles(qmpDir, {
      isWanted: (name) => name.endsWith(SOCKET_SUFFIX),
      onThere: (path) => void appeared(path),
      onGone: (path) => void vanished(path),
      onReady: () => {
        filesKnown = true;
        tellReady();
      },
      onTrouble: (cause) => {
        log.warn("watching the monitor sockets failed; the directory is read again", { directory: qmpDir, cause: String(cause) });
        void files.audit();
      },
    });
    return {
      async audit() {
        await files.audit();
        for (const peer of all) peer.audit();
      },
      close: () => {
        closed = true;
        files.close();
        for (const peer of all) peer.close();
      },
    };
  };

  const takeDialIns = (path: string, emit: (change: DomainChange) => void): (() => void) => {
    let dialIn: DialIn | null = null;
    const stop = new AbortController();
    const sessions = new Set<QmpSession>();
    void listenForMonitors(
      path,
      { clock, connectMs: timings.connectMs, log },
      (socket) => void serve(socket, emit, stop.signal, sessions),
    ).then((result) => {
      if (result.ok) {
        dialIn = result.value;
        if (stop.signal.aborted) dialIn.close();
      } else log.error(`QEMUs cannot dial in: ${result.error.message}`, { path });
      tellListening(result.ok ? ok(null) : result);
    });
    return () => {
      stop.abort();
      dialIn?.close();
      for (const session of sessions) session.close();
    };
  };
  /** One QEMU that dialled in, until it hangs up; it dials again by itself. */
  const serve = async (
    socket: Socket,
    emit: (change: DomainChange) => void,
    signal: AbortSignal,
    sessions: Set<QmpSession>,
  ): Promise<void> => {
    const adopted = await adoptQmp(socket, deps, { signal });
    if (!adopted.ok) {
      log.debug("a dial-in did not become a monitor", { message: adopted.error.message });
      return;
    }
    const session = adopted.value;
    sessions.add(session);
    void session.closed.then(() => sessions.delete(session));
    if (signal.aborted) session.close();
    const identity = await readIdentity(session, deps.drivers);
    const label = identity.ok ? (identity.value.name ?? identity.value.uuid) : null;
    if (!identity.ok || label === null) {
      log.warn(
        identity.ok
          ? "a QEMU that dialled in has neither a name nor a uuid and is refused; start it with -name or -uuid"
          : "a QEMU that dialled in did not say who it is",
      );
      session.close();
      return;
    }
    // A socket's file name has no `/`: the two kinds of key cannot be the same.
    const key = nextKey(`dial-in/${label}`);
    const publish = (domain: LiveDomain): void => emit({ kind: "domain", domain });
    const domain = createQemuDomain({ key, monitor: "dial-in", fallbackName: null, session, identity: identity.value, publish }, deps);
    onLife(key, domain);
    void domain.refresh();
    const reason = await session.closed;
    onLife(key, null);
    if (signal.aborted) return;
    log.info("monitor lost", { key, reason });
    emit({ kind: "gone", key });
  };

  const audits = createGate(AUDITS);
  return {
    changes$,
    listening,
    attach: (place, options) => lives.get(place.domain)?.attach(place, options) ?? Promise.resolve(err(DOMAIN_GONE)),
    detach: (at, options) => lives.get(at.domain)?.detach(at, options) ?? Promise.resolve(err(DOMAIN_GONE)),
    async audit() {
      await auditFiles();
      let done = false;
      const awake = stayAwake(() => done);
      await Promise.all([...lives.values()].map((domain) => audits(() => domain.audit(awake))));
      done = true;
    },
  };
}

/**
 * Keeps the event loop turning for a moment without sleeping. A host where nothing happens is audited in one go that way: its process wakes up
 * once, and neither for each answer nor, seconds later, for a timer that was set for the answer not to come (Node lets such a one ring in
 * the void; product.md §8, idle).
 */
async function stayAwake(done: () => boolean): Promise<void> {
  for (let turn = 0; turn < TURNS_AWAKE && !done(); turn += 1) await new Promise((resolve) => setImmediate(resolve));
}
