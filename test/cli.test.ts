/** The commands in-process, against the real live API with a view that the test drives: output, exit codes, words. */
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { stripVTControlCharacters } from "node:util";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { parse } from "yaml";
import { formatDuration, parseDuration } from "../src/interfaces/cli/durations.ts";
import type { Io } from "../src/interfaces/cli/io.ts";
import { main } from "../src/interfaces/cli/program.ts";
import { selectorLines } from "../src/interfaces/cli/selector-lines.ts";
import { clip, textWidth } from "../src/interfaces/cli/text-width.ts";
import { type ApiServer, createApiServer } from "../src/interfaces/http/server.ts";
import { eventually } from "./support/eventually.ts";
import { claim, createFakeView, domain, type FakeView, hostDevice } from "./support/fake-view.ts";
import { silentLog } from "./support/logs.ts";

const noApp = (): never => {
  throw new Error("this test starts no daemon");
};

let dir: string;
let socket: string;
let view: FakeView;
let server: ApiServer;

const serve = async (): Promise<void> => {
  server = createApiServer({ view, log: silentLog, version: "1.2.3", socket, tcp: null });
  const started = await server.start();
  if (!started.ok) throw new Error(started.error);
};
beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), "plugherd-cli-"));
  socket = join(dir, "api.sock");
  view = createFakeView({
    domains: [domain("win10"), domain("build server", { labels: { site: "office" }, live: null })],
    devices: [
      claim("win10", "dongle"),
      claim("win10", "evil", { phase: "Denied", reason: "PolicyDenied", message: "\u001b[31mred\u0007 by rule x", guest: null }),
      claim("build server", "board", { phase: "WaitingForHost", message: "Nothing matches.", host: null, guest: null, cause: null }),
    ],
    host: [
      hostDevice("1-1.10", { serial: "123456", text: "Twin" }),
      hostDevice("1-1.4", {}, { holder: "win10", claims: [{ domain: "win10", name: "dongle", phase: "Attached" }] }),
      hostDevice("1-1", { hub: true, text: "Hub", vendor: "1d6b", product: "0002", serial: null }),
    ],
  });
  await serve();
});
afterEach(async () => {
  await server.stop();
  rmSync(dir, { recursive: true, force: true });
});

type Ran = { code: number; out: string; err: string };
type Options = { tty?: boolean; env?: Record<string, string>; stop?: AbortController; columns?: number };
function start(argv: readonly string[], { tty = false, env = {}, stop = new AbortController(), columns = 120 }: Options = {}) {
  const ran = { out: "", err: "" };
  const io: Io = {
    stdout: { write: (text) => (ran.out += text), isTTY: tty, columns, rows: 20 },
    stderr: { write: (text) => (ran.err += text), isTTY: tty, columns },
    env: { PLUGHERD_API: socket, ...env },
    now: () => Date.parse("2026-01-02T03:05:05Z"),
    stopping: () => stop.signal,
  };
  return { ran, stop, code: main(argv, io, { createApp: noApp }) };
}
const run = async (argv: readonly string[], options: Options = {}): Promise<Ran> => {
  const { ran, code } = start(argv, options);
  return { code: await code, ...ran };
};

