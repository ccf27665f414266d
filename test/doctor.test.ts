/** `doctor`: each finding from the facts that it stands for, the facts of a simulated Xen host, and the command. */
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { parse } from "yaml";
import { examineHost } from "../src/adapters/host-checkup.ts";
import { examineXen } from "../src/adapters/xen-checkup.ts";
import type { AppFactory } from "../src/interfaces/cli/context.ts";
import { main } from "../src/interfaces/cli/program.ts";
import { createApiServer } from "../src/interfaces/http/server.ts";
import { checkDaemon, checkHost, type HostFacts, type HostFinding, type LiveFacts } from "../src/model/checkup.ts";
import { checkXen, type XenDomainFacts, type XenHostFacts } from "../src/model/xen-checkup.ts";
import { parseConfiguredDevices } from "../src/protocol/xl-cfg.ts";
import { createSimHost, type SimHost } from "../src/sim/world.ts";
import { quickTimings, realClock } from "./support/domains-rig.ts";
import { domain as domainStatus, createFakeView } from "./support/fake-view.ts";
import { smallDelays } from "./support/rig.ts";
import { silentLog } from "./support/logs.ts";

const reasons = (found: readonly HostFinding[]): string[] => found.map(({ severity, reason }) => `${severity} ${reason}`);

describe("a host", () => {
  const fine: HostFacts = {
    node: "20.19.0",
    leastNode: "20.19.0",
    root: true,
    sysfs: { path: "/sys/bus/usb/devices", state: "usable" },
    nodes: { path: "/dev/bus/usb", state: "usable" },
    state: { path: "/var/lib/plugherd", state: "usable" },
    monitors: { path: "/run/plugherd/qmp", state: "usable" },
    specs: { path: "/etc/plugherd/domains", state: "usable", files: 1, errors: 0, warnings: 0, first: null },
    policy: { path: "/etc/plugherd/policy.yaml", state: "usable", files: 1, errors: 0, warnings: 0, first: null },
  };
  test("where nothing is wrong", () => expect(checkHost(fine)).toEqual([]));
  test.each<[Partial<HostFacts>, string]>([
    [{ node: "20.18.3" }, "problem NodeTooOld"],
    [{ node: "18.20.0" }, "problem NodeTooOld"],
    [{ root: false }, "note NotRoot"],
    [{ sysfs: { ...fine.sysfs, state: "missing" } }, "problem SysfsUnreadable"],
    [{ sysfs: { ...fine.sysfs, state: "denied" } }, "problem SysfsUnreadable"],
    [{ nodes: { ...fine.nodes, state: "missing" } }, "problem DeviceNodesUnreadable"],
    [{ nodes: { ...fine.nodes, state: "denied" } }, "problem DeviceNodesUnreadable"],
    [{ state: { ...fine.state, state: "denied" } }, "problem StateNotWritable"],
    [{ monitors: { ...fine.monitors, state: "denied" } }, "problem MonitorDirUnreadable"],
    [{ monitors: { ...fine.monitors, state: "other" } }, "problem MonitorDirUnreadable"],
    [{ monitors: { ...fine.monitors, state: "missing" } }, "note MonitorDirMissing"],
    [{ specs: { ...fine.specs, state: "missing" } }, "warning SpecsMissing"],
    [{ specs: { ...fine.specs, files: 0 } }, "warning SpecsMissing"],
    [{ specs: { ...fine.specs, state: "denied" } }, "problem SpecsUnreadable"],
    [{ specs: { ...fine.specs, errors: 1, first: "a.yaml:1:1: error: bad" } }, "problem SpecsInvalid"],
    [{ specs: { ...fine.specs, warnings: 2, first: "a.yaml:1:1: warning: hm" } }, "warning SpecsDoubtful"],
    [{ policy: { ...fine.policy, state: "missing" } }, "note PolicyMissing"],
    [{ policy: { ...fine.policy, errors: 2, first: "bad" } }, "problem PolicyInvalid"],
  ])("%j", (facts, reason) => {
    const found = checkHost({ ...fine, ...facts });
    expect(reasons(found)).toEqual([reason]);
    expect(found[0]?.remedy).toBeTruthy();
  });
  test("newer than asked for", () => expect(checkHost({ ...fine, node: "22.0.0" })).toEqual([]));
});

