/**
 * The monitor of a Xen domain's QEMU as a session that connects when it is needed. In this order: a monitor of the domain's own in our
 * directory and `qmp-libxenstat-<domid>`, both held once they answer; else `qmp-libxl-<domid>`, under libxl's lock and only as long as
 * commands are under way, for `xl` needs it for every operation of its own.
 */
import { basename } from "node:path";
import { type Observable, Subject } from "rxjs";
import { err, ok, type Result } from "../model/result.ts";
import type { QmpEvent } from "../protocol/qmp.ts";
import type { ExecuteOptions, QmpDeps, QmpError, QmpSession } from "./qmp-client.ts";
import { openQmp } from "./qmp-client.ts";
import type { Timings } from "../model/timings.ts";

export type MonitorPath = { readonly path: string; readonly hold: boolean };
/** Takes libxl's lock for as long as `run` runs. */
export type WithLock = <T>(run: () => Promise<T>) => Promise<Result<T, { readonly message: string }>>;

export type XenMonitor = QmpSession & {
  /** The socket that is, or was last, in use; else the first that would be. */
  readonly path: string;
  /** A held connection has come or gone: look. */
  readonly changed$: Observable<void>;
};
export type XenMonitorDeps = QmpDeps & { readonly timings: Pick<Timings, "reconnectMaxMs"> };

type Link = { readonly session: QmpSession; readonly path: string; readonly hold: boolean };
const CLOSED_BY_US = "closed by plugherd";

/** @param sockets - where a domain's QEMU has monitors, by its command line. @param isOwn - whether one is for plugherd alone */
export function monitorPaths(sockets: readonly string[], isOwn: (path: string) => boolean): readonly MonitorPath[] {
  const called = (prefix: string): readonly string[] => sockets.filter((path) => !isOwn(path) && basename(path).startsWith(prefix));
  return [
    ...[...sockets.filter(isOwn), ...called("qmp-libxenstat-")].map((path) => ({ path, hold: true })),
    ...called("qmp-libxl-").map((path) => ({ path, hold: false })),
  ];
}

export function createXenMonitor(paths: readonly MonitorPath[], withLock: WithLock, deps: XenMonitorDeps): XenMonitor {
  const { clock, timings } = deps;
  const events = new Subject<QmpEvent>();
  const changed = new Subject<void>();
  let link: Link | null = null;
  let linking: Promise<Result<Link, string>> | null = null;
  let inFlight = 0;
  let ended = false;
  let version = "unknown";
  let last = paths[0]?.path ?? "none";
  /** Sockets that somebody else was seen to hold, with the time until which they are not tried. */
  const busy = new Map<string, number>();
  let tellClosed: (reason: string) => void = () => undefined;
  const closed = new Promise<string>((resolve) => {
    tellClosed = resolve;
  });
  const stop = new AbortController();

  const take = (session: QmpSession, { path, hold }: MonitorPath, release: () => void): Link => {
    const made: Link = { session, path, hold };
    link = made;
    last = path;
    version = session.version;
    const subscription = session.events$.subscribe((event) => events.next(event));
    void session.closed.then(() => {
      subscription.unsubscribe();
      if (link === made) link = null;
      release();
    });
    return made;
  };
  const hold = async (one: MonitorPath): Promise<Result<Link, string>> => {
    const opened = await openQmp(one.path, deps, { signal: stop.signal });
    if (opened.ok) return ok(take(opened.value, one, () => (ended ? undefined : changed.next())));
    if (opened.error.kind === "busy") busy.set(one.path, clock.now() + timings.reconnectMaxMs);
    return err(opened.error.message);
  };
  /** Lent: the lock is given back when the session ends, which is as soon as nothing is under way. */
  const borrow = (one: MonitorPath): Promise<Result<Link, string>> =>
    new Promise((resolve) => {
      void withLock(async () => {
        const opened = await openQmp(one.path, deps, { signal: stop.signal });
        if (!opened.ok) return resolve(err(opened.error.message));
        await new Promise<void>((released) => resolve(ok(take(opened.value, one, released))));
      }).then((locked) => {
        if (!locked.ok) resolve(err(locked.error.message));
      });
    });
  const connect = async (): Promise<Result<Link, string>> => {
    let problem = "the domain's QEMU has no monitor that plugherd may use";
    for (const one of paths) {
      if (ended) return err(CLOSED_BY_US);
      if ((busy.get(one.path) ?? 0) > clock.now()) {
        problem = `another client holds ${one.path}`;
        continue;
      }
      busy.delete(one.path);
      const made = one.hold ? await hold(one) : await borrow(one);
      if (made.ok) return made;
      problem = `${one.path}: ${made.error}`;
    }
    return err(problem);
  };
  const linked = (): Promise<Result<Link, string>> => {
    linking ??= connect().finally(() => {
      linking = null;
    });
    return linking;
  };
  /** What follows an answer in the same turn is still part of the operation. */
  const rest = (): void => {
    inFlight -= 1;
    setImmediate(() => {
      if (inFlight === 0 && link?.hold === false) link.session.close();
    });
  };

  const execute = async (
    command: string,
    args?: Readonly<Record<string, unknown>>,
    options?: ExecuteOptions,
  ): Promise<Result<unknown, QmpError>> => {
    if (ended) return err({ kind: "protocol", reason: CLOSED_BY_US });
    inFlight += 1;
    try {
      // In this very tick, where it is connected: what is sent together goes out together.
      if (link !== null) return await link.session.execute(command, args, options);
      const made = await linked();
      if (!made.ok) return err({ kind: "protocol", reason: made.error });
      return await made.value.session.execute(command, args, options);
    } finally {
      rest();
    }
  };
  return {
    get version() {
      return version;
    },
    get path() {
      return last;
    },
    execute,
    events$: events.asObservable(),
    changed$: changed.asObservable(),
    closed,
    close() {
      if (ended) return;
      ended = true;
      stop.abort();
      link?.session.close();
      events.complete();
      changed.complete();
      tellClosed(CLOSED_BY_US);
    },
  };
}
