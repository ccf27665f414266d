/** The simulated host in a process of its own: everything in place from the start, then plugged and unplugged at a pace. */
import { mkdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { controllerId, deviceId } from "../../src/model/action.ts";
import { createFakeQemu, type DeviceArgs, type FakeQemu, type SimHostDevice } from "../../src/sim/qmp-server.ts";
import { createSysfsTree, type Plugged } from "../../src/sim/sysfs-tree.ts";
import { answer, nowMs, sleep } from "./child.ts";
import { busesOf, busidOf, CONTROLLER, DEVICES_A_BUS, domainName, PORTS, serialOf, type Size, specOf } from "./fleet.ts";

/** Where a claim's device is plugged in, and since when; away: null. */
type Claim = { readonly domain: number; plugged: Plugged | null; movedAt: number; seen: boolean };
/** One plug: `node` made at `at`, device_add's bytes at QEMU `tookMs` later; null: never. */
export type PlugTime = { readonly node: string; readonly at: number; readonly tookMs: number | null };
export type Pace = {
  readonly seconds: number;
  /** Plugs and unplugs together. */
  readonly eventsPerSecond: number;
  readonly seed: number;
  /** How long to wait in the end for what is still to be attached. */
  readonly patienceSeconds: number;
};
export type PaceReport = { readonly plugs: readonly PlugTime[]; readonly events: number; readonly seconds: number };

/** One claim is not plugged more often than that, or it would be Flapping. */
const PACE_MS = 1_200;
/** A device that was unplugged stays away this long at least. */
const AWAY_MS = 150;

let size: Size = { domains: 0, devices: 0 };
let tree: ReturnType<typeof createSysfsTree> | null = null;
const qemus: FakeQemu[] = [];
const claims: Claim[] = [];
const pending = new Map<string, (at: number) => void>();

const specFor = (device: number): Parameters<ReturnType<typeof createSysfsTree>["plug"]>[0] => ({
  port: busidOf(device),
  vendor: "0529",
  product: "0001",
  serial: serialOf(device),
  manufacturer: "Aladdin",
  productName: "HASP HL",
  speed: 12,
  // The node is the last thing made before the clock is read; `descriptors` has the interfaces by then, their directories follow.
  interfacesLater: "step",
});
const running = (): ReturnType<typeof createSysfsTree> => {
  if (tree === null) throw new Error("no host was made");
  return tree;
};
/** What one domain's QEMU can find: its own devices, so that a thousand fake QEMUs do not each search ten thousand. */
function* devicesFor(domain: number): Generator<SimHostDevice> {
  for (let device = domain * size.devices; device < (domain + 1) * size.devices; device += 1) {
    const plugged = claims[device]?.plugged;
    if (plugged == null) continue;
    const { bus, address, node } = plugged;
    yield { bus, address, port: busidOf(device).split("-")[1] ?? "", vendor: "0529", product: "0001", speed: 2, node, openable: true };
  }
}
const argsOf = (device: number, port: number): DeviceArgs => {
  const plugged = claims[device]?.plugged;
  if (plugged == null) throw new Error(`${busidOf(device)} is not plugged in`);
  const { bus, address, node } = plugged;
  const id = deviceId({ bus, address, inode: statSync(node).ino });
  return { driver: "usb-host", id, bus: `${controllerId(CONTROLLER)}.0`, port: String(port), hostbus: bus, hostaddr: address };
};
const onRequest = (request: unknown): void => {
  const at = nowMs();
  if (typeof request !== "object" || request === null || !("execute" in request) || request.execute !== "device_add") return;
  const { arguments: args } = request as unknown as { arguments: DeviceArgs };
  pending.get(`${String(args["hostbus"])}.${String(args["hostaddr"])}`)?.(at);
};

/** Everything that the files want is plugged in and already in place. */
async function make({ root, ...wanted }: Size & { readonly root: string }): Promise<void> {
  size = wanted;
  mkdirSync(join(root, "specs"), { recursive: true });
  mkdirSync(join(root, "qmp"), { recursive: true });
  const controllers = Array.from({ length: busesOf(size) }, (_, n) => ({
    path: `pci0000:${n.toString(16).padStart(2, "0")}/0000:${n.toString(16).padStart(2, "0")}:14.0`,
    ports2: DEVICES_A_BUS,
    ports3: 0,
  }));
  tree = createSysfsTree(join(root, "host"), { controllers, detail: "lean" });
  for (let domain = 0; domain < size.domains; domain += 1) {
    const first = domain * size.devices;
    for (let device = first; device < first + size.devices; device += 1) {
      claims.push({ domain, plugged: tree.plug(specFor(device)), movedAt: 0, seen: true });
      tree.finish(busidOf(device));
    }
    const qemu = createFakeQemu({
      name: domainName(domain),
      path: join(root, "qmp", `${domainName(domain)}.sock`),
      hostDevices: () => devicesFor(domain),
      onRequest,
      devices: [
        { driver: "qemu-xhci", id: controllerId(CONTROLLER), p2: PORTS, p3: PORTS },
        ...Array.from({ length: size.devices }, (_, n) => argsOf(first + n, n + 1)),
      ],
    });
    await qemu.start();
    qemus.push(qemu);
    writeFileSync(join(root, "specs", `${domainName(domain)}.yaml`), specOf(domain, size));
  }
  // A monitor that the daemon does not know, for the floor.
  await createFakeQemu({ name: "floor", path: join(root, "floor.sock") }).start();
}

/** Commands that changed something since the host was made. */
const mutations = (): number => qemus.reduce((sum, { mutationLog }) => sum + mutationLog.length, 0);

/** Claims whose device is not in its domain exactly as it is plugged in now; empty: all is right. */
function wrong(): string[] {
  return qemus.flatMap((qemu, domain) => {
    const has = qemu
      .objects()
      .flatMap(({ driver, hostbus, hostaddr, attached }) =>
        driver === "usb-host" ? [`${String(hostbus)}.${String(hostaddr)}${attached ? "" : " dead"}`] : [],
      );
    const wants = [...devicesFor(domain)].map(({ bus, address }) => `${String(bus)}.${String(address)}`);
    const [got, want] = [has.sort().join(" "), wants.sort().join(" ")];
    return got === want ? [] : [`${domainName(domain)} has ${got}, wants ${want}`];
  });
}

const unplug = (device: number, claim: Claim): void => {
  running().unplug(busidOf(device));
  claim.plugged = null;
  claim.movedAt = nowMs();
};
function plug(device: number, claim: Claim, plugs: PlugTime[]): void {
  claim.plugged = running().plug(specFor(device));
  const at = nowMs();
  const { bus, address, node } = claim.plugged;
  claim.movedAt = at;
  claim.seen = false;
  const key = `${String(bus)}.${String(address)}`;
  const n = plugs.push({ node, at, tookMs: null }) - 1;
  pending.set(key, (received) => {
    pending.delete(key);
    plugs[n] = { node, at, tookMs: received - at };
    claim.seen = true;
  });
  running().finish(busidOf(device));
}

/** Unplugs claims at random and plugs them in again, evenly mixed, a random moment apart. Ends with everything plugged in. */
async function replug({ seconds, eventsPerSecond, seed, patienceSeconds }: Pace): Promise<PaceReport> {
  const random = seeded(seed);
  const plugs: PlugTime[] = [];
  const away: number[] = [];
  const begin = nowMs();
  let events = 0;
  const unplugOne = (): boolean => {
    for (let tries = 0; tries < 50; tries += 1) {
      const device = Math.floor(random() * claims.length);
      const claim = claims[device];
      if (claim?.plugged == null || !claim.seen || nowMs() - claim.movedAt < PACE_MS) continue;
      unplug(device, claim);
      away.push(device);
      return true;
    }
    return false;
  };
  const plugOne = (leastMs: number): boolean => {
    const [device = -1] = away;
    const claim = claims[device];
    if (claim === undefined || nowMs() - claim.movedAt < leastMs) return false;
    away.shift();
    plug(device, claim, plugs);
    return true;
  };
  let due = begin;
  while (due < begin + seconds * 1e3) {
    const early = due - nowMs();
    if (early > 0) await sleep(early);
    // Sockets are read between any two events.
    else await new Promise((resolve) => setImmediate(resolve));
    if (plugOne(AWAY_MS) || unplugOne()) events += 1;
    due += (2 * random() * 1e3) / eventsPerSecond;
  }
  const took = (nowMs() - begin) / 1e3;
  while (away.length > 0) {
    plugOne(AWAY_MS);
    await sleep(2);
  }
  const end = nowMs() + patienceSeconds * 1e3;
  while (pending.size > 0 && nowMs() < end) await sleep(10);
  pending.clear();
  return { plugs, events, seconds: took };
}

/** mulberry32: the same run for the same seed. */
function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const handlers = {
  make,
  mutations: (_: null): number => mutations(),
  wrong: (_: null): string[] => wrong(),
  replug,
};
export type HostHandlers = typeof handlers;
answer(handlers);
