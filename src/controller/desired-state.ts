/**
 * Readings of the tree -> desired state in force (product.md §2, "Reading", "Removing"): last good versions, files that settle before their
 * vanishing is a decision, domains that move between files, and the guards against a tree that went away as a whole.
 */
import type { Clock } from "../model/contracts.ts";
import type { DesiredDevice, DesiredDomain, FileReading, ForcedDomain, TreeReading } from "../model/desired.ts";
import type { Intentions, LastGood } from "../model/intentions.ts";
import type { Condition } from "../model/status.ts";
import type { Timings } from "../model/timings.ts";
import type { WorldChange } from "../model/world.ts";
import { createAlarms } from "./alarms.ts";
import { leftAfter } from "./left-behind.ts";
import { acceptedOf, type Kept, onlyObserved, problemsOf, unreadableAt } from "./spec-sources.ts";

export type DesiredStateKeeper = {
  reading(tree: TreeReading): void;
  /** Makes what is held back (MassDetach, SpecsEmpty) a decision. @returns false: nothing was */
  approveMassDetach(): boolean;
  /** A vanished domain, or one with entries that were left, is rid of everything of ours. */
  clean(domain: string): void;
  /** Names of vanished domains and of domains with entries left: worth a call of clean(). */
  readonly unclean: ReadonlySet<string>;
  conditions(): readonly Condition[];
  stop(): void;
};

export type DesiredStateDeps = {
  readonly clock: Clock;
  readonly timings: Pick<Timings, "vanishMs">;
  readonly intentions: Pick<Intentions, "lastGood" | "vanished" | "left">;
  /** How many devices are attached now in all (null), or would be detached with one domain. Null: not known yet, so nothing that vanished is decided. */
  readonly attached: (domain: string | null) => number | null;
  readonly onChange: (changes: readonly WorldChange[]) => void;
  readonly onIntentions: (part: Pick<Intentions, "lastGood" | "vanished" | "left">) => void;
  readonly onNote: (domain: string | null, reason: string, message: string) => void;
};

/** From how many devices on, and beyond which share of all that is attached, vanishing files wait for a person. */
const MASS_DEVICES = 3;
const MASS_SHARE = 0.5;
const APPROVE = "`plugherd approve mass-detach` makes it a decision";
/** Domains whose file has vanished, at most, beside those of one decision: those of machines that are made and thrown away never come back to be clean. */
const MOST_VANISHED = 1_000;
/** Problems that a condition spells out. */
const MAX_LINES = 20;

type Doubt = { readonly reason: "SpecsMissing" | "SpecsUnreadable" | "SpecsEmpty"; readonly message: string };
const DOUBTS: Readonly<Record<Doubt["reason"], string>> = {
  SpecsMissing: "the directory of desired-state files is not there",
  SpecsUnreadable: "the directory of desired-state files cannot be read",
  SpecsEmpty: `the directory of desired-state files has gone empty; ${APPROVE}`,
};

