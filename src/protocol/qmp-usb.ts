/**
 * USB commands over QMP: arguments of device_add, our ids and back, and what a refusal means. JSON types are exact: QEMU 9.2 and later
 * refuse a number in a string, older ones ignore what they cannot read.
 */
import {
  type ActionError,
  CONTROLLER_PREFIX,
  DEVICE_PREFIX,
  type NewController,
  type Place,
  terminal,
  transient,
} from "../model/action.ts";
import { printable } from "../model/hostdev.ts";
import { err, ok, type Result } from "../model/result.ts";

export type DeviceAddArguments = Readonly<Record<string, string | number>>;

/** QEMU 7.2 wants a letter first; a `/` could never be removed again by 10.x. */
const ID = /^[A-Za-z][A-Za-z0-9._-]{0,63}$/;

/** @param hostdevice - name the node beside the integers: QEMU opens it without asking libusb's list, which lags behind udev */
export const usbHostArguments = (id: string, place: Place, hostdevice: boolean): DeviceAddArguments => ({
  driver: "usb-host",
  id,
  bus: place.bus,
  port: String(place.port),
  hostbus: place.device.bus,
  hostaddr: place.device.address,
  ...(hostdevice ? { hostdevice: place.device.node } : {}),
});

/** An xHCI port serves both speeds, so p2 and p3 are the same. Other models have a fixed number of ports. */
export function controllerArguments(id: string, { name, driver, ports, slot }: NewController): Result<DeviceAddArguments, ActionError> {
  if (!ID.test(id))
    return err(terminal("NoController", `QEMU takes no controller named ${name}; use letters, digits, dot, - and _, at most 50 of them.`));
  return ok({
    driver,
    id,
    ...(slot === null ? {} : { bus: slot }),
    ...(driver.endsWith("-xhci") ? { p2: ports, p3: ports } : {}),
  });
}

/** Inverse of deviceId(): bus, address, inode. null: not one of ours. */
export function parseDeviceId(id: string): { readonly bus: number; readonly address: number; readonly inode: number } | null {
  if (!id.startsWith(DEVICE_PREFIX)) return null;
  const match = /^([1-9]\d{0,4})-([1-9]\d{0,2})-(0|[1-9]\d{0,15})$/.exec(id.slice(DEVICE_PREFIX.length));
  if (match === null) return null;
  const [bus, address, inode] = [Number(match[1]), Number(match[2]), Number(match[3])];
  return Number.isSafeInteger(inode) ? { bus, address, inode } : null;
}

/** Inverse of controllerId(). null: not one of ours. */
export const parseControllerId = (id: string): string | null =>
  id.startsWith(CONTROLLER_PREFIX) && id.length > CONTROLLER_PREFIX.length ? id.slice(CONTROLLER_PREFIX.length) : null;

/** Why a command did nothing, or may have done something, as the client of a monitor knows it. */
export type CommandFailure =
  | { readonly kind: "refused"; readonly class: string; readonly desc: string }
  | { readonly kind: "timeout" }
  | { readonly kind: "closed"; readonly reason: string }
  | { readonly kind: "protocol"; readonly reason: string };

/** What the refused command was to do; for the sentence. */
export type Aim =
  | { readonly kind: "attach"; readonly place: Place }
  | { readonly kind: "controller"; readonly controller: NewController }
  | { readonly kind: "detach"; readonly path: string };

/**
 * Only QEMU's error class is contractual and nearly always GenericError, so `desc` is a hint for the reason shown. Almost everything is
 * transient: what is terminal is what no repetition in this life of the domain can change.
 */
export function classify(failure: CommandFailure, aim: Aim): ActionError {
  switch (failure.kind) {
    case "timeout":
      return transient("TimedOut", `QEMU did not answer while ${told(aim)}; it is looked at again before the next try.`);
    case "closed":
      return transient(
        "MonitorLost",
        `The monitor was lost while ${told(aim)} (${printable(failure.reason, 200)}); it is looked at again once it is back.`,
      );
    case "protocol":
      return transient("MonitorBusy", `QEMU could not be asked while ${told(aim)}: ${printable(failure.reason, 200)}.`);
    case "refused":
      return refusal(printable(failure.desc, 300), aim);
  }
}

