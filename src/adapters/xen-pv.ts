/**
 * Attach and detach on paravirtual controllers: the port's record in the backend's tree is the command, and QEMU (qusb) or the kernel (usbback)
 * follows it. qusb ignores a port that changes from one device to another: cleared, seen to be gone, then set.
 */
import {
  type ActionError,
  type Attached,
  type NewController,
  type Outcome,
  type Place,
  transient,
  CALLED_OFF,
  DOMAIN_GONE,
  busOf,
} from "../model/action.ts";
import type { ActionOptions, Clock } from "../model/contracts.ts";
import { instanceOf } from "../model/hostdev.ts";
import { err, ok, type Result } from "../model/result.ts";
import type { Timings } from "../model/timings.ts";
import { peripheralPath } from "../protocol/qom-usb.ts";
import { pvController, recordObject } from "../protocol/xenstore-objects.ts";
import { markOf, parsePortPath, paths, qusbId, XENBUS } from "../protocol/xenstore-usb.ts";
import type { QmpSession } from "./qmp-client.ts";
import { isPresent } from "./qemu-monitor.ts";
import { qomGet } from "./qom-read.ts";
import type { Usbback } from "./usbback.ts";
import { createSharedRuns } from "./shared-runs.ts";
import { hindrance, type XenActionDeps, type XenActions } from "./xen-actions.ts";
import type { XenPort } from "./xen-records.ts";
import type { XenstoreClient } from "./xenstore-client.ts";

export type XenPvDeps = XenActionDeps & {
  readonly store: Pick<XenstoreClient, "read" | "watch">;
  /** null: the domain's QEMU cannot be asked; what it did is not seen then. */
  readonly session: () => QmpSession | null;
  readonly usbback: Usbback;
  readonly clock: Clock;
  readonly timings: Pick<Timings, "backendMs" | "qusbMs">;
};

