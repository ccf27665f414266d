/**
 * Domains for the contract suite: the fake QEMU, and every real one that is installed, behind one interface. A real one runs its own usb-host
 * on a libusb that reads its devices from a file (fakeusb). `PLUGHERD_QEMU_10`: path of a second QEMU, or of a wrapper that execs one.
 */
import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createFakeQemu, type FakeQemu } from "../../src/sim/qmp-server.ts";
import { eventually } from "./eventually.ts";

export type TestDevice = {
  readonly bus: number;
  readonly address: number;
  readonly port: string;
  readonly vendor: string;
  readonly product: string;
  readonly openable: boolean;
};
export type DeviceArgs = Readonly<Record<string, string | number | boolean>>;
export type TestQemuOptions = {
  /** Where its monitor listens. */
  readonly path?: string;
  /** Where it dials to instead. */
  readonly dial?: string;
  readonly name?: string;
  readonly uuid?: string;
  readonly machine?: "pc" | "q35";
  readonly running?: boolean;
  readonly usb?: boolean;
  readonly devices?: readonly DeviceArgs[];
};
export type TestQemu = {
  start(): Promise<void>;
  /** SIGTERM: its socket goes. */
  stop(): Promise<void>;
  /** SIGKILL: its socket stays behind. */
  kill(): Promise<void>;
  /** SIGSTOP, SIGCONT. */
  hang(on: boolean): void;
  /** Through another monitor. */
  addByOther(args: DeviceArgs): Promise<void>;
  removeByOther(id: string): Promise<void>;
  pause(): Promise<void>;
  resume(): Promise<void>;
  reset(): Promise<void>;
  /** Ids (anonymous: paths) of all usb-host objects. */
  usbHosts(): Promise<readonly string[]>;
};
export type QemuKind = {
  readonly title: string;
  /** Why it cannot run here; null: it can. */
  readonly missing: string | null;
  /** @param host - devices of the host, as they are at any moment */
  create(options: TestQemuOptions, host: TestHost): TestQemu;
};

/** The host's USB devices as both kinds of QEMU see them. */
export type TestHost = {
  devices(): readonly TestDevice[];
  set(devices: readonly TestDevice[]): void;
  readonly listFile: string;
  readonly dir: string;
};
export function createTestHost(): TestHost & { close(): void } {
  const dir = mkdtempSync(join(tmpdir(), "plugherd-qemu-"));
  const listFile = join(dir, "usb.txt");
  let now: readonly TestDevice[] = [];
  const set = (devices: readonly TestDevice[]): void => {
    now = devices;
    const lines = devices.map((d) => `${d.bus} ${d.address} ${d.port} ${d.vendor} ${d.product} 3 0 ${d.openable ? 0 : -3} 0 Test\n`);
    writeFileSync(listFile, lines.join(""));
  };
  set([]);
  return { devices: () => now, set, listFile, dir, close: () => rmSync(dir, { recursive: true, force: true }) };
}

const fake = (version: string): QemuKind => ({
  title: `simulator as ${version}`,
  missing: null,
  create: (options, host) => {
    const { dial, ...rest } = options;
    const qemu: FakeQemu = createFakeQemu({
      ...rest,
      version,
      hostDevices: () => host.devices().map((device) => ({ ...device, speed: 3, node: "/dev/null" })),
    });
    return {
      start: async () => {
        await qemu.start();
        if (dial !== undefined) qemu.dialTo(dial);
      },
      stop: () => qemu.stop(),
      kill: () => qemu.kill(),
      hang: (on) => qemu.hang(on),
      addByOther: async (args) => {
        const added = qemu.addByOther(args);
        if (!added.ok) throw new Error(added.error.desc);
      },
      removeByOther: async (id) => void qemu.removeByOther(id),
      pause: async () => qemu.pause(),
      resume: async () => qemu.resume(),
      reset: async () => qemu.reset(),
      usbHosts: async () =>
        qemu
          .objects()
          .filter(({ driver }) => driver === "usb-host")
          .map(({ id, path }) => id ?? path),
    };
  },
});

let library: string | Error | null = null;
let libraryDir: string | null = null;
export function removeFakeUsb(): void {
  if (libraryDir !== null) rmSync(libraryDir, { recursive: true, force: true });
  library = null;
  libraryDir = null;
}
/** The stand-in for libusb, compiled once a run; removeFakeUsb() when the run is over. */
function fakeUsbLibrary(): string | Error {
  if (library !== null) return library;
  const dir = mkdtempSync(join(tmpdir(), "plugherd-fakeusb-"));
  libraryDir = dir;
  const out = join(dir, "libfakeusb.so");
  const source = new URL("./fakeusb/fakeusb.c", import.meta.url).pathname;
  const built = spawnSync("gcc", ["-shared", "-fPIC", "-O1", "-w", "-I/usr/include/libusb-1.0", "-o", out, source, "-ldl"], {
    encoding: "utf8",
  });
  library = built.status === 0 ? out : new Error("gcc and libusb-1.0-0-dev are needed to run usb-host without a USB bus");
  return library;
}

function real(command: string | undefined, what: string): QemuKind {
  const shown = command === undefined ? null : versionOf(command);
  const usb = shown === null ? null : fakeUsbLibrary();
  return {
    title: shown === null ? what : `QEMU ${shown} (${command})`,
    missing: shown === null ? `${what} is not here` : usb instanceof Error ? usb.message : null,
    create: (options, host) => createReal(command ?? "", typeof usb === "string" ? usb : "", options, host),
  };
}
function versionOf(command: string): string | null {
  try {
    return (
      /version (\S+)/.exec(execFileSync(command, ["--version"], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }))?.[1] ?? null
    );
  } catch {
    return null;
  }
}

