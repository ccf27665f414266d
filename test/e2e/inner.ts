/** A domain under test: a real QEMU inside the test host, with one monitor for plugherd and one for the witness. */
import type { Agent, Ran } from "./agent.ts";
import { WITNESS as DIR } from "./places.ts";
import { openQmp, type Qmp } from "./qmp.ts";
import { until } from "./waiting.ts";

/** A usb-host object as QEMU itself shows it. */
export type UsbHost = {
  readonly id: string;
  readonly hostbus: number;
  readonly hostaddr: number;
  /** null where the object is bound by address. */
  readonly hostport: string | null;
  readonly attached: boolean;
  readonly port: string;
};

export type InnerOptions = {
  readonly machine?: "pc" | "q35";
  /** `-S`: the domain is made and does not run. */
  readonly paused?: boolean;
  /** Boots the Linux of the image instead of an empty machine. */
  readonly linux?: boolean;
  /** QEMU dials in to this socket instead of serving one. */
  readonly dialTo?: string;
  readonly extra?: readonly string[];
};

export type Inner = {
  readonly name: string;
  start(options?: InnerOptions): Promise<void>;
  /** SIGKILL: QEMU gives nothing back. */
  kill(): Promise<void>;
  pid(): Promise<number>;
  /** One command on the witness's monitor. */
  qmp(command: string, args?: Readonly<Record<string, unknown>>): Promise<unknown>;
  /** Every usb-host object with an id. */
  usbHosts(): Promise<UsbHost[]>;
  /** Names of everything in /machine/peripheral, sorted. */
  peripherals(): Promise<string[]>;
  /** HMP `info usb`. */
  infoUsb(): Promise<string>;
  /** Every command that changes something and reached this QEMU since it started, on whichever monitor, in order, as sent. */
  changes(): Promise<string[]>;
  /** What the guest's own Linux wrote on its console (`linux: true`). */
  console(): Promise<string>;
  /** Open file descriptors of this QEMU. */
  fds(): Promise<number>;
};

const MONITORS = "/run/plugherd/qmp";
const LOGS = "/var/log/e2e";
/** Commands that only look. Everything else in QEMU's own trace of commands is a change. */
const READ_ONLY =
  /"execute":\s*"(?:qmp_capabilities|qom-get|qom-list|qom-list-properties|qom-list-types|device-list-properties|query-[a-z-]+|x-query-[a-z-]+)"/;
const HMP_INFO = /"command-line":\s*"info /;

/** The command that starts a domain; prints nothing. QEMU's trace goes to DIR/NAME.trace, one line an event with a time stamp. */
export function startScript(name: string, options: InnerOptions = {}): string {
  const { machine = "pc", paused = false, linux = false, dialTo, extra = [] } = options;
  const monitor =
    dialTo === undefined
      ? `-qmp unix:${MONITORS}/${name}.sock,server=on,wait=off`
      : `-chardev socket,id=dial,path=${dialTo},reconnect=1 -mon chardev=dial,mode=control`;
  const kernel = linux
    ? `-m 192 -kernel /lab/domu/vmlinux -initrd /lab/domu/initrd -append "console=ttyS0 quiet mitigations=off" -serial file:${DIR}/${name}.console`
    : "-m 32";
  return [
    `mkdir -p ${DIR} ${MONITORS} ${LOGS}`,
    `rm -f ${DIR}/${name}.sock`,
    `setsid qemu-system-x86_64 -name ${name} -accel tcg -machine ${machine} -display none -nodefaults -no-user-config ${kernel} \\`,
    `  ${monitor} -qmp unix:${DIR}/${name}.sock,server=on,wait=off -pidfile ${DIR}/${name}.pid ${paused ? "-S" : ""} ${extra.join(" ")} \\`,
    `  -msg timestamp=on -trace enable=handle_qmp_command -trace enable='usb_host_open_*' -trace enable=usb_host_close -D ${DIR}/${name}.trace \\`,
    `  </dev/null >>${LOGS}/${name}.log 2>&1 &`,
    `for i in $(seq 400); do [ -S ${DIR}/${name}.sock ] && [ -s ${DIR}/${name}.pid ] && exit 0; sleep 0.05; done; tail -5 ${LOGS}/${name}.log; exit 1`,
  ].join("\n");
}
export const guestConsole = (name: string): string => `${DIR}/${name}.console`;

