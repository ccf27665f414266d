/**
 * What xenstore and a domain's QEMU tell, put together: which controllers can be used and what each port holds. The two are written one after the
 * other, by us and by `xl`: where they disagree and nobody of ours is at work, what was seen before is shown until it has stayed so.
 */
import type { LiveController, LiveDomain, LiveObject, XenSide } from "../model/domain.ts";
import { rootPort } from "../protocol/qom-usb.ts";
import {
  busOfRecord,
  legacyObject,
  linkOf,
  pvController,
  recordObject,
  TRADITIONAL_DEVID,
  traditionalController,
  traditionalObject,
} from "../protocol/xenstore-objects.ts";
import { devidOf, emulatedBus, formatMark, legacyObjectId, type Mark, paths, qusbId, type UsbRecord } from "../protocol/xenstore-usb.ts";
import type { Listing } from "./qemu-monitor.ts";
import type { XenFacts } from "./xen-read.ts";
import type { XenPort } from "./xen-records.ts";

/** An object of QEMU's qusb backend; `busid`: what it was made for; null: not told. */
export type QusbObject = { readonly attached: boolean; readonly busid: string | null };
/** What the domain's QEMU told: its listing, and the objects of its qusb backend by id. */
export type QemuSight = { readonly listing: Listing; readonly qusb: ReadonlyMap<string, QusbObject> };
export type ViewInput = {
  readonly facts: XenFacts;
  /** null: it cannot be asked. */
  readonly qemu: QemuSight | null;
  readonly previous: Pick<LiveDomain, "objects">;
  /** `<devid>/<port>`: an action of ours is at work there. */
  readonly isBusy: (key: string) => boolean;
  /** Whether what is called `key` has been seen in this state long enough to be believed. */
  readonly isSteady: (key: string, state: string, kind: "port" | "controller" | "device") => boolean;
};
export type View = Pick<LiveDomain, "controllers" | "objects"> &
  Pick<XenSide, "nextDevid" | "pending" | "phantoms" | "notSaveable"> & {
    /** Ports of which record and object disagree. */
    readonly disagreeing: readonly string[];
    /** Marks of ours that their ports have not borne out for a while. */
    readonly strays: readonly { readonly port: XenPort; readonly mark: Mark }[];
  };

export const portKey = (devid: number, port: number): string => `${String(devid)}/${String(port)}`;
export function viewOf(input: ViewInput): View {
  const { facts, qemu } = input;
  if (facts.traditional) return traditionalView(facts);
  const listed = qemu?.listing.controllers ?? [];
  const objects: LiveObject[] = [];
  const controllers: LiveController[] = [];
  const pending: string[] = [];
  const phantoms: { readonly path: string; readonly text: string }[] = [];
  const disagreeing: string[] = [];
  const byDevid = new Map(facts.records.map((record) => [record.devid, record]));
  const nameOf = (devid: number, otherwise: string): string => facts.names.get(devid) ?? otherwise;

  /** Not there as a controller, or not yet. */
  const absent = (record: UsbRecord, state: string, text: string): void => {
    const name = nameOf(record.devid, busOfRecord(record).replace(/\.0$/, ""));
    // One of ours that is not there was left by a crash: it is no longer waited for than anything else of ours.
    const kind = facts.names.has(record.devid) ? "port" : "controller";
    if (record.online && record.local && !input.isSteady(`controller ${String(record.devid)}`, state, kind)) pending.push(name);
    else phantom(record, `is recorded, but ${text}`);
  };
  const phantom = ({ devid, type }: UsbRecord, text: string): void => {
    phantoms.push({ path: paths.record(facts.domid, devid), text: `controller ${String(devid)} (${type}) ${text}` });
  };

  for (const controller of listed) {
    const devid = devidOf(controller.bus);
    const record = devid === null ? undefined : byDevid.get(devid);
    const there = qemu?.listing.objects.filter(({ bus }) => bus === controller.bus) ?? [];
    if (devid === null || record?.type !== "devicemodel") {
      controllers.push(controller);
      objects.push(...there);
      continue;
    }
    const seen = portsOf(input, record, there);
    objects.push(...seen.objects);
    disagreeing.push(...seen.disagreeing);
    controllers.push({
      ...controller,
      name: nameOf(devid, controller.name ?? controller.bus),
      ours: facts.names.has(devid),
      occupied: merged(controller.occupied, record),
    });
  }
  for (const record of facts.records) {
    if (record.type === "devicemodel") {
      // Who cannot ask QEMU knows nothing of it.
      if (qemu !== null && !listed.some(({ bus }) => bus === emulatedBus(record.devid)))
        absent(record, "no controller", "the domain's QEMU has no such controller; `xl usbctrl-detach` may clear it");
      continue;
    }
    const link = linkOf(record);
    if (!record.local) phantom(record, "has its backend in another domain");
    else if (link === null) {
      const states = `${String(record.backendState)} ${String(record.frontendState)}`;
      absent(record, states, `its backend is in state ${String(record.backendState ?? "unknown")}; nobody serves it`);
    } else {
      const { domid, names } = facts;
      controllers.push(pvController({ ...record, type: record.type, domid }, names.get(record.devid) ?? null, link, merged([], record)));
    }
    const seen = record.type === "qusb" && qemu !== null ? qusbPorts(input, record, qemu) : bareRecords(input, record);
    objects.push(...seen.objects);
    disagreeing.push(...seen.disagreeing);
  }
  if (qemu !== null) objects.push(...legacyRecords(input, qemu));
  const devids = [...byDevid.keys(), ...facts.names.keys(), ...listed.flatMap(({ bus }) => devidOf(bus) ?? [])];
  return {
    controllers: controllers.sort((a, b) => (a.bus < b.bus ? -1 : a.bus > b.bus ? 1 : 0)),
    objects: objects.sort((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0)),
    nextDevid: Math.max(-1, ...devids) + 1,
    pending,
    phantoms,
    notSaveable: notSaveable(facts, qemu),
    disagreeing,
    strays: straysOf(input, byDevid),
  };
}

