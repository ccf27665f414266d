/** What must never be so on a simulated Xen host, whoever did it: each problem a sentence. */
import type { SimHostDevice, SimObject } from "./qmp-server.ts";
import type { XenDomain } from "./xen-domain.ts";
import type { StoreCore } from "./xenstore-core.ts";
import type { StoreNodes } from "./xenstore-local.ts";
import { type Controller, listControllers, portsPath } from "./xl-nodes.ts";

const PER_DOMAIN = [
  /^\/local\/domain\/(\d+)(?:\/|$)/,
  /^\/libxl\/(\d+)(?:\/|$)/,
  /^\/local\/domain\/0\/backend\/\w+\/(\d+)(?:\/|$)/,
  /^\/local\/domain\/0\/device-model\/(\d+)(?:\/|$)/,
];
/** The domain whose tree a path is in; null: none's, or dom0's. */
export function domidOf(path: string): number | null {
  for (const pattern of PER_DOMAIN) {
    const found = Number(pattern.exec(path)?.[1] ?? 0);
    if (found !== 0) return found;
  }
  return null;
}

/** Collects writes that came over the wire for a domain that was not there (any more): they would make its tree anew. */
export function watchDeadWrites(core: StoreCore, store: StoreNodes): readonly string[] {
  const found: string[] = [];
  core.onWrite(({ who, path, value }) => {
    const domid = domidOf(path);
    if (who !== "socket" || value === null || domid === null || store.exists(`/local/domain/${String(domid)}/vm`)) return;
    found.push(`${path} was written, but domain ${String(domid)} was not there`);
  });
  return found;
}

export type Seen = {
  readonly store: StoreNodes;
  readonly domains: Iterable<XenDomain>;
  readonly devices: () => Iterable<SimHostDevice>;
  /** busid behind an object; null: nothing. */
  readonly heldBy: (domain: XenDomain, object: SimObject) => string | null;
};

/** What is wrong now; while something is under way it may be so for a moment. */
export function xenProblems({ store, domains, devices, heldBy }: Seen): string[] {
  const live = [...domains];
  const present = new Map([...devices()].map((device) => [`${String(device.bus)}-${device.port}`, device]));
  const owners = new Map<string, string>();
  const problems: string[] = [];
  for (const domain of live) {
    const objects = (domain.model?.alive() === true ? (domain.model.qemu?.objects() ?? []) : []).filter(
      ({ driver }) => driver === "usb-host",
    );
    for (const object of objects) {
      const busid = heldBy(domain, object);
      if (busid === null) continue;
      const other = owners.get(busid);
      if (other !== undefined) problems.push(`${busid} is held by ${other} and by ${domain.name}`);
      owners.set(busid, domain.name);
    }
    for (const controller of listControllers(store, domain.domid))
      problems.push(...wrongPorts(store, domain, controller, objects, present));
  }
  const ids = new Set(live.map(({ domid }) => domid));
  for (const [dir, what] of [
    ["/local/domain", "a domain's tree"],
    ["/libxl", "libxl's tree"],
    ["/local/domain/0/device-model", "a device model's tree"],
    ["/local/domain/0/backend/qusb", "qusb backends"],
    ["/local/domain/0/backend/vusb", "vusb backends"],
  ] as const) {
    for (const name of store.list(dir)) {
      if (/^[1-9]\d*$/.test(name) && !ids.has(Number(name))) problems.push(`${dir}/${name}: ${what} without the domain`);
    }
  }
  return problems;
}

function wrongPorts(
  store: StoreNodes,
  { domid, name }: XenDomain,
  controller: Controller,
  objects: readonly SimObject[],
  present: ReadonlyMap<string, SimHostDevice>,
): string[] {
  const { devid, type, ports } = controller;
  if (type === "pv") return [];
  const bus = `${type === "qusb" ? "xen-qusb" : "xenusb"}-${String(devid)}.0`;
  return Array.from({ length: ports }, (_, n) => n + 1).flatMap((port) => {
    const path = `${portsPath(domid, controller)}/${String(port)}`;
    const busid = store.read(path) ?? "";
    const object = objects.find((one) => one.bus === bus && one.port === String(port));
    if (busid === "") return object === undefined ? [] : [`${path} is empty, but ${name} has ${object.path} there`];
    const device = present.get(busid);
    if (device === undefined) return [`${path} holds ${busid}, which is not on the host`];
    if (object === undefined) return [`${path} holds ${busid}, but ${name} has nothing there`];
    const right =
      type === "qusb"
        ? `${String(object.hostbus)}-${object.hostport}` === busid
        : object.hostbus === device.bus && object.hostaddr === device.address;
    return right ? [] : [`${path} holds ${busid}, but ${object.path} is something else`];
  });
}

/** Marks of plugherd whose record says otherwise: they count for nothing, but are somebody's to clear. */
export function strayMarks(store: StoreNodes, { domid }: XenDomain): string[] {
  const root = `/libxl/${String(domid)}/plugherd`;
  const controllers = listControllers(store, domid);
  return store.list(root).flatMap((devid) =>
    store.list(`${root}/${devid}`).flatMap((port) => {
      const [busid = ""] = (store.read(`${root}/${devid}/${port}`) ?? "").split(" ");
      const controller = controllers.find((one) => one.devid === Number(devid));
      const record = controller === undefined ? null : store.read(`${portsPath(domid, controller)}/${port}`);
      return record === busid ? [] : [`${root}/${devid}/${port} marks ${busid}, but the record holds ${record ?? "nothing"}`];
    }),
  );
}
