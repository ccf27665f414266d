/**
 * A YAML or JSON text -> plain values with the place of every key and value. YAML 1.2 core schema; JSON is a part of it.
 * The text is hostile: its bytes, nesting, tokens, values and alias use are bounded before anything recursive sees them
 * (a text of 50,000 brackets ends the whole process inside the yaml package otherwise).
 */
import {
  Composer,
  type CST,
  type Document,
  isAlias,
  isMap,
  isScalar,
  isSeq,
  Lexer,
  LineCounter,
  type Node,
  type ParsedNode,
  Parser,
  type YAMLError,
} from "yaml";
import { below } from "../model/finding.ts";

export const MAX_BYTES = 1024 * 1024;
const MAX_DEPTH = 32;
const MAX_TOKENS = 250_000;
const MAX_VALUES = 100_000;
const MAX_SYNTAX_PROBLEMS = 10;

/** Line and column 1-based. */
export type Position = { readonly line: number; readonly column: number };
export type TextProblem = Position & { readonly message: string; readonly pointer: string };
export type PlainDocument = {
  readonly value: unknown;
  /** Pointers of what could not be told (an alias to nowhere, a key twice): whatever else is wrong there follows from that. */
  readonly spoilt: readonly string[];
  /** Of its first key or value. */
  readonly start: Position;
  /** Of the value at a JSON pointer, or of the key that names it; what is not there: of the nearest that is, outwards. */
  place(pointer: string, at: "key" | "value"): Position;
  /** A scalar as it is written, without quotes; null: no scalar, or a quoted one. */
  bare(pointer: string): string | null;
};
export type YamlText = {
  readonly documents: readonly PlainDocument[];
  /** Those of a document that is there all the same have a pointer into it. */
  readonly problems: readonly TextProblem[];
  /** What stands at metadata.name in documents that are no YAML as a whole. */
  readonly brokenNames: readonly unknown[];
};

/** Empty documents (`---` and nothing more) are left out. */
export function readYaml(written: string, format: "YAML" | "JSON"): YamlText {
  const text = written.startsWith("\uFEFF") ? written.slice(1) : written;
  const lines = new LineCounter();
  const refuse = (offset: number, message: string): YamlText => ({
    documents: [],
    problems: [{ ...positionOf(lines, offset), message, pointer: "" }],
    brokenNames: [],
  });
  // What Parser.parse() does, with the count between.
  const tokens: CST.Token[] = [];
  const parser = new Parser(lines.addNewLine);
  lines.addNewLine(0);
  let count = 0;
  for (const lexeme of new Lexer().lex(text)) {
    count += 1;
    if (count > MAX_TOKENS) return refuse(0, "the file holds too much to be desired state; split it into a file a domain");
    tokens.push(...parser.next(lexeme));
  }
  tokens.push(...parser.end());
  const deep = tooDeep(tokens);
  if (deep !== null) return refuse(deep, `nested more than ${String(MAX_DEPTH)} deep; desired state is at most 7 deep`);
  const composer = new Composer({ version: "1.2", schema: "core", uniqueKeys: false, keepSourceTokens: false });
  const documents = [...composer.compose(tokens, true, text.length)];
  const read = documents.map((document) => readDocument(document as Document.Parsed, lines, format));
  return {
    documents: read.flatMap((one) => one.document ?? []),
    problems: read.flatMap((one) => one.problems),
    brokenNames: read.flatMap((one) => one.brokenName ?? []),
  };
}

const positionOf = (lines: LineCounter, offset: number): Position => {
  const { line, col } = lines.linePos(offset);
  return { line: Math.max(1, line), column: Math.max(1, col) };
};

/** Walks the concrete syntax without recursion. @returns offset of the first value that is too deep; null: none */
function tooDeep(tokens: readonly CST.Token[]): number | null {
  const open: { readonly token: CST.Token | null | undefined; readonly depth: number }[] = tokens.map((token) => ({ token, depth: 0 }));
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const { token, depth } = next;
    if (token === null || token === undefined) continue;
    if (depth > MAX_DEPTH) return token.offset;
    if (token.type === "document") open.push({ token: token.value, depth });
    else if ("items" in token) {
      for (const item of token.items) {
        if ("key" in item) open.push({ token: item.key, depth: depth + 1 });
        if ("value" in item) open.push({ token: item.value, depth: depth + 1 });
      }
    }
  }
  return null;
}

type Read = { readonly document: PlainDocument | null; readonly problems: readonly TextProblem[]; readonly brokenName?: unknown };

function readDocument(document: Document.Parsed, lines: LineCounter, format: string): Read {
  const problems: TextProblem[] = syntaxProblems(document, lines, format);
  const { contents } = document;
  if (contents === null || (isScalar(contents) && contents.value === null && (contents.source ?? "") === "")) {
    return { document: null, problems };
  }
  if (problems.length > 0) return { document: null, problems, brokenName: isMap(contents) ? contents.getIn(["metadata", "name"]) : null };
  const places = new Map<string, Place>();
  const value = plainValue(contents, places, (offset, pointer, message) => {
    if (problems.length < MAX_SYNTAX_PROBLEMS) problems.push({ ...positionOf(lines, offset), pointer, message });
  });
  const place = (pointer: string, at: "key" | "value"): Position => {
    for (let path = pointer; ; path = path.slice(0, path.lastIndexOf("/"))) {
      const found = places.get(path);
      if (found !== undefined) return positionOf(lines, at === "key" || path !== pointer ? (found.key ?? found.value) : found.value);
      if (path === "") return { line: 1, column: 1 };
    }
  };
  return {
    document: {
      value,
      spoilt: problems.map(({ pointer }) => pointer),
      start: place("", "value"),
      place,
      bare: (pointer) => places.get(pointer)?.bare ?? null,
    },
    problems,
  };
}

