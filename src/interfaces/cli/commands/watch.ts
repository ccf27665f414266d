/** `watch [domains|devices|host]`: a live table on a terminal, one line a change elsewhere. Stays over restarts of the daemon. */
import { Argument, type Command } from "commander";
import type { Change } from "../../../controller/view.ts";
import { createSelection, type Filters } from "../../filters.ts";
import { deviceColumns, deviceLine, domainColumns, hostColumns, ids, sortDevices, sortDomains, sortHost } from "../columns.ts";
import type { Api } from "../client.ts";
import { api, type Context, common, filters, filtersOf, type ListOptions, output } from "../context.ts";
import { follow } from "../follow.ts";
import { colourOf, type Done, type Io } from "../io.ts";
import { createLiveTable } from "../live-table.ts";
import { createMirror, type Mirror } from "../mirror.ts";
import { renderJsonLine, renderTable, shown } from "../render.ts";
import { checkFilters } from "./get.ts";

type Kind = "devices" | "domains" | "host";
const CHANGE_OF: Readonly<Record<Kind, Change["kind"]>> = { devices: "device", domains: "domain", host: "host" };

const selectionOf = (mirror: Mirror, chosen: Filters) => createSelection(chosen, (domain) => mirror.domains.get(domain)?.labels ?? {});

/** The whole table as it is now. */
function tableOf(kind: Kind, mirror: Mirror, chosen: Filters, io: Pick<Io, "now">, look: { wide: boolean; colour: boolean }): string {
  const selection = selectionOf(mirror, chosen);
  if (kind === "domains") return renderTable(domainColumns(), sortDomains([...mirror.domains.values()].filter(selection.domain)), look);
  if (kind === "host") return renderTable(hostColumns(), sortHost([...mirror.host.values()].filter(selection.host)), look);
  return renderTable(deviceColumns(io.now()), sortDevices([...mirror.devices.values()].filter(selection.device)), look);
}

/** One change in one line; null: of no interest here. */
function lineOf(change: Change, mirror: Mirror, chosen: Filters, colour: boolean): string | null {
  const selection = selectionOf(mirror, chosen);
  if (change.kind === "device") {
    if (change.value !== null) return selection.device(change.value) ? deviceLine(change.value, colour) : null;
    const domain = change.key.slice(0, change.key.indexOf("/"));
    return (chosen.domains.length === 0 || chosen.domains.includes(domain)) && chosen.phases.length === 0
      ? `${shown(change.key)}  gone`
      : null;
  }
  if (change.kind === "domain") {
    if (change.value === null) return `${shown(change.key)}  gone`;
    if (!selection.domain(change.value)) return null;
    const { name, live, devices, conditions } = change.value;
    const said = conditions.map(({ type, status, reason }) => `${type}=${status}/${reason}`).join(" ");
    return `${shown(name)}  ${shown(live?.state ?? "not running")}  ${String(devices.attached)}/${String(devices.total)}  ${shown(said)}`;
  }
  if (change.kind === "host") {
    if (change.value === null) return `${shown(change.key)}  gone`;
    const { device, holder } = change.value;
    return selection.host(change.value)
      ? `${device.busid}  ${ids(device)}  ${shown(device.text)}  ${holder === null ? "free" : `in ${shown(holder)}`}`
      : null;
  }
  return null;
}

type View = {
  readonly kind: Kind;
  readonly format: "table" | "wide" | "json";
  readonly filters: Filters;
  /** A line above the live table. */
  readonly heading?: () => string;
};

/** Follows until stopped; shared with `demo`. */
export async function showLive(io: Io, daemon: Api, { kind, format, filters: chosen, heading }: View, signal: AbortSignal): Promise<Done> {
  const mirror = createMirror();
  const colour = colourOf(io.stdout, io.env);
  const live = format !== "json" && io.stdout.isTTY === true ? createLiveTable(io.stdout) : null;
  let away: string | null = null;
  const draw = (): void => {
    const above = heading === undefined ? "" : `${heading()}\n\n`;
    const below = away === null ? "" : `\n${away}\n`;
    live?.draw(`${above}${tableOf(kind, mirror, chosen, io, { wide: format === "wide", colour })}${below}`);
  };
  /** By key: a change of what the line does not show is no line. */
  const told = new Map<string, string>();
  const print = (changes: readonly Change[]): void => {
    for (const change of changes) {
      const line = lineOf(change, mirror, chosen, colour);
      if (line === null || !("key" in change)) continue;
      if (format === "json") io.stdout.write(renderJsonLine(change));
      else if (told.get(change.key) !== line) io.stdout.write(`${line}\n`);
      if (change.value === null) told.delete(change.key);
      else told.set(change.key, line);
    }
  };
  const stopTicking = live?.everySecond(draw);
  try {
    return await follow(daemon, signal, {
      resume: () => mirror.resume,
      onMessage: (message) => {
        away = null;
        const changes = mirror.take(message).filter((change) => change.kind === CHANGE_OF[kind]);
        if (live === null) print(changes);
        else draw();
        return null;
      },
      onAway: ({ message }) => {
        away = `${message} Trying again.`;
        if (live === null) io.stderr.write(`${away}\n`);
        else draw();
      },
    });
  } finally {
    stopTicking?.();
  }
}

export function addWatch(program: Command, context: Context): void {
  const { io, does } = context;
  const command = program
    .command("watch")
    .description("show what changes, as it changes")
    .addArgument(new Argument("[kind]", "what to watch").choices(["devices", "domains", "host"]).default("devices"));
  filters(output(common(command, context), ["table", "wide", "json"])).action(
    does(async (kind: Kind, options: ListOptions): Promise<Done> => {
      const daemon = api(options);
      const checked = await checkFilters(daemon, options);
      if (!checked.ok) return checked;
      const format = options.output === "json" || options.output === "wide" ? options.output : "table";
      return showLive(io, daemon, { kind, format, filters: filtersOf(options) }, io.stopping());
    }),
  );
}
