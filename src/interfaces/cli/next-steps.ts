/** "Next" of `describe`: what a person can do about a phase, with the command or the line to write. Pure. */
import type { ClaimStatus, Condition, DomainStatus } from "../../model/status.ts";
import { formatDuration } from "./durations.ts";

/** For a shell: quoted unless it is plain. */
export const word = (text: string): string => (/^[A-Za-z0-9._@%+:,/-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

const BY_REASON: Readonly<Record<string, (claim: ClaimStatus) => readonly string[]>> = {
  IdentityChanged: ({ name, domain }) => [`If you trust what it is now: plugherd approve ${word(name)} ${word(domain)}`],
  InterfacesUnknown: () => [
    "Unplug it and plug it in again; if its interfaces stay unknown, a rule of the host's policy that allows it by its port lets it in.",
  ],
  InvalidFile: ({ domain }) => [
    `Correct the file; \`plugherd validate\` names each line. Until then its last good version holds (domain ${domain}).`,
  ],
  InvalidPolicy: () => ["Correct the policy file; `plugherd validate` names each line."],
  NoController: () => ["Do what the message says in the domain's own configuration; it takes effect when the domain is started again."],
  NotSupportedYet: () => ["Nothing to do: this kind of device is for a later version; the file stays valid."],
  OpenRefused: ({ name, domain }) => [
    `Let plugherd's QEMU open the device node (owner and mode are in the message), then: plugherd retry ${word(name)} ${word(domain)}`,
  ],
  SpeedMismatch: () => ["Give the entry another `controller:`, or leave it out and one that fits is used."],
  ObserveOnly: () => ["To let plugherd act: set `mode: enforce` in the file."],
  ExtraCandidates: () => ["To pin which one it is: add `serial:` or `port:` to its selector; `plugherd host` prints lines to paste."],
};

const BY_PHASE: Readonly<Record<ClaimStatus["phase"], (claim: ClaimStatus, now: number) => readonly string[]>> = {
  Paused: ({ domain }) => [`If it was paused by command: plugherd resume ${word(domain)}; if by its file: set \`mode: enforce\`.`],
  Held: ({ name, domain }) => [`It comes back by itself when the hold ends; sooner: plugherd attach ${word(name)} ${word(domain)}`],
  Denied: () => ["The host's owner decides that: a rule with `allow` in the policy (and `lift` for what is built in)."],
  WaitingForDomain: () => ["Start the domain; nothing else is needed."],
  WaitingForHost: ({ name, domain }) => [
    "Plug the device in.",
    `If it is plugged in, its selector does not match: plugherd explain ${word(name)} ${word(domain)} compares it with every device.`,
  ],
  Conflict: () => ["Take it away from who has it, or give this entry a higher `priority`."],
  Ambiguous: () => ["Add `serial:` or `port:` to its selector (`plugherd host` prints lines to paste), or say `pick: lowestPort`."],
  Contested: ({ name, domain }) => [`Find out who detaches it; then: plugherd retry ${word(name)} ${word(domain)}`],
  Flapping: () => ["Check cable, hub and power; it is attached once it has stayed connected for 3 s."],
  Stalled: ({ name, domain }) => [
    `Do what the message says; then, if it does not go on by itself: plugherd retry ${word(name)} ${word(domain)}`,
  ],
  BackingOff: ({ nextTryAt, name, domain }, now) => [
    `Nothing: it is tried again${nextTryAt === null ? "" : ` in ${formatDuration(Date.parse(nextTryAt) - now)}`}; at once with: plugherd retry ${word(name)} ${word(domain)}`,
  ],
  WaitingForFrontend: () => ["Load the USB frontend driver in the guest (xen-hcd), or start the guest's system."],
  Attaching: () => ["Nothing: it is under way."],
  Detaching: () => ["Nothing: it is under way."],
  Attached: () => ["Nothing: it is where it should be."],
};

export const nextSteps = (claim: ClaimStatus, now: number): readonly string[] => {
  const reason = claim.reason === null ? undefined : BY_REASON[claim.reason];
  return reason?.(claim) ?? BY_PHASE[claim.phase](claim, now);
};

/** Files have vanished, and nobody has said that they are meant to. */
const awaitsApproval = (conditions: readonly Condition[]): boolean =>
  conditions.some(({ type, reason }) => [type, reason].some((word) => word === "MassDetach" || word === "SpecsEmpty"));

export function overallNextSteps(conditions: readonly Condition[], unready: readonly DomainStatus[]): readonly string[] {
  const words = new Set(conditions.flatMap(({ type, reason }) => [type, reason]));
  const steps = [
    ...(awaitsApproval(conditions) ? ["Put the files back; or, if they are meant to be gone: plugherd approve mass-detach"] : []),
    ...(words.has("InvalidPolicy") ? ["Correct the policy file; `plugherd validate` names each line."] : []),
    ...unready.map(({ name }) => `plugherd describe ${word(name)}`),
  ];
  return steps.length > 0 ? steps : ["Nothing: all is well."];
}

/** A domain's: what its own conditions ask for, then what its devices do, each once. */
export function domainNextSteps({ conditions }: DomainStatus, claims: readonly ClaimStatus[], now: number): readonly string[] {
  const calm = new Set(["Attached", "Attaching", "Detaching"]);
  const ofClaims = claims.filter(({ phase }) => !calm.has(phase)).map((claim) => ({ claim, steps: nextSteps(claim, now) }));
  const massDetach = awaitsApproval(conditions);
  const invalid = conditions.some(({ reason }) => reason === "InvalidFile");
  const steps = [
    ...(invalid ? ["Correct the file where the message says; until then its last good version, if there is one, stays in force."] : []),
    ...(massDetach ? ["If the files are meant to be gone: plugherd approve mass-detach"] : []),
    ...ofClaims.flatMap(({ claim, steps: own }) => own.map((step) => `${claim.name}: ${step}`)),
  ];
  return steps.length > 0 ? [...new Set(steps)] : ["Nothing: everything is where it should be."];
}
