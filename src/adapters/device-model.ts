/**
 * Attach and detach on one QEMU. Exact mode: bus and address, so QEMU opens the device before it replies. A reply is a receipt: what counts
 * is the object read back, and the question for it goes out right behind the command, in the same round trip.
 */
import { type ActionError, type Attached, type NewController, type Outcome, type Place, transient, CALLED_OFF } from "../model/action.ts";
import { controllerId, deviceId } from "../model/action.ts";
import type { ActionOptions, Clock, Domains } from "../model/contracts.ts";
import type { LiveObject } from "../model/domain.ts";
import { type HostDevice, instanceOf } from "../model/hostdev.ts";
import { err, ok, type Result } from "../model/result.ts";
import type { Timings } from "../model/timings.ts";
import {
  type Aim,
  classify,
  controllerArguments,
  isDuplicate,
  isNotFound,
  isUnknownHostdevice,
  usbHostArguments,
} from "../protocol/qmp-usb.ts";
import { idOf, peripheralPath } from "../protocol/qom-usb.ts";
import type { Life } from "./domain-life.ts";
import { isPresent, readController, readObject } from "./qemu-monitor.ts";
import type { QmpError, QmpSession } from "./qmp-client.ts";
import { createSharedRuns } from "./shared-runs.ts";

export type DeviceModelDeps = {
  readonly hostdevice: boolean;
  readonly clock: Clock;
  readonly timings: Pick<Timings, "findRetriesMs">;
};

/** What objects are called: on plain QEMU by plugherd, on Xen as libxl does. */
export type Ids = {
  readonly device: (device: HostDevice) => string;
  readonly controller: (controller: NewController) => string;
};
export const ownIds: Ids = { device: deviceId, controller: ({ name }) => controllerId(name) };

export type DeviceModelOptions = { readonly life: Life; readonly session: QmpSession; readonly ids: Ids };

export type DeviceModel = Pick<Domains, "attach" | "detach"> & {
  /** Makes a controller that is not there yet; those who need the same one share one making. */
  make(controller: NewController): Promise<Result<null, ActionError>>;
};

