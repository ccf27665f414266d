/**
 * Vitest reporter that ends a run by saying which real daemons the contract suite could not run on. Where `PLUGHERD_REQUIRE_REAL` is set
 * (`.ci/run`), a missing one fails the run; the second QEMU is welcome, never required.
 */
import type { Reporter } from "vitest/node";
import { qemuKinds } from "./qemu.ts";
import { xenstoredKinds } from "./xenstored.ts";

const OPTIONAL = "PLUGHERD_QEMU_10";

export default class RealDaemons implements Reporter {
  onTestRunEnd(): void {
    const kinds = [...qemuKinds(), ...xenstoredKinds()].map(({ title, missing }) => ({
      title,
      missing,
      required: !`${title}${missing ?? ""}`.includes(OPTIONAL),
    }));
    const missing = kinds.filter((kind) => kind.missing !== null);
    const present = kinds.filter((kind) => kind.missing === null).map(({ title }) => title);
    process.stdout.write(`\nThe contract suite has: ${present.join(", ")}\n`);
    for (const kind of missing) process.stdout.write(`Not installed, so not run: ${told(kind)}\n`);
    if (missing.length === 0) process.stdout.write("Every real daemon that it knows is installed.\n");
    if (process.env["PLUGHERD_REQUIRE_REAL"] === undefined || !missing.some(({ required }) => required)) return;
    process.stdout.write("PLUGHERD_REQUIRE_REAL is set: a real daemon that is not installed fails this run.\n");
    process.exitCode = 1;
  }
}

const told = ({ title, missing }: { readonly title: string; readonly missing: string | null }): string =>
  missing?.includes(title) === true ? missing : `${title}: ${missing ?? ""}`;
