/** Worlds for planner tests: short builders with sensible defaults, and a domain that does what the plan says. */
import { CONTROLLER_PREFIX, deviceId, type Place } from "../../src/model/action.ts";
import type { DesiredController, DesiredDevice, DesiredDomain, ForcedDomain, UsbSelector } from "../../src/model/desired.ts";
import type { HostFilter, LiveController, LiveDomain, LiveObject, PvLink, XenSide } from "../../src/model/domain.ts";
import type { HostDevice } from "../../src/model/hostdev.ts";
import type { HostPolicy, PolicyRule } from "../../src/model/policy.ts";
import { emptyWorld, type Planner, type World, type WorldChange } from "../../src/model/world.ts";

export const mark = (line: number, file = "win10.yaml") => ({ file, line, column: 3 });

/** Bus and address follow from the busid, so that two places never share an address: `1-3` is 1.13. */
export function device(busid: string, change: Partial<HostDevice> = {}): HostDevice {
  const [bus = "1", ports = "1"] = busid.split("-");
  const address = ports.split(".").reduce((sum, port) => sum * 7 + Number(port), 10);
  return {
    busid,
    anchor: `pci-0000:00:14.0/${ports}`,
    bus: Number(bus),
    address,
    inode: 1000 + address,
    node: `/dev/bus/usb/${bus.padStart(3, "0")}/${String(address).padStart(3, "0")}`,
    vendor: "0529",
    product: "0001",
    deviceClass: { class: 0, subclass: 0, protocol: 0 },
    interfaces: [{ class: 0xff, subclass: 0, protocol: 0 }],
    speed: 480,
    serial: `S${busid}`,
    manufacturer: "ACME",
    productName: "Dongle",
    removable: true,
    hub: false,
    drivers: [],
    ...change,
  };
}

/** The same device after it was plugged in anew. */
export const replugged = (before: HostDevice, change: Partial<HostDevice> = {}): HostDevice => ({
  ...before,
  address: before.address + 50,
  inode: before.inode + 50,
  node: before.node.replace(/\d+$/, String(before.address + 50).padStart(3, "0")),
  ...change,
});

export const selector = (change: Partial<UsbSelector>): UsbSelector => ({
  vendor: null,
  product: null,
  serial: null,
  port: null,
  under: null,
  anyInterface: null,
  allInterfaces: null,
  manufacturer: null,
  productName: null,
  removable: null,
  bus: null,
  address: null,
  ...change,
});

export const classPattern = (text: string) => {
  const [c = 0, subclass = null, protocol = null] = text.split(":").map((part) => Number.parseInt(part, 16));
  return { class: c, subclass, protocol };
};

export function entry(
  name: string,
  usb: Partial<UsbSelector> | readonly Partial<UsbSelector>[],
  change: Partial<DesiredDevice> = {},
): DesiredDevice {
  const anyOf = Array.isArray(usb);
  const selectors = (anyOf ? (usb as readonly Partial<UsbSelector>[]) : [usb as Partial<UsbSelector>]).map(selector);
  return {
    name,
    kind: { type: "usb", selectors, anyOf },
    count: 1,
    pick: "none",
    priority: 0,
    controller: null,
    guestPort: null,
    required: false,
    onRemove: "detach",
    after: [],
    mark: mark(10),
    ...change,
  };
}

export const controller = (name: string, change: Partial<DesiredController> = {}): DesiredController => ({
  name,
  type: "auto",
  version: null,
  model: null,
  index: null,
  ports: 8,
  backend: null,
  mark: mark(5),
  ...change,
});

export const spec = (name: string, devices: readonly DesiredDevice[], change: Partial<DesiredDomain> = {}): DesiredDomain => ({
  name,
  labels: {},
  target: { by: "name", name },
  mode: "enforce",
  prune: "managed",
  controllers: null,
  devices,
  mark: mark(1, `${name}.yaml`),
  generation: "000000000000",
  commit: null,
  ...change,
});

export const forced = (domain: DesiredDomain, change: Partial<ForcedDomain> = {}): ForcedDomain => ({
  spec: domain,
  standing: "current",
  problems: [],
  left: [],
  ...change,
});

