/** What a case works with: one fresh host, its devices, its domains and the daemon on it. */
import { Agent as HttpAgent, request } from "node:http";
import type { Socket } from "node:net";
import type { Ran } from "./agent.ts";
import { createInner, type Inner } from "./inner.ts";
import type { Machine } from "./machine.ts";
import { until } from "./waiting.ts";
import { createXen, type Xen } from "./xen.ts";

/** One element of `get devices -o json`, as product.md has it. */
export type DeviceStatus = {
  readonly domain: string;
  readonly name: string;
  readonly phase: string;
  readonly reason: string | null;
  readonly message: string;
  readonly tries: number;
  readonly step: string | null;
  readonly host: { readonly busid: string; readonly bus: number; readonly address: number; readonly serial: string | null } | null;
  readonly guest: { readonly controller: string; readonly port: number; readonly path: string | null; readonly attached: boolean } | null;
};
export type Said = { readonly rc: number; readonly out: string; readonly err: string };
/** A device as the host's kernel has it now. */
export type Plugged = { readonly busid: string; readonly bus: number; readonly address: number };

export type Host = {
  /** Runs a script; throws unless it exits 0. */
  sh(script: string, timeoutMs?: number): Promise<string>;
  run(script: string, timeoutMs?: number): Promise<Ran>;
  /** Writes a file in place, directories made. */
  write(path: string, text: string): Promise<void>;
  readonly plug: Machine["plug"];
  readonly unplug: Machine["unplug"];
  /** Waits until the kernel has the device at that busid and udev has dealt with it. */
  plugged(busid: string): Promise<Plugged>;
  /** Waits until that busid is empty. */
  gone(busid: string): Promise<void>;
  /** The driver in charge of interface 0, e.g. `usb-storage`; "": none. */
  driver(busid: string): Promise<string>;
  /** The command line of the program, on the host. */
  plugherd(args: string, timeoutMs?: number): Promise<Said>;
  /** Every claim, from the live API. */
  devices(): Promise<DeviceStatus[]>;
  /** Waits until that claim is in that phase (and has that reason, where given). */
  phase(
    device: string,
    phase: string,
    options?: { readonly reason?: string; readonly domain?: string; readonly timeoutMs?: number },
  ): Promise<DeviceStatus>;
  /** GET on the live API; status and body. */
  get(path: string): Promise<{ readonly status: number; readonly body: string }>;
  qemu(name: string): Inner;
  /** On a Xen host only. */
  readonly xen: Xen;
  readonly daemon: Daemon;
  /** What a person wants to read when a case has failed. */
  report(): Promise<string>;
};
export type Daemon = {
  /** Starts `plugherd run` and waits until its API answers. */
  start(args?: string): Promise<void>;
  /** SIGKILL. */
  kill9(): Promise<void>;
  /** SIGTERM, and waits for the end; resolves to the exit code as the shell saw it. */
  stop(): Promise<void>;
  pid(): Promise<number>;
  fds(): Promise<number>;
  log(): Promise<string>;
};

const API = "/run/plugherd/api.sock";
const LOG = "/var/log/e2e/plugherd.log";
const PIDFILE = "/run/witness/plugherd.pid";
const ANSWER_MS = 20_000;
const START_MS = 120_000;
const ERR_MARK = "\n@@ERR\n";

/** Node lets an agent hand its connection over later, by callback; its types know only the other way. */
const keptConnection = (dial: () => Promise<Socket>): HttpAgent =>
  Object.assign(new HttpAgent({ keepAlive: true, maxSockets: 1 }), {
    createConnection: (_options: unknown, done: (error: Error | null, socket?: Socket) => void): void => {
      dial().then(
        (socket) => {
          done(null, socket);
        },
        (error: unknown) => {
          done(error instanceof Error ? error : new Error(String(error)));
        },
      );
    },
  }) as HttpAgent;

