/** What ajv finds wrong -> one sentence: `what is wrong; what would be right`. What is right, the schema's own titles and examples say. */
import type { AnySchemaObject, ErrorObject, SchemaObject } from "ajv";
import { below, either, type Finding, mapping, show } from "../model/finding.ts";
import { nearest } from "../model/nearest.ts";

export type Vocabulary = {
  /** Where each key is at home: `spec`, `usb`, `an entry of devices`. */
  readonly homes: ReadonlyMap<string, readonly string[]>;
  /** Keys that cannot be left out where they belong. */
  readonly needed: ReadonlySet<string>;
  /** Follows a `$ref`. */
  readonly resolve: (part: SchemaObject | undefined) => SchemaObject | undefined;
};

export function describe(error: ErrorObject, words: Vocabulary, bare: (pointer: string) => string | null): Finding {
  const { instancePath: pointer, keyword, data } = error;
  const params = error.params as Readonly<Record<string, unknown>>;
  const name = nameAt(pointer);
  const limit = String(params["limit"]);
  switch (keyword) {
    case "additionalProperties":
      return unknownKey(error, String(params["additionalProperty"]), words);
    case "required":
      return missingKey(error, String(params["missingProperty"]), words);
    case "type":
      return finding(pointer, "WrongType", wrongType(error, bare(pointer), words));
    case "enum":
    case "const":
      return finding(pointer, "BadValue", notAmong(error, bare(pointer), words));
    case "minimum":
    case "maximum": {
      const { minimum, maximum } = error.parentSchema as { minimum?: number; maximum?: number };
      const low = keyword === "minimum" ? "low" : "high";
      return finding(pointer, "OutOfRange", `${name}: ${show(data)} is too ${low}; write ${String(minimum)} to ${String(maximum)}`);
    }
    case "minLength":
      return finding(pointer, "Empty", `${name} is empty; ${orExample(error)}`);
    case "maxLength":
      return finding(pointer, "TooLong", `${name} is ${String([...String(data)].length)} characters long; write ${limit} at most`);
    case "maxItems":
      return finding(pointer, "TooMany", `${name} has ${String((data as unknown[]).length)} entries; write ${limit} at most`, "key");
    case "maxProperties":
      return finding(
        pointer,
        "TooMany",
        `${name} has ${String(Object.keys(data as object).length)} entries; write ${limit} at most`,
        "key",
      );
    case "pattern":
      return finding(pointer, "BadFormat", `${name} ${show(data)} is not a ${titleOf(error)}; ${orExample(error)}`);
    default:
      return finding(pointer, "BadShape", `${name} does not fit the schema (${keyword}); plugherd schema prints it`);
  }
}

const finding = (pointer: string, code: string, message: string, at: "key" | "value" = "value"): Finding => ({
  pointer,
  code,
  message,
  severity: "error",
  at,
});

/** What a sentence calls the value at a pointer. */
function nameAt(pointer: string): string {
  const keys = pointer
    .split("/")
    .slice(1)
    .map((key) => key.replaceAll("~1", "/").replaceAll("~0", "~"));
  const last = keys.at(-1);
  if (last === undefined) return "the document";
  return /^\d+$/.test(last) ? `an entry of ${keys.at(-2) ?? "the list"}` : show(last).slice(1, -1);
}

const titleOf = ({ parentSchema }: ErrorObject): string => (typeof parentSchema?.["title"] === "string" ? parentSchema["title"] : "value");
const exampleOf = (schema: AnySchemaObject | undefined): unknown => (schema?.["examples"] as readonly unknown[] | undefined)?.[0];
const orExample = (error: ErrorObject): string => {
  const example = exampleOf(error.parentSchema);
  return example === undefined ? `write the ${titleOf(error)}` : `write one like ${flow(example)}`;
};

