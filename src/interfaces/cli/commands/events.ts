/** `events [--follow]`: the journal of decisions. */
import type { Command } from "commander";
import type { JournalEntry } from "../../../controller/view.ts";
import { ok } from "../../../model/result.ts";
import { type Filters, queryOfFilters } from "../../filters.ts";
import { eventLine } from "../columns.ts";
import { api, type Context, common, filters, filtersOf, type ListOptions, output, wholeNumber } from "../context.ts";
import { follow } from "../follow.ts";
import { colourOf, type Done, EXIT, type Io } from "../io.ts";
import { createMirror } from "../mirror.ts";
import { type Format, renderJson, renderJsonLine, renderYaml } from "../render.ts";
import { createSelection } from "../../filters.ts";
import { checkFilters } from "./get.ts";

type Options = ListOptions & { readonly follow?: true; readonly device?: string; readonly limit: number };

const MOST = 5_000;
const one = (event: JournalEntry, format: Format, io: Io): string =>
  format === "json" || format === "yaml" ? renderJsonLine(event) : `${eventLine(event, colourOf(io.stdout, io.env))}\n`;

function queryOf(options: Options): URLSearchParams {
  const query = queryOfFilters({ ...filtersOf(options), phases: [] });
  if (options.device !== undefined) query.set("device", options.device);
  query.set("limit", String(options.limit));
  return query;
}

export function addEvents(program: Command, context: Context): void {
  const { io, does } = context;
  const command = program.command("events").description("show what was decided and done, oldest first");
  filters(output(common(command, context), ["table", "json", "yaml"]))
    .option("--device <name>", "only of this entry")
    .option("--limit <count>", "how many at most", wholeNumber(1, MOST), 200)
    .option("-f, --follow", "go on with what happens next")
    .action(
      does(async (options: Options): Promise<Done> => {
        const daemon = api(options);
        const checked = await checkFilters(daemon, options);
        if (!checked.ok) return checked;
        if (options.follow === true) return followEvents(io, options);
        const events = await daemon.get<JournalEntry[]>("/api/v1/events", queryOf(options));
        if (!events.ok) return events;
        if (options.output === "json") io.stdout.write(renderJson(events.value));
        else if (options.output === "yaml") io.stdout.write(renderYaml(events.value));
        else for (const event of events.value) io.stdout.write(one(event, options.output, io));
        return ok(EXIT.ok);
      }),
    );
}

/**
 * The journal so far, then each entry as it comes. The stream is opened first and the journal read then, so that nothing falls between;
 * what comes in both is told apart by the journal's own numbers.
 */
function followEvents(io: Io, options: Options): Promise<Done> {
  const daemon = api(options);
  const mirror = createMirror();
  const chosen: Filters = { ...filtersOf(options), phases: [] };
  const selection = createSelection(chosen, (domain) => mirror.domains.get(domain)?.labels ?? {});
  const wanted = (event: JournalEntry): boolean =>
    selection.event(event) && (options.device === undefined || event.device === options.device);
  let life: string | null = null;
  let last = 0;
  let early: JournalEntry[] | null = null;
  const print = (events: readonly JournalEntry[]): void => {
    for (const event of events) {
      if (event.seq <= last) continue;
      last = event.seq;
      if (wanted(event)) io.stdout.write(one(event, options.output, io));
    }
  };
  const readJournal = async (): Promise<void> => {
    const events = await daemon.get<JournalEntry[]>("/api/v1/events", queryOf({ ...options, limit: life === null ? options.limit : MOST }));
    const waiting = early ?? [];
    early = null;
    if (events.ok) print(events.value);
    print(waiting);
  };
  return follow(daemon, io.stopping(), {
    resume: () => mirror.resume,
    onMessage: (message) => {
      if (life !== null && life !== message.id) last = 0;
      const events = mirror.take(message).flatMap((change) => (change.kind === "event" ? [change.value] : []));
      if (message.type === "snapshot") {
        early = [];
        void readJournal();
      }
      life = message.id;
      if (early === null) print(events);
      else early.push(...events);
      return null;
    },
    onAway: ({ message }) => {
      io.stderr.write(`${message} Trying again.\n`);
    },
  });
}
