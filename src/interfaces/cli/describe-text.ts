/** What `describe` and `explain` say. Pure: values in, lines out. */
import type { HostDeviceStatus, JournalEntry } from "../../controller/view.ts";
import { describeDevice } from "../../model/hostdev.ts";
import type { ClaimStatus, Condition, DomainStatus } from "../../model/status.ts";
import type { Explanation } from "../../model/world.ts";
import type { StatusBody } from "../http/messages.ts";
import { eventLine, ids } from "./columns.ts";
import { formatDuration } from "./durations.ts";
import { domainNextSteps, nextSteps, overallNextSteps } from "./next-steps.ts";
import { paint, phaseColour, shown } from "./render.ts";
import { selectorLines } from "./selector-lines.ts";

export type Look = { readonly colour: boolean; readonly now: number };

const LABEL_WIDTH = 14;
const field = (label: string, value: string | null): string[] =>
  value === null || value === "" ? [] : [`${`${label}:`.padEnd(LABEL_WIDTH)}${value}`];
/** Each once. */
const bullets = (lines: readonly string[]): string[] => [...new Set(lines)].map((line) => `  - ${shown(line, 600)}`);
const section = (title: string, lines: readonly string[]): string[] => (lines.length === 0 ? [] : ["", title, ...lines]);
const ago = (time: string, now: number): string => `${shown(time, 40)} (${formatDuration(now - Date.parse(time))} ago)`;

/** A message may hold several lines; each is made safe by itself. */
const conditionLines = (conditions: readonly Condition[], colour: boolean): string[] =>
  conditions.flatMap(({ type, status, reason, message }) => {
    const good = (type === "Ready") === (status === "True");
    const [first = "", ...rest] = message.split("\n");
    return [
      `  ${paint(`${shown(type)}=${status}`, good ? "green" : "red", colour)}  ${shown(reason)}: ${shown(first, 600)}`,
      ...rest.map((line) => `      ${shown(line, 600)}`),
    ];
  });

/** The rules that decided, of one explanation: of the candidate it is about, or of all in short. */
function whyLines(claim: ClaimStatus, explanation: Explanation | undefined): string[] {
  const lines = [claim.message];
  if (claim.cause !== null)
    lines.push(
      `What moved it: ${claim.cause.kind}${claim.cause.file === null ? "" : `, ${claim.cause.file}`}${claim.cause.commit === null ? "" : ` at commit ${claim.cause.commit}`}.`,
    );
  if (explanation === undefined) return lines;
  const own = explanation.candidates.find(({ device }) => device.busid === claim.host?.busid);
  if (own === undefined) {
    const near = explanation.candidates.length;
    lines.push(
      near === 0
        ? "There is no device on the host that it could be."
        : `${String(near)} device${near === 1 ? " was" : "s were"} looked at; \`plugherd explain\` shows each.`,
    );
  } else
    lines.push(...own.steps.map(({ ok, text }) => `${own.device.busid}: ${ok ? "" : "✗ "}${text}`), `${own.device.busid}: ${own.outcome}`);
  return [...lines, ...explanation.placement];
}

