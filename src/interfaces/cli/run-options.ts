/** What the settings of `run` are: as an option, as PLUGHERD_…, and in the config file, in that order of weight (product.md §5). */
import { readFileSync } from "node:fs";
import { parseDocument } from "yaml";
import { LOG_FORMATS, LOG_LEVELS, type LogFormat, type LogLevel } from "../../adapters/log.ts";
import { nearest } from "../../model/nearest.ts";
import { err, ok, type Result } from "../../model/result.ts";
import { type Listen, parseListen } from "../http/auth.ts";
import { EXIT, type Failure, usage } from "./io.ts";
import { shown } from "./render.ts";
import { kebab, SETTINGS, type SettingKey, variableOf } from "./settings.ts";

export type RunConfig = {
  readonly paths: Readonly<Record<Exclude<SettingKey, "listen" | "logLevel" | "logFormat" | "apiToken" | "apiReadToken">, string>>;
  readonly listen: Listen | null;
  readonly tokens: { readonly operator?: string; readonly read?: string };
  readonly logLevel: LogLevel;
  readonly logFormat: LogFormat;
};

const MOST_BYTES = 64 * 1024;

/** @returns settings by key; every text is trimmed of nothing: what is written is what is meant */
function readConfigFile(path: string): Result<Readonly<Record<string, string>>, Failure> {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (cause) {
    return err({
      exit: EXIT.cannotStart,
      message: `The config file ${path} cannot be read: ${(cause as Error).message}.`,
      remedy: "Correct --config (or PLUGHERD_CONFIG), or leave it out.",
    });
  }
  const bad = (what: string, at = 1): Result<never, Failure> => err(usage(`${path}:${String(at)}: ${what}`));
  if (text.length > MOST_BYTES) return bad("a config file is at most 64 KiB long");
  const document = parseDocument(text, { logLevel: "silent" });
  const [error] = document.errors;
  if (error !== undefined) return bad(error.message.split("\n")[0] ?? "is not YAML", error.linePos?.[0].line);
  const value: unknown = document.toJS({ maxAliasCount: 10 });
  if (value === null || value === undefined) return ok({});
  if (typeof value !== "object" || Array.isArray(value))
    return bad("it holds no settings; write for example `specs: /etc/plugherd/domains`");
  const found: Record<string, string> = {};
  for (const [written, setting] of Object.entries(value)) {
    const key = SETTINGS.find((one) => one.key === written || kebab(one.key) === written)?.key;
    if (key === undefined) {
      const near = nearest(
        written,
        SETTINGS.map((one) => one.key),
      );
      return bad(
        `there is no setting ${JSON.stringify(shown(written))}${near === null ? `; there are ${SETTINGS.map((one) => one.key).join(", ")}` : `; did you mean ${near}?`}`,
      );
    }
    if (setting === null) continue;
    if (typeof setting !== "string" || setting === "" || setting.includes("\0")) return bad(`${key} takes a text`);
    found[key] = setting;
  }
  return ok(found);
}

const choice = <T extends string>(what: string, text: string, known: readonly T[]): Result<T, Failure> => {
  const found = known.find((one) => one === text);
  if (found !== undefined) return ok(found);
  const near = nearest(text, known);
  return err(
    usage(`${what} takes ${known.join(", ")}, not ${JSON.stringify(shown(text))}.`, near === null ? null : `Did you mean ${near}?`),
  );
};

/** @param given - what stood on the command line, by key; what is not there is undefined */
export function readRunConfig(
  given: Readonly<Record<string, string | undefined>>,
  env: Readonly<Record<string, string | undefined>>,
): Result<RunConfig, Failure> {
  const empty = Object.keys(given).find((key) => given[key] === "");
  if (empty !== undefined) return err(usage(`--${kebab(empty)} is empty.`, "Give it a value, or leave it out."));
  const config = given["config"] ?? (env["PLUGHERD_CONFIG"] || undefined);
  const file = config === undefined ? ok({} as Readonly<Record<string, string>>) : readConfigFile(config);
  if (!file.ok) return file;
  const setting = (key: SettingKey): string | null =>
    given[key] ?? (env[variableOf(key)] || undefined) ?? file.value[key] ?? SETTINGS.find((one) => one.key === key)?.fallback ?? null;
  const path = (key: SettingKey): string => setting(key) ?? "";

  const level = choice("--log-level", path("logLevel"), LOG_LEVELS);
  if (!level.ok) return level;
  const format = choice("--log-format", path("logFormat"), LOG_FORMATS);
  if (!format.ok) return format;
  const written = setting("listen");
  const listen = written === null ? ok(null) : parseListen(written);
  if (!listen.ok) return err(usage(`--listen: ${listen.error}.`));
  const operator = setting("apiToken");
  const read = setting("apiReadToken");
  return ok({
    paths: {
      specs: path("specs"),
      policy: path("policy"),
      qmpDir: path("qmpDir"),
      qmpListen: path("qmpListen"),
      sysfs: path("sysfs"),
      dev: path("dev"),
      proc: path("proc"),
      xenstore: path("xenstore"),
      xenLib: path("xenLib"),
      xl: path("xl"),
      state: path("state"),
      api: path("api"),
    },
    listen: listen.value,
    tokens: { ...(operator === null ? {} : { operator }), ...(read === null ? {} : { read }) },
    logLevel: level.value,
    logFormat: format.value,
  });
}
