/** How much room a text takes on a terminal. Pure. */

/** East Asian wide and full-width forms, emoji: two columns. */
const WIDE =
  /[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\ua960-\ua97f\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6]|[\u{20000}-\u{3fffd}]|\p{Emoji_Presentation}/u;
/** Marks that sit on the character before them: none. */
const MARK = /\p{Mn}|\p{Me}/u;
// biome-ignore lint/suspicious/noControlCharactersInRegex: a colour begins with one
const PARTS = /\u001b\[[0-9;]*m|./gsu;
const isColour = (part: string): boolean => part.startsWith("\u001b");
const widthOfCharacter = (character: string): number => (MARK.test(character) ? 0 : WIDE.test(character) ? 2 : 1);

/** Columns of a text without colours. */
export function textWidth(text: string): number {
  // Nearly everything that is shown.
  if (/^[ -~]*$/.test(text)) return text.length;
  let width = 0;
  for (const character of text) width += widthOfCharacter(character);
  return width;
}

/** Cuts a line to a number of columns; colours count nothing and are ended. */
export function clip(line: string, columns: number): string {
  let width = 0;
  let out = "";
  for (const [part] of line.matchAll(PARTS)) {
    if (!isColour(part)) {
      width += widthOfCharacter(part);
      if (width > columns) return out.includes("\u001b") ? `${out}\u001b[0m` : out;
    }
    out += part;
  }
  return out;
}
