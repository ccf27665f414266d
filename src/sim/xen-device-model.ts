/**
 * A domain's device model as a process of the simulated host: its command line in /proc, its monitors, what it writes into xenstore at its
 * start, the backends that it serves. Source: golden recordings (command lines, order of its nodes).
 */
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Pending } from "./pending.ts";
import { createFakeQemu, type DeviceArgs, type FakeQemu, type SimDelays, type SimHostDevice } from "./qmp-server.ts";
import { createTraditional, type Traditional } from "./qemu-traditional.ts";
import { createQusbBackend, type QusbBackend } from "./xen-backend.ts";
import type { LocalStore } from "./xenstore-local.ts";
import { LIBXL_COMMAND_ID } from "./xl-qmp.ts";
import { backendPath, modelPath, plainDevices, type XenType } from "./xl-nodes.ts";

/** All in ms; those of the real parts. */
export type XenDelays = {
  /** A device model, a guest, or a kernel driver looks this long after something has changed. */
  readonly lookMs: number;
  /** Between two steps of xl. */
  readonly stepMs: number;
  /** From the start of a device model to its being ready. */
  readonly spawnMs: number;
  /** libxl gives a device model that no longer answers this long (LIBXL_QEMU_BODGE_TIMEOUT). */
  readonly bodgeMs: number;
  /** libxl waits for a backend's state at most (LIBXL_INIT_TIMEOUT, LIBXL_DESTROY_TIMEOUT). */
  readonly stateMs: number;
  /** LIBXL_QMP_CMD_TIMEOUT. */
  readonly qmpMs: number;
};
export const realXenDelays: XenDelays = { lookMs: 5, stepMs: 20, spawnMs: 300, bodgeMs: 2000, stateMs: 10_000, qmpMs: 10_000 };

export type DeviceModelOptions = {
  readonly domid: number;
  readonly name: string;
  readonly type: XenType;
  readonly pid: number;
  /** Directory of the monitors, and the simulated /proc. */
  readonly run: string;
  readonly proc: string;
  /** The domain that it runs in: there its nodes are, it finds no host device, and a proxy in dom0 offers only libxl's monitor. */
  readonly stub: number | null;
  /** A monitor of the domain's own, besides libxl's two. */
  readonly monitor: string | null;
  readonly version: string;
  readonly memoryMb: number;
  /** On its command line besides the machine's own: the boot-time controller. */
  readonly devices: readonly DeviceArgs[];
  /** Text of those on the command line. */
  readonly deviceArguments: readonly string[];
  /** It comes from a saved domain, and waits for its state. */
  readonly restored: boolean;
  readonly hostDevices: () => Iterable<SimHostDevice>;
  readonly delays: XenDelays & Partial<SimDelays>;
  readonly pending: Pending;
};
export type DeviceModel = {
  readonly pid: number;
  /** null: qemu-traditional, which has no QMP. */
  readonly qemu: FakeQemu | null;
  qusb(): QusbBackend | null;
  /** Busids of what qemu-traditional has. */
  legacy(): readonly string[];
  /** Until it is ready, and says so in xenstore. */
  start(store: LocalStore): Promise<void>;
  /** kill: as SIGKILL does. */
  end(how: "kill" | "stop"): Promise<void>;
  alive(): boolean;
};

export function createDeviceModel(options: DeviceModelOptions): DeviceModel {
  const { domid, name, type, pid, run, proc, monitor, stub, pending, delays } = options;
  const base = stub === null ? modelPath(domid) : `/local/domain/${String(stub)}/device-model/${String(domid)}`;
  const sockets = { libxl: join(run, `qmp-libxl-${String(domid)}`), libxenstat: join(run, `qmp-libxenstat-${String(domid)}`) };
  const hvm = type === "hvm";
  const qemu = createFakeQemu({
    name,
    machine: hvm ? "pc" : "xenpv",
    version: options.version,
    running: !(hvm && options.restored),
    devices: options.devices,
    hostDevices: stub === null ? options.hostDevices : () => [],
    delays,
    othersId: LIBXL_COMMAND_ID,
    monitors: stub === null ? [sockets.libxl, sockets.libxenstat, ...(monitor === null ? [] : [monitor])] : [sockets.libxl],
  });
  let store: LocalStore | null = null;
  let qusb: QusbBackend | null = null;
  let alive = false;

  const serve = (kind: string, on: LocalStore): void => {
    const path = `${base}/backends/${kind}`;
    on.mkdir(path);
    on.permit(path, ["n0", `n${String(domid)}`]);
  };
  /** What it does for the keyboard and the console, which are its own backends too. */
  const plain = (kind: "console" | "vkbd", on: LocalStore): void => {
    const device = plainDevices(domid).find((one) => one.kind === kind);
    const path = device === undefined ? "" : backendPath(device);
    if (on.read(`${path}/state`) !== "1") return;
    on.write(`${path}/state`, "1");
    if (kind === "console") return;
    for (const [node, value] of [
      ["feature-abs-pointer", "1"],
      ["feature-raw-pointer", "1"],
      ["hotplug-status", "connected"],
      ["state", "2"],
    ]) {
      on.write(`${path}/${node ?? ""}`, value ?? "");
    }
  };

  return {
    pid,
    qemu,
    legacy: () => [],
    qusb: () => qusb,
    alive: () => alive,
    async start(on) {
      store = on;
      alive = true;
      writeCommandLine(proc, pid, stub === null ? commandLine(options, sockets) : proxyLine(domid, stub, sockets.libxl));
      await qemu.start();
      await pending.wait(delays.spawnMs);
      if (!alive) return;
      serve("console", on);
      plain("console", on);
      serve("vkbd", on);
      if (hvm) {
        plain("vkbd", on);
        qemu.addXenUsb("xen-vkbd-0", 0);
      }
      serve("9pfs", on);
      serve("qusb", on);
      const { hostDevices: devices } = options;
      if (stub === null) qusb = createQusbBackend({ store: on, domid, qemu, devices, pending, lookMs: delays.lookMs });
      for (const kind of hvm ? [] : ["vfb", "qnic"]) serve(kind, on);
      on.write(`${base}/state`, "running");
    },
    async end(how) {
      if (!alive) return;
      alive = false;
      qusb?.stop();
      qusb = null;
      store?.close();
      removeProcess(proc, pid);
      await qemu[how]();
    },
  };
}

