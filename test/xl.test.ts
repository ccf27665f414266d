/** `xl list -v`: rows as xl prints them, what is no list, and the program behind it. */
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createXl, type Xl } from "../src/adapters/xl.ts";
import { parseXlList, SHUTDOWN } from "../src/protocol/xl-list.ts";
import { realClock } from "./support/domains-rig.ts";
import { eventually } from "./support/eventually.ts";
import { silentLog } from "./support/logs.ts";

const HEADER =
  "Name                                        ID   Mem VCPUs\tState\tTime(s)   UUID                            Reason-Code\tSecurity Label\n";
const UUID = "6f1f2b9e-5a0c-4a3e-9d4e-0f4c2d6b8a11";
/** As printf in list_domains. */
const row = (name: string, domid: number, state: string, reason: string, label = "               -"): string =>
  `${name.padEnd(40)} ${String(domid).padStart(5)} ${"192".padStart(5)} ${"1".padStart(5)}     ${state}  ${"16.9".padStart(8)} ${UUID} ${reason.padStart(8)} ${label}\n`;
const quiet = { running: false, blocked: false, paused: false, shutdown: false, crashed: false, dying: false };
const rowsOf = (text: string) => {
  const parsed = parseXlList(text);
  if (!parsed.ok) throw new Error(parsed.error.message);
  return parsed.value;
};

describe("rows", () => {
  test("of domains that run, wait and are paused", () => {
    const text = HEADER + row("Domain-0", 0, "r-----", "-") + row("pv1", 4, "-b----", "-") + row("hvm", 32751, "--p---", "-");
    expect(rowsOf(text)).toEqual([
      { domid: 0, name: "Domain-0", uuid: UUID, state: { ...quiet, running: true }, reason: null },
      { domid: 4, name: "pv1", uuid: UUID, state: { ...quiet, blocked: true }, reason: null },
      { domid: 32751, name: "hvm", uuid: UUID, state: { ...quiet, paused: true }, reason: null },
    ]);
  });

  test.each([
    ["---s--", "0", SHUTDOWN.poweroff, {}],
    ["---sr-", "1", SHUTDOWN.reboot, {}],
    ["---ss-", "2", SHUTDOWN.suspend, {}], // seen during xl save -c
    ["--psc-", "3", SHUTDOWN.crash, { paused: true, crashed: true }],
    ["---sw-", "4", SHUTDOWN.watchdog, {}],
    ["---s?d", "5", SHUTDOWN.softReset, { dying: true }],
    ["---s?-", "a", 10, {}],
    ["---s?-", "ffffffff", null, {}],
  ])("of a domain that is shut down: %s %s", (state, code, reason, more) => {
    const [one] = rowsOf(HEADER + row("vm", 7, state, code));
    expect(one).toEqual({ domid: 7, name: "vm", uuid: UUID, state: { ...quiet, shutdown: true, ...more }, reason });
  });

  test.each([
    "a name with spaces",
    "x".repeat(60),
    "r-----  7 8 9",
    `vm     5   512     1     r-----       0.1 ${UUID}        -               - `,
    "two\nlines",
    "-",
    "naïve ☃",
  ])("whose name is %j", (name) => {
    const rows = rowsOf(HEADER + row(name, 7, "-b----", "-") + row("next", 8, "-b----", "-", "system_u:system_r:domU_t"));
    expect(rows.map((one) => [one.name, one.domid])).toEqual([
      [name.trimEnd(), 7],
      ["next", 8],
    ]);
  });

  test("of a domain without a name", () => {
    expect(rowsOf(HEADER + row("(null)", 7, "------", "-"))[0]?.name).toBe(null);
  });
});