describe("a daemon", () => {
  const fine: LiveFacts = { version: "1.0.0", ready: true, conditions: [], monitors: [] };
  const monitor = (path: string, state = "answering") => [{ domain: "hvm1", path, state }];
  test.each<[Partial<LiveFacts>, string[]]>([
    [{}, []],
    [{ version: "0.9.0" }, ["warning VersionsDiffer"]],
    [{ ready: false }, ["warning NotReady"]],
    [{ conditions: [{ about: "win 10", reason: "NoController", message: "m", stalled: true }] }, ["problem NoController"]],
    [{ conditions: [{ about: "daemon", reason: "DomainsNotReady", message: "m", stalled: false }] }, ["warning DomainsNotReady"]],
    [{ monitors: monitor("/run/plugherd/qmp/a.sock") }, []],
    [{ monitors: monitor("/run/plugherd/qmp/a.sock", "busy") }, ["problem MonitorBusy"]],
    [{ monitors: monitor("/var/run/xen/qmp-libxenstat-7") }, ["note LibxenstatHeld"]],
  ])("%j", (facts, expected) => {
    expect(reasons(checkDaemon({ live: { ...fine, ...facts } }, "1.0.0"))).toEqual(expected);
  });
  test("that is not there", () => {
    expect(checkDaemon({ unreachable: { message: "It does not run.", remedy: "Start it." } }, "1")).toEqual([
      { severity: "warning", reason: "DaemonUnreachable", about: "daemon", message: "It does not run.", remedy: "Start it." },
    ]);
  });
  test("names are quoted for the shell", () => {
    const [found] = checkDaemon({ live: { ...fine, conditions: [{ about: "it's", reason: "R", message: "m", stalled: true }] } }, "1.0.0");
    expect(found?.remedy).toBe(`plugherd describe 'it'\\''s'`);
  });
});

describe("a Xen host", () => {
  const fine: XenHostFacts = {
    way: { kind: "socket", path: "/run/xenstored/socket" },
    daemon: "c",
    trouble: null,
    xlTrouble: null,
    flock: true,
    xenLib: { path: "/var/lib/xen", usable: true },
    usbback: false,
    domains: [],
    strays: [],
    busids: new Set(["1-1"]),
    addresses: new Set(["1.2"]),
    configs: [],
  };
  const always = ["note XenstoreReached", "note UsbbackMissing"];
  const find = (facts: Partial<XenHostFacts>): readonly HostFinding[] =>
    checkXen({ ...fine, ...facts }).filter((one) => !always.includes(reasons([one])[0] ?? ""));
  const hvm: XenDomainFacts = {
    domid: 7,
    name: "hvm1",
    type: "hvm",
    traditional: false,
    stubdom: null,
    restricted: false,
    qusb: true,
    controllers: [],
  };
  const port = (busid: string) => [{ path: "/libxl/7/device/vusb/0/port/1", port: 1, busid }];
  const emulated = { devid: 0, type: "devicemodel", stuck: false, absent: false, ports: [] } as const;
  const qusb = { devid: 0, type: "qusb", stuck: false, absent: null, ports: [] } as const;
  const config = { file: "/etc/xen/a.cfg", line: 3, key: "usbdev", text: "hostbus=1,hostaddr=2", bus: 1, address: 2 } as const;

  test.each<[Partial<XenHostFacts>, string]>([
    [{ daemon: "c" }, "C xenstored is reached by its socket."],
    [{ daemon: "ocaml" }, "oxenstored is reached by its socket."],
    [{ daemon: null, way: { kind: "device", path: "/dev/xen/xenbus" } }, "xenstored is reached by the kernel's device"],
  ])("says which xenstored, and how it is reached: %j", (facts, text) => {
    const [first] = checkXen({ ...fine, ...facts });
    expect(first).toMatchObject({ reason: "XenstoreReached", about: facts.way?.path ?? fine.way.path });
    expect(first?.message).toContain(text);
  });
  test("where nothing is wrong", () => expect(find({ domains: [{ ...hvm, controllers: [qusb] }] })).toEqual([]));
  test.each<[Partial<XenHostFacts>, string[]]>([
    [{ way: { kind: "absent", path: "/x" } }, ["problem XenstoreAbsent"]],
    [{ trouble: "EACCES" }, ["problem XenstoreUnreachable"]],
    [{ xlTrouble: "there is no program xl" }, ["problem XlUnusable"]],
    [{ flock: false }, ["problem FlockMissing"]],
    [{ xenLib: { path: "/var/lib/xen", usable: false } }, ["problem XenLibUnreadable"]],
    [{ usbback: true }, ["note UsbbackLoaded"]],
    [{ domains: [{ ...hvm, type: null }] }, ["note ForeignToolstack"]],
    [{ domains: [{ ...hvm, stubdom: 8 }] }, ["warning StubDomain"]],
    [{ domains: [{ ...hvm, restricted: true }] }, ["warning DeviceModelRestricted"]],
    [{ domains: [{ ...hvm, traditional: true }] }, ["note Unverified"]],
    [{ domains: [{ ...hvm, type: "pv", qusb: false }] }, ["warning NoController"]],
    [{ domains: [{ ...hvm, type: "pvh", qusb: false }], usbback: true }, ["note UsbbackLoaded"]],
    [{ domains: [{ ...hvm, controllers: [emulated] }] }, ["warning NotSaveable"]],
    [{ domains: [{ ...hvm, controllers: [{ ...emulated, absent: true }] }] }, ["warning PhantomController", "warning NotSaveable"]],
    [{ domains: [{ ...hvm, controllers: [{ ...qusb, stuck: true }] }] }, ["warning PhantomController"]],
    [{ domains: [{ ...hvm, controllers: [{ ...qusb, ports: port("1-1") }] }] }, ["warning NotSaveable"]],
    [{ domains: [{ ...hvm, type: "pv", controllers: [{ ...qusb, ports: port("1-1") }] }] }, []],
    [{ domains: [{ ...hvm, type: "pv", controllers: [{ ...qusb, ports: port("1-9") }] }] }, ["problem DeadRecord"]],
    [{ strays: [{ path: "/local/domain/0/backend/qusb/5", busids: [] }] }, ["note StrayRecord"]],
    [{ strays: [{ path: "/local/domain/0/backend/qusb/5", busids: ["1-9"] }] }, ["warning StrayRecord"]],
    [{ configs: [config] }, ["warning UsbdevInConfig"]],
    [{ configs: [{ ...config, address: 3 }] }, ["problem UsbdevInConfig"]],
    [{ configs: [{ ...config, address: null }] }, ["warning UsbdevInConfig"]],
    [{ configs: [{ ...config, key: "usbdevice", text: "host:1.2" }] }, ["problem UsbdeviceInConfig"]],
  ])("%j", (facts, expected) => {
    const found = find(facts);
    expect(reasons(found)).toEqual(expected);
    expect(found.every(({ reason, remedy }) => remedy !== null || reason === "UsbbackLoaded")).toBe(true);
  });
  test("tells the line of a configuration, and the node of a dead record", () => {
    expect(find({ configs: [config] })[0]?.about).toBe("/etc/xen/a.cfg:3");
    const [dead] = find({ domains: [{ ...hvm, type: "pv", controllers: [{ ...qusb, ports: port("1-9") }] }] });
    expect(dead?.remedy).toContain('xenstore-write /libxl/7/device/vusb/0/port/1 ""');
  });
});

