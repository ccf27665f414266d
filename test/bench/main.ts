/**
 * The rows of product.md §8 that need no testbed, measured on the simulated host; then those of the testbed, where it can run.
 *
 * usage: main.js [--quick] [--json] [--only NAME…]   NAME: fleets, xen, idle, testbed
 * prints a table, or JSON `{ results: [{ name, value, unit, promise, met }] }`; promise null: for comparison. Exit 1: a promise is not met.
 */
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { nowMs } from "./child.ts";
import { measureFleets } from "./fleets.ts";
import { measureIdle } from "./idle.ts";
import { formatTable, type Row } from "./row.ts";
import { runTestbed } from "./testbed.ts";
import { measureXen } from "./xen.ts";

const { values } = parseArgs({
  options: {
    quick: { type: "boolean", default: false },
    json: { type: "boolean", default: false },
    only: { type: "string", multiple: true, default: [] },
  },
});
const { quick, json, only } = values;
const began = nowMs();
const say = (line: string): void => {
  process.stderr.write(`${((nowMs() - began) / 1e3).toFixed(1).padStart(6)} s  ${line}\n`);
};
const wanted = (name: string): boolean => only.length === 0 || only.includes(name);
/** The kernel's own sysfs and devtmpfs are in memory too. */
const base = process.env["TMPDIR"] === undefined && existsSync("/dev/shm") ? "/dev/shm" : tmpdir();
/** In a directory of its own, which is gone afterwards. */
const inRoom = async <T>(work: (root: string) => Promise<T>): Promise<T> => {
  const root = mkdtempSync(join(base, "plugherd-bench-"));
  try {
    return await work(root);
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
};

const rows: Row[] = [];
if (wanted("fleets")) rows.push(...(await measureFleets({ quick, inRoom, say })));
if (wanted("xen") && !quick) rows.push(...(await measureXen({ inRoom, say })));
if (wanted("idle") && !quick) rows.push(...(await measureIdle({ inRoom, say })));
if (wanted("testbed") && !quick) rows.push(...(await runTestbed(say)));

process.stdout.write(json ? `${JSON.stringify({ results: rows }, null, 2)}\n` : `${formatTable(rows)}\n`);
process.exitCode = rows.some(({ met }) => met === false) ? 1 : 0;
