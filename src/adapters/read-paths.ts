/** Files that a person names (`validate`, `plan`), read once as the watched ones are read, and checked against each other. */
import type { DesiredDomain, FileReading, Problem } from "../model/desired.ts";
import type { HostPolicy } from "../model/policy.ts";
import { checkTree } from "../model/tree-check.ts";
import type { DocumentKind } from "./schema-check.ts";
import { readSpec } from "./spec-reading.ts";

export type NamedText = { readonly name: string; readonly text: string | Uint8Array };
export type CheckedTexts = {
  /** Of the files without an error. */
  readonly domains: readonly DesiredDomain[];
  readonly policies: readonly HostPolicy[];
  /** File by file, in the order of each file; warnings too. */
  readonly problems: readonly Problem[];
};

/** @param kinds - what the files may hold; `validate` takes desired state and policy */
export function checkTexts(files: readonly NamedText[], kinds: readonly DocumentKind[] = ["Domain", "HostPolicy"]): CheckedTexts {
  const readings = new Map<string, FileReading>();
  const policies: HostPolicy[] = [];
  for (const { name, text } of files) {
    const spec = readSpec(name, typeof text === "string" ? new TextEncoder().encode(text) : text, kinds);
    const bad = spec.problems.some(({ severity }) => severity === "error");
    if (!bad) policies.push(...spec.policies);
    readings.set(
      name,
      bad ? { kind: "bad", problems: spec.problems, names: spec.names } : { kind: "read", domains: spec.domains, warnings: spec.problems },
    );
  }
  const checked = [...checkTree(readings).values()];
  return {
    domains: checked.flatMap((reading) => (reading.kind === "read" ? reading.domains : [])),
    policies,
    problems: checked.flatMap((reading) => (reading.kind === "read" ? reading.warnings : reading.kind === "bad" ? reading.problems : [])),
  };
}

/** Desired state alone: what `plan` puts in the place of the files in force. */
export const readTexts = (files: readonly NamedText[]): CheckedTexts => checkTexts(files, ["Domain"]);