test("devices in xl's configurations", () => {
  const text = `name = "usbdev"   # usbdev=["hostbus=9"]
usbdev=["type=hostdev,hostbus=1,hostaddr=5", 'hostbus=0x10, hostaddr=010'] # two
#usbdev=["hostbus=9,hostaddr=9"]
  usbdev = [
    "hostbus=1,hostaddr=08", # no number
    # "hostbus=9,hostaddr=9",
    "hostaddr=6"
  ]
usbdevice = "tablet"
usbdevice = ["tablet", "host:046d:c31c"]
usbdev=[]
usbctrl=["type=auto"]
`;
  expect(parseConfiguredDevices(text)).toEqual([
    { line: 2, key: "usbdev", text: "type=hostdev,hostbus=1,hostaddr=5", bus: 1, address: 5 },
    { line: 2, key: "usbdev", text: "hostbus=0x10, hostaddr=010", bus: 16, address: 8 },
    { line: 5, key: "usbdev", text: "hostbus=1,hostaddr=08", bus: 1, address: null },
    { line: 7, key: "usbdev", text: "hostaddr=6", bus: null, address: 6 },
    { line: 10, key: "usbdevice", text: "host:046d:c31c", bus: null, address: null },
  ]);
});

const open: (() => unknown)[] = [];
let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "plugherd-doctor-"));
  open.push(() => rmSync(dir, { recursive: true, force: true }));
});
afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close();
});

