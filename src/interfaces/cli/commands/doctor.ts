/** `doctor`: what on this host would stop plugherd working, each with its remedy. Works without a daemon, and asks one that runs. */
import type { Command } from "commander";
import { checkDaemon, checkHost, type DaemonFacts, type HostFinding, SEVERITIES } from "../../../model/checkup.ts";
import { err, ok, type Result } from "../../../model/result.ts";
import type { Condition, DomainStatus } from "../../../model/status.ts";
import { checkXen } from "../../../model/xen-checkup.ts";
import type { HealthBody, StatusBody } from "../../http/messages.ts";
import { type Api, createApi } from "../client.ts";
import { type Context, output, settings } from "../context.ts";
import { colourOf, type Done, EXIT, type Failure } from "../io.ts";
import { type Colour, type Format, paint, renderJson, renderYaml, shown } from "../render.ts";
import { readRunConfig } from "../run-options.ts";

type Flags = Readonly<Record<string, string | undefined>> & { readonly output: Format };

const COLOUR: Readonly<Record<HostFinding["severity"], Colour>> = { problem: "red", warning: "yellow", note: "dim" };
const MOST_CHARACTERS = 1_000;

export function addDoctor(program: Command, context: Context): void {
  const { io, does, version, leastNode } = context;
  const command = program
    .command("doctor")
    .description("look for what on this host would stop plugherd working, and tell what to do about it. Exit 0, whatever it finds");
  settings(output(command, ["table", "json", "yaml"]), ["listen", "logLevel", "logFormat", "qmpListen"])
    .option("--debug", "show where in the program an error comes from")
    .action(
      does(async ({ output: format, ...options }: Flags): Promise<Done> => {
        const config = readRunConfig(options, io.env);
        if (!config.ok) return config;
        const { paths } = config.value;
        // With all that they need: loaded for this command only.
        const [{ examineHost }, { examineXen }, { systemClock }, { defaultTimings }] = await Promise.all([
          import("../../../adapters/host-checkup.ts"),
          import("../../../adapters/xen-checkup.ts"),
          import("../../../app.ts"),
          import("../../../model/timings.ts"),
        ]);
        const [host, xen, daemon] = await Promise.all([
          examineHost(paths, leastNode),
          examineXen(paths, { clock: systemClock, timings: defaultTimings }),
          askDaemon(createApi(paths.api)),
        ]);
        const seen = [...checkHost(host), ...(xen === null ? [] : checkXen(xen))];
        // What the daemon has seen of its domains, we may have seen ourselves, with more words.
        const told = checkDaemon(daemon, version).filter(
          ({ about, reason }) => !seen.some((one) => one.about === about && one.reason === reason),
        );
        const all = [...seen, ...told];
        const found = SEVERITIES.flatMap((severity) => all.filter((one) => one.severity === severity));
        if (format === "json") io.stdout.write(renderJson(found));
        else if (format === "yaml") io.stdout.write(renderYaml(found));
        else io.stdout.write(textOf(found, colourOf(io.stdout, io.env)));
        return ok(EXIT.ok);
      }),
    );
}

/** Ready is good when true, all others when absent. */
const isTrouble = ({ type, status }: Condition): boolean => (type === "Ready" ? status === "False" : status === "True");

async function askDaemon(daemon: Api): Promise<DaemonFacts> {
  const asked = await readDaemon(daemon);
  return asked.ok ? asked.value : { unreachable: asked.error };
}
async function readDaemon(daemon: Api): Promise<Result<DaemonFacts, Failure>> {
  const health = await daemon.get<HealthBody>("/healthz");
  if (!health.ok) return health;
  const [status, domains] = await Promise.all([
    daemon.get<StatusBody>("/api/v1/status"),
    daemon.get<readonly DomainStatus[]>("/api/v1/domains"),
  ]);
  if (!status.ok) return err(status.error);
  if (!domains.ok) return err(domains.error);
  const conditions = [{ name: "daemon", conditions: status.value.conditions }, ...domains.value].flatMap(({ name, conditions: all }) => {
    // Stalled says why it is not ready.
    const trouble = all.filter(isTrouble);
    const stalled = trouble.filter(({ type }) => type === "Stalled");
    const others = trouble.filter(({ type }) => type !== "Stalled" && type !== "Reconciling" && !(type === "Ready" && stalled.length > 0));
    return [...stalled, ...others].map(({ type, reason, message }) => ({ about: name, reason, message, stalled: type === "Stalled" }));
  });
  const monitors = domains.value.flatMap(({ name, live }) =>
    live === null ? [] : [{ domain: name, path: live.monitor, state: live.monitorState }],
  );
  return ok({ live: { version: health.value.version, ready: status.value.ready, conditions, monitors } });
}

function textOf(found: readonly HostFinding[], colour: boolean): string {
  const lines = found.flatMap(({ severity, reason, about, message, remedy }) => [
    `${paint(severity.padEnd(8), COLOUR[severity], colour)} ${shown(reason)}  ${shown(about, MOST_CHARACTERS)}: ${shown(message, MOST_CHARACTERS)}`,
    ...(remedy === null ? [] : [`${" ".repeat(9)}${paint("->", "dim", colour)} ${shown(remedy, MOST_CHARACTERS)}`]),
  ]);
  const counts = SEVERITIES.map((severity) => {
    const count = found.filter((one) => one.severity === severity).length;
    return `${String(count)} ${severity}${count === 1 ? "" : "s"}`;
  });
  return `${[...lines, counts.join(", ")].join("\n")}\n`;
}
