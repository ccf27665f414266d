/**
 * Readings of the tree -> desired state in force (product.md §2, "Reading", "Removing"): last good versions, files that settle before their
 * vanishing is a decision, files that move, and the guards against a tree that went away as a whole.
 */
import type { Clock } from "../model/contracts.ts";
import type { DesiredDevice, DesiredDomain, FileReading, ForcedDomain, TreeReading } from "../model/desired.ts";
import type { Intentions } from "../model/intentions.ts";
import type { Condition } from "../model/status.ts";
import type { Timings } from "../model/timings.ts";
import type { WorldChange } from "../model/world.ts";
import { createAlarms } from "./alarms.ts";

export type DesiredStateKeeper = {
  reading(tree: TreeReading): void;
  /** Makes what is held back a decision. @returns false: nothing was */
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
  readonly timings: Timings;
  readonly intentions: Intentions;
  /** How many devices are attached now: in one domain, or in all (null). */
  readonly attached: (domain: string | null) => number;
  readonly onChange: (changes: readonly WorldChange[]) => void;
  readonly onIntentions: (part: Pick<Intentions, "lastGood" | "vanished" | "left">) => void;
  readonly onNote: (domain: string | null, reason: string, message: string) => void;
};

/** From how many devices on, and beyond which share of all that is attached, vanishing files wait for a person. */
const MASS_DEVICES = 3;
const MASS_SHARE = 0.5;

type Doubt = { readonly reason: "SpecsMissing" | "SpecsUnreadable" | "SpecsEmpty"; readonly message: string };

