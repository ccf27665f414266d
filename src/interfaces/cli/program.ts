/** The command line as a function: arguments in, exit code out (product.md §5). The process is main.ts's. */
import { readFileSync } from "node:fs";
import { Command, CommanderError } from "commander";
import { addCompletion } from "./commands/completion.ts";
import { addDemo } from "./commands/demo.ts";
import { addDescribe } from "./commands/describe.ts";
import { addDoctor } from "./commands/doctor.ts";
import { addEvents } from "./commands/events.ts";
import { addExplain } from "./commands/explain.ts";
import { addGet } from "./commands/get.ts";
import { addHost } from "./commands/host.ts";
import { addOperate } from "./commands/operate.ts";
import { addPlan } from "./commands/plan.ts";
import { addRun } from "./commands/run.ts";
import { addSchema } from "./commands/schema.ts";
import { addValidate } from "./commands/validate.ts";
import { addWait } from "./commands/wait.ts";
import { addWatch } from "./commands/watch.ts";
import type { AppFactory, Context } from "./context.ts";
import { type Done, EXIT, type ExitCode, type Io } from "./io.ts";
import { shown } from "./render.ts";

/** As far from the source file as from the built one. */
const packageFile = new URL("../../../package.json", import.meta.url);
const readPackage = (): Pick<Context, "version" | "leastNode"> => {
  const { version, engines } = JSON.parse(readFileSync(packageFile, "utf8")) as { version: string; engines: { node: string } };
  return { version, leastNode: engines.node.replace(/^>=/, "") };
};

/** Of a line of an error. */
const MOST_CHARACTERS = 4_096;

export type Parts = { readonly createApp: AppFactory };

/** In the order of the help. */
const COMMANDS = [
  addRun,
  addDemo,
  addGet,
  addDescribe,
  addWatch,
  addEvents,
  addExplain,
  addPlan,
  addValidate,
  addHost,
  addWait,
  addOperate,
  addDoctor,
  addSchema,
  addCompletion,
];

/** @param argv - without the interpreter and the script */
export async function main(argv: readonly string[], io: Io, parts: Parts): Promise<ExitCode> {
  let code: ExitCode = EXIT.ok;
  const finish = (done: Done): void => {
    if (done.ok) {
      code = done.value;
      return;
    }
    const { exit, message, remedy } = done.error;
    code = exit;
    // It may hold a path or a name, or come from whoever answered on the socket.
    for (const line of [`plugherd: ${message}`, ...(remedy === null ? [] : [remedy])]) io.stderr.write(`${shown(line, MOST_CHARACTERS)}\n`);
  };
  const context: Context = {
    io,
    ...readPackage(),
    createApp: parts.createApp,
    does:
      (body) =>
      async (...args) => {
        finish(await body(...args));
      },
  };
  const program = new Command("plugherd")
    .description("Keeps host USB devices in the domains (virtual machines) where a file says they belong.")
    .version(context.version)
    .exitOverride()
    .helpCommand("help [command]", "show what a command takes")
    .configureHelp({ showGlobalOptions: true })
    .configureOutput({
      writeOut: (text) => io.stdout.write(text),
      writeErr: (text) => io.stderr.write(text),
      getOutHelpWidth: () => io.stdout.columns ?? 100,
      getErrHelpWidth: () => io.stderr.columns ?? 100,
      getOutHasColors: () => false,
      getErrHasColors: () => false,
      outputError: (text, write) => write(text.replace(/^error: /, "plugherd: ")),
    });
  for (const add of COMMANDS) add(program, context);
  try {
    await program.parseAsync([...argv], { from: "user" });
    return code;
  } catch (cause) {
    if (cause instanceof CommanderError) {
      if (cause.exitCode === 0) return EXIT.ok;
      if (cause.code !== "commander.help") io.stderr.write("`plugherd help` lists the commands, `plugherd help COMMAND` what one takes.\n");
      return EXIT.usage;
    }
    const { message, stack } = cause instanceof Error ? cause : new Error(String(cause));
    io.stderr.write(
      `plugherd: ${message}\nThis is a bug in plugherd. Please report it with the command and what --debug adds to this text.\n`,
    );
    if (argv.includes("--debug")) io.stderr.write(`${stack ?? ""}\n`);
    return EXIT.bug;
  }
}
