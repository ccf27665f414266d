/** The controller on contracts faked by plain objects: what it waits for, what it sends, in which order, and what it counts. */
import { Subject } from "rxjs";
import { SimulatedClock } from "xstate";
import { describe, expect, test } from "vitest";
import { type Controller, createController } from "../src/controller/controller.ts";
import { deviceId, type Outcome, type Place } from "../src/model/action.ts";
import type { Contracts, DomainChange, HostChange } from "../src/model/contracts.ts";
import type { DesiredDevice, DesiredDomain, TreeReading, UsbSelector } from "../src/model/desired.ts";
import type { LiveDomain, LiveObject } from "../src/model/domain.ts";
import { type HostDevice, type InUse, instanceOf } from "../src/model/hostdev.ts";
import { type Intentions, noIntentions } from "../src/model/intentions.ts";
import { openPolicy, type PolicyRule, type PolicyState } from "../src/model/policy.ts";
import { err, ok } from "../src/model/result.ts";
import { defaultTimings, type Timings } from "../src/model/timings.ts";
import { eventually } from "./support/eventually.ts";
import { silentLog } from "./support/logs.ts";

const NOTHING: UsbSelector = {
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
};
const mark = { file: "win10.yaml", line: 1, column: 1 };
const entry = (name: string, selector: Partial<UsbSelector>): DesiredDevice => ({
  name,
  kind: { type: "usb", selectors: [{ ...NOTHING, ...selector }], anyOf: false },
  count: 1,
  pick: "none",
  priority: 0,
  controller: null,
  guestPort: null,
  required: false,
  onRemove: "detach",
  after: [],
  mark,
});
const spec = (...devices: DesiredDevice[]): DesiredDomain => ({
  name: "win10",
  labels: {},
  target: { by: "name", name: "win10" },
  mode: "enforce",
  prune: "managed",
  controllers: null,
  devices,
  mark,
  generation: "0123456789ab",
  commit: null,
});
const stick = (address: number, busid = "1-1"): HostDevice => ({
  busid,
  anchor: null,
  bus: 1,
  address,
  inode: 100 + address,
  node: `/dev/bus/usb/001/00${String(address)}`,
  vendor: "0781",
  product: "5581",
  deviceClass: { class: 0, subclass: 0, protocol: 0 },
  interfaces: [{ class: 8, subclass: 6, protocol: 80 }],
  speed: 480,
  serial: "A",
  manufacturer: null,
  productName: null,
  removable: null,
  hub: false,
  drivers: [],
});
const BUS = "xhci.0";
const domain = (objects: readonly LiveObject[] = []): LiveDomain => ({
  key: "win10#1",
  name: "win10",
  uuid: null,
  type: "qemu",
  state: "running",
  version: "7.2.22",
  monitor: "/run/plugherd/qmp/win10.sock",
  monitorState: "answering",
  controllers: [
    {
      bus: BUS,
      name: "xhci",
      path: "/machine/peripheral/xhci",
      driver: "qemu-xhci",
      version: 3,
      ports: 8,
      minSpeed: null,
      maxSpeed: null,
      ours: false,
      occupied: objects.map(({ port }) => Number(port)),
    },
  ],
  objects,
  freeSlots: ["pci.0"],
  drivers: ["qemu-xhci"],
  machine: "pc-i440fx-7.2",
});
const objectOf = (device: HostDevice, port: number): LiveObject => ({
  path: `/machine/peripheral/${deviceId(device)}`,
  id: deviceId(device),
  bus: BUS,
  port: String(port),
  ours: true,
  inode: device.inode,
  filter: { bus: device.bus, address: device.address, hostport: null, vendor: null, product: null, hostdevice: null },
  exact: true,
  attached: true,
});

/** A host of one domain whose device model does what it is told, or what `answer` says. */
class Rig {
  readonly host$ = new Subject<HostChange>();
  readonly domains$ = new Subject<DomainChange>();
  readonly tree$ = new Subject<TreeReading>();
  readonly policy$ = new Subject<PolicyState>();
  readonly clock = new SimulatedClock();
  /** How long the host slept: the wall clock went on, timers did not. */
  sleptMs = 0;
  readonly sent: string[] = [];
  objects: LiveObject[] = [];
  /** The key of the QEMU that runs now. */
  life = "win10#1";
  inUse: InUse = { disks: [], routes: [] };
  answer: ((place: Place) => Outcome) | null = null;
  /** QEMU loses what it is given. */
  loses = false;
  /** QEMU takes its time over an attach: until this resolves. */
  late: Promise<void> | null = null;
  saved: Intentions = noIntentions;
  /** Resolves once what is to be saved is on the disk. */
  written = Promise.resolve();
  /** What the files that `plan` is given say. */
  given: readonly DesiredDomain[] = [];
  readonly controller: Controller;

