/** The shape of a document against its JSON Schema (specs/*.schema.json), each mistake in one sentence with what would be right. */
import { readFileSync } from "node:fs";
import type { ErrorObject, SchemaObject, ValidateFunction } from "ajv";
import { Ajv2020 } from "ajv/dist/2020.js";
import { either, type Finding, mapping, show } from "../model/finding.ts";
import { nearest } from "../model/nearest.ts";

export type DocumentKind = "Domain" | "HostPolicy";
type Shape = {
  readonly validate: ValidateFunction;
  readonly schema: SchemaObject /** Every key, with the keys that lead to it. */;
  readonly homes: ReadonlyMap<string, readonly string[]>;
};

const FILES: Readonly<Record<DocumentKind, string>> = { Domain: "desired-state.schema.json", HostPolicy: "policy.schema.json" };
const shapes = new Map<DocumentKind, Shape>();

/** The schema as it is shipped. */
export const schemaText = (kind: DocumentKind): string => readFileSync(new URL(`../../specs/${FILES[kind]}`, import.meta.url), "utf8");

function shapeOf(kind: DocumentKind): Shape {
  const known = shapes.get(kind);
  if (known !== undefined) return known;
  const schema = JSON.parse(schemaText(kind)) as SchemaObject;
  const validate = new Ajv2020({ allErrors: true, verbose: true, strict: true, strictRequired: false, allowUnionTypes: true }).compile(
    schema,
  );
  const shape = { validate, schema, homes: homesOf(schema) };
  shapes.set(kind, shape);
  return shape;
}

/** How many ajv may report before the rest is cut: a file that is no desired state at all has thousands. */
const MAX_ERRORS = 1000;

/**
 * @param bare - how a scalar at a pointer is written where it is not quoted; null: otherwise
 * @returns `forms`: keywords that only say that alternatives failed; the meaning checks tell them better, and they count where nothing else was found
 */
export function checkShape(
  kind: DocumentKind,
  value: unknown,
  bare: (pointer: string) => string | null,
): { readonly findings: readonly Finding[]; readonly forms: readonly Finding[] } {
  const shape = shapeOf(kind);
  if (shape.validate(value)) return { findings: [], forms: [] };
  const errors = (shape.validate.errors ?? []).slice(0, MAX_ERRORS);
  const forms = errors
    .filter(isForm)
    .map(
      (error): Finding => finding(error.instancePath, "BadShape", `this ${titleOf(error)} does not fit the schema; see plugherd schema`),
    );
  return { findings: errors.filter((error) => !isForm(error)).map((error) => describe(error, shape, bare)), forms };
}

/** Told by the meaning checks in better words. */
const FORMS: ReadonlySet<string> = new Set([
  "anyOf",
  "oneOf",
  "not",
  "if",
  "dependentRequired",
  "minProperties",
  "maxProperties",
  "minItems",
]);
const isForm = ({ keyword, schemaPath }: ErrorObject): boolean =>
  (FORMS.has(keyword) && keyword !== "maxProperties") ||
  (keyword === "maxProperties" && !schemaPath.includes("/labels/")) ||
  /\/(?:anyOf|oneOf)\/\d+\//.test(schemaPath);

const finding = (pointer: string, code: string, message: string, at: "key" | "value" = "value"): Finding => ({
  pointer,
  code,
  message,
  severity: "error",
  at,
});

const plainKey = (key: string): string => key.replaceAll("~1", "/").replaceAll("~0", "~");
/** What a sentence calls the value at a pointer. */
function nameAt(pointer: string): string {
  const keys = pointer.split("/").slice(1).map(plainKey);
  const last = keys.at(-1);
  if (last === undefined) return "the document";
  return /^\d+$/.test(last) ? `an entry of ${keys.at(-2) ?? "the list"}` : last.slice(0, 60);
}
const titleOf = ({ parentSchema }: ErrorObject): string => (typeof parentSchema?.["title"] === "string" ? parentSchema["title"] : "value");
const exampleOf = ({ parentSchema }: ErrorObject): unknown => (parentSchema?.["examples"] as readonly unknown[] | undefined)?.[0];

