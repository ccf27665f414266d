/** The text of one file -> what it says (desired state, host policy), or every problem at file:line:column. */
import { createHash } from "node:crypto";
import type { DesiredDomain, FileReading, Problem } from "../model/desired.ts";
import { checkDomain, nameOf } from "../model/desired-check.ts";
import { either, type Finding, type Locate, mapping, show } from "../model/finding.ts";
import { nearest } from "../model/nearest.ts";
import type { HostPolicy } from "../model/policy.ts";
import { checkPolicy } from "../model/policy-check.ts";
import { checkShape, type DocumentKind } from "./schema-check.ts";
import { MAX_BYTES, type PlainDocument, readYaml } from "./yaml-document.ts";

export type SpecText = {
  readonly domains: readonly DesiredDomain[];
  readonly policies: readonly HostPolicy[];
  /** In the order of the file. The values above count only where none of these is an error. */
  readonly problems: readonly Problem[];
  /** The metadata.names that can be made out, of bad documents too. */
  readonly names: readonly string[];
};

/** More than this of one file is told as a number. */
const MAX_PROBLEMS = 100;

/** Hash of a file's bytes, 12 hex digits. */
export const generationOf = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex").slice(0, 12);

/**
 * @param file - the path that problems and marks name
 * @param kinds - what the file may hold: a desired-state tree has domains only, `validate` takes both
 */
export function readSpec(file: string, bytes: Uint8Array, kinds: readonly DocumentKind[], commit: string | null = null): SpecText {
  const whole = (code: string, message: string): SpecText => ({
    domains: [],
    policies: [],
    problems: [{ file, line: 1, column: 1, pointer: "", severity: "error", code, message }],
    names: [],
  });
  if (bytes.byteLength > MAX_BYTES) {
    return whole("TooBig", `the file is bigger than ${String(MAX_BYTES)} bytes; split it into a file a domain`);
  }
  const text = decode(bytes);
  if (text === null) return whole("NotUtf8", "the file is not UTF-8 text; save it as UTF-8");
  const yaml = readYaml(text, file.endsWith(".json") ? "JSON" : "YAML");
  if (yaml.documents.length === 0 && yaml.problems.length === 0) {
    const first = kinds[0] ?? "Domain";
    return whole("NoDocument", `the file holds no document; write one (apiVersion: plugherd/v1, kind: ${first}, …), or remove the file`);
  }
  const facts = { generation: generationOf(bytes), commit };
  const read = yaml.documents.map((document) => readDocument(document, file, kinds, facts));
  const syntax = yaml.problems.map((problem): Problem => ({ ...problem, file, code: "BadYaml", severity: "error" }));
  return {
    domains: read.flatMap((one) => one.domain ?? []),
    policies: read.flatMap((one) => one.policy ?? []),
    problems: limited(file, [...syntax, ...read.flatMap((one) => one.problems)]),
    names: [
      ...new Set(
        [...read.map((one) => one.name), ...yaml.brokenNames.map((name) => nameOf({ metadata: { name } }))].filter((name) => name !== null),
      ),
    ],
  };
}

const decode = (bytes: Uint8Array): string | null => {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return null;
  }
};

type Read = {
  readonly domain: DesiredDomain | null;
  readonly policy: HostPolicy | null;
  readonly problems: readonly Problem[];
  readonly name: string | null;
};

function readDocument(
  document: PlainDocument,
  file: string,
  kinds: readonly DocumentKind[],
  facts: { readonly generation: string; readonly commit: string | null },
): Read {
  const locate: Locate = (pointer, at) => ({ file, ...document.place(pointer, at) });
  const place = (finding: Finding): Problem => {
    const { at, ...rest } = finding;
    return { ...rest, ...locate(finding.pointer, at) };
  };
  const stray = strayKind(document.value, kinds);
  if (stray !== null) return { domain: null, policy: null, problems: [place(stray)], name: null };
  const kind = kindOf(document.value, kinds);
  const shape = checkShape(kind, document.value, document.bare);
  const domain = kind === "Domain" ? checkDomain(document.value, locate, facts) : null;
  const policy = kind === "HostPolicy" ? checkPolicy(document.value, locate) : null;
  const found = fold(shape, domain?.findings ?? policy?.findings ?? []).filter(({ pointer }) => !document.spoilt.includes(pointer));
  return {
    domain: domain?.value ?? null,
    policy: policy?.value ?? null,
    problems: found.map(place),
    name: kind === "Domain" ? nameOf(document.value) : null,
  };
}