/** qemu-xen-traditional: no QMP, but a command channel in xenstore. */
export function createTraditionalModel({ domid, name, pid, proc, hostDevices, pending, delays }: DeviceModelOptions): DeviceModel {
  let channel: Traditional | null = null;
  let store: LocalStore | null = null;
  const find = (device: string): SimHostDevice | undefined => {
    const [, bus, address] = /^host:(\d+)\.(\d+)$/.exec(device) ?? [];
    const [, vendor, product] = /^host:([0-9a-f]{1,4}):([0-9a-f]{1,4})$/i.exec(device) ?? [];
    const same = (text: string | undefined, id: string): boolean => Number.parseInt(text ?? "", 16) === Number.parseInt(id, 16);
    return [...hostDevices()].find((one) =>
      bus === undefined
        ? same(vendor, one.vendor) && same(product, one.product)
        : one.bus === Number(bus) && one.address === Number(address),
    );
  };
  return {
    pid,
    qemu: null,
    qusb: () => null,
    legacy: () =>
      (channel?.devices() ?? []).flatMap((device) => {
        const found = find(device);
        return found === undefined ? [] : [`${String(found.bus)}-${found.port}`];
      }),
    alive: () => channel !== null,
    async start(on) {
      store = on;
      writeCommandLine(proc, pid, ["/usr/lib/xen/bin/qemu-dm", "-d", String(domid), "-domain-name", name, "-usb", "-M", "xenfv"]);
      const canOpen = (device: string): boolean => find(device)?.openable === true;
      channel = createTraditional({ store: on, domid, pending, lookMs: delays.lookMs, canOpen });
      await pending.wait(delays.spawnMs);
      on.write(`${modelPath(domid)}/state`, "running");
    },
    end() {
      channel?.stop();
      channel = null;
      store?.close();
      removeProcess(proc, pid);
      return Promise.resolve();
    },
  };
}

const removeProcess = (proc: string, pid: number): void => rmSync(join(proc, String(pid)), { recursive: true, force: true });
/** What stands in dom0 for a device model in a stub domain. */
const proxyLine = (domid: number, stub: number, socket: string): readonly string[] => [
  "/usr/lib/xen/bin/vchan-socket-proxy",
  `--state-path=/local/domain/0/device-model/${String(stub)}/qmp-proxy-state`,
  String(stub),
  `/local/domain/${String(stub)}/device-model/${String(domid)}/qmp-vchan`,
  socket,
];

/** As /proc has it: each argument ended by a NUL. */
function writeCommandLine(proc: string, pid: number, words: readonly string[]): void {
  mkdirSync(join(proc, String(pid)), { recursive: true });
  writeFileSync(join(proc, String(pid), "cmdline"), words.map((word) => `${word}\0`).join(""));
}

function commandLine(
  { domid, name, type, monitor, memoryMb, deviceArguments }: DeviceModelOptions,
  sockets: { readonly libxl: string; readonly libxenstat: string },
): readonly string[] {
  const monitors = [
    ["libxl-cmd", sockets.libxl],
    ["libxenstat-cmd", sockets.libxenstat],
  ].flatMap(([id = "", path = ""]) => [
    "-chardev",
    `socket,id=${id},path=${path},server=on,wait=off`,
    "-mon",
    `chardev=${id},mode=control`,
  ]);
  return [
    "/usr/libexec/xen-qemu-system-i386",
    "-xen-domid",
    String(domid),
    "-no-shutdown",
    ...monitors,
    "-nodefaults",
    "-no-user-config",
    ...(type === "hvm" ? [] : ["-xen-attach"]),
    "-name",
    name, // for good, whatever the domain is called later
    "-vnc",
    "none",
    "-display",
    "none",
    ...deviceArguments,
    ...(type === "hvm" ? ["-boot", "order=cda", "-net", "none"] : ["-nographic"]),
    "-machine",
    type === "hvm" ? "xenfv,suppress-vmdesc=on" : "xenpv",
    "-m",
    String(memoryMb),
    ...(monitor === null ? [] : ["-qmp", `unix:${monitor},server=on,wait=off`]),
  ];
}
