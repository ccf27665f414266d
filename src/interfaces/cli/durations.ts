/** Lengths of time as people write and read them. */
import { err, ok, type Result } from "../../model/result.ts";

const UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000, w: 604_800_000 };
const LONGEST_MS = 3_650 * 86_400_000;

/** @param text - `90s`, `1h30m`, `2d`, `500ms`. @returns milliseconds, ten years at most */
export function parseDuration(text: string): Result<number, string> {
  const parts = [...text.matchAll(/(\d{1,9}(?:\.\d{1,3})?)(ms|[smhdw])/g)];
  if (parts.length === 0 || parts.map(([part]) => part).join("") !== text)
    return err(`${JSON.stringify(text)} is no length of time; write for example 90s, 10m, 1h30m or 2d`);
  const total = Math.round(parts.reduce((sum, [, count, unit]) => sum + Number(count) * (UNITS[unit ?? ""] ?? 0), 0));
  return total <= LONGEST_MS ? ok(total) : err(`${text} is longer than ten years`);
}

/** Short, as in kubectl's AGE: `45s`, `3m20s`, `2h5m`, `4d`. Less than nothing is `0s`. */
export function formatDuration(ms: number): string {
  const seconds = Math.max(0, Math.floor(ms / 1_000));
  const [m, h, d] = [Math.floor(seconds / 60), Math.floor(seconds / 3_600), Math.floor(seconds / 86_400)];
  if (m < 3) return `${String(seconds)}s`;
  if (h < 1) return m < 10 && seconds % 60 > 0 ? `${String(m)}m${String(seconds % 60)}s` : `${String(m)}m`;
  if (d < 1) return h < 8 && m % 60 > 0 ? `${String(h)}h${String(m % 60)}m` : `${String(h)}h`;
  return d < 8 && h % 24 > 0 ? `${String(d)}d${String(h % 24)}h` : `${String(d)}d`;
}