/** The refusals of device_add that another form of the same command may get around, or a moment's patience. */
export const isNotFound = (desc: string): boolean => /failed to find host usb device|No such file or directory|No such device/i.test(desc);
export const isDuplicate = (desc: string): boolean => /duplicate (device )?id/i.test(desc);
export const isUnknownHostdevice = (desc: string): boolean => /property .*hostdevice.* not found/i.test(desc);

function refusal(desc: string, aim: Aim): ActionError {
  if (/migrat/i.test(desc)) return transient("Migrating", "The domain is being migrated; QEMU takes no device until that is over.");
  if (/permitted only after|initializ?ation/i.test(desc) && !/failed to init/i.test(desc))
    return transient("NotReady", "QEMU has not finished setting the domain up.");
  switch (aim.kind) {
    case "attach":
      return attachRefusal(desc, aim.place);
    case "controller":
      return controllerRefusal(desc, aim.controller);
    case "detach":
      return transient("Refused", `QEMU refused to remove ${aim.path}: ${desc}.`);
  }
}

function attachRefusal(desc: string, { device, bus, port }: Place): ActionError {
  const at = `${String(device.bus)}.${String(device.address)}`;
  const socket = `port ${String(port)} of ${bus}`;
  if (isNotFound(desc))
    return transient("HostDeviceNotFound", `QEMU does not see the device at ${at} (yet); check that it may read ${device.node}.`);
  if (/failed to open|could not open/i.test(desc))
    return transient(
      "OpenRefused",
      `QEMU cannot open ${device.node}; give its user read and write access, or end what else uses the device.`,
    );
  if (/failed to init libusb/i.test(desc))
    return transient("NoLibusb", "QEMU cannot start libusb; give it access to /dev/bus/usb and /sys.");
  if (/in use\?|no free ports|already in use/i.test(desc)) return transient("PortBusy", `There is no free ${socket} in the domain.`);
  if (/bus .* not found|no 'usb-bus' bus/i.test(desc))
    return transient("ControllerGone", `The controller of ${bus} is not in the domain any more.`);
  if (isUnknownModel(desc))
    return terminal(
      "NoUsbHost",
      "This QEMU cannot load usb-host; install its USB modules, or restart the domain if QEMU was upgraded under it.",
    );
  if (isDuplicate(desc)) return transient("IdTaken", `The domain holds an object of ours for ${at} at another place; it is removed first.`);
  return transient("Refused", `QEMU refused the device at ${at} on ${socket}: ${desc}.`);
}

function controllerRefusal(desc: string, { driver, slot }: NewController): ActionError {
  const remedy = `add "-device ${driver},id=usb3" to the domain's own configuration and restart it`;
  if (isUnknownModel(desc) || /expects a pluggable|not hot-?pluggable/i.test(desc))
    return terminal("NoController", `This QEMU cannot add a ${driver} to a running domain; ${remedy}.`);
  if (/does not support hotplugging|no slot\/function available|no 'pci|no .*bus found|PCI: no/i.test(desc))
    return terminal("NoController", `The domain has no room for another controller; ${remedy}.`);
  if (/slot .* (occupied|not available)|in use/i.test(desc))
    return transient("SlotBusy", `Something else took the slot ${slot ?? "that QEMU chose"} in the domain.`);
  if (/bus .* not found/i.test(desc)) return transient("SlotBusy", `The slot ${slot ?? "that QEMU chose"} is not in the domain any more.`);
  return transient("Refused", `QEMU refused a new ${driver}: ${desc}.`);
}

const isUnknownModel = (desc: string): boolean => /not a valid device model name/i.test(desc);

const told = (aim: Aim): string =>
  aim.kind === "attach"
    ? `attaching ${String(aim.place.device.bus)}.${String(aim.place.device.address)}`
    : aim.kind === "controller"
      ? `making controller ${aim.controller.name}`
      : `removing ${aim.path}`;
