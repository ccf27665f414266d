/** Runs a recorded command of xl on the simulated host, and tells what it wrote, sent and printed in the form of the recordings. */
import { readFileSync } from "node:fs";
import { parse } from "yaml";
import type { SimHost } from "../../src/sim/world.ts";
import type { XlOutcome } from "../../src/sim/xl-qmp.ts";

export type Recorded = {
  readonly step: string;
  readonly run: string;
  readonly rc: number;
  readonly watched: readonly string[];
  readonly out: readonly string[];
  readonly writes: readonly string[];
  /** null: not recorded. */
  readonly qmp: readonly string[] | null;
};
export const recordedSteps = (story: string): readonly Recorded[] =>
  parse(readFileSync(`specs/transcripts/xen/${story}.yaml`, "utf8")) as readonly Recorded[];

/** What differs from host to host: values that are counted or timed, names of files. */
const LOCAL = /\/(ring-ref|urb-ring-ref|conn-ring-ref|event-channel|start_time|device-model-pid|image\/(kernel|ramdisk|cmdline))$/;
/** xenconsoled writes it whenever it comes to it. */
const AT_ANY_TIME = "/console/tty";

/** Domid and uuid of a story's domain become words. */
function normal(line: string): string {
  const text = line
    .replace(/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g, "UUID")
    .replace(/(\/libxl|\/local\/domain(?!\/0)|\/backend\/\w+|\/device-model)\/\d+/g, "$1/D")
    .replace(/(\/(?:frontend-id|domid)) = "\d+"/, '$1 = "D"')
    .replace(/([nr])[1-9]\d*\b(?=[,)])/g, "$1D");
  const [path = ""] = text.split(" = ");
  return LOCAL.test(path) ? text.replace(/ = ".*" /, ' = "…" ') : text;
}
export const normalWrites = (lines: readonly string[]): readonly string[] =>
  lines.filter((line) => !line.includes(AT_ANY_TIME)).map(normal);

/** What a watcher of these paths would have read since the write of this number. */
export function writesSince(host: SimHost, from: number, watched: readonly string[]): readonly string[] {
  const roots = watched.map((root) => normal(root));
  const below = (path: string): boolean =>
    roots.some((root) => path === root || path.startsWith(`${root}/`) || root.startsWith(`${path}/`));
  const lines = (host.xen?.writes ?? []).slice(from).flatMap(({ path, value, permissions }) => {
    const plain = normal(path);
    if (!below(plain)) return [];
    // Whoever watches something below a removed node is told of what it watches.
    const told = value === null ? (roots.find((root) => root.startsWith(`${plain}/`)) ?? path) : path;
    return [value === null ? `${told} = GONE` : `${path} = "${value}" (${permissions.join(",")})`];
  });
  return normalWrites(lines);
}

/** @param line - xl's arguments as recorded; `create` is the caller's */
export function runXl(host: SimHost, line: string): Promise<XlOutcome> {
  const xl = host.xen?.xl;
  if (xl === undefined) throw new Error("no Xen host");
  const [command = "", name = "", ...rest] = line.trim().split(" ");
  const given = Object.fromEntries(rest.filter((one) => one.includes("=")).map((one) => one.split("="))) as Record<string, string>;
  const number = (key: string): number | undefined => (given[key] === undefined ? undefined : Number(given[key]));
  const optional = <K extends string>(key: K, value: number | undefined): Partial<Record<K, number>> =>
    value === undefined ? {} : ({ [key]: value } as Record<K, number>);
  switch (command) {
    case "usbctrl-attach":
      return xl.usbctrlAttach(name, {
        ...(given["type"] === undefined ? {} : { type: given["type"] as "qusb" }),
        ...optional("version", number("version")),
        ...optional("ports", number("ports")),
      });
    case "usbctrl-detach":
      return xl.usbctrlDetach(name, Number(rest[0]));
    case "usbdev-attach":
      return xl.usbdevAttach(name, {
        hostbus: Number(given["hostbus"]),
        hostaddr: Number(given["hostaddr"]),
        ...optional("controller", number("controller")),
        ...optional("port", number("port")),
      });
    case "usbdev-detach":
      return xl.usbdevDetach(name, Number(rest[0]), Number(rest[1]));
    case "destroy":
      return xl.destroy(name).then(() => ({ ok: true, value: null }));
    default:
      throw new Error(`xl ${command} is not replayed`);
  }
}
