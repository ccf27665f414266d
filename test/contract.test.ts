/** Contract Domains, one suite: on the simulator, and on each real QEMU that is here. Real QEMU is right where they differ. */
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { afterAll, afterEach, beforeEach, describe, expect, test } from "vitest";
import { createDomainsRig, type DomainsRig, realClock, type Tap, tapMonitor, testDevice } from "./support/domains-rig.ts";
import { eventually } from "./support/eventually.ts";
import { createTestHost, qemuKinds, removeFakeUsb, type TestQemu, type TestQemuOptions } from "./support/qemu.ts";

const XHCI = { driver: "qemu-xhci", id: "xhci", p2: 8, p3: 8 } as const;
const stick = testDevice(5);
const twin = testDevice(6);

const kinds = qemuKinds();
afterAll(removeFakeUsb);
test("a real QEMU is here where one is required", () => {
  const missing = kinds.flatMap((kind) => (kind.missing !== null && !kind.missing.includes("PLUGHERD_QEMU_10") ? [kind.missing] : []));
  if (process.env["PLUGHERD_REQUIRE_REAL"] === "1") expect(missing).toEqual([]);
});

describe.each(kinds.map((kind) => ({ kind, title: kind.missing === null ? kind.title : `${kind.title}: skipped, ${kind.missing}` })))(
  "domains on $title",
  ({ kind }) => {
    let host: ReturnType<typeof createTestHost>;
    let rig: DomainsRig;
    const open: { close(): void }[] = [];
    const qemus: TestQemu[] = [];
    beforeEach(() => {
      host = createTestHost();
      host.set([stick, twin]);
      rig = createDomainsRig(host);
      open.push(rig);
    });
    afterEach(async () => {
      for (const one of open.splice(0)) one.close();
      for (const qemu of qemus.splice(0)) await qemu.kill();
      host.close();
    });
    const create = (options: TestQemuOptions): TestQemu => {
      const qemu = kind.create(options, host);
      qemus.push(qemu);
      return qemu;
    };
    const start = async (name: string, options: Partial<TestQemuOptions> = {}): Promise<TestQemu> => {
      const qemu = create({ name, path: join(rig.qmpDir, `${name}.sock`), devices: [XHCI], ...options });
      await qemu.start();
      return qemu;
    };
    /** A QEMU whose monitor is reached through a tap. */
    const startTapped = async (name: string): Promise<{ qemu: TestQemu; tap: Tap }> => {
      const target = join(host.dir, `${name}-real.sock`);
      const qemu = await start(name, { path: target });
      const tap = await tapMonitor(join(rig.qmpDir, `${name}.sock`), target);
      open.push(tap);
      return { qemu, tap };
    };
    const it = test.skipIf(kind.missing !== null);

    describe("discovery and identity", () => {
      it("tells a domain with its name, uuid, state, machine and controllers", async () => {
        await start("win10", { uuid: "11111111-2222-3333-4444-55555555AAAA" });
        const domain = await rig.domain("win10");
        expect(domain).toMatchObject({
          key: "win10#1",
          uuid: "11111111-2222-3333-4444-55555555aaaa",
          type: "qemu",
          state: "running",
          monitorState: "answering",
          monitor: join(rig.qmpDir, "win10.sock"),
          freeSlots: ["pci.0"],
          objects: [],
        });
        expect(domain.version).toMatch(/^\d+\.\d+\.\d+$/);
        expect(domain.machine).toMatch(/^pc-i440fx-/);
        expect(domain.drivers).toEqual(expect.arrayContaining(["qemu-xhci", "nec-usb-xhci", "usb-ehci", "piix3-usb-uhci"]));
        expect(domain.controllers).toEqual([
          {
            bus: "xhci.0",
            name: "xhci",
            path: "/machine/peripheral/xhci",
            driver: "qemu-xhci",
            version: 3,
            ports: 8,
            minSpeed: null,
            maxSpeed: null,
            ours: false,
            occupied: [],
          },
        ]);
        await rig.ready();
      });

      it("names a QEMU without -name by its socket; a zero uuid is none", async () => {
        await create({ path: join(rig.qmpDir, "plain.sock"), devices: [XHCI] }).start();
        expect(await rig.domain("plain")).toMatchObject({ key: "plain#1", uuid: null });
      });

      it("finds sockets that were there before, and a directory that comes later", async () => {
        const late = createDomainsRig(host, { makeDir: false });
        open.push(late);
        await late.ready();
        mkdirSync(late.qmpDir, { recursive: true });
        await create({ name: "late", path: join(late.qmpDir, "late.sock"), devices: [XHCI] }).start();
        await late.domain("late");
      });

      it("is not ready before each socket that was there has answered", async () => {
        await start("a");
        await start("b");
        await rig.domain("b");
        rig.close();
        const again = createDomainsRig(host, {});
        open.push(again);
        await create({ name: "c", path: join(again.qmpDir, "c.sock") }).start();
        await again.ready();
        const order = again.changes.map((change) => change.kind);
        if (order[0] === "domain") expect(order.indexOf("ready")).toBeGreaterThan(0);
        await again.domain("c");
      });

      it("serves a paused domain, and tells when it runs", async () => {
        const qemu = await start("paused", { running: false });
        const domain = await rig.domain("paused");
        expect(domain.state).toBe("prelaunch");
        expect(await rig.attach(domain, stick, "xhci.0", 1)).toMatchObject({ ok: true });
        await qemu.resume();
        await rig.domain("paused", ({ state }) => state === "running");
        await qemu.pause();
        await rig.domain("paused", ({ state }) => state === "paused");
      });

      it("gives a QEMU that was killed and started again a new key, and forgets the old one", async () => {
        const qemu = await start("win10");
        const before = await rig.domain("win10");
        expect(await rig.attach(before, stick, "xhci.0", 1)).toMatchObject({ ok: true });
        await qemu.kill();
        await eventually(() => rig.live.size === 0);
        await qemu.start();
        const after = await rig.domain("win10");
        expect(after).toMatchObject({ key: "win10#2", objects: [] });
        expect(await rig.attach(before, stick, "xhci.0", 1)).toMatchObject({ ok: false, error: { kind: "transient" } });
      });

      it("forgets a domain that ends in order", async () => {
        const qemu = await start("win10");
        await rig.domain("win10");
        await qemu.stop();
        await eventually(() => rig.live.size === 0);
      });

      it("serves a second QEMU that takes the socket's place while the first one lives", async () => {
        await start("first", { path: join(rig.qmpDir, "shared.sock") });
        const first = await rig.domain("first");
        const second = await start("second", { path: join(rig.qmpDir, "shared.sock") });
        expect((await rig.domain("second")).key).toBe("shared#2");
        expect(await rig.attach(first, stick, "xhci.0", 1)).toMatchObject({ ok: true });
        expect(await second.usbHosts()).toEqual([]);
      });

      it("is not troubled by a dead socket or one that talks nonsense", async () => {
        const qemu = await start("dead");
        await rig.domain("dead");
        await qemu.kill();
        writeFileSync(join(rig.qmpDir, "file.sock"), "not a socket");
        await start("alive");
        await rig.domain("alive");
        expect([...rig.live.values()].map(({ name }) => name)).toEqual(["alive"]);
        await qemu.start();
        await rig.domain("dead");
      });
    });

    describe("attach and detach", () => {
      it("attaches a device and tells it before it says so; detaches it likewise", async () => {
        const qemu = await start("win10");
        const domain = await rig.domain("win10");
        const steps: string[] = [];
        const outcome = await rig.attach(domain, stick, "xhci.0", 3, { onStep: (step) => steps.push(step) });
        const path = "/machine/peripheral/plugherd-1-5-305";
        expect(outcome).toEqual({ ok: true, value: { domain: domain.key, path, bus: "xhci.0", port: 3, instance: "1-2.5@1.5.305" } });
        const seen = rig.live.get(domain.key);
        const object = {
          path,
          id: "plugherd-1-5-305",
          bus: "xhci.0",
          port: "3",
          ours: true,
          inode: 305,
          filter: { bus: 1, address: 5, hostport: null, vendor: null, product: null, hostdevice: null },
          exact: true,
          attached: true,
        };
        expect(seen?.objects).toEqual([object]);
        expect(seen?.controllers[0]?.occupied).toEqual([3]);
        expect(await qemu.usbHosts()).toEqual(["plugherd-1-5-305"]);
        expect(steps).toEqual(["attaching to port 3 of xhci.0"]);
        await rig.domains.audit(); // a whole listing says the same
        expect(rig.live.get(domain.key)).toEqual(seen);

        expect(await rig.detach(domain, object)).toEqual({ ok: true, value: null });
        expect(rig.live.get(domain.key)?.objects).toEqual([]);
        expect(rig.live.get(domain.key)?.controllers[0]?.occupied).toEqual([]);
        expect(await qemu.usbHosts()).toEqual([]);
      });

      it("does each twice without harm", async () => {
        const qemu = await start("win10");
        const domain = await rig.domain("win10");
        const both = await Promise.all([rig.attach(domain, stick, "xhci.0", 1), rig.attach(domain, stick, "xhci.0", 1)]);
        expect(both.map(({ ok }) => ok)).toEqual([true, true]);
        expect(await rig.attach(domain, stick, "xhci.0", 1)).toMatchObject({ ok: true });
        expect(await qemu.usbHosts()).toHaveLength(1);
        const at = { path: "/machine/peripheral/plugherd-1-5-305", bus: "xhci.0", port: "1" };
        expect(await rig.detach(domain, at)).toEqual({ ok: true, value: null });
        expect(await rig.detach(domain, at)).toEqual({ ok: true, value: null });
        expect(await qemu.usbHosts()).toEqual([]);
      });

      it("does not take the same device at another place for what was asked", async () => {
        await start("win10");
        const domain = await rig.domain("win10");
        expect(await rig.attach(domain, stick, "xhci.0", 1)).toMatchObject({ ok: true });
        expect(await rig.attach(domain, stick, "xhci.0", 2)).toMatchObject({ ok: false, error: { kind: "transient", reason: "IdTaken" } });
      });

      it("attaches again at once after a detach, whatever late events say", async () => {
        const qemu = await start("win10");
        const domain = await rig.domain("win10");
        for (let round = 0; round < 5; round += 1) {
          const attached = await rig.attach(domain, stick, "xhci.0", 1);
          if (!attached.ok || attached.value === null) throw new Error(JSON.stringify(attached));
          await rig.detach(domain, { ...attached.value, port: "1" });
        }
        expect(await rig.attach(domain, stick, "xhci.0", 1)).toMatchObject({ ok: true });
        await rig.domains.audit();
        expect(rig.live.get(domain.key)?.objects).toHaveLength(1);
        expect(await qemu.usbHosts()).toHaveLength(1);
        // No observation between lost it once it was attached for good.
        const last = rig.changes.filter((change) => change.kind === "domain").slice(-2);
        expect(last.every((change) => change.kind === "domain" && change.domain.objects.length <= 1)).toBe(true);
      });

      it("keeps many devices of one domain apart", async () => {
        const many = Array.from({ length: 8 }, (_, i) => testDevice(10 + i));
        host.set(many);
        const qemu = await start("win10");
        const domain = await rig.domain("win10");
        const audit = rig.domains.audit(); // overlaps, and must not make anything look absent
        const outcomes = await Promise.all(many.map((device, i) => rig.attach(domain, device, "xhci.0", i + 1)));
        expect(outcomes.every(({ ok }) => ok)).toBe(true);
        const from = rig.changes.length;
        expect(rig.live.get(domain.key)?.objects).toHaveLength(8);
        await audit;
        await rig.domains.audit();
        expect(rig.changes.slice(from).every((change) => change.kind !== "domain" || change.domain.objects.length === 8)).toBe(true);
        expect(rig.live.get(domain.key)?.controllers[0]?.occupied).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
        expect(await qemu.usbHosts()).toHaveLength(8);
      });

      it("keeps everything over a guest reset", async () => {
        const qemu = await start("win10");
        const domain = await rig.domain("win10");
        await rig.attach(domain, stick, "xhci.0", 1);
        await qemu.reset();
        await rig.domains.audit();
        expect(rig.live.get(domain.key)?.objects).toMatchObject([{ attached: true }]);
        expect(await qemu.usbHosts()).toEqual(["plugherd-1-5-305"]);
      });

      it("stops waiting when it is called off, and stays true to what there is", async () => {
        const qemu = await start("win10");
        const domain = await rig.domain("win10");
        const off = new AbortController();
        const outcome = rig.attach(domain, stick, "xhci.0", 1, { signal: off.signal });
        off.abort();
        expect(await outcome).toMatchObject({ ok: false, error: { kind: "transient", reason: "CalledOff" } });
        await rig.domains.audit();
        const ids = rig.live.get(domain.key)?.objects.map(({ id }) => id);
        expect(ids).toEqual(await qemu.usbHosts());
      });
    });

    describe("refusals", () => {
      it("a device that left before it was attached is looked for a moment, then said to be absent", async () => {
        const qemu = await start("win10");
        const domain = await rig.domain("win10");
        host.set([]);
        expect(await rig.attach(domain, stick, "xhci.0", 1)).toMatchObject({
          ok: false,
          error: { kind: "transient", reason: "HostDeviceNotFound" },
        });
        expect(await qemu.usbHosts()).toEqual([]);
        expect(rig.live.get(domain.key)?.objects).toEqual([]);
      });

      it("a device that QEMU's libusb sees a moment later is attached by the same action", async () => {
        const waits: number[] = [];
        const patient = createDomainsRig(host, {
          timings: { findRetriesMs: [21, 51] },
          clock: {
            ...realClock,
            setTimeout: (fn, ms) => {
              if (ms === 21 || ms === 51) waits.push(ms);
              if (ms === 51) host.set([stick]);
              return setTimeout(fn, ms);
            },
          },
        });
        open.push(patient);
        await create({ name: "late", path: join(patient.qmpDir, "late.sock"), devices: [XHCI] }).start();
        const domain = await patient.domain("late");
        host.set([]);
        expect(await patient.attach(domain, stick, "xhci.0", 1)).toMatchObject({ ok: true });
        expect(waits).toEqual([21, 51]);
      });

      it("a device that QEMU cannot open", async () => {
        host.set([{ ...stick, openable: false }]);
        const qemu = await start("win10");
        const domain = await rig.domain("win10");
        expect(await rig.attach(domain, stick, "xhci.0", 1)).toMatchObject({
          ok: false,
          error: { kind: "transient", reason: "OpenRefused" },
        });
        expect(await qemu.usbHosts()).toEqual([]);
        host.set([stick]);
        expect(await rig.attach(domain, stick, "xhci.0", 1)).toMatchObject({ ok: true });
      });

      it("a port that is taken, and one that is not there", async () => {
        await start("win10");
        const domain = await rig.domain("win10");
        await rig.attach(domain, stick, "xhci.0", 1);
        expect(await rig.attach(domain, twin, "xhci.0", 1)).toMatchObject({ ok: false, error: { kind: "transient", reason: "PortBusy" } });
        expect(await rig.attach(domain, twin, "xhci.0", 9)).toMatchObject({ ok: false, error: { kind: "transient", reason: "PortBusy" } });
        expect(await rig.attach(domain, twin, "xhci.0", 2)).toMatchObject({ ok: true });
      });

      it("a controller that is not there", async () => {
        await start("win10");
        const domain = await rig.domain("win10");
        expect(await rig.attach(domain, stick, "gone.0", 1)).toMatchObject({
          ok: false,
          error: { kind: "transient", reason: "ControllerGone" },
        });
      });

      it("a controller that QEMU does not have, or that cannot be made while it runs", async () => {
        await start("win10");
        const domain = await rig.domain("win10");
        const create = (driver: string): { name: string; driver: string; ports: number; slot: string } => ({
          name: "x",
          driver,
          ports: 4,
          slot: "pci.0",
        });
        for (const driver of ["no-such-xhci", "ich9-usb-ehci1"])
          expect(await rig.attach(domain, stick, "plugherd-ctrl-x.0", 1, { create: create(driver) })).toMatchObject({
            ok: false,
            error: { kind: "terminal", reason: "NoController" },
          });
      });
    });

    describe("what others did", () => {
      it("tells others' objects, anonymous ones and those that scan by themselves", async () => {
        const qemu = await start("win10", {
          usb: true,
          devices: [
            XHCI,
            { driver: "usb-tablet", bus: "usb-bus.0" },
            { driver: "usb-host", bus: "xhci.0", port: "4", vendorid: 0x046d, productid: 0xc31c },
            { driver: "usb-hub", id: "hub", bus: "xhci.0", port: "5" },
            { driver: "usb-kbd", id: "kbd", bus: "xhci.0", port: "5.2" },
          ],
        });
        const domain = await rig.domain("win10");
        expect(domain.controllers.map(({ bus, name, driver, ports, occupied }) => ({ bus, name, driver, ports, occupied }))).toEqual([
          { bus: "usb-bus.0", name: null, driver: "piix3-usb-uhci", ports: 2, occupied: [1] },
          { bus: "xhci.0", name: "xhci", driver: "qemu-xhci", ports: 8, occupied: [4, 5] },
        ]);
        expect(domain.objects).toEqual([
          {
            path: "/machine/peripheral-anon/device[1]",
            id: null,
            bus: "xhci.0",
            port: "4",
            ours: false,
            inode: null,
            filter: { bus: null, address: null, hostport: null, vendor: "046d", product: "c31c", hostdevice: null },
            exact: false,
            attached: false,
          },
        ]);
        await qemu.addByOther({ driver: "usb-host", id: "theirs", bus: "xhci.0", port: "2", hostbus: 1, hostaddr: 6 });
        await rig.domains.audit(); // nothing tells of it
        const seen = rig.live.get(domain.key);
        expect(seen?.objects.map(({ path, exact, attached, ours }) => ({ path, exact, attached, ours }))).toEqual([
          { path: "/machine/peripheral-anon/device[1]", exact: false, attached: false, ours: false },
          { path: "/machine/peripheral/theirs", exact: true, attached: true, ours: false },
        ]);
        expect(seen?.controllers[1]?.occupied).toEqual([2, 4, 5]);
        // By path where there is no id.
        for (const object of seen?.objects ?? []) expect(await rig.detach(domain, object)).toEqual({ ok: true, value: null });
        expect(await qemu.usbHosts()).toEqual([]);
      });

      it("reads the real port of what was added without one", async () => {
        await start("win10", {
          devices: [
            XHCI,
            { driver: "usb-kbd", bus: "xhci.0", port: "2" },
            { driver: "usb-tablet", bus: "xhci.0" },
            { driver: "usb-mouse", bus: "xhci.0" },
            { driver: "usb-host", id: "scan", bus: "xhci.0", vendorid: 0x1234 },
          ],
        });
        const domain = await rig.domain("win10");
        expect(domain.controllers[0]?.occupied).toEqual([1, 2, 3, 4]);
        expect(domain.objects).toMatchObject([{ id: "scan", port: "4" }]);
      });

      it("notices a removal by others", async () => {
        const qemu = await start("win10");
        const domain = await rig.domain("win10");
        await rig.attach(domain, stick, "xhci.0", 1);
        await qemu.removeByOther("plugherd-1-5-305");
        await rig.domain("win10", ({ objects, controllers }) => objects.length === 0 && controllers[0]?.occupied.length === 0);
        expect(await rig.attach(domain, stick, "xhci.0", 1)).toMatchObject({ ok: true });
      });

      it("removes the dead object of a device that was unplugged", async () => {
        const qemu = await start("win10");
        const domain = await rig.domain("win10");
        const attached = await rig.attach(domain, stick, "xhci.0", 1);
        host.set([]);
        await rig.domains.audit();
        const dead = rig.live.get(domain.key)?.objects[0];
        expect(dead).toMatchObject({ ours: true, exact: true, attached: true }); // QEMU does not notice
        expect(attached.ok && (await rig.detach(domain, dead ?? { path: "", bus: "", port: "1" }))).toEqual({ ok: true, value: null });
        expect(await qemu.usbHosts()).toEqual([]);
        host.set([testDevice(7)]);
        expect(await rig.attach(domain, testDevice(7), "xhci.0", 1)).toMatchObject({ ok: true });
      });
    });

    describe("controllers", () => {
      const make = (slot: string | null, name = "usb3") => ({ name, driver: "qemu-xhci", ports: 6, slot });

      it("makes one on pc, once for all who need it", async () => {
        const qemu = await start("win10", { devices: [] });
        const domain = await rig.domain("win10");
        expect(domain).toMatchObject({ controllers: [], freeSlots: ["pci.0"] });
        const steps: string[] = [];
        const outcomes = await Promise.all([
          rig.attach(domain, stick, "plugherd-ctrl-usb3.0", 1, { create: make("pci.0"), onStep: (step) => steps.push(step) }),
          rig.attach(domain, twin, "plugherd-ctrl-usb3.0", 6, { create: make("pci.0") }),
        ]);
        expect(outcomes.map(({ ok }) => ok)).toEqual([true, true]);
        expect(steps).toEqual(["making controller usb3", "attaching to port 1 of plugherd-ctrl-usb3.0"]);
        await rig.domains.audit();
        expect(rig.live.get(domain.key)).toMatchObject({
          freeSlots: ["pci.0"],
          controllers: [{ name: "usb3", bus: "plugherd-ctrl-usb3.0", ours: true, ports: 6, driver: "qemu-xhci", occupied: [1, 6] }],
        });
        expect(await qemu.usbHosts()).toHaveLength(2);
      });

      it("makes one behind a free root port of q35; one that is used is not free", async () => {
        await start("linux", {
          machine: "q35",
          devices: [
            { driver: "pcie-root-port", id: "rp0", chassis: 1 },
            { driver: "pcie-root-port", id: "rp1", chassis: 2 },
            { ...XHCI, bus: "rp1" },
          ],
        });
        const domain = await rig.domain("linux");
        expect(domain).toMatchObject({ freeSlots: ["rp0"], controllers: [{ bus: "xhci.0", occupied: [] }] });
        expect(domain.machine).toMatch(/^pc-q35-/);
        expect(await rig.attach(domain, stick, "plugherd-ctrl-usb3.0", 2, { create: make("rp0") })).toMatchObject({ ok: true });
        const made = await rig.domain("linux", ({ freeSlots }) => freeSlots.length === 0);
        expect(made.controllers.map(({ name, occupied }) => ({ name, occupied }))).toEqual([
          { name: "usb3", occupied: [2] },
          { name: "xhci", occupied: [] },
        ]);
      });

      it("has no free slot on a q35 without root ports, and says so when it is tried", async () => {
        await start("linux", { machine: "q35", devices: [] });
        const domain = await rig.domain("linux");
        expect(domain.freeSlots).toEqual([]);
        expect(await rig.attach(domain, stick, "plugherd-ctrl-usb3.0", 1, { create: make(null) })).toMatchObject({
          ok: false,
          error: { kind: "terminal", reason: "NoController" },
        });
      });

      it("finds a pcie-pci-bridge after the root ports", async () => {
        await start("linux", {
          machine: "q35",
          devices: [
            { driver: "pcie-pci-bridge", id: "br" },
            { driver: "pcie-root-port", id: "rp0", chassis: 1 },
          ],
        });
        expect((await rig.domain("linux")).freeSlots).toEqual(["rp0", "br"]);
      });
    });

    describe("the monitor", () => {
      it("waits while another client holds it, shows it as busy, and is served when that one leaves", async () => {
        const socket = join(host.dir, "held.sock");
        const qemu = await start("held", { path: socket });
        const other = connect({ path: socket });
        await new Promise((resolve) => other.once("data", resolve)); // greeted
        // The directory's entry is a way to the same socket.
        const tap = await tapMonitor(join(rig.qmpDir, "held.sock"), socket);
        open.push(tap);
        const busy = await rig.domain("held", ({ monitorState }) => monitorState === "busy");
        await rig.ready();
        expect(await rig.attach(busy, stick, "xhci.0", 1)).toMatchObject({ ok: false, error: { kind: "transient" } });
        other.destroy();
        const served = await rig.domain("held");
        expect(served.key).toBe(busy.key);
        expect(await rig.attach(served, stick, "xhci.0", 1)).toMatchObject({ ok: true });
        expect(await qemu.usbHosts()).toHaveLength(1);
      });

      it("is held by us: a second client gets no greeting", async () => {
        await start("win10");
        const domain = await rig.domain("win10");
        const second = connect({ path: domain.monitor });
        open.push({ close: () => second.destroy() });
        let heard = 0;
        second.on("data", (bytes) => {
          heard += bytes.length;
        });
        await new Promise((resolve) => second.once("connect", resolve));
        expect(await rig.attach(domain, stick, "xhci.0", 1)).toMatchObject({ ok: true });
        expect(heard).toBe(0);
      });

      it.each(["before", "after"] as const)(
        "lost in the middle of device_add (cut %s it is executed): a new life, looked at, and converging",
        async (when) => {
          const { qemu, tap } = await startTapped("win10");
          const domain = await rig.domain("win10");
          tap.cutOn("device_add", when);
          expect(await rig.attach(domain, stick, "xhci.0", 1)).toMatchObject({
            ok: false,
            error: { kind: "transient", reason: "MonitorLost" },
          });
          tap.cutOn("never", "before");
          const next = await rig.domain("win10", ({ key, monitorState }) => key !== domain.key && monitorState === "answering");
          expect(rig.live.has(domain.key)).toBe(false);
          expect(next.objects.map(({ id }) => id)).toEqual(await qemu.usbHosts());
          expect(await rig.attach(next, stick, "xhci.0", 1)).toMatchObject({ ok: true });
          expect(await qemu.usbHosts()).toEqual(["plugherd-1-5-305"]);
        },
      );

      it("says nothing for a while: shown as silent with what was last seen, and recovers", async () => {
        const brisk = createDomainsRig(host, { timings: { commandMs: 150, greetingMs: 300 } });
        open.push(brisk);
        const qemu = create({ name: "slow", path: join(brisk.qmpDir, "slow.sock"), devices: [XHCI] });
        await qemu.start();
        const domain = await brisk.domain("slow");
        await brisk.attach(domain, stick, "xhci.0", 1);
        qemu.hang(true);
        expect(await brisk.attach(domain, twin, "xhci.0", 2)).toMatchObject({
          ok: false,
          error: { kind: "transient", reason: "TimedOut" },
        });
        const silent = await brisk.domain("slow", ({ monitorState }) => monitorState === "silent");
        expect(silent.objects).toHaveLength(1);
        expect(await brisk.attach(silent, twin, "xhci.0", 2)).toMatchObject({ ok: false, error: { kind: "transient" } });
        qemu.hang(false);
        const back = await brisk.domain("slow");
        expect(back.objects.map(({ id }) => id).sort()).toEqual([...(await qemu.usbHosts())].sort());
        expect(await brisk.attach(back, twin, "xhci.0", 2)).toMatchObject({ ok: true });
      });
    });

    describe("dial-in", () => {
      it("serves a QEMU that dials in, each connection a life of its own", async () => {
        expect(await rig.domains.listening).toEqual({ ok: true, value: null });
        const qemu = create({ dial: rig.qmpListen, name: "caller", devices: [XHCI] });
        await qemu.start();
        const domain = await rig.domain("caller");
        expect(domain).toMatchObject({ key: "dial-in/caller#1", monitor: "dial-in" });
        expect(await rig.attach(domain, stick, "xhci.0", 1)).toMatchObject({ ok: true });
        await qemu.kill();
        await eventually(() => rig.live.size === 0);
        await qemu.start();
        expect(await rig.domain("caller")).toMatchObject({ key: "dial-in/caller#2", objects: [] });
      });

      it("refuses one that has neither name nor uuid", async () => {
        await rig.domains.listening;
        await create({ dial: rig.qmpListen, devices: [XHCI] }).start();
        await eventually(() => rig.warnings.some((line) => line.includes("neither a name nor a uuid")));
        expect(rig.live.size).toBe(0);
      });
    });
  },
);

describe("the dial-in socket", () => {
  test("one that nobody answers on is taken over; one that is answered is left alone", async () => {
    const host = createTestHost();
    const first = createDomainsRig(host);
    expect(await first.domains.listening).toEqual({ ok: true, value: null });
    const { listenForMonitors } = await import("../src/adapters/qmp-dial-in.ts");
    const say = (): void => undefined;
    const deps = { clock: realClock, connectMs: 1_000, log: { debug: say, info: say, warn: say, error: say } };
    expect(await listenForMonitors(first.qmpListen, deps, () => undefined)).toMatchObject({ ok: false, error: { kind: "held" } });
    first.close();
    rmSync(first.qmpListen, { force: true });
    const stale = join(host.dir, "stale.sock");
    const { spawnSync } = await import("node:child_process");
    spawnSync(process.execPath, [
      "-e",
      `require("net").createServer().listen(${JSON.stringify(stale)}, () => process.kill(process.pid, "SIGKILL"))`,
    ]);
    const taken = await listenForMonitors(stale, deps, () => undefined);
    expect(taken.ok).toBe(true);
    if (taken.ok) taken.value.close();
    host.close();
  });
});