test.each([
  ["", "not a list"],
  ["Name ID\n", "not a list"],
  [HEADER.trimEnd(), "cut off"],
  [HEADER + row("vm", 7, "-b----", "-").slice(0, 90), "cut off"],
  [`${HEADER}libxl: error\n`, "no row"],
  [`${HEADER}${row("vm", 7, "-b----", "-")}libxl: error\n`, "no row"],
  [HEADER + "7 ".repeat(100_000), "cut off"],
  [`${HEADER}${"7 ".repeat(100_000)}\n`, "no row"],
  [HEADER + row("x".repeat(6_000), 7, "-b----", "-"), "no row"],
])("no list: %#", (text, message) => {
  const parsed = parseXlList(text);
  expect(parsed.ok ? "" : parsed.error.message).toContain(message);
});

describe("the program", () => {
  let dir: string;
  let warnings: string[];
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), "plugherd-xl-"));
    warnings = [];
  });
  afterEach(() => rmSync(dir, { recursive: true, force: true }));
  const create = (script: string, xlMs = 10_000): Xl => {
    const command = join(dir, "xl");
    writeFileSync(command, `#!/bin/sh\n${script}\n`);
    chmodSync(command, 0o755);
    return from(command, xlMs);
  };
  const from = (command: string, xlMs = 10_000): Xl => {
    const log = { ...silentLog, warn: (text: string) => warnings.push(text) };
    return createXl({ command, clock: realClock, timings: { xlMs }, log });
  };
  const listing = `cat <<'END'\n${HEADER}${row("vm", 7, "-b----", "-")}END`;

  test("is asked for a verbose list", async () => {
    const listed = await create(`[ "$*" = "list -v" ] && ${listing}`).list();
    expect(listed.ok && listed.value.map(({ domid }) => domid)).toEqual([7]);
    expect(warnings).toEqual([]);
  });

  test("runs once for all who ask before it is done, and once more for those who ask meanwhile", async () => {
    const xl = create(`echo run >> ${dir}/runs; while [ ! -e ${dir}/go ]; do sleep 0.01; done; ${listing}`);
    const first = xl.list();
    const rest = [xl.list(), xl.list(), xl.list()];
    await eventually(() => existsSync(join(dir, "runs")));
    rest.push(xl.list());
    writeFileSync(join(dir, "go"), "");
    const all = await Promise.all([first, ...rest]);
    expect(all.every(({ ok }) => ok)).toBe(true);
    expect(readFileSync(join(dir, "runs"), "utf8")).toBe("run\nrun\n");
    await xl.list();
    expect(readFileSync(join(dir, "runs"), "utf8")).toBe("run\nrun\nrun\n");
  });

  test.each([
    ["exit 3", "ended with 3"],
    ["echo 'libxl: error: cannot open hypervisor' >&2; exit 1", "cannot open hypervisor"],
    ["echo hello", "not a list"],
    ["yes", "more than"],
    ["kill -9 $$", "ended by SIGKILL"],
  ])("that fails (%s) is an error, told once", async (script, message) => {
    const xl = create(script);
    for (const listed of [await xl.list(), await xl.list()]) expect(listed.ok ? "" : listed.error.message).toContain(message);
    expect(warnings).toHaveLength(1);
  });

  test("that does not end is ended, with a child that keeps its output open", async () => {
    const xl = create(`echo $$ > ${dir}/pid; sleep 60 & wait`, 200);
    const listed = await xl.list();
    expect(listed.ok ? "" : listed.error.message).toContain("did not end within 200 ms");
    await eventually(() => {
      try {
        process.kill(Number(readFileSync(join(dir, "pid"), "utf8")), 0);
        return false;
      } catch {
        return true;
      }
    });
  });

  test("that is missing, or no program, is an error", async () => {
    const listed = await from(join(dir, "none")).list();
    expect(listed.ok ? "" : listed.error.message).toContain("there is no program");
    writeFileSync(join(dir, "text"), "");
    const other = await from(join(dir, "text")).list();
    expect(other.ok ? "" : other.error.message).toContain("cannot be run: EACCES");
  });
});
