/** `schema [desired-state|policy|live-api]`: prints a JSON Schema, for editors and checkers. */
import { readFileSync } from "node:fs";
import { Argument, type Command } from "commander";
import { ok } from "../../../model/result.ts";
import { specsDir } from "../../specs-dir.ts";
import { type Context, common } from "../context.ts";
import { type Done, EXIT } from "../io.ts";

const NAMES = ["desired-state", "policy", "live-api"];

export function addSchema(program: Command, context: Context): void {
  const { io, does } = context;
  common(program.command("schema"), context)
    .description("print the JSON Schema of desired-state files, of the policy, or of the live API")
    .addArgument(new Argument("[name]", "which one").choices(NAMES).default("desired-state"))
    .action(
      does((name: string): Promise<Done> => {
        io.stdout.write(readFileSync(new URL(`${name}.schema.json`, specsDir), "utf8"));
        return Promise.resolve(ok(EXIT.ok));
      }),
    );
}
