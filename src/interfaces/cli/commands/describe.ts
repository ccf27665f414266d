/** `describe`: all of one thing, and why it is so, and what can be done. */
import { Argument, type Command } from "commander";
import type { HostDeviceStatus, JournalEntry } from "../../../controller/view.ts";
import { err, ok, type Result } from "../../../model/result.ts";
import type { ClaimStatus, DomainStatus } from "../../../model/status.ts";
import type { Explanation } from "../../../model/world.ts";
import type { StatusBody } from "../../http/messages.ts";
import type { Api } from "../client.ts";
import { api, type CommonOptions, type Context, common, output } from "../context.ts";
import { describeAll, describeClaim, describeDomain, describeHostDevice } from "../describe-text.ts";
import { colourOf, type Done, EXIT, type Failure } from "../io.ts";
import { domainNames, findEntries, type Known, known, unknownName } from "../names.ts";
import { type Format, renderJson, renderYaml } from "../render.ts";

type Options = CommonOptions & { readonly output: Format };
type Kind = "domain" | "device" | "host";
type Subject =
  | { readonly kind: "domain"; readonly value: DomainStatus }
  | { readonly kind: "device"; readonly value: ClaimStatus }
  | { readonly kind: "host"; readonly value: HostDeviceStatus };

const KINDS: Readonly<Record<string, Kind>> = { domain: "domain", domains: "domain", device: "device", devices: "device", host: "host" };
const SHOWN_EVENTS = "10";

/** What the words name: `DOMAIN`, `DEVICE [DOMAIN]`, `BUSID`; with the kind before them where one name is several things. */
function subjects(words: readonly string[], all: Known, host: readonly HostDeviceStatus[]): Result<readonly Subject[], Failure> {
  const kind = words.length > 1 ? KINDS[words[0] ?? ""] : undefined;
  const [first = "", second] = kind === undefined ? words : words.slice(1);
  // `-o name` prints devices as domain/name.
  const slash = second === undefined && first.includes("/") ? first.lastIndexOf("/") : -1;
  const name = first.slice(slash + 1);
  const domain = slash >= 0 ? first.slice(0, slash) : second;
  const wants = (what: Kind): boolean => kind === undefined || kind === what;
  const found: Subject[] = [];
  if (wants("domain") && domain === undefined)
    for (const value of all.domains) if (value.name === name) found.push({ kind: "domain", value });
  if (wants("host") && domain === undefined)
    for (const value of host) if ([value.device.busid, value.device.anchor].includes(first)) found.push({ kind: "host", value });
  if (wants("device")) {
    const entries = findEntries(all, name, domain);
    if (entries.ok) found.push(...entries.value.map((value) => ({ kind: "device", value }) as const));
    else if (kind === "device" || domain !== undefined) return entries;
  }
  if (found.length > 0) return ok(found);
  const names = [
    ...(wants("domain") ? domainNames(all) : []),
    ...(wants("device") ? all.devices.map((claim) => claim.name) : []),
    ...(wants("host") ? host.map(({ device }) => device.busid) : []),
  ];
  return err(
    unknownName(kind === "host" ? "host device" : (kind ?? "domain, device or busid"), first, names, "`plugherd get` lists what there is."),
  );
}

async function textOf(
  subject: Subject,
  daemon: Api,
  all: Known,
  host: readonly HostDeviceStatus[],
  look: { colour: boolean; now: number },
): Promise<Result<string[], Failure>> {
  if (subject.kind === "host") return ok(describeHostDevice(subject.value, host));
  const query = new URLSearchParams({ limit: SHOWN_EVENTS });
  query.set("domain", subject.kind === "domain" ? subject.value.name : subject.value.domain);
  if (subject.kind === "device") query.set("device", subject.value.name);
  const events = await daemon.get<JournalEntry[]>("/api/v1/events", query);
  if (!events.ok) return events;
  if (subject.kind === "domain") {
    const { value } = subject;
    return ok(describeDomain(value, { claims: all.devices.filter(({ domain }) => domain === value.name), events: events.value }, look));
  }
  const { value: claim } = subject;
  const explanations = await daemon.get<Explanation[]>(
    "/api/v1/explain",
    new URLSearchParams({ device: claim.name, domain: claim.domain }),
  );
  // It may have been edited out between the two questions: then there is only less to say.
  const explanation = explanations.ok
    ? (explanations.value.find(({ claim: { busid } }) => busid === null || busid === claim.host?.busid) ?? explanations.value[0])
    : undefined;
  return ok(describeClaim(claim, { explanation, events: events.value }, look));
}

export function addDescribe(program: Command, context: Context): void {
  const { io, does } = context;
  output(common(program.command("describe"), context), ["table", "json", "yaml"])
    .description("show all of one thing, why it is so, and what can be done: a domain, a device (entry) or a busid of the host")
    .addArgument(
      new Argument("[DOMAIN|DEVICE|BUSID]", "what to describe; `domain`, `device` or `host` may come before it; nothing: the whole"),
    )
    .argument("[DOMAIN]", "the device's domain")
    .argument("[more]")
    .action(
      does(async (first: string | undefined, second: string | undefined, third: string | undefined, options: Options): Promise<Done> => {
        const daemon = api(options);
        if (first === undefined) return describeWhole(daemon, options);
        const [all, host] = await Promise.all([known(daemon), daemon.get<HostDeviceStatus[]>("/api/v1/host")]);
        if (!all.ok) return all;
        if (!host.ok) return host;
        const found = subjects(
          [first, second, third].filter((word) => word !== undefined),
          all.value,
          host.value,
        );
        if (!found.ok) return found;
        if (options.output !== "table") {
          const values = found.value.map(({ value }) => value);
          const value = values.length === 1 ? values[0] : values;
          io.stdout.write(options.output === "json" ? renderJson(value) : renderYaml(value));
          return ok(EXIT.ok);
        }
        const look = { colour: colourOf(io.stdout, io.env), now: io.now() };
        for (const [index, subject] of found.value.entries()) {
          const lines = await textOf(subject, daemon, all.value, host.value, look);
          if (!lines.ok) return lines;
          io.stdout.write(`${index === 0 ? "" : "\n"}${lines.value.join("\n")}\n`);
        }
        return ok(EXIT.ok);
      }),
    );

  async function describeWhole(daemon: Api, options: Options): Promise<Done> {
    const [status, domains] = await Promise.all([daemon.get<StatusBody>("/api/v1/status"), daemon.get<DomainStatus[]>("/api/v1/domains")]);
    if (!status.ok) return status;
    if (!domains.ok) return domains;
    if (options.output === "json") io.stdout.write(renderJson(status.value));
    else if (options.output === "yaml") io.stdout.write(renderYaml(status.value));
    else io.stdout.write(`${describeAll(status.value, domains.value, { colour: colourOf(io.stdout, io.env) }).join("\n")}\n`);
    return ok(EXIT.ok);
  }
}
