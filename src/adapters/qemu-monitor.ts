/**
 * What one QEMU tells of itself over a session, asked in few round trips.
 * Never asked: qom-list-types. It makes QEMU load every module it has, and where those are of another build (a package upgraded under a
 * running domain) QEMU 10 and 11 end on an assertion.
 */
import { createHash } from "node:crypto";
import type { LiveController, LiveDomain, LiveObject } from "../model/domain.ts";
import { ok } from "../model/result.ts";
import { controllerModel, controllerModelNames } from "../model/usbctrl.ts";
import {
  busChildren,
  childDriver,
  controllerKind,
  guessPorts,
  isXhci,
  liveController,
  liveObject,
  ownBus,
  parseName,
  parseQomList,
  parseState,
  parseUuid,
  peripheralPath,
  portsFromQtree,
  type RawController,
  propertiesToRead,
} from "../protocol/qom-usb.ts";
import type { ExecuteOptions, QmpSession } from "./qmp-client.ts";
import { type Answer, all, NOTHING, type Properties, qomGet, qomList, type Read, readProperties } from "./qom-read.ts";

/** What stays the same while a QEMU lives. */
export type Identity = Pick<LiveDomain, "name" | "uuid" | "version" | "machine" | "drivers">;
/** What may change at any moment. */
export type Listing = Pick<LiveDomain, "state" | "controllers" | "objects" | "freeSlots">;

/** Bounds of what one domain is believed to hold; more is left out. */
const MAX_CONTROLLERS = 64;
const MAX_CHILDREN = 1024;
/** Slots of a conventional PCI bus, one function each where devices come one by one. */
const PCI_SLOTS = 32;

/** Drivers by version of QEMU; the controllers are built in, so a version is asked once. */
export type DriverCache = Map<string, readonly string[]>;

export async function readIdentity(session: QmpSession, cache: DriverCache): Read<Identity> {
  const known = cache.get(session.version);
  const asked = known === undefined ? emulatedDrivers : [];
  const answers = await all([
    session.execute("query-name"),
    session.execute("query-uuid"),
    session.execute("qom-get", { path: "/machine", property: "type" }),
    ...asked.map((typename) => session.execute("device-list-properties", { typename })),
  ]);
  if (!answers.ok) return answers;
  const [name, uuid, machine, ...properties] = answers.value;
  const drivers = known ?? asked.filter((_, i) => Array.isArray(properties[i]));
  cache.set(session.version, drivers);
  return ok({
    name: parseName(name),
    uuid: parseUuid(uuid),
    version: session.version,
    machine: typeof machine === "string" ? machine.replace(/-machine$/, "").slice(0, 64) : null,
    drivers,
  });
}
const emulatedDrivers = [...new Set(controllerModelNames.map(controllerModel))].flatMap((model) =>
  model?.kind === "emulated" ? [model.driver] : [],
);

/**
 * A word that changes with whatever {@link readListing} may tell otherwise: QEMU's whole device tree with every property, and its run state. One
 * round trip, whatever the domain holds; 0.6 ms of QEMU's time, where a listing of ten devices costs 30 ms. null: this QEMU does not tell.
 */
export async function readDigest(session: QmpSession, options: ExecuteOptions): Read<string | null> {
  const answers = await all([
    session.execute("human-monitor-command", { "command-line": "info qtree" }, options),
    session.execute("query-status", undefined, options),
  ]);
  if (!answers.ok) return answers;
  const [tree, status] = answers.value;
  if (typeof tree !== "string" || tree === "") return ok(null);
  return ok(`${parseState(status) ?? "unknown"} ${createHash("sha256").update(tree).digest("base64")}`);
}

const PARENTS = ["/machine/peripheral", "/machine/peripheral-anon"] as const;
/**
 * Root buses, where a machine's own controllers hang (`-usb`): under /machine/unattached in QEMU 7.2, deeper in some machines of 10.x.
 * That of pc takes hot-plugged devices, that of q35 takes none. Other machines are searched in /machine/unattached.
 */