/** A value as one writes it in YAML on one line; text in quotes wherever YAML might take it for something else. */
function flow(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(flow).join(", ")}]`;
  const map = mapping(value);
  if (map !== null) return `{ ${entriesOf(map)} }`;
  const plain = typeof value === "string" && /^[a-z][\w-]*$/i.test(value) && !/^[a-f\d]+$/i.test(value);
  return plain ? value : JSON.stringify(value);
}
const entriesOf = (map: Readonly<Record<string, unknown>>): string =>
  Object.entries(map)
    .map(([key, value]) => `${key}: ${flow(value)}`)
    .join(", ");

/** A scalar as text; a list or a mapping, whose own toString may be anything: nothing. */
const plain = (value: unknown): string => (typeof value === "object" ? "" : String(value));

/** What people who come from other tools write, and what it is here. */
const SYNONYMS: ReadonlyMap<string, string> = new Map(
  Object.entries({
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
    hostport: "port",
    busid: "port",
    class: "anyInterface",
    depends: "after",
    dependson: "after",
    hostdev: "usb",
  }),
);

function unknownKey({ instancePath, parentSchema }: ErrorObject, key: string, { homes }: Vocabulary): Finding {
  const known = Object.keys((parentSchema?.["properties"] as object | undefined) ?? {}).filter((one) => one !== "$schema");
  const synonym = SYNONYMS.get(key.toLowerCase());
  const meant = synonym !== undefined && known.includes(synonym) ? synonym : nearest(key, known);
  const hint =
    meant !== null
      ? `did you mean "${meant}"?`
      : homes.has(key)
        ? `it belongs in ${either(homes.get(key) ?? [])}`
        : synonym !== undefined
          ? `did you mean "${synonym}" in ${either(homes.get(synonym) ?? [])}?`
          : `known here: ${known.join(", ")}`;
  return finding(below(instancePath, key), "UnknownKey", `unknown key ${show(key)}; ${hint}`, "key");
}

function missingKey(error: ErrorObject, key: string, { resolve }: Vocabulary): Finding {
  const { instancePath: pointer, parentSchema } = error;
  const where = pointer === "" ? "" : /\/\d+$/.test(pointer) ? " here" : ` in ${nameAt(pointer)}`;
  const schema = resolve((parentSchema?.["properties"] as Readonly<Record<string, SchemaObject>> | undefined)?.[key]);
  const example: unknown = schema?.["const"] ?? exampleOf(schema);
  const line = example === undefined ? "{}" : typeof example === "string" ? example : flow(example);
  return finding(pointer, "MissingKey", `${key} is missing${where}; add ${key}: ${line}`, "key");
}

const TYPES: Readonly<Record<string, string>> = {
  object: 'a mapping ("key: value" lines)',
  array: "a list",
  string: "text",
  integer: "a whole number",
  boolean: "true or false",
};
const typeOf = (value: unknown): string =>
  Array.isArray(value) ? "a list" : typeof value === "object" ? "a mapping" : typeof value === "string" ? "text" : show(value);

function wrongType(error: ErrorObject, bare: string | null, words: Vocabulary): string {
  const { data, parentSchema } = error;
  const name = nameAt(error.instancePath);
  const asked = [error.schema as string | readonly string[]].flat()[0] ?? "object";
  const type = TYPES[asked] ?? asked;
  const example = exampleOf(parentSchema);
  const label = name.startsWith("an entry") ? "" : `${name}: `;
  const like = example === undefined ? `write ${asked === "object" ? `${label}{}` : type}` : `write ${label}${flow(example)}`;
  if (data === null || data === undefined) return `${name} is empty; ${like}${orNothing(name, words)}`;
  const written = show(bare ?? plain(data)).slice(1, -1);
  if (asked === "string" && (typeof data === "number" || typeof data === "boolean")) {
    const isId = /^\d{1,3}$/.test(written) && String(parentSchema?.["pattern"]).includes("{4}$");
    const read = `${label}${written} is read as the ${typeof data} ${String(data)}`;
    return `${read}; write it in quotes${isId ? ", with 4 digits" : ""}: "${isId ? written.padStart(4, "0") : written}"`;
  }
  if (asked === "boolean" && typeof data === "string") {
    const meant = /^(?:y|yes|on|true|1)$/i.test(data) ? "true" : /^(?:n|no|off|false|0)$/i.test(data) ? "false" : null;
    return `${label}${show(data)} is text; write ${meant === null ? type : `${meant}, without quotes`}`;
  }
  if (asked === "integer" && typeof data === "string" && /^[+-]?\d{1,15}$/.test(data)) {
    return `${label}${show(data)} is text; write ${String(Number(data))}, without quotes`;
  }
  return `${name} must be ${type}, and is ${typeOf(data)}; ${asked === "array" ? 'begin each entry with "- "' : like}`;
}

function notAmong(error: ErrorObject, bare: string | null, words: Vocabulary): string {
  const { data, keyword } = error;
  const params = error.params as Readonly<Record<string, unknown>>;
  const name = nameAt(error.instancePath).replace(/^an entry of /, "");
  const allowed = keyword === "const" ? [params["allowedValue"]] : (params["allowedValues"] as readonly unknown[]);
  const names = allowed.map(String);
  if (data === null) return `${name} is empty; write ${either(names)}${orNothing(name, words)}`;
  const shown = bare === null ? show(data) : show(bare).slice(1, -1);
  const same = allowed.find((one) => typeof one !== typeof data && String(one) === plain(data));
  if (same !== undefined) return `${name}: ${shown} is ${typeof data === "string" ? "text" : "no text"}; write ${flow(same)} instead`;
  const near = typeof data === "string" && names.length > 1 ? nearest(data, names) : null;
  return `${name}: ${shown} is not known; ${near === null ? `write ${either(names)}` : `did you mean ${near}? (${either(names)})`}`;
}

const orNothing = (name: string, { needed }: Vocabulary): string =>
  needed.has(name) || name.startsWith("an entry") ? "" : ", or leave it out";