  constructor(intentions: Intentions = noIntentions, timings: Partial<Timings> = {}) {
    const contracts: Contracts = {
      host: { changes$: this.host$, inUse: () => Promise.resolve(this.inUse), audit: () => Promise.resolve() },
      domains: {
        changes$: this.domains$,
        audit: () => Promise.resolve(),
        attach: async (place) => {
          await this.late;
          return this.attach(place);
        },
        detach: async (at) => {
          this.sent.push(`del ${at.path.split("/").at(-1) ?? ""}`);
          await new Promise((resolve) => setImmediate(resolve));
          this.take(at.path);
          return ok(null);
        },
      },
      desired: { readings$: this.tree$ },
      policy: { policy$: this.policy$ },
      store: {
        load: () => Promise.resolve(ok(intentions)),
        save: (next) => {
          this.saved = next;
        },
        flush: () => this.written,
      },
      clock: {
        now: () => this.clock.now() + this.sleptMs,
        setTimeout: (fn, ms) => this.clock.setTimeout(fn, ms),
        clearTimeout: (handle) => this.clock.clearTimeout(handle as number),
      },
      random: () => 0.5,
      log: silentLog,
    };
    this.controller = createController(contracts, {
      timings: { ...defaultTimings, ...timings },
      intentions,
      life: "life",
      defer: (fn) => void setImmediate(fn),
      readFiles: () => ({ domains: this.given, problems: [] }),
    });
    this.controller.start();
  }
  private attach(place: Place): Outcome {
    if (place.domain !== this.life) return err({ kind: "transient", reason: "Closed", message: "its QEMU is gone" });
    if (this.objects.some(({ id }) => id === deviceId(place.device))) return this.attached(place);
    this.sent.push(`add ${place.device.busid} ${String(place.port)}`);
    const refused = this.answer?.(place);
    if (refused !== undefined) return refused;
    this.objects = [...this.objects, { ...objectOf(place.device, place.port), attached: !this.loses }];
    this.tell();
    return this.loses ? err({ kind: "transient", reason: "HostDeviceGone", message: "lost" }) : this.attached(place);
  }
  private attached({ domain: of, device, bus, port }: Place): Outcome {
    return ok({ domain: of, path: objectOf(device, port).path, bus, port, instance: instanceOf(device) });
  }
  take(path: string): void {
    this.objects = this.objects.filter((object) => object.path !== path);
    this.tell();
  }
  tell(): void {
    this.domains$.next({ kind: "domain", domain: { ...domain(this.objects), key: this.life } });
  }
  file(...devices: DesiredDevice[]): void {
    this.says(spec(...devices));
  }
  says(...domains: DesiredDomain[]): void {
    this.tree$.next({ directory: "present", files: new Map([["win10.yaml", { kind: "read", domains, warnings: [] }]]) });
  }
  plug(device: HostDevice): void {
    this.host$.next({ kind: "device", busid: device.busid, device });
  }
  unplug(busid: string): void {
    this.host$.next({ kind: "device", busid, device: null });
  }
  /** Everything reports, with what was plugged and attached before. */
  ready(devices: readonly HostDevice[], ...entries: DesiredDevice[]): void {
    this.host$.next({ kind: "snapshot", devices });
    this.policy$.next({ kind: "valid", policy: openPolicy, problems: [] });
    this.file(...entries);
    this.tell();
    this.domains$.next({ kind: "ready" });
  }
  phase(device = "stick"): string {
    const found = this.controller.view.snapshot().devices.find(({ name }) => name === device);
    return found === undefined ? "none" : `${found.phase}${found.reason === null ? "" : `/${found.reason}`}`;
  }
  phases(): readonly string[] {
    return this.controller.view.snapshot().devices.map(({ phase, reason }) => `${phase}${reason === null ? "" : `/${reason}`}`);
  }
  until(phase: string, device?: string): Promise<void> {
    return eventually(() => expect(this.phase(device)).toBe(phase));
  }
}
const wanted = entry("stick", { vendor: "0781", product: "5581" });
const allow = (lift: PolicyRule["lift"]): PolicyRule => ({
  name: "lifted",
  verdict: "allow",
  match: { ...NOTHING, vendor: "0781" },
  domain: null,
  lift,
  mark: { file: "policy.yaml", line: 1, column: 1 },
});

