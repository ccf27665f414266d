/** Records of what happens in xenstore: from the outside by watches, from the inside by a proxy in front of xenstored. */
import type { Host } from "./host.ts";
import { SCRIPTS, WITNESS } from "./places.ts";

/** `value` null: gone when it was read. Times in seconds since the watch began. */
export type XsEvent = { readonly at: number; readonly path: string; readonly value: string | null; readonly perms: string };
export type XsWatch = { events(): Promise<XsEvent[]>; stop(): Promise<XsEvent[]> };

/** One request through the proxy. `answer`: `OK` or the error's name; null: none came. `at`: seconds since the epoch. */
export type XsRequest = {
  readonly at: number;
  readonly client: number;
  readonly type: string;
  readonly tx: number;
  readonly path: string;
  readonly value: string | null;
  readonly answer: string | null;
};
export type XsProxy = {
  /** The socket to hand to a client as its xenstored. */
  readonly socket: string;
  /** Every request so far, in order of arrival. */
  requests(): Promise<XsRequest[]>;
  /** Only requests that change something, or begin or end a transaction. */
  changes(): Promise<XsRequest[]>;
  /** Forgets what was recorded. */
  clear(): Promise<void>;
  /**
   * SIGKILL for the process at the n-th change from now on (of that type, where given): `before` it reaches xenstored, or `after` xenstored has
   * answered and before the answer is handed on.
   */
  killAt(pid: number, n: number, when: "before" | "after", type?: string): Promise<void>;
  /** Takes an order back that was not carried out. */
  disarm(): Promise<void>;
  stop(): Promise<void>;
};

const CHANGING = new Set(["WRITE", "MKDIR", "RM", "SET_PERMS", "TRANSACTION_START", "TRANSACTION_END"]);
const EVENT = /^\s*([\d.]+) (\/\S*|@\S*) = (?:"(.*)"|GONE\(\w*\)) ?(?:\(([^)]*)\))?$/;

let watches = 0;

export async function watchStore({ sh }: Pick<Host, "sh">, paths: readonly string[]): Promise<XsWatch> {
  watches += 1;
  const log = `${WITNESS}/watch-${String(watches)}.log`;
  await sh(
    `setsid python3 -u ${SCRIPTS}/xs-watch.py ${paths.join(" ")} </dev/null >${log} 2>&1 & echo $! > ${log}.pid
     for i in $(seq 200); do grep -q '^# watching' ${log} 2>/dev/null && exit 0; sleep 0.05; done; cat ${log}; exit 1`,
  );
  const events = async (): Promise<XsEvent[]> =>
    (await sh(`cat ${log}`)).split("\n").flatMap((line) => {
      const [, at, path, value, perms = ""] = EVENT.exec(line) ?? [];
      return at === undefined || path === undefined ? [] : [{ at: Number(at), path, value: value ?? null, perms }];
    });
  return {
    events,
    stop: async () => {
      const all = await events();
      await sh(`kill "$(cat ${log}.pid)"; rm -f ${log} ${log}.pid`);
      return all;
    },
  };
}

export async function startProxy({ sh }: Pick<Host, "sh">): Promise<XsProxy> {
  const [socket, log, order, pidfile] = ["sock", "log", "kill", "pid"].map((end) => `${WITNESS}/xenstore.${end}`) as [
    string,
    string,
    string,
    string,
  ];
  await sh(
    `rm -f ${socket} ${log} ${order}; setsid python3 -u ${SCRIPTS}/xs-proxy.py ${socket} /run/xenstored/socket ${log} ${order} </dev/null >${log}.err 2>&1 & echo $! > ${pidfile}
     for i in $(seq 200); do [ -S ${socket} ] && exit 0; sleep 0.05; done; cat ${log}.err; exit 1`,
  );
  const requests = async (): Promise<XsRequest[]> =>
    (await sh(`cat ${log}`))
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => JSON.parse(line) as XsRequest);
  return {
    socket,
    requests,
    changes: async () => (await requests()).filter(({ type }) => CHANGING.has(type)),
    clear: async () => {
      await sh(`: > ${log}`);
    },
    disarm: async () => {
      await sh(`rm -f ${order}`);
    },
    killAt: async (pid, n, when, type = "any") => {
      await sh(`echo "${String(pid)} ${String(n)} ${when} ${type}" > ${order}.new; mv ${order}.new ${order}`);
    },
    stop: async () => {
      await sh(`kill "$(cat ${pidfile})"`);
    },
  };
}
