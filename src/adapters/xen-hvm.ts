/**
 * Attach and detach on the emulated controllers of a Xen domain, mirrored in xenstore as libxl does: record first, then QEMU; when the host
 * device has left, record first as well, for a dead one stops every other attach of the host. On a controller that libxl does not know:
 * as on plain QEMU.
 */
import {
  type ActionError,
  type Attached,
  type NewController,
  type Outcome,
  type Place,
  xenControllerId,
  xenDeviceId,
  transient,
  CALLED_OFF,
  busOf,
} from "../model/action.ts";
import type { ActionOptions } from "../model/contracts.ts";
import { err, ok, type Result } from "../model/result.ts";
import { idOf } from "../protocol/qom-usb.ts";
import { devidOf, emulatedBus, type Mark, markOf, parseLegacyPath, parsePortPath } from "../protocol/xenstore-usb.ts";
import { createDeviceModel, type DeviceModelDeps, type Ids, ownIds } from "./device-model.ts";
import type { Life } from "./domain-life.ts";
import type { QmpSession } from "./qmp-client.ts";
import { createSharedRuns } from "./shared-runs.ts";
import { hindrance, type XenActionDeps, type XenActions } from "./xen-actions.ts";
import type { XenPort } from "./xen-records.ts";

const xenIds: Ids = {
  device: xenDeviceId,
  controller: ({ xen }) => {
    if (xen === undefined) throw new Error("a controller without a devid in a domain of Xen's");
    return xenControllerId(xen.devid);
  },
};

export function createXenHvm(
  { life, records, holds, isRecorded, forsaken, onPort }: XenActionDeps,
  session: QmpSession,
  deps: DeviceModelDeps,
): XenActions {
  /** Marks of what is being attached, by id: the object that is read back is ours. */
  const marks = new Map<string, Mark>();
  const making = createSharedRuns<Result<null, ActionError>>();
  const names = new Map<string, string>();
  const known: Life = {
    ...life,
    addObject: (object) => {
      const mark = object.id === null ? undefined : marks.get(object.id);
      life.addObject(mark === undefined ? object : { ...object, ours: true, inode: mark.inode });
    },
    addController: (controller, slot) => {
      const name = names.get(controller.bus);
      life.addController(name === undefined ? controller : { ...controller, name, ours: true }, slot);
    },
  };
  const mirrored = createDeviceModel({ life: known, session, ids: xenIds }, deps);
  const own = createDeviceModel({ life, session, ids: ownIds }, deps);

  const portOf = (bus: string, port: number, create: NewController | null): XenPort | null => {
    const devid = devidOf(bus);
    const isKnown = devid !== null && (create !== null || names.has(bus) || isRecorded(devid));
    return isKnown ? { devid, type: "devicemodel", port } : null;
  };

  /** Record, then QEMU; taken back where QEMU refuses. An outcome that is not known is left to the next look. */
  const make = async (controller: NewController): Promise<Result<null, ActionError>> => {
    const { name, ports, xen } = controller;
    if (xen === undefined) return err(transient("DevidTaken", "The controller is planned anew."));
    const record = { devid: xen.devid, type: "devicemodel", version: xen.version, ports } as const;
    for (const devid of forsaken(name)) await records.remove({ devid, type: "devicemodel" }, name);
    const recorded = await records.add(record, name);
    if (!recorded.ok) {
      life.look();
      return recorded;
    }
    names.set(emulatedBus(xen.devid), name);
    const made = await mirrored.make(controller);
    if (!made.ok && isKnownFailure(made.error)) await records.remove(record, name);
    life.look();
    return made;
  };
  const ensure = (controller: NewController): Promise<Result<null, ActionError>> => {
    const bus = busOf(controller);
    const isThere = life.seen().controllers.some((one) => one.bus === bus && one.name === controller.name);
    return isThere ? Promise.resolve(ok(null)) : making(bus, () => life.change(() => make(controller)));
  };

  const attach = async (place: Place, port: XenPort, options: ActionOptions): Promise<Outcome> => {
    const { signal, onStep } = options;
    const hindered = await hindrance(life, signal);
    if (hindered !== null) return err(hindered);
    if (place.create !== null) {
      onStep(`making controller ${place.create.name}`);
      const made = await ensure(place.create);
      if (!made.ok) return made;
    }
    if (signal.aborted) return err(CALLED_OFF);
    return await onPort(port, () =>
      life.change(async (): Promise<Outcome> => {
        const mark = markOf(place.device, xenDeviceId(place.device));
        onStep(`recording it for port ${String(place.port)} of ${place.bus}`);
        const recorded = await records.set(port, mark);
        if (!recorded.ok) {
          life.look();
          return recorded;
        }
        marks.set(mark.id ?? "", mark);
        const done = await mirrored.attach({ ...place, create: null }, options);
        marks.delete(mark.id ?? "");
        if (!done.ok && isKnownFailure(done.error)) await records.clear(port, mark.busid, mark);
        if (!done.ok) life.look();
        return done;
      }),
    );
  };

  const detach = async (at: Attached, port: XenPort, options: ActionOptions): Promise<Outcome> => {
    const hindered = await hindrance(life, options.signal);
    if (hindered !== null) return err(hindered);
    const { busid, mark } = holds(port);
    const clear = () => (busid === "" ? Promise.resolve(ok(undefined)) : records.clear(port, busid, mark));
    const bare = parsePortPath(at.path) !== null;
    return await onPort(port, () =>
      life.change(async (): Promise<Outcome> => {
        // What is behind it has left the host: until its record is gone, nothing can be attached by `xl` anywhere.
        if (at.instance === null) {
          options.onStep(`clearing the record of ${busid}`);
          const cleared = await clear();
          if (!cleared.ok) {
            life.look();
            return cleared;
          }
        }
        if (bare) {
          life.removeObject(at.path);
          return ok(null);
        }
        const gone = await mirrored.detach(at, options);
        if (!gone.ok || at.instance === null) return gone;
        const cleared = await clear();
        if (!cleared.ok) life.look();
        return cleared.ok ? gone : cleared;
      }),
    );
  };

  const detachLegacy = async (at: Attached, name: string, { signal }: ActionOptions): Promise<Outcome> => {
    const hindered = await hindrance(life, signal);
    if (hindered !== null) return err(hindered);
    const removed = await life.change(() => records.removeLegacy(name));
    if (!removed.ok) return removed;
    life.removeObject(at.path);
    return ok(null);
  };

  return {
    attach: (place, options) => {
      const port = portOf(place.bus, place.port, place.create);
      return port === null ? own.attach(place, options) : attach(place, port, options);
    },
    detach: (at, options) => {
      const legacy = parseLegacyPath(at.path);
      if (legacy !== null) return detachLegacy(at, legacy, options);
      const bare = parsePortPath(at.path);
      const port = bare ?? portOf(at.bus, at.port, null);
      const byId = (idOf(at.path) ?? "").startsWith("xenusb-");
      return port === null || (bare === null && !byId) ? own.detach(at, options) : detach(at, port, options);
    },
  };
}

/** QEMU said no: nothing was done. After a time-out or a lost monitor something may have been. */
const isKnownFailure = ({ reason }: ActionError): boolean => reason !== "TimedOut" && reason !== "MonitorLost" && reason !== "CalledOff";
