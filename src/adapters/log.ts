/** Log lines: pino's JSON or plain text. Control characters never reach a terminal, secrets never reach a line, nothing here throws. */
import { pino } from "pino";
import type { Log } from "../model/contracts.ts";

export type LogLevel = "debug" | "info" | "warn" | "error" | "silent";
export const LOG_LEVELS: readonly LogLevel[] = ["debug", "info", "warn", "error", "silent"];
export type LogFormat = "json" | "text";
export const LOG_FORMATS: readonly LogFormat[] = ["json", "text"];

export type LogOptions = {
  readonly level: LogLevel;
  readonly format: LogFormat;
  readonly stream: { write(text: string): unknown /** Bytes that its reader has not taken yet. */; readonly writableLength?: number };
};

type Fields = Readonly<Record<string, unknown>>;

const SECRET = /token|password|secret|authorization|cookie/i;
/** A text is cut after this many characters, a collection after this many entries, nesting after this depth. */
const MOST_CHARACTERS = 1_000;
const MOST_ENTRIES = 50;
const MOST_DEPTH = 4;
/** While more bytes than this wait for whoever reads the log, lines are dropped and counted. */
const MOST_WAITING = 1024 * 1024;
/** C0 and C1 controls, bidirectional marks, line separators: what could forge a line or drive a terminal. */
const UNSAFE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu;

/** Nearly every text, at every action. */
const PLAIN = /^[\x20-\x7e]*$/;

const clean = (text: string): string =>
  text.length <= MOST_CHARACTERS && PLAIN.test(text)
    ? text
    : (text.length > MOST_CHARACTERS ? `${text.slice(0, MOST_CHARACTERS)}…` : text).replace(
        UNSAFE,
        (character) => `\\u${(character.codePointAt(0) ?? 0).toString(16).padStart(4, "0")}`,
      );

function tame(value: unknown, depth: number): unknown {
  if (typeof value === "string") return clean(value);
  if (typeof value === "bigint" || typeof value === "symbol" || typeof value === "function") return clean(String(value));
  if (typeof value !== "object" || value === null) return value;
  if (depth >= MOST_DEPTH) return "…";
  if (value instanceof Error) return clean(value.message);
  if (Array.isArray(value)) return value.slice(0, MOST_ENTRIES).map((item) => tame(item, depth + 1));
  const entries = value instanceof Map ? [...value.entries()] : Object.entries(value);
  return Object.fromEntries(
    entries
      .slice(0, MOST_ENTRIES)
      .map(([key, item]) => [clean(String(key)), SECRET.test(String(key)) ? "(hidden)" : tame(item, depth + 1)]),
  );
}

/** `key=value`, quoted where a space or quote would make it ambiguous. */
const pair = ([key, value]: readonly [string, unknown]): string => {
  const text = typeof value === "string" ? value : (JSON.stringify(value) ?? "undefined");
  return `${key}=${/[\s"=]/.test(text) || text === "" ? JSON.stringify(text) : text}`;
};

/**
 * Text lines are `level: message key=value`, without a time: systemd and container runtimes stamp them.
 * JSON lines carry `time` (RFC 3339), `level` (a word), `msg`, and `fields`.
 */
export function createLog({ level, format, stream }: LogOptions): Log {
  let lost = 0;
  const write = (text: string): void => {
    if ((stream.writableLength ?? 0) > MOST_WAITING) {
      lost += 1;
      return;
    }
    const lines = lost;
    lost = 0;
    if (lines > 0) say("warn")("log lines were lost: they were not read in time", { lines });
    try {
      stream.write(text);
    } catch {
      // The log has nowhere left to say that it has nowhere to go.
    }
  };
  const rank = LOG_LEVELS.indexOf(level);
  const lines =
    format === "text"
      ? null
      : pino(
          {
            level,
            base: null,
            timestamp: pino.stdTimeFunctions.isoTime,
            formatters: { level: (label) => ({ level: label }) },
          },
          { write },
        );
  const say =
    (at: Exclude<LogLevel, "silent">) =>
    (message: string, fields: Fields = {}): void => {
      if (LOG_LEVELS.indexOf(at) < rank) return;
      try {
        const tamed = tame(fields, 0) as Record<string, unknown>;
        if (lines !== null) lines[at]({ fields: tamed }, clean(message));
        else write(`${[`${at}: ${clean(message)}`, ...Object.entries(tamed).map(pair)].join(" ")}\n`);
      } catch {
        write(`${at}: ${clean(String(message))}\n`);
      }
    };
  return { debug: say("debug"), info: say("info"), warn: say("warn"), error: say("error") };
}