function straysOf({ facts, isBusy, isSteady }: ViewInput, records: ReadonlyMap<number, UsbRecord>): View["strays"] {
  return [...facts.marks].flatMap(([key, mark]) => {
    const [devid = 0, port = 0] = key.split("/").map(Number);
    const record = records.get(devid);
    const held = record?.holds.get(port) ?? "";
    if (held === mark.busid || isBusy(key) || !isSteady(`mark ${key}`, `${held} ${formatMark(mark)}`, "port")) return [];
    return [{ port: { devid, port, type: record?.type ?? "devicemodel" }, mark }];
  });
}

const merged = (occupied: readonly number[], { holds }: UsbRecord): readonly number[] =>
  [...new Set([...occupied, ...[...holds].flatMap(([port, busid]) => (busid === "" ? [] : [port]))])].sort((a, b) => a - b);

type Ports = { readonly objects: readonly LiveObject[]; readonly disagreeing: readonly string[] };

const objectOf = (
  { domid }: XenFacts,
  { devid, type, holds }: UsbRecord,
  port: number,
  mark: Mark | null,
  attached: boolean,
  remark?: LiveObject["remark"],
): LiveObject => recordObject({ domid, devid, type, port }, { busid: holds.get(port) ?? "", mark }, attached, remark);

/** A mark counts only while the record holds its device, under the id that its object would have. */
const markFor = ({ facts }: ViewInput, { devid, holds }: UsbRecord, port: number): Mark | null => {
  const mark = facts.marks.get(portKey(devid, port));
  return mark !== undefined && mark.busid === holds.get(port) ? mark : null;
};

type Shown = {
  /** Path or id of the object on a port; null: none. */
  readonly objectAt: (port: number) => string | null;
  /** What to show where record and object agree that there is something; where they do not, for good; and while that is open. */
  readonly agree: (port: number) => LiveObject | null;
  readonly differ: (port: number) => LiveObject | null;
  readonly open: (port: number) => LiveObject | null;
};

function walk(input: ViewInput, record: UsbRecord, { objectAt, agree, differ, open }: Shown): Ports {
  const objects: LiveObject[] = [];
  const disagreeing: string[] = [];
  const bus = busOfRecord(record);
  for (const [port, busid] of record.holds) {
    const object = objectAt(port);
    const key = portKey(record.devid, port);
    if ((busid !== "") === (object !== null)) {
      if (object !== null) objects.push(...nullable(agree(port)));
      continue;
    }
    disagreeing.push(key);
    const isBusy = input.isBusy(key);
    if (!isBusy && input.isSteady(`port ${key}`, `${busid} ${object ?? "-"}`, "port")) {
      objects.push(...nullable(differ(port)));
      continue;
    }
    const before = input.previous.objects.filter((one) => one.bus === bus && one.port === String(port));
    if (before.length > 0 || isBusy) objects.push(...before);
    else objects.push(...nullable(open(port)).map((one) => ({ ...one, unsettled: true as const })));
  }
  return { objects, disagreeing };
}
const nullable = <T>(value: T | null): readonly T[] => (value === null ? [] : [value]);

