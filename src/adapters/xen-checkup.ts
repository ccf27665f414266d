/** Facts for `doctor` on a Xen host. Reads, and asks; changes nothing, and holds no monitor. */
import { constants } from "node:fs";
import { access, readdir, realpath } from "node:fs/promises";
import { delimiter, join } from "node:path";
import type { Clock } from "../model/contracts.ts";
import { err, ok, type Result } from "../model/result.ts";
import type { Timings } from "../model/timings.ts";
import type { XenDomainFacts, XenHostFacts } from "../model/xen-checkup.ts";
import { parseConfiguredDevices } from "../protocol/xl-cfg.ts";
import { number, paths, portPath, type UsbRecord, XENBUS } from "../protocol/xenstore-usb.ts";
import { readStart, readTextSync } from "./bounded-read.ts";
import { createGate, type Gate } from "./gate.ts";
import { runProgram } from "./program.ts";
import { cmdlineOf } from "./qemu-processes.ts";
import { hasUsbback } from "./usbback.ts";
import { readXenDomain, type XenFacts } from "./xen-read.ts";
import { createXenstoreNodes, type XenstoreNodes } from "./xenstore-nodes.ts";
import { createXenstoreSession, type XenstoreSession } from "./xenstore-session.ts";
import { connectXenstore, controlsXen, type XenbusPlace, xenstoreWay } from "./xenstore-transport.ts";
import { listDomains } from "./xl.ts";

export type XenPlaces = {
  readonly xenstore: string;
  readonly xenLib: string;
  readonly xl: string;
  readonly sysfs: string;
  readonly proc: string;
  readonly dev: string;
  /** Where configurations of domains lie. */
  readonly configs?: string;
};
export type XenCheckupDeps = { readonly clock: Clock; readonly timings: Timings };

const CONFIGS = "/etc/xen";
const MAX_CONFIGS = 1_000;
const MAX_CONFIG_BYTES = 1024 * 1024;
const MAX_ANSWER_BYTES = 8 * 1024 * 1024;
const MAX_DOMAINS = 4_096;
const MAX_STRAYS = 256;
/** Programs and domains that are asked at one time. */
const AT_ONCE = 8;

/** @returns null: no Xen host, as far as can be seen */
export async function examineXen(places: XenPlaces, deps: XenCheckupDeps): Promise<XenHostFacts | null> {
  const { xenstore, xenLib, xl, sysfs, proc, dev, configs = CONFIGS } = places;
  const { clock, timings } = deps;
  const xenbus = { device: join(dev, "xen/xenbus"), proc };
  const way = await xenstoreWay(xenstore, xenbus);
  if (way.kind === "absent" && !controlsXen(proc)) return null;
  const usb = await usbPlaces(sysfs);
  const [rows, flock, lib, usbback, found, configured] = await Promise.all([
    listDomains({ command: xl, clock, timings }),
    inPath("flock"),
    access(xenLib, constants.R_OK | constants.X_OK).then(
      () => true,
      () => false,
    ),
    hasUsbback(sysfs),
    way.kind === "absent" ? err(null) : askStore(places, xenbus, deps),
    readConfigs(configs),
  ]);
  return {
    way,
    daemon: found.ok ? found.value.daemon : null,
    trouble: found.ok ? null : found.error,
    xlTrouble: rows.ok ? null : rows.error.message,
    flock,
    xenLib: { path: xenLib, usable: lib },
    usbback,
    domains: found.ok ? found.value.domains : [],
    strays: found.ok ? found.value.strays : [],
    ...usb,
    configs: configured,
  };
}

