/** The command as a process: signals, exit codes, sockets left behind, pipes; and the real daemon's answers against the live API's schema. */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { Ajv2020 } from "ajv/dist/2020.js";
import ts from "typescript";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { eventually } from "./support/eventually.ts";

let built: string;
let dir: string;
const children = new Set<ChildProcess>();

const sources = (at: string): string[] =>
  readdirSync(at).flatMap((name) =>
    statSync(join(at, name)).isDirectory() ? sources(join(at, name)) : name.endsWith(".ts") ? [join(at, name)] : [],
  );

beforeAll(() => {
  built = mkdtempSync(join(tmpdir(), "plugherd-dist-"));
  for (const file of sources("src")) {
    const { outputText } = ts.transpileModule(readFileSync(file, "utf8"), {
      compilerOptions: {
        target: ts.ScriptTarget.ES2023,
        module: ts.ModuleKind.ESNext,
        verbatimModuleSyntax: true,
        rewriteRelativeImportExtensions: true,
      },
    });
    const place = join(built, file.replace(/^src/, "dist").replace(/\.ts$/, ".js"));
    mkdirSync(dirname(place), { recursive: true });
    writeFileSync(place, outputText);
  }
  for (const name of ["node_modules", "specs", "package.json"]) symlinkSync(resolve(name), join(built, name));
});
afterAll(() => rmSync(built, { recursive: true, force: true }));
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "plugherd-run-"));
});
afterEach(async () => {
  for (const child of children) {
    child.kill("SIGKILL");
    await eventually(() => child.exitCode !== null || child.signalCode !== null);
  }
  children.clear();
  rmSync(dir, { recursive: true, force: true });
});

