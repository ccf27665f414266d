/**
 * QMP on the wire: bytes -> bounded lines -> typed messages, and commands -> text. No sockets, no time.
 * Source: QEMU docs/interop/qmp-spec; one JSON object a line, CRLF from QEMU, key order arbitrary, ids echoed as they were sent.
 */

/** Longest line taken from a peer, in bytes without its end; `query-qmp-schema` is 0.2 MB, nothing sane comes near. */
export const MAX_LINE_BYTES = 16 * 1024 * 1024;

/** Something that QEMU tells unasked. No order against replies is promised, and events while nobody is connected are lost. */
export type QmpEvent = {
  readonly kind: "event";
  /** E.g. `DEVICE_DELETED`. */
  readonly name: string;
  /** Empty where the event has none. */
  readonly data: Readonly<Record<string, unknown>>;
  /** The host's wall clock since 1970, subject to its steps; both -1 where QEMU could not tell. Never order by it. */
  readonly seconds: number;
  readonly microseconds: number;
};

export type QmpMessage =
  | {
      readonly kind: "greeting";
      /** `7.2.22` */
      readonly version: string;
      /** What the distributor calls it; may be empty. */
      readonly package: string;
      readonly capabilities: readonly string[];
    }
  /** `id` is undefined where there was none; QEMU echoes any JSON value. */
  | { readonly kind: "return"; readonly id: unknown; readonly value: unknown }
  /** Without id it answers a line that QEMU could not read: nobody can tell which, so the connection is of no more use. */
  | { readonly kind: "error"; readonly id: unknown; readonly class: string; readonly desc: string }
  | QmpEvent
  /** Not QMP. After one that is `fatal` (a line over the limit) the reader says nothing any more. */
  | { readonly kind: "malformed"; readonly reason: string; readonly fatal: boolean };

export type QmpReader = {
  /** Takes bytes in any portions; returns the messages that they complete. Never throws. */
  push(chunk: Uint8Array): readonly QmpMessage[];
};

const LF = 0x0a;
const CR = 0x0d;
/** How much of a wrong line is shown in its reason. */
const SHOWN = 60;

/** @param maxLineBytes - longest line that is taken, without its end; at least 1 */
export function createQmpReader(maxLineBytes: number = MAX_LINE_BYTES): QmpReader {
  // A line's bytes are decoded when it is whole, so portions cannot cut a character. One decoder does for all lines.
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  let held: Uint8Array = new Uint8Array(0);
  let used = 0;
  let dead = false;

  /** Keeps the start of a line that is not whole yet; doubles, so that a peer that drips bytes costs no more than one that does not. */
  const hold = (part: Uint8Array): void => {
    if (used + part.length > held.length) {
      const grown = new Uint8Array(Math.max(used + part.length, Math.min(2 * held.length, maxLineBytes)));
      grown.set(held.subarray(0, used));
      held = grown;
    }
    held.set(part, used);
    used += part.length;
  };
  const take = (part: Uint8Array): Uint8Array => {
    if (used === 0) return part;
    hold(part);
    const line = held.subarray(0, used);
    held = new Uint8Array(0); // idle peers keep no buffer
    used = 0;
    return line;
  };

  return {
    push(chunk) {
      const messages: QmpMessage[] = [];
      let from = 0;
      while (!dead && from < chunk.length) {
        const at = chunk.indexOf(LF, from);
        const end = at === -1 ? chunk.length : at;
        if (used + end - from > maxLineBytes) {
          dead = true;
          held = new Uint8Array(0);
          messages.push({ kind: "malformed", reason: `a line of more than ${String(maxLineBytes)} bytes`, fatal: true });
        } else if (at === -1) {
          hold(chunk.subarray(from));
        } else {
          const bytes = take(chunk.subarray(from, at));
          const line = decoder.decode(bytes[bytes.length - 1] === CR ? bytes.subarray(0, -1) : bytes);
          if (line.trim() !== "") messages.push(parseQmpMessage(line));
        }
        from = end + 1;
      }
      return messages;
    },
  };
}

/** @param line - one line of text without its end; anything at all */
export function parseQmpMessage(line: string): QmpMessage {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    return malformed("not JSON", line);
  }
  if (!isRecord(value)) return malformed("not a JSON object", line);
  if (Object.hasOwn(value, "QMP")) return greetingOf(value["QMP"]) ?? malformed("a greeting without a version", line);
  if (Object.hasOwn(value, "event")) return eventOf(value) ?? malformed("an event without a name", line);
  if (Object.hasOwn(value, "error")) return errorOf(value) ?? malformed("an error without class or desc", line);
  if (Object.hasOwn(value, "return")) return { kind: "return", id: value["id"], value: value["return"] };
  return malformed("neither greeting, event, error nor return", line);
}

/**
 * One command as it goes out, with its line end.
 * @param id - unique in the connection; short, for QEMU reads a monitor byte by byte
 * @param args - exact JSON types: newer QEMUs refuse a number in a string
 */
export const formatQmpCommand = (id: string, command: string, args?: Readonly<Record<string, unknown>>): string =>
  `${JSON.stringify(args === undefined ? { execute: command, id } : { execute: command, arguments: args, id })}\n`;

function greetingOf(value: unknown): QmpMessage | undefined {
  if (!isRecord(value) || !isRecord(value["version"])) return undefined;
  const { version, capabilities } = value;
  const numbers = version["qemu"];
  if (!isRecord(numbers)) return undefined;
  const parts = [numbers["major"], numbers["minor"], numbers["micro"]];
  if (!parts.every((part) => Number.isSafeInteger(part))) return undefined;
  return {
    kind: "greeting",
    version: parts.join("."),
    package: typeof version["package"] === "string" ? version["package"] : "",
    capabilities: Array.isArray(capabilities) ? capabilities.filter((name): name is string => typeof name === "string") : [],
  };
}

function eventOf(value: Readonly<Record<string, unknown>>): QmpMessage | undefined {
  const { event: name, data, timestamp } = value;
  if (typeof name !== "string") return undefined;
  const time = isRecord(timestamp) ? timestamp : {};
  const number = (part: unknown): number => (typeof part === "number" ? part : -1);
  return {
    kind: "event",
    name,
    data: isRecord(data) ? data : {},
    seconds: number(time["seconds"]),
    microseconds: number(time["microseconds"]),
  };
}

function errorOf(value: Readonly<Record<string, unknown>>): QmpMessage | undefined {
  const { error } = value;
  if (!isRecord(error) || typeof error["class"] !== "string" || typeof error["desc"] !== "string") return undefined;
  return { kind: "error", id: value["id"], class: error["class"], desc: error["desc"] };
}

const malformed = (what: string, line: string): QmpMessage => ({
  kind: "malformed",
  reason: `${what}: ${JSON.stringify(line.length > SHOWN ? `${line.slice(0, SHOWN)}…` : line)}`,
  fatal: false,
});

const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null && !Array.isArray(value);
