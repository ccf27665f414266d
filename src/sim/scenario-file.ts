/**
 * Scenario files (specs/scenarios, specs/scenario.schema.json): what is given, what happens step by step, what is expected in between.
 * A file holds one scenario a YAML document.
 */
import { LineCounter, parseAllDocuments, stringify } from "yaml";
import { err, ok, type Result } from "../model/result.ts";
import { GADGETS } from "./gadgets.ts";
import {
  anyMapping,
  count,
  either,
  flag,
  listOf,
  mapOf,
  mapped,
  matching,
  oneOf,
  type Path,
  type Reader,
  record,
  simple,
  text,
  yes,
} from "./shape.ts";
import { xenDomainKeys, xenVerbs } from "./xen-scenario.ts";

/** A host device: where it is plugged and what it is; what is left out comes from its kind. */
export type DeviceSpec = NonNullable<ReturnType<typeof device>>;
/** A domain: one fake QEMU. */
export type DomainSpec = NonNullable<ReturnType<typeof domain>>;
export type Given = NonNullable<ReturnType<typeof given>>;
export type Expectation = NonNullable<ReturnType<typeof expectation>>;
/** What a person or their tools tell the daemon. */
export type Operation = NonNullable<ReturnType<typeof operation>>;
/** What goes wrong with the next commands of a monitor. */
export type Fault = NonNullable<ReturnType<typeof fault>>;

type Verbs = typeof verbs;
/** One step: a verb of the world with its value. `atMs`: when, on the scenario's own clock; null: as soon as the step before is done. */
export type Step = { readonly atMs: number | null; readonly say: string | null; readonly where: string } & (
  | { [V in keyof Verbs]: { readonly verb: V; readonly value: NonNullable<ReturnType<Verbs[V]>> } }[keyof Verbs]
  | { readonly verb: "repeat"; readonly value: { readonly times: number; readonly steps: readonly Step[] } }
  | { readonly verb: null }
);
export type Scenario = {
  readonly name: string;
  readonly about: string;
  readonly given: Given;
  readonly steps: readonly Step[];
};

const busid = matching(/^\d+-\d+(\.\d+)*$/, "a busid such as 1-1.4");
const ids = matching(/^[0-9a-f]{4}:[0-9a-f]{4}$/, "vendor:product, four lower-case hex digits each");
const classes = listOf(matching(/^[0-9a-f]{2}:[0-9a-f]{2}:[0-9a-f]{2}$/, "a class triple such as 08:06:50"));
const identity = {
  kind: oneOf(...GADGETS),
  id: ids,
  serial: text,
  manufacturer: text,
  productName: text,
  interfaces: classes,
};
export const device = record({ busid, kind: identity.kind }, { ...identity, removable: flag });

