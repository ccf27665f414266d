/** `run`: the daemon. */
import { type Command, Option } from "commander";
import type { Context } from "../context.ts";
import type { RunFlags } from "../daemon.ts";
import { flagOf, SETTINGS, variableOf } from "../settings.ts";
import { keepYoungHeapSmall } from "../young-heap.ts";

export function addRun(program: Command, context: Context): void {
  const { io, does } = context;
  const command = program.command("run").description("run the daemon: keep the devices where the files say");
  for (const setting of SETTINGS) {
    if ("secret" in setting) continue;
    const fallback = setting.fallback === null ? "" : `, default ${setting.fallback}`;
    command.addOption(new Option(flagOf(setting), `${setting.about} (${variableOf(setting.key)}${fallback})`));
  }
  command
    .option("--config <file>", "YAML file of these settings (PLUGHERD_CONFIG)")
    .option("--debug", "log more, and show where in the program an error comes from")
    .action(
      does(async (options: RunFlags) => {
        keepYoungHeapSmall();
        const { runDaemon } = await import("../daemon.ts");
        return runDaemon(io, options, context);
      }),
    );
}
