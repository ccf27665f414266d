/** product.md §2 and §9 on Xen, as far as they are the planner's: where, what it waits for, what is dead. */
import { describe, expect, test } from "vitest";
import type { DesiredController, DesiredDevice } from "../src/model/desired.ts";
import type { LiveDomain } from "../src/model/domain.ts";
import type { HostDevice } from "../src/model/hostdev.ts";
import { planAll } from "../src/planner/plan.ts";
import {
  controller,
  device,
  entry,
  live,
  liveController,
  onXen,
  pvController,
  recorded,
  replugged,
  spec,
  world,
} from "./support/planner-worlds.ts";

const x = device("1-1");
const full = device("1-2", { speed: 12 });

type Told = { readonly phase: string; readonly target: string; readonly create: unknown; readonly message: string };
function plan(
  domain: LiveDomain,
  host: readonly HostDevice[],
  change: Partial<DesiredDevice> = {},
  controllers: readonly DesiredController[] | null = null,
) {
  const planner = planAll(
    world({ host, domains: [domain], files: [spec("d", [entry("a", { vendor: "0529" }, change)], { controllers })] }),
  );
  const claim = planner.claims.get("d/a");
  const target = claim?.target;
  const told: Told = {
    phase: claim?.verdict === null || claim === undefined ? "-" : `${claim.verdict.phase}/${claim.verdict.reason ?? ""}`,
    target: target === null || target === undefined ? "nowhere" : target === "stay" ? "stay" : `${target.bus}:${String(target.port)}`,
    create: target === null || target === undefined || target === "stay" ? null : target.create,
    message: claim?.verdict?.message ?? "",
  };
  return { told, claim, orphans: [...planner.orphans.values()], drift: planner.domains.get("d")?.drift ?? [] };
}

describe("where", () => {
  test("an HVM domain gets libxl's xHCI under the next devid", () => {
    expect(plan(onXen("d", "hvm", { nextDevid: 3 }), [x]).told).toMatchObject({
      target: "xenusb-3.0:1",
      create: { name: "hci0", driver: "nec-usb-xhci", ports: 8, slot: null, xen: { devid: 3, version: 3 } },
    });
  });

  test("several at once take devids one after the other", () => {
    const domain = onXen("d", "hvm", { nextDevid: 1 });
    const planner = planAll(
      world({
        host: [x, device("1-3")],
        domains: [domain],
        files: [
          spec("d", [entry("a", { serial: "S1-1" }, { controller: "one" }), entry("b", { serial: "S1-3" }, { controller: "two" })], {
            controllers: [controller("one"), controller("two", { version: 2, ports: 6 })],
          }),
        ],
      }),
    );
    expect([...planner.claims.values()].map(({ target }) => (target === null || target === "stay" ? target : target.create))).toMatchObject(
      [
        { name: "one", driver: "nec-usb-xhci", xen: { devid: 1, version: 3 } },
        { name: "two", driver: "usb-ehci", xen: { devid: 2, version: 2 } },
      ],
    );
  });

  test("a full-speed device is not put on libxl's bare EHCI: it gets a controller that takes it", () => {
    const ehci = liveController("xenusb-0.0", { driver: "usb-ehci", version: 2, ports: 6, minSpeed: 480, maxSpeed: 480 });
    expect(plan(onXen("d", "hvm", { nextDevid: 1 }, { controllers: [ehci] }), [full]).told).toMatchObject({ target: "xenusb-1.0:1" });
    expect(plan(onXen("d", "hvm", { nextDevid: 1 }, { controllers: [ehci] }), [x]).told).toMatchObject({
      target: "xenusb-0.0:1",
      create: null,
    });
  });

  test.each(["pv", "pvh"] as const)("%s: the one that is there; else one is made where qusb is served, the kernel's first", (type) => {
    expect(plan(onXen("d", type, { nextDevid: 1 }, { controllers: [pvController(0, "connected")] }), [x]).told.target).toBe(
      "xen-qusb-0.0:1",
    );
    expect(plan(onXen("d", type), [x]).told).toMatchObject({
      target: "xen-qusb-0.0:1",
      create: { name: "pv0", driver: "qusb", xen: { devid: 0, version: 2 } },
    });
    expect(plan(onXen("d", type, { backends: ["usbback", "qusb"] }), [x]).told).toMatchObject({
      target: "usbback-0:1",
      create: { driver: "usbback" },
    });
  });

  test("PV that nobody serves: NoController, with the line to add", () => {
    const { told } = plan(onXen("d", "pv", { backends: [] }), [x]);
    expect(told).toMatchObject({ phase: "Stalled/NoController", target: "stay" });
    expect(told.message).toContain('usbctrl=["type=qusb,version=2,ports=8"]');
  });

  test("where a domain has both kinds, the paravirtual one once it is connected", () => {
    const xhci = liveController("xenusb-0.0", { driver: "nec-usb-xhci" });
    const both = (link: "connected" | "waiting") => onXen("d", "hvm", { nextDevid: 2 }, { controllers: [xhci, pvController(1, link)] });
    expect(plan(both("connected"), [x]).told.target).toBe("xen-qusb-1.0:1");
    expect(plan(both("waiting"), [x]).told.target).toBe("xenusb-0.0:1");
  });

  test.each([
    [{ model: "usbback" }, "Stalled/NoController"],
    [{ model: "qusb1" }, "-"],
    [{ type: "pv", backend: "usbvm" }, "Stalled/BackendNotLocal"],
    [{ type: "pv", backend: "Domain-0" }, "-"],
    [{ type: "emulated" }, "Stalled/NoController"],
    [{ model: "xenusb2" }, "-"],
  ] as const)("PV, declared as %j: %s", (change, phase) => {
    expect(plan(onXen("d", "pv"), [x], { controller: "c" }, [controller("c", change)]).told.phase).toBe(phase);
  });

  test("plain QEMU has no paravirtual controllers", () => {
    expect(plan(live("d"), [x], { controller: "c" }, [controller("c", { type: "pv" })]).told.phase).toBe("Stalled/NoController");
  });

  test("what libxl made is no drift from what was declared in general terms", () => {
    const xhci = liveController("xenusb-0.0", { name: "usb3", driver: "nec-usb-xhci", ours: true });
    expect(plan(onXen("d", "hvm", {}, { controllers: [xhci] }), [x], {}, [controller("usb3")]).drift).toEqual([]);
    expect(plan(onXen("d", "hvm", {}, { controllers: [xhci] }), [x], {}, [controller("usb3", { version: 2 })]).drift).toHaveLength(1);
    const qusb = pvController(0, "connected", { name: "pv0", ours: true });
    expect(plan(onXen("d", "pv", {}, { controllers: [qusb] }), [x], {}, [controller("pv0", { type: "pv" })]).drift).toEqual([]);
  });
});

