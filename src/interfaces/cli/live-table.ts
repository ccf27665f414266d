/** A text redrawn in place on a terminal: no alternate screen, so that the last state stays when it ends. */
import type { Output } from "./io.ts";
import { clip } from "./text-width.ts";

export type LiveTable = {
  /** Replaces what was drawn before. */
  draw(text: string): void;
  /** So that ages go on. @returns ends it */
  everySecond(redraw: () => void): () => void;
};

const TICK_MS = 1_000;

export function createLiveTable(output: Output): LiveTable {
  /** Lines above the cursor that are ours, as they were cut for the terminal of that moment. */
  let drawn = 0;
  let drawnColumns = 0;
  const size = (): { columns: number; rows: number } => ({
    columns: Math.max(20, output.columns ?? 80),
    rows: Math.max(4, output.rows ?? 24),
  });
  return {
    draw(text) {
      const { columns, rows } = size();
      const lines = text.replace(/\n$/, "").split("\n");
      // What scrolls off the top cannot be reached again: only as many lines as fit, and how many more there are.
      const fit = lines.length < rows ? lines : [...lines.slice(0, rows - 2), `… ${String(lines.length - rows + 2)} more lines`];
      const cut = fit.map((line) => clip(line, columns - 1));
      // A terminal that became narrower has wrapped our lines: every one may stand on several rows now.
      const up = columns < drawnColumns ? Math.min(rows - 1, drawn * Math.ceil(drawnColumns / columns)) : Math.min(drawn, rows - 1);
      output.write(`${up > 0 ? `\u001b[${String(up)}A` : ""}\r\u001b[J${cut.join("\n")}\n`);
      drawn = cut.length;
      drawnColumns = columns;
    },
    everySecond(redraw) {
      const timer = setInterval(redraw, TICK_MS);
      return () => clearInterval(timer);
    },
  };
}
