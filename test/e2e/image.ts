/** The test host's image and the snapshots that cases start from. Both are made once and kept in the work directory under a key of what they are made of. */
import { execFileSync, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Agent } from "./agent.ts";
import { createHost } from "./host.ts";
import { guestConsole, startScript } from "./inner.ts";
import { machineShape, startMachine, type Machine, type Mode } from "./machine.ts";
import { until } from "./waiting.ts";
import { HVM1, PV1, xenConfig } from "./xen-config.ts";

/**
 * `bare`: the host just booted. `guest`: an inner QEMU named `guest` runs a Linux of its own, which has started. `guests`: on Xen, a PV domain
 * with a qusb controller and an HVM domain without any (xen-config.ts) run a Linux of their own each, both started.
 */
export type Start = "bare" | "guest" | "guests";

export type Workshop = {
  /** A fresh host from the snapshot, which has the program in /opt/plugherd; a restored clock stands where it was saved, so it is set. */
  fresh(mode: Mode, start: Start): Promise<Machine>;
};

type Say = (line: string) => void;

const SNAPSHOT = "ready";
const KEY_LENGTH = 16;
const BUILD_MS = 900_000;
const WARM_MS = 300_000;

/**
 * @param project - the project's root; `dist` and the production part of `node_modules` are what is put in the host
 * @param work - the work directory: `img`, `root` and `snap` are kept in it
 */
export function openWorkshop(project: string, work: string, say: Say): Workshop {
  const testbed = join(project, "test/e2e/testbed");
  const images = join(work, "img");
  const snaps = join(work, "snap");
  mkdirSync(snaps, { recursive: true });
  const imageKey = hashOf([...filesBelow(testbed).map((file) => readFileSync(file)), process.version]);
  buildImage({ testbed, work, images, imageKey, say });
  const program = programTar(project);
  const qemu = execFileSync("qemu-system-x86_64", ["--version"]);

  /** Makes a snapshot unless it is there: starts `from` another one or boots, runs `ready`, saves. */
  const snapshot = async (
    name: string,
    key: readonly (string | Uint8Array)[],
    mode: Mode,
    from: (() => Promise<string>) | null,
    ready: (machine: Machine) => Promise<unknown>,
  ): Promise<string> => {
    const path = join(snaps, `${name}@${hashOf([imageKey, qemu, JSON.stringify(machineShape), mode, ...key])}.qcow2`);
    if (existsSync(path)) return path;
    const base = await from?.();
    const began = Date.now();
    const making = `${path}.making`;
    rmSync(making, { force: true });
    if (base === undefined)
      execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", "-b", join(images, "rootfs.ext4"), "-F", "raw", making]);
    else copyFileSync(base, making);
    const machine = await startMachine({ mode, images, disk: making, snapshot: base === undefined ? null : SNAPSHOT });
    try {
      if (base !== undefined) await setClock(machine);
      await ready(machine);
      const answer = await machine.outer.call("human-monitor-command", { "command-line": `savevm ${SNAPSHOT}` });
      if (answer !== "") throw new Error(`savevm: ${String(answer)}`);
    } finally {
      await machine.stop();
    }
    for (const old of readdirSync(snaps)) if (old.startsWith(`${name}@`) && !old.endsWith(".making")) rmSync(join(snaps, old));
    renameSync(making, path);
    say(`made the snapshot "${name}" (${seconds(began)})`);
    return path;
  };
  // What takes long to start is kept apart from the program, which changes often.
  const booted = (mode: Mode): Promise<string> => snapshot(`${mode}-booted`, [], mode, null, ({ agent }) => agent.run("sync"));
  const started = (mode: Mode, start: Start): Promise<string> => {
    if (start === "bare") return booted(mode);
    const { key, run } = MAKE_READY[start];
    return snapshot(`${mode}-${start}-started`, [key], mode, () => booted(mode), run);
  };
  const snapshotOf = (mode: Mode, start: Start): Promise<string> =>
    snapshot(
      `${mode}-${start}`,
      [program, INSTALL, WARM, start === "bare" ? "" : MAKE_READY[start].key],
      mode,
      () => started(mode, start),
      async ({ agent }) => {
        // The program and its interpreter, put in and read once here, save every case that and a cold start.
        await agent.put("/opt/plugherd", program);
        await agent.run(`${INSTALL}\n${WARM}\n[ -d /proc/xen/ ] && { ${WARM_XEN}; }; sync`, WARM_MS);
      },
    );

  return {
    fresh: async (mode, start) => {
      const disk = join(work, "disk.qcow2");
      copyFileSync(await snapshotOf(mode, start), disk);
      const machine = await startMachine({ mode, images, disk, snapshot: SNAPSHOT });
      try {
        await setClock(machine);
        return machine;
      } catch (error) {
        await machine.stop();
        throw error;
      }
    },
  };
}