describe("facts", () => {
  const qusb = [{ type: "qusb", version: 2, ports: 4 }] as const;
  const examine = (host: SimHost, xl = host.paths.xl) =>
    examineXen(
      { ...host.paths, xl, configs: join(dir, "xen") },
      {
        clock: realClock,
        timings: { ...quickTimings, recordSettleMs: 20 },
      },
    );
  const start = async (daemon: "c" | "ocaml"): Promise<SimHost> => {
    const host = await createSimHost({
      delays: smallDelays,
      given: {
        xen: { daemon },
        host: [{ busid: "1-1", kind: "stick" }],
        domains: [
          { name: "hvm1", type: "hvm", usbctrl: [{ version: 3, ports: 4 }] },
          { name: "pv1", type: "pv", usbctrl: qusb },
        ],
      },
    });
    open.push(() => host.close());
    return host;
  };

  test.each(["c", "ocaml"] as const)("of a simulated Xen host as %s", async (daemon) => {
    const host = await start(daemon);
    const store = host.xen?.store;
    await host.xen?.xl.usbdevAttach("pv1", { hostbus: 1, hostaddr: 2 });
    const facts = await examine(host);
    expect(facts).toMatchObject({ way: { kind: "socket", path: host.paths.xenstore }, daemon, trouble: null, xlTrouble: null, strays: [] });
    expect(facts?.xenLib.usable).toBe(true);
    expect([...(facts?.busids ?? [])]).toEqual(["1-1"]);
    expect([...(facts?.addresses ?? [])]).toEqual(["1.2"]);
    const pv = facts?.domains.find(({ name }) => name === "pv1");
    const held = `/local/domain/0/backend/qusb/${String(pv?.domid)}/0/port/1`;
    expect(pv).toMatchObject({ type: "pv", qusb: true, stubdom: null, restricted: false, traditional: false });
    expect(pv?.controllers).toEqual([
      { devid: 0, type: "qusb", stuck: false, absent: null, ports: [{ port: 1, busid: "1-1", path: held }] },
    ]);
    expect(facts?.domains.find(({ name }) => name === "hvm1")?.controllers).toMatchObject([
      { type: "devicemodel", stuck: false, ports: [] },
    ]);

    host.unplug("1-1");
    store?.write("/local/domain/0/backend/qusb/99/0/port/1", "1-7");
    store?.write("/libxl/98/device/vusb/0/port/1", "");
    const later = await examine(host);
    expect(later?.strays).toEqual([
      { path: "/local/domain/0/backend/qusb/99", busids: ["1-7"] },
      { path: "/libxl/98", busids: [] },
    ]);
    expect(reasons(checkXen(later ?? expect.fail("no Xen host")))).toContain("problem DeadRecord");
  });

  test("controllers that nobody serves, and that QEMU lacks", async () => {
    const host = await start("c");
    const xl = join(dir, "xl");
    writeFileSync(
      xl,
      `#!/bin/sh
[ "$1" = qemu-monitor-command ] || exec ${host.paths.xl} "$@"
[ "$3" = "qom-list /machine/peripheral" ] && printf 'type (string)\\nxenusb-7 (child<nec-usb-xhci>)\\n'
`,
    );
    chmodSync(xl, 0o755);
    const domid = String(host.xen?.xl.domain("pv1").domid);
    host.xen?.store.write(`/local/domain/0/backend/qusb/${domid}/0/state`, "1");
    const facts = await examine(host, xl);
    expect(facts?.domains.find(({ name }) => name === "pv1")?.controllers[0]?.stuck).toBe(true);
    expect(facts?.domains.find(({ name }) => name === "hvm1")?.controllers[0]?.absent).toBe(true);
  });

  test("configurations are read once, also through a link", async () => {
    const host = await start("c");
    mkdirSync(join(dir, "xen", "auto"), { recursive: true });
    writeFileSync(join(dir, "xen", "a.cfg"), '\nusbdev=["hostbus=1,hostaddr=2"]\n');
    writeFileSync(join(dir, "xen", "README"), 'usbdev=["hostbus=1,hostaddr=2"]\n');
    symlinkSync("../a.cfg", join(dir, "xen", "auto", "10-a"));
    const facts = await examine(host);
    expect(facts?.configs).toMatchObject([{ file: join(dir, "xen", "a.cfg"), line: 2, bus: 1, address: 2 }]);
  });

  test("a xenstored that is silent, and a host that is none of Xen's", async () => {
    const host = await start("c");
    host.xen?.store.hang(true);
    expect((await examine(host))?.trouble).toContain("no answer");
    host.xen?.store.hang(false);
    expect(await examineXen({ ...host.paths, xenstore: join(dir, "none") }, { clock: realClock, timings: quickTimings })).toBeNull();
    mkdirSync(join(host.paths.proc, "xen"));
    writeFileSync(join(host.paths.proc, "xen/capabilities"), "control_d\n");
    const absent = await examineXen({ ...host.paths, xenstore: join(dir, "none") }, { clock: realClock, timings: quickTimings });
    expect(absent).toMatchObject({ way: { kind: "absent" }, trouble: null });
  });

  test("of places and files", async () => {
    const places = {
      specs: join(dir, "specs"),
      policy: join(dir, "policy.yaml"),
      qmpDir: join(dir, "qmp"),
      sysfs: join(dir, "sys"),
      dev: join(dir, "dev"),
      state: join(dir, "a/b"),
    };
    const bare = await examineHost(places, "20.19");
    expect([bare.sysfs, bare.nodes, bare.state, bare.monitors, bare.specs, bare.policy].map(({ state }) => state)).toEqual([
      ...["missing", "missing", "usable", "missing", "missing", "missing"],
    ]);
    for (const one of ["specs", "sys/bus/usb/devices", "dev/bus/usb"]) mkdirSync(join(dir, one), { recursive: true });
    writeFileSync(join(dir, "specs/a.yaml"), "kind: Nothing\n");
    symlinkSync("nowhere", join(dir, "specs/b.yaml"));
    writeFileSync(places.policy, "apiVersion: plugherd/v1\nkind: HostPolicy\ndefault: deny\n");
    for (const one of ["qmp", "a"]) writeFileSync(join(dir, one), "");
    const full = await examineHost(places, "20.19");
    expect([full.sysfs, full.nodes, full.state, full.monitors, full.specs, full.policy].map(({ state }) => state)).toEqual([
      ...["usable", "usable", "other", "other", "usable", "usable"],
    ]);
    expect(full.specs.files).toBe(2);
    expect(full.specs.errors).toBeGreaterThan(1);
    expect(full.specs.first).toContain("b.yaml cannot be read");
    expect(full.policy).toMatchObject({ files: 1, errors: 0, first: null });
  });
});