const ROOT_BUSES = [
  { path: "/machine/i440fx/pci.0", slot: "pci.0" },
  { path: "/machine/q35/pcie.0", slot: null },
] as const;
const UNATTACHED = "/machine/unattached";
const ROOT_PORT = /^(pcie-root-port|ioh3420|xio3130-downstream|xen-pcie-root-port)$/;
const PCI_BRIDGE = /^(pcie-pci-bridge|pci-bridge|i82801b11-bridge)$/;

type Found = { readonly path: string; readonly driver: string };

/** The whole domain: six round trips, one more where a device was added without `port=`. */
export async function readListing(session: QmpSession): Read<Listing> {
  const first = await all([
    session.execute("query-status"),
    ...[...PARENTS, ...ROOT_BUSES.map(({ path }) => path)].map((path) => qomList(session, path)),
  ]);
  if (!first.ok) return first;
  const [status, ...lists] = first.value;
  const roots = ROOT_BUSES.map((root, i) => ({ ...root, list: lists[PARENTS.length + i] })).filter(({ list }) => Array.isArray(list));
  const added = PARENTS.flatMap((parent, i) => childrenOf(parent, lists[i]));
  const own = await readOwnControllers(session, roots);
  if (!own.ok) return own;
  const known = new Set(added.map(({ path }) => path));
  const controllers = await readControllers(
    session,
    [...own.value.filter(({ path }) => !known.has(path)), ...added].filter(({ driver }) => controllerKind(driver) !== null),
    added.filter(({ driver }) => ROOT_PORT.test(driver) || PCI_BRIDGE.test(driver)),
  );
  if (!controllers.ok) return controllers;
  const { raw, slots } = controllers.value;

  const buses = await all([...raw, ...slots].map(({ path, bus }) => qomList(session, `${path}/${bus}`)));
  if (!buses.ok) return buses;
  const inside = buses.value.slice(0, raw.length).map((list) => busChildren(parseQomList(list)));
  const children = await readChildren(session, raw, inside);
  if (!children.ok) return children;
  const { objects, taken } = children.value;

  const free = slots.flatMap(({ bus, room }, i) => (busChildren(parseQomList(buses.value[raw.length + i])).length < room ? [bus] : []));
  const root = roots.flatMap(({ slot, list }) => (slot !== null && busChildren(parseQomList(list)).length < PCI_SLOTS ? [slot] : []));
  return ok({
    state: parseState(status) ?? "unknown",
    controllers: raw.flatMap((one, i) => liveController({ ...one, taken: taken[i] ?? [] }) ?? []).sort(by(({ bus }) => bus)),
    objects: [...objects].sort(by(({ path }) => path)),
    freeSlots: [...root, ...free],
  });
}

const childrenOf = (parent: string, list: unknown): readonly Found[] =>
  parseQomList(list).flatMap((entry) => {
    const driver = childDriver(entry);
    return driver === null ? [] : [{ path: `${parent}/${entry.name}`, driver }];
  });

/** USB controllers that may stand elsewhere than where added devices do. */
async function readOwnControllers(
  session: QmpSession,
  roots: readonly { readonly path: string; readonly list: unknown }[],
): Read<readonly Found[]> {
  if (roots.length === 0) {
    const list = await all([qomList(session, UNATTACHED)]);
    return list.ok ? ok(childrenOf(UNATTACHED, list.value[0])) : list;
  }
  const links = roots.flatMap(({ path, list }) =>
    busChildren(parseQomList(list)).flatMap(({ link, driver }) => (controllerKind(driver) === null ? [] : [{ path, link, driver }])),
  );
  const paths = await all(links.map(({ path, link }) => qomGet(session, path, link)));
  if (!paths.ok) return paths;
  return ok(
    links.flatMap(({ driver }, i) => {
      const path = paths.value[i];
      return typeof path === "string" && path.length <= 512 ? [{ path, driver }] : [];
    }),
  );
}