describe("get", () => {
  test("devices -o json is exactly the array that the contract promises", async () => {
    const { code, out } = await run(["get", "devices", "-o", "json"]);
    expect(code).toBe(0);
    const rows = JSON.parse(out) as Record<string, unknown>[];
    expect(rows).toHaveLength(3);
    for (const row of rows)
      expect(Object.keys(row)).toEqual([
        "domain",
        "name",
        "phase",
        "reason",
        "message",
        "since",
        "tries",
        "nextTryAt",
        "step",
        "host",
        "guest",
        "cause",
      ]);
    expect(rows.find(({ name }) => name === "board")).toMatchObject({ host: null, guest: null, cause: null });
    expect(out).not.toContain("\u001b");
  });

  test("prints a table with a person's columns, and nothing that drives a terminal", async () => {
    const { out } = await run(["get"]);
    expect(out.split("\n")[0]?.split(/\s{2,}/)).toEqual(["DOMAIN", "NAME", "PHASE", "REASON", "HOST", "GUEST", "AGE", "MESSAGE"]);
    expect(out).toContain("1-1.4 0529:0001 SafeNet HASP HL");
    expect(out).toContain("hci0:1");
    expect(out).toContain("60s");
    expect(out).toContain("?[31mred? by rule x");
    expect(out.replaceAll("\n", "")).not.toMatch(/\p{Cc}/u);
  });

  test("colours on a terminal only, and not with NO_COLOR", async () => {
    expect((await run(["get"], { tty: true })).out).toContain("\u001b[32mAttached");
    expect((await run(["get"], { tty: true, env: { NO_COLOR: "1" } })).out).not.toContain("\u001b");
  });

  test.each([
    [["get", "domains", "-o", "name"], "build server\nwin10\n"],
    [["get", "devices", "-o", "name"], "build server/board\nwin10/dongle\nwin10/evil\n"],
    [["get", "host", "-o", "name"], "1-1\n1-1.4\n1-1.10\n"],
    [["get", "devices", "-o", "name", "--domain", "win10", "--phase", "denied"], "win10/evil\n"],
    [["get", "devices", "-o", "name", "-l", "site=office"], "build server/board\n"],
    [["get", "devices", "-o", "name", "-l", "site!=office,site"], "win10/dongle\nwin10/evil\n"],
    [["get", "domains", "-o", "name", "--label", "nothing"], ""],
  ])("%j", async (argv, expected) => {
    expect(await run(argv)).toMatchObject({ code: 0, out: expected });
  });

  test("yaml says the same as json", async () => {
    const [json, yaml] = [await run(["get", "devices", "-o", "json"]), await run(["get", "devices", "-o", "yaml"])];
    expect(parse(yaml.out)).toEqual(JSON.parse(json.out));
    expect(yaml.out).not.toContain("\u001b");
  });

  test("wide tells more; an empty answer says so on stderr", async () => {
    expect((await run(["get", "-o", "wide"])).out).toContain("ANCHOR");
    expect(await run(["get", "devices", "--phase", "Flapping"])).toEqual({ code: 0, out: "", err: "No devices.\n" });
  });
});

describe("what a person gets wrong", () => {
  test.each([
    [["gte"], "get"],
    [["get", "devises"], "devices"],
    [["get", "--fase", "Attached"], "--phase"],
    [["get", "--phase", "Atached"], "did you mean Attached?"],
    [["get", "--domain", "win11"], "Did you mean win10?"],
    [["get", "-o", "xml"], "table, wide, json, yaml, name"],
    [["get", "-l", "=x"], "key=value"],
    [["describe", "dongel"], "Did you mean dongle?"],
    [["describe", "dongle", "win1"], "Did you mean win10?"],
    [["describe", "board", "win10"], "It is an entry of build server."],
    [["explain", "dogle"], "Did you mean dongle?"],
    [["wait", "win1"], "Did you mean win10?"],
    [["wait", "dongle", "win10", "--for", "Atached"], "Did you mean Attached?"],
    [["wait", "win10", "--timeout", "10"], "write for example 90s"],
    [["detach", "dongle", "win10", "--hold", "soon"], "write for example 90s"],
    [["detach", "dongle"], "DOMAIN"],
    [["pause"], "DOMAIN"],
    [["approve", "dongle"], "approve takes DEVICE DOMAIN, or mass-detach"],
    [["events", "--limit", "0"], "whole number"],
    [["completion", "tcsh"], "bash, zsh, fish"],
    [["schema", "desird"], "desired-state"],
    [["plan", "/nowhere/at/all"], "There is no file or directory /nowhere/at/all"],
    [["validate"], "PATH"],
    [["import", "xl", "x"], "import"],
    [["run", "--listen", "0.0.0.0:80"], "--listen"],
    [["run", "--log-level", "inof"], "Did you mean info?"],
    [[], "plugherd"],
  ])("%j ends with 2 and words", async (argv, words) => {
    const { code, out, err } = await run(argv);
    expect(out).toBe("");
    expect(err).toContain(words);
    expect(err).not.toMatch(/\n\s+at /);
    expect(code).toBe(2);
  });

  test("no error drives a terminal, whatever is named in it", async () => {
    const { err } = await run(["get", "--api", join(dir, "x\u001b[2J\u202ey.sock")]);
    expect(err.replaceAll("\n", "")).not.toMatch(/\p{Cc}|\p{Cf}/u);
  });

  test("a daemon that is not there is exit 4, with the socket and what to do", async () => {
    const away = join(dir, "nobody.sock");
    for (const argv of [
      ["get"],
      ["watch"],
      ["wait", "win10"],
      ["events", "-f"],
      ["plan"],
      ["pause", "win10"],
      ["describe", "win10"],
      ["host"],
      ["explain", "x"],
    ]) {
      const { code, err } = await run([...argv, "--api", away]);
      expect([argv, code]).toEqual([argv, 4]);
      expect(err).toContain(away);
      expect(err).toContain("plugherd run");
    }
  });

  test("a bug is exit 70, and its trace is shown only when asked for", async () => {
    const argv = ["run", "--state", join(dir, "state"), "--api", join(dir, "other.sock")];
    const silent = await run(argv);
    expect([silent.code, silent.err.includes("    at ")]).toEqual([70, false]);
    expect((await run([...argv, "--debug"])).err).toContain("    at ");
  });

  test("help and version are no mistakes", async () => {
    expect(await run(["--version"])).toMatchObject({ code: 0, err: "" });
    const help = await run(["help"]);
    for (const name of [
      "run",
      "demo",
      "get",
      "describe",
      "watch",
      "events",
      "explain",
      "plan",
      "validate",
      "host",
      "schema",
      "wait",
      "completion",
    ])
      expect(help.out).toContain(`  ${name}`);
    expect(help.code).toBe(0);
    expect((await run(["detach", "--help"])).out).toContain("--hold");
  });
});