type Started = {
  readonly child: ChildProcess;
  readonly out: () => string;
  readonly err: () => string;
  readonly ended: Promise<number | null>;
};
function start(argv: readonly string[], env: Record<string, string> = {}): Started {
  const child = spawn(process.execPath, [join(built, "dist/interfaces/cli/main.js"), ...argv], {
    env: { ...process.env, NO_COLOR: "1", ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  children.add(child);
  let out = "";
  let err = "";
  child.stdout?.on("data", (chunk: Buffer) => {
    out += chunk.toString();
  });
  child.stderr?.on("data", (chunk: Buffer) => {
    err += chunk.toString();
  });
  const ended = new Promise<number | null>((done) => child.on("close", (code) => done(code)));
  return { child, out: () => out, err: () => err, ended };
}
async function run(argv: readonly string[]): Promise<{ code: number | null; out: string; err: string }> {
  const { ended, out, err } = start(argv);
  return { code: await ended, out: out(), err: err() };
}

const api = (): string => join(dir, "run", "api.sock");
const options = (): string[] => [
  ...["specs", "qmp-dir", "sysfs", "dev", "proc", "state"].flatMap((name) => [`--${name}`, join(dir, name)]),
  ...[
    "--policy",
    join(dir, "policy.yaml"),
    "--qmp-listen",
    join(dir, "run", "monitor.sock"),
    "--xenstore",
    join(dir, "xenstore"),
    "--xen-lib",
    join(dir, "xen"),
    "--xl",
    join(dir, "xl"),
    "--api",
    api(),
  ],
];
const started = ({ err }: Started): Promise<boolean> => eventually(() => err().includes(" runs "), { timeoutMs: 20_000 });
const FILE =
  'apiVersion: plugherd/v1\nkind: Domain\nmetadata: { name: win10 }\nspec:\n  domain: { name: win10 }\n  devices:\n    - { name: dongle, usb: { vendor: "0529" } }\n';

describe("run", () => {
  test("starts with every path missing, notices what appears, and ends cleanly", async () => {
    const daemon = start(["run", ...options()]);
    await started(daemon);
    mkdirSync(join(dir, "specs"), { recursive: true });
    writeFileSync(join(dir, "specs", "win10.yaml"), FILE);
    await eventually(async () => (await run(["get", "devices", "-o", "name", "--api", api()])).out === "win10/dongle\n", {
      timeoutMs: 20_000,
    });
    daemon.child.kill("SIGTERM");
    expect(await daemon.ended).toBe(0);
    expect(existsSync(api())).toBe(false);
    expect(daemon.err()).toContain("devices stay attached");
  });

  test("a second one ends with 5 and names the first; a dead one's socket is taken over", async () => {
    const first = start(["run", ...options()]);
    await started(first);
    const second = await run(["run", ...options()]);
    expect(second.code).toBe(5);
    expect(second.err).toContain(`${api()} is answered by plugherd, process ${String(first.child.pid)}`);
    first.child.kill("SIGKILL");
    await first.ended;
    expect(existsSync(api())).toBe(true);
    const third = start(["run", ...options()]);
    await started(third);
    expect((await run(["get", "domains", "--api", api()])).code).toBe(0);
    third.child.kill("SIGINT");
    expect(await third.ended).toBe(0);
  });

  test("a monitor socket that somebody answers on ends the start with 5 too, and the holder named", async () => {
    mkdirSync(join(dir, "run"));
    const other = createServer();
    await new Promise<void>((listening) => other.listen(join(dir, "run", "monitor.sock"), () => listening()));
    const refused = await run(["run", ...options().filter((word, i, all) => word !== "--proc" && all[i - 1] !== "--proc")]);
    await new Promise((closed) => other.close(closed));
    expect(refused.code).toBe(5);
    expect(refused.err).toContain("monitor.sock is answered by ");
    expect(refused.err).toContain(`(process ${String(process.pid)})`);
    expect(existsSync(api())).toBe(false);
  });

  test("takes its settings from options, then the environment, then the config file", async () => {
    const config = join(dir, "plugherd.yaml");
    writeFileSync(config, `api: ${join(dir, "config.sock")}\nlogLevel: error\nlog-format: json\n`);
    const daemon = start(["run", ...options().slice(0, -2), "--config", config], {
      PLUGHERD_API: join(dir, "env.sock"),
      PLUGHERD_LOG_LEVEL: "info",
    });
    await eventually(() => existsSync(join(dir, "env.sock")), { timeoutMs: 20_000 });
    await eventually(() => daemon.err().includes("\n"));
    expect(JSON.parse(daemon.err().split("\n")[0] ?? "")).toMatchObject({ level: "info" });
    daemon.child.kill("SIGTERM");
    expect(await daemon.ended).toBe(0);
    writeFileSync(config, "spec: /x\n");
    expect(await run(["run", "--config", config])).toMatchObject({
      code: 2,
      err: `plugherd: ${config}:1: there is no setting "spec"; did you mean specs?\n`,
    });
    expect((await run(["run", "--config", join(dir, "none.yaml")])).code).toBe(5);
    writeFileSync(config, 'specs: "/x\\0y"\n');
    expect((await run(["run", "--config", config])).code).toBe(2);
    expect(await run(["run", "--qmp-listen", ""])).toMatchObject({
      code: 2,
      err: expect.stringContaining("--qmp-listen is empty") as string,
    });
  });

  test("goes on when nobody reads its log any more", async () => {
    const daemon = start(["run", ...options()]);
    await started(daemon);
    daemon.child.stderr?.destroy();
    mkdirSync(join(dir, "specs"), { recursive: true });
    // A policy that is bad is told in the log.
    writeFileSync(join(dir, "policy.yaml"), "bad: [");
    await eventually(async () => (await run(["describe", "--api", api()])).out.includes("InvalidPolicy"), { timeoutMs: 20_000 });
    daemon.child.kill("SIGTERM");
    expect(await daemon.ended).toBe(0);
    expect(daemon.child.signalCode).toBe(null);
  });

  test("a reader that stops reading is no error", async () => {
    const child = start(["completion", "zsh"]);
    child.child.stdout?.destroy();
    expect(await child.ended).toBe(0);
  });
});

describe("demo", () => {
  const ajv = new Ajv2020({ allErrors: true, allowUnionTypes: true });
  ajv.addSchema(JSON.parse(readFileSync("specs/live-api.schema.json", "utf8")) as object, "api");
  const expectShape = (definition: string, text: string): void => {
    const check = ajv.compile({ $ref: `api#/$defs/${definition}` });
    check(JSON.parse(text));
    expect(check.errors ?? []).toEqual([]);
  };

  test("tells each change with domain, device and phase, has the API open, and leaves nothing behind", async () => {
    const demo = start(["demo", "--speed", "600"]);
    await eventually(() => /win10\/licence-dongle {2}Attached {2}\[1-1\.1\]/.test(demo.out()), { timeoutMs: 20_000 });
    const socket = /--api (\S+)/.exec(demo.out())?.[1] ?? "";
    for (const kind of ["devices", "domains", "host"]) expectShape(kind, (await run(["get", kind, "-o", "json", "--api", socket])).out);
    expectShape("events", (await run(["events", "-o", "json", "--api", socket])).out);
    expectShape("explanations", (await run(["explain", "licence-dongle", "-o", "json", "--api", socket])).out);
    expect((await run(["describe", "licence-dongle", "--api", socket])).out).toMatch(/\nWhy\n[\s\S]*\nNext\n/);
    const watching = start(["watch", "-o", "json", "--api", socket]);
    await eventually(() => watching.out().split("\n").length > 8, { timeoutMs: 20_000 });
    for (const line of watching.out().split("\n").slice(4, -1)) expectShape("change", line);
    watching.child.kill("SIGINT");
    expect(await watching.ended).toBe(0);
    demo.child.kill("SIGINT");
    expect(await demo.ended).toBe(0);
    expect(demo.err()).toBe("");
    expect(existsSync(resolve(dirname(socket), ".."))).toBe(false);
  });
});
