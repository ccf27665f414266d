/**
 * A fake xl: domains come and go as libxl makes them, in its order. Source: recordings D, E, F, G (specs/transcripts/xen);
 * tools/libs/light: libxl_create.c, libxl_dom.c, libxl_domain.c; tools/xl: xl_vmcontrol.c, xl_migrate.c.
 */
import { randomUUID } from "node:crypto";
import { readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { err, ok } from "../model/result.ts";
import type { XenDelays } from "./xen-device-model.ts";
import { jsonFileOf, readJson, type XenDomain, type XenSpec, writeJson } from "./xen-domain.ts";
import type { LocalStore } from "./xenstore-local.ts";
import {
  backendPath,
  domainPath,
  forgetDevice,
  libxlPath,
  listControllers,
  modelPath,
  plainDevices,
  writeBuilt,
  writeConsole,
  writeDomain,
} from "./xl-nodes.ts";
import type { LibxlQmp, XlOutcome } from "./xl-qmp.ts";
import type { DeviceWish, XlHooks, XlUsb } from "./xl-usb.ts";

/** A creation's steps, before each of which somebody may look in: the domain's tree, its introduction, the device model's start, its being ready, controllers, devices, and the json file. */
export type CreateStep = "nodes" | "introduced" | "device-model" | "running" | "usbctrl" | "usbdev" | "json";
export type CreateOptions = {
  readonly at?: (step: CreateStep, domain: XenDomain) => Promise<unknown> | unknown;
  readonly uuid?: string;
  /** From a saved or migrated domain. */
  readonly restored?: boolean;
};
export type XlDeps = {
  readonly store: LocalStore;
  readonly usb: XlUsb;
  readonly xenLib: string;
  readonly delays: XenDelays;
  readonly wait: (ms: number) => Promise<void>;
  readonly busidToAddress: (busid: string) => DeviceWish | null;
  readonly usbback: () => boolean;
  readonly qmpOf: (domid: number, uuid: string) => LibxlQmp;
  /** What only the host can do: processes, the guest, the hypervisor's list. */
  readonly host: {
    begin(domain: XenDomain): void;
    spawnModel(domain: XenDomain, restored: boolean): Promise<void>;
    killModel(domain: XenDomain): Promise<void>;
    boot(domain: XenDomain): void;
    end(domain: XenDomain): void;
    needsModel(spec: XenSpec): boolean;
    renamed(domain: XenDomain, from: string): void;
    /** It is no longer as the hypervisor listed it. */
    changed(domain: XenDomain, gone: boolean): void;
    introduce(domid: number): void;
    release(domid: number): void;
    tellRelease(): void;
  };
};

export type Xl = ReturnType<typeof createXl>;

export function createXl({ store, usb, xenLib, delays, wait, busidToAddress, qmpOf, host }: XlDeps) {
  const domains = new Map<string, XenDomain>();
  const saved = new Map<string, { readonly spec: XenSpec; readonly uuid: string; readonly lost: boolean }>();
  let lastDomid = 0;

  const domain = (name: string): XenDomain => {
    const found = domains.get(name);
    if (found === undefined) throw new Error(`${name} is an invalid domain identifier`);
    return found;
  };
  const step = (): Promise<void> => wait(delays.stepMs);
  const jsonOf = ({ spec, name, uuid, domid, type }: XenDomain) => ({
    c_info: { type, name, uuid },
    usbctrls: listControllers(store, domid),
    usbdevs: (spec.usbdev ?? []).map(({ busid, ...place }) => ({ ...busidToAddress(busid), ...place })),
  });
  const newDomain = (spec: XenSpec, uuid: string): XenDomain => {
    lastDomid += 1;
    const domid = lastDomid;
    const made: XenDomain = {
      spec,
      domid,
      uuid,
      type: spec.type,
      name: spec.name,
      paused: true,
      shutdown: null,
      dying: false,
      model: null,
      stub: null,
      frontend: null,
      usb: {
        domid,
        type: spec.type,
        qmp: qmpOf(domid, uuid),
        jsonFile: jsonFileOf(xenLib, domid, uuid),
        resting: () => made.paused || made.dying || made.shutdown !== null,
      },
      ends: [],
    };
    return made;
  };

  const build = async (made: XenDomain, { at, restored = false }: CreateOptions): Promise<XlOutcome> => {
    const { spec, domid } = made;
    const reach = async (name: CreateStep): Promise<void> => {
      await step();
      await at?.(name, made);
    };
    const version = spec.traditional === true ? "qemu_xen_traditional" : "qemu_xen";
    await reach("nodes");
    writeDomain(store, made, version);
    await reach("introduced");
    writeBuilt(store, made, version, spec.memory ?? 256);
    if (spec.foreign === true) store.remove(libxlPath(domid));
    host.introduce(domid);
    if (spec.foreign !== true) writeConsole(store, made);
    await reach("device-model");
    if (host.needsModel(spec)) {
      if (spec.stubdom !== true) store.mkdir(modelPath(domid));
      if (spec.stubdom === true) made.stub = createStub(made);
      await host.spawnModel(made, restored);
      const asked = made.model?.qemu == null ? ok(null) : await made.usb.qmp.execute("query-chardev");
      if (!asked.ok) return asked;
    }
    await reach("running");
    for (const [devid, wish] of (spec.usbctrl ?? []).entries()) {
      const added = await usb.attachController(made.usb, { ...wish, devid }, false);
      if (!added.ok) return added;
      await reach("usbctrl");
    }
    for (const { busid, ...place } of spec.usbdev ?? []) {
      const address = busidToAddress(busid);
      const added =
        address === null ? err("USB device is not assignable.") : await usb.attachDevice(made.usb, { ...address, ...place }, false);
      if (!added.ok) return added;
      await reach("usbdev");
    }
    await reach("json");
    if (spec.foreign !== true) writeJson(made.usb.jsonFile, jsonOf(made));
    if (spec.paused !== true) await unpause(made);
    host.changed(made, false);
    return ok(null);
  };
  /** Devices, trees, files, and at last the domain; QEMU dies first. */
  const tearDown = async (gone: XenDomain): Promise<void> => {
    const { domid, uuid } = gone;
    gone.paused = true;
    host.changed(gone, false);
    await step();
    store.remove(modelPath(domid));
    await host.killModel(gone);
    gone.dying = true;
    host.changed(gone, false);
    const [screen, ...others] = plainDevices(domid);
    if (screen !== undefined && store.exists(libxlPath(domid))) forgetDevice(store, screen);
    const bodged = others.filter((device) => store.exists(backendPath(device)));
    const controllers = listControllers(store, domid).filter(({ type }) => type !== "devicemodel");
    await Promise.all([
      ...controllers.map((controller) => usb.removeController(gone.usb, controller, true)),
      ...bodged.map(async (device) => {
        await wait(delays.bodgeMs);
        store.write(`${backendPath(device)}/state`, "6");
        await step();
        forgetDevice(store, device);
      }),
    ]);
    await step();
    for (const path of [`/vm/${uuid}`, domainPath(domid), libxlPath(domid)]) store.remove(path);
    host.changed(gone, false);
    for (const name of readdirSync(xenLib)) if (name.includes(`.${String(domid)}.${uuid}.`)) rmSync(join(xenLib, name), { force: true });
    await step();
    domains.delete(gone.name);
    host.end(gone);
    host.changed(gone, true);
    host.release(domid);
    if (gone.stub !== null) await tearDown(gone.stub);
  };
  /** The domain that another one's device model runs in; nothing of it is libxl's business but that it is there. */
  const createStub = (of: XenDomain): XenDomain => {
    const stub = newDomain({ name: `${of.name}-dm`, type: "pv", memory: 32 }, randomUUID());
    domains.set(stub.name, stub);
    writeDomain(store, stub, "qemu_xen");
    writeBuilt(store, stub, "qemu_xen", 32);
    store.write(`${domainPath(stub.domid)}/target`, String(of.domid));
    store.write(`${domainPath(of.domid)}/image/device-model-domid`, String(stub.domid));
    host.introduce(stub.domid);
    stub.paused = false;
    host.changed(stub, false);
    return stub;
  };
  const rename = (one: XenDomain, to: string): void => {
    const from = one.name;
    store.transaction((tx) => {
      tx.write(`${domainPath(one.domid)}/name`, to);
      tx.write(`/vm/${one.uuid}/name`, to);
      return true;
    });
    domains.delete(from);
    one.name = to;
    domains.set(to, one);
    host.renamed(one, from);
    host.changed(one, false);
  };
  /** What xl makes a domain of again: controllers that it knows itself; every hot-plugged device is lost on the way. */
  const remembered = ({ spec, usb: { jsonFile }, domid }: XenDomain): XenSpec => {
    const there = new Set(listControllers(store, domid).map(({ devid }) => devid));
    const known = (readJson(jsonFile)?.usbctrls ?? []).filter(({ devid }) => there.has(devid));
    const usbdev = (spec.usbdev ?? []).filter(({ controller, port }) => controller === undefined && port === undefined);
    return { ...spec, usbctrl: known.map(({ type, version, ports }) => ({ type, version, ports })), usbdev };
  };
  const tellModel = async ({ type, usb: { qmp }, model }: XenDomain, command: "stop" | "cont"): Promise<void> => {
    if (type === "hvm" && model?.alive() === true && model.qemu !== null) await qmp.execute(command);
  };
  const unpause = async (one: XenDomain): Promise<void> => {
    await tellModel(one, "cont");
    one.paused = false;
    host.boot(one);
  };
  const suspend = async (one: XenDomain): Promise<void> => {
    const path = `${domainPath(one.domid)}/control/shutdown`;
    store.write(path, "suspend");
    await step();
    store.write(path, "");
    one.shutdown = 2;
    host.changed(one, false);
    host.tellRelease();
    await tellModel(one, "stop");
    await step();
  };
  const create = async (spec: XenSpec, options: CreateOptions = {}): Promise<XlOutcome> => {
    if (domains.has(spec.name)) return err(`Domain with name "${spec.name}" already exists.`);
    const made = newDomain(spec, options.uuid ?? spec.uuid ?? randomUUID());
    domains.set(spec.name, made);
    host.begin(made);
    host.changed(made, false);
    const built = await build(made, options);
    if (!built.ok) await tearDown(made);
    return built;
  };

  return {
    domain,
    domains: domains as ReadonlyMap<string, XenDomain>,
    create,
    destroy: (name: string): Promise<void> => tearDown(domain(name)),
    /** A new domid, the same uuid. */
    async reboot(name: string, options: CreateOptions = {}): Promise<XlOutcome> {
      const old = domain(name);
      const spec = remembered(old);
      await tearDown(old);
      return create(spec, { ...options, uuid: old.uuid });
    },
    rename: (name: string, to: string): void => rename(domain(name), to),
    pause(name: string): void {
      domain(name).paused = true;
      host.changed(domain(name), false);
    },
    async unpause(name: string): Promise<void> {
      await unpause(domain(name));
      host.changed(domain(name), false);
    },
    /** It ends and is kept. @param reason - as `xl list -v` shows it */
    shutDown(name: string, reason: number): void {
      const one = domain(name);
      one.shutdown = reason;
      if (one.model?.alive() === true) one.model.qemu?.endGuest(reason === 3 ? "guest-panicked" : "shutdown");
      host.changed(one, false);
      host.tellRelease();
    },
    /**
     * @param checkpoint - it goes on afterwards (`xl save -c`)
     * @param during - while it is suspended
     */
    async save(name: string, { checkpoint = false, during }: { checkpoint?: boolean; during?: () => unknown } = {}): Promise<void> {
      const one = domain(name);
      await suspend(one);
      await during?.();
      if (checkpoint) {
        await tellModel(one, "cont");
        one.shutdown = null;
        host.changed(one, false);
        return;
      }
      // QEMU's state names devices that no new command line has.
      const lost =
        one.type === "hvm" &&
        (one.model?.qemu?.objects() ?? []).some(
          ({ id, driver, port }) => driver === "usb-host" || (port === null && /[eux]hci/.test(driver) && id !== null && id !== "usb"),
        );
      saved.set(name, { spec: remembered(one), uuid: one.uuid, lost });
      await tearDown(one);
    },
    async restore(name: string, options: CreateOptions = {}): Promise<XlOutcome> {
      const image = saved.get(name);
      if (image === undefined) return err(`nothing was saved of ${name}`);
      saved.delete(name);
      const made = await create(image.spec, { ...options, uuid: image.uuid, restored: true });
      if (!made.ok || !image.lost) return made;
      await tearDown(domain(name));
      return err("Unknown savevm section; the guest is lost");
    },
    /** Received from another host: it has its name only at the end. */
    async migrateIn(spec: XenSpec, options: CreateOptions = {}): Promise<XlOutcome> {
      const made = await create({ ...spec, name: `${spec.name}--incoming` }, { ...options, restored: true });
      if (made.ok) rename(domain(`${spec.name}--incoming`), spec.name);
      return made;
    },
    /** Sent away: what is left of it keeps another name until it is destroyed. */
    async migrateOut(name: string): Promise<void> {
      const one = domain(name);
      await suspend(one);
      rename(one, `${name}--migratedaway`);
    },
    usbctrlAttach: (name: string, wish: Parameters<XlUsb["attachController"]>[1]) => usb.attachController(domain(name).usb, wish, true),
    usbctrlDetach: (name: string, devid: number) => usb.detachController(domain(name).usb, devid),
    usbdevAttach: (name: string, wish: DeviceWish, hooks?: XlHooks) => usb.attachDevice(domain(name).usb, wish, true, hooks),
    usbdevDetach: (name: string, devid: number, port: number, hooks?: XlHooks) => usb.detachDevice(domain(name).usb, devid, port, hooks),
  };
}
