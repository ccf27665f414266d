/** One claim's plan from what was decided of it: phase by the precedence of product.md §4, target by house rule 4. */
import type { Place } from "../model/action.ts";
import { describeDevice, type HostDevice, printable } from "../model/hostdev.ts";
import type { Hold } from "../model/intentions.ts";
import { phaseRank } from "../model/status.ts";
import type { ClaimFacts, ClaimPlan, Target, Verdict } from "../model/world.ts";
import type { Authority } from "./domains.ts";
import type { Draft } from "./drafts.ts";
import type { Placement } from "./place.ts";
import { untilText } from "./refuse.ts";
import { attachedAt } from "./seats.ts";

const SHOWN_CANDIDATES = 8;

type ClaimInput = {
  readonly draft: Draft;
  readonly authority: Authority;
  readonly hold: Hold | null;
  readonly facts: ClaimFacts | null;
  /** The policy's problems if it is not valid; null: it is. */
  readonly badPolicy: readonly string[] | null;
  /** null: it gets no device. */
  readonly placement: Placement | null;
  /** Sentences of what it waits for, before it can be attached. */
  readonly waits: readonly Verdict[];
};

export const deviceText = (device: HostDevice): string => `${device.busid} (${device.vendor}:${device.product} ${describeDevice(device)})`;

const sentence = (text: string): string => {
  const trimmed = text.trim();
  return `${trimmed.charAt(0).toUpperCase()}${trimmed.slice(1)}${/[.!?]$/.test(trimmed) ? "" : "."}`;
};
const verdictOf = (phase: Verdict["phase"], reason: string | null, message: string): Verdict => ({
  phase,
  reason,
  message: sentence(message),
});

/** What goes without a device says why, all of it denied before denied or held before taken. */
function refused({ draft }: ClaimInput): Verdict | null {
  const { refusals, match, busid } = draft;
  const asked = busid === null ? match.matching.length : 1;
  if (draft.won || refusals.length === 0 || refusals.length < asked) return null;
  const kinds = new Set(refusals.map(({ kind }) => kind));
  const kind = kinds.has("taken") ? "taken" : kinds.has("held") ? "held" : "denied";
  const [first] = refusals.filter((refusal) => refusal.kind === kind);
  if (first === undefined) return null;
  const text = refusals.map((refusal) => `${refusal.busid}: ${refusal.message}`).join("; ");
  return verdictOf(kind === "taken" ? "Conflict" : kind === "held" ? "Held" : "Denied", first.reason, printable(text, 600));
}

function absent({ draft, facts }: ClaimInput): Verdict | null {
  if (draft.match.matching.length > 0 || draft.entry.selectors.length === 0) return null;
  const { kind, name } = draft.entry.device;
  if (kind.type === "usb" && kind.anyOf && facts?.reEnumerating === true) {
    return verdictOf("Attaching", "ReEnumerating", `${name} has left the host a moment ago and is expected back under one of its ids`);
  }
  return verdictOf("WaitingForHost", null, `nothing that is plugged in matches ${name}; it is attached when it appears`);
}

function ambiguous({ draft }: ClaimInput): Verdict | null {
  const { candidates } = draft;
  if (candidates.length === 0) return null;
  const shown = candidates
    .slice(0, SHOWN_CANDIDATES)
    .map(({ busid, serial }) => `${busid}${serial === null ? "" : ` serial ${printable(serial)}`}`);
  const list = [...shown, ...(candidates.length > shown.length ? ["…"] : [])].join(", ");
  const hint = "add `serial` or `port`, or say `pick: lowestPort` or `count: all`";
  return verdictOf("Ambiguous", "SeveralMatch", `${String(candidates.length)} devices match ${draft.entry.device.name} (${list}); ${hint}`);
}

function counted({ draft, facts }: ClaimInput): Verdict | null {
  if (!draft.won || facts === null) return null;
  const { domain, device } = draft.entry;
  if (facts.contested) {
    const message = `somebody else undid it again and again; end that, then run \`plugherd retry ${device.name} ${domain}\``;
    return verdictOf("Contested", "UndoneByOthers", message);
  }
  return facts.flapping
    ? verdictOf(
        "Flapping",
        "ComesAndGoes",
        "it disconnects again and again; it is attached once it has stayed for a while; check cable and power",
      )
    : null;
}

function stalled({ draft, badPolicy, placement }: ClaimInput): readonly Verdict[] {
  const { kind, name } = draft.entry.device;
  const found: Verdict[] = [];
  if (kind.type === "unsupported") {
    found.push(verdictOf("Stalled", "NotSupportedYet", `${name} is a kind of device (\`${kind.what}\`) that this version does not attach`));
  }
  if (badPolicy !== null && draft.won && draft.owned === null) {
    found.push(verdictOf("Stalled", "InvalidPolicy", `the host policy is not valid: ${badPolicy[0] ?? "it cannot be read"}; correct it`));
  }
  if (placement?.kind === "nowhere") {
    found.push(unplaced(placement));
  }
  return found;
}

function unplaced({ wait, reason, message }: Placement & { readonly kind: "nowhere" }): Verdict {
  if (wait === "port") return verdictOf("Attaching", "WaitingForRelease", `it waits for a port: ${message}`);
  if (wait === "controller") return verdictOf("Attaching", "WaitingForController", message);
  return wait === "frontend" ? verdictOf("WaitingForFrontend", "FrontendClosed", message) : verdictOf("Stalled", reason, message);
}

/** Somebody is at work on it, or was cut off in the middle. */
function unsettled({ draft: { owned } }: ClaimInput): Verdict | null {
  return owned?.object.unsettled === true
    ? verdictOf(
        "Attaching",
        "Unsettled",
        `its record and the domain's QEMU do not agree; another tool may be at work, so it is judged in a moment`,
      )
    : null;
}