describe("describe and explain", () => {
  test("a device ends with Why and Next", async () => {
    const { code, out } = await run(["describe", "board"]);
    expect(code).toBe(0);
    expect(out).toMatch(/\nWhy\n {2}- Nothing matches\.[\s\S]*\nNext\n {2}- Plug the device in\.\n/);
    expect(out).toContain("plugherd explain board 'build server'");
  });
  test("nothing named: the whole, with what concerns no single domain", async () => {
    const gone = { type: "MassDetach", status: "True", reason: "MassDetach", message: "3 files are gone." } as const;
    view.change({ kind: "conditions", value: [gone] });
    const { code, out } = await run(["describe"]);
    expect(code).toBe(0);
    expect(out).toMatch(/MassDetach=True[\s\S]*\nWhy\n[\s\S]*3 files are gone\.[\s\S]*\nNext\n[\s\S]*plugherd approve mass-detach/);
    expect((JSON.parse((await run(["describe", "-o", "json"])).out) as { conditions: unknown }).conditions).toEqual([gone]);
  });

  test("a domain, a busid, and domain/name", async () => {
    expect((await run(["describe", "win10"])).out).toMatch(
      /Domain: +win10[\s\S]*Devices\n {2}dongle {2}Attached[\s\S]*\nWhy\n[\s\S]*\nNext\n/,
    );
    expect((await run(["describe", "1-1.4"])).out).toMatch(/Device: +1-1\.4[\s\S]*\nWhy\n[\s\S]*\nNext\n/);
    expect((await run(["describe", "build server/board"])).out).toContain("WaitingForHost");
    expect((await run(["describe", "device", "dongle", "win10"])).out).toContain("Attached");
    expect((await run(["describe", "win10"])).out).not.toContain("\u001b");
    expect(JSON.parse((await run(["describe", "dongle", "win10", "-o", "json"])).out)).toMatchObject({ name: "dongle" });
  });
  test("explain shows each candidate and rule, made safe", async () => {
    const { out } = await run(["explain", "dongle", "win10"]);
    expect(out).toContain("✓ vendor 0529: yes");
    expect(out).toContain("✗ serial X: no");
    expect(out).toContain("→ does not match");
    expect(out).not.toContain("\u001b");
  });
});