export function createDesiredState(deps: DesiredStateDeps): DesiredStateKeeper {
  const { timings, onNote } = deps;
  const alarms = createAlarms(deps.clock);
  const lastGood = new Map<string, readonly DesiredDomain[]>(deps.intentions.lastGood.map(({ file, domains }) => [file, domains]));
  const vanished = new Map<string, DesiredDomain>(deps.intentions.vanished.map((spec) => [spec.name, spec]));
  const left = new Map<string, readonly DesiredDevice[]>(deps.intentions.left.map(({ domain, devices }) => [domain, devices]));
  const unclean = new Set<string>([...vanished.keys(), ...left.keys()]);
  /** Files that are away: settling, or held back by the guard. */
  const away = new Map<string, "settling" | "held">();
  const out = new Map<string, ForcedDomain>();
  let tree: TreeReading = { directory: "missing", files: new Map() };
  let doubt: Doubt | null = null;

  const save = (): void =>
    deps.onIntentions({
      lastGood: [...lastGood].map(([file, domains]) => ({ file, domains })),
      vanished: [...vanished.values()],
      left: [...left].map(([domain, devices]) => ({ domain, devices })),
    });

  const doubtOf = ({ directory, files }: TreeReading): Doubt | null => {
    if (directory === "missing") return { reason: "SpecsMissing", message: "the directory of desired-state files is not there" };
    if (directory === "unreadable") return { reason: "SpecsUnreadable", message: "the directory of desired-state files cannot be read" };
    if (files.size === 0 && lastGood.size > 0)
      return { reason: "SpecsEmpty", message: "the directory of desired-state files has gone empty" };
    return null;
  };

  /** Entries that are in the file no more and said that their device stays; one that is back is claimed again. */
  const remember = (before: DesiredDomain | undefined, after: DesiredDomain): void => {
    const names = new Set(after.devices.map(({ name }) => name));
    const gone = before?.devices.filter((device) => device.onRemove === "leave" && !names.has(device.name)) ?? [];
    const kept = [
      ...(left.get(after.name) ?? []).filter((device) => !names.has(device.name) && !gone.some(({ name }) => name === device.name)),
      ...gone,
    ];
    if (kept.length === 0) {
      left.delete(after.name);
      if (!vanished.has(after.name)) unclean.delete(after.name);
    } else {
      left.set(after.name, kept);
      unclean.add(after.name);
    }
  };

  const known = (name: string): DesiredDomain | undefined => {
    for (const domains of lastGood.values()) {
      const found = domains.find((domain) => domain.name === name);
      if (found !== undefined) return found;
    }
    return undefined;
  };

  const take = (file: string, domains: readonly DesiredDomain[]): void => {
    for (const domain of domains) {
      remember(known(domain.name), domain);
      vanished.delete(domain.name);
      // The same name in another file that is away: a move.
      for (const other of away.keys()) {
        const rest = lastGood.get(other)?.filter(({ name }) => name !== domain.name);
        if (rest === undefined || other === file) continue;
        if (rest.length === 0) forgetFile(other);
        else lastGood.set(other, rest);
      }
    }
    // Documents that were edited out of a file that is still there: a decision at once.
    for (const before of lastGood.get(file) ?? [])
      if (!domains.some(({ name }) => name === before.name) && !isReadElsewhere(before.name, file)) vanish(before);
    lastGood.set(file, domains);
  };
  const isReadElsewhere = (name: string, file: string): boolean =>
    [...tree.files].some(
      ([other, reading]) => other !== file && reading.kind === "read" && reading.domains.some((domain) => domain.name === name),
    );
  const vanish = (spec: DesiredDomain): void => {
    vanished.set(spec.name, spec);
    unclean.add(spec.name);
    onNote(spec.name, "FileVanished", `${spec.mark.file} is gone; what it attached is detached unless prune or onRemove says otherwise.`);
  };
  const forgetFile = (file: string): void => {
    lastGood.delete(file);
    away.delete(file);
    alarms.clear(file);
  };

  const decide = (files: readonly string[]): void => {
    for (const file of files) {
      for (const spec of lastGood.get(file) ?? []) vanish(spec);
      forgetFile(file);
    }
    save();
    publish();
  };

  const settled = (file: string): void => {
    if (doubt !== null) return;
    const gone = [...away.keys()];
    const lost = gone.flatMap((name) => lastGood.get(name) ?? []).reduce((sum, spec) => sum + deps.attached(spec.name), 0);
    if (lost >= MASS_DEVICES && lost > deps.attached(null) * MASS_SHARE) {
      for (const name of gone) {
        alarms.clear(name);
        away.set(name, "held");
      }
      onNote(
        null,
        "MassDetach",
        `Files that vanished would detach ${String(lost)} devices; nothing is done before \`plugherd approve mass-detach\`.`,
      );
      publish();
    } else decide([file]);
  };

  const depart = (file: string): void => {
    if (away.has(file)) return;
    away.set(file, "settling");
    alarms.set(file, timings.vanishMs, () => settled(file));
  };

  const forcedOf = (spec: DesiredDomain, standing: ForcedDomain["standing"], problems: readonly string[]): ForcedDomain => ({
    spec,
    standing,
    problems,
    left: left.get(spec.name) ?? [],
  });

  /** What is in force, by metadata.name. A name that is read now comes before one that is remembered. */
  const inForce = (): Map<string, ForcedDomain> => {
    const next = new Map<string, ForcedDomain>();
    for (const spec of vanished.values()) next.set(spec.name, forcedOf(spec, "vanished", []));
    for (const [file, domains] of lastGood) {
      const reading = tree.files.get(file);
      for (const spec of domains) next.set(spec.name, forcedOf(spec, ...standingOf(file, reading)));
    }
    for (const [file, reading] of tree.files) {
      if (reading.kind !== "bad") continue;
      for (const name of reading.names)
        if (!next.has(name)) next.set(name, forcedOf(onlyObserved(name, file), "last-good", wordsOf(reading)));
    }
    return next;
  };
  const standingOf = (file: string, reading: FileReading | undefined): [ForcedDomain["standing"], readonly string[]] => {
    if (doubt !== null)
      return [
        "held-back",
        [`${doubt.reason}: ${doubt.message}; its last version stays in force (\`plugherd approve mass-detach\` makes it a decision)`],
      ];
    if (reading === undefined)
      return away.get(file) === "held"
        ? [
            "held-back",
            [`MassDetach: ${file} is gone and too much would be detached; \`plugherd approve mass-detach\` makes it a decision`],
          ]
        : ["settling", []];
    return reading.kind === "read" ? ["current", []] : ["last-good", wordsOf(reading)];
  };

  const publish = (): void => {
    const next = inForce();
    const changes: WorldChange[] = [];
    for (const name of out.keys()) if (!next.has(name)) changes.push({ kind: "forced", name, domain: null });
    for (const [name, domain] of next) {
      const before = out.get(name);
      if (
        before !== undefined &&
        before.spec === domain.spec &&
        before.standing === domain.standing &&
        before.left === domain.left &&
        before.problems.join() === domain.problems.join()
      )
        continue;
      changes.push({ kind: "forced", name, domain });
    }
    out.clear();
    for (const [name, domain] of next) out.set(name, domain);
    if (changes.length > 0) deps.onChange(changes);
  };

  return {
    reading(next) {
      const before = tree;
      tree = next;
      const was = doubt;
      doubt = doubtOf(next);
      if (doubt !== null) {
        if (doubt.reason !== was?.reason) onNote(null, doubt.reason, `${doubt.message}; nothing is detached for that.`);
        publish();
        return;
      }
      for (const [file, reading] of next.files) {
        if (away.delete(file)) alarms.clear(file);
        if (reading === before.files.get(file)) continue;
        if (reading.kind === "read") take(file, reading.domains);
        else for (const line of wordsOf(reading)) onNote(null, "InvalidFile", line);
      }
      for (const file of lastGood.keys()) if (!next.files.has(file)) depart(file);
      save();
      publish();
    },
    approveMassDetach() {
      const held = doubt !== null ? [...lastGood.keys()] : [...away].filter(([, state]) => state === "held").map(([file]) => file);
      if (held.length === 0) return false;
      decide(held);
      return true;
    },
    clean(domain) {
      if (!unclean.delete(domain)) return;
      vanished.delete(domain);
      left.delete(domain);
      save();
      publish();
    },
    unclean,
    conditions() {
      const held = [...away].filter(([, state]) => state === "held").map(([file]) => file);
      const bad = [...tree.files].flatMap(([, reading]) => wordsOf(reading));
      return [
        ...(doubt === null ? [] : [condition(doubt.reason, `${doubt.message}; the last versions stay in force.`)]),
        ...(held.length === 0
          ? []
          : [condition("MassDetach", `${held.join(", ")} vanished; nothing is detached before \`plugherd approve mass-detach\`.`)]),
        ...(bad.length === 0 ? [] : [condition("InvalidFile", bad.join("\n"))]),
      ];
    },
    stop: () => alarms.stop(),
  };
}

const condition = (reason: string, message: string): Condition => ({ type: "Stalled", status: "True", reason, message });

const wordsOf = (reading: FileReading): readonly string[] =>
  reading.kind === "read"
    ? []
    : reading.kind === "unreadable"
      ? [reading.message]
      : reading.problems
          .filter(({ severity }) => severity === "error")
          .map(({ file, line, column, message }) => `${file}:${String(line)}:${String(column)}: ${message}`);

/** A bad file without a last good version: its domain is only looked at. */
const onlyObserved = (name: string, file: string): DesiredDomain => ({
  name,
  labels: {},
  target: { by: "name", name },
  mode: "observe",
  prune: "none",
  controllers: [],
  devices: [],
  mark: { file, line: 1, column: 1 },
  generation: "",
  commit: null,
});
