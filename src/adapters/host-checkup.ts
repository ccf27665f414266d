/** Facts for `doctor` that every host has: places that can be used or not, files that are right or not. Changes nothing. */
import { constants } from "node:fs";
import { access, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { FilesFacts, HostFacts, PlaceFacts } from "../model/checkup.ts";
import type { Problem } from "../model/desired.ts";
import { codeOf } from "./follow-path.ts";
import { checkTexts, type NamedText } from "./read-paths.ts";
import type { DocumentKind } from "./schema-check.ts";
import { formatProblem } from "./spec-reading.ts";
import { readBytes, scanTree } from "./spec-tree.ts";

export type HostPlaces = {
  readonly specs: string;
  readonly policy: string;
  readonly qmpDir: string;
  readonly sysfs: string;
  readonly dev: string;
  readonly state: string;
};

/** @param leastNode - the oldest version of Node that will do */
export async function examineHost({ specs, policy, qmpDir, sysfs, dev, state }: HostPlaces, leastNode: string): Promise<HostFacts> {
  const [sysfsFacts, nodes, stateFacts, monitors, specsFacts, policyFacts] = await Promise.all([
    place(join(sysfs, "bus/usb/devices")),
    place(join(dev, "bus/usb")),
    writable(state),
    place(qmpDir),
    specsIn(specs),
    policyAt(policy),
  ]);
  return {
    node: process.versions.node,
    leastNode,
    root: process.getuid?.() === 0,
    sysfs: sysfsFacts,
    nodes,
    state: stateFacts,
    monitors,
    specs: specsFacts,
    policy: policyFacts,
  };
}

const stateOf = (cause: unknown): PlaceFacts["state"] => {
  const code = codeOf(cause);
  return code === "ENOENT" ? "missing" : code === "EACCES" || code === "EPERM" || code === "EROFS" ? "denied" : "other";
};
/** A directory that can be listed. */
async function place(path: string): Promise<PlaceFacts> {
  try {
    if (!(await stat(path)).isDirectory()) return { path, state: "other" };
    await access(path, constants.R_OK | constants.X_OK);
    return { path, state: "usable" };
  } catch (cause) {
    return { path, state: stateOf(cause) };
  }
}
/** One that can be written to, or made. */
async function writable(path: string): Promise<PlaceFacts> {
  for (let at = path; ; at = dirname(at)) {
    try {
      if (!(await stat(at)).isDirectory()) return { path, state: "other" };
      await access(at, constants.W_OK | constants.X_OK);
      return { path, state: "usable" };
    } catch (cause) {
      const state = stateOf(cause);
      if (state !== "missing" || at === dirname(at)) return { path, state };
    }
  }
}

async function specsIn(path: string): Promise<FilesFacts> {
  const { directory, excess, files } = await scanTree(path);
  if (directory !== "present" || excess !== null) {
    const missing = await stat(path).then(
      () => false,
      (cause: unknown) => stateOf(cause) === "missing",
    );
    return { path, state: missing ? "missing" : "denied", files: 0, errors: 0, warnings: 0, first: null };
  }
  const texts: NamedText[] = [];
  const unreadable: string[] = [];
  for (const [within, file] of [...files].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const content = typeof file === "string" ? file : await readBytes(file.real);
    if (typeof content === "string") unreadable.push(`${join(path, within)} cannot be read: ${content}`);
    else texts.push({ name: join(path, within), text: content.bytes });
  }
  return { path, state: "usable", ...counted(texts, "Domain", unreadable) };
}
async function policyAt(path: string): Promise<FilesFacts> {
  const none = { path, files: 0, errors: 0, warnings: 0, first: null };
  const found = await stat(path).then(
    () => null,
    (cause: unknown) => stateOf(cause),
  );
  if (found !== null) return { ...none, state: found };
  const content = await readBytes(path);
  if (typeof content === "string") return { ...none, state: "denied" };
  return { path, state: "usable", ...counted([{ name: path, text: content.bytes }], "HostPolicy", []) };
}

const counted = (texts: readonly NamedText[], kind: DocumentKind, unreadable: readonly string[]): Omit<FilesFacts, keyof PlaceFacts> => {
  const { problems } = checkTexts(texts, [kind]);
  const of = (severity: Problem["severity"]): readonly Problem[] => problems.filter((one) => one.severity === severity);
  const [first] = [...of("error"), ...of("warning")];
  return {
    files: texts.length + unreadable.length,
    errors: of("error").length + unreadable.length,
    warnings: of("warning").length,
    first: unreadable[0] ?? (first === undefined ? null : formatProblem(first)),
  };
};