describe("operators' commands", () => {
  test.each([
    [["pause", "win10", "--reason", "backup"], { verb: "pause", domain: "win10", reason: "backup" }],
    [["resume", "win10"], { verb: "resume", domain: "win10" }],
    [["detach", "dongle", "win10"], { verb: "detach", device: "dongle", domain: "win10", holdMs: 3_600_000, release: false }],
    [
      ["detach", "dongle", "win10", "--hold", "2d", "--release"],
      { verb: "detach", device: "dongle", domain: "win10", holdMs: 172_800_000, release: true },
    ],
    [["attach", "dongle", "win10"], { verb: "attach", device: "dongle", domain: "win10" }],
    [["retry", "dongle", "win10"], { verb: "retry", device: "dongle", domain: "win10" }],
    [["approve", "mass-detach"], { verb: "approve", what: "mass-detach" }],
    [["approve", "dongle", "win10"], { verb: "approve", what: "device", device: "dongle", domain: "win10" }],
  ])("%j", async (argv, request) => {
    expect(await run(argv)).toEqual({ code: 0, out: "done\n", err: "" });
    expect(view.asked).toEqual([request]);
  });

  test("an unknown name is exit 2 with what was probably meant", async () => {
    view.answer = { ok: false, kind: "unknown-name", message: 'No file in force names a domain "wni10".', suggestion: "win10" };
    expect(await run(["pause", "wni10"])).toEqual({
      code: 2,
      out: "",
      err: 'plugherd: No file in force names a domain "wni10".\nDid you mean win10?\n',
    });
  });
});

describe("plan and validate", () => {
  test("plan prints what would change and ends with 1; with 0 when nothing would; with 3 on bad files", async () => {
    expect(await run(["plan"])).toMatchObject({ code: 0, out: "Nothing would change.\n" });
    view.planned = {
      problems: [],
      changes: [
        { domain: "win10", name: "dongle", action: "move", text: "1-1.4 to usb3 port 2" },
        { domain: "win10", name: "stick", action: "attach", text: "1-2 to usb3 port 3" },
        { domain: "win10", name: "old", action: "detach", text: "1-3" },
      ],
    };
    const { code, out } = await run(["plan"]);
    expect(code).toBe(1);
    expect(out).toBe(
      "~ win10/dongle  1-1.4 to usb3 port 2\n+ win10/stick  1-2 to usb3 port 3\n- win10/old  1-3\n1 to attach, 1 to move, 1 to detach.\n",
    );
    view.planned = {
      problems: [{ file: "a.yaml", line: 3, column: 7, code: "X", message: "wrong; right", severity: "error", pointer: "" }],
      changes: [],
    };
    expect(await run(["plan"])).toMatchObject({ code: 3, err: "a.yaml:3:7: wrong; right\n" });
  });

  test("plan sends files by their names in the tree", async () => {
    mkdirSync(join(dir, "specs", "lab"), { recursive: true });
    writeFileSync(join(dir, "specs", "lab", "a.yaml"), "a: 1\n");
    writeFileSync(join(dir, "specs", ".hidden.yaml"), "no\n");
    writeFileSync(join(dir, "specs", "notes.txt"), "no\n");
    let sent: unknown = null;
    view.plan = (files) => {
      sent = files;
      return { problems: [], changes: [] };
    };
    expect((await run(["plan", join(dir, "specs")])).code).toBe(0);
    expect(sent).toEqual([{ name: "lab/a.yaml", text: "a: 1\n" }]);
  });

  const file = (name: string, text: string): string => {
    writeFileSync(join(dir, name), text);
    return join(dir, name);
  };
  const good =
    'apiVersion: plugherd/v1\nkind: Domain\nmetadata: { name: win10 }\nspec:\n  domain: { name: win10 }\n  devices:\n    - { name: dongle, usb: { vendor: "0529", product: "0001" } }\n';

  test("validate needs no daemon: 0, 3, and 1 for warnings with --strict", async () => {
    const away = ["--api", join(dir, "nobody.sock")];
    expect(await run(["validate", file("good.yaml", good), ...away])).toMatchObject({ code: 0, err: "" });
    const bad = await run(["validate", file("bad.yaml", good.replace("vendor", "vendr")), ...away]);
    expect(bad.code).toBe(3);
    expect(bad.err).toMatch(/bad\.yaml:7:\d+: .*vendr.*vendor/);
    const warned = file("warned.yaml", good.replace('product: "0001"', "bus: 3, address: 7"));
    expect((await run(["validate", warned])).code).toBe(0);
    expect((await run(["validate", warned, "--strict"])).code).toBe(1);
    expect((await run(["validate", file("policy.yaml", "apiVersion: plugherd/v1\nkind: HostPolicy\ndefault: deny\n")])).code).toBe(0);
    expect((await run(["validate", file("one.yaml", good), file("two.yaml", good)])).code).toBe(3);
    expect(JSON.parse((await run(["validate", join(dir, "bad.yaml"), "-o", "json"])).out)).toMatchObject([{ severity: "error" }]);
  });
});