describe("start", () => {
  test("nothing is decided until host, files, policy and every monitor have reported", () => {
    const rig = new Rig();
    rig.host$.next({ kind: "snapshot", devices: [stick(5)] });
    rig.file(wanted);
    rig.tell();
    rig.policy$.next({ kind: "valid", policy: openPolicy, problems: [] });
    expect(rig.controller.view.ready).toBe(false);
    expect(rig.sent).toEqual([]);
    rig.domains$.next({ kind: "ready" });
    expect(rig.controller.view.ready).toBe(true);
  });

  test("what is right is adopted: not one command is sent", async () => {
    const rig = new Rig();
    rig.objects = [objectOf(stick(5), 1)];
    rig.ready([stick(5)], wanted);
    await rig.until("Attached");
    expect(rig.sent).toEqual([]);
  });

  test("what is missing is attached, what is dead goes first", async () => {
    const rig = new Rig();
    rig.objects = [objectOf(stick(4), 1)];
    rig.ready([stick(5)], wanted);
    await rig.until("Attached");
    expect(rig.sent).toEqual([`del ${deviceId(stick(4))}`, "add 1-1 1"]);
  });
});

describe("a start that takes many slices", () => {
  const many = Array.from({ length: 60 }, (_, i) => ({ ...stick(20 + i, `2-${String(i + 1)}`), vendor: "1d6b" }));

  test("attaches nothing that the host uses", async () => {
    const rig = new Rig(noIntentions, { sliceMs: 0 });
    rig.inUse = { disks: ["sdb1 (mounted on /srv)"], routes: [] };
    rig.ready([stick(5), ...many], wanted);
    await rig.until("Denied/DiskInUse");
    expect(rig.sent).toEqual([]);
  });

  test("ends with the daemon: nothing is attached after its stop", async () => {
    const rig = new Rig(noIntentions, { sliceMs: 0 });
    rig.ready([stick(5), ...many], wanted);
    rig.controller.stop();
    await new Promise((resolve) => setImmediate(resolve));
    expect(rig.sent).toEqual([]);
  });
});