type BareController = Omit<RawController, "taken">;
type Slot = { readonly path: string; readonly bus: string; readonly room: number };

/** Each controller's bus and ports, and each bridge's bus. One round trip. */
async function readControllers(
  session: QmpSession,
  usb: readonly Found[],
  bridges: readonly Found[],
): Read<{ readonly raw: readonly BareController[]; readonly slots: readonly Slot[] }> {
  const found = usb.slice(0, MAX_CONTROLLERS);
  const ports = bridges.slice(0, MAX_CHILDREN);
  const answers = await all([
    ...found.flatMap(({ path, driver }) => controllerQuestions(session, path, driver)),
    ...ports.flatMap(({ path }) => [qomList(session, path), qomGet(session, path, "hotplug")]),
  ]);
  if (!answers.ok) return answers;
  const left = answers.value;
  const replies = found.map((_, i) => left.slice(i * QUESTIONS, (i + 1) * QUESTIONS));
  const masters = new Set(replies.map(([, , , masterbus]) => masterbus));
  const raw = found.flatMap((one, i) => bareController(one, replies[i] ?? [], masters) ?? []);
  const rest = left.slice(found.length * QUESTIONS);
  const slots = ports.flatMap(({ path, driver }, i): Slot[] => {
    const single = ROOT_PORT.test(driver);
    const bus = ownBus(parseQomList(rest[2 * i]), single ? "PCIE" : "PCI");
    const hotplug = rest[2 * i + 1] !== false;
    return bus === null || !hotplug ? [] : [{ path, bus, room: single ? 1 : PCI_SLOTS - 1 }];
  });
  const order = (slot: Slot): string => `${slot.room === 1 ? "0" : "1"} ${slot.bus}`;
  return ok({ raw, slots: slots.sort(by(order)) });
}

const QUESTIONS = 4;
const controllerQuestions = (session: QmpSession, path: string, driver: string): readonly Promise<Answer>[] => [
  qomList(session, path),
  isXhci(driver) ? qomGet(session, path, "p2") : NOTHING,
  isXhci(driver) ? qomGet(session, path, "p3") : NOTHING,
  driver.includes("uhci") ? qomGet(session, path, "masterbus") : NOTHING,
];
/** @param masters - buses that a UHCI names as its master: those of EHCIs with companions */
function bareController({ path, driver }: Found, [list, p2, p3]: readonly unknown[], masters: ReadonlySet<unknown>): BareController | null {
  const bus = ownBus(parseQomList(list), "usb-bus");
  return bus === null ? null : { path, driver, bus, p2, p3, companions: masters.has(bus) };
}

type Child = {
  readonly path: string;
  readonly driver: string;
  readonly port: string | null;
  readonly properties: Properties;
};

