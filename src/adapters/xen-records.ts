/**
 * Every write of ours into xenstore, each a transaction that compares first: the life of the domain, and what the decision was made on. A late
 * write would bring a destroyed domain's tree to life again, and `xl` works on the same nodes.
 */
import { type ActionError, transient, DOMAIN_GONE } from "../model/action.ts";
import { err, ok, type Result } from "../model/result.ts";
import {
  formatMark,
  type Mark,
  type NewRecord,
  number,
  parseMark,
  paths,
  portPath,
  type PortPlace,
  recordWrites,
  XENBUS,
} from "../protocol/xenstore-usb.ts";
import { every } from "./xen-read.ts";
import type { TransactionEnd, XenstoreClient } from "./xenstore-client.ts";
import type { XenstoreError, XenstoreNodes } from "./xenstore-nodes.ts";

/** Which life of a domain is meant: its domid, and the value of its `vm` node. */
export type XenLife = { readonly domid: number; readonly vm: string };
/** A port of a controller in that life. */
export type XenPort = Omit<PortPlace, "domid">;

type Store = Pick<XenstoreClient, "transaction">;
type Done = Promise<Result<void, ActionError>>;
/** Inside a transaction: null: all is as it was decided on, and written; else what is otherwise. */
type Body = (tx: XenstoreNodes) => Promise<Result<ActionError | null, XenstoreError>>;

export type XenRecords = {
  /** An empty port -> this device, with a mark of ours. */
  set(port: XenPort, mark: Mark): Done;
  /** A port that holds this -> empty, the mark with it. @param mark - what it has; null: none. Already empty is fine. */
  clear(port: XenPort, busid: string, mark: Mark | null): Done;
  /** A mark that its port does not bear out: `xl` has cleared the record beside it. One that does again by now stays. */
  dropMark(port: XenPort, mark: Mark): Done;
  /** A mark that stands alone, where nothing is recorded: a device model without records. */
  note(devid: number, port: number, mark: Mark): Done;
  forgetNote(devid: number, port: number): Done;
  /** A controller, under a devid that nobody has. @param name - what it is called in files */
  add(controller: Omit<NewRecord, "domid">, name: string): Done;
  /** A record of the 2014 layout. */
  removeLegacy(name: string): Done;
  /** Takes it back where it is still ours. */
  remove(controller: Pick<NewRecord, "devid" | "type">, name: string): Done;
};

const otherwise = (reason: string, message: string): Result<ActionError, never> => ok(transient(reason, message));
const GONE = ok(DOMAIN_GONE);