describe("life", () => {
  test("unplug clears the dead object, replug attaches again, into the same guest port", async () => {
    const rig = new Rig();
    rig.ready([stick(5)], wanted);
    await rig.until("Attached");
    rig.unplug("1-1");
    await eventually(() => expect(rig.objects).toEqual([]));
    await rig.until("WaitingForHost");
    rig.plug(stick(6, "1-2"));
    await rig.until("Attached");
    expect(rig.sent).toEqual(["add 1-1 1", `del ${deviceId(stick(5))}`, "add 1-2 1"]);
  });

  test("a device that QEMU loses as soon as it has it is tried again by the clock, not in a loop", async () => {
    const rig = new Rig();
    rig.loses = true;
    rig.ready([stick(5)], wanted);
    await rig.until("BackingOff/HostDeviceGone");
    for (let turns = 0; turns < 50; turns += 1) await new Promise((resolve) => setImmediate(resolve));
    expect(rig.phase()).toBe("BackingOff/HostDeviceGone");
    expect(rig.sent.filter((command) => command.startsWith("add")).length).toBeLessThan(5);
    expect(rig.objects).toEqual([]);
    rig.loses = false;
    rig.clock.increment(defaultTimings.backoffMaxMs);
    await rig.until("Attached");
  });

  test("says what moved it: not the domain that shows what was done", async () => {
    const rig = new Rig();
    const cause = () => rig.controller.view.snapshot().devices[0]?.cause;
    rig.ready([], wanted);
    expect(cause()).toMatchObject({ kind: "start" });
    rig.plug(stick(5));
    await rig.until("Attached");
    expect(cause()).toEqual({ kind: "host", file: null, commit: null });
    await rig.controller.view.operate({ verb: "detach", device: "stick", domain: "win10", holdMs: 60_000, release: false });
    await eventually(() => expect(rig.objects).toEqual([]));
    expect(cause()).toMatchObject({ kind: "operator" });
    await rig.controller.view.operate({ verb: "attach", device: "stick", domain: "win10" });
    await rig.until("Attached");
    expect(cause()).toMatchObject({ kind: "operator" });
    rig.take(`/machine/peripheral/${deviceId(stick(5))}`);
    await rig.until("Attached");
    expect(cause()).toMatchObject({ kind: "domain" });
    rig.file();
    await eventually(() => expect(rig.objects).toEqual([]));
    rig.file(wanted);
    await rig.until("Attached");
    expect(cause()).toMatchObject({ kind: "file", file: "win10.yaml" });
    rig.domains$.next({ kind: "gone", key: "win10#1" });
    rig.objects = [];
    rig.life = "win10#2";
    rig.tell();
    await rig.until("Attached");
    expect(cause()).toMatchObject({ kind: "domain" });
  });

  test("a mounted disk is denied at the moment of the attach, and tried again on retry", async () => {
    const rig = new Rig();
    rig.inUse = { disks: ["sdb1 (mounted on /srv)"], routes: [] };
    rig.ready([stick(5)], wanted);
    await eventually(() => expect(rig.phase()).toMatch(/^Denied/));
    expect(rig.sent).toEqual([]);
    rig.inUse = { disks: [], routes: [] };
    await rig.controller.view.operate({ verb: "retry", device: "stick", domain: "win10" });
    await rig.until("Attached");
  });

  test("a failure backs off by the clock and no sooner", async () => {
    const rig = new Rig();
    rig.answer = () => err({ kind: "transient", reason: "PortBusy", message: "in use" });
    rig.ready([stick(5)], wanted);
    await rig.until("BackingOff/PortBusy");
    expect(rig.sent).toHaveLength(1);
    rig.answer = null;
    rig.clock.increment(49);
    expect(rig.sent).toHaveLength(1);
    rig.clock.increment(1);
    await rig.until("Attached");
  });

  test("taken away by somebody else it comes back, the third time it is contested, retry ends that", async () => {
    const rig = new Rig();
    rig.ready([stick(5)], wanted);
    for (let i = 0; i < 3; i += 1) {
      await rig.until("Attached");
      rig.take(`/machine/peripheral/${deviceId(stick(5))}`);
    }
    await eventually(() => expect(rig.phase()).toMatch(/^Contested/));
    expect(rig.sent).toEqual(["add 1-1 1", "add 1-1 1", "add 1-1 1"]);
    await rig.controller.view.operate({ verb: "retry", device: "stick", domain: "win10" });
    await rig.until("Attached");
  });

  test("an edit of the entry ends a contest, and lets what was stalled be tried again", async () => {
    const rig = new Rig();
    rig.ready([stick(5)], wanted);
    for (let i = 0; i < 3; i += 1) {
      await rig.until("Attached");
      rig.take(`/machine/peripheral/${deviceId(stick(5))}`);
    }
    await eventually(() => expect(rig.phase()).toMatch(/^Contested/));
    rig.file({ ...wanted, mark: { ...mark, line: 9 } });
    expect(rig.phase()).toMatch(/^Contested/);
    rig.file({ ...wanted, required: true });
    await rig.until("Attached");

    rig.unplug("1-1");
    rig.answer = () => err({ kind: "terminal", reason: "NoController", message: "none" });
    rig.plug(stick(6));
    await rig.until("Stalled/NoController");
    rig.answer = null;
    rig.file(wanted);
    await rig.until("Attached");
  });

  test("what cannot be opened is tried five times, then a change of the node is waited for", async () => {
    const rig = new Rig();
    rig.answer = () => err({ kind: "transient", reason: "OpenRefused", message: "cannot open" });
    const access = { mode: 0o600, uid: 0, gid: 0 };
    rig.ready([{ ...stick(5), access }], wanted);
    for (let tries = 1; tries < 5; tries += 1) {
      await rig.until("BackingOff/OpenRefused");
      expect(rig.sent).toHaveLength(tries);
      rig.clock.increment(1_000);
    }
    await rig.until("Stalled/OpenRefused");
    expect(rig.sent).toHaveLength(5);
    expect(rig.controller.view.snapshot().devices[0]?.message).toContain("owner 0:0, mode 0600");
    rig.answer = null;
    rig.plug({ ...stick(5), access });
    expect(rig.phase()).toBe("Stalled/OpenRefused");
    rig.plug({ ...stick(5), access: { ...access, mode: 0o660 } });
    await rig.until("Attached");
  });

  test("the host as a whole is Ready while every domain is", async () => {
    const rig = new Rig();
    const ready = () => rig.controller.view.snapshot().conditions.find(({ type }) => type === "Ready");
    rig.ready([stick(5)], wanted, { ...entry("dongle", { vendor: "0529" }), required: true });
    await rig.until("Attached");
    expect(ready()).toMatchObject({ status: "False", reason: "DomainsNotReady" });
    rig.plug({ ...stick(7, "1-3"), vendor: "0529", serial: "B" });
    await eventually(() => expect(ready()).toMatchObject({ status: "True" }));
  });

  test("the host as a whole is Reconciling, or Stalled, while a domain is", async () => {
    const rig = new Rig();
    const types = () => rig.controller.view.snapshot().conditions.map(({ type, status, reason }) => `${type} ${status} ${reason}`);
    rig.answer = () => err({ kind: "transient", reason: "PortBusy", message: "in use" });
    rig.ready([stick(5)], wanted);
    await rig.until("BackingOff/PortBusy");
    expect(types()).toEqual(["Ready False DomainsNotReady", "Reconciling True DomainsReconciling"]);
    rig.answer = () => err({ kind: "terminal", reason: "NoController", message: "none" });
    rig.clock.increment(50);
    await rig.until("Stalled/NoController");
    expect(types()).toEqual(["Ready False DomainsNotReady", "Stalled True DomainsStalled"]);
    rig.answer = null;
    await rig.controller.view.operate({ verb: "retry", device: "stick", domain: "win10" });
    await rig.until("Attached");
    expect(types()).toEqual(["Ready True AsDesired"]);
  });

  test("held, it is given back at once, and attached again when the hold has ended", async () => {
    const rig = new Rig();
    rig.ready([stick(5)], wanted);
    await rig.until("Attached");
    await rig.controller.view.operate({ verb: "detach", device: "stick", domain: "win10", holdMs: 60_000, release: false });
    await eventually(() => expect(rig.phase()).toMatch(/^Held/));
    await eventually(() => expect(rig.objects).toEqual([]));
    expect(rig.saved.holds).toHaveLength(1);
    rig.clock.increment(60_000);
    await rig.until("Attached");
    expect(rig.saved.holds).toEqual([]);
  });

  test("what an operator says is answered once it would survive a crash", async () => {
    const rig = new Rig();
    rig.ready([], wanted);
    let write = (): void => {};
    rig.written = new Promise((resolve) => (write = resolve));
    let answered = false;
    const answer = rig.controller.view.operate({ verb: "pause", domain: "win10" }).then(() => (answered = true));
    await rig.until("Paused/OperatorPaused");
    expect(answered).toBe(false);
    write();
    await answer;
  });

  test("a hold ends by the wall clock, though the host has slept over it", async () => {
    const rig = new Rig();
    rig.ready([stick(5)], wanted);
    await rig.until("Attached");
    await rig.controller.view.operate({ verb: "detach", device: "stick", domain: "win10", holdMs: 3_600_000, release: false });
    await eventually(() => expect(rig.objects).toEqual([]));
    rig.sleptMs = 8 * 3_600_000;
    rig.clock.increment(defaultTimings.auditMs);
    await rig.until("Attached");
  });

  test("a hold that ended while the daemon was away is over, one that has not goes on to its end", async () => {
    const hold = { domain: "win10", release: false, reason: null };
    const holds = [
      { ...hold, device: "stick", until: -1 },
      { ...hold, device: "other", until: 60_000 },
    ];
    const rig = new Rig({ ...noIntentions, holds });
    rig.ready([stick(5), { ...stick(6, "1-2"), product: "0001" }], wanted, entry("other", { product: "0001" }));
    await rig.until("Attached");
    await rig.until("Held/OperatorHold", "other");
    rig.clock.increment(60_000);
    await rig.until("Attached", "other");
    expect(rig.saved.holds).toEqual([]);
  });

  test("what comes back as something else is quarantined until approved", async () => {
    const rig = new Rig();
    rig.ready([stick(5)], entry("stick", { port: "1-1" }));
    await rig.until("Attached");
    rig.unplug("1-1");
    rig.plug({ ...stick(6), product: "beef" });
    await rig.until("Denied/IdentityChanged");
    expect(rig.saved.quarantines).toHaveLength(1);
    await rig.controller.view.operate({ verb: "approve", what: "device", device: "stick", domain: "win10" });
    await rig.until("Attached");
  });

  test("a second impostor within the time of the first is one as well, what was admitted is not", async () => {
    const rig = new Rig();
    rig.ready([stick(5)], entry("stick", { port: "1-1" }));
    await rig.until("Attached");
    rig.unplug("1-1");
    rig.plug({ ...stick(6), product: "beef" });
    await rig.until("Denied/IdentityChanged");
    rig.unplug("1-1");
    rig.plug({ ...stick(7), product: "f00d" });
    await rig.until("Denied/IdentityChanged");
    rig.unplug("1-1");
    rig.plug(stick(8));
    await rig.until("Attached");
  });

  test("an impostor stays one when its interfaces become known", async () => {
    const rig = new Rig();
    rig.policy$.next({ kind: "valid", policy: { ...openPolicy, rules: [allow(["input"])] }, problems: [] });
    rig.ready([stick(5)], entry("stick", { port: "1-1" }));
    rig.policy$.next({ kind: "valid", policy: { ...openPolicy, rules: [allow(["input"])] }, problems: [] });
    await rig.until("Attached");
    rig.unplug("1-1");
    rig.plug({ ...stick(6), product: "beef", interfaces: null });
    await rig.until("Denied/IdentityChanged");
    rig.plug({ ...stick(6), product: "beef" });
    await rig.until("Denied/IdentityChanged");
  });

  test("of one entry several places can be quarantined; approving lets all of them in", async () => {
    const rig = new Rig();
    const two = [stick(5, "1-1.1"), stick(6, "1-1.2")];
    rig.ready(two, { ...entry("stick", { under: "1-1" }), count: "all" });
    await eventually(() => expect(rig.objects).toHaveLength(2));
    for (const device of two) {
      rig.unplug(device.busid);
      rig.plug({ ...device, address: device.address + 2, inode: device.inode + 2, product: "beef" });
    }
    await eventually(() => expect(rig.phases()).toEqual(["Denied/IdentityChanged", "Denied/IdentityChanged"]));
    expect(rig.saved.quarantines).toHaveLength(2);
    await rig.controller.view.operate({ verb: "approve", what: "device", device: "stick", domain: "win10" });
    await eventually(() => expect(rig.phases()).toEqual(["Attached", "Attached"]));
  });

  test("of two built-in denials one is lifted: freeing the other lets it in", async () => {
    const rig = new Rig();
    rig.inUse = { disks: ["sdb1 (mounted on /srv)"], routes: ["eth1"] };
    rig.ready([], wanted);
    rig.policy$.next({ kind: "valid", policy: { ...openPolicy, rules: [allow(["disk-in-use"])] }, problems: [] });
    rig.plug(stick(5));
    await rig.until("Denied/DefaultRoute");
    rig.inUse = { disks: ["sdb1 (mounted on /srv)"], routes: [] };
    rig.clock.increment(defaultTimings.auditMs);
    await rig.until("Attached");
  });

  test("what is taken away while it is not wanted there is no contest", async () => {
    const rig = new Rig();
    rig.ready([stick(5)], wanted);
    await rig.until("Attached");
    await rig.controller.view.operate({ verb: "pause", domain: "win10" });
    for (let i = 0; i < 4; i += 1) {
      rig.take(`/machine/peripheral/${deviceId(stick(5))}`);
      rig.objects = [objectOf(stick(5), 1)];
      rig.tell();
    }
    await rig.controller.view.operate({ verb: "resume", domain: "win10" });
    await rig.until("Attached");
    rig.take(`/machine/peripheral/${deviceId(stick(5))}`);
    await rig.until("Attached");
  });

  test("the same told again cuts no wait short", async () => {
    const rig = new Rig();
    rig.answer = () => err({ kind: "transient", reason: "PortBusy", message: "in use" });
    rig.ready([stick(5)], wanted);
    await rig.until("BackingOff/PortBusy");
    rig.tell();
    rig.plug(stick(5));
    rig.host$.next({ kind: "snapshot", devices: [stick(5)] });
    await eventually(() => expect(rig.phase()).toBe("BackingOff/PortBusy"));
    expect(rig.sent).toHaveLength(1);
  });

  test("quick replugs of one of several are counted too", async () => {
    const rig = new Rig();
    rig.ready([stick(5)], { ...wanted, count: "all" });
    for (let address = 6; address < 20; address += 1) {
      rig.unplug("1-1");
      rig.plug(stick(address));
    }
    await eventually(() => expect(rig.phase()).toMatch(/^Flapping/));
    rig.clock.increment(defaultTimings.flapHoldMs);
    await rig.until("Attached");
  });

  test("a paused domain is Ready, and what it has is not missing", async () => {
    const rig = new Rig();
    rig.ready([stick(5)], { ...wanted, required: true });
    await rig.until("Attached");
    await rig.controller.view.operate({ verb: "pause", domain: "win10" });
    await eventually(() => expect(rig.phase()).toMatch(/^Paused/));
    expect(rig.controller.view.snapshot().domains[0]?.conditions).toMatchObject([{ type: "Ready", status: "True" }]);
    rig.unplug("1-1");
    expect(rig.controller.view.snapshot().domains[0]?.conditions).toMatchObject([
      { type: "Ready", status: "False", reason: "DevicesMissing" },
    ]);
  });

  test("quick replugs are held off until the device stays", async () => {
    const rig = new Rig();
    rig.ready([stick(5)], wanted);
    for (let address = 6; address < 20; address += 1) {
      rig.unplug("1-1");
      rig.plug(stick(address));
    }
    await eventually(() => expect(rig.phase()).toMatch(/^Flapping/));
    rig.clock.increment(defaultTimings.flapHoldMs);
    await rig.until("Attached");
  });
});