/** Ports of an emulated controller that libxl knows. */
function portsOf(input: ViewInput, record: UsbRecord, there: readonly LiveObject[]): Ports {
  const at = new Map(there.map((object) => [object.port, object]));
  const own = (port: number): LiveObject | null => at.get(String(port)) ?? null;
  const bare = (port: number, attached: boolean, mark: Mark | null): LiveObject => objectOf(input.facts, record, port, mark, attached);
  const known = walk(input, record, {
    objectAt: (port) => own(port)?.path ?? null,
    agree: (port) => {
      const object = own(port);
      const mark = markFor(input, record, port);
      const isIt =
        object !== null &&
        mark !== null &&
        mark.id === object.id &&
        object.filter.bus === mark.bus &&
        object.filter.address === mark.address;
      return isIt ? { ...object, ours: true, inode: mark.inode } : object;
    },
    differ: (port) => own(port) ?? bare(port, false, markFor(input, record, port)),
    open: (port) => own(port) ?? bare(port, true, null),
  });
  // What hangs on a virtual hub is nobody's record.
  const others = there.filter(({ port }) => port.includes(".") || !record.holds.has(rootPort(port) ?? 0));
  return { objects: [...known.objects, ...others], disagreeing: known.disagreeing };
}

/** Ports of a paravirtual controller whose backend is the domain's QEMU. */
function qusbPorts(input: ViewInput, record: UsbRecord, { qusb }: QemuSight): Ports {
  const { facts } = input;
  const id = (port: number): string => qusbId(record.devid, port);
  const shown = (port: number, there: boolean): LiveObject => {
    const mark = markFor(input, record, port);
    const counts = mark !== null && mark.id === id(port) ? mark : null;
    // Of what `xl` put there QEMU's `attached` says too little to take it away. Of ours, only once it has been lost for longer than QEMU takes to
    // open it again by itself: a reset by the guest can have the kernel enumerate it anew under the same address.
    const isLost = counts !== null && qusb.get(id(port))?.attached !== true;
    const attached = there && !(isLost && input.isSteady(`device ${portKey(record.devid, port)}`, "lost", "device"));
    return objectOf(facts, record, port, counts, attached, counts === null && there ? "Unconfirmed" : undefined);
  };
  // An object without a record is QEMU's to remove, and the record tells nothing of it.
  const isRecorded = (port: number): boolean => record.holds.get(port) !== "";
  return walk(input, record, {
    objectAt: (port) => {
      const object = qusb.get(id(port));
      // libxl chooses a port before its transaction: it may have written over a record, which QEMU ignores while it holds the former device.
      const isOther = object?.busid != null && isRecorded(port) && object.busid !== record.holds.get(port);
      return object === undefined || isOther ? null : id(port);
    },
    agree: (port) => shown(port, true),
    differ: (port) => (isRecorded(port) ? shown(port, false) : null),
    open: (port) => (isRecorded(port) ? objectOf(facts, record, port, null, true) : null),
  });
}

/** Nothing but the record can be seen: kernel backend, or no monitor. */
function bareRecords(input: ViewInput, record: UsbRecord): Ports {
  const objects = [...record.holds].flatMap(([port, busid]): LiveObject[] => {
    if (busid === "") return [];
    return [objectOf(input.facts, record, port, markFor(input, record, port), true, "Unconfirmed")];
  });
  return { objects, disagreeing: [] };
}

/** Of a device model without QMP: what we have marked is all that is known. */
function traditionalView({ domid, marks }: XenFacts): View {
  const objects = [...marks].flatMap(([key, mark]): LiveObject[] => {
    const [devid, port = 0] = key.split("/").map(Number);
    return devid === TRADITIONAL_DEVID ? [traditionalObject(domid, port, mark)] : [];
  });
  const occupied = objects.map(({ port }) => Number(port)).sort((a, b) => a - b);
  const controllers = [traditionalController(domid, occupied)];
  return { controllers, objects, nextDevid: 0, pending: [], phantoms: [], notSaveable: null, disagreeing: [], strays: [] };
}

/** Records of the 2014 layout behind which there is no object; one that has its object is shown as that. */
function legacyRecords({ facts, isSteady }: ViewInput, { listing }: QemuSight): readonly LiveObject[] {
  return facts.legacy.flatMap((name): LiveObject[] => {
    const id = legacyObjectId(name);
    if (listing.objects.some((object) => object.id === id) || !isSteady(`legacy ${name}`, "", "port")) return [];
    return [legacyObject(facts.domid, name)];
  });
}

/** Xen's own limit: QEMU cannot load such a state again, and the domain is lost. */
function notSaveable({ type }: XenFacts, qemu: QemuSight | null): string | null {
  if (type !== "hvm" || qemu === null) return null;
  const added = qemu.listing.controllers.find(
    ({ path }) => path.startsWith("/machine/peripheral/xenusb-") || path.startsWith("/machine/peripheral/plugherd-"),
  );
  const what =
    added !== undefined
      ? `its USB controller ${added.name ?? added.bus} was added after its start or by \`usbctrl\``
      : qemu.listing.objects.length > 0
        ? "it holds a host USB device"
        : null;
  return what === null
    ? null
    : `${what}: after \`xl save\` or a migration Xen cannot restore this domain, and it is lost; use a boot-time \`usbversion=3\` controller, and hold its devices off while it is saved`;
}