/** A restored clock stands where it was saved. */
async function setClock({ agent }: Machine): Promise<void> {
  await agent.run(`date -s @${(Date.now() / 1000).toFixed(3)} >/dev/null`);
}

/** The program's command is a wrapper: its interpreter is the host's own Node. */
const INSTALL = [
  "mkdir -p /var/log/e2e /run/witness /etc/plugherd/domains /run/plugherd/qmp",
  "printf '#!/bin/sh\\nexec node /opt/plugherd/dist/interfaces/cli/main.js \"$@\"\\n' > /usr/local/bin/plugherd",
  "chmod +x /usr/local/bin/plugherd",
].join("\n");

function buildImage(of: { testbed: string; work: string; images: string; imageKey: string; say: Say }): void {
  const stamp = join(of.images, "key");
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === of.imageKey) return;
  const began = Date.now();
  of.say("building the test host's image (about a minute)");
  const built = spawnSync("bash", [join(of.testbed, "build-image.sh"), of.work], { encoding: "utf8", timeout: BUILD_MS });
  if (built.status !== 0) throw new Error(`the image could not be built:\n${`${built.stdout}${built.stderr}`.slice(-4_000)}`);
  writeFileSync(stamp, of.imageKey);
  of.say(`built the test host's image (${seconds(began)})`);
}

/** `dist`, package.json, the shipped specs and the production dependencies, as npm's own tree names them. */
function programTar(project: string): Buffer {
  const tree = spawnSync("npm", ["ls", "--omit=dev", "--all", "--parseable", "--silent"], { cwd: project, encoding: "utf8" });
  const modules = [...new Set(tree.stdout.split("\n"))].filter((path) => path.startsWith(`${project}/node_modules/`));
  const paths = ["package.json", "dist", "specs", "test/e2e/guest", ...modules.map((path) => path.slice(project.length + 1))];
  const present = paths.filter((path) => existsSync(join(project, path)));
  if (!present.includes("dist")) throw new Error("there is no dist; run `npm run build` first");
  // The same bytes for the same program: its hash is part of a snapshot's key.
  return execFileSync(
    "tar",
    ["c", "--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--exclude=*.map", "--exclude=*.md", "--exclude=*.d.ts", ...present],
    {
      cwd: project,
      maxBuffer: 256 << 20,
    },
  );
}

const filesBelow = (dir: string): string[] =>
  readdirSync(dir)
    .sort()
    .flatMap((name) => {
      const path = join(dir, name);
      return statSync(path).isDirectory() ? filesBelow(path) : [path];
    });
const hashOf = (parts: readonly (string | Uint8Array)[]): string => {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part).update("\0");
  return hash.digest("hex").slice(0, KEY_LENGTH);
};
const seconds = (since: number): string => `${((Date.now() - since) / 1000).toFixed(0)} s`;

/** What cases run, read once. */
const WARM =
  "plugherd validate /opt/plugherd/specs/examples/minimal.yaml; socat -h >/dev/null; python3 -c 'import json, socket, struct, threading'";
const WARM_XEN = "xl list -v; xl usb-list 0; xenstore-ls -fp /libxl";

/** The domain of the `guest` snapshot. Its controller is there from the start: a new one costs an emulated machine in an emulated machine long. */
const GUEST = "guest";
const GUEST_START = startScript(GUEST, { linux: true, extra: ["-device", "qemu-xhci,id=xhci"] });
const GUEST_BOOT_MS = 300_000;

async function bootGuest(agent: Agent): Promise<void> {
  const started = await agent.run(GUEST_START);
  if (started.rc !== 0) throw new Error(`the inner domain did not start: ${started.out}`);
  await until("the inner guest has booted", async () => (await agent.run(`grep -q 'DOMU ready' ${guestConsole(GUEST)}`)).rc === 0, {
    timeoutMs: GUEST_BOOT_MS,
    everyMs: 500,
  });
}

async function bootGuests(machine: Machine): Promise<void> {
  const { xen } = createHost(machine);
  // The HVM guest takes five times as long as the PV guest: both at once.
  await Promise.all([xen.domain(HVM1.name).boot(), xen.domain(PV1.name).boot()]);
}

/** How each start is made from the host that just booted; the key names what it is made of. */
const MAKE_READY: Readonly<Record<Exclude<Start, "bare">, { readonly key: string; readonly run: (machine: Machine) => Promise<void> }>> = {
  guest: { key: GUEST_START, run: ({ agent }) => bootGuest(agent) },
  guests: { key: [HVM1, PV1].map(({ name, config }) => xenConfig(name, config)).join("\n"), run: bootGuests },
};