describe("in the middle of an attach", () => {
  /** @returns an attach that is under way, and what ends it */
  const underWay = async (...entries: DesiredDevice[]) => {
    const rig = new Rig();
    rig.ready([], ...entries);
    let answer = (): void => {};
    rig.late = new Promise((resolve) => (answer = resolve));
    rig.plug(stick(5));
    await rig.until("Attaching");
    return {
      rig,
      answer: () => {
        rig.late = null;
        answer();
      },
    };
  };
  const del = (device: HostDevice): string => `del ${deviceId(device)}`;

  test("a hold: what came in goes out again", async () => {
    const { rig, answer } = await underWay(wanted);
    await rig.controller.view.operate({ verb: "detach", device: "stick", domain: "win10", holdMs: 60_000, release: false });
    expect(rig.phase()).toBe("Held/OperatorHold");
    answer();
    await eventually(() => expect(rig.sent).toEqual(["add 1-1 1", del(stick(5))]));
    expect(rig.objects).toEqual([]);
    await rig.until("Held/OperatorHold");
  });

  test("an unplug: the dead object is cleared, and the device that comes next goes in", async () => {
    const { rig, answer } = await underWay(wanted);
    rig.unplug("1-1");
    answer();
    await eventually(() => expect(rig.sent).toContain(del(stick(5))));
    await rig.until("WaitingForHost");
    rig.plug(stick(6));
    await rig.until("Attached");
    expect(rig.objects.map(({ id }) => id)).toEqual([deviceId(stick(6))]);
  });

  test("a pause: it stays as it came", async () => {
    const { rig, answer } = await underWay(wanted);
    await rig.controller.view.operate({ verb: "pause", domain: "win10" });
    answer();
    await eventually(() => expect(rig.objects).toHaveLength(1));
    await rig.until("Paused/OperatorPaused");
    await rig.controller.view.operate({ verb: "resume", domain: "win10" });
    await rig.until("Attached");
    expect(rig.sent).toEqual(["add 1-1 1"]);
  });

  test("another name for the entry: it goes in once", async () => {
    const { rig, answer } = await underWay(wanted);
    rig.file({ ...wanted, name: "renamed" });
    answer();
    await rig.until("Attached", "renamed");
    expect(rig.objects).toHaveLength(1);
    expect(rig.sent.filter((command) => command.startsWith("del"))).toEqual([]);
  });

  test("a QEMU that is gone: the next one gets it", async () => {
    const { rig, answer } = await underWay(wanted);
    rig.domains$.next({ kind: "gone", key: "win10#1" });
    await rig.until("WaitingForDomain/DomainAbsent");
    rig.life = "win10#2";
    rig.tell();
    answer();
    await rig.until("Attached");
    expect(rig.controller.view.snapshot().devices[0]?.guest).toMatchObject({ port: 1, attached: true });
  });
});

