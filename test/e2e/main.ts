/**
 * The end-to-end run: every case on a fresh host, one line each, and at the end `N passed, N failed, N skipped`.
 *
 * usage: main.js [--list] [--slow] [FILTER…]   FILTER: part of a case's name; cases that do not fit are skipped, and without --slow those that
 * take minutes to make ready
 * PLUGHERD_E2E_WORK: where the image and the snapshots are kept (default test/e2e/.work)
 */
import { resolve } from "node:path";
import { parseArgs } from "node:util";
import type { Case } from "./case.ts";
import { cases } from "./cases/all.ts";
import { createHost } from "./host.ts";
import { openWorkshop, type Workshop } from "./image.ts";

const DEFAULT_CASE_MS = 300_000;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { list: { type: "boolean", default: false }, slow: { type: "boolean", default: false } },
});
const say = (line: string): void => {
  process.stdout.write(`${line}\n`);
};
const wanted = ({ name, slow = false }: Case): boolean =>
  (values.slow || !slow) && (positionals.length === 0 || positionals.some((part) => name.includes(part)));

/** @returns null: passed; else what was wrong, and what a person wants to read of the host */
async function play(workshop: Workshop, test: Case): Promise<string | null> {
  const machine = await workshop.fresh(test.mode ?? "kvm", test.start ?? "bare");
  const host = createHost(machine);
  let timer: NodeJS.Timeout | undefined;
  try {
    const late = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(() => {
        reject(new Error(`the case took longer than ${String(test.timeoutMs ?? DEFAULT_CASE_MS)} ms`));
      }, test.timeoutMs ?? DEFAULT_CASE_MS);
    });
    await Promise.race([test.run(host), late]);
    return null;
  } catch (error) {
    const told = error instanceof Error ? (error.stack ?? error.message) : String(error);
    return `${told}\n${await host.report()}`;
  } finally {
    clearTimeout(timer);
    await machine.stop();
  }
}

const indent = (text: string): string => text.replaceAll(/^/gm, "      ");

async function main(): Promise<number> {
  if (values.list) {
    for (const { name } of cases) say(name);
    return 0;
  }
  const project = resolve(process.env["PLUGHERD_E2E_PROJECT"] ?? ".");
  const work = resolve(process.env["PLUGHERD_E2E_WORK"] ?? "test/e2e/.work");
  const workshop = openWorkshop(project, work, say);
  const count = { passed: 0, failed: 0, skipped: 0 };
  const flaky: string[] = [];
  for (const test of cases) {
    if (!wanted(test)) {
      count.skipped += 1;
      continue;
    }
    const began = Date.now();
    const took = (): string => `(${((Date.now() - began) / 1000).toFixed(1)} s)`;
    let wrong = await play(workshop, test).catch((error: unknown) => `no host: ${String(error)}`);
    if (wrong !== null) {
      say(`again ${test.name} ${took()}: it failed, one more try on a fresh host\n${indent(wrong)}`);
      wrong = await play(workshop, test).catch((error: unknown) => `no host: ${String(error)}`);
      if (wrong === null) flaky.push(test.name);
    }
    if (wrong === null) {
      count.passed += 1;
      say(`${flaky.includes(test.name) ? "flaky" : "ok   "} ${test.name} ${took()}`);
    } else {
      count.failed += 1;
      say(`FAIL  ${test.name} ${took()}\n${indent(wrong)}`);
    }
  }
  if (flaky.length > 0) say(`${String(flaky.length)} flaky (failed once, then passed): ${flaky.join("; ")}`);
  say(`${String(count.passed)} passed, ${String(count.failed)} failed, ${String(count.skipped)} skipped`);
  return count.failed === 0 ? 0 : 1;
}

// A machine must not outlive the run.
for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => process.exit(130));
process.exitCode = await main();