export function createHost(machine: Machine): Host {
  const { agent } = machine;
  const domains = new Map<string, Inner>();
  const run: Host["run"] = (script, timeoutMs) => agent.run(script, timeoutMs);
  const sh: Host["sh"] = async (script, timeoutMs) => {
    const { rc, out } = await agent.run(script, timeoutMs);
    if (rc !== 0) throw new Error(`exit ${String(rc)} of: ${script.slice(0, 300)}\n${out.slice(-2_000)}`);
    return out;
  };
  // One connection, kept: every other way costs the emulated host three processes a question.
  const api = keptConnection(() => agent.pipe(API));
  const ask: Host["get"] = (path) =>
    new Promise((resolve, reject) => {
      const call = request({ path, agent: api, headers: { host: "localhost" }, timeout: ANSWER_MS }, (answer) => {
        const chunks: Buffer[] = [];
        answer.on("data", (chunk: Buffer) => chunks.push(chunk));
        answer.on("error", reject);
        answer.on("end", () => {
          resolve({ status: answer.statusCode ?? 0, body: Buffer.concat(chunks).toString("utf8") });
        });
      });
      call.on("timeout", () => {
        call.destroy(new Error(`the API did not answer in ${String(ANSWER_MS)} ms`));
      });
      call.on("error", reject);
      call.end();
    });
  // A connection that was kept may belong to a daemon that is dead.
  const get: Host["get"] = (path) => ask(path).catch(() => ask(path));
  const write: Host["write"] = async (path, text) => {
    await sh(`mkdir -p "$(dirname '${path}')"; base64 -d > '${path}' <<'@@END'\n${Buffer.from(text).toString("base64")}\n@@END`);
  };
  const qemu: Host["qemu"] = (name) => {
    const inner = domains.get(name) ?? createInner(agent, name);
    domains.set(name, inner);
    return inner;
  };
  const host: Host = {
    run,
    sh,
    get,
    write,
    qemu,
    xen: createXen({ sh, run, qemu, write }),
    plug: (id, driver, props) => machine.plug(id, driver, props),
    unplug: (id) => machine.unplug(id),
    plugged: async (busid) => {
      const seen = await sh(
        `cd /sys/bus/usb/devices; for i in $(seq 1500); do read -r a 2>/dev/null < ${busid}/devnum && read -r b 2>/dev/null < ${busid}/busnum && break; sleep 0.02; done
         udevadm settle; read -r a < ${busid}/devnum; read -r b < ${busid}/busnum; echo "$b $a"`,
      );
      const [bus, address] = seen.trim().split(" ").map(Number);
      if (bus === undefined || address === undefined || Number.isNaN(address)) throw new Error(`no device at ${busid}: ${seen}`);
      return { busid, bus, address };
    },
    gone: async (busid) => {
      await sh(`for i in $(seq 400); do [ -e /sys/bus/usb/devices/${busid} ] || exit 0; sleep 0.02; done; exit 1`);
    },
    driver: async (busid) => (await sh(`d=$(readlink /sys/bus/usb/devices/${busid}:1.0/driver) && basename "$d" || true`)).trim(),
    plugherd: async (args, timeoutMs = 120_000) => {
      const { rc, out } = await run(
        `e=$(mktemp); plugherd ${args} 2>"$e"; rc=$?; printf '\\n@@ERR\\n'; cat "$e"; rm -f "$e"; exit $rc`,
        timeoutMs,
      );
      const at = out.lastIndexOf(ERR_MARK);
      return { rc, out: out.slice(0, at), err: out.slice(at + ERR_MARK.length) };
    },
    devices: async () => {
      const { status, body } = await get("/api/v1/devices");
      if (status !== 200) throw new Error(`GET /api/v1/devices: ${String(status)} ${body.slice(0, 300)}`);
      const value = JSON.parse(body) as DeviceStatus[] | { devices: DeviceStatus[] };
      return Array.isArray(value) ? value : value.devices;
    },
    phase: (device, phase, { reason, domain, timeoutMs = 60_000 } = {}) =>
      until(
        `${device} is ${phase}${reason === undefined ? "" : ` / ${reason}`}`,
        async () => {
          const all = (await host.devices()).filter((one) => one.name === device && (domain === undefined || one.domain === domain));
          const found = all.find((one) => one.phase === phase && (reason === undefined || one.reason === reason));
          if (found === undefined) throw new Error(JSON.stringify(all));
          return found;
        },
        { timeoutMs, everyMs: 150 },
      ),
    daemon: createDaemon({ sh, get }),
    report: async () => {
      const parts = await Promise.all([
        part("the daemon's log", () => sh(`tail -n 60 ${LOG} 2>/dev/null || echo none`)),
        part("devices", async () => JSON.stringify(await host.devices(), null, 1).slice(0, 6_000)),
        part("domains", () =>
          sh('for f in /var/log/e2e/*.log; do case $f in */plugherd.log) ;; *) echo "== $f"; tail -n 8 $f;; esac; done; lsusb -t'),
        ),
        part("what QEMU was told", () =>
          sh('for f in /run/witness/*.trace; do echo "== $f"; grep -a -e device_ -e usb_host $f | tail -n 20; done'),
        ),
        part("Xen", () =>
          sh(`[ -d /proc/xen ] && [ -e /run/xenstored/socket ] || exit 0; xl list -v; for p in /libxl /local/domain/0/backend/qusb; do xenstore-ls -fp $p; done
              for d in $(xenstore-list /libxl); do xl usb-list $d; xenstore-ls -fp /local/domain/$d/device/vusb; done; xl dmesg | tail -n 5`),
        ),
      ]);
      return [...parts, `--- the host's console\n${machine.consoleTail(1_500)}`].join("\n");
    },
  };
  return host;
}

const part = async (title: string, read: () => Promise<string>): Promise<string> =>
  `--- ${title}\n${await read().catch((error: unknown) => `(${String(error)})`)}`;

function createDaemon({ sh, get }: Pick<Host, "sh" | "get">): Daemon {
  const ended = `for i in $(seq 400); do kill -0 "$p" 2>/dev/null || exit 0; sleep 0.05; done; echo still there; exit 1`;
  const daemon: Daemon = {
    start: async (args = "") => {
      await sh(`echo "=== start" >> ${LOG}; setsid plugherd run ${args} </dev/null >>${LOG} 2>&1 & echo $! > ${PIDFILE}`);
      // A listening socket of that name; the file alone may be left over from a dead daemon.
      await sh(
        `for i in $(seq 1200); do
           grep -q '00010000 .* ${API}$' /proc/net/unix && exit 0
           kill -0 "$(cat ${PIDFILE})" 2>/dev/null || { echo "plugherd run has ended:"; tail -n 5 ${LOG}; exit 1; }
           sleep 0.1
         done; echo "the API does not listen"; exit 1`,
        START_MS,
      );
      await until("the daemon's API answers", async () => (await get("/healthz")).status === 200);
    },
    kill9: async () => {
      await sh(`p=$(cat ${PIDFILE}); kill -9 "$p"; ${ended}`);
    },
    stop: async () => {
      await sh(`p=$(cat ${PIDFILE}); kill "$p"; ${ended}`);
    },
    pid: async () => Number(await sh(`cat ${PIDFILE}`)),
    fds: async () => Number(await sh(`ls "/proc/$(cat ${PIDFILE})/fd" | wc -l`)),
    log: () => sh(`cat ${LOG}`),
  };
  return daemon;
}
