/** The emulated machine that the test host runs in: an outer QEMU under TCG whose USB bus is our hand on the cable. */
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createAgent, type Agent } from "./agent.ts";
import { openQmp, type Qmp } from "./qmp.ts";
import { sleep, until } from "./waiting.ts";

/**
 * `kvm`: a Linux host for plain QEMU domains (the inner QEMUs run under TCG too); `xen`: Xen with the same root as dom0 and oxenstored;
 * `xen-c`: the same with the C xenstored.
 */
export type Mode = "kvm" | "xen" | "xen-c";

export type MachineOptions = {
  readonly mode: Mode;
  /** Directory with rootfs.ext4, vmlinux, initrd, xen. */
  readonly images: string;
  /** A qcow2 overlay of the root file system; changed by the run. */
  readonly disk: string;
  /** Snapshot in that overlay to start from; null: boots. */
  readonly snapshot: string | null;
};

export type Machine = {
  readonly agent: Agent;
  readonly outer: Qmp;
  /** Plugs a device in: `driver` and `props` are QEMU's (port, serial, …); a backing file or chardev is made where one is needed. */
  plug(id: string, driver: string, props?: Readonly<Record<string, unknown>>): Promise<void>;
  /** Pulls it out; resolves when it is gone from the bus. */
  unplug(id: string): Promise<void>;
  /** The last bytes that the host's kernel and init wrote on the console. */
  consoleTail(bytes?: number): string;
  stop(): Promise<void>;
};

/** Part of a snapshot's identity: a snapshot can be restored only by a machine of the same make. */
export const machineShape = {
  cpu: "qemu64,+svm,+npt,+ssse3,+sse4.1,+sse4.2,+popcnt,+aes,+rdrand",
  smp: "2",
  memoryMib: { kvm: 1536, xen: 3072, "xen-c": 3072 },
  dom0Mib: 1536,
  usb: "qemu-xhci,id=xhci,p2=8,p3=8",
} as const;

const BOOT_MS = 180_000;
const COMMON_ARGS = "quiet net.ifnames=0 mitigations=off";

const kernelArgs = ({ mode, images }: MachineOptions): string[] =>
  mode === "kvm"
    ? ["-kernel", join(images, "vmlinux"), "-initrd", join(images, "initrd"), "-append", `console=ttyS0 root=/dev/vda ${COMMON_ARGS}`]
    : [
        ...["-kernel", join(images, "xen"), "-append"],
        `console=com1 com1=115200,8n1 dom0_mem=${String(machineShape.dom0Mib)}M,max:${String(machineShape.dom0Mib)}M loglvl=warning`,
        ...[
          "-initrd",
          `${join(images, "vmlinux")} console=hvc0 ${COMMON_ARGS}${mode === "xen-c" ? " xenstored=c" : ""},${join(images, "initrd")}`,
        ],
      ];

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  server.close();
  await once(server, "close");
  if (address === null || typeof address === "string") throw new Error("no free port");
  return address.port;
}

/** Starts the machine and waits until a first command was answered. */
export async function startMachine(options: MachineOptions): Promise<Machine> {
  const run = mkdtempSync(join(tmpdir(), "plugherd-e2e-"));
  const consolePath = join(run, "console.log");
  const port = await freePort();
  const { cpu, smp, memoryMib, usb } = machineShape;
  const child = spawn(
    "qemu-system-x86_64",
    [
      ...["-name", `plugherd-e2e-${options.mode}`, "-machine", "pc", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", cpu, "-smp", smp],
      ...["-m", String(memoryMib[options.mode]), "-display", "none", "-vga", "none", "-nodefaults", "-no-reboot"],
      ...["-drive", `file=${options.disk},format=qcow2,if=none,id=root,cache=unsafe`, "-device", "virtio-blk-pci,drive=root"],
      ...["-netdev", `user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:${String(port)}-:2222`],
      ...["-device", "virtio-net-pci,netdev=n0,romfile=", "-device", usb],
      ...["-serial", `file:${consolePath}`, "-qmp", `unix:${run}/qmp.sock,server=on,wait=off`],
      ...kernelArgs(options),
      ...(options.snapshot === null ? [] : ["-loadvm", options.snapshot]),
    ],
    { stdio: ["ignore", "ignore", "pipe"] },
  );
  const end = (): void => {
    child.kill("SIGKILL");
  };
  process.once("exit", end);
  let complaint = "";
  let ended = false;
  child.stderr.setEncoding("utf8").on("data", (chunk: string) => {
    complaint = (complaint + chunk).slice(-4_000);
  });
  child.on("error", (error) => {
    ended = true;
    complaint += error.message;
  });
  child.on("exit", () => {
    ended = true;
  });
  const consoleTail = (bytes = 4_000): string =>
    existsSync(consolePath) ? readFileSync(consolePath, "utf8").slice(-bytes).replaceAll("\r", "") : "";
  const stop = async (): Promise<void> => {
    if (!ended) {
      const exited = once(child, "exit");
      child.kill("SIGKILL");
      await exited;
    }
    process.off("exit", end);
    rmSync(run, { recursive: true, force: true });
  };
  const agent = createAgent(port);
  try {
    const alive = (): void => {
      if (ended) throw new Error(`the test host's machine ended: ${complaint}\n${consoleTail()}`);
    };
    const end = Date.now() + BOOT_MS;
    for (;;) {
      alive();
      // The forwarded port answers with a reset until the agent listens.
      const answer = await agent.run("echo shell-ok", 15_000).catch((error: unknown) => ({ rc: -1, out: String(error) }));
      if (answer.rc === 0 && answer.out.includes("shell-ok")) break;
      if (Date.now() > end) throw new Error(`the test host does not answer: ${answer.out}\n${consoleTail()}`);
      await sleep(100);
    }
    const socket = connect(join(run, "qmp.sock"));
    await once(socket, "connect");
    const outer = await openQmp(socket);
    return { agent, outer, consoleTail, stop, ...cable(outer, run) };
  } catch (error) {
    await stop();
    throw error;
  }
}

function cable(outer: Qmp, run: string): Pick<Machine, "plug" | "unplug"> {
  const backends = new Set<string>();
  const backend = async (id: string, driver: string): Promise<Record<string, unknown>> => {
    const storage = driver === "usb-storage";
    if (!storage && driver !== "usb-serial") return {};
    if (!backends.has(id)) {
      backends.add(id);
      if (storage) {
        const filename = join(run, `disk-${id}.img`);
        execFileSync("mke2fs", ["-q", "-t", "ext2", filename, "8M"]);
        await outer.call("blockdev-add", { driver: "raw", "node-name": `disk-${id}`, file: { driver: "file", filename } });
      } else await outer.call("chardev-add", { id: `chr-${id}`, backend: { type: "ringbuf", data: {} } });
    }
    return storage ? { drive: `disk-${id}` } : { chardev: `chr-${id}` };
  };
  return {
    plug: async (id, driver, props = {}) => {
      const device = { driver, id, bus: "xhci.0", ...(await backend(id, driver)), ...props };
      // The medium of a stick that was just pulled is released a moment after the event of its removal.
      await until(
        `${id} can be plugged`,
        async () => {
          await outer.call("device_add", device);
          return true;
        },
        { timeoutMs: 3_000, everyMs: 20 },
      );
    },
    unplug: async (id) => {
      const gone = outer.event(({ event, data }) => event === "DEVICE_DELETED" && data["device"] === id);
      await Promise.all([outer.call("device_del", { id }), gone]);
    },
  };
}
