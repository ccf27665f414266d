/** A problem of a file in one line: `file:line:column: what is wrong; what would be right`. */
import type { Problem } from "../../model/desired.ts";
import { shown } from "./render.ts";

export const formatProblem = ({ file, line, column, message, severity }: Problem): string =>
  `${shown(file, 4_096)}:${String(line)}:${String(column)}: ${severity === "warning" ? "warning: " : ""}${shown(message, 1_000)}`;