const kindOf = (value: unknown, kinds: readonly DocumentKind[]): DocumentKind =>
  kinds.find((kind) => mapping(value)?.["kind"] === kind) ?? kinds[0] ?? "Domain";

/** A document of a kind that does not belong here: its other mistakes are of no interest. */
function strayKind(value: unknown, kinds: readonly DocumentKind[]): Finding | null {
  const root = mapping(value);
  const say = (code: string, message: string, pointer = "/kind"): Finding => ({ pointer, at: "value", code, severity: "error", message });
  if (root === null) {
    const form = `write "apiVersion: plugherd/v1", "kind: ${kinds[0] ?? "Domain"}" and so on`;
    return say("WrongType", `a document must be a mapping ("key: value" lines); ${form}`, "");
  }
  const { kind } = root;
  if (typeof kind !== "string" || kinds.some((one) => one === kind)) return null;
  if (kind === "HostPolicy")
    return say("StrayKind", "a HostPolicy is no desired state; keep it where --policy says, out of the desired-state tree");
  if (kind === "Domain") return say("StrayKind", "a Domain is no policy; keep it in the desired-state tree, where --specs says");
  const near = nearest(kind, kinds);
  return say(
    "StrayKind",
    `kind: ${show(kind).slice(1, -1)} is not known; ${near === null ? `write ${either(kinds)}` : `did you mean ${near}?`}`,
  );
}

/** Meaning and shape together: what both tell of one place is told once, in the words of the meaning check. */
function fold(shape: ReturnType<typeof checkShape>, meaning: readonly Finding[]): readonly Finding[] {
  const told = new Set(meaning.filter(({ severity, at }) => severity === "error" && at === "value").map(({ pointer }) => pointer));
  const errors = shape.findings.filter(({ pointer, code }) => code === "MissingKey" || !told.has(pointer));
  const explained = (form: Finding): boolean =>
    [...meaning, ...errors].some(
      ({ pointer, severity }) => severity === "error" && (pointer === form.pointer || pointer.startsWith(`${form.pointer}/`)),
    );
  const left = shape.forms.filter((form, i) => !explained(form) && shape.forms.findIndex(({ pointer }) => pointer === form.pointer) === i);
  return [...errors, ...meaning, ...left];
}

function limited(file: string, problems: readonly Problem[]): readonly Problem[] {
  const sorted = [...problems].sort((a, b) => a.line - b.line || a.column - b.column);
  const rest = sorted.length - MAX_PROBLEMS;
  const last = sorted[MAX_PROBLEMS];
  if (last === undefined) return sorted;
  const severity = sorted.slice(MAX_PROBLEMS).some((one) => one.severity === "error") ? "error" : "warning";
  const message = `${String(rest)} more problems from here on; fix those above first`;
  return [...sorted.slice(0, MAX_PROBLEMS), { ...last, file, code: "More", message, severity }];
}

/** What a file of the desired-state tree says. */
export function readDomainFile(file: string, bytes: Uint8Array, commit: string | null): FileReading {
  const spec = readSpec(file, bytes, ["Domain"], commit);
  return spec.problems.some(({ severity }) => severity === "error")
    ? { kind: "bad", problems: spec.problems, names: spec.names }
    : { kind: "read", domains: spec.domains, warnings: spec.problems };
}

/** `file:line:column: message`. */
export const formatProblem = ({ file, line, column, message, severity }: Problem): string =>
  `${file}:${String(line)}:${String(column)}: ${severity === "warning" ? "warning: " : ""}${message}`;
