/** The object tree of a fake QEMU as qom-list, qom-get and qom-set show it: computed when asked, never kept. */
import { ok, type Result } from "../model/result.ts";
import { driverOf } from "./qemu-drivers.ts";
import { type Machine, propertyOf, type SimBus, type SimDevice } from "./qemu-machine.ts";
import { type Refusal, refuse } from "./qemu-values.ts";

type Entry = { readonly name: string; readonly type: string; readonly value: unknown; readonly refusal?: string };
type Node = { readonly type: string; readonly label: string; readonly entries: readonly Entry[] };

const notFound = (path: string): Result<never, Refusal> => refuse(`Device '${path}' not found`, "DeviceNotFound");

export const qomList = (machine: Machine, type: string, path: string): Result<unknown, Refusal> => {
  const node = nodeAt(machine, type, path);
  if (node === undefined) return notFound(path);
  // QEMU lists a hash table: no order to rely on. This one is stable, and not the order of creation.
  const entries = [...node.entries].sort((a, b) => scatter(a.name) - scatter(b.name));
  return ok([{ name: "type", type: "string" }, ...entries.map(({ name, type: kind }) => ({ name, type: kind }))]);
};

export function qomGet(machine: Machine, type: string, path: string, property: string): Result<unknown, Refusal> {
  const node = nodeAt(machine, type, path);
  if (node === undefined) return notFound(path);
  if (property === "type") return ok(node.type);
  const entry = node.entries.find(({ name }) => name === property);
  return entry === undefined ? refuse(`Property '${node.type}.${property}' not found`) : ok(entry.value);
}

/** Nothing that is modelled can be written once it is realized. */
export function qomSet(machine: Machine, type: string, path: string, property: string): Result<unknown, Refusal> {
  const node = nodeAt(machine, type, path);
  if (node === undefined) return notFound(path);
  const settable = driverOf(node.type)?.properties.find(({ name }) => name === property)?.settable;
  if (settable === true)
    return refuse(`Attempt to set property '${property}' on device '${node.label}' (type '${node.type}') after it was realized`);
  const known = node.entries.some(({ name }) => name === property);
  return refuse(known ? `Property '${node.type}.${property}' is not writable` : `Property '${node.type}.${property}' not found`);
}

const hostless = ({ kind }: Machine): boolean => kind === "none" || kind === "xenpv";

function linkedDevice(machine: Machine, path: string): SimDevice | undefined {
  const match = /^(.+)\/child\[(\d{1,9})\]$/.exec(path);
  return machine.buses.find((bus) => bus.path === match?.[1])?.children.get(Number(match?.[2]));
}

function nodeAt(machine: Machine, type: string, path: string): Node | undefined {
  const device = machine.devices.get(path) ?? (path.startsWith("/") ? undefined : machine.devices.get(`/machine/peripheral/${path}`));
  if (device !== undefined) return deviceNode(device);
  const bus = machine.buses.find((candidate) => candidate.path === path);
  if (bus !== undefined) return busNode(bus);
  // A path may go through a link: `…/x.0/child[3]` is the device that hangs there.
  const linked = linkedDevice(machine, path);
  if (linked !== undefined) return deviceNode(linked);
  const inside = (parent: string): Entry[] =>
    [...machine.devices.values()]
      .filter((child) => child.path.startsWith(`${parent}/`) && !child.path.slice(parent.length + 1).includes("/"))
      .map((child) => ({ name: child.path.slice(parent.length + 1), type: `child<${child.driver.name}>`, value: child.path }));
  const child = (name: string, kind: string, parent: string): Entry => ({ name, type: `child<${kind}>`, value: `${parent}/${name}` });
  const container = (entries: Entry[], kind = "container"): Node => ({ type: kind, label: path, entries });
  const host = machine.kind === "pc" ? "i440fx" : "q35";
  const hostType = machine.kind === "pc" ? "i440FX-pcihost" : "q35-pcihost";
  switch (path) {
    case "/":
      return container([child("machine", type, ""), child("objects", "container", ""), child("chardevs", "container", "")]);
    case "/machine":
      return container(
        [
          ...["peripheral", "peripheral-anon", "unattached"].map((name) => child(name, "container", path)),
          ...(hostless(machine) ? [] : [child(host, hostType, path)]),
          { name: "usb", type: "bool", value: false },
        ],
        type,
      );
    case "/machine/peripheral":
    case "/machine/peripheral-anon":
      return container(inside(path));
    case "/machine/unattached":
      return container([child("sysbus", "System", path), ...inside(path)]);
    case `/machine/${host}`:
      if (hostless(machine)) return undefined;
      return container(
        machine.buses
          .filter((candidate) => candidate.path === `${path}/${candidate.name}`)
          .map(({ name, kind }) => child(name, kind, path)),
        hostType,
      );
    default:
      return undefined;
  }
}

function deviceNode(device: SimDevice): Node {
  const { driver } = device;
  const own: Entry[] = driver.properties.map(({ name, type }) => ({ name, type, value: shown(device, name) }));
  const buses = device.buses.map((bus) => ({ name: bus.name, type: `child<${bus.kind}>`, value: bus.path }));
  const slot = `${device.slot.toString(16).padStart(2, "0")}.0`;
  return {
    type: driver.name,
    label: device.id ?? device.path,
    entries: [
      { name: "parent_bus", type: "link<bus>", value: device.bus.path },
      { name: "realized", type: "bool", value: true },
      { name: "hotplugged", type: "bool", value: device.hotplugged },
      { name: "hotpluggable", type: "bool", value: driver.pluggable },
      ...(driver.on === "PCI" && device.slot >= 0 ? [{ name: "legacy-addr", type: "str", value: slot }] : []),
      ...own,
      ...buses,
    ],
  };
}
/** `port` shows what was asked for, not where it sits. */
function shown(device: SimDevice, name: string): unknown {
  if (name === "attached") return device.attached;
  if (name === "addr") return device.slot * 8;
  const value = propertyOf(device, name);
  return name === "p2" || name === "p3" ? Math.min(15, Number(value)) : value;
}

const busNode = (bus: SimBus): Node => ({
  type: bus.kind,
  label: bus.name,
  entries: [
    { name: "realized", type: "bool", value: true },
    ...(bus.hotplug ? [{ name: "hotplug-handler", type: "link<hotplug-handler>", value: "/machine" }] : []),
    ...[...bus.children].map(([n, child]) => ({ name: `child[${String(n)}]`, type: `link<${child.driver.name}>`, value: child.path })),
  ],
});

const scatter = (name: string): number => {
  let hash = 7;
  for (let at = 0; at < name.length; at += 1) hash = (hash * 31 + name.charCodeAt(at)) % 65521;
  return (hash * 40503) % 65521;
};