/** Everything on every USB bus: what is usb-host, and which ports are taken. Two round trips. */
async function readChildren(
  session: QmpSession,
  controllers: readonly BareController[],
  inside: readonly (readonly { readonly link: string; readonly driver: string }[])[],
): Read<{ readonly objects: readonly LiveObject[]; readonly taken: readonly (readonly string[])[] }> {
  const asked = controllers
    .flatMap(({ path, bus }, i) => (inside[i] ?? []).map(({ link, driver }) => ({ i, driver, on: `${path}/${bus}`, link })))
    .slice(0, MAX_CHILDREN);
  const paths = await all(asked.map(({ on, link }) => qomGet(session, on, link)));
  if (!paths.ok) return paths;
  // One that is not there any more was removed between two rounds.
  const there = asked.flatMap((one, k) => {
    const path = paths.value[k];
    return typeof path === "string" && path.length <= 512 ? [{ ...one, path }] : [];
  });
  const values = await readProperties(
    session,
    there.map(({ path, driver }) => ({ path, names: driver === "usb-host" ? propertiesToRead(path) : PORT_ONLY })),
  );
  if (!values.ok) return values;
  const children: Child[][] = controllers.map(() => []);
  there.forEach(({ i, driver, path }, k) => {
    const properties = values.value[k] ?? {};
    children[i]?.push({ path, driver, port: requested(properties["port"]), properties });
  });
  const ports = await readPorts(session, controllers, children);
  if (!ports.ok) return ports;
  const objects = children.flatMap((list, i) =>
    list.flatMap(({ path, driver, properties }, k) =>
      // One without a single property went while it was asked: it would be taken for one that scans for anything.
      driver === "usb-host" && typeof properties["attached"] === "boolean"
        ? [liveObject(path, controllers[i]?.bus ?? "", ports.value[i]?.[k] ?? "", properties)]
        : [],
    ),
  );
  return ok({ objects, taken: ports.value });
}
const PORT_ONLY = ["port"] as const;
const requested = (port: unknown): string | null => (typeof port === "string" && port !== "" && port.length <= 32 ? port : null);

/** Where each child really sits. Only those that were added without `port=` cost a question. */
async function readPorts(
  session: QmpSession,
  controllers: readonly BareController[],
  children: readonly (readonly Child[])[],
): Read<readonly (readonly string[])[]> {
  const known = children.map((list) => list.map(({ port }) => port));
  if (!known.some((ports) => ports.includes(null))) return ok(known.map((ports) => ports.flatMap((port) => port ?? [])));
  const answers = await all([session.execute("human-monitor-command", { "command-line": "info qtree" })]);
  if (!answers.ok) return answers;
  const qtree = typeof answers.value[0] === "string" ? answers.value[0] : "";
  return ok(
    controllers.map(({ bus }, i) => {
      const ports = known[i] ?? [];
      const read = ports.includes(null)
        ? portsFromQtree(
            qtree,
            bus,
            (children[i] ?? []).map(({ driver }) => driver),
          )
        : null;
      return read === null ? guessPorts(ports) : ports.map((port, k) => port ?? read[k] ?? "");
    }),
  );
}

/** One object after an action of ours, written at once. null: not there. */
export async function readObject(session: QmpSession, id: string): Read<LiveObject | null> {
  const path = peripheralPath(id);
  const names = propertiesToRead(path);
  const answers = await all(["parent_bus", ...names].map((name) => qomGet(session, path, name)));
  if (!answers.ok) return answers;
  const [bus, ...values] = answers.value;
  if (typeof bus !== "string") return ok(null);
  const properties = Object.fromEntries(names.map((name, i) => [name, values[i]]));
  return ok(liveObject(path, bus.slice(bus.lastIndexOf("/") + 1), requested(properties["port"]) ?? "", properties));
}

/** One controller of ours after it was made. null: not there. */
export async function readController(session: QmpSession, id: string): Read<LiveController | null> {
  const path = peripheralPath(id);
  const answers = await all([
    qomGet(session, path, "type"),
    qomGet(session, path, "p2"),
    qomGet(session, path, "p3"),
    qomList(session, path),
  ]);
  if (!answers.ok) return answers;
  const [driver, p2, p3, list] = answers.value;
  const bare = typeof driver === "string" ? bareController({ path, driver }, [list, p2, p3], new Set()) : null;
  return ok(bare === null ? null : liveController({ ...bare, taken: [] }));
}

/** Whether an object is in the tree. */
export async function isPresent(session: QmpSession, path: string): Read<boolean> {
  const answers = await all([qomGet(session, path, "type")]);
  return answers.ok ? ok(typeof answers.value[0] === "string") : answers;
}

const by =
  <T>(key: (value: T) => string) =>
  (a: T, b: T): number => {
    const [x, y] = [key(a), key(b)];
    return x < y ? -1 : x > y ? 1 : 0;
  };