export function describeClaim(
  claim: ClaimStatus,
  about: { readonly explanation: Explanation | undefined; readonly events: readonly JournalEntry[] },
  { colour, now }: Look,
): string[] {
  const { host, guest } = claim;
  return [
    ...field("Device", shown(claim.name)),
    ...field("Domain", shown(claim.domain)),
    ...field("Phase", `${paint(claim.phase, phaseColour(claim.phase), colour)}${claim.reason === null ? "" : ` / ${shown(claim.reason)}`}`),
    ...field("Since", ago(claim.since, now)),
    ...field("Step", claim.step === null ? null : shown(claim.step)),
    ...field(
      "Tries",
      claim.tries === 0
        ? null
        : `${String(claim.tries)}${claim.nextTryAt === null ? "" : `, the next in ${formatDuration(Date.parse(claim.nextTryAt) - now)}`}`,
    ),
    ...field("Host", host === null ? "none" : shown(`${host.busid}  ${ids(host)}  ${host.text}`)),
    ...field("  port", host === null ? null : shown(host.anchor ?? "not known")),
    ...field("  address", host === null ? null : `bus ${String(host.bus)}, address ${String(host.address)}`),
    ...field("  serial", host === null ? null : shown(host.serial ?? "none")),
    ...field(
      "Guest",
      guest === null
        ? "none"
        : `controller ${shown(guest.controller)}, port ${String(guest.port)}${guest.attached ? "" : " (not attached)"}`,
    ),
    ...field("  object", guest?.path == null ? null : shown(guest.path)),
    ...section(
      "Events",
      about.events.map((event) => `  ${eventLine(event, colour)}`),
    ),
    ...section("Why", bullets(whyLines(claim, about.explanation))),
    ...section("Next", bullets(nextSteps(claim, now))),
  ];
}

export function describeDomain(
  domain: DomainStatus,
  about: { readonly claims: readonly ClaimStatus[]; readonly events: readonly JournalEntry[] },
  { colour, now }: Look,
): string[] {
  const { live } = domain;
  const { claims, events } = about;
  const wrong = domain.conditions.filter(({ type, status }) => (type === "Ready") !== (status === "True"));
  return [
    ...field("Domain", shown(domain.name)),
    ...field(
      "Labels",
      shown(
        Object.entries(domain.labels)
          .map(([key, value]) => `${key}=${value}`)
          .join(", "),
      ),
    ),
    ...field("Mode", domain.mode === "none" ? "no file names it: it is left alone" : domain.mode),
    ...field(
      "File",
      domain.file === null
        ? null
        : shown(
            `${domain.file}${domain.observedGeneration === null ? "" : `, generation ${domain.observedGeneration}`}${domain.commit === null ? "" : `, commit ${domain.commit}`}`,
          ),
    ),
    ...field("State", live === null ? "not running" : shown(live.state)),
    ...field("  name", live?.name == null ? null : shown(live.name)),
    ...field("  uuid", live?.uuid == null ? null : shown(live.uuid)),
    ...field("  type", live === null ? null : shown(`${live.type}${live.version === null ? "" : `, QEMU ${live.version}`}`)),
    ...field("  monitor", live === null ? null : shown(`${live.monitor} (${live.monitorState})`)),
    ...section(
      "Controllers",
      (live?.controllers ?? []).map(
        ({ name, driver, ports, ours, occupied }) =>
          `  ${shown(name)}  ${shown(driver)}  ${String(occupied.length)} of ${String(ports)} ports in use${ours ? ", made by plugherd" : ""}`,
      ),
    ),
    ...section("Conditions", conditionLines(domain.conditions, colour)),
    ...section(
      "Devices",
      claims.map(
        (claim) =>
          `  ${shown(claim.name)}  ${paint(claim.phase, phaseColour(claim.phase), colour)}${claim.reason === null ? "" : ` / ${shown(claim.reason)}`}${claim.host === null ? "" : `  ${claim.host.busid}`}`,
      ),
    ),
    ...section(
      "Others' objects",
      (live?.others ?? []).map(({ path, text }) => `  ${shown(path)}  ${shown(text, 600)}`),
    ),
    ...section(
      "Events",
      events.map((event) => `  ${eventLine(event, colour)}`),
    ),
    ...section(
      "Why",
      bullets(
        (wrong.length > 0 ? wrong : domain.conditions).flatMap(({ type, message }) =>
          message.split("\n").map((line) => `${type}: ${line}`),
        ),
      ),
    ),
    ...section("Next", bullets(domainNextSteps(domain, claims, now))),
  ];
}

