/**
 * The Xen half of the simulated host: a xenstored, an xl, device models, guests, and the hypervisor's own list of domains, all on the one
 * truth of what is plugged in. Source: recordings of a real Xen host (specs/transcripts/xen).
 */
import { mkdirSync, rmSync, symlinkSync } from "node:fs";
import { dirname, join } from "node:path";
import { createPending } from "./pending.ts";
import type { FakeQemu, SimDelays, SimHostDevice } from "./qmp-server.ts";
import { createUsbDrivers, type UsbDrivers } from "./usb-drivers.ts";
import { createUsbback } from "./usbback.ts";
import type { Told } from "./xen-backend.ts";
import { createDeviceModel, createTraditionalModel, realXenDelays, type XenDelays } from "./xen-device-model.ts";
import { bootControllers, hasModel, readJson, type XenDomain, type XenSpec, writeJson } from "./xen-domain.ts";
import { createFrontend, type FrontendWay } from "./xen-frontend.ts";
import { domidOf, strayMarks, watchDeadWrites, xenProblems } from "./xen-problems.ts";
import { connectLocally } from "./xenstore-local.ts";
import { createFakeXenstored, type FakeXenstored } from "./xenstored.ts";
import type { StoreWrite } from "./xenstore-core.ts";
import { walk } from "./xenstore-tree.ts";
import { createXl, type Xl } from "./xl.ts";
import { usbListText } from "./xl-list.ts";
import { domainPath } from "./xl-nodes.ts";
import { createXlProgram } from "./xl-program.ts";
import { createLibxlQmp } from "./xl-qmp.ts";
import { createXlUsb, type DeviceWish } from "./xl-usb.ts";
import { createUsbbackBinding } from "./xl-usbback.ts";

export type XenHostOptions = {
  /** Whose ways the xenstored has. */
  readonly daemon: "c" | "ocaml";
  /** The kernel has usbback. */
  readonly usbback: boolean;
  readonly paths: {
    readonly xenstore: string;
    readonly xenLib: string;
    readonly xl: string;
    readonly proc: string;
    readonly sysfs: string;
    readonly qmpDir: string;
  };
  /** For the monitors of device models. */
  readonly run: string;
  /** xl takes a lock while it talks QMP, as libxl does. */
  readonly locks: boolean;
  readonly delays: Partial<XenDelays & SimDelays>;
  /** What is plugged in, as this domain's device model finds it. */
  readonly devicesFor: (name: string) => Iterable<SimHostDevice>;
  readonly devices: () => Iterable<SimHostDevice>;
  readonly isHub: (busid: string) => boolean;
  /** A domain begins, has another device model (null: none), another name, ends. */
  readonly onDomain: {
    begins(spec: XenSpec): void;
    has(name: string, qemu: FakeQemu | null): void;
    renamed(from: string, to: string): void;
    ends(name: string): void;
  };
};

export type SimXen = {
  readonly store: FakeXenstored;
  readonly xl: Xl;
  /** Each command that xl sent over QMP, without its end. */
  readonly xlQmp: readonly string[];
  /** Monitors of a domain that others than libxl use. */
  openMonitors(name: string): readonly string[];
  start(): Promise<void>;
  /** `path = "value"   (permissions)`, sorted. */
  dump(): readonly string[];
  /** Every change in its order, and who made it: `socket` is whoever came over the wire. */
  readonly writes: readonly StoreWrite[];
  domid(name: string): number;
  addressOf(busid: string): DeviceWish;
  /** What must never be so (see xen-problems.ts): what is so now, and writes of the past into trees of domains that were not there. */
  problems(): readonly string[];
  /** Marks of plugherd that no longer fit their record. */
  strayMarks(): readonly string[];
  /** The kernel's backend comes into the kernel, or is taken out. */
  usbback(loaded: boolean): void;
  /** Writes over the wire below a domain's nodes, from the write of this number on. */
  wiredWrites(name: string, from: number): readonly StoreWrite[];
  /** A device that is plugged in gets drivers for its interfaces. */
  readonly drivers: UsbDrivers;
  usbList(name: string): string;
  frontend(name: string, does: FrontendWay): void;
  /** Busids of what the guest's system really has by PV USB, sorted. */
  guestSees(name: string): readonly string[];
  /** Of what it has what no object of a device model shows: from the kernel's backend, or in qemu-traditional. */
  heldElsewhere(name: string): readonly string[];
  /** The busid behind an object of a `qusb` controller; null: the guest has nothing there, whatever the object says. */
  toldOf(name: string, objectId: string): string | null;
  /** Ends with everything lost, and comes back empty. */
  restartStore(): Promise<void>;
  stopStore(): Promise<void>;
  startStore(): Promise<void>;
  close(): Promise<void>;
};

/** The first process id that a device model has. */
const FIRST_PID = 1001;

