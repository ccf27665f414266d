/** One domain as xenstore tells it: who it is, its device model, its USB controllers, marks of ours. Nothing that a guest can write decides. */
import type { DomainType } from "../model/domain.ts";
import { ok, type Result } from "../model/result.ts";
import { type Mark, MAX_PORTS, number, parseMark, parseRecord, paths, portsPath, type UsbRecord } from "../protocol/xenstore-usb.ts";
import type { XenstoreError, XenstoreNodes } from "./xenstore-nodes.ts";

export type XenFacts = {
  readonly domid: number;
  /** Value of the domain's `vm` node: `/vm/<uuid>`. */
  readonly vm: string;
  readonly uuid: string | null;
  readonly name: string | null;
  /** null: another toolstack's; libxl has made no tree for it. */
  readonly type: Exclude<DomainType, "qemu"> | null;
  readonly traditional: boolean;
  /** Of a device model in plugherd's own domain. */
  readonly deviceModelPid: number | null;
  /** The domain that its device model runs in; null: plugherd's own, or there is none. */
  readonly stubdom: number | null;
  /** It is the domain of another one's device model. */
  readonly isStubdom: boolean;
  /** Whether its device model is wanted: the node that goes first when the domain is destroyed. */
  readonly deviceModel: boolean;
  /** Its device model serves paravirtual USB controllers. */
  readonly qusb: boolean;
  /** By devid. */
  readonly records: readonly UsbRecord[];
  /** By `<devid>/<port>`. */
  readonly marks: ReadonlyMap<string, Mark>;
  /** Controllers of ours, by devid. */
  readonly names: ReadonlyMap<number, string>;
  /** Devices in the 2014 layout: `hostdev-0001-0005`. */
  readonly legacy: readonly string[];
};

/** Bounds of what one domain is believed to have; more is left out. */
const MAX_RECORDS = 64;
const MAX_LEGACY = 64;

type Answer<T> = Promise<Result<T, XenstoreError>>;
const orNull = async <T>(asked: Answer<T>): Answer<T | null> => {
  const answer = await asked;
  return !answer.ok && answer.error.kind === "missing" ? ok(null) : answer;
};
/** All of them, or the first error. */
export async function every<T>(asked: readonly Answer<T>[]): Answer<readonly T[]> {
  const values: T[] = [];
  for (const answer of await Promise.all(asked)) {
    if (!answer.ok) return answer;
    values.push(answer.value);
  }
  return ok(values);
}

/** @returns null: there is no such domain (any more) */
export async function readXenDomain(store: XenstoreNodes, domid: number): Answer<XenFacts | null> {
  const home = paths.domain(domid);
  const read = (path: string): Answer<string | null> => orNull(store.read(path));
  const list = (path: string): Answer<readonly string[] | null> => orNull(store.directory(path));
  const [texts, lists] = await Promise.all([
    every([
      read(`${home}/vm`),
      read(`${home}/name`),
      read(`${paths.libxl(domid)}/type`),
      read(`${paths.libxl(domid)}/dm-version`),
      read(`${home}/image/device-model-pid`),
      read(`${home}/image/device-model-domid`),
      read(`${home}/target`),
    ]),
    every([
      list(paths.deviceModel(domid)),
      list(`${paths.deviceModel(domid)}/backends`),
      list(paths.records(domid)),
      list(paths.marks(domid)),
      list(paths.legacy(domid)),
    ]),
  ]);
  if (!texts.ok) return texts;
  if (!lists.ok) return lists;
  const [vm = null, name = null, type = null, version = null, pid = null, stub = null, target = null] = texts.value;
  const [deviceModel = null, backends, records, marked, legacy] = lists.value;
  if (vm === null) return ok(null);
  const [found, marks] = await Promise.all([readRecords(store, domid, records ?? []), readMarks(store, domid, marked ?? [])]);
  if (!found.ok) return found;
  if (!marks.ok) return marks;
  const stubdom = number(stub);
  return ok({
    domid,
    vm,
    uuid: /^\/vm\/([0-9a-f-]{36})(?:-\d{1,5})?$/i.exec(vm)?.[1]?.toLowerCase() ?? null,
    name: name !== null && name !== "" && name.length <= 255 && !/[\p{Cc}/]/u.test(name) ? name : null,
    type: type === "hvm" || type === "pv" || type === "pvh" ? type : null,
    // libxl takes a missing version for the traditional one; a paravirtual domain's device model is always qemu-xen.
    traditional: type === "hvm" && version !== "qemu_xen",
    deviceModelPid: number(pid),
    stubdom: stubdom === 0 ? null : stubdom,
    isStubdom: target !== null,
    deviceModel: deviceModel !== null,
    qusb: backends?.includes("qusb") ?? false,
    records: found.value,
    ...marks.value,
    legacy: (legacy ?? []).slice(0, MAX_LEGACY),
  });
}