export const liveController = (bus: string, change: Partial<LiveController> = {}): LiveController => {
  const id = bus.replace(/\.0$/, "");
  const ours = id.startsWith(CONTROLLER_PREFIX);
  return {
    bus,
    name: ours ? id.slice(CONTROLLER_PREFIX.length) : id,
    path: `/machine/peripheral/${id}`,
    driver: "qemu-xhci",
    version: 3,
    ports: 8,
    minSpeed: null,
    maxSpeed: null,
    ours,
    occupied: [],
    ...change,
  };
};

export const OUR_BUS = `${CONTROLLER_PREFIX}hci0.0`;
export const ourController = (): LiveController => liveController(OUR_BUS);

const filter = (change: Partial<HostFilter>): HostFilter => ({
  bus: null,
  address: null,
  hostport: null,
  vendor: null,
  product: null,
  hostdevice: null,
  ...change,
});

/** What plugherd would have attached for the device. */
export const ours = (held: HostDevice, port: number | string, bus = OUR_BUS): LiveObject => ({
  path: `/machine/peripheral/${deviceId(held)}`,
  id: deviceId(held),
  bus,
  port: String(port),
  ours: true,
  inode: held.inode,
  filter: filter({ bus: held.bus, address: held.address }),
  exact: true,
  attached: true,
});

export const theirs = (held: HostDevice, port: number | string, change: Partial<LiveObject> = {}): LiveObject => ({
  ...ours(held, port, "xhci.0"),
  path: `/machine/peripheral/their-${held.busid}`,
  id: `their-${held.busid}`,
  ours: false,
  inode: null,
  ...change,
});

export const scanning = (id: string, wanted: Partial<HostFilter>, port: number, change: Partial<LiveObject> = {}): LiveObject => ({
  path: `/machine/peripheral/${id}`,
  id,
  bus: "xhci.0",
  port: String(port),
  ours: false,
  inode: null,
  filter: filter(wanted),
  exact: false,
  attached: false,
  ...change,
});

/** Occupied ports follow from the objects, beside what the change says. */
export function live(name: string, change: Partial<LiveDomain> = {}): LiveDomain {
  const objects = change.objects ?? [];
  const controllers = (change.controllers ?? []).map((one) => {
    const held = objects.filter(({ bus }) => bus === one.bus).map(({ port }) => Number.parseInt(port, 10));
    return { ...one, occupied: [...new Set([...one.occupied, ...held])].sort((a, b) => a - b) };
  });
  return {
    key: `${name}#1`,
    name,
    uuid: null,
    type: "qemu",
    state: "running",
    version: "7.2.22",
    monitor: `/run/plugherd/qmp/${name}.sock`,
    monitorState: "answering",
    freeSlots: ["pci.0"],
    drivers: null,
    machine: "pc-i440fx-7.2",
    ...change,
    controllers,
    objects,
  };
}

/** A domain of Xen's, made by libxl and ready. */
export const onXen = (
  name: string,
  type: "hvm" | "pv" | "pvh",
  side: Partial<XenSide> = {},
  change: Partial<LiveDomain> = {},
): LiveDomain =>
  live(name, {
    key: `${name}/7/100`,
    type,
    monitor: type === "hvm" ? "/run/xen/qmp-libxenstat-7" : "xenstore",
    freeSlots: [],
    machine: null,
    ...change,
    xen: {
      domid: 7,
      obstacle: null,
      nextDevid: 0,
      emulated: type === "hvm",
      backends: type === "hvm" ? [] : ["qusb"],
      pending: [],
      phantoms: [],
      notSaveable: null,
      ...side,
    },
  });
export const pvController = (devid: number, link: PvLink, change: Partial<LiveController> = {}): LiveController =>
  liveController(`xen-qusb-${String(devid)}.0`, {
    path: `/local/domain/0/backend/qusb/7/${String(devid)}`,
    driver: "qusb",
    version: 2,
    maxSpeed: 480,
    link,
    ...change,
  });
/** A port's record: of ours with the mark of that enumeration, else whatever is plugged in there. `attached` false: nothing is behind it. */
export const recorded = (held: HostDevice, port: number, change: Partial<LiveObject> = {}, bus = "xen-qusb-0.0"): LiveObject => ({
  ...ours(held, port, bus),
  path: `/local/domain/0/backend/qusb/7/0/port/${String(port)}`,
  id: null,
  ...(change.ours === false
    ? { inode: null, filter: filter({ bus: held.bus, hostport: held.busid.slice(held.busid.indexOf("-") + 1) }) }
    : {}),
  ...change,
});

