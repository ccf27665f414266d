/** Xenstoreds for the contract suite: the fake one in both its ways, and the real ones where they are installed, behind one interface. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createFakeXenstored } from "../../src/sim/xenstored.ts";
import { eventually } from "./eventually.ts";

export type TestXenstored = {
  /** With an empty store. */
  start(): Promise<void>;
  /** SIGKILL: the socket file stays, the store is lost. */
  kill(): Promise<void>;
};
export type XenstoredKind = {
  readonly title: string;
  readonly like: "c" | "ocaml";
  /** Why it cannot run here; null: it can. */
  readonly missing: string | null;
  /** @param dir - empty; its socket is `socket` in there */
  create(dir: string): TestXenstored;
};

const fake = (like: "c" | "ocaml"): XenstoredKind => ({
  title: `simulator as ${like === "c" ? "C xenstored" : "oxenstored"}`,
  like,
  missing: null,
  create: (dir) => createFakeXenstored({ path: join(dir, "socket"), like }),
});

const binDir = (): string | null => {
  const versions = existsSync("/usr/lib") ? readdirSync("/usr/lib").filter((name) => /^xen-4\.\d+$/.test(name)) : [];
  return versions.map((name) => `/usr/lib/${name}/bin`).find((dir) => existsSync(join(dir, "xenstored"))) ?? null;
};

let standin: string | null = null;
/** Compiles the stand-in once, when the first daemon is made. @returns its path */
function compiledStandin(): string {
  if (standin === null) {
    standin = mkdtempSync(join(tmpdir(), "plugherd-standin-"));
    const out = join(standin, "standin.so");
    const made = spawnSync("gcc", ["-shared", "-fPIC", "-O1", "-w", "-o", out, "test/support/xenstored/standin.c", "-ldl"], {
      encoding: "utf8",
    });
    if (made.status !== 0) throw new Error(`the stand-in does not compile: ${made.stderr}`);
  }
  return join(standin, "standin.so");
}
export function removeStandin(): void {
  if (standin !== null) rmSync(standin, { recursive: true, force: true });
  standin = null;
}

function real(like: "c" | "ocaml"): XenstoredKind {
  const name = like === "c" ? "xenstored" : "oxenstored";
  const title = like === "c" ? "C xenstored" : "oxenstored";
  const bin = binDir();
  const none = (missing: string): XenstoredKind => ({
    title,
    like,
    missing,
    create: () => {
      throw new Error(missing);
    },
  });
  if (bin === null || !existsSync(join(bin, name))) return none("no xen-utils");
  if (like === "ocaml" && spawnSync("unshare", ["-m", "true"]).status !== 0) return none("no mount namespace");
  if (!existsSync("/usr/include/xenctrl.h")) return none("no libxen-dev");
  if (spawnSync("gcc", ["--version"]).status !== 0) return none("no gcc");
  return { title, like, missing: null, create: (dir) => runReal(like, join(bin, name), compiledStandin(), dir) };
}

function runReal(like: "c" | "ocaml", program: string, preload: string, dir: string): TestXenstored {
  const socket = join(dir, "socket");
  let child: ChildProcess | null = null;
  const launch = (): ChildProcess => {
    const env = { ...process.env, SHIM_DIR: dir, XENSTORED_RUNDIR: dir, XENSTORED_PATH: socket };
    if (like === "c") return spawn(program, ["-N"], { env: { ...env, LD_PRELOAD: preload }, stdio: "ignore" });
    mkdirSync("/run/xenstored", { recursive: true });
    const settings = /^ *#?(pid-file|xenstored-log-file|access-log-file|xenstored-kva|xenstored-port|persistent)/;
    const kept = readFileSync("/etc/xen/oxenstored.conf", "utf8")
      .split("\n")
      .filter((line) => !settings.test(line));
    const ours = [
      `pid-file = ${dir}/pidfile`,
      `xenstored-log-file = ${dir}/xs.log`,
      `access-log-file = ${dir}/access.log`,
      `xenstored-kva = ${dir}/kva`,
      `xenstored-port = ${dir}/port`,
      "persistent = false",
    ];
    writeFileSync(join(dir, "ox.conf"), `${[...kept, ...ours].join("\n")}\n`);
    const script = 'mount --bind "$1" /run/xenstored && exec env LD_PRELOAD="$2" "$3" --no-fork --config-file "$1/ox.conf"';
    return spawn("unshare", ["-m", "bash", "-c", script, "bash", dir, preload, program], { env, stdio: "ignore" });
  };
  return {
    async start() {
      writeFileSync(join(dir, "port"), "3");
      writeFileSync(join(dir, "kva"), new Uint8Array(4096));
      writeFileSync(join(dir, "domains"), "0 0 0 0\n");
      child = launch();
      await eventually(() => openRaw(socket).then((raw) => raw.close() ?? true));
    },
    async kill() {
      const ending = child;
      child = null;
      if (ending === null || ending.exitCode !== null || ending.signalCode !== null) return;
      const gone = new Promise((resolve) => void ending.once("exit", resolve));
      ending.kill("SIGKILL");
      await gone;
    },
  };
}

export const xenstoredKinds = (): readonly XenstoredKind[] => [fake("c"), fake("ocaml"), real("c"), real("ocaml")];

export type RawClient = {
  /** One request, answered; strings are cut at NULs. @returns `OK`, an error's name, or the payload with `|` for NUL */
  ask(type: number, payload: string, txId?: number): Promise<string>;
  /** Everything heard, in order: the answers as above, events as `! path token`. */
  readonly heard: readonly string[];
  close(): void;
};
/** A plain second client, so that what a test sees does not come through the code under test. */
export function openRaw(path: string): Promise<RawClient> {
  return new Promise((resolve, reject) => {
    const heard: string[] = [];
    const waiting: ((text: string) => void)[] = [];
    let held = Buffer.alloc(0);
    const socket = connect({ path }, () => {
      resolve({
        heard,
        close: () => void socket.destroy(),
        ask: (type, payload, txId = 0) =>
          new Promise((done) => {
            const body = Buffer.from(payload);
            const head = Buffer.alloc(16);
            [type, 1, txId, body.length].forEach((value, i) => void head.writeUInt32LE(value, 4 * i));
            waiting.push(done);
            socket.write(Buffer.concat([head, body]));
          }),
      });
    });
    socket.on("error", reject);
    socket.on("data", (bytes: Buffer) => {
      held = Buffer.concat([held, bytes]);
      while (held.length >= 16 && held.length >= 16 + held.readUInt32LE(12)) {
        const text = held
          .subarray(16, 16 + held.readUInt32LE(12))
          .toString()
          .replace(/\0$/, "")
          .replaceAll("\0", "|");
        const event = held.readUInt32LE(0) === 15;
        held = held.subarray(16 + held.readUInt32LE(12));
        heard.push(event ? `! ${text.replace("|", " ")}` : text);
        if (!event) waiting.shift()?.(text);
      }
    });
  });
}
