/** What every command is made with, and the options that they share. */
import { type Command, InvalidArgumentError, Option } from "commander";
import type { App, AppConfig } from "../../app.ts";
import type { Log } from "../../model/contracts.ts";
import { nearest } from "../../model/nearest.ts";
import { PHASES, type Phase } from "../../model/status.ts";
import { type Filters, type LabelTest, parseLabels, parsePhase } from "../filters.ts";
import { type Api, createApi } from "./client.ts";
import { parseDuration } from "./durations.ts";
import type { Done, Io } from "./io.ts";
import { FORMATS, type Format } from "./render.ts";
import { DEFAULT_API, flagOf, SETTINGS, type SettingKey, variableOf } from "./settings.ts";

export type AppFactory = (config: AppConfig, deps: { readonly log: Log }) => Promise<App>;

export type Context = {
  readonly io: Io;
  readonly version: string;
  /** Oldest version of Node that will do. */
  readonly leastNode: string;
  readonly createApp: AppFactory;
  /** Wraps what a command does for commander's `action`: the outcome becomes the exit code, a failure is told on stderr. */
  readonly does: <Args extends readonly unknown[]>(body: (...args: Args) => Promise<Done>) => (...args: Args) => Promise<void>;
};

export type CommonOptions = { readonly api: string; readonly debug?: true };
export type ListOptions = CommonOptions & {
  readonly output: Format;
  readonly domain: readonly string[];
  readonly phase: readonly Phase[];
  readonly label: readonly LabelTest[];
};

/** `--api` and `--debug`, which every command takes. */
export const common = (command: Command, { io }: Context): Command =>
  command
    .addOption(new Option("--api <path>", "the daemon's socket (PLUGHERD_API)").default(io.env["PLUGHERD_API"] || DEFAULT_API))
    .option("--debug", "show where in the program an error comes from");

/** Settings of `run` as options, and `--config`. @param but - those that mean nothing here */
export function settings(command: Command, but: readonly SettingKey[] = []): Command {
  for (const setting of SETTINGS) {
    if ("secret" in setting || but.includes(setting.key)) continue;
    const fallback = setting.fallback === null ? "" : `, default ${setting.fallback}`;
    command.addOption(new Option(flagOf(setting), `${setting.about} (${variableOf(setting.key)}${fallback})`));
  }
  return command.option("--config <file>", "YAML file of these settings (PLUGHERD_CONFIG)");
}

export const api = ({ api: socket }: CommonOptions): Api => createApi(socket);

/** Adds `-o`. The first format is the default. */
export const output = (command: Command, formats: readonly Format[] = FORMATS): Command =>
  command.addOption(new Option("-o, --output <format>", "how to print").choices(formats).default(formats[0]));

const phase = (text: string, before: readonly Phase[]): readonly Phase[] => [
  ...before,
  ...text.split(",").map((word) => {
    const known = parsePhase(word);
    if (known === undefined) throw new InvalidArgumentError(unknownPhase(word));
    return known;
  }),
];
/** In words, with did-you-mean. */
export function unknownPhase(word: string): string {
  const near = nearest(word, PHASES);
  return `There is no phase ${JSON.stringify(word)}${near === null ? `; the phases are ${PHASES.join(", ")}` : `; did you mean ${near}`}${near === null ? "." : "?"}`;
}
const label = (text: string, before: readonly LabelTest[]): readonly LabelTest[] => {
  const tests = parseLabels(text);
  if (!tests.ok) throw new InvalidArgumentError(tests.error);
  return [...before, ...tests.value];
};
const another = (text: string, before: readonly string[]): readonly string[] => [...before, text];

export const filters = (command: Command): Command =>
  command
    .addOption(new Option("-d, --domain <name>", "only of this domain (repeatable)").argParser(another).default([], "all"))
    .addOption(new Option("--phase <phase>", "only in this phase (repeatable, commas)").argParser(phase).default([], "all"))
    .addOption(
      new Option("-l, --label <test>", "only of domains with this label: key=value, key!=value, key").argParser(label).default([], "all"),
    );
export const filtersOf = ({ domain, phase: phases, label: labels }: ListOptions): Filters => ({ domains: domain, phases, labels });

/** For commander's argParser. */
export const duration = (text: string): number => {
  const ms = parseDuration(text);
  if (!ms.ok) throw new InvalidArgumentError(ms.error);
  return ms.value;
};
export const wholeNumber =
  (least: number, most: number) =>
  (text: string): number => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || value < least || value > most)
      throw new InvalidArgumentError(`It takes a whole number from ${String(least)} to ${String(most)}.`);
    return value;
  };
