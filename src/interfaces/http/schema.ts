/** specs/live-api.schema.json at work: request bodies are checked by the same text that documents them. */
import { readFileSync } from "node:fs";
import { Ajv2020, type ValidateFunction } from "ajv/dist/2020.js";
import { err, ok, type Result } from "../../model/result.ts";
import { specsDir } from "../specs-dir.ts";

const SCHEMA = "live-api";
let ajv: Ajv2020 | null = null;
const validators = new Map<string, ValidateFunction>();

function validator(definition: string): ValidateFunction {
  const known = validators.get(definition);
  if (known !== undefined) return known;
  if (ajv === null) {
    ajv = new Ajv2020({ allErrors: false, strict: true, allowUnionTypes: true });
    ajv.addSchema(JSON.parse(readFileSync(new URL("live-api.schema.json", specsDir), "utf8")) as object, SCHEMA);
  }
  const made = ajv.compile({ $ref: `${SCHEMA}#/$defs/${definition}` });
  validators.set(definition, made);
  return made;
}

/** @returns the value, now known to have the shape of `$defs/<definition>`; else what is wrong, in words */
export function checkShape<T>(definition: string, value: unknown): Result<T, string> {
  const check = validator(definition);
  if (check(value)) return ok(value as T);
  const [first] = check.errors ?? [];
  return err(
    first === undefined
      ? "not understood"
      : `${first.instancePath === "" ? "the body" : first.instancePath} ${first.message ?? "is not right"}`,
  );
}