async function readRecords(store: XenstoreNodes, domid: number, names: readonly string[]): Answer<readonly UsbRecord[]> {
  const devids = names
    .flatMap((name) => number(name, 0xffff) ?? [])
    .sort((a, b) => a - b)
    .slice(0, MAX_RECORDS);
  const records = await every(devids.map((devid) => readRecord(store, domid, devid)));
  return records.ok ? ok(records.value.flatMap((record) => record ?? [])) : records;
}

async function readRecord(store: XenstoreNodes, domid: number, devid: number): Answer<UsbRecord | null> {
  const own = paths.record(domid, devid);
  const read = (path: string): Answer<string | null> => orNull(store.read(path));
  const texts = await every(["type", "usb-ver", "num-ports", "backend"].map((name) => read(`${own}/${name}`)));
  if (!texts.ok) return texts;
  const [type = null, version = null, count = null, backend = null] = texts.value;
  if (type !== "devicemodel" && type !== "qusb" && type !== "pv") return ok(null);
  const ports = Math.min(number(count, MAX_PORTS) ?? 0, MAX_PORTS);
  const at = portsPath(domid, devid, type);
  const emulated = type === "devicemodel";
  const behind = emulated ? "" : paths.backend(domid, devid, type);
  const none: Answer<string | null> = Promise.resolve(ok(null));
  const states = await every([
    emulated ? none : read(`${behind}/state`),
    emulated ? none : read(`${paths.frontend(domid, devid)}/state`),
    emulated ? none : read(`${behind}/online`),
    ...Array.from({ length: ports }, (_, i) => read(`${at}/${String(i + 1)}`)),
  ]);
  if (!states.ok) return states;
  const [backendState = null, frontendState = null, online = null, ...holds] = states.value;
  return ok(
    parseRecord(devid, {
      type,
      "usb-ver": version,
      "num-ports": count,
      backend,
      online,
      backendState,
      frontendState,
      ports: new Map(holds.map((busid, i) => [i + 1, busid ?? ""])),
    }),
  );
}

async function readMarks(store: XenstoreNodes, domid: number, names: readonly string[]): Answer<Pick<XenFacts, "marks" | "names">> {
  const devids = names.flatMap((name) => number(name, 0xffff) ?? []).slice(0, MAX_RECORDS);
  const found = await every(
    devids.map(async (devid): Answer<readonly [devid: number, name: string, marks: readonly (readonly [string, Mark])[]]> => {
      const at = paths.controllerMark(domid, devid);
      const [name, ports] = await Promise.all([orNull(store.read(at)), orNull(store.directory(at))]);
      if (!name.ok) return name;
      if (!ports.ok) return ports;
      const listed = (ports.value ?? []).slice(0, MAX_PORTS);
      const texts = await every(listed.map((port) => orNull(store.read(`${at}/${port}`))));
      if (!texts.ok) return texts;
      const marks = texts.value.flatMap((text, i) => {
        const mark = text === null ? null : parseMark(text);
        return mark === null ? [] : [[`${String(devid)}/${listed[i] ?? ""}`, mark] as const];
      });
      return ok([devid, name.value ?? "", marks] as const);
    }),
  );
  if (!found.ok) return found;
  return ok({
    names: new Map(found.value.flatMap(([devid, name]) => (name === "" ? [] : [[devid, name] as const]))),
    marks: new Map(found.value.flatMap(([, , marks]) => marks)),
  });
}
