/** The shape of a document against its JSON Schema (specs/*.schema.json), each mistake in one sentence with what would be right. */
import { readFileSync } from "node:fs";
import type { ErrorObject, SchemaObject, ValidateFunction } from "ajv";
import { Ajv2020 } from "ajv/dist/2020.js";
import type { Finding } from "../model/finding.ts";
import { describe, type Vocabulary } from "./schema-words.ts";

export type DocumentKind = "Domain" | "HostPolicy";

const FILES: Readonly<Record<DocumentKind, string>> = { Domain: "desired-state.schema.json", HostPolicy: "policy.schema.json" };

/** The schema as it is shipped. */
export const schemaText = (kind: DocumentKind): string => readFileSync(new URL(`../../specs/${FILES[kind]}`, import.meta.url), "utf8");

/** Compiled in a fifth of the time: a start must not stop the event loop for long. The tests hold the schemas to the dialect. */
const QUICK = { meta: false, validateSchema: false, inlineRefs: false, code: { optimize: false } } as const;

type Shape = { readonly validate: ValidateFunction; readonly words: Vocabulary };
const shapes = new Map<DocumentKind, Shape>();
function shapeOf(kind: DocumentKind): Shape {
  const known = shapes.get(kind);
  if (known !== undefined) return known;
  const schema = JSON.parse(schemaText(kind)) as SchemaObject;
  const ajv = new Ajv2020({ allErrors: true, verbose: true, strict: true, strictRequired: false, allowUnionTypes: true, ...QUICK });
  const shape = { validate: ajv.compile(schema), words: vocabularyOf(schema) };
  shapes.set(kind, shape);
  return shape;
}

/** How many are put into words: a file that is no desired state at all has thousands. */
const MAX_ERRORS = 1000;

/**
 * @param bare - how a scalar at a pointer is written where it is not quoted; null: otherwise
 * @returns `forms`: that none of several alternatives fits; the meaning checks say it better, so these count only where nothing else was found
 */
export function checkShape(
  kind: DocumentKind,
  value: unknown,
  bare: (pointer: string) => string | null,
): { readonly findings: readonly Finding[]; readonly forms: readonly Finding[] } {
  const { validate, words } = shapeOf(kind);
  if (validate(value)) return { findings: [], forms: [] };
  const errors = (validate.errors ?? []).slice(0, MAX_ERRORS);
  return {
    findings: errors.filter((error) => !isForm(error)).map((error) => describe(error, words, bare)),
    forms: errors.filter(isForm).map((error) => describe(error, words, bare)),
  };
}

const FORMS: ReadonlySet<string> = new Set(["anyOf", "oneOf", "dependentRequired", "minProperties", "minItems"]);
const isForm = ({ keyword, schemaPath }: ErrorObject): boolean =>
  FORMS.has(keyword) || (keyword === "maxProperties" && !schemaPath.includes("/labels/")) || /\/(?:anyOf|oneOf)\/\d+\//.test(schemaPath);

type Part = SchemaObject & {
  readonly properties?: Readonly<Record<string, SchemaObject>>;
  readonly required?: readonly string[];
};

function vocabularyOf(root: SchemaObject): Vocabulary {
  const definitions = (root["$defs"] ?? {}) as Readonly<Record<string, SchemaObject>>;
  const homes = new Map<string, readonly string[]>();
  const needed = new Set(["usb", "allow", "deny"]);
  const walk = (part: Part, name: string): void => {
    for (const key of part.required ?? []) needed.add(key);
    for (const [key, property] of Object.entries(part.properties ?? {})) {
      homes.set(key, [...(homes.get(key) ?? []), name]);
      walk(property, key);
    }
  };
  walk(root, "the document");
  for (const [name, part] of Object.entries(definitions)) {
    walk(part, name !== "usb" ? `an entry of ${name}s` : root.$id?.includes("policy") === true ? "allow or deny" : "usb");
  }
  const resolve = (part: SchemaObject | undefined): SchemaObject | undefined => {
    const ref: unknown = part?.["$ref"];
    return typeof ref === "string" ? definitions[ref.replace("#/$defs/", "")] : part;
  };
  return { homes, needed, resolve };
}