/** One a line, as one slip often raises several. */
function syntaxProblems(document: Document.Parsed, lines: LineCounter, format: string): TextProblem[] {
  const problems = new Map<number, TextProblem>();
  for (const error of [...document.errors, ...document.warnings]) {
    const position = positionOf(lines, error.pos[0]);
    if (!problems.has(position.line) && problems.size < MAX_SYNTAX_PROBLEMS) {
      problems.set(position.line, { ...position, pointer: "", message: `not ${format}: ${syntaxMessage(error)}` });
    }
  }
  const { yaml } = document.directives;
  if (problems.size === 0 && yaml.explicit === true && yaml.version !== "1.2") {
    problems.set(1, {
      line: 1,
      column: 1,
      pointer: "",
      message: `%YAML ${yaml.version} is not read here; leave the line out: files are YAML 1.2`,
    });
  }
  return [...problems.values()];
}

const HINTS: Readonly<Record<string, string>> = {
  BAD_INDENT: "indent what belongs together alike, with spaces, and close every [ and {",
  BAD_SCALAR_START: "write the value in quotes",
  BAD_DQ_ESCAPE: "write \\\\ for a backslash, or put the text in single quotes",
  BLOCK_AS_IMPLICIT_KEY: 'write one "key: value" a line, and check the indentation',
  MULTILINE_IMPLICIT_KEY: 'write "key: value", with a colon and a blank, and check the indentation',
  MISSING_CHAR: "put it there",
  TAB_AS_INDENT: "indent with spaces",
  UNEXPECTED_TOKEN: "check the indentation, and quote a value with special characters",
  BAD_ALIAS: "write the value out",
  ALIAS_PROPS: "write the value out",
  TAG_RESOLVE_FAILED: "leave the tag out, and quote what must be text",
  BAD_DIRECTIVE: "leave the line out",
  RESOURCE_EXHAUSTION: "split the file",
};
const syntaxMessage = ({ code, message }: YAMLError): string => {
  const [first] = message.split("\n");
  return `${(first ?? "").replaceAll(/[\p{Cc}]/gu, "?").slice(0, 120)}; ${HINTS[code] ?? "check this line and the one above"}`;
};

type Place = { readonly key: number | null; readonly value: number; readonly bare: string | null };
type Report = (offset: number, pointer: string, message: string) => void;

/** Nodes -> plain values, aliases followed. Bounded in depth by what was checked before, and by the number of values for aliases of aliases. */
function plainValue(root: ParsedNode, places: Map<string, Place>, report: Report): unknown {
  const anchors = new Map<string, Node>();
  const open = new Set<Node>();
  let values = 0;
  let full = false;

  /** @param at - where the value stands, where that is not at its own node (an alias, or nothing written) */
  const convert = (node: Node | null, pointer: string, key: number | null, at: number | null): unknown => {
    const offset = at ?? node?.range?.[0] ?? key ?? 0;
    values += 1;
    if (values > MAX_VALUES) {
      if (!full) report(offset, pointer, `more than ${String(MAX_VALUES)} values, aliases counted; write it out, a file a domain`);
      full = true;
      return null;
    }
    const empty = node === null || (isScalar(node) && node.value === null && (node.source ?? "") === "");
    places.set(pointer, {
      key,
      value: empty ? (key ?? offset) : offset,
      bare: isScalar(node) && node.type === "PLAIN" ? (node.source ?? null) : null,
    });
    if (node === null) return null;
    if (isAlias(node)) return follow(node.source, pointer, key, offset);
    if ("anchor" in node && typeof node.anchor === "string") anchors.set(node.anchor, node);
    if (isScalar(node)) return node.value;
    open.add(node);
    const value = isSeq(node)
      ? node.items.map((item, i) => convert(item as Node | null, below(pointer, i), null, at))
      : isMap(node)
        ? convertMap(node.items as readonly { key: unknown; value: unknown }[], pointer, at)
        : null;
    open.delete(node);
    return value;
  };

  const follow = (name: string, pointer: string, key: number | null, offset: number): unknown => {
    const target = anchors.get(name);
    if (target === undefined || open.has(target)) {
      const why = target === undefined ? "stands for nothing above it" : "stands for what it is itself a part of";
      report(offset, pointer, `the alias *${name.slice(0, 40)} ${why}; write the value out`);
      return null;
    }
    return convert(target, pointer, key, offset);
  };

  const convertMap = (items: readonly { key: unknown; value: unknown }[], pointer: string, at: number | null): unknown => {
    const pairs = new Map<string, unknown>();
    for (const { key, value } of items) {
      const offset = at ?? (key as Node | null)?.range?.[0] ?? 0;
      if (!isScalar(key)) {
        report(offset, pointer, "a key is a list, a mapping or an alias; a key must be one word");
        continue;
      }
      const name = typeof key.value === "string" ? key.value : (key.source ?? "");
      if (pairs.has(name)) {
        report(offset, below(pointer, name), `the key "${name.slice(0, 60)}" is here twice; keep one`);
        continue;
      }
      pairs.set(name, convert(value as Node | null, below(pointer, name), offset, at));
    }
    return Object.fromEntries(pairs);
  };
  return convert(root, "", null, null);
}