export function createDesiredState(deps: DesiredStateDeps): DesiredStateKeeper {
  const { clock, timings, onNote } = deps;
  const alarms = createAlarms(clock);
  /** What was last good, by metadata.name. */
  const kept = new Map<string, Kept>();
  const vanished = new Map<string, DesiredDomain>();
  const left = new Map<string, readonly DesiredDevice[]>();
  const unclean = new Set<string>();
  const out = new Map<string, ForcedDomain>();
  let tree: TreeReading = { directory: "missing", files: new Map() };
  /** Files that read well and clash with a last good version in force. */
  let rejected: ReadonlyMap<string, string> = new Map();
  let doubt: Doubt | null = null;
  let unsaved = false;
  /** Conditions since the last change; asked for whenever any claim of the host comes or goes. */
  let shown: readonly Condition[] | null = null;

  for (const { file, domains } of deps.intentions.lastGood) for (const spec of domains) kept.set(spec.name, { file, spec, away: null });
  for (const spec of deps.intentions.vanished) if (!kept.has(spec.name)) vanished.set(spec.name, spec);
  for (const { domain, devices } of deps.intentions.left) left.set(domain, devices);
  for (const name of [...vanished.keys(), ...left.keys()]) unclean.add(name);

  const save = (): void => {
    if (!unsaved) return;
    unsaved = false;
    const files = new Map<string, DesiredDomain[]>();
    for (const { file, spec } of kept.values()) files.set(file, [...(files.get(file) ?? []), spec]);
    deps.onIntentions({
      lastGood: [...files].map(([file, domains]): LastGood => ({ file, domains })),
      vanished: [...vanished.values()],
      left: [...left].map(([domain, devices]) => ({ domain, devices })),
    });
  };

  const doubtOf = ({ directory, files }: TreeReading): Doubt | null => {
    const reason =
      directory === "missing"
        ? "SpecsMissing"
        : directory === "unreadable"
          ? "SpecsUnreadable"
          : files.size === 0 && kept.size > 0
            ? "SpecsEmpty"
            : null;
    return reason === null ? null : { reason, message: DOUBTS[reason] };
  };

  const leave = (name: string, devices: readonly DesiredDevice[]): void => {
    if (devices.length > 0) left.set(name, devices);
    else left.delete(name);
  };

  const take = (file: string, spec: DesiredDomain): void => {
    const { name } = spec;
    const before = kept.get(name);
    if (before?.spec === spec && before.file === file && before.away === null) return;
    unsaved = true;
    leave(name, leftAfter(before?.spec ?? vanished.get(name), spec, left.get(name) ?? []));
    vanished.delete(name);
    kept.set(name, { file, spec, away: null });
    countUnclean();
  };

  /** Who spoke for a domain under another name and is gone has been followed by whoever speaks for it now: that is a rename. */
  const follow = (said: Iterable<DesiredDomain>): void => {
    const byTarget = new Map([...said].map((spec) => [targetOf(spec), spec]));
    const gone = [...away().map(([, { spec }]) => spec), ...vanished.values()];
    for (const spec of gone) {
      const follower = byTarget.get(targetOf(spec));
      if (follower === undefined || follower.name === spec.name) continue;
      leave(follower.name, leftAfter(spec, follower, [...(left.get(spec.name) ?? []), ...(left.get(follower.name) ?? [])]));
      for (const map of [kept, vanished, left]) map.delete(spec.name);
      unsaved = true;
    }
    countUnclean();
  };

  const countUnclean = (): void => {
    unclean.clear();
    for (const name of [...vanished.keys(), ...left.keys()]) unclean.add(name);
  };

  /** Who is not spoken for any more: away, unless a file that cannot be read now may still hold it. */
  const markAway = (said: ReadonlySet<string>): void => {
    const named = new Map<string, string>();
    for (const [file, reading] of tree.files)
      for (const name of reading.kind === "bad" ? reading.names : []) if (!named.has(name)) named.set(name, file);
    for (const [name, one] of kept) {
      if (said.has(name)) continue;
      const reading = tree.files.get(one.file);
      const holder = named.get(name);
      const holds = rejected.has(one.file) || (reading !== undefined && reading.kind !== "read") || unreadableAt(one.file, tree) !== null;
      if (holds || holder !== undefined) {
        if (one.away !== null || (!holds && holder !== undefined))
          kept.set(name, { ...one, file: holds ? one.file : (holder ?? one.file), away: null });
      } else if (one.away === null) kept.set(name, { ...one, away: { since: clock.now(), held: false } });
    }
  };

  /** A domain that is back, or a tree that is, may bring the others: those held back settle anew and are judged anew. */
  const judgeAnew = (): void => {
    for (const [name, one] of kept) if (one.away !== null) kept.set(name, { ...one, away: { since: clock.now(), held: false } });
  };

  const away = (): [string, Kept & { readonly away: NonNullable<Kept["away"]> }][] =>
    [...kept].flatMap(([name, one]) => (one.away === null ? [] : [[name, { ...one, away: one.away }]]));

  const schedule = (): void => {
    const waiting = doubt !== null ? [] : away().filter(([, one]) => !one.away.held);
    if (waiting.length === 0) {
      alarms.clear("vanish");
      return;
    }
    const due = Math.min(...waiting.map(([, one]) => one.away.since)) + timings.vanishMs;
    alarms.set("vanish", Math.max(0, due - clock.now()), decideDue);
  };

  const decideDue = (): void => {
    const total = deps.attached(null);
    if (total === null) {
      alarms.set("vanish", timings.vanishMs, decideDue);
      return;
    }
    const gone = away();
    const lost = gone.reduce(
      (sum, [name, { spec }]) => sum + (spec.mode === "enforce" && spec.prune !== "none" ? (deps.attached(name) ?? 0) : 0),
      0,
    );
    if (lost >= MASS_DEVICES && lost > total * MASS_SHARE) {
      for (const [name, one] of gone) kept.set(name, { ...one, away: { ...one.away, held: true } });
      onNote(
        null,
        "MassDetach",
        `Files that vanished would detach ${String(lost)} of ${String(total)} devices; nothing is done before \`plugherd approve mass-detach\`.`,
      );
    } else decide(gone.filter(([, one]) => !one.away.held && one.away.since + timings.vanishMs <= clock.now()).map(([name]) => name));
    settle();
  };

  const decide = (names: readonly string[]): void => {
    for (const name of names) {
      const one = kept.get(name);
      if (one === undefined) continue;
      kept.delete(name);
      vanished.set(name, one.spec);
      unsaved = true;
      onNote(name, "FileVanished", `${one.file} is gone; what it attached is detached unless prune or onRemove says otherwise.`);
    }
    const before = [...vanished.keys()].filter((name) => !names.includes(name));
    for (const name of before.slice(0, Math.max(0, vanished.size - MOST_VANISHED))) {
      for (const map of [vanished, left]) map.delete(name);
    }
    countUnclean();
  };

  const settle = (): void => {
    shown = null;
    schedule();
    save();
    publish();
  };

  /** What is in force, by metadata.name. */
  const inForce = (): Map<string, ForcedDomain> => {
    const next = new Map<string, ForcedDomain>();
    const put = (spec: DesiredDomain, standing: ForcedDomain["standing"], problems: readonly string[]): void =>
      void next.set(spec.name, { spec, standing, problems, left: left.get(spec.name) ?? NOTHING });
    for (const spec of vanished.values()) put(spec, "vanished", []);
    for (const one of kept.values()) put(one.spec, ...standingOf(one));
    for (const [file, reading] of tree.files) {
      const names =
        reading.kind === "bad"
          ? reading.names
          : rejected.has(file) && reading.kind === "read"
            ? reading.domains.map(({ name }) => name)
            : [];
      for (const name of names) if (!next.has(name)) put(onlyObserved(name, file), "last-good", wordsOf(file, reading));
    }
    return next;
  };
  const standingOf = ({ file, away }: Kept): [ForcedDomain["standing"], readonly string[]] => {
    if (doubt !== null) return ["held-back", [`${doubt.reason}: ${doubt.message}; the last version stays in force`]];
    if (away !== null) {
      return away.held
        ? ["held-back", [`MassDetach: ${file} is gone, and too much would be detached at once; ${APPROVE}`]]
        : ["settling", []];
    }
    const above = unreadableAt(file, tree);
    const words = above !== null ? [above] : wordsOf(file, tree.files.get(file));
    return words.length === 0 ? ["current", []] : ["last-good", words];
  };
  const wordsOf = (file: string, reading: FileReading | undefined): readonly string[] => {
    const clash = rejected.get(file);
    return clash !== undefined ? [clash] : reading === undefined ? [] : problemsOf(file, reading);
  };

  const publish = (): void => {
    const next = inForce();
    const changes: WorldChange[] = [];
    for (const name of out.keys()) if (!next.has(name)) changes.push({ kind: "forced", name, domain: null });
    for (const [name, domain] of next) if (!isSame(out.get(name), domain)) changes.push({ kind: "forced", name, domain });
    out.clear();
    for (const [name, domain] of next) out.set(name, domain);
    if (changes.length > 0) deps.onChange(changes);
  };

  const note = (before: TreeReading, wereRejected: ReadonlyMap<string, string>): void => {
    for (const [file, reading] of tree.files) {
      if (reading === before.files.get(file) && rejected.get(file) === wereRejected.get(file)) continue;
      for (const line of wordsOf(file, reading)) onNote(null, "InvalidFile", line);
    }
  };

  const conditions = (): readonly Condition[] => {
    const held = away().filter(([, one]) => one.away.held);
    const bad = [...tree.files].flatMap(([file, reading]) => wordsOf(file, reading));
    const files = [...new Set(held.map(([, { file }]) => file))].join(", ");
    const more = bad.length > MAX_LINES ? [`and ${String(bad.length - MAX_LINES)} more: plugherd validate shows them`] : [];
    return [
      ...(doubt === null ? [] : [condition(doubt.reason, `${doubt.message}; the last versions stay in force.`)]),
      ...(held.length === 0
        ? []
        : [condition("MassDetach", `${files} vanished; nothing is detached before \`plugherd approve mass-detach\`.`)]),
      ...(bad.length === 0 ? [] : [condition("InvalidFile", [...bad.slice(0, MAX_LINES), ...more].join("\n"))]),
    ];
  };

  return {
    reading(next) {
      const before = tree;
      const wereRejected = rejected;
      const was = doubt;
      tree = next;
      doubt = doubtOf(next);
      if (doubt === null) {
        const accepted = acceptedOf(next, kept);
        rejected = accepted.rejected;
        const missed = new Set(away().map(([name]) => name));
        for (const { file, spec } of accepted.said.values()) take(file, spec);
        markAway(new Set(accepted.said.keys()));
        follow([...accepted.said.values()].map(({ spec }) => spec));
        if (was !== null || [...missed].some((name) => kept.get(name)?.away === null)) judgeAnew();
        note(before, wereRejected);
      } else if (doubt.reason !== was?.reason) onNote(null, doubt.reason, `${doubt.message}; nothing is detached for that.`);
      settle();
    },
    approveMassDetach() {
      const held = doubt === null ? away().filter(([, one]) => one.away.held) : doubt.reason === "SpecsEmpty" ? [...kept] : [];
      if (held.length === 0) return false;
      decide(held.map(([name]) => name));
      doubt = doubtOf(tree);
      settle();
      return true;
    },
    clean(domain) {
      if (!unclean.has(domain)) return;
      vanished.delete(domain);
      left.delete(domain);
      unsaved = true;
      countUnclean();
      settle();
    },
    unclean,
    conditions: () => (shown ??= conditions()),
    stop: () => alarms.stop(),
  };
}

const NOTHING: readonly DesiredDevice[] = [];
const condition = (reason: string, message: string): Condition => ({ type: "Stalled", status: "True", reason, message });

const targetOf = ({ target }: DesiredDomain): string => JSON.stringify(target);

const isSame = (a: ForcedDomain | undefined, b: ForcedDomain): boolean =>
  a !== undefined && a.spec === b.spec && a.standing === b.standing && a.left === b.left && a.problems.join("\n") === b.problems.join("\n");
