/** `host`: what can be passed on, with the selector lines to paste into a file. */
import type { Command } from "commander";
import type { HostDeviceStatus } from "../../../controller/view.ts";
import { ok } from "../../../model/result.ts";
import { ids, sortHost } from "../columns.ts";
import { api, type CommonOptions, type Context, common, output } from "../context.ts";
import { colourOf, type Done, EXIT } from "../io.ts";
import { type Format, paint, renderJson, renderYaml, shown } from "../render.ts";
import { selectorLines } from "../selector-lines.ts";

type Options = CommonOptions & { readonly output: Format };

/** Who has it or wants it, or why nobody may. */
const standing = ({ claims, holder, policy }: HostDeviceStatus): string => {
  if (holder !== null) return `in ${shown(holder)}`;
  if (!policy.allowed) return `denied: ${shown(policy.text)}`;
  if (claims.length === 0) return "free";
  return claims.map(({ domain, name, phase }) => `wanted by ${shown(domain)}/${shown(name)} (${phase})`).join(", ");
};

export function addHost(program: Command, context: Context): void {
  const { io, does } = context;
  output(common(program.command("host"), context))
    .description("list what can be passed on, with selector lines to paste, the most lasting first")
    .action(
      does(async (options: Options): Promise<Done> => {
        const answer = await api(options).get<HostDeviceStatus[]>("/api/v1/host");
        if (!answer.ok) return answer;
        const all = answer.value.map(({ device }) => device);
        const offered = sortHost(answer.value).filter(({ device }) => !device.hub);
        const rows = offered.map((status) => ({
          ...status,
          selectors: selectorLines(status.device, all).map(({ yaml }) => `usb: ${yaml}`),
        }));
        if (options.output === "json") io.stdout.write(renderJson(rows));
        else if (options.output === "yaml") io.stdout.write(renderYaml(rows));
        else if (options.output === "name") for (const { device } of rows) io.stdout.write(`${device.busid}\n`);
        else if (rows.length === 0) io.stderr.write("Nothing that could be passed on is plugged in.\n");
        else {
          const colour = colourOf(io.stdout, io.env);
          const blocks = offered.map((status) => {
            const { device } = status;
            const serial = device.serial === null ? "" : `  serial ${shown(device.serial)}`;
            const wide =
              options.output === "wide"
                ? [
                    `    # ${shown(device.anchor ?? "port not known")}, interfaces ${device.interfaces?.join(" ") ?? "not known"}, drivers ${shown(device.drivers.join(" ")) || "none"}`,
                  ]
                : [];
            return [
              `${device.busid}  ${ids(device)}  ${shown(device.text)}${serial}  ${paint(standing(status), status.policy.allowed ? "none" : "red", colour)}`,
              ...wide,
              ...selectorLines(device, all).map(({ yaml, why }) => `    usb: ${yaml}  ${paint(`# ${why}`, "dim", colour)}`),
            ].join("\n");
          });
          io.stdout.write(`${blocks.join("\n\n")}\n`);
        }
        return ok(EXIT.ok);
      }),
    );
}