async function usbPlaces(sysfs: string): Promise<Pick<XenHostFacts, "addresses" | "busids">> {
  const dir = join(sysfs, "bus/usb/devices");
  const busids = (await readdir(dir).catch(() => [])).filter((name) => /^\d+-[\d.]+$/.test(name));
  const addresses = busids.map((busid) =>
    ["busnum", "devnum"].map((name) => (readTextSync(join(dir, busid, name)) ?? "").trim()).join("."),
  );
  return { busids: new Set(busids), addresses: new Set(addresses) };
}
async function inPath(program: string): Promise<boolean> {
  const tried = (process.env["PATH"] ?? "").split(delimiter).map((dir) => access(join(dir, program), constants.X_OK));
  return (await Promise.allSettled(tried)).some(({ status }) => status === "fulfilled");
}
async function readConfigs(dir: string): Promise<XenHostFacts["configs"]> {
  const names = [dir, join(dir, "auto")].map(async (at) => (await readdir(at).catch(() => [])).map((name) => join(at, name)));
  const files = (await Promise.all(names)).flat().slice(0, MAX_CONFIGS);
  const real = await Promise.all(files.map((file) => realpath(file).catch(() => null)));
  // One in `auto` is a link to another, mostly.
  const once = files.filter(
    (file, i) => real.indexOf(real[i] ?? null) === i && (file.endsWith(".cfg") || file.startsWith(join(dir, "auto"))),
  );
  const found = await Promise.all(
    once.map(async (file) => {
      const bytes = await readStart(file, MAX_CONFIG_BYTES);
      return bytes === null ? [] : parseConfiguredDevices(new TextDecoder().decode(bytes)).map((one) => ({ file, ...one }));
    }),
  );
  return found.flat();
}

type StoreFacts = Pick<XenHostFacts, "daemon" | "domains" | "strays">;
async function askStore(places: XenPlaces, xenbus: XenbusPlace, deps: XenCheckupDeps): Promise<Result<StoreFacts, string | null>> {
  const { clock, timings } = deps;
  const transport = await connectXenstore(places.xenstore, { xenbus, timeoutMs: timings.connectMs, clock });
  if (!transport.ok) return err(transport.error.message);
  const session = createXenstoreSession(transport.value, { timings, clock }, () => undefined);
  try {
    return await readStore(session, places, deps);
  } finally {
    session.close("plugherd doctor is done");
  }
}

async function readStore(session: XenstoreSession, places: XenPlaces, deps: XenCheckupDeps): Promise<Result<StoreFacts, string | null>> {
  const nodes = createXenstoreNodes(() => session);
  // oxenstored does not know this request (facts of both daemons: docs/misc/xenstore.txt).
  const part = await session.request({ op: "directory-part", path: "/", offset: 0 }, { timeoutMs: deps.timings.greetingMs });
  if (!part.ok && part.error.kind !== "refused") return err(part.error.message);
  const strays = await trees(nodes);
  const daemon = part.ok ? "c" : part.error.kind === "refused" && part.error.code === "ENOSYS" ? "ocaml" : null;
  const listed = await nodes.directory("/local/domain");
  if (!listed.ok) return err(listed.error.message);
  const domids = listed.value.flatMap((name) => number(name, 0x7fef) ?? []).slice(0, MAX_DOMAINS);
  const gate = createGate(AT_ONCE);
  const domains = await Promise.all(
    domids.filter((domid) => domid !== 0).map((domid) => gate(() => examineDomain(nodes, domid, places, deps))),
  );
  return ok({
    daemon,
    domains: domains.flatMap((one) => one ?? []),
    strays: await holdings(
      nodes,
      strays.filter(({ domid }) => !domids.includes(domid)),
      gate,
    ),
  });
}