export function createSimXen(options: XenHostOptions): SimXen {
  const { paths, run, devices } = options;
  const delays = { ...realXenDelays, ...options.delays };
  const pending = createPending();
  for (const dir of [dirname(paths.xenstore), paths.xenLib, run]) mkdirSync(dir, { recursive: true });
  // The locks of xl are real ones.
  symlinkSync("/proc/locks", join(paths.proc, "locks"));
  const program = createXlProgram(paths.xl);
  const store = createFakeXenstored({ path: paths.xenstore, like: options.daemon });
  const toolstack = connectLocally(store.core, "xl", 0);
  const xlQmp: string[] = [];
  let pids = FIRST_PID;

  const busidOf = ({ bus, port }: SimHostDevice): string => `${String(bus)}-${port}`;
  const at = (busid: string): SimHostDevice | null => [...devices()].find((device) => busidOf(device) === busid) ?? null;
  const addressOf = (busid: string): { bus: number; address: number } | null => at(busid);
  const busidToAddress = (busid: string): DeviceWish | null => {
    const found = at(busid);
    return found === null ? null : { hostbus: found.bus, hostaddr: found.address };
  };
  const socketOf = (domid: number): string => join(run, `qmp-libxl-${String(domid)}`);

  const drivers = createUsbDrivers(paths.sysfs);
  const kernel = createUsbback({ store: connectLocally(store.core, "usbback", 0), drivers, pending, lookMs: delays.lookMs });
  if (options.usbback) kernel.load();
  const usbback = createUsbbackBinding(paths.sysfs, toolstack, async (file) => {
    while (!drivers.taken(file)) await pending.wait(delays.lookMs);
  });
  const usb = createXlUsb({
    store: toolstack,
    delays,
    step: () => pending.wait(delays.stepMs),
    wait: pending.wait,
    addressOf,
    busidAt(bus, address) {
      const found = [...devices()].find((device) => device.bus === bus && device.address === address);
      return found === undefined ? null : busidOf(found);
    },
    isHub: options.isHub,
    usbback,
    remember({ jsonFile }, key, entry) {
      const json = readJson(jsonFile);
      if (json !== null) writeJson(jsonFile, { ...json, [key]: [...(json[key] ?? []), entry] });
    },
  });
  const xl: Xl = createXl({
    store: toolstack,
    usb,
    xenLib: paths.xenLib,
    delays,
    wait: pending.wait,
    busidToAddress,
    usbback: usbback.loaded,
    qmpOf: (domid, uuid) =>
      createLibxlQmp({
        socket: socketOf(domid),
        lockFile: options.locks ? join(paths.xenLib, `userdata-l.${String(domid)}.${uuid}.qmp-socket-lock`) : null,
        timeoutMs: delays.qmpMs,
        pending,
        onLine: (line) => void xlQmp.push(line),
      }),
    host: {
      begin: ({ spec }) => options.onDomain.begins(spec),
      needsModel: (spec) => hasModel(spec, usbback.loaded()),
      async spawnModel(domain, restored) {
        const { spec, domid, type } = domain;
        const pid = pids;
        pids += 1;
        const { devices: cold, words } = bootControllers(spec);
        const create = spec.traditional === true ? createTraditionalModel : createDeviceModel;
        const model = create({
          domid,
          name: spec.name,
          type,
          pid,
          run,
          proc: paths.proc,
          stub: domain.stub?.domid ?? null,
          monitor: spec.monitor === true ? join(paths.qmpDir, `${spec.name}.sock`) : null,
          version: spec.version ?? "7.2.22",
          memoryMb: spec.memory ?? 256,
          devices: cold,
          deviceArguments: words,
          restored,
          hostDevices: () => options.devicesFor(domain.name),
          delays,
          pending,
        });
        domain.model = model;
        toolstack.write(pidPath(domain), String(pid));
        options.onDomain.has(domain.name, model.qemu);
        await model.start(connectLocally(store.core, `qemu:${String(domid)}`, 0));
      },
      async killModel(domain) {
        await domain.model?.end("kill");
        for (const kind of ["libxl", "libxenstat"]) rmSync(join(run, `qmp-${kind}-${String(domain.domid)}`), { force: true });
        options.onDomain.has(domain.name, null);
      },
      boot,
      end(domain) {
        domain.frontend?.stop();
        for (const end of domain.ends.splice(0)) end();
        options.onDomain.ends(domain.name);
      },
      renamed: (domain, from) => options.onDomain.renamed(from, domain.name),
      changed: (domain, gone) => (gone ? program.hide(domain.domid) : show(domain)),
      introduce: store.introduce,
      release: (domid) => {
        if (store.core.knows(domid)) store.release(domid);
      },
      tellRelease: store.core.tellRelease,
    },
  });

  function pidPath({ domid, stub, spec }: XenDomain): string {
    if (stub !== null) return `${domainPath(stub.domid)}/image/qmp-proxy-pid`;
    return `${domainPath(domid)}/${spec.foreign === true ? "qemu-pid" : "image/device-model-pid"}`;
  }
  function boot(domain: XenDomain): void {
    if (domain.paused || domain.frontend !== null) return;
    const { domid, spec } = domain;
    const own = connectLocally(store.core, `guest:${String(domid)}`, domid);
    for (const feature of ["poweroff", "reboot", "suspend"]) {
      const path = `${domainPath(domid)}/control/feature-${feature}`;
      if (own.exists(path)) own.write(path, "1");
    }
    const runs = (): boolean => !domain.paused && domain.shutdown === null && !domain.dying;
    const way = spec.frontend ?? "connects";
    domain.frontend = createFrontend({ store: own, domid, way, pending, lookMs: delays.lookMs, runs });
    domain.ends.push(() => own.close());
  }
  const show = (domain: XenDomain): void =>
    program.show({ ...domain, memoryMb: domain.spec.memory ?? 256 }, toolstack.read(`${domainPath(domain.domid)}/name`));
  const seed = (): void => {
    toolstack.write("/local/domain/0/name", "Domain-0");
    toolstack.write("/local/domain/0/domid", "0");
  };

  seed();

  const deadWrites = watchDeadWrites(store.core, toolstack);
  const toldOf = (domain: XenDomain, objectId: string): string | null => {
    const id = ({ controller, port }: Told): string => `xen-qusb-${String(controller)}-${String(port)}`;
    const found = (domain.model?.qusb()?.told() ?? []).find((one) => id(one) === objectId);
    return found !== undefined && at(found.busid)?.address === found.address ? found.busid : null;
  };
  const told = (name: string) => xl.domain(name).model?.qusb()?.told() ?? [];
  const startStore = async (): Promise<void> => {
    await store.start();
    program.allow(true);
  };
  return {
    store,
    xl,
    xlQmp,
    start: startStore,
    dump: () =>
      [...walk("/", store.core.root())]
        .slice(1)
        .map(([path, { value, permissions }]) => `${path} = "${new TextDecoder().decode(value)}"   (${permissions.join(",")})`)
        .sort(),
    writes: store.core.writeLog,
    usbList: (name) => usbListText(toolstack, xl.domain(name).domid, addressOf),
    frontend(name, does) {
      const { frontend } = xl.domain(name);
      if (frontend === null) throw new Error(`${name} does not run on the simulated host`);
      frontend.does(does);
    },
    guestSees(name) {
      const connected = xl.domain(name).model?.qusb()?.connected() ?? new Set();
      return told(name)
        .filter(({ controller, busid, address }) => connected.has(controller) && at(busid)?.address === address)
        .map(({ busid }) => busid)
        .concat(kernel.sees(xl.domain(name).domid))
        .sort();
    },
    toldOf: (name, objectId) => toldOf(xl.domain(name), objectId),
    heldElsewhere: (name) => [...kernel.sees(xl.domain(name).domid), ...(xl.domain(name).model?.legacy() ?? [])],
    openMonitors: (name) => {
      const { domid, spec } = xl.domain(name);
      const own = spec.monitor === true ? [join(paths.qmpDir, `${spec.name}.sock`)] : [];
      return [join(run, `qmp-libxenstat-${String(domid)}`), ...own];
    },
    domid: (name) => xl.domain(name).domid,
    addressOf(busid) {
      const found = busidToAddress(busid);
      if (found === null) throw new Error(`nothing is plugged in at ${busid} of the simulated host`);
      return found;
    },
    problems: () => [
      ...xenProblems({
        store: toolstack,
        domains: xl.domains.values(),
        devices,
        heldBy: (domain, { id, hostbus, hostaddr }) =>
          id?.startsWith("xen-qusb-") === true
            ? toldOf(domain, id)
            : ([...devices()].filter(({ bus, address }) => bus === hostbus && address === hostaddr).map(busidOf)[0] ?? null),
      }),
      ...deadWrites,
    ],
    strayMarks: () => [...xl.domains.values()].flatMap((domain) => strayMarks(toolstack, domain)),
    usbback: (loaded) => (loaded ? kernel.load() : kernel.unload()),
    drivers,
    wiredWrites(name, from) {
      const { domid } = xl.domain(name);
      return store.core.writeLog.slice(from).filter(({ who, path }) => who === "socket" && domidOf(path) === domid);
    },
    async restartStore() {
      await store.kill();
      await store.start();
      for (const domain of xl.domains.values()) show(domain);
    },
    async stopStore() {
      program.allow(false);
      await store.stop();
    },
    startStore,
    async close() {
      pending.end();
      drivers.close();
      await Promise.all([...xl.domains.values()].map(({ model }) => model?.end("stop")));
      await store.stop();
    },
  };
}
