/** Property values as device_add takes them: QEMU before 9.2 converts between JSON types, later ones insist on the exact one. */
import { err, ok, type Result } from "../model/result.ts";
import type { Property } from "./qemu-drivers.ts";

/** Why QEMU says no: error class and text. */
export type Refusal = { readonly class: "GenericError" | "CommandNotFound" | "DeviceNotFound"; readonly desc: string };
export const refuse = (desc: string, errorClass: Refusal["class"] = "GenericError"): { readonly ok: false; readonly error: Refusal } =>
  err({ class: errorClass, desc });

/** @returns the value as the property keeps it; undefined: silently ignored, as old versions do with what they cannot convert */
export function propertyValue(property: Property, value: unknown, strict: boolean): Result<unknown, Refusal> {
  const { name, type } = property;
  if (!strict && (value === null || typeof value === "object")) return ok(undefined);
  switch (type) {
    case "str":
      if (strict && typeof value !== "string") return refuse(`Invalid parameter type for '${name}', expected: string`);
      return ok(String(value));
    case "bool":
      if (typeof value === "boolean") return ok(value);
      if (strict) return refuse(`Invalid parameter type for '${name}', expected: boolean`);
      if (/^(on|yes|true|y)$/.test(String(value))) return ok(true);
      return /^(off|no|false|n)$/.test(String(value)) ? ok(false) : refuse(`Parameter '${name}' expects 'on' or 'off'`);
    default:
      if (name === "addr")
        return /^[\da-f]{1,2}(\.[0-7])?$/i.test(String(value))
          ? ok(value)
          : refuse(`Property 'addr' doesn't take value '${String(value)}'`);
      return integer(name, type, value, strict);
  }
}

function integer(name: string, type: string, value: unknown, strict: boolean): Result<number, Refusal> {
  const signed = type === "int32";
  const expects = (what: string): Result<number, Refusal> => refuse(`Parameter '${name}' expects ${what}`);
  if (strict && typeof value !== "number") return expects(signed ? "int64" : "uint64");
  const written = String(value);
  if (!/^[+-]?(0x[\da-f]+|0[0-7]*|[1-9]\d*)$/i.test(written)) return expects(strict ? (signed ? "int64" : "uint64") : "integer");
  const negative = written.startsWith("-");
  const digits = written.replace(/^[+-]/, "");
  const size = /^0[0-7]+$/.test(digits) ? Number.parseInt(digits, 8) : Number(digits);
  if (signed ? size > 0x7fffffff : negative || size > 0xffffffff) return expects(signed ? "int32_t" : "uint32_t");
  return ok(negative ? -size : size);
}