/** @returns null: it is gone, or of no interest (the domain of another's device model) */
async function examineDomain(
  nodes: XenstoreNodes,
  domid: number,
  { xl, proc }: XenPlaces,
  { clock, timings }: XenCheckupDeps,
): Promise<XenDomainFacts | null> {
  const read = await readXenDomain(nodes, domid);
  if (!read.ok || read.value === null || read.value.isStubdom) return null;
  const facts = read.value;
  const { type, traditional, records, deviceModelPid } = facts;
  const model = deviceModelPid === null ? null : await cmdlineOf(proc, deviceModelPid);
  const later = records.some(isUnserved) ? await lookAgain(nodes, domid, clock, timings.recordSettleMs) : null;
  const emulated = records.some((record) => record.type === "devicemodel");
  const objects = emulated && facts.deviceModel && !traditional ? await objectsIn(domid, xl, clock, timings) : null;
  return {
    domid,
    name: facts.name ?? `domain ${String(domid)}`,
    type,
    traditional,
    stubdom: facts.stubdom,
    restricted: model?.xenDomid === domid && model.restricted,
    qusb: facts.qusb,
    controllers: records.map((record) => ({
      devid: record.devid,
      type: record.type,
      stuck: isUnserved(record) && later?.records.some((one) => one.devid === record.devid && isUnserved(one)) === true,
      absent: record.type !== "devicemodel" || objects === null ? null : !objects.has(`xenusb-${String(record.devid)}`),
      ports: [...record.holds]
        .filter(([, busid]) => busid !== "")
        .map(([port, busid]) => ({ port, busid, path: portPath(domid, record.devid, record.type, port) })),
    })),
  };
}
const isUnserved = ({ type, online, backendState }: UsbRecord): boolean =>
  type !== "devicemodel" && online && (backendState === null || backendState === XENBUS.initialising);
async function lookAgain(nodes: XenstoreNodes, domid: number, clock: Clock, ms: number): Promise<XenFacts | null> {
  await new Promise<void>((resolve) => {
    clock.setTimeout(() => resolve(), ms);
  });
  const read = await readXenDomain(nodes, domid);
  return read.ok ? read.value : null;
}
/** Through `xl`, which takes the lock and gives the monitor back. @returns ids; null: it could not be asked */
async function objectsIn(domid: number, xl: string, clock: Clock, { xlMs }: Timings): Promise<ReadonlySet<string> | null> {
  const options = { timeoutMs: xlMs, maxBytes: MAX_ANSWER_BYTES, clock };
  const listed = await runProgram(xl, ["qemu-monitor-command", String(domid), "qom-list /machine/peripheral"], options);
  // `type (string)` is there whatever else is.
  if (!listed.ok || !/^type \(/m.test(listed.value)) return null;
  return new Set([...listed.value.matchAll(/^(\S+) \(/gm)].map(([, id = ""]) => id));
}

type Tree = { readonly domid: number; readonly path: string /** Directory of its controllers. */; readonly controllers: string };
const namesIn = async (nodes: XenstoreNodes, path: string): Promise<readonly string[] | null> => {
  const names = await nodes.directory(path);
  return names.ok ? names.value : null;
};
/** What backends and libxl have of any domain. Read before the domains are: one that is made meanwhile is no stray. */
async function trees(nodes: XenstoreNodes): Promise<readonly Tree[]> {
  const below = async (at: string, controllers: (domid: number) => string): Promise<readonly Tree[]> =>
    ((await namesIn(nodes, at)) ?? []).flatMap((name) => {
      const domid = number(name, 0x7fef);
      return domid === null ? [] : [{ domid, path: `${at}/${name}`, controllers: controllers(domid) }];
    });
  const backends = ["qusb", "vusb"].map((kind) => {
    const at = `/local/domain/0/backend/${kind}`;
    return below(at, (domid) => `${at}/${String(domid)}`);
  });
  return (await Promise.all([...backends, below("/libxl", paths.records)])).flat();
}
/** Those that are still there, each with what it is recorded to hold. */
async function holdings(nodes: XenstoreNodes, strays: readonly Tree[], gate: Gate): Promise<XenHostFacts["strays"]> {
  const found = strays.slice(0, MAX_STRAYS).map((tree) =>
    gate(async () => {
      if ((await namesIn(nodes, tree.path)) === null) return [];
      const ports = ((await namesIn(nodes, tree.controllers)) ?? []).map(async (devid) => {
        const at = `${tree.controllers}/${devid}/port`;
        const held = await Promise.all(((await namesIn(nodes, at)) ?? []).map((port) => nodes.read(`${at}/${port}`)));
        return held.flatMap((one) => (one.ok && one.value !== "" ? [one.value] : []));
      });
      return [{ path: tree.path, busids: (await Promise.all(ports)).flat() }];
    }),
  );
  return (await Promise.all(found)).flat();
}
