/** Did-you-mean: the nearest of the known names by edits, if it is near enough to be meant. */

/** @returns null: nothing is within a third of the longer text's length (at least 1, at most 3 edits) */
export function nearest(text: string, known: readonly string[]): string | null {
  let best: { readonly name: string; readonly edits: number } | null = null;
  for (const name of known) {
    const bound = Math.min(3, Math.max(1, Math.floor(Math.max(text.length, name.length) / 3)));
    const edits = distance(text.toLowerCase(), name.toLowerCase(), bound);
    if (edits <= bound && (best === null || edits < best.edits)) best = { name, edits };
  }
  return best?.name ?? null;
}

/** Edits (insert, delete, replace, swap of neighbours) between two texts; more than `bound` is told as `bound + 1`. */
function distance(a: string, b: string, bound: number): number {
  if (Math.abs(a.length - b.length) > bound || a.length > 256 || b.length > 256) return bound + 1;
  let older: number[] = [];
  let above = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i += 1) {
    const row = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const same = a[i - 1] === b[j - 1] ? 0 : 1;
      let cost = Math.min((above[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1, (above[j - 1] ?? 0) + same);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) cost = Math.min(cost, (older[j - 2] ?? 0) + 1);
      row.push(cost);
    }
    older = above;
    above = row;
  }
  return above[b.length] ?? bound + 1;
}
