/** `demo`: see demo.ts, which is loaded only for it. */
import { type Command, Option } from "commander";
import { type Context, wholeNumber } from "../context.ts";
import type { DemoOptions } from "../demo.ts";

/** The scripted hour takes a minute and a half. */
const DEFAULT_SPEED = 40;

export function addDemo(program: Command, context: Context): void {
  program
    .command("demo")
    .description("run the daemon on a simulated host and watch an hour of plugging, squeezed into a minute and a half, over and over")
    .addOption(new Option("--api <path>", "the live API's socket; default: a temporary one, which is printed"))
    .addOption(new Option("-o, --output <format>", "how to print").choices(["table", "json"]).default("table"))
    .option("--speed <factor>", "how much faster than the clock", wholeNumber(1, 10_000), DEFAULT_SPEED)
    .option("--once", "end after one hour of the scenario")
    .option("--debug", "log what the daemon does, and show where in the program an error comes from")
    .action(
      context.does(async (options: DemoOptions) => {
        const { runDemo } = await import("../demo.ts");
        return runDemo(context, options);
      }),
    );
}
