/** `run`: the daemon. */
import type { Command } from "commander";
import { type Context, settings } from "../context.ts";
import type { RunFlags } from "../daemon.ts";
import { keepYoungHeapSmall } from "../young-heap.ts";

export function addRun(program: Command, context: Context): void {
  const { io, does } = context;
  const command = program.command("run").description("run the daemon: keep the devices where the files say");
  settings(command);
  command.option("--debug", "log more, and show where in the program an error comes from").action(
    does(async (options: RunFlags) => {
      keepYoungHeapSmall();
      const { runDaemon } = await import("../daemon.ts");
      return runDaemon(io, options, context);
    }),
  );
}