describe("the command", () => {
  const noApp: AppFactory = () => Promise.reject(new Error("no app in this test"));
  const run = async (argv: readonly string[], env: Record<string, string> = {}) => {
    const ran = { out: "", err: "" };
    const io = {
      stdout: { write: (text: string) => (ran.out += text) },
      stderr: { write: (text: string) => (ran.err += text) },
      env,
      now: () => 0,
      stopping: () => new AbortController().signal,
    };
    return { code: await main(argv, io, { createApp: noApp }), ...ran };
  };
  const options = (): string[] => [
    ...["specs", "policy", "qmp-dir", "sysfs", "dev", "proc", "state", "xenstore", "xen-lib"].flatMap((name) => [
      `--${name}`,
      join(dir, name),
    ]),
    ...["--api", join(dir, "api.sock")],
  ];

  test("works without a daemon, finds, and ends with 0", async () => {
    const { code, out, err } = await run(["doctor", ...options(), "-o", "json"]);
    expect([code, err]).toEqual([0, ""]);
    const found = JSON.parse(out) as HostFinding[];
    expect(Object.keys(found[0] ?? {})).toEqual(["severity", "reason", "about", "message", "remedy"]);
    expect(reasons(found)).toEqual(
      expect.arrayContaining([
        "problem SysfsUnreadable",
        "problem DeviceNodesUnreadable",
        "warning DaemonUnreachable",
        "warning SpecsMissing",
      ]),
    );
    const text = await run(["doctor", ...options()]);
    expect(text.code).toBe(0);
    expect(text.out).toContain(
      `problem  SysfsUnreadable  ${join(dir, "sysfs")}/bus/usb/devices: The kernel shows no USB devices.\n         -> Mount sysfs`,
    );
    expect(text.out).toMatch(/\n\d+ problems, \d+ warnings?, \d+ notes?\n$/);
    expect(parse((await run(["doctor", ...options(), "-o", "yaml"])).out)).toEqual(found);
  });

  test("tells what the live daemon tells", async () => {
    const view = createFakeView({
      domains: [
        domainStatus("win10", {
          conditions: [
            { type: "Ready", status: "False", reason: "Stalled", message: "a" },
            { type: "Stalled", status: "True", reason: "NoController", message: "No room." },
          ],
        }),
      ],
    });
    const server = createApiServer({ view, log: silentLog, version: "0.0.1", socket: join(dir, "api.sock"), tcp: null });
    await server.start();
    open.push(() => server.stop());
    const found = JSON.parse((await run(["doctor", ...options(), "-o", "json"])).out) as HostFinding[];
    expect(found.filter(({ about }) => about === "win10")).toEqual([
      { severity: "problem", reason: "NoController", about: "win10", message: "No room.", remedy: "plugherd describe win10" },
    ]);
    expect(reasons(found)).toContain("warning VersionsDiffer");
    expect(reasons(found)).not.toContain("warning DaemonUnreachable");
  });

  test("a config file that cannot be read is told as run does", async () => {
    expect((await run(["doctor", "--config", join(dir, "none")])).code).toBe(5);
    expect((await run(["doctor", "-o", "xml"])).code).toBe(2);
  });
});
