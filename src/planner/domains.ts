/** Which live domain a file means, and what may be done in it now (product.md §2, "Which domain"). */
import type { ForcedDomain } from "../model/desired.ts";
import { isShutDown, type LiveDomain } from "../model/domain.ts";
import type { Pause } from "../model/intentions.ts";
import { printable } from "../model/hostdev.ts";
import type { Verdict } from "../model/world.ts";

/** What one file may do in the domain that it names. */
export type Authority = {
  /** The live domain that the file means; null: none, or it cannot be told which. */
  readonly live: LiveDomain | null;
  /** Its claims take part: devices are won and attached. */
  readonly acts: boolean;
  /** What plugherd attached there may be taken out again. */
  readonly gives: boolean;
  /** What its claims would do is worked out and shown, nothing is done. */
  readonly observes: boolean;
  /** The monitor does not answer: what its entries match may be in it. */
  readonly silent: boolean;
  /** Its devices are given back: it was shut down, or crashed, and is kept. */
  readonly down: boolean;
  /** Why its claims do not take part; null: they do, or are observed. */
  readonly verdict: Verdict | null;
};

const quoted = (text: string): string => `"${printable(text)}"`;

function waiting({ spec }: ForcedDomain): Verdict {
  const wanted = spec.target.by === "name" ? `named ${quoted(spec.target.name)}` : `with uuid ${spec.target.uuid}`;
  return { phase: "WaitingForDomain", reason: "DomainAbsent", message: `no domain ${wanted} is running; it goes on when one starts` };
}

function ambiguous({ spec }: ForcedDomain, lives: readonly LiveDomain[]): Verdict {
  const which = lives.map(({ monitor }) => monitor).join(", ");
  const found =
    spec.target.by === "name"
      ? `${String(lives.length)} live domains are named ${quoted(spec.target.name)} (${which}); write the uuid in \`spec.domain\``
      : `${String(lives.length)} live domains have the uuid ${spec.target.uuid} (${which}); give each its own`;
  return { phase: "Ambiguous", reason: "DomainAmbiguous", message: found };
}

function deaf(live: LiveDomain): Verdict {
  return live.monitorState === "busy"
    ? {
        phase: "WaitingForDomain",
        reason: "MonitorBusy",
        message: `its monitor ${live.monitor} is held by another client; end that client, or give QEMU a monitor of plugherd's own`,
      }
    : {
        phase: "WaitingForDomain",
        reason: "MonitorSilent",
        message: `its monitor ${live.monitor} does not answer; QEMU may hang, or another client may hold the monitor`,
      };
}

const NOBODY = { acts: false, gives: false, observes: false, silent: false, down: false } as const;

/**
 * @param lives - the live domains that the file's name or uuid fits
 * @param rivals - metadata.names of other files, not vanished, that fit one of these domains too
 */
export function authorityOf(forced: ForcedDomain, lives: readonly LiveDomain[], rivals: readonly string[], pause: Pause | null): Authority {
  const { spec, standing } = forced;
  const live = lives.length === 1 ? (lives[0] ?? null) : null;
  const silent = live !== null && live.monitorState !== "answering";
  if (pause !== null || spec.mode === "paused") {
    const message =
      pause === null
        ? `\`mode: paused\` in ${spec.mark.file}: nothing is touched`
        : `paused by the operator${pause.reason === null ? "" : ` (${printable(pause.reason)})`}; \`plugherd resume ${spec.name}\` goes on`;
    return { ...NOBODY, live, silent, verdict: { phase: "Paused", reason: pause === null ? "ModePaused" : "OperatorPaused", message } };
  }
  if (lives.length > 1) return { ...NOBODY, live, verdict: ambiguous(forced, lives) };
  if (live === null) return { ...NOBODY, live, observes: spec.mode === "observe", verdict: waiting(forced) };
  if (rivals.length > 0 && standing !== "vanished") {
    const message = `${rivals.join(", ")} and ${spec.name} name one domain, ${quoted(live.name ?? live.monitor)}; keep one of these files`;
    return { ...NOBODY, live, silent, verdict: { phase: "Stalled", reason: "InvalidFile", message } };
  }
  const observes = spec.mode === "observe";
  const obstacle = live.xen?.obstacle ?? null;
  if (obstacle !== null) return { ...NOBODY, live, silent, observes, verdict: obstacle };
  if (silent) return { ...NOBODY, live, silent, observes, verdict: deaf(live) };
  if (isShutDown(live)) {
    const message = `the domain is ${live.state} and kept; its devices are given back until it runs again`;
    const verdict: Verdict = { phase: "WaitingForDomain", reason: "DomainShutDown", message };
    return { ...NOBODY, live, gives: !observes, down: !observes, observes, verdict };
  }
  return { ...NOBODY, live, acts: !observes && standing !== "vanished", gives: !observes, observes, verdict: null };
}

/** What the domain's standing says of it as a whole; its claims go on with what is in force. */
export function standingVerdict({ standing, problems }: ForcedDomain): Verdict | null {
  if (standing === "last-good") {
    const [first = "its file is not valid"] = problems;
    const more = problems.length > 1 ? ` (and ${String(problems.length - 1)} more)` : "";
    return { phase: "Stalled", reason: "InvalidFile", message: `${first}${more}; the last good version stays in force` };
  }
  if (standing === "held-back") {
    const [first = ""] = problems;
    const reason = /^([A-Z][A-Za-z]+)\b/.exec(first)?.[1] ?? "HeldBack";
    return { phase: "Stalled", reason, message: first === "" ? "its file is away and that is not decided yet; it stays in force" : first };
  }
  return null;
}
