/** The rows that need a real kernel and a real QEMU: test/e2e/bench.ts, where a testbed can be made. */
import { execFileSync, spawn } from "node:child_process";
import { resolve } from "node:path";
import type { Row } from "./row.ts";

const has = (command: string): boolean => {
  try {
    execFileSync("which", [command], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
};

/** Its rows; none, and a line that says so, where it cannot run. */
export async function runTestbed(say: (line: string) => void): Promise<readonly Row[]> {
  const missing = ["qemu-system-x86_64"].filter((command) => !has(command));
  if (missing.length > 0) {
    say(`the testbed's rows are skipped: no ${missing.join(", ")} here`);
    return [];
  }
  execFileSync("npx", ["tsc", "-p", "test/config/tsconfig.e2e.json"], { stdio: ["ignore", "inherit", "inherit"] });
  const child = spawn(process.execPath, [resolve("test/e2e/.work/js/e2e/bench.js"), "--json"], { stdio: ["ignore", "pipe", "inherit"] });
  let text = "";
  child.stdout.on("data", (chunk: Buffer) => {
    text += chunk.toString();
  });
  await new Promise((done) => child.once("close", done));
  try {
    return (JSON.parse(text) as { readonly results: readonly Row[] }).results;
  } catch {
    say("the testbed's rows are skipped: its run failed (see above)");
    return [];
  }
}