describe("plan", () => {
  const changes = (rig: Rig, ...given: DesiredDomain[]) => {
    rig.given = given;
    return rig.controller.view
      .plan([{ name: "win10.yaml", text: "" }])
      .changes.map(({ domain: of, name, action }) => `${of} ${name} ${action}`);
  };
  const attached = async (...entries: DesiredDevice[]): Promise<Rig> => {
    const rig = new Rig();
    rig.ready([stick(5)], ...entries);
    await rig.until("Attached");
    return rig;
  };

  test("an entry that a given file has no more is detached, unless it said leave", async () => {
    expect(changes(await attached(wanted), spec())).toEqual([`win10 ${deviceId(stick(5))} detach`]);
    expect(changes(await attached({ ...wanted, onRemove: "leave" }), spec())).toEqual([]);
  });
  test("a domain that a given file names no more is given up", async () => {
    expect(changes(await attached(wanted), { ...spec(), name: "other", target: { by: "name", name: "other" } })).toEqual([
      `win10 ${deviceId(stick(5))} detach`,
    ]);
  });
  test("another metadata.name for the same domain is a rename: nothing moves", async () => {
    expect(changes(await attached(wanted), { ...spec(wanted), name: "other" })).toEqual([]);
    const leaving = await attached({ ...wanted, onRemove: "leave" });
    expect(changes(leaving, { ...spec(), name: "other" })).toEqual([]);
  });
  test("nothing is touched by it", async () => {
    const rig = await attached(wanted);
    const sent = [...rig.sent];
    changes(rig, spec());
    expect([rig.sent, rig.phase()]).toEqual([sent, "Attached"]);
  });
});

