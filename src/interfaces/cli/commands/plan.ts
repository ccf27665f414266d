/** `plan [PATH…]`: what would change, against the daemon's live host. */
import type { Command } from "commander";
import type { PlanAnswer, PlannedChange } from "../../../controller/view.ts";
import { err, ok } from "../../../model/result.ts";
import type { ErrorBody } from "../../http/messages.ts";
import { api, type CommonOptions, type Context, common, output } from "../context.ts";
import { colourOf, type Done, EXIT, usage } from "../io.ts";
import { type Colour, type Format, paint, renderJson, renderYaml, shown } from "../render.ts";
import { readSpecFiles } from "../spec-paths.ts";

type Options = CommonOptions & { readonly output: Format };

const SIGNS: Readonly<Record<PlannedChange["action"], readonly [string, Colour]>> = {
  attach: ["+", "green"],
  "create-controller": ["+", "green"],
  detach: ["-", "red"],
  move: ["~", "yellow"],
  none: [" ", "dim"],
};

const lineOf = ({ domain, name, action, text }: PlannedChange, colour: boolean): string => {
  const [sign, tint] = SIGNS[action] ?? ["?", "none"];
  return paint(`${sign} ${shown(`${domain}/${name}`)}  ${shown(text, 600)}`, tint, colour);
};

/** `2 to attach, 1 to move`. */
function summary(changes: readonly PlannedChange[]): string {
  const count = (action: PlannedChange["action"]): number => changes.filter((change) => change.action === action).length;
  const parts = [
    [count("attach"), "to attach"],
    [count("move"), "to move"],
    [count("detach"), "to detach"],
    [count("create-controller"), "controllers to make"],
  ] as const;
  const said = parts.filter(([number]) => number > 0).map(([number, what]) => `${String(number)} ${what}`);
  return said.length === 0 ? "Nothing would change." : `${said.join(", ")}.`;
}

export function addPlan(program: Command, context: Context): void {
  const { io, does } = context;
  output(common(program.command("plan"), context), ["table", "json", "yaml"])
    .description("show what would change on the live host; files given stand in for the ones in force. Exit 1 when something would")
    .argument("[PATH...]", "files or directories of desired state")
    .action(
      does(async (paths: readonly string[], options: Options): Promise<Done> => {
        const files = paths.length === 0 ? ok(null) : await readSpecFiles(paths, { under: true });
        if (!files.ok) return files;
        const answer = await api(options).post("/api/v1/plan", {
          files: files.value?.map(({ name, bytes }) => ({ name, text: Buffer.from(bytes).toString("utf8") })) ?? null,
        });
        if (!answer.ok) return answer;
        const { status, body } = answer.value;
        if (status !== 200) {
          const refused = (body as Partial<ErrorBody> | null)?.error;
          return err(usage(refused?.message ?? "The daemon does not take these files.", refused?.remedy ?? null));
        }
        const { problems, changes } = body as PlanAnswer;
        if (options.output === "json") io.stdout.write(renderJson(body));
        else if (options.output === "yaml") io.stdout.write(renderYaml(body));
        else {
          const colour = colourOf(io.stdout, io.env);
          for (const change of changes) io.stdout.write(`${lineOf(change, colour)}\n`);
          io.stdout.write(`${summary(changes)}\n`);
        }
        const { formatProblem } = await import("../../../adapters/spec-reading.ts");
        for (const problem of problems) io.stderr.write(`${shown(formatProblem(problem), 4_096)}\n`);
        if (problems.some(({ severity }) => severity === "error")) return ok(EXIT.badState);
        return ok(changes.some(({ action }) => action !== "none") ? EXIT.differs : EXIT.ok);
      }),
    );
}
