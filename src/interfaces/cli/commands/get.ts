/** `get [domains|devices|host]`: what there is now. */
import { Argument, type Command } from "commander";
import type { HostDeviceStatus } from "../../../controller/view.ts";
import { err, ok } from "../../../model/result.ts";
import type { ClaimStatus, DomainStatus } from "../../../model/status.ts";
import { queryOfFilters } from "../../filters.ts";
import type { Api } from "../client.ts";
import { deviceColumns, domainColumns, hostColumns, sortDevices, sortDomains, sortHost } from "../columns.ts";
import { api, type Context, common, filters, filtersOf, type ListOptions, output } from "../context.ts";
import { colourOf, type Done, EXIT } from "../io.ts";
import { checkDomain, known } from "../names.ts";
import { renderRows } from "../render.ts";

const KINDS: Readonly<Record<string, "domains" | "devices" | "host">> = {
  domains: "domains",
  domain: "domains",
  devices: "devices",
  device: "devices",
  host: "host",
};

/** A domain that is named but not there is a mistake, not an empty list. */
export async function checkFilters(daemon: Api, options: ListOptions): Promise<Done> {
  if (options.domain.length === 0) return ok(EXIT.ok);
  const all = await known(daemon);
  if (!all.ok) return all;
  for (const name of options.domain) {
    const checked = checkDomain(all.value, name);
    if (!checked.ok) return checked;
  }
  return ok(EXIT.ok);
}

async function rowsOf<T>(
  daemon: Api,
  kind: string,
  options: ListOptions,
): Promise<{ ok: true; value: readonly T[] } | Extract<Done, { ok: false }>> {
  const checked = await checkFilters(daemon, options);
  if (!checked.ok) return err(checked.error);
  return daemon.get<T[]>(`/api/v1/${kind}`, queryOfFilters(filtersOf(options)));
}

export function addGet(program: Command, context: Context): void {
  const { io, does } = context;
  const command = program
    .command("get")
    .description("show domains, devices (entries of the files) or what is plugged into the host")
    .addArgument(new Argument("[kind]", "what to show").choices(Object.keys(KINDS)).default("devices"));
  filters(output(common(command, context))).action(
    does(async (word: string, options: ListOptions): Promise<Done> => {
      const daemon = api(options);
      const format = { format: options.output, colour: colourOf(io.stdout, io.env) };
      const empty = (what: string): void => {
        if (options.output === "table" || options.output === "wide") io.stderr.write(`No ${what}.\n`);
      };
      if (KINDS[word] === "domains") {
        const rows = await rowsOf<DomainStatus>(daemon, "domains", options);
        if (!rows.ok) return rows;
        io.stdout.write(renderRows(sortDomains(rows.value), domainColumns(), { ...format, name: ({ name }) => name }));
        if (rows.value.length === 0) empty("domains");
      } else if (KINDS[word] === "host") {
        const rows = await rowsOf<HostDeviceStatus>(daemon, "host", options);
        if (!rows.ok) return rows;
        io.stdout.write(renderRows(sortHost(rows.value), hostColumns(), { ...format, name: ({ device }) => device.busid }));
        if (rows.value.length === 0) empty("devices on the host");
      } else {
        const rows = await rowsOf<ClaimStatus>(daemon, "devices", options);
        if (!rows.ok) return rows;
        io.stdout.write(
          renderRows(sortDevices(rows.value), deviceColumns(io.now()), { ...format, name: ({ domain, name }) => `${domain}/${name}` }),
        );
        if (rows.value.length === 0) empty("devices");
      }
      return ok(EXIT.ok);
    }),
  );
}