export function createDeviceModel(
  { life, session, ids }: DeviceModelOptions,
  { hostdevice, clock, timings }: DeviceModelDeps,
): DeviceModel {
  let withNode = hostdevice;
  /** Set once this QEMU has shown that it has no usb-host: each further try would only load a module of another build again. */
  let hopeless: ActionError | null = null;
  const making = createSharedRuns<Result<null, ActionError>>();

  const failed = (error: QmpError, aim: Aim): { readonly ok: false; readonly error: ActionError } => {
    const problem = classify(error, aim);
    if (error.kind === "timeout" || error.kind === "closed") life.doubt();
    // What is wrong on the host tells nothing new of the domain; any other refusal says that it is not as it was seen.
    else if (problem.reason !== "HostDeviceNotFound" && problem.reason !== "OpenRefused") life.look();
    return err(problem);
  };
  const pause = (ms: number, signal: AbortSignal): Promise<void> =>
    new Promise((resolve) => {
      const done = (): void => {
        clock.clearTimeout(timer);
        signal.removeEventListener("abort", done);
        resolve();
      };
      const timer = clock.setTimeout(done, ms);
      signal.addEventListener("abort", done, { once: true });
    });

  /** device_add until QEMU takes it or says something that waiting does not help. */
  const add = async (place: Place, signal: AbortSignal): Promise<Outcome> => {
    const aim: Aim = { kind: "attach", place };
    const waits = [...timings.findRetriesMs];
    let node = withNode;
    while (true) {
      const sent = session.execute("device_add", usbHostArguments(ids.device(place.device), place, node));
      const reading = readObject(session, ids.device(place.device));
      const reply = await sent;
      if (reply.ok) return accept(place, await reading);
      const { error } = reply;
      if (error.kind !== "refused") return failed(error, aim);
      if (isDuplicate(error.desc)) return accept(place, await reading);
      if (isUnknownHostdevice(error.desc)) withNode = false;
      const refusal = classify(error, aim);
      if (refusal.reason === "NoUsbHost") hopeless = refusal;
      const wait = isNotFound(error.desc) ? waits[0] : undefined;
      if (signal.aborted) return err(CALLED_OFF);
      if (node && (refusal.reason === "HostDeviceNotFound" || refusal.reason === "OpenRefused" || !withNode)) {
        node = false; // at once: the integers alone may be what this QEMU can open
      } else if (wait !== undefined) {
        waits.shift();
        await pause(wait, signal);
        if (signal.aborted) return err(CALLED_OFF);
      } else return failed(error, aim);
    }
  };

  /** Believes what was read back: it must be this device in this place. */
  const accept = (place: Place, read: Result<LiveObject | null, QmpError>): Outcome => {
    const aim: Aim = { kind: "attach", place };
    if (!read.ok) return failed(read.error, aim);
    const object = read.value;
    const { device, domain, bus, port } = place;
    if (object === null) {
      life.look();
      return err(transient("Vanished", "QEMU took the device but does not show it; somebody else may have removed it."));
    }
    const { filter } = object;
    if (filter.bus !== device.bus || filter.address !== device.address || object.bus !== bus || object.port !== String(port)) {
      life.look();
      return err(transient("IdTaken", `The domain holds ${object.path} at another place or for another device; it is moved first.`));
    }
    life.addObject(object);
    if (!object.attached) return err(transient("HostDeviceGone", "The device left while QEMU took it."));
    return ok({ domain, path: object.path, bus, port, instance: instanceOf(device) } satisfies Attached);
  };

  const make = async (controller: NewController): Promise<Result<null, ActionError>> => {
    const aim: Aim = { kind: "controller", controller };
    const id = ids.controller(controller);
    const args = controllerArguments(id, controller);
    if (!args.ok) return args;
    const sent = session.execute("device_add", args.value);
    const reading = readController(session, id);
    const reply = await sent;
    if (!reply.ok && !(reply.error.kind === "refused" && isDuplicate(reply.error.desc))) return failed(reply.error, aim);
    const read = await reading;
    if (!read.ok) return failed(read.error, aim);
    life.look();
    if (read.value === null) return err(transient("Vanished", `QEMU took controller ${controller.name} but does not show it.`));
    life.addController(read.value, controller.slot);
    return ok(null);
  };
  const ensure = (controller: NewController): Promise<Result<null, ActionError>> => {
    const path = peripheralPath(ids.controller(controller));
    const isThere = life.seen().controllers.some((one) => one.path === path);
    return isThere ? Promise.resolve(ok(null)) : making(path, () => life.change(() => make(controller)));
  };

  const remove = async (at: Attached): Promise<Outcome> => {
    const aim: Aim = { kind: "detach", path: at.path };
    const sent = session.execute("device_del", { id: idOf(at.path) ?? at.path });
    const looking = isPresent(session, at.path);
    const reply = await sent;
    // "Not found" is what was wanted.
    if (!reply.ok && !(reply.error.kind === "refused" && reply.error.class === "DeviceNotFound")) return failed(reply.error, aim);
    const present = await looking;
    if (!present.ok) return failed(present.error, aim);
    if (present.value) {
      life.look();
      return err(transient("StillThere", `QEMU still shows ${at.path}; it is removed again.`));
    }
    life.removeObject(at.path);
    return ok(null);
  };

  /** Without doubt and without a controller to make, the command is written before this returns. */
  const act = async (options: ActionOptions, step: string, create: NewController | null, run: () => Promise<Outcome>): Promise<Outcome> => {
    const { signal, onStep } = options;
    if (signal.aborted) return err(CALLED_OFF);
    const settled = life.settled();
    if (settled !== null) {
      onStep("looking at the domain again");
      await settled;
    }
    const blocked = life.blocked();
    if (blocked !== null) return err(blocked);
    if (create !== null) {
      onStep(`making controller ${create.name}`);
      const made = await ensure(create);
      if (!made.ok) return made;
    }
    if (signal.aborted) return err(CALLED_OFF);
    onStep(step);
    return life.change(run);
  };

  return {
    make: ensure,
    attach: (place, options) =>
      hopeless !== null
        ? Promise.resolve(err(hopeless))
        : untilCalledOff(
            options.signal,
            act(options, `attaching to port ${String(place.port)} of ${place.bus}`, place.create, () => add(place, options.signal)),
          ),
    detach: (at, options) =>
      untilCalledOff(
        options.signal,
        act(options, `removing ${idOf(at.path) ?? at.path}`, null, () => remove(at)),
      ),
  };
}

/** Only the waiting ends: what was sent is followed to its end all the same, so that what is seen stays true. */
function untilCalledOff(signal: AbortSignal, outcome: Promise<Outcome>): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const stop = (): void => resolve(err(CALLED_OFF));
    signal.addEventListener("abort", stop, { once: true });
    if (signal.aborted) stop();
    outcome.then(resolve, reject).finally(() => signal.removeEventListener("abort", stop));
  });
}