describe("waiting", () => {
  test("for a controller that somebody is making, instead of making another", () => {
    expect(plan(onXen("d", "pv", { pending: ["pv0"] }), [x]).told).toMatchObject({
      phase: "Attaching/WaitingForController",
      target: "stay",
    });
    expect(plan(onXen("d", "hvm", { pending: ["usb3"] }), [x], { controller: "usb3" }, [controller("usb3")]).told.phase).toBe(
      "Attaching/WaitingForController",
    );
  });

  test("a frontend that has not connected: it is put there, and what is missing is said", () => {
    const free = plan(onXen("d", "pv", {}, { controllers: [pvController(0, "waiting")] }), [x]);
    expect(free.told).toMatchObject({ phase: "-", target: "xen-qusb-0.0:1" });
    const put = plan(onXen("d", "pv", {}, { controllers: [pvController(0, "waiting")], objects: [recorded(x, 1)] }), [x]);
    expect(put.told).toMatchObject({ phase: "WaitingForFrontend/FrontendNotConnected", target: "xen-qusb-0.0:1" });
    expect(put.told.message).toContain("modprobe xen-hcd");
  });

  test("a controller that the system inside has closed is not replaced, and keeps what it has", () => {
    const shut = plan(onXen("d", "pv", {}, { controllers: [pvController(0, "closed")] }), [x]);
    expect(shut.told).toMatchObject({ phase: "WaitingForFrontend/FrontendClosed", target: "stay" });
    const put = plan(onXen("d", "pv", {}, { controllers: [pvController(0, "closed")], objects: [recorded(x, 1)] }), [x]);
    expect(put.told).toMatchObject({ phase: "WaitingForFrontend/FrontendClosed", target: "xen-qusb-0.0:1" });
  });

  test("an obstacle is told, and nothing is touched", () => {
    const obstacle = { phase: "Stalled", reason: "StubDomain", message: "its device model runs elsewhere" } as const;
    const { told } = plan(onXen("d", "hvm", { obstacle }), [x]);
    expect(told).toMatchObject({ phase: "Stalled/StubDomain", target: "stay" });
  });
});

describe("records", () => {
  const pv = (...objects: LiveDomain["objects"]) => onXen("d", "pv", {}, { controllers: [pvController(0, "connected")], objects });

  test("a port with our mark is this enumeration and no other: after a replug it is cleared and set anew", () => {
    expect(plan(pv(recorded(x, 1)), [x]).claim).toMatchObject({ ours: true, verdict: null, owned: { port: 1 } });
    const after = plan(pv(recorded(x, 1)), [replugged(x)]);
    expect(after.orphans).toMatchObject([{ dead: true, target: null }]);
    expect(after.told).toMatchObject({ target: "xen-qusb-0.0:1" });
  });

  test("one without a mark holds whatever is plugged in there; that is adopted, with what it proves", () => {
    const foreign = recorded(x, 2, { ours: false, remark: "Unconfirmed" });
    expect(plan(pv(foreign), [x]).claim).toMatchObject({ ours: false, owned: { port: 2 }, remark: { reason: "Unconfirmed" } });
    expect(plan(pv(foreign), [replugged(x)]).claim).toMatchObject({ owned: { port: 2 } });
    expect(plan(pv(foreign), []).orphans).toMatchObject([{ dead: true, target: null }]);
  });

  test("one behind which there is nothing is dead, though its device is there", () => {
    for (const ours of [true, false]) {
      const { orphans, told } = plan(pv(recorded(x, 1, { ours, attached: false })), [x]);
      expect(orphans).toMatchObject([{ dead: true, target: null }]);
      expect(told.target).toBe("xen-qusb-0.0:1");
    }
  });

  test("in a domain that no file names a dead one is only told, with the command that clears it", () => {
    const planner = planAll(world({ host: [], domains: [pv(recorded(x, 1, { ours: false, attached: false }))], files: [] }));
    const [orphan] = planner.orphans.values();
    expect(orphan).toMatchObject({ dead: true, target: "stay" });
    expect(orphan?.why).toContain('xenstore-write /local/domain/0/backend/qusb/7/0/port/1 ""');
  });
});