describe("host", () => {
  test("offers selector lines, the most lasting first, and no hubs", async () => {
    const { code, out } = await run(["host"]);
    expect(code).toBe(0);
    expect(out).not.toContain("Hub");
    const lines = out.split("\n").filter((line) => line.includes("usb:"));
    expect(lines[0]).toContain('usb: { vendor: "0529", product: "0001", serial: "0A4C2F" }');
    for (const line of lines) expect(parse(line.trim())).toHaveProperty("usb");
    const rows = JSON.parse((await run(["host", "-o", "json"])).out) as { selectors: string[] }[];
    expect(rows.map(({ selectors }) => selectors.length)).toEqual([3, 2]);
  });
  test("a serial that is shared, a dummy or a glob is not offered", () => {
    const device = hostDevice("1-1").device;
    const yamls = (serial: string | null, others: readonly (string | null)[] = []): string[] =>
      selectorLines({ ...device, serial }, [{ ...device, serial }, ...others.map((other) => ({ ...device, serial: other }))]).map(
        ({ yaml }) => yaml,
      );
    expect(yamls("0A4C2F")[0]).toContain("serial");
    for (const lines of [yamls("0A4C2F", ["0A4C2F"]), yamls("00000000"), yamls("A*B"), yamls("a\u0007b"), yamls(null)])
      expect(lines.join()).not.toContain("serial");
  });
});

describe("watch, events and wait", () => {
  test("one line a change without a terminal, over a restart of the daemon", async () => {
    const { ran, stop, code } = start(["watch", "--domain", "win10"]);
    await eventually(() => ran.out.includes("win10/evil  Denied/PolicyDenied"));
    expect(ran.out).not.toContain("board");
    view.change({
      kind: "device",
      key: "win10/dongle",
      value: claim("win10", "dongle", { phase: "Detaching", message: "Being detached." }),
    });
    await eventually(() => ran.out.includes("win10/dongle  Detaching  [1-1.4]  Being detached.\n"));
    await server.stop();
    await eventually(() => ran.err.includes("Trying again."));
    view.rebirth("life-2");
    view.change({ kind: "device", key: "win10/evil", value: null });
    const before = ran.out;
    await serve();
    await eventually(() => ran.out.length > before.length);
    expect(ran.out.slice(before.length)).toBe("win10/evil  gone\n");
    stop.abort();
    expect(await code).toBe(0);
  });

  test("-o json is a line a change", async () => {
    const { ran, stop, code } = start(["watch", "-o", "json"]);
    await eventually(() => ran.out.split("\n").length > 3);
    view.change({ kind: "device", key: "win10/dongle", value: null });
    await eventually(() => ran.out.includes('"value":null'));
    const lines = ran.out
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as unknown);
    expect(lines.at(-1)).toEqual({ seq: 1, kind: "device", key: "win10/dongle", value: null });
    expect(lines).toHaveLength(4);
    stop.abort();
    await code;
  });

  test("on a terminal the table is redrawn in place and fits its width", async () => {
    const { ran, stop, code } = start(["watch"], { tty: true, columns: 60 });
    await eventually(() => ran.out.includes("dongle"));
    view.change({ kind: "device", key: "win10/dongle", value: claim("win10", "dongle", { phase: "Stalled" }) });
    await eventually(() => ran.out.includes("Stalled"));
    const frames = ran.out.split("\u001b[J");
    const last = frames.at(-1) ?? "";
    expect(last.trimEnd().split("\n")).toHaveLength(4);
    for (const line of last.split("\n")) expect(stripVTControlCharacters(line).length).toBeLessThan(60);
    expect(ran.out).toContain("\u001b[4A");
    stop.abort();
    await code;
  });

  test("events, and what follows, each once", async () => {
    const entry = (seq: number, message: string) =>
      ({
        kind: "event",
        value: { seq, time: "2026-01-02T03:04:05.000Z", domain: "win10", device: "dongle", kind: "phase", reason: "Attached", message },
      }) as const;
    view.change(entry(1, "first"));
    expect((await run(["events"])).out).toMatch(/^\d\d:\d\d:\d\d {2}phase {5}win10\/dongle {2}Attached {2}first\n$/);
    const { ran, stop, code } = start(["events", "--follow", "-o", "json"]);
    await eventually(() => ran.out.includes("first"));
    view.change(entry(2, "second"));
    await eventually(() => ran.out.includes("second"));
    await server.stop();
    view.change(entry(3, "third"));
    await serve();
    await eventually(() => ran.out.includes("third"));
    stop.abort();
    expect(await code).toBe(0);
    expect(
      ran.out
        .trimEnd()
        .split("\n")
        .map((line) => (JSON.parse(line) as { message: string }).message),
    ).toEqual(["first", "second", "third"]);
  });

  test("wait ends when it is so", async () => {
    expect((await run(["wait", "win10"])).code).toBe(0);
    expect((await run(["wait", "dongle", "win10"])).code).toBe(0);
    expect((await run(["wait", "evil", "win10", "--for", "denied"])).code).toBe(0);
    const { ran, code } = start(["wait", "board", "build server"]);
    view.change({ kind: "device", key: "build server/board", value: claim("build server", "board") });
    expect([await code, ran.err]).toEqual([0, ""]);
  });

  test("wait that is not reached is exit 1 and says where it stands", async () => {
    const { code, err } = await run(["wait", "board", "build server", "--timeout", "50ms"]);
    expect(code).toBe(1);
    expect(err).toContain("build server/board is WaitingForHost: Nothing matches.");
  });

  test("a name that the daemon cannot know yet is waited for", async () => {
    view.ready = false;
    const { code } = start(["wait", "later", "--timeout", "20s"]);
    view.change({ kind: "domain", key: "other", value: domain("other") });
    await eventually(() => {
      view.change({ kind: "domain", key: "later", value: domain("later") });
      view.ready = true;
      return true;
    });
    expect(await code).toBe(0);
  });
});

