/** What a check finds wrong in a document, before it has a line and a column; and safe reading of values that are not known to be right. */
import type { Problem, SourceMark } from "./desired.ts";
import { printable } from "./hostdev.ts";

/** A problem by JSON pointer. `at`: whether its place is that value, or the key that names it. */
export type Finding = Omit<Problem, keyof SourceMark> & { readonly at: "key" | "value" };

export type Findings = {
  /** @param message - `what is wrong; what would be right` */
  error(pointer: string, code: string, message: string, at?: "key" | "value"): void;
  warn(pointer: string, code: string, message: string, at?: "key" | "value"): void;
  readonly list: readonly Finding[];
};

export function createFindings(): Findings {
  const list: Finding[] = [];
  const add =
    (severity: "error" | "warning") =>
    (pointer: string, code: string, message: string, at: "key" | "value" = "value"): void => {
      list.push({ pointer, code, message, severity, at });
    };
  return { error: add("error"), warn: add("warning"), list };
}

/** Where a value of a document stands in its file. */
export type Locate = (pointer: string, at: "key" | "value") => SourceMark;

/** One step further down (RFC 6901). */
export const below = (pointer: string, key: string | number): string =>
  `${pointer}/${String(key).replaceAll("~", "~0").replaceAll("/", "~1")}`;

export type Json = Readonly<Record<string, unknown>>;
/** @returns a mapping as it is; anything else: null */
export const mapping = (value: unknown): Json | null =>
  typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Json) : null;
/** @returns a list as it is; anything else: an empty one */
export const entries = (value: unknown): readonly unknown[] => (Array.isArray(value) ? (value as readonly unknown[]) : []);
export const text = (value: unknown): string | null => (typeof value === "string" ? value : null);
export const flag = (value: unknown): boolean | null => (typeof value === "boolean" ? value : null);
export const integer = (value: unknown): number | null => (Number.isSafeInteger(value) ? (value as number) : null);
/** @returns the value where it is one of `known`, else `otherwise` */
export const oneOf = <T extends string | number, D>(value: unknown, known: readonly T[], otherwise: D): T | D =>
  known.find((one) => one === value) ?? otherwise;
/** Whether a mapping has this key with a value that is not empty. */
export const given = (value: Json, key: string): boolean => Object.hasOwn(value, key) && value[key] !== null;

/** A value from a file, safe and short enough for one line. */
export const show = (value: unknown): string => {
  const written = typeof value === "string" ? `"${printable(value, 60)}"` : (JSON.stringify(value) ?? "nothing");
  return written.length > 64 ? `${written.slice(0, 60)}…` : written;
};

/** `a`, `a or b`, `a, b or c`. */
export const either = (names: readonly string[]): string =>
  names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} or ${names.at(-1) ?? ""}`;

/** Control characters, line separators and text that is no Unicode: nothing that a name may hold. */
export const hasControl = (value: string): boolean => /[\p{Cc}\p{Zl}\p{Zp}\p{Cs}]/u.test(value);