export function createInner(agent: Agent, name: string): Inner {
  let monitor: Promise<Qmp> | null = null;
  const witness = (): Promise<Qmp> => {
    monitor ??= agent.pipe(`${DIR}/${name}.sock`).then((socket) => openQmp(socket));
    return monitor;
  };
  const drop = (): void => {
    void monitor?.then(
      (qmp) => {
        qmp.close();
      },
      () => undefined,
    );
    monitor = null;
  };
  const ok = async (script: string): Promise<string> => {
    const { rc, out }: Ran = await agent.run(script);
    if (rc !== 0) throw new Error(`${script.slice(0, 200)}: exit ${String(rc)}: ${out}`);
    return out;
  };
  const qmp: Inner["qmp"] = async (command, args) => {
    try {
      return await (await witness()).call(command, args);
    } catch (error) {
      if (error instanceof Error && /closed|answer|ECONN|EPIPE/.test(error.message)) drop();
      throw error;
    }
  };
  const listed = async (): Promise<{ name: string; type: string }[]> =>
    (await qmp("qom-list", { path: "/machine/peripheral" })) as { name: string; type: string }[];
  const inner: Inner = {
    name,
    qmp,
    start: async (options = {}) => {
      await ok(startScript(name, options));
    },
    kill: async () => {
      const pid = await inner.pid();
      drop();
      await ok(`kill -9 ${String(pid)}; for i in $(seq 200); do [ -d /proc/${String(pid)} ] || exit 0; sleep 0.05; done; exit 1`);
      await ok(`rm -f ${DIR}/${name}.pid ${DIR}/${name}.trace`);
    },
    pid: async () => Number(await ok(`cat ${DIR}/${name}.pid`)),
    usbHosts: async () => {
      const hosts = (await listed()).filter(({ type }) => type === "child<usb-host>").map((entry) => entry.name);
      return Promise.all(
        hosts.sort().map(async (id) => {
          const get = (property: string): Promise<unknown> => qmp("qom-get", { path: `/machine/peripheral/${id}`, property });
          const [hostbus, hostaddr, hostport, attached, port] = await Promise.all([
            ...[get("hostbus"), get("hostaddr"), get("hostport"), get("attached"), get("port")],
          ]);
          return {
            ...{ id, hostbus: Number(hostbus), hostaddr: Number(hostaddr), port: String(port), attached: attached === true },
            hostport: typeof hostport === "string" && hostport !== "" ? hostport : null,
          };
        }),
      );
    },
    peripherals: async () =>
      (await listed())
        .map((entry) => entry.name)
        .filter((entry) => entry !== "type")
        .sort(),
    infoUsb: async () => String(await qmp("human-monitor-command", { "command-line": "info usb" })).replaceAll("\r", ""),
    changes: async () =>
      (await ok(`grep -a handle_qmp_command ${DIR}/${name}.trace || true`))
        .split("\n")
        .map((line) => line.slice(Math.max(0, line.indexOf("{"))))
        .filter((line) => line.includes('"execute"') && !READ_ONLY.test(line) && !HMP_INFO.test(line)),
    console: () => ok(`tail -c 20000 ${guestConsole(name)} | tr -d '\\r'`),
    fds: async () => Number(await ok(`ls /proc/$(cat ${DIR}/${name}.pid)/fd | wc -l`)),
  };
  return inner;
}

/** Waits until the witness sees exactly these devices attached (by bus and address, in any order), and nothing else of usb-host. */
export const untilAttached = (inner: Inner, devices: readonly { bus: number; address: number }[], timeoutMs = 60_000): Promise<UsbHost[]> =>
  until(
    `${inner.name} has exactly ${JSON.stringify(devices)} attached`,
    async () => {
      const seen = await inner.usbHosts();
      const wanted = devices.map(({ bus, address }) => `${String(bus)}.${String(address)}`).sort();
      const found = seen.map(({ hostbus, hostaddr }) => `${String(hostbus)}.${String(hostaddr)}`).sort();
      if (JSON.stringify(wanted) === JSON.stringify(found) && seen.every(({ attached }) => attached)) return seen;
      throw new Error(`it has ${JSON.stringify(seen)}`);
    },
    { timeoutMs },
  );