/** A value as one writes it in YAML on one line. */
function flow(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(flow).join(", ")}]`;
  const map = mapping(value);
  if (map !== null)
    return `{ ${Object.entries(map)
      .map(([key, one]) => `${key}: ${flow(one)}`)
      .join(", ")} }`;
  return JSON.stringify(value);
}

function describe(error: ErrorObject, shape: Shape, bare: (pointer: string) => string | null): Finding {
  const { instancePath: pointer, keyword, data } = error;
  const params = error.params as Readonly<Record<string, unknown>>;
  const name = nameAt(pointer);
  const limit = String(params["limit"]);
  switch (keyword) {
    case "additionalProperties":
      return unknownKey(error, String(params["additionalProperty"]), shape);
    case "required":
      return missingKey(error, String(params["missingProperty"]), shape);
    case "type":
      return finding(pointer, "WrongType", wrongType(error, bare(pointer)));
    case "enum":
    case "const":
      return finding(pointer, "BadValue", notAmong(error, bare(pointer)));
    case "minimum":
    case "maximum": {
      const { minimum, maximum } = error.parentSchema as { minimum?: number; maximum?: number };
      const range = `write ${String(minimum)} to ${String(maximum)}`;
      return finding(pointer, "OutOfRange", `${name}: ${show(data)} is too ${keyword === "minimum" ? "low" : "high"}; ${range}`);
    }
    case "minLength":
      return finding(pointer, "Empty", `${name} is empty; ${orExample(error)}`);
    case "maxLength":
      return finding(pointer, "TooLong", `${name} is ${String([...String(data)].length)} characters long; ${limit} at most`);
    case "maxItems":
      return finding(pointer, "TooMany", `${name} has ${String((data as unknown[]).length)} entries; ${limit} at most`, "key");
    case "maxProperties":
      return finding(pointer, "TooMany", `${name} has ${String(Object.keys(data as object).length)} entries; ${limit} at most`, "key");
    case "pattern":
      return finding(pointer, "BadFormat", `${name} ${show(data)} is not a ${titleOf(error)}; ${orExample(error)}`);
    default:
      return finding(pointer, "BadShape", `${name} does not fit the schema (${keyword}); see plugherd schema`);
  }
}

const orExample = (error: ErrorObject): string => {
  const example = exampleOf(error);
  return example === undefined ? `write the ${titleOf(error)}` : `write one like ${flow(example)}`;
};

/** What people who know other tools write, and what it is here. */
const SYNONYMS: Readonly<Record<string, string>> = {
  vid: "vendor",
  vendorid: "vendor",
  idvendor: "vendor",
  vendor_id: "vendor",
  pid: "product",
  productid: "product",
  idproduct: "product",
  product_id: "product",
  hostbus: "bus",
  hostaddr: "address",
  device: "devices",
  hostport: "port",
  busid: "port",
  class: "anyInterface",
  depends: "after",
  dependson: "after",
  hostdev: "usb",
  controllername: "controller",
};

function unknownKey({ instancePath, parentSchema }: ErrorObject, key: string, shape: Shape): Finding {
  const known = Object.keys((parentSchema?.["properties"] as object | undefined) ?? {}).filter((one) => one !== "$schema");
  const synonym = SYNONYMS[key.toLowerCase()];
  const meant = synonym !== undefined && known.includes(synonym) ? synonym : nearest(key, known);
  const homes = shape.homes.get(key);
  const hint =
    meant !== null
      ? `did you mean "${meant}"?`
      : homes !== undefined
        ? `"${key}" belongs in ${either(homes)}`
        : synonym !== undefined
          ? `"${synonym}" in ${either(shape.homes.get(synonym) ?? [])} may be meant`
          : `known here: ${known.join(", ")}`;
  const pointer = `${instancePath}/${key.replaceAll("~", "~0").replaceAll("/", "~1")}`;
  return finding(pointer, "UnknownKey", `unknown key ${show(key)}; ${hint}`, "key");
}

function missingKey(error: ErrorObject, key: string, { schema }: Shape): Finding {
  const where = error.instancePath === "" ? "" : /\/\d+$/.test(error.instancePath) ? " here" : ` in ${nameAt(error.instancePath)}`;
  const property = resolve(schema, (error.parentSchema?.["properties"] as Readonly<Record<string, SchemaObject>> | undefined)?.[key]);
  const example = property?.["const"] ?? (property?.["examples"] as readonly unknown[] | undefined)?.[0];
  const line = example === undefined ? `${key}:` : `${key}: ${typeof example === "string" ? example : flow(example)}`;
  return finding(error.instancePath, "MissingKey", `${key} is missing${where}; add "${line}"`, "key");
}

const resolve = (root: SchemaObject, schema: SchemaObject | undefined): SchemaObject | undefined => {
  const ref: unknown = schema?.["$ref"];
  return typeof ref === "string"
    ? ((root["$defs"] as Readonly<Record<string, SchemaObject>>)[ref.replace("#/$defs/", "")] ?? schema)
    : schema;
};

const TYPES: Readonly<Record<string, string>> = {
  object: 'a mapping ("key: value" lines)',
  array: "a list",
  string: "text",
  integer: "a whole number",
  number: "a number",
  boolean: "true or false",
};
const typeOf = (value: unknown): string =>
  value === null
    ? "empty"
    : Array.isArray(value)
      ? "a list"
      : typeof value === "object"
        ? "a mapping"
        : typeof value === "string"
          ? "text"
          : `the ${typeof value} ${show(value)}`;

function wrongType(error: ErrorObject, written: string | null): string {
  const { data, instancePath } = error;
  const name = nameAt(instancePath);
  const asked = [error.schema as string | readonly string[]].flat()[0] ?? "object";
  if (data === null || data === undefined) {
    const example = exampleOf(error);
    const fill =
      asked === "object" && example === undefined
        ? `write "${name}: {}" where nothing is wanted`
        : example === undefined
          ? `write ${TYPES[asked] ?? asked}`
          : `write ${name.startsWith("an entry") ? "" : `${name}: `}${flow(example)}`;
    return `${name} is empty; ${fill}, or leave it out`;
  }
  if (asked === "string" && (typeof data === "number" || typeof data === "boolean")) {
    return `${name}: ${written ?? String(data)} is read as the ${typeof data} ${String(data)}; write it in quotes: "${(written ?? String(data)).slice(0, 60)}"`;
  }
  if (asked === "boolean" && typeof data === "string") {
    const yes = /^(?:y|yes|on|true|1)$/i.test(data);
    const no = /^(?:n|no|off|false|0)$/i.test(data);
    return `${name}: ${show(data)} is text; write ${yes ? "true" : no ? "false" : "true or false"}${yes || no ? ", without quotes" : ""}`;
  }
  if (asked === "integer" && typeof data === "string" && /^[+-]?\d+$/.test(data))
    return `${name}: ${show(data)} is text; write ${String(Number(data))}, without quotes`;
  const how =
    asked === "array"
      ? 'begin each entry with "- "'
      : exampleOf(error) === undefined
        ? `write ${TYPES[asked] ?? asked}`
        : `write ${name.startsWith("an entry") ? "" : `${name}: `}${flow(exampleOf(error))}`;
  return `${name} must be ${TYPES[asked] ?? asked}, and is ${typeOf(data)}; ${how}`;
}

function notAmong(error: ErrorObject, written: string | null): string {
  const { data, keyword, params } = error;
  const name = nameAt(error.instancePath);
  const allowed = keyword === "const" ? [params["allowedValue"] as unknown] : (params["allowedValues"] as readonly unknown[]);
  const names = allowed.map(String);
  const shown = written ?? show(data);
  const same = allowed.find((one) => String(one) === String(data));
  if (same !== undefined)
    return `${name}: ${shown} is ${typeof data === "string" ? "text" : "no text"}; write ${typeof data === "string" ? `${String(same)}, without quotes` : `"${String(same)}"`}`;
  if (data === null) return `${name} is empty; write ${either(names)}, or leave it out`;
  const near = typeof data === "string" ? nearest(data, names) : null;
  return `${name}: ${shown} is not known; ${near === null || names.length === 1 ? `write ${either(names)}` : `did you mean ${near}? (${either(names)})`}`;
}

/** Where in the schema each key is at home, in words: `spec`, `a device`, `usb`. */
function homesOf(schema: SchemaObject): ReadonlyMap<string, readonly string[]> {
  const homes = new Map<string, readonly string[]>();
  const walk = (part: SchemaObject | undefined, name: string): void => {
    const properties = part?.["properties"] as Readonly<Record<string, SchemaObject>> | undefined;
    for (const [key, property] of Object.entries(properties ?? {})) {
      homes.set(key, [...(homes.get(key) ?? []), name]);
      walk(property, key);
    }
  };
  walk(schema, "the document");
  for (const [name, part] of Object.entries((schema["$defs"] ?? {}) as Readonly<Record<string, SchemaObject>>)) {
    walk(part, name === "usb" ? (schema["$id"]?.includes("policy") === true ? "allow or deny" : "usb") : `an entry of ${name}s`);
  }
  return homes;
}
