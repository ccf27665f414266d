/** Settings of `run`: where each may be written, and which counts. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { readRunConfig } from "../src/interfaces/cli/run-options.ts";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "plugherd-options-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const pathsOf = (...args: Parameters<typeof readRunConfig>) => {
  const read = readRunConfig(...args);
  if (!read.ok) throw new Error(read.error.message);
  return read.value.paths;
};

test("where Xen's things are, by default", () => {
  expect(pathsOf({}, {})).toMatchObject({ xenstore: "/run/xenstored/socket", xenLib: "/var/lib/xen", xl: "xl" });
});

test("an option counts before the environment, and that before the config file", () => {
  const config = join(dir, "plugherd.yaml");
  writeFileSync(config, "xenstore: /file\nxen-lib: /file\nxenLib: /file\nxl: /file\n");
  const env = { PLUGHERD_CONFIG: config, PLUGHERD_XENSTORE: "/env", PLUGHERD_XEN_LIB: "/env" };
  expect(pathsOf({ xenstore: "/dev/xen/xenbus" }, env)).toMatchObject({ xenstore: "/dev/xen/xenbus", xenLib: "/env", xl: "/file" });
});