describe("files that vanish", () => {
  const three = (more: Partial<DesiredDevice> = {}) =>
    [1, 2, 3].map((i) => ({ ...entry(`d${String(i)}`, { port: `1-${String(i)}` }), ...more }));
  const vanish = (rig: Rig): void => {
    rig.tree$.next({
      directory: "present",
      files: new Map([["b.yaml", { kind: "read", domains: [{ ...spec(), name: "b", target: { by: "name", name: "b" } }], warnings: [] }]]),
    });
    rig.clock.increment(defaultTimings.vanishMs);
  };
  const reasons = (rig: Rig) => rig.controller.view.snapshot().conditions.map(({ reason }) => reason);
  const attached = async (more: Partial<DesiredDevice> = {}): Promise<Rig> => {
    const rig = new Rig();
    rig.ready([stick(5, "1-1"), stick(6, "1-2"), stick(7, "1-3")], ...three(more));
    await eventually(() => expect(rig.phases()).toEqual(["Attached", "Attached", "Attached"]));
    return rig;
  };

  test("count what is attached where the monitor does not answer just now", async () => {
    const rig = await attached();
    rig.domains$.next({ kind: "domain", domain: { ...domain(rig.objects), monitorState: "busy" } });
    expect(rig.phases()[0]).toBe("WaitingForDomain/MonitorBusy");
    vanish(rig);
    expect(reasons(rig)).toContain("MassDetach");
  });
  test("speak for their domain no more: it is shown as any that no file names, and not at all when it is not there", async () => {
    const rig = await attached();
    rig.domains$.next({ kind: "gone", key: "win10#1" });
    vanish(rig);
    const names = () => rig.controller.view.snapshot().domains.map(({ name }) => name);
    expect(names()).toEqual(["b"]);
    rig.tell();
    expect(names()).toEqual(["b", "win10"]);
    expect(rig.controller.view.snapshot().domains[1]).toMatchObject({ mode: "none", file: null, observedGeneration: null });
    const answer = await rig.controller.view.operate({ verb: "retry", device: "d1", domain: "win10" });
    expect(answer).toMatchObject({ ok: false, kind: "unknown-name" });
  });
  test("take along what came in just as they were decided to be gone", async () => {
    const rig = new Rig();
    rig.ready([], wanted);
    let answer = (): void => {};
    rig.late = new Promise((resolve) => (answer = resolve));
    rig.plug(stick(5));
    await rig.until("Attaching");
    vanish(rig);
    expect(rig.phase()).toBe("none");
    answer();
    await eventually(() => expect(rig.sent).toEqual(["add 1-1 1", `del ${deviceId(stick(5))}`]));
    expect(rig.saved.vanished).toHaveLength(1);
    for (let audits = 0; audits < 2; audits += 1) {
      rig.clock.increment(defaultTimings.auditMs);
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(rig.saved.vanished).toEqual([]);
  });
  test("and do not count what stays", async () => {
    const rig = await attached({ onRemove: "leave" });
    vanish(rig);
    expect(reasons(rig)).not.toContain("MassDetach");
    expect(rig.objects).toHaveLength(3);
  });
});

test("numbered changes: a client that comes back gets what it missed", async () => {
  const rig = new Rig();
  rig.ready([], wanted);
  await rig.until("WaitingForHost");
  const { id, seq } = rig.controller.view.snapshot();
  rig.plug(stick(5));
  await rig.until("Attached");
  const missed = rig.controller.view.since(id, seq) ?? [];
  expect(missed.map((change) => change.seq)).toEqual(missed.map((_, i) => seq + 1 + i));
  expect(missed.some((change) => change.kind === "device" && change.value?.phase === "Attached")).toBe(true);
  expect(rig.controller.view.since("another life", seq)).toBeNull();
});

test("a client that was away for too long gets no changes, but a fresh snapshot", async () => {
  const rig = new Rig();
  const { view } = rig.controller;
  rig.ready([], wanted);
  const { id, seq } = view.snapshot();
  for (let i = 0; i < 2_000; i += 1) {
    rig.unplug("2-1");
    view.snapshot();
    rig.plug({ ...stick(7, "2-1"), vendor: "ffff", inode: i });
    view.snapshot();
  }
  expect(view.since(id, seq)).toHaveLength(view.snapshot().seq - seq);
  for (let i = 0; i < 1_200; i += 1) {
    rig.unplug("2-1");
    view.snapshot();
    rig.plug({ ...stick(7, "2-1"), vendor: "ffff", inode: i });
    view.snapshot();
  }
  expect(view.since(id, seq)).toBeNull();
  const now = view.snapshot().seq;
  expect(view.since(id, now - 4_000)?.map((change) => change.seq)).toEqual(Array.from({ length: 4_000 }, (_, i) => now - 3_999 + i));
  expect(view.since(id, now)).toEqual([]);
  expect(view.since(id, now + 1)).toBeNull();
});