/** Every kind; those with `missing` are to be skipped, and say so. */
export const qemuKinds = (): readonly QemuKind[] => [
  fake("7.2.22"),
  fake("10.0.13"),
  real("qemu-system-x86_64", "QEMU (qemu-system-x86_64 in PATH)"),
  real(process.env["PLUGHERD_QEMU_10"], "a second QEMU (PLUGHERD_QEMU_10)"),
];

let controls = 0;
function createReal(command: string, usb: string, options: TestQemuOptions, host: TestHost): TestQemu {
  const { path, dial, name, uuid, machine = "pc", running = true, usb: builtIn = false, devices = [] } = options;
  controls += 1;
  const control = join(host.dir, `control-${String(controls)}.sock`);
  const json = (args: DeviceArgs): string =>
    Object.entries(args)
      .map(([key, value]) => `${key}=${String(value)}`)
      .join(",")
      .replace(/^driver=/, "");
  // `reconnect` has been gone since 10.x; `reconnect-ms` came with 9.2.
  const redial = Number.parseInt(versionOf(command) ?? "0", 10) >= 10 ? "reconnect-ms=200" : "reconnect=1";
  const args = [
    ["-M", machine, "-accel", "tcg", "-m", "32", "-display", "none", "-nodefaults", "-no-user-config"],
    ["-qmp", `unix:${control},server=on,wait=off`],
    path === undefined ? [] : ["-qmp", `unix:${path},server=on,wait=off`],
    dial === undefined ? [] : ["-chardev", `socket,id=ctl,path=${dial},${redial}`, "-mon", "chardev=ctl,mode=control"],
    name === undefined ? [] : ["-name", name],
    uuid === undefined ? [] : ["-uuid", uuid],
    running ? [] : ["-S"],
    builtIn ? ["-usb"] : [],
    ...devices.map((device) => ["-device", json(device)]),
  ].flat();
  let child: ChildProcess | null = null;
  let client: ControlClient | null = null;
  const end = async (signal: "SIGTERM" | "SIGKILL"): Promise<void> => {
    const ending = child;
    client?.close();
    client = null;
    child = null;
    if (ending === null || ending.exitCode !== null) return;
    const exited = new Promise((resolve) => ending.once("exit", resolve));
    ending.kill("SIGCONT");
    ending.kill(signal);
    await exited;
  };
  const ask = async (command: string, args?: object): Promise<unknown> => {
    if (client === null) throw new Error("this QEMU does not run");
    return await client.ask(command, args);
  };
  return {
    async start() {
      let said = "";
      child = spawn(command, args, {
        stdio: ["ignore", "ignore", "pipe"],
        env: { ...process.env, LD_PRELOAD: usb, FAKEUSB_LIST: host.listFile, FAKEUSB_LOG: join(host.dir, "usb.log") },
      });
      child.stderr?.on("data", (bytes: Buffer) => {
        said = (said + bytes.toString()).slice(-4000);
      });
      const started = child;
      await eventually(() => {
        if (started.exitCode !== null) throw new Error(`QEMU ended at its start: ${said}`);
        return existsSync(control) && (path === undefined || existsSync(path));
      });
      client = await eventually(() => openControl(control));
    },
    stop: () => end("SIGTERM"),
    kill: () => end("SIGKILL"),
    hang: (on) => void child?.kill(on ? "SIGSTOP" : "SIGCONT"),
    addByOther: async (device) => void (await ask("device_add", device)),
    removeByOther: async (id) => void (await ask("device_del", { id })),
    pause: async () => void (await ask("stop")),
    resume: async () => void (await ask("cont")),
    reset: async () => void (await ask("system_reset")),
    usbHosts: async () => {
      const parents = ["/machine/peripheral", "/machine/peripheral-anon"];
      const lists = (await Promise.all(parents.map((parent) => ask("qom-list", { path: parent })))) as { name: string; type: string }[][];
      return lists.flatMap((list, i) =>
        list.filter(({ type }) => type === "child<usb-host>").map((one) => (i === 0 ? one.name : `${parents[i] ?? ""}/${one.name}`)),
      );
    },
  };
}

type ControlClient = { ask(command: string, args?: object): Promise<unknown>; close(): void };
/** A plain second client, so that what a test sees does not come through the code under test. */
function openControl(path: string): Promise<ControlClient> {
  return new Promise((resolve, reject) => {
    const socket: Socket = connect({ path });
    const waiting = new Map<number, { done: (value: unknown) => void; fail: (cause: Error) => void }>();
    let text = "";
    let id = 0;
    const ask = (execute: string, args?: object): Promise<unknown> =>
      new Promise((done, fail) => {
        id += 1;
        waiting.set(id, { done, fail });
        socket.write(JSON.stringify({ execute, id, ...(args === undefined ? {} : { arguments: args }) }));
      });
    socket.once("error", reject);
    socket.on("close", () => {
      for (const { fail } of waiting.values()) fail(new Error("QEMU ended"));
    });
    socket.on("data", (bytes: Buffer) => {
      text += bytes.toString();
      const lines = text.split("\n");
      text = lines.pop() ?? "";
      for (const line of lines) {
        const message = JSON.parse(line) as { QMP?: object; id?: number; return?: unknown; error?: { desc: string } };
        if (message.QMP !== undefined) ask("qmp_capabilities").then(() => resolve({ ask, close: () => socket.destroy() }), reject);
        const call = message.id === undefined ? undefined : waiting.get(message.id);
        if (message.id !== undefined) waiting.delete(message.id);
        if (message.error !== undefined) call?.fail(new Error(message.error.desc));
        else call?.done(message.return);
      }
    });
  });
}
