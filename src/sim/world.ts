/**
 * The simulated host as a whole: a sysfs and device tree, fake QEMUs on real sockets, the files a person writes. One truth: what a QEMU
 * can find and open is what is plugged into the tree at that moment. Nothing happens by itself here but what the fake QEMUs do.
 */
import { mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { deviceSpecOf } from "./gadgets.ts";
import { createFakeQemu, type DeviceArgs, type FakeQemu, type Mutation, type SimDelays, type SimHostDevice } from "./qmp-server.ts";
import type { DeviceSpec, DomainSpec, Given } from "./scenario-file.ts";
import { createSpecsTree, type SpecsTree } from "./specs-tree.ts";
import type { Detail, SimDeviceSpec } from "./sysfs-spec.ts";
import { type ControllerSpec, createSysfsTree } from "./sysfs-tree.ts";
import { drivenFaces, withDrivers } from "./usb-drivers.ts";
import { createSimXen, type SimXen } from "./xen.ts";
import type { XenDelays } from "./xen-device-model.ts";
import type { XenSpec } from "./xen-domain.ts";

export type SimHostOptions = {
  /** An empty or missing directory; left out: a temporary one. Sockets lie in it: keep its path below some 70 characters. */
  readonly root?: string;
  readonly given?: Given;
  /** Of every fake QEMU and of the Xen half, ms; see SimDelays and XenDelays. */
  readonly delays?: Partial<SimDelays & XenDelays>;
  /** false: xl takes no lock while it talks QMP; for hosts of thousands of domains. */
  readonly xlLocks?: boolean;
  /** How much of sysfs there is; see createSysfsTree. */
  readonly detail?: Detail;
};

/** Buses 1 (USB 2) and 2 (USB 3) are the two sides of 15 sockets; bus 3 has 6 sockets of USB 2. */
const CONTROLLERS: readonly ControllerSpec[] = [
  { path: "pci0000:00/0000:00:14.0", ports2: 15, ports3: 15 },
  { path: "pci0000:00/0000:00:1d.0", ports2: 6, ports3: 0 },
];

/** Where things are, as the daemon's configuration names them. */
export type SimPaths = {
  readonly specs: string;
  readonly policy: string;
  readonly qmpDir: string;
  readonly qmpListen: string;
  readonly sysfs: string;
  readonly dev: string;
  readonly proc: string;
  readonly state: string;
  /** xenstored's socket; missing on a host that is not Xen's. */
  readonly xenstore: string;
  /** Where libxl keeps its files and locks. */
  readonly xenLib: string;
  /** The program, of which only `list` and `list -v` are there. */
  readonly xl: string;
};

/** A usb-host object in a domain. `holds`: busid of the plugged device behind it; null: it is dead. */
export type HeldObject = {
  readonly id: string | null;
  readonly path: string;
  readonly hostbus: number;
  readonly hostaddr: number;
  readonly bus: string;
  readonly port: string | null;
  readonly holds: string | null;
};

export type SimHost = {
  readonly root: string;
  /** null: the host is none of Xen's. */
  readonly xen: SimXen | null;
  readonly paths: SimPaths;
  readonly files: SpecsTree;
  plug(spec: DeviceSpec): void;
  /** A hub takes with it what hangs on it. */
  unplug(busid: string): void;
  /** Out and in again, into the same port or another; what it is stays. */
  replug(busid: string, to?: string): void;
  /** Out and in again at its port, perhaps as something else. */
  reenumerate(busid: string, as: Partial<DeviceSpec>): void;
  plugged(): readonly string[];
  /** Whether a QEMU may open what is plugged in there, now and later. */
  setOpenable(busid: string, openable: boolean): void;
  mount(busid: string): void;
  unmount(busid: string): void;
  route(busid: string): void;
  startDomain(spec: DomainSpec): Promise<void>;
  /** Of a Xen domain: its device model alone. */
  killDomain(name: string): Promise<void>;
  /** Of a Xen domain: xl destroys it. */
  quitDomain(name: string): Promise<void>;
  /** Killed and started as it was at its start. Of a Xen domain: xl reboots it. */
  restartDomain(name: string): Promise<void>;
  /** Another client takes the slot of its monitor; of a Xen domain: of all but libxl's. */
  holdMonitor(name: string): void;
  releaseMonitor(name: string): void;
  /** The device is pulled in the moment in which this domain's QEMU looks for it. */
  leaveDuring(name: string, busid: string): void;
  detachByHand(name: string, busid: string): void;
  attachByHand(name: string, busid: string, id?: string): void;
  /** null: no policy file. */
  setPolicy(text: string | null): void;
  /** A running domain's QEMU: faults, run state, monitor. */
  qemu(name: string): FakeQemu;
  /** Running ones. */
  domainNames(): readonly string[];
  objects(name: string): readonly HeldObject[];
  /** Busids of what a domain really has, by its device model or the kernel's backend. */
  held(name: string): readonly string[];
  /** What plugherd had changed in the domain since the last mark, in its nodes of xenstore too; a domain's end forgets. */
  mutations(name: string): readonly Mutation[];
  mark(): void;
  /** Ends every QEMU and removes the root. */
  close(): Promise<void>;
};

/** qemu is null while there is none: a Xen domain begins without, and some never have one. */
type Running = { readonly spec: DomainSpec; qemu: FakeQemu | null; mark: number; writes: number; leaving: string | null };

export async function createSimHost(options: SimHostOptions = {}): Promise<SimHost> {
  const { given = {} } = options;
  const root = options.root ?? mkdtempSync(join(tmpdir(), "plugherd-"));
  const tree = createSysfsTree(join(root, "host"), {
    controllers: CONTROLLERS,
    ...(options.detail === undefined ? {} : { detail: options.detail }),
  });
  const paths: SimPaths = {
    specs: join(root, "specs"),
    policy: join(root, "policy.yaml"),
    qmpDir: join(root, "qmp"),
    qmpListen: join(root, "run", "monitor.sock"),
    sysfs: tree.sysfs,
    dev: tree.dev,
    proc: tree.proc,
    state: join(root, "state"),
    xenstore: join(root, "run", "xenstored", "socket"),
    xenLib: join(root, "xen"),
    xl: join(root, "bin", "xl"),
  };
  mkdirSync(paths.qmpDir, { recursive: true });
  const files = createSpecsTree(paths.specs, join(root, "room"), given.tree ?? "directory", given.files ?? {});
  const domains = new Map<string, Running>();
  /** What is plugged in, by busid: as it was said to be. */
  const specs = new Map<string, { readonly said: DeviceSpec; readonly full: SimDeviceSpec }>();
  let count = 0;

  const running = (name: string): Running => {
    const found = domains.get(name);
    if (found === undefined) throw new Error(`no domain ${name} runs on the simulated host`);
    return found;
  };
  const qemuOf = (name: string): FakeQemu => {
    const { qemu } = running(name);
    if (qemu === null) throw new Error(`domain ${name} of the simulated host has no device model`);
    return qemu;
  };
  const pluggedAt = (busid: string): { readonly said: DeviceSpec; readonly full: SimDeviceSpec } => {
    const found = specs.get(busid);
    if (found === undefined) throw new Error(`nothing is plugged in at ${busid} of the simulated host`);
    return found;
  };

  const hostDevices = function* (name: string): Generator<SimHostDevice> {
    const domain = domains.get(name);
    if (domain?.leaving != null && specs.has(domain.leaving)) {
      const { leaving } = domain;
      domain.leaving = null;
      host.unplug(leaving);
    }
    yield* tree.devices();
  };
  const deviceAt = (is: (device: SimHostDevice) => boolean): SimHostDevice | undefined => [...tree.devices()].find(is);
  const busidOf = ({ bus, port }: SimHostDevice): string => `${String(bus)}-${port}`;
  const busidAt = (bus: number, address: number): string | null => {
    const found = deviceAt((device) => device.bus === bus && device.address === address);
    return found === undefined ? null : busidOf(found);
  };
  const addressOf = (busid: string): { readonly hostbus: number; readonly hostaddr: number } => {
    const found = deviceAt((device) => busidOf(device) === busid);
    if (found === undefined) throw new Error(`nothing is plugged in at ${busid} of the simulated host`);
    return { hostbus: found.bus, hostaddr: found.address };
  };
  const end = async (name: string, how: "kill" | "stop"): Promise<DomainSpec> => {
    const { qemu, spec } = running(name);
    domains.delete(name);
    await qemu?.[how]();
    return spec;
  };
  const xen =
    given.xen === undefined
      ? null
      : createSimXen({
          daemon: given.xen.daemon,
          usbback: given.xen.usbback === true,
          paths,
          run: join(root, "run", "xen"),
          locks: options.xlLocks ?? true,
          delays: options.delays ?? {},
          devicesFor: hostDevices,
          devices: tree.devices,
          isHub: (busid) => specs.get(busid)?.full.hub !== undefined,
          onDomain: {
            begins: (spec) => void domains.set(spec.name, { spec, qemu: null, mark: 0, writes: 0, leaving: null }),
            has(name, qemu) {
              const domain = domains.get(name);
              if (domain !== undefined) Object.assign(domain, { qemu, mark: 0 });
            },
            renamed(from, to) {
              const domain = domains.get(from);
              domains.delete(from);
              if (domain !== undefined) domains.set(to, domain);
            },
            ends: (name) => void domains.delete(name),
          },
        });
  const ofXen = (name: string): boolean => xen?.xl.domains.has(name) === true;
  /** Of Xen: a domain that has a type. */
  const xenDomain = (spec: DomainSpec): XenSpec | null => {
    const { type } = spec;
    if (type === undefined) return null;
    if (xen === null) throw new Error(`${spec.name} has a type, but the simulated host is none of Xen's`);
    return { ...spec, type };
  };

  const host: SimHost = {
    root,
    xen,
    paths,
    files,
    plug(spec) {
      count += 1;
      const plain = deviceSpecOf(spec, count);
      const full = xen === null ? plain : withDrivers(plain, xen.drivers);
      tree.plug(full);
      for (const [face, driver] of drivenFaces(spec.busid, full)) xen?.drivers.plugged(face, driver);
      specs.set(spec.busid, { said: spec, full });
    },
    unplug(busid) {
      pluggedAt(busid);
      tree.unplug(busid);
      for (const [gone, { full }] of specs) {
        if (gone !== busid && !gone.startsWith(`${busid}.`)) continue;
        specs.delete(gone);
        if (xen !== null) for (const [face] of drivenFaces(gone, full)) xen.drivers.unplugged(face);
      }
    },
    replug(busid, to = busid) {
      const { said } = pluggedAt(busid);
      host.unplug(busid);
      host.plug({ ...said, busid: to });
    },
    reenumerate(busid, as) {
      const { said } = pluggedAt(busid);
      host.unplug(busid);
      host.plug(as.kind === undefined ? { ...said, ...as, busid } : { ...as, kind: as.kind, busid });
    },
    plugged: () => [...specs.keys()],
    setOpenable: (busid, openable) => tree.setOpenable(busid, openable),
    mount(busid) {
      for (const name of partitionsOf(pluggedAt(busid).full)) tree.use.mount(name, `/media/${name}`);
    },
    unmount(busid) {
      for (const name of partitionsOf(pluggedAt(busid).full)) tree.use.release(name);
    },
    route(busid) {
      for (const { name } of pluggedAt(busid).full.net ?? []) tree.use.route(name);
    },
    async startDomain(spec) {
      const { name } = spec;
      const onXen = xenDomain(spec);
      if (xen !== null && onXen !== null) {
        const made = await xen.xl.create(onXen);
        if (!made.ok) throw new Error(`xl create ${name}: ${made.error}`);
        return;
      }
      if (domains.has(name)) throw new Error(`a domain ${name} runs already on the simulated host`);
      const qemu = createFakeQemu({
        ...(spec.nameless === true ? {} : { name }),
        ...(spec.uuid === undefined ? {} : { uuid: spec.uuid }),
        ...(spec.dialIn === true ? {} : { path: join(paths.qmpDir, `${name}.sock`) }),
        machine: spec.machine ?? "pc",
        version: spec.version ?? "7.2.22",
        running: spec.prelaunch !== true,
        devices: devicesOf(spec),
        hostDevices: () => hostDevices(name),
        ...(options.delays === undefined ? {} : { delays: options.delays }),
      });
      domains.set(name, { spec, qemu, mark: 0, writes: 0, leaving: null });
      await qemu.start();
      if (spec.dialIn === true) qemu.dialTo(paths.qmpListen);
    },
    async killDomain(name) {
      if (!ofXen(name)) return void (await end(name, "kill"));
      running(name).qemu = null;
      await xen?.xl.domain(name).model?.end("kill");
    },
    async quitDomain(name) {
      if (ofXen(name)) await xen?.xl.destroy(name);
      else await end(name, "stop");
    },
    async restartDomain(name) {
      if (!ofXen(name)) return host.startDomain(await end(name, "kill"));
      const made = await xen?.xl.reboot(name);
      if (made?.ok === false) throw new Error(`xl create ${name}: ${made.error}`);
    },
    holdMonitor(name) {
      const qemu = qemuOf(name);
      for (const path of ofXen(name) ? (xen?.openMonitors(name) ?? []) : [undefined]) {
        qemu.mute(true, path);
        qemu.disconnect(path);
      }
    },
    releaseMonitor: (name) => qemuOf(name).mute(false),
    leaveDuring(name, busid) {
      running(name).leaving = busid;
    },
    detachByHand(name, busid) {
      const object = host.objects(name).find(({ holds }) => holds === busid);
      if (object === undefined) throw new Error(`${name} does not hold ${busid}`);
      const done = qemuOf(name).removeByOther(object.id ?? object.path);
      if (!done.ok) throw new Error(done.error.desc);
    },
    attachByHand(name, busid, id) {
      const done = qemuOf(name).addByOther({ driver: "usb-host", ...(id === undefined ? {} : { id }), ...addressOf(busid) });
      if (!done.ok) throw new Error(done.error.desc);
    },
    setPolicy(text) {
      if (text === null) return rmSync(paths.policy, { force: true });
      writeFileSync(`${paths.policy}.next`, text);
      renameSync(`${paths.policy}.next`, paths.policy);
    },
    qemu: qemuOf,
    domainNames: () => [...domains.keys()],
    objects: (name) =>
      (running(name).qemu?.objects() ?? [])
        .filter(({ driver }) => driver === "usb-host")
        .map(({ id, path, hostbus, hostaddr, bus, port }) => ({
          id,
          path,
          hostbus,
          hostaddr,
          bus,
          port,
          holds: id?.startsWith("xen-qusb-") === true ? (xen?.toldOf(name, id) ?? null) : busidAt(hostbus, hostaddr),
        })),
    held: (name) => [...host.objects(name).flatMap(({ holds }) => holds ?? []), ...(ofXen(name) ? (xen?.heldElsewhere(name) ?? []) : [])],
    mutations(name) {
      const { mark } = running(name);
      return qemuOf(name)
        .mutationLog.slice(mark)
        .filter(({ by }) => by === "monitor");
    },
    mark() {
      for (const domain of domains.values())
        Object.assign(domain, { mark: domain.qemu?.mutationLog.length ?? 0, writes: xen?.writes.length ?? 0 });
    },
    async close() {
      await xen?.close();
      await Promise.all([...domains.keys()].map((name) => end(name, "stop")));
      rmSync(root, { recursive: true, force: true });
    },
  };

  if (given.policy !== undefined) host.setPolicy(given.policy);
  for (const spec of given.host ?? []) host.plug(spec);
  await xen?.start();
  for (const spec of given.domains ?? []) await host.startDomain(spec);
  return host;
}

const partitionsOf = (spec: SimDeviceSpec): string[] =>
  (spec.block ?? []).flatMap(({ partitions = [] }) => partitions.map(({ name }) => name));

const devicesOf = (spec: DomainSpec): DeviceArgs[] => [
  ...Array.from({ length: spec.rootPorts ?? 0 }, (_, n) => ({
    driver: "pcie-root-port",
    id: `rp${String(n)}`,
    bus: "pcie.0",
    chassis: n + 1,
  })),
  ...(spec.controllers ?? []).map(({ id, driver, ports }) => ({
    driver,
    id,
    ...(ports === undefined || !driver.endsWith("xhci") ? {} : { p2: ports, p3: ports }),
  })),
];