/** In place, as far as the host goes; the system inside has to take it (product.md §4, PV). */
function unconnected({ draft, authority }: ClaimInput): Verdict | null {
  const { owned, won } = draft;
  const controller = owned === null ? undefined : authority.live?.controllers.find(({ bus }) => bus === owned.object.bus);
  if (!won || controller?.link === undefined || controller.link === "connected") return null;
  const name = controller.name ?? controller.bus;
  return controller.link === "closed"
    ? verdictOf("WaitingForFrontend", "FrontendClosed", `the system inside has closed controller ${name}; load its driver (xen-hcd) again`)
    : verdictOf(
        "WaitingForFrontend",
        "FrontendNotConnected",
        `it is on controller ${name}, which the system inside has not connected to; load its driver there (Linux: modprobe xen-hcd)`,
      );
}

/** Everything that applies, the first by precedence shown; null: nothing stands in its way. */
function verdictFor(input: ClaimInput): Verdict | null {
  const { authority, hold, draft } = input;
  const { domain, device } = draft.entry;
  const held =
    hold === null
      ? null
      : verdictOf(
          "Held",
          "OperatorHold",
          `held by an operator until ${untilText(hold)}; \`plugherd attach ${device.name} ${domain}\` ends it`,
        );
  // Where nothing can move in the domain at all, who would get what is no news.
  const idle = authority.verdict !== null;
  const refusal = refused(input);
  const all = [
    authority.verdict === null ? null : { ...authority.verdict, message: sentence(authority.verdict.message) },
    held,
    idle && refusal?.phase === "Conflict" ? null : refusal,
    absent(input),
    idle ? null : ambiguous(input),
    counted(input),
    ...stalled(input),
    unconnected(input),
    unsettled(input),
    ...(draft.owned === null ? input.waits : []),
  ].filter((verdict) => verdict !== null);
  return all.sort((a, b) => phaseRank(a.phase) - phaseRank(b.phase))[0] ?? null;
}

function placeOf({ draft, authority, placement }: ClaimInput): Place | null {
  const { device, owned } = draft;
  if (device === null || authority.live === null) return null;
  const domain = authority.live.key;
  if (placement?.kind === "placed") return { domain, device, bus: placement.bus, port: placement.port, create: placement.create };
  if (owned === null) return null;
  const { bus, port } = attachedAt(owned, device);
  return { domain, device, bus, port, create: null };
}

function targetFor(input: ClaimInput, verdict: Verdict | null): Target {
  const { draft, authority, hold, badPolicy } = input;
  const { owned } = draft;
  if (authority.live === null) return null;
  if (authority.down) return badPolicy === null ? null : "stay";
  if (!authority.acts || badPolicy !== null) return "stay";
  if (hold !== null) return null;
  if (!draft.won) {
    // What somebody else attached is not ours to take out because a policy or another claim's hold says so; a claim that wins it may.
    const theirs = owned !== null && !owned.object.ours && verdict?.phase !== "Conflict";
    return theirs ? "stay" : null;
  }
  if (verdict?.phase === "Contested") return "stay";
  // Held off is not taken out: an auto-scan object of somebody else has it by itself.
  if (verdict?.phase === "Flapping") return owned === null ? null : "stay";
  if (owned !== null) return placeOf(input);
  return verdict === null ? (placeOf(input) ?? "stay") : "stay";
}

function observed(input: ClaimInput, verdict: Verdict | null): Verdict {
  const { device, owned } = input.draft;
  if (verdict !== null) return { ...verdict, reason: "ObserveOnly", message: `Only observed (\`mode: observe\`): ${verdict.message}` };
  const text = device === null ? "it" : deviceText(device);
  return owned === null
    ? { phase: "Attaching", reason: "ObserveOnly", message: `Only observed (\`mode: observe\`): would attach ${text}.` }
    : { phase: "Attached", reason: "ObserveOnly", message: `Only observed (\`mode: observe\`): ${text} is attached.` };
}

function remarkFor({ draft, badPolicy }: ClaimInput): ClaimPlan["remark"] {
  const { match, owned, entry } = draft;
  if (!draft.won) return null;
  if (badPolicy !== null)
    return { reason: "InvalidPolicy", message: "The host policy is not valid: nothing new is attached and nothing detached." };
  if (match.extras.length > 0) {
    const list = match.extras.join(", ");
    return {
      reason: "ExtraCandidates",
      message: `${list} match ${entry.device.name} too and change nothing; \`serial\` or \`port\` tells them apart.`,
    };
  }
  if (owned === null) return null;
  const { remark } = owned.object;
  if (remark !== undefined) return { reason: remark, message: REMARKS[remark] };
  return owned.object.ours ? null : { reason: "Adopted", message: `Somebody else attached it, as ${owned.object.path}; it is kept.` };
}

const REMARKS = {
  Unconfirmed: "It is recorded in xenstore; nothing here can tell whether the system inside has it.",
  Unverified: "The device model (qemu-traditional) said that it was added, which it also says when it was not; look inside the domain.",
} as const;

export function planClaim(input: ClaimInput): ClaimPlan {
  const { draft, authority } = input;
  const verdict = verdictFor(input);
  return {
    id: draft.id,
    domain: draft.entry.domain,
    device: draft.entry.device.name,
    busid: draft.busid,
    live: authority.live?.key ?? null,
    target: targetFor(input, verdict),
    owned: draft.owned === null ? null : attachedAt(draft.owned, draft.device),
    ours: draft.owned?.object.ours ?? false,
    hostdev: draft.device,
    verdict: authority.observes && verdict?.phase !== "Paused" ? observed(input, verdict) : verdict,
    remark: remarkFor(input),
  };
}