export function createXenPv(deps: XenPvDeps): XenActions {
  const { life, records, holds, forsaken, onPort, domid, store, usbback, clock, timings } = deps;
  const making = createSharedRuns<Result<null, ActionError>>();

  const pause = (ms: number): Promise<void> =>
    new Promise((resolve) => {
      clock.setTimeout(() => resolve(), ms);
    });
  /** Asks QEMU after 1, 2, 4 … ms: nothing tells of what its backend does. @returns whether it was so in time; null: it cannot be asked */
  const until = async (is: (session: QmpSession) => Promise<boolean | null>): Promise<boolean | null> => {
    const end = clock.now() + timings.qusbMs;
    for (let wait = 1; ; wait *= 2) {
      const session = deps.session();
      const answer = session === null ? null : await is(session);
      if (answer !== false) return answer;
      if (clock.now() >= end) return false;
      await pause(Math.min(wait, Math.max(1, end - clock.now())));
    }
  };
  const isAttached =
    (id: string) =>
    async (session: QmpSession): Promise<boolean | null> => {
      const answer = await qomGet(session, peripheralPath(id), "attached");
      return answer.ok ? answer.value === true : answer.error.kind === "refused" ? false : null;
    };
  const isGone =
    (id: string) =>
    async (session: QmpSession): Promise<boolean | null> => {
      const answer = await isPresent(session, peripheralPath(id));
      return answer.ok ? !answer.value : null;
    };

  /** Resolves once the node has one of these values; false: not within the time. */
  const reaches = (path: string, values: readonly number[]): Promise<boolean> =>
    new Promise((resolve) => {
      const finish = (reached: boolean): void => {
        clock.clearTimeout(timer);
        watch.unsubscribe();
        resolve(reached);
      };
      const timer = clock.setTimeout(() => finish(false), timings.backendMs);
      const watch = store.watch(path).subscribe({
        next: (news) => {
          if (news.kind !== "fired") return;
          void store.read(path).then((state) => {
            if (state.ok && values.includes(Number(state.value))) finish(true);
          });
        },
        complete: () => finish(false),
      });
    });

  const make = async (controller: NewController): Promise<Result<null, ActionError>> => {
    const { name, driver, ports, xen } = controller;
    if (xen === undefined) return err(transient("DevidTaken", "The controller is planned anew."));
    const type = driver === "usbback" ? "pv" : "qusb";
    const record = { devid: xen.devid, type, version: xen.version, ports } as const;
    for (const devid of forsaken(name)) await records.remove({ devid, type }, name);
    const recorded = await records.add(record, name);
    if (!recorded.ok) {
      life.look();
      return recorded;
    }
    const path = paths.backend(domid, xen.devid, type);
    const serves = await reaches(`${path}/state`, [XENBUS.initWait, XENBUS.connected]);
    // Known at once: until the next look its device would be misplaced, and the controller forsaken.
    if (serves) life.addController(pvController({ ...record, domid }, name, "waiting", []), null);
    life.look();
    if (serves) return ok(null);
    await records.remove(record, name);
    return err(transient("NoBackend", `Nobody served the new ${driver} controller ${name} within ${String(timings.backendMs)} ms.`));
  };
  const ensure = (controller: NewController): Promise<Result<null, ActionError>> => {
    const isThere = life.seen().controllers.some(({ name, ours, link }) => name === controller.name && ours && link !== undefined);
    return isThere ? Promise.resolve(ok(null)) : making(busOf(controller), () => life.change(() => make(controller)));
  };
  const portOf = (bus: string, port: number): XenPort | null => {
    const match = /^(?:xen-qusb-(\d{1,5})\.0|usbback-(\d{1,5}))$/.exec(bus);
    if (match === null) return null;
    return { devid: Number(match[1] ?? match[2]), type: match[1] === undefined ? "pv" : "qusb", port };
  };

  const attach = async (place: Place, port: XenPort, { signal, onStep }: ActionOptions): Promise<Outcome> => {
    const hindered = await hindrance(life, signal);
    if (hindered !== null) return err(hindered);
    if (place.create !== null) {
      onStep(`waiting for the backend of the new controller ${place.create.name}`);
      const made = await ensure(place.create);
      if (!made.ok) return made;
    }
    if (signal.aborted) return err(CALLED_OFF);
    return await onPort(port, () =>
      life.change(async (): Promise<Outcome> => {
        const { device } = place;
        const id = port.type === "qusb" ? qusbId(port.devid, port.port) : null;
        const mark = markOf(device, id);
        onStep(`recording it for port ${String(place.port)} of ${place.bus}`);
        const recorded = await records.set(port, mark);
        if (!recorded.ok) {
          life.look();
          return recorded;
        }
        onStep(id === null ? "giving it to usbback" : "waiting for QEMU to take it");
        const taken = id === null ? await usbback.bind(device.busid) : await taking(id, device.node);
        if (!taken.ok) {
          await records.clear(port, device.busid, mark);
          life.look();
          return taken;
        }
        const unconfirmed = id === null || deps.session() === null ? "Unconfirmed" : undefined;
        const object = recordObject({ ...port, domid }, { busid: device.busid, mark }, true, unconfirmed);
        life.addObject(object);
        return ok({
          domain: place.domain,
          path: object.path,
          bus: place.bus,
          port: place.port,
          instance: instanceOf(device),
        } satisfies Attached);
      }),
    );
  };
  /** qusb tells nobody when it cannot open a device: it just has no object, or one without it. */
  const taking = async (id: string, node: string): Promise<Result<void, ActionError>> => {
    const taken = await until(isAttached(id));
    return taken === false
      ? err(transient("OpenRefused", `QEMU's paravirtual backend did not take ${node}; its log says why (access, or speed).`))
      : ok(undefined);
  };

  const detach = async (at: Attached, port: XenPort, { signal, onStep }: ActionOptions): Promise<Outcome> => {
    const hindered = await hindrance(life, signal);
    if (hindered !== null) return err(hindered);
    const { busid, mark } = holds(port);
    return await onPort(port, () =>
      life.change(async (): Promise<Outcome> => {
        // As libxl: from usbback first, then the port, then to its own drivers.
        const unbound = port.type === "pv" ? await usbback.unbind(busid) : ok(undefined);
        if (!unbound.ok) return unbound;
        onStep(`clearing port ${String(at.port)} of ${at.bus}`);
        const cleared = busid === "" ? ok(undefined) : await records.clear(port, busid, mark);
        if (!cleared.ok) {
          life.look();
          return cleared;
        }
        if (port.type === "qusb") {
          onStep("waiting for QEMU to let it go");
          if ((await until(isGone(qusbId(port.devid, port.port)))) === false) {
            life.look();
            return err(transient("StillThere", `QEMU still holds what was on port ${String(at.port)} of ${at.bus}.`));
          }
        } else {
          const released = await usbback.release(busid);
          if (!released.ok) return released;
        }
        life.removeObject(at.path);
        return ok(null);
      }),
    );
  };

  return {
    attach: (place, options) => {
      const port = portOf(place.bus, place.port);
      return port === null ? Promise.resolve(err(DOMAIN_GONE)) : attach(place, port, options);
    },
    detach: (at, options) => {
      const port = parsePortPath(at.path) ?? portOf(at.bus, at.port);
      return port === null ? Promise.resolve(err(DOMAIN_GONE)) : detach(at, port, options);
    },
  };
}