export function describeHostDevice(status: HostDeviceStatus, all: readonly HostDeviceStatus[]): string[] {
  const { device, claims, policy, holder } = status;
  return [
    ...field("Device", shown(`${device.busid}  ${ids(device)}  ${device.text}`)),
    ...field("Port", shown(device.anchor ?? "not known")),
    ...field("Address", `bus ${String(device.bus)}, address ${String(device.address)}`),
    ...field("Serial", shown(device.serial ?? "none")),
    ...field("Speed", device.speed === null ? "not known" : `${String(device.speed)} Mb/s`),
    ...field("Class", device.class ?? "not known"),
    ...field("Interfaces", device.interfaces?.join(", ") ?? "not known"),
    ...field("Drivers", shown(device.drivers.join(", "))),
    ...field("Holder", holder === null ? "none" : shown(holder)),
    ...section(
      "Claims",
      claims.map(({ domain, name, phase }) => `  ${shown(domain)}/${shown(name)}  ${phase}`),
    ),
    ...section("Why", bullets([policy.text, holder === null ? "No domain has it." : `Domain ${holder} has it.`])),
    ...section(
      "Next",
      device.hub
        ? bullets(["Nothing: a hub is never passed on; what is plugged into it may be."])
        : [
            "  To claim it, one of these under `devices:` of a domain's file:",
            ...selectorLines(
              device,
              all.map((one) => one.device),
            ).map(({ yaml }) => `    - { name: NAME, usb: ${yaml} }`),
          ],
    ),
  ];
}

/** The daemon as a whole: what concerns no single domain. */
export function describeAll(status: StatusBody, domains: readonly DomainStatus[], { colour }: Pick<Look, "colour">): string[] {
  const unready = domains.filter(({ conditions }) => conditions.some(({ type, status: is }) => type === "Ready" && is !== "True"));
  return [
    ...field("Daemon", `plugherd ${shown(status.version)}${status.ready ? "" : ", still reading its sources"}`),
    ...field("Domains", String(status.domains)),
    ...field("Devices", `${String(status.devices.attached)} of ${String(status.devices.total)} attached`),
    ...section("Conditions", conditionLines(status.conditions, colour)),
    ...section(
      "Why",
      bullets([
        ...status.conditions.flatMap(({ type, message }) => message.split("\n").map((line) => `${type}: ${line}`)),
        ...unready.map(({ name }) => `${name} is not Ready.`),
        ...(status.conditions.length + unready.length === 0 ? ["Every domain is as its file says."] : []),
      ]),
    ),
    ...section("Next", bullets(overallNextSteps(status.conditions, unready))),
  ];
}

/** Every candidate and every rule of one claim, in words. */
export function explainLines({ claim, candidates, placement }: Explanation, { colour }: Pick<Look, "colour">): string[] {
  const which = claim.busid === null ? "" : ` (the one at ${claim.busid})`;
  const verdict = claim.verdict ?? claim.remark;
  return [
    `${shown(claim.domain)}/${shown(claim.device)}${which}`,
    ...(verdict === null
      ? []
      : [
          `  ${"phase" in verdict ? `${verdict.phase}${verdict.reason === null ? "" : ` / ${verdict.reason}`}: ` : `${verdict.reason}: `}${shown(verdict.message, 600)}`,
        ]),
    ...(candidates.length === 0 ? ["  No device on the host comes into question."] : []),
    ...candidates.flatMap(({ device, steps, outcome }) => [
      "",
      `  ${device.busid}  ${ids(device)}  ${describeDevice(device)}${device.serial === null ? "" : `  serial ${shown(device.serial)}`}`,
      ...steps.map(({ ok, text }) => `    ${paint(ok ? "✓" : "✗", ok ? "green" : "red", colour)} ${shown(text, 600)}`),
      `    → ${shown(outcome, 600)}`,
    ]),
    ...section(
      "  Placement",
      placement.map((line) => `    ${shown(line, 600)}`),
    ),
  ];
}
