/** A row of the benchmark: what was measured, beside what product.md §8 promises. */

export type Row = {
  readonly name: string;
  readonly value: number;
  readonly unit: string;
  /** `<= 3`, in `unit`; null: for comparison only. */
  readonly promise: string | null;
  readonly met: boolean | null;
};

export const atMost = (name: string, value: number, unit: string, limit: number): Row => ({
  name,
  value: rounded(value),
  unit,
  promise: `<= ${String(limit)}`,
  met: value <= limit,
});
export const plain = (name: string, value: number, unit: string): Row => ({ name, value: rounded(value), unit, promise: null, met: null });

/** Three digits that count. */
const rounded = (value: number): number => (Number.isFinite(value) ? Number(value.toPrecision(value >= 1000 ? 5 : 3)) : value);

/** @param p - in [0, 1]; NaN for no values */
export function quantile(values: readonly number[], p: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * p))] ?? Number.NaN;
}
export const median = (values: readonly number[]): number => quantile(values, 0.5);

export function formatTable(rows: readonly Row[]): string {
  const cells = rows.map(({ name, value, unit, promise, met }) => [
    name,
    `${String(value)} ${unit}`,
    promise === null ? "" : `${promise}${unit === "" ? "" : ` ${unit}`}`,
    met === null ? "" : met ? "met" : "NOT MET",
  ]);
  const widths = [0, 1, 2, 3].map((column) => Math.max(...cells.map((row) => row[column]?.length ?? 0)));
  return cells
    .map((row) =>
      row
        .map((cell, column) => (column === 1 ? cell.padStart(widths[column] ?? 0) : cell.padEnd(widths[column] ?? 0)))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}
