/**
 * One document of a desired-state file as written -> DesiredDomain, with every meaning check of product.md §2. Shape (types, unknown keys)
 * is the schema's to tell; what has the wrong shape is passed over here, so that both can be told at once.
 */
import { checkControllers } from "./controller-check.ts";
import type { DesiredDomain } from "./desired.ts";
import { checkDevices } from "./device-check.ts";
import { createFindings, type Finding, type Findings, hasControl, type Locate, mapping, oneOf, show, text } from "./finding.ts";

export type FileFacts = { readonly generation: string; readonly commit: string | null };
export type Checked<T> = {
  /** Complete only where neither this check nor the schema found an error; null: not even that. */
  readonly value: T | null;
  readonly findings: readonly Finding[];
};

const ZERO_UUID = "00000000-0000-0000-0000-000000000000";

export function checkDomain(document: unknown, locate: Locate, facts: FileFacts): Checked<DesiredDomain> {
  const findings = createFindings();
  const root = mapping(document);
  const name = nameOf(document);
  const metadata = mapping(root?.["metadata"]);
  const spec = mapping(root?.["spec"]);
  checkName(metadata?.["name"], "/metadata/name", findings);
  const labels = checkLabels(metadata?.["labels"], findings);
  if (spec === null) return { value: null, findings: findings.list };
  const target = checkTarget(spec["domain"], name ?? "", findings);
  const controllers = checkControllers(spec["controllers"], "/spec/controllers", findings, locate);
  const devices = checkDevices(spec["devices"], controllers, "/spec/devices", findings, locate);
  if (name === null) return { value: null, findings: findings.list };
  const value: DesiredDomain = {
    name,
    labels,
    target,
    mode: oneOf(spec["mode"], ["enforce", "observe", "paused"] as const, "enforce" as const),
    prune: oneOf(spec["prune"], ["managed", "none", "all"] as const, "managed" as const),
    controllers,
    devices,
    mark: locate("/metadata/name", "value"),
    generation: facts.generation,
    commit: facts.commit,
  };
  return { value, findings: findings.list };
}

/** The name that a document goes by, where it can be made out at all. */
export function nameOf(document: unknown): string | null {
  const name = text(mapping(mapping(document)?.["metadata"])?.["name"]);
  return name === null || name === "" || name.includes("/") || hasControl(name) ? null : name;
}

function checkName(value: unknown, pointer: string, findings: Findings): void {
  const name = text(value);
  if (name === null || name === "") return;
  if (hasControl(name)) findings.error(pointer, "BadName", `the name ${show(name)} has a control character; write it without`);
  else if (name.includes("/")) {
    findings.error(
      pointer,
      "BadName",
      `the name ${show(name)} has a / in it; write "${name.replaceAll("/", "-").slice(0, 60)}", and the domain's own name under spec.domain`,
    );
  } else if (name.trim() === "") findings.error(pointer, "BadName", "the name is blank; write the domain's name");
  else if (name.trim() !== name) findings.warn(pointer, "Blanks", `the name ${show(name)} begins or ends with a blank; is it meant?`);
}

function checkLabels(value: unknown, findings: Findings): Readonly<Record<string, string>> {
  const labels = Object.entries(mapping(value) ?? {});
  for (const [key, label] of labels) {
    const pointer = `/metadata/labels/${key.replaceAll("~", "~0").replaceAll("/", "~1")}`;
    if (key === "" || hasControl(key))
      findings.error(pointer, "BadLabel", "a label's key is empty or has a control character; write a plain word", "key");
    if (hasControl(text(label) ?? "")) findings.error(pointer, "BadLabel", `label ${show(key)} has a control character; write it without`);
  }
  return Object.fromEntries(labels.flatMap(([key, label]) => (typeof label === "string" ? [[key, label]] : [])));
}

function checkTarget(value: unknown, name: string, findings: Findings): DesiredDomain["target"] {
  const byName = { by: "name", name } as const;
  const domain = mapping(value);
  if (domain === null) return byName;
  const written = text(domain["name"]);
  const uuid = text(domain["uuid"]);
  if (Object.hasOwn(domain, "name") && Object.hasOwn(domain, "uuid")) {
    findings.error(
      "/spec/domain/uuid",
      "NameAndUuid",
      "name and uuid are both given; keep one (the uuid, where two domains have one name)",
      "key",
    );
  } else if (Object.keys(domain).length === 0) {
    findings.error(
      "/spec/domain",
      "EmptyDomain",
      "domain says nothing; give name or uuid, or leave domain out to go by metadata.name",
      "key",
    );
  }
  if (written !== null && hasControl(written))
    findings.error("/spec/domain/name", "BadName", `the name ${show(written)} has a control character; write it without`);
  if (uuid === null) return written === null ? byName : { by: "name", name: written };
  return { by: "uuid", uuid: checkUuid(uuid, findings) };
}

function checkUuid(written: string, findings: Findings): string {
  const uuid = written.toLowerCase();
  if (uuid === ZERO_UUID) {
    findings.error(
      "/spec/domain/uuid",
      "ZeroUuid",
      "the all-zero uuid is what a domain without one shows, and never matches; write the name instead",
    );
  } else if (!/^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(uuid)) {
    const digits = uuid.replaceAll(/[^0-9a-z]/g, "");
    const dashed = [digits.slice(0, 8), digits.slice(8, 12), digits.slice(12, 16), digits.slice(16, 20), digits.slice(20)].join("-");
    const hint = /^[0-9a-f]{32}$/.test(digits) ? `write "${dashed}"` : "write 8-4-4-4-12 hex digits, as the domain shows it";
    findings.error("/spec/domain/uuid", "BadUuid", `${show(written)} is not a uuid; ${hint}`);
  }
  return uuid;
}
