/** `wait DOMAIN | DEVICE DOMAIN [--for PHASE] [--timeout D]`: ends once it is so; exit 1 when it did not come about in time. */
import type { Command } from "commander";
import { nearest } from "../../../model/nearest.ts";
import { err, ok, type Result } from "../../../model/result.ts";
import { PHASES, type Phase } from "../../../model/status.ts";
import { parsePhase } from "../../filters.ts";
import { api, type CommonOptions, type Context, common, duration } from "../context.ts";
import { follow } from "../follow.ts";
import { type Done, EXIT, type Failure, usage } from "../io.ts";
import { createMirror, type Mirror } from "../mirror.ts";
import { checkDomain, findEntries, isReady, type Known } from "../names.ts";
import { shown } from "../render.ts";

type Options = CommonOptions & { readonly for?: string; readonly timeout: number };
type Goal = {
  readonly device: string | null;
  readonly domain: string;
  readonly what: { readonly phase: Phase } | { readonly condition: string };
};

const CONDITIONS = ["Ready", "Reconciling", "Stalled"] as const;

function goalOf(first: string, second: string | undefined, wanted: string | undefined): Result<Goal, Failure> {
  const device = second === undefined ? null : first;
  const domain = second ?? first;
  if (device === null) {
    const condition = CONDITIONS.find((name) => name.toLowerCase() === (wanted ?? "Ready").toLowerCase());
    if (condition !== undefined) return ok({ device, domain, what: { condition } });
  }
  const phase = parsePhase(wanted ?? "Attached");
  if (phase !== undefined) return ok({ device, domain, what: { phase } });
  const names = [...PHASES, ...(device === null ? CONDITIONS : [])];
  const near = nearest(wanted ?? "", names);
  return err(
    usage(
      `There is nothing called ${JSON.stringify(shown(wanted ?? ""))} to wait for.`,
      near === null ? `There are ${[...new Set(names)].join(", ")}.` : `Did you mean ${near}?`,
    ),
  );
}

/** Where it stands; `done` once it is so. */
function standing(mirror: Mirror, { device, domain, what }: Goal): { readonly done: boolean; readonly text: string } {
  if ("condition" in what) {
    const conditions = mirror.domains.get(domain)?.conditions ?? [];
    const condition = conditions.find(({ type }) => type === what.condition);
    const about = condition ?? conditions.find(({ type }) => type === "Ready");
    return {
      done: condition?.status === "True",
      text:
        about === undefined
          ? `${domain} has no such condition`
          : `${domain} is ${about.type}=${about.status}: ${about.reason}: ${about.message}`,
    };
  }
  const claims = [...mirror.devices.values()].filter((claim) => claim.domain === domain && (device === null || claim.name === device));
  const others = claims.filter((claim) => claim.phase !== what.phase);
  const [other] = others;
  return {
    done: claims.length > 0 && others.length === 0,
    text:
      other === undefined
        ? `${domain} has no device in its file`
        : `${other.domain}/${other.name} is ${other.phase}${other.reason === null ? "" : `/${other.reason}`}: ${other.message}`,
  };
}

export function addWait(program: Command, context: Context): void {
  const { io, does } = context;
  common(program.command("wait"), context)
    .description("wait until a domain is Ready, or a device is Attached")
    .argument("<DOMAIN|DEVICE>", "a domain; or an entry, and then its domain")
    .argument("[DOMAIN]", "metadata.name of the domain")
    .option(
      "--for <phase>",
      "another phase; for a domain also Ready, Reconciling, Stalled, or a phase that all of its devices are to be in",
    )
    .option("--timeout <duration>", "how long at most, for example 90s, 5m", duration, 60_000)
    .action(
      does(async (first: string, second: string | undefined, options: Options): Promise<Done> => {
        const goal = goalOf(first, second, options.for);
        if (!goal.ok) return goal;
        return waitFor(goal.value, options);
      }),
    );

  async function waitFor(goal: Goal, options: Options): Promise<Done> {
    const daemon = api(options);
    const mirror = createMirror();
    const stop = new AbortController();
    const asked = io.stopping();
    asked.addEventListener("abort", () => stop.abort(), { once: true });
    let failure: Failure | null = null;
    let last = "nothing was heard of it";
    let reached = false;
    const fail = (why: Failure): void => {
      failure = why;
      stop.abort();
    };
    /** A name may be unknown only because the daemon has not read everything yet. */
    let namesChecked = false;
    const checkNames = (): void => {
      namesChecked = true;
      const all: Known = { domains: [...mirror.domains.values()], devices: [...mirror.devices.values()] };
      const checked = goal.device === null ? checkDomain(all, goal.domain) : findEntries(all, goal.device, goal.domain);
      if (!checked.ok) fail(checked.error);
    };
    const timer = setTimeout(() => stop.abort(), options.timeout);
    const ended = await follow(daemon, stop.signal, {
      resume: () => mirror.resume,
      onMessage: (message) => {
        mirror.take(message);
        if (mirror.ready && !namesChecked) checkNames();
        else if (!namesChecked) void isReady(daemon).then((ready) => (ready && !namesChecked ? checkNames() : undefined));
        if (failure !== null) return null;
        const { done, text } = standing(mirror, goal);
        last = text;
        reached = done;
        return done ? EXIT.ok : null;
      },
      onAway: ({ message }) => {
        last = message;
      },
    });
    clearTimeout(timer);
    if (failure !== null) return err(failure);
    if (!ended.ok || reached) return ended;
    if (asked.aborted) return ok(EXIT.differs);
    return err({
      exit: EXIT.differs,
      message: `It did not come about within the time: ${shown(last, 600)}`,
      remedy:
        goal.device === null
          ? `\`plugherd describe ${shown(goal.domain)}\` says why.`
          : `\`plugherd describe ${shown(goal.device)} ${shown(goal.domain)}\` says why.`,
    });
  }
}
