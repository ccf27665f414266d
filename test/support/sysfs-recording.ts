/** specs/transcripts/sysfs: what a real kernel showed, and how it reads. */
import { readFileSync } from "node:fs";
import { parseBusid } from "../../src/model/busid.ts";
import { controllerOf, type DeviceReading, formatAnchor, parseDevice, parsePeer, portDirectory } from "../../src/protocol/sysfs-usb.ts";

type Links = Readonly<Record<string, string>>;
type RecordedInterface = { readonly attributes: Links; readonly links: Links; readonly ports: Readonly<Record<string, { peer?: string }>> };
type Recorded = {
  readonly path: string;
  readonly attributes: Links;
  readonly links: Links;
  readonly directories: readonly string[];
  readonly descriptors: string;
  readonly interfaces: Readonly<Record<string, RecordedInterface>>;
  readonly charLink: string;
};
type Recording = {
  readonly devices: Readonly<Record<string, Recorded>>;
  readonly proc: { readonly mountinfo: string; readonly swaps: string; readonly route: string; readonly ipv6_route: string };
  readonly children: readonly string[];
};
export const recording = JSON.parse(readFileSync("specs/transcripts/sysfs/usb-hotplug.json", "utf8")) as Recording;

export const recordedDevices = (): readonly (DeviceReading | null)[] =>
  Object.keys(recording.devices)
    .filter((name) => parseBusid(name).ok)
    .map(recordedDevice);

/** Read as if its node had inode 1. */
export function recordedDevice(busid: string): DeviceReading | null {
  const place = parseBusid(busid);
  const device = recording.devices[busid];
  if (!place.ok || device === undefined) return null;
  const { bus, ports } = place.value;
  const text = (name: string): string | null => device.attributes[name] ?? null;
  const root = recording.devices[`usb${String(bus)}`];
  const peers = ports.map((port, i) => {
    const hub = i === 0 ? root : recording.devices[`${String(bus)}-${ports.slice(0, i).join(".")}`];
    const faces = Object.values(hub?.interfaces ?? {});
    return parsePeer(faces.flatMap((face) => face.ports[portDirectory(bus, ports.slice(0, i), port)]?.peer ?? [])[0] ?? null);
  });
  const superSpeed = Number(root?.attributes["speed"]) >= 5000;
  return parseDevice(
    {
      busid: place.value,
      idVendor: text("idVendor"),
      idProduct: text("idProduct"),
      busnum: text("busnum"),
      devnum: text("devnum"),
      speed: text("speed"),
      removable: text("removable"),
      drivers: Object.values(device.interfaces).flatMap(({ links }) => links["driver"]?.split("/").at(-1) ?? []),
      anchor: formatAnchor(controllerOf(root?.path ?? ""), ports, superSpeed ? peers : []),
      node: `/dev/bus/usb/${String(bus).padStart(3, "0")}/${(text("devnum") ?? "").trim().padStart(3, "0")}`,
      inode: 1,
    },
    {
      descriptors: Buffer.from(device.descriptors, "hex"),
      serial: text("serial"),
      manufacturer: text("manufacturer"),
      product: text("product"),
      kernel: null,
    },
  );
}