describe("completion, schema", () => {
  test.each(["bash", "zsh", "fish"])("the %s script names every command", async (shell) => {
    const { code, out } = await run(["completion", shell]);
    expect(code).toBe(0);
    for (const name of ["run", "describe", "approve", "completion", "mass-detach"]) expect(out).toContain(name);
  });
  test("the bash script parses, and completes names that a shell must not run", async () => {
    const { out } = await run(["completion", "bash"]);
    const script = `plugherd() { [ "$2" = domains ] && printf '%s\\n' win10 '$(touch ${dir}/owned)' 'two words'; }
${out}
try() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _plugherd; printf '%s|' "\${COMPREPLY[@]}"; echo; }
try plugherd des; try plugherd pause ''; try plugherd pause wi; try plugherd detach --ho; try plugherd completion f`;
    expect(execFileSync("bash", ["-c", script], { encoding: "utf8" }).split("\n")).toEqual([
      "describe|",
      `win10|\\$\\(touch\\ ${dir}/owned\\)|two\\ words|`,
      "win10|",
      "--hold|",
      "fish|",
      "",
    ]);
  });
  test("schema prints JSON", async () => {
    for (const name of [[], ["policy"], ["live-api"]]) expect(JSON.parse((await run(["schema", ...name])).out)).toHaveProperty("$schema");
  });
});

describe("small parts", () => {
  test.each([
    ["90s", 90_000],
    ["1h30m", 5_400_000],
    ["2d", 172_800_000],
    ["500ms", 500],
    ["1.5h", 5_400_000],
  ])("%s is %i ms", (text, ms) => {
    expect(parseDuration(text)).toEqual({ ok: true, value: ms });
  });
  test.each(["", "10", "h", "1y", "-1s", "1 h", "1h 1", "9999999d"])("%j is no length of time", (text) => {
    expect(parseDuration(text).ok).toBe(false);
  });
  test.each([
    [5_000, "5s"],
    [200_000, "3m20s"],
    [3_600_000 * 2, "2h"],
    [86_400_000 * 9, "9d"],
    [-5, "0s"],
  ])("%i ms is shown as %s", (ms, text) => {
    expect(formatDuration(ms)).toBe(text);
  });
  test("a line is cut by what is seen of it", () => {
    expect(clip("\u001b[32mabc\u001b[0mdef", 4)).toBe("\u001b[32mabc\u001b[0md\u001b[0m");
    expect(clip("日本語", 5)).toBe("日本");
    expect(clip("abc", 10)).toBe("abc");
    expect([textWidth("abc"), textWidth("日本語"), textWidth("e\u0301"), textWidth("\u{1f600}")]).toEqual([3, 6, 1, 2]);
  });
});
