/**
 * What QEMU makes of the bytes on its monitor: no line ends needed, a value is complete at its closing brace, several may stand back to back,
 * single quotes pass, and a byte that fits nowhere aborts the half value and is answered without an id.
 * Source: QEMU qobject/json-lexer.c, json-streamer.c; specs/transcripts/qmp, protocol.
 */
import { err, ok, type Result } from "../model/result.ts";

/** One complete value, or the text of the error that QEMU answers with. */
export type QmpInput = Result<unknown, string>;

const MAX_DEPTH = 1024;
const MAX_CHARACTERS = 64 * 1024 * 1024;

export type QmpInputReader = { push(bytes: Uint8Array): readonly QmpInput[] };

export function createQmpInputReader(): QmpInputReader {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  let text = "";
  let depth = 0;
  let quote = "";
  let escaped = false;
  let recovering = false;

  const reset = (): void => {
    text = "";
    depth = 0;
    quote = "";
    escaped = false;
  };
  const complete = (): QmpInput => {
    const value = parseJson(text);
    reset();
    return value;
  };
  const fail = (reason: string, recover: boolean): QmpInput => {
    reset();
    recovering = recover;
    return err(reason);
  };
  const step = (character: string): QmpInput | undefined => {
    const stray = character < " " ? quote !== "" || !/[\t\n\r]/.test(character) : character === "\uFFFD";
    if (recovering) {
      if (character < " " || character === "\uFFFD") recovering = false;
      if (!/[[\]{}:,]/.test(character)) return undefined;
      recovering = false;
    }
    if (stray) return fail(`JSON parse error, stray '${/"[^"]*$|$/.exec(text)?.[0] ?? ""}${character === "\0" ? "" : character}'`, true);
    if (text.length >= MAX_CHARACTERS) return fail("JSON token size limit exceeded", true);
    if (quote !== "") {
      text += character;
      if (escaped) escaped = false;
      else if (character === "\\") escaped = true;
      else if (character === quote) {
        quote = "";
        if (depth === 0) return complete();
      }
      return undefined;
    }
    if (depth === 0 && text !== "" && !/[\w.+-]/.test(character)) {
      const before = complete(); // a bare word ends at the first character that is none
      const after = step(character);
      return after ?? before;
    }
    if (/\s/.test(character)) {
      if (depth > 0) text += character;
      return undefined;
    }
    text += character;
    if (character === '"' || character === "'") quote = character;
    else if (character === "{" || character === "[") {
      depth += 1;
      if (depth > MAX_DEPTH) return fail("JSON nesting depth limit exceeded", false);
    } else if (character === "}" || character === "]") {
      depth -= 1;
      if (depth < 0) return fail("JSON parse error, expecting value", false);
      if (depth === 0) return complete();
    } else if (depth === 0 && /[:,]/.test(character)) return fail("JSON parse error, expecting value", false);
    else if (depth === 0 && !/[\w.+-]/.test(character)) return fail(`JSON parse error, stray '${character}'`, true);
    return undefined;
  };

  return {
    push(bytes) {
      const values: QmpInput[] = [];
      for (const character of decoder.decode(bytes, { stream: true })) {
        const value = step(character);
        if (value !== undefined) values.push(value);
      }
      return values;
    },
  };
}

function parseJson(text: string): QmpInput {
  try {
    return ok(JSON.parse(text.includes("'") ? doubleQuoted(text) : text));
  } catch {
    const word = /^[A-Za-z]\w*$/.exec(text);
    return err(word === null ? "JSON parse error, expecting value" : `JSON parse error, invalid keyword '${word[0]}'`);
  }
}

const doubleQuoted = (text: string): string =>
  text.replace(/"(?:[^"\\]|\\.)*"|'((?:[^'\\]|\\.)*)'/g, (whole: string, inner: string | undefined) =>
    inner === undefined ? whole : `"${inner.replaceAll("\\'", "'").replaceAll('"', '\\"')}"`,
  );

/** One reply or event as QEMU writes it: a line of pure ASCII that ends in CRLF. */
export const formatQmpOutput = (message: unknown): string =>
  `${JSON.stringify(message).replace(/[^\x20-\x7e]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}`)}\r\n`;