export function createXenRecords(store: Store, { domid, vm }: XenLife): XenRecords {
  const run = async (what: string, body: Body): Done => {
    const ended = await store.transaction<ActionError | null>(async (tx) => {
      const now = await tx.read(`${paths.domain(domid)}/vm`);
      if (!now.ok && now.error.kind !== "missing") return now;
      const problem = !now.ok || now.value !== vm ? GONE : await body(tx);
      if (!problem.ok) return problem;
      return ok({ commit: problem.value === null, value: problem.value } satisfies TransactionEnd<ActionError | null>);
    });
    if (!ended.ok) return err(told(what, ended.error));
    return ended.value === null ? ok(undefined) : err(ended.value);
  };
  const markIn = async (
    tx: XenstoreNodes,
    { devid, port }: Pick<XenPort, "devid" | "port">,
  ): Promise<Result<Mark | null, XenstoreError>> => {
    const text = await tx.read(paths.mark(domid, devid, port));
    if (text.ok) return ok(parseMark(text.value));
    return text.error.kind === "missing" ? ok(null) : text;
  };

  return {
    set: (port, mark) =>
      run(`recording ${mark.busid}`, async (tx) => {
        const node = portPath(domid, port.devid, port.type, port.port);
        const held = await tx.read(node);
        if (!held.ok && held.error.kind !== "missing") return held;
        if (!held.ok) return otherwise("ControllerGone", `The record of controller ${String(port.devid)} is not there any more.`);
        if (held.value !== "") return otherwise("PortBusy", `Port ${String(port.port)} is recorded to hold ${held.value.slice(0, 32)}.`);
        const at = paths.mark(domid, port.devid, port.port);
        const written = await every([tx.write(node, mark.busid), tx.write(at, formatMark(mark))]);
        return written.ok ? ok(null) : written;
      }),
    clear: (port, busid, mark) =>
      run(`clearing the record of ${busid}`, async (tx) => {
        const node = portPath(domid, port.devid, port.type, port.port);
        const held = await tx.read(node);
        if (!held.ok) return held.error.kind === "missing" ? ok(null) : held;
        if (held.value === "") return ok(null);
        const now = await markIn(tx, port);
        if (!now.ok) return now;
        const same = held.value === busid && (now.value === null || (mark !== null && formatMark(now.value) === formatMark(mark)));
        if (!same) return otherwise("RecordChanged", "Somebody else has changed the record meanwhile; it is looked at again.");
        const written = await every([
          tx.write(node, ""),
          ...(now.value === null ? [] : [tx.remove(paths.mark(domid, port.devid, port.port))]),
        ]);
        return written.ok ? ok(null) : written;
      }),
    dropMark: (port, mark) =>
      run(`removing the mark of ${mark.busid}`, async (tx) => {
        const held = await tx.read(portPath(domid, port.devid, port.type, port.port));
        if (!held.ok && held.error.kind !== "missing") return held;
        const now = await markIn(tx, port);
        if (!now.ok) return now;
        const stays = (held.ok && held.value === mark.busid) || now.value === null || formatMark(now.value) !== formatMark(mark);
        if (stays) return ok(null);
        const removed = await tx.remove(paths.mark(domid, port.devid, port.port));
        return removed.ok ? ok(null) : removed;
      }),
    note: (devid, port, mark) =>
      run(`marking ${mark.busid}`, async (tx) => {
        const now = await markIn(tx, { devid, port });
        if (!now.ok) return now;
        if (now.value !== null) return otherwise("PortBusy", `Port ${String(port)} is marked to hold ${now.value.busid}.`);
        const written = await tx.write(paths.mark(domid, devid, port), formatMark(mark));
        return written.ok ? ok(null) : written;
      }),
    forgetNote: (devid, port) =>
      run("removing a mark", async (tx) => {
        const removed = await tx.remove(paths.mark(domid, devid, port));
        return removed.ok || removed.error.kind === "missing" ? ok(null) : removed;
      }),
    add: (controller, name) =>
      run(`recording controller ${name}`, async (tx) => {
        const known = await tx.directory(paths.records(domid));
        if (!known.ok && known.error.kind !== "missing") return known;
        // As numbers: `01` would be the same controller.
        const taken = known.ok && known.value.some((one) => number(one) === controller.devid);
        if (taken) return otherwise("DevidTaken", `Somebody else has just made a controller ${String(controller.devid)}.`);
        for (const write of recordWrites({ ...controller, domid })) {
          const done =
            write.kind === "write"
              ? await tx.write(write.path, write.value)
              : await both(await tx.mkdir(write.path), () => tx.setPermissions(write.path, write.permissions));
          if (!done.ok) return done;
        }
        const marked = await tx.write(paths.controllerMark(domid, controller.devid), name);
        return marked.ok ? ok(null) : marked;
      }),
    removeLegacy: (name) =>
      run(`removing the record ${name}`, async (tx) => {
        const removed = await tx.remove(`${paths.legacy(domid)}/${name}`);
        return removed.ok || removed.error.kind === "missing" ? ok(null) : removed;
      }),
    remove: ({ devid, type }, name) =>
      run(`taking back the record of controller ${name}`, async (tx) => {
        const marked = await tx.read(paths.controllerMark(domid, devid));
        if (!marked.ok) return marked.error.kind === "missing" ? ok(null) : marked;
        if (marked.value !== name) return otherwise("RecordChanged", "The controller is not ours.");
        const state = type === "devicemodel" ? null : await tx.read(`${paths.backend(domid, devid, type)}/state`);
        if (state !== null && !state.ok && state.error.kind !== "missing") return state;
        const serves = state?.ok === true && [XENBUS.initWait, XENBUS.connected].includes(Number(state.value) as 2 | 4);
        if (serves) return otherwise("ControllerServed", "Its backend serves it after all.");
        const own = [paths.record(domid, devid), paths.controllerMark(domid, devid)];
        const halves = type === "devicemodel" ? [] : [paths.frontend(domid, devid), paths.backend(domid, devid, type)];
        for (const node of [...halves, ...own]) {
          const removed = await tx.remove(node);
          if (!removed.ok && removed.error.kind !== "missing") return removed;
        }
        return ok(null);
      }),
  };
}

const both = async <E>(first: Result<void, E>, next: () => Promise<Result<void, E>>): Promise<Result<void, E>> =>
  first.ok ? await next() : first;

function told(what: string, { kind, message }: XenstoreError): ActionError {
  if (kind === "away" || kind === "unknown" || kind === "lost")
    return transient("StoreLost", `xenstored was lost while ${what}: ${message}; it is looked at again once it is back.`);
  if (kind === "conflict") return transient("StoreBusy", `Others write to xenstore all the time; ${what} did not go through.`);
  return transient("StoreRefused", `xenstored refused ${what}: ${message}.`);
}
