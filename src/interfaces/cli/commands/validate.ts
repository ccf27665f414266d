/** `validate PATH… [--strict]`: desired state and policy, as the daemon would read them, without a daemon. */
import type { Command } from "commander";
import { err, ok } from "../../../model/result.ts";
import { type CommonOptions, type Context, common, output } from "../context.ts";
import { type Done, EXIT, usage } from "../io.ts";
import { type Format, renderJson, renderYaml, shown } from "../render.ts";
import { readSpecFiles } from "../spec-paths.ts";

type Options = CommonOptions & { readonly output: Format; readonly strict?: true };

const counted = (count: number, what: string): string => `${String(count)} ${what}${count === 1 ? "" : "s"}`;

export function addValidate(program: Command, context: Context): void {
  const { io, does } = context;
  output(common(program.command("validate"), context), ["table", "json", "yaml"])
    .description("check files of desired state and policy, without a daemon. Exit 3 when one is bad")
    .argument("<PATH...>", "files, or directories of them")
    .option("--strict", "warnings count: exit 1")
    .action(
      does(async (paths: readonly string[], options: Options): Promise<Done> => {
        // With the schema checker that they need: loaded for this command only.
        const [{ checkTexts }, { formatProblem }] = await Promise.all([
          import("../../../adapters/read-paths.ts"),
          import("../../../adapters/spec-reading.ts"),
        ]);
        const files = await readSpecFiles(paths);
        if (!files.ok) return files;
        if (files.value.length === 0)
          return err(
            usage(
              `There is no file of desired state in ${paths.join(" ")}.`,
              "Files end in .yaml, .yml or .json, and do not begin with a dot.",
            ),
          );
        const { problems } = checkTexts(files.value.map(({ name, bytes }) => ({ name, text: bytes })));
        const errors = problems.filter(({ severity }) => severity === "error").length;
        const warnings = problems.length - errors;
        if (options.output === "json") io.stdout.write(renderJson(problems));
        else if (options.output === "yaml") io.stdout.write(renderYaml(problems));
        else {
          for (const problem of problems) io.stderr.write(`${shown(formatProblem(problem), 4_096)}\n`);
          const verdict = errors > 0 ? counted(errors, "error") : warnings > 0 ? "valid" : "all valid";
          io.stdout.write(`${counted(files.value.length, "file")}: ${verdict}${warnings > 0 ? `, ${counted(warnings, "warning")}` : ""}\n`);
        }
        return ok(errors > 0 ? EXIT.badState : options.strict === true && warnings > 0 ? EXIT.differs : EXIT.ok);
      }),
    );
}
