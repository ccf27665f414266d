/** Rows -> text: table, JSON, YAML, names. Pure. Whatever comes from devices and domains is made safe to show on a terminal. */
import { stringify } from "yaml";
import { printable } from "../../model/hostdev.ts";
import type { Phase } from "../../model/status.ts";
import { textWidth } from "./text-width.ts";

export type Format = "table" | "wide" | "json" | "yaml" | "name";
export const FORMATS: readonly Format[] = ["table", "wide", "json", "yaml", "name"];

export type Column<T> = {
  readonly title: string;
  readonly value: (row: T) => string;
  /** Only in `-o wide`. */
  readonly wide?: boolean;
  readonly colour?: (row: T) => Colour;
};
export type Colour = "green" | "yellow" | "red" | "blue" | "dim" | "none";

/** Longest text of a cell. */
const MOST_CHARACTERS = 400;
const SGR: Readonly<Record<Colour, string>> = { green: "32", yellow: "33", red: "31", blue: "34", dim: "2", none: "" };

export const paint = (text: string, colour: Colour, on: boolean): string =>
  on && colour !== "none" && text !== "" ? `\u001b[${SGR[colour]}m${text}\u001b[0m` : text;

/** One line of text that is safe on a terminal. */
export const shown = (text: string, limit = MOST_CHARACTERS): string => printable(text, limit);

const PHASE_COLOUR: Readonly<Record<Phase, Colour>> = {
  Paused: "blue",
  Held: "blue",
  Denied: "red",
  WaitingForDomain: "dim",
  WaitingForHost: "dim",
  Conflict: "red",
  Ambiguous: "red",
  Contested: "red",
  Flapping: "yellow",
  Stalled: "red",
  BackingOff: "yellow",
  WaitingForFrontend: "yellow",
  Attaching: "yellow",
  Detaching: "yellow",
  Attached: "green",
};
export const phaseColour = (phase: Phase): Colour => PHASE_COLOUR[phase];

const GAP = "  ";

/** Columns as kubectl prints them: upper-case titles, two spaces between, no lines. An empty cell is `-`. */
export function renderTable<T>(
  columns: readonly Column<T>[],
  rows: readonly T[],
  { wide, colour }: { readonly wide: boolean; readonly colour: boolean },
): string {
  const used = columns.filter((column) => wide || column.wide !== true);
  const cells = rows.map((row) => used.map(({ value }) => shown(value(row)) || "-"));
  const widths = used.map(({ title }, at) => cells.reduce((most, line) => Math.max(most, textWidth(line[at] ?? "")), textWidth(title)));
  const padded = (text: string, at: number): string => " ".repeat(at === used.length - 1 ? 0 : (widths[at] ?? 0) - textWidth(text));
  const lines = cells.map((line, index) => {
    const row = rows[index];
    return line
      .map((text, at) => `${row === undefined ? text : paint(text, used[at]?.colour?.(row) ?? "none", colour)}${padded(text, at)}`)
      .join(GAP);
  });
  return `${[used.map(({ title }, at) => `${title}${padded(title, at)}`).join(GAP), ...lines].join("\n")}\n`;
}

/** C1 controls, line separators and what turns text around; legal in JSON, not fit for a terminal. */
const HIDDEN = /[\u007f-\u009f\u2028\u2029]|\p{Cf}/gu;
const escaped = (character: string): string =>
  [...Array(character.length).keys()].map((i) => `\\u${character.charCodeAt(i).toString(16).padStart(4, "0")}`).join("");

/** JSON in which every control character is escaped. */
export const renderJson = (value: unknown, indent = 2): string => `${JSON.stringify(value, null, indent).replace(HIDDEN, escaped)}\n`;
export const renderJsonLine = (value: unknown): string => renderJson(value, 0);

/** YAML; where a text holds hidden characters every text is quoted, so that they can be escaped. */
export function renderYaml(value: unknown): string {
  const plain = stringify(value, { lineWidth: 0, aliasDuplicateObjects: false });
  if (plain.search(HIDDEN) < 0) return plain;
  return stringify(value, { lineWidth: 0, aliasDuplicateObjects: false, defaultStringType: "QUOTE_DOUBLE" }).replace(HIDDEN, escaped);
}

/** Rows in one of the formats. `name`: without duplicates, in order. */
export function renderRows<T>(
  rows: readonly T[],
  columns: readonly Column<T>[],
  { format, colour, name }: { readonly format: Format; readonly colour: boolean; readonly name: (row: T) => string },
): string {
  if (format === "json") return renderJson(rows);
  if (format === "yaml") return renderYaml(rows);
  if (format === "name") return [...new Set(rows.map(name))].map((text) => `${shown(text)}\n`).join("");
  return rows.length === 0 ? "" : renderTable(columns, rows, { wide: format === "wide", colour });
}