/** A running domain with one controller of ours and these objects on it or on `xhci.0`. */
export const served = (name: string, objects: readonly LiveObject[] = [], change: Partial<LiveDomain> = {}): LiveDomain =>
  live(name, { controllers: [ourController(), liveController("xhci.0")], objects, ...change });

export const rule = (name: string, change: Partial<PolicyRule>): PolicyRule => ({
  name,
  verdict: "deny",
  match: selector({}),
  domain: null,
  lift: [],
  mark: { file: "policy.yaml", line: 9, column: 5 },
  ...change,
});

export const policyOf = (rules: readonly PolicyRule[], change: Partial<HostPolicy> = {}): World["policy"] => ({
  kind: "valid",
  policy: { default: "allow", onIdentityChange: "quarantine", rules, ...change },
  problems: [],
});

export type WorldParts = Partial<Omit<World, "host" | "domains" | "forced">> & {
  readonly host?: readonly HostDevice[];
  readonly domains?: readonly LiveDomain[];
  readonly files?: readonly (DesiredDomain | ForcedDomain)[];
};

export function world({ host = [], domains = [], files = [], ...rest }: WorldParts): World {
  const inForce = files.map((one) => ("spec" in one ? one : forced(one)));
  return {
    ...emptyWorld,
    host: new Map(host.map((one) => [one.busid, one])),
    domains: new Map(domains.map((one) => [one.key, one])),
    forced: new Map(inForce.map((one) => [one.spec.name, one])),
    ...rest,
  };
}

const without = (domain: LiveDomain, path: string): LiveDomain => {
  const gone = domain.objects.find((object) => object.path === path);
  if (gone === undefined) return domain;
  const objects = domain.objects.filter((object) => object !== gone);
  const port = Number.parseInt(gone.port, 10);
  const still = gone.port.includes(".") || objects.some((object) => object.bus === gone.bus && Number.parseInt(object.port, 10) === port);
  const controllers = domain.controllers.map((one) =>
    one.bus !== gone.bus || still ? one : { ...one, occupied: one.occupied.filter((taken) => taken !== port) },
  );
  return { ...domain, objects, controllers };
};

/** QEMU's own rules: a port that is taken refuses, a controller is made once. */
function withDevice(domain: LiveDomain, place: Place): LiveDomain {
  const known = domain.controllers.some(({ bus }) => bus === place.bus);
  if (!known && place.create === null) throw new Error(`${place.bus} is not there and not to be made`);
  const slots = domain.freeSlots.filter((slot) => slot === "pci.0" || slot !== place.create?.slot);
  const made =
    known || place.create === null ? [] : [liveController(place.bus, { driver: place.create.driver, ports: place.create.ports })];
  const controllers = [...domain.controllers, ...made];
  const target = controllers.find(({ bus }) => bus === place.bus);
  const object = ours(place.device, place.port, place.bus);
  const refuses = target === undefined || target.occupied.includes(place.port) || domain.objects.some(({ path }) => path === object.path);
  if (refuses) return known ? domain : { ...domain, controllers, freeSlots: slots };
  return {
    ...domain,
    freeSlots: slots,
    controllers: controllers.map((one) =>
      one === target ? { ...one, occupied: [...one.occupied, place.port].sort((a, b) => a - b) } : one,
    ),
    objects: [...domain.objects, object],
  };
}

/** One round of what the machines would do: everything that has to go goes, then what should be somewhere is put there. */
export function realise({ world: before, orphans, claims }: Planner): readonly WorldChange[] {
  const domains = new Map(before.domains);
  const change = (key: string, next: (domain: LiveDomain) => LiveDomain): void => {
    const domain = domains.get(key);
    if (domain !== undefined) domains.set(key, next(domain));
  };
  for (const { target, at } of orphans.values()) if (target === null) change(at.domain, (domain) => without(domain, at.path));
  const moving = [...claims.values()].filter(
    ({ target, owned }) =>
      target !== "stay" && owned !== null && (target === null || target.bus !== owned.bus || target.port !== owned.port),
  );
  for (const { owned } of moving) if (owned !== null) change(owned.domain, (domain) => without(domain, owned.path));
  for (const { target } of claims.values()) {
    if (target === null || target === "stay") continue;
    change(target.domain, (domain) => withDevice(domain, target));
  }
  return [...domains].filter(([key, domain]) => before.domains.get(key) !== domain).map(([key, domain]) => ({ kind: "live", key, domain }));
}
