/** What xenstore holds of USB, as controllers and objects of a domain; the counterpart of qom-usb.ts. */
import { type LiveController, type LiveObject, NO_FILTER, type PvLink } from "../model/domain.ts";
import {
  emulatedBus,
  type Mark,
  type NewRecord,
  paths,
  portPath,
  type PortPlace,
  qusbBus,
  recordedPlace,
  usbbackBus,
  type UsbRecord,
  XENBUS,
} from "./xenstore-usb.ts";

/** LiveController.bus of what a record describes. */
export const busOfRecord = ({ devid, type }: Pick<UsbRecord, "devid" | "type">): string =>
  type === "devicemodel" ? emulatedBus(devid) : type === "qusb" ? qusbBus(devid) : usbbackBus(devid);

/** How the two halves of a paravirtual controller stand; null: it cannot be used: not set up yet, or going. */
export function linkOf({ backendState, frontendState, online }: UsbRecord): PvLink | null {
  if (backendState === XENBUS.connected && frontendState === XENBUS.connected) return "connected";
  if (!online) return null;
  const isShut = (state: number | null): boolean => state === XENBUS.closing || state === XENBUS.closed;
  if (isShut(backendState) || (backendState === XENBUS.connected && isShut(frontendState))) return "closed";
  return backendState === XENBUS.initWait || backendState === XENBUS.connected ? "waiting" : null;
}

/** @param name - what files call it, where it is ours; null: it is not */
export function pvController(
  record: NewRecord & { readonly type: "qusb" | "pv" },
  name: string | null,
  link: PvLink,
  occupied: readonly number[],
): LiveController {
  const { domid, devid, type, version, ports } = record;
  const bus = busOfRecord(record);
  return {
    bus,
    name: name ?? bus.replace(/\.0$/, ""),
    path: paths.backend(domid, devid, type),
    driver: type === "pv" ? "usbback" : "qusb",
    version,
    ports,
    minSpeed: null,
    maxSpeed: version === 1 ? 12 : 480,
    ours: name !== null,
    occupied,
    link,
  };
}

/**
 * A port's record as the object that stands for what it holds: with our mark this enumeration, without one whatever is plugged in there.
 * @param attached - false: there is nothing behind it
 */
export function recordObject(
  place: PortPlace,
  { busid, mark }: { readonly busid: string; readonly mark: Mark | null },
  attached: boolean,
  remark?: LiveObject["remark"],
): LiveObject {
  const at = recordedPlace(busid);
  const known = mark === null ? { bus: at?.bus ?? null, hostport: at?.hostport ?? busid.slice(0, 64) } : addressOf(mark);
  return {
    path: portPath(place.domid, place.devid, place.type, place.port),
    id: null,
    bus: busOfRecord(place),
    port: String(place.port),
    ours: mark !== null,
    inode: mark?.inode ?? null,
    filter: { ...NO_FILTER, ...known },
    exact: true,
    attached,
    ...(remark === undefined ? {} : { remark }),
  };
}
const addressOf = ({ bus, address }: Mark): Pick<Mark, "bus" | "address"> => ({ bus, address });

/** A record of the 2014 layout behind which there is no object. */
export const legacyObject = (domid: number, name: string): LiveObject => ({
  path: `${paths.legacy(domid)}/${name}`,
  id: null,
  bus: "legacy",
  port: "0",
  ours: false,
  inode: null,
  filter: { ...NO_FILTER, hostport: name.slice(0, 64) },
  exact: true,
  attached: false,
});

/** The one controller that a qemu-traditional domain with `usb=1` has: UHCI, and nothing lists what is on it. */
export const TRADITIONAL_BUS = "dm-usb.0";
export const TRADITIONAL_DEVID = 0;
export const traditionalController = (domid: number, occupied: readonly number[]): LiveController => ({
  bus: TRADITIONAL_BUS,
  name: "usb",
  path: paths.deviceModel(domid),
  driver: "piix3-usb-uhci",
  version: 1,
  ports: 2,
  minSpeed: null,
  maxSpeed: null,
  ours: false,
  occupied,
});
/** What we have told such a device model to add: a mark is all that is known of it. */
export const traditionalObject = (domid: number, port: number, mark: Mark): LiveObject => ({
  path: paths.mark(domid, TRADITIONAL_DEVID, port),
  id: null,
  bus: TRADITIONAL_BUS,
  port: String(port),
  ours: true,
  inode: mark.inode,
  filter: { ...NO_FILTER, ...addressOf(mark) },
  exact: true,
  attached: true,
  remark: "Unverified",
});
