/** `explain DEVICE [DOMAIN]`: every candidate and every rule, in words. */
import type { Command } from "commander";
import { ok } from "../../../model/result.ts";
import type { Explanation } from "../../../model/world.ts";
import { api, type CommonOptions, type Context, common, output } from "../context.ts";
import { explainLines } from "../describe-text.ts";
import { colourOf, type Done, EXIT } from "../io.ts";
import { findEntries, known } from "../names.ts";
import { type Format, renderJson, renderYaml } from "../render.ts";

type Options = CommonOptions & { readonly output: Format };

export function addExplain(program: Command, context: Context): void {
  const { io, does } = context;
  output(common(program.command("explain"), context), ["table", "json", "yaml"])
    .description("show for a device (entry) every candidate on the host and what each rule says of it")
    .argument("<DEVICE>", "name of the entry")
    .argument("[DOMAIN]", "metadata.name of the domain; without it, every domain that has such an entry")
    .action(
      does(async (device: string, domain: string | undefined, options: Options): Promise<Done> => {
        const daemon = api(options);
        const all = await known(daemon);
        if (!all.ok) return all;
        const entries = findEntries(all.value, device, domain);
        if (!entries.ok) return entries;
        const query = new URLSearchParams({ device });
        if (domain !== undefined) query.set("domain", domain);
        const answer = await daemon.get<Explanation[]>("/api/v1/explain", query);
        if (!answer.ok) return answer;
        if (options.output === "json") io.stdout.write(renderJson(answer.value));
        else if (options.output === "yaml") io.stdout.write(renderYaml(answer.value));
        else {
          const look = { colour: colourOf(io.stdout, io.env) };
          io.stdout.write(`${answer.value.map((explanation) => explainLines(explanation, look).join("\n")).join("\n\n")}\n`);
        }
        return ok(EXIT.ok);
      }),
    );
}