const fileName = matching(/^[^/\s][^\s]*$/, "a path below the directory");
/** As written; or the `spec:` alone, which stands for a file that names its domain like itself. */
const files = mapped(mapOf(either(text, anyMapping)), (all) =>
  Object.fromEntries(Object.entries(all).map(([name, content]) => [name, typeof content === "string" ? content : fileOf(name, content)])),
);
const policy = mapped(either(text, anyMapping), (content) =>
  typeof content === "string" ? content : stringify({ apiVersion: "plugherd/v1", kind: "HostPolicy", ...content }),
);
const fileOf = (name: string, spec: Readonly<Record<string, unknown>>): string => {
  const domainName = name.replace(/^.*\//, "").replace(/\.\w+$/, "");
  return stringify({
    apiVersion: "plugherd/v1",
    kind: "Domain",
    metadata: { name: domainName },
    spec: { domain: { name: domainName }, ...spec },
  });
};

const controller = record({ id: text, driver: text }, { ports: count });
export const domain = record(
  { name: text },
  {
    machine: oneOf("pc", "q35"),
    version: text,
    uuid: text,
    rootPorts: count,
    controllers: listOf(controller),
    dialIn: flag,
    prelaunch: flag,
    /** Without `-name`: it goes by its socket. */
    nameless: flag,
    /** What makes a domain one of Xen. */
    ...xenDomainKeys,
  },
);
/** A Xen host, with this xenstored. */
const xen = record({ daemon: oneOf("c", "ocaml") }, { usbback: flag });
const given = record({}, { xen, host: listOf(device), domains: listOf(domain), files, tree: oneOf("directory", "link", "volume"), policy });

const phase = matching(
  /^[A-Z]\w*(\/[A-Z]\w*)?( \| [A-Z]\w*(\/[A-Z]\w*)?)*$|^absent$/,
  "Phase, Phase/Reason, several with | between, or absent",
);
const state = matching(/^(True|False)(\/[A-Z]\w*)?$|^absent$/, "True, False, True/Reason, False/Reason or absent");
const none = simple((value): value is null => value === null, "null");
const expectation = record(
  {},
  {
    claims: mapOf(phase),
    guest: mapOf(record({}, { controller: text, port: count })),
    /** Host devices that the domain really holds, in any order. */
    holds: mapOf(listOf(busid)),
    /** By domain; `host`: those of the whole. */
    conditions: mapOf(mapOf(state)),
    /** What guests really have by PV USB, in any order. */
    guestSees: mapOf(listOf(busid)),
    /** Values of nodes, `{name}` in a path for a domain's domid; null: there is no such node. */
    xenstore: mapOf(either(none, text)),
    /** Reasons that the journal tells since the last mark. */
    journal: listOf(text),
    /** Nothing was changed in these domains since the last mark. */
    untouched: listOf(text),
    /** Every host USB object in every domain holds a present device, no device is held twice. */
    noLeftovers: yes,
  },
);

const entry = { domain: text, device: text };
const operation = record(
  { verb: oneOf("pause", "resume", "detach", "attach", "retry", "approve", "approve-mass-detach") },
  { ...entry, release: flag, reason: text },
);
const commandName = oneOf("device_add", "device_del", "qom-list", "qom-get", "query-status", "*");
const fault = record(
  { domain: text, command: commandName, how: oneOf("cut-before", "cut-after", "swallow", "garble", "delay") },
  { times: count, delayMs: count },
);
const inDomain = record({ domain: text, busid }, {});

const verbs = {
  plug: device,
  unplug: busid,
  replug: record({ busid }, { to: busid }),
  reenumerate: record({ busid }, identity),
  deny: busid,
  permit: busid,
  mount: busid,
  unmount: busid,
  route: busid,
  start: domain,
  kill: text,
  quit: text,
  restart: text,
  reset: text,
  pause: text,
  resume: text,
  shutDown: text,
  holdMonitor: text,
  releaseMonitor: text,
  silence: text,
  unsilence: text,
  cut: text,
  refuse: record({ domain: text, command: oneOf("device_add", "device_del"), times: count }, { message: text }),
  fault,
  leaveDuring: inDomain,
  detachByHand: inDomain,
  attachByHand: record({ domain: text, busid }, { id: text }),
  write: files,
  writeInPlace: files,
  move: record({ from: fileName, to: fileName }, {}),
  remove: listOf(fileName),
  swapTree: files,
  removeTree: yes,
  policy: either(oneOf("none"), policy),
  ...xenVerbs(domain),
  operate: operation,
  daemon: oneOf("restart", "stop", "start"),
  mark: yes,
  expect: expectation,
} as const;

const clock = matching(/^\d\d:\d\d:\d\d$/, "a time of the scenario such as 00:12:30");
const milliseconds = (at: string): number => {
  const [hours = 0, minutes = 0, seconds = 0] = at.split(":").map(Number);
  return ((hours * 60 + minutes) * 60 + seconds) * 1000;
};

/** @param where - turns a path into `file:line` */
const stepReader =
  (where: (path: Path) => string): Reader<Step> =>
  (value, path, complain) => {
    const whole = anyMapping(value, path, complain);
    if (whole === undefined) return undefined;
    const { at, say, ...rest } = whole;
    const atMs = at === undefined ? null : mapped(clock, milliseconds)(at, [...path, "at"], complain);
    const said = say === undefined ? null : text(say, [...path, "say"], complain);
    const [[verb, argument] = [null, null], ...more] = Object.entries(rest);
    if (more.length > 0) complain(path, `has several verbs: ${Object.keys(rest).join(", ")}; a step has one`);
    if (atMs === undefined || said === undefined) return undefined;
    const base = { atMs, say: said, where: where(path) };
    if (verb === null) {
      if (said === null) complain(path, `needs a verb: ${[...Object.keys(verbs), "repeat"].join(", ")}; or say`);
      return { ...base, verb };
    }
    if (verb === "repeat") {
      const repeat = record({ times: count, steps: listOf(stepReader(where)) }, {})(argument, [...path, verb], complain);
      return repeat === undefined ? undefined : { ...base, verb, value: repeat };
    }
    const reader: Reader<unknown> | undefined = Object.hasOwn(verbs, verb) ? verbs[verb as keyof Verbs] : undefined;
    if (reader === undefined) {
      complain([...path, verb], `is no verb; there are ${[...Object.keys(verbs), "repeat"].join(", ")}`);
      return undefined;
    }
    const read = reader(argument, [...path, verb], complain);
    return read === undefined ? undefined : ({ ...base, verb, value: read } as Step);
  };

/**
 * @param file - its name, for errors
 * @returns the scenarios in their order; or every problem, a line each: `file:line: what`
 */
export function readScenarios(content: string, file: string): Result<readonly Scenario[], readonly string[]> {
  const lines = new LineCounter();
  const problems: string[] = [];
  const documents = parseAllDocuments(content, { lineCounter: lines, uniqueKeys: true });
  const scenarios = [...documents].flatMap((document) => {
    for (const error of document.errors) problems.push(`${file}:${String(lines.linePos(error.pos[0]).line)}: ${error.message}`);
    if (document.errors.length > 0) return [];
    const lineOf = (path: Path): string => {
      for (let length = path.length; length >= 0; length -= 1) {
        const node: unknown = document.getIn(path.slice(0, length), true);
        const range = typeof node === "object" && node !== null && "range" in node ? (node.range as readonly number[] | null) : null;
        if (range?.[0] !== undefined) return `${file}:${String(lines.linePos(range[0]).line)}`;
      }
      return file;
    };
    const complain = (path: Path, what: string): void => {
      problems.push(`${lineOf(path)}: ${path.join(".") || "the document"} ${what}`);
    };
    const read = record({ name: text, about: text, given, steps: listOf(stepReader(lineOf)) }, {})(document.toJS(), [], complain);
    return read === undefined ? [] : [read];
  });
  if (documents.length === 0) problems.push(`${file}:1: holds no scenario`);
  return problems.length > 0 ? err(problems) : ok(scenarios);
}
