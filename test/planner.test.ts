/** product.md §2, §3, §4 and §9 sentence by sentence, as far as they are the planner's. */
import { describe, expect, test } from "vitest";
import { compareBusids } from "../src/model/busid.ts";
import { fingerprintOf, instanceOf } from "../src/model/hostdev.ts";
import type { ClaimPlan, OrphanPlan, Planner } from "../src/model/world.ts";
import { admitAnywhere } from "../src/planner/admit.ts";
import { createPlanner, planAll } from "../src/planner/plan.ts";
import { globMatches, selectorMatches } from "../src/planner/selector.ts";
import {
  classPattern,
  controller,
  device,
  entry,
  forced,
  live,
  liveController,
  OUR_BUS,
  ourController,
  ours,
  policyOf,
  realise,
  replugged,
  rule,
  scanning,
  selector,
  served,
  spec,
  theirs,
  type WorldParts,
  world,
} from "./support/planner-worlds.ts";

const plan = (parts: WorldParts): Planner => planAll(world(parts));

/** What a claim comes to, in one line: phase/reason of the verdict, or where it should be. */
function told(claim: ClaimPlan | undefined): string {
  if (claim === undefined) return "no claim";
  const target =
    claim.target === null
      ? "nowhere"
      : claim.target === "stay"
        ? "stay"
        : `${claim.target.device.busid} on ${claim.target.bus}:${String(claim.target.port)}`;
  const verdict = claim.verdict === null ? "" : `${claim.verdict.phase}${claim.verdict.reason === null ? "" : `/${claim.verdict.reason}`} `;
  return `${verdict}-> ${target}`;
}
const of = (planner: Planner, id: string): string => told(planner.claims.get(id));
const message = (planner: Planner, id: string): string => planner.claims.get(id)?.verdict?.message ?? "";
const orphan = (planner: Planner, path: string): OrphanPlan | undefined => [...planner.orphans.values()].find(({ at }) => at.path === path);
const fate = (planner: Planner, path: string): string => {
  const found = orphan(planner, path);
  return found === undefined ? "no orphan" : found.target === null ? "goes" : "stays";
};
const at = (port: number, busid = "1-1", bus = OUR_BUS): string => `-> ${busid} on ${bus}:${String(port)}`;

const x = device("1-1");
const y = device("1-2");
const z = device("1-3");
const hub = device("1-4", { hub: true, vendor: "05e3", product: "0608", interfaces: [{ class: 9, subclass: 0, protocol: 0 }] });
const VENDOR = { vendor: "0529" };
const onX = { port: "1-1" };
const onY = { port: "1-2" };
const hold = { domain: "win10", device: "a", until: 1_800_000_000_000, release: false, reason: null };

describe("selectors", () => {
  const behind = device("2-1.4", { anchor: "pci-0000:00:14.0/1.4" });
  test.each([
    ["vendor", selector({ vendor: "0529" }), x, true],
    ["vendor of another", selector({ vendor: "046d" }), x, false],
    ["every field must match", selector({ vendor: "0529", product: "0002" }), x, false],
    ["a serial is exact", selector({ serial: "S1-1" }), x, true],
    ["or a glob", selector({ serial: "S1-?" }), x, true],
    ["a serial that is not known does not match, not even *", selector({ serial: "*" }), device("1-1", { serial: null }), false],
    ["a busid names one port exactly", selector({ port: "1-1" }), x, true],
    ["a port is not what is behind it", selector({ port: "1-1" }), device("1-1.2"), false],
    ["an anchored port", selector({ port: "pci-0000:00:14.0/1.4" }), behind, true],
    [
      "an anchored port and a device whose anchor is not known",
      selector({ port: "pci-0000:00:14.0/1" }),
      device("1-1", { anchor: null }),
      false,
    ],
    ["under a hub port", selector({ under: "1-1" }), device("1-1.2"), true],
    ["under, two hubs down", selector({ under: "1-1" }), device("1-1.2.3"), true],
    ["under takes no neighbour with a longer number", selector({ under: "1-1" }), device("1-12"), false],
    ["under is not the port itself", selector({ under: "1-1" }), x, false],
    ["under, anchored", selector({ under: "pci-0000:00:14.0/1" }), behind, true],
    ["under never takes hubs", selector({ under: "1-1" }), device("1-1.2", { hub: true }), false],
    ["anyInterface by class", selector({ anyInterface: classPattern("ff") }), x, true],
    ["anyInterface by protocol", selector({ anyInterface: classPattern("ff:00:01") }), x, false],
    [
      "anyInterface: one is enough",
      selector({ anyInterface: classPattern("08") }),
      device("1-1", { interfaces: [...(x.interfaces ?? []), { class: 8, subclass: 6, protocol: 80 }] }),
      true,
    ],
    [
      "allInterfaces: one is not",
      selector({ allInterfaces: classPattern("08") }),
      device("1-1", { interfaces: [...(x.interfaces ?? []), { class: 8, subclass: 6, protocol: 80 }] }),
      false,
    ],
    [
      "interfaces that are not known do not match",
      selector({ anyInterface: classPattern("ff") }),
      device("1-1", { interfaces: null }),
      false,
    ],
    [
      "no interfaces at all are not all of a class",
      selector({ allInterfaces: classPattern("ff") }),
      device("1-1", { interfaces: [] }),
      false,
    ],
    ["manufacturer is a glob", selector({ manufacturer: "AC*" }), x, true],
    ["productName too", selector({ productName: "D?ngle" }), x, true],
    ["removable", selector({ removable: true }), x, true],
    ["removable that is not known does not match", selector({ removable: false }), device("1-1", { removable: null }), false],
    ["bus and address", selector({ bus: x.bus, address: x.address }), x, true],
    ["another address", selector({ bus: x.bus, address: 99 }), x, false],
    ["a selector without a criterion matches nothing", selector({}), x, false],
  ])("%s", (_, wanted, given, matches) => {
    expect(selectorMatches(wanted, given)).toBe(matches);
    const planner = plan({ host: [given], files: [spec("win10", [entry("a", wanted)])], domains: [served("win10")] });
    expect(planner.claims.get("win10/a")?.verdict?.phase === "WaitingForHost").toBe(!matches);
  });

  test.each([
    ["*", "", true],
    ["a*b", "ab", true],
    ["a*b", "aXbYb", true],
    ["a*b", "aXbY", false],
    ["a?c", "abc", true],
    ["a?c", "ac", false],
    ["[a]", "a", false],
    ["[a]", "[a]", true],
    [".*", "xyz", false],
    [`${"*a".repeat(40)}b`, "a".repeat(2000), false],
  ])("glob %s on %s", (pattern, text, matches) => {
    expect(globMatches(pattern, text)).toBe(matches);
  });
});

describe("which device", () => {
  const twins = [x, y];
  test("one that matches is attached on a new controller, at the port of its position", () => {
    const planner = plan({ host: [x], files: [spec("win10", [entry("a", onX)])], domains: [live("win10")] });
    expect(of(planner, "win10/a")).toBe(at(1));
    expect(planner.claims.get("win10/a")?.target).toMatchObject({ create: { name: "hci0", driver: "qemu-xhci", ports: 8, slot: "pci.0" } });
  });
  test("nothing present matches: WaitingForHost", () => {
    expect(of(plan({ files: [spec("win10", [entry("a", onX)])], domains: [served("win10")] }), "win10/a")).toBe(
      "WaitingForHost -> nowhere",
    );
  });
  test("several match and pick is none: Ambiguous lists them and attaches nothing", () => {
    const planner = plan({ host: twins, files: [spec("win10", [entry("a", VENDOR)])], domains: [served("win10")] });
    expect(of(planner, "win10/a")).toBe("Ambiguous/SeveralMatch -> nowhere");
    expect(message(planner, "win10/a")).toContain("1-1 serial S1-1, 1-2 serial S1-2");
  });
  test("pick: lowestPort counts ports as numbers", () => {
    const parts = {
      host: [device("1-10"), y],
      files: [spec("win10", [entry("a", VENDOR, { pick: "lowestPort" })])],
      domains: [served("win10")],
    };
    expect(of(plan(parts), "win10/a")).toBe(at(1, "1-2"));
  });
  test("what is attached now stays, a twin that arrives changes nothing: ExtraCandidates", () => {
    const parts = {
      host: twins,
      files: [spec("win10", [entry("a", VENDOR, { pick: "lowestPort" })])],
      domains: [served("win10", [ours(y, 1)])],
    };
    expect(of(plan(parts), "win10/a")).toBe(at(1, "1-2"));
    expect(plan(parts).claims.get("win10/a")?.remark).toMatchObject({ reason: "ExtraCandidates" });
  });
  test("when the attached one leaves, it is decided afresh", () => {
    const parts = { host: [x, z], files: [spec("win10", [entry("a", VENDOR)])], domains: [served("win10", [ours(y, 1)])] };
    expect(of(plan(parts), "win10/a")).toBe("Ambiguous/SeveralMatch -> nowhere");
    expect(fate(plan(parts), ours(y, 1).path)).toBe("goes");
  });
  test("count: all takes each match, one claim each; with none there is one that waits", () => {
    const file = spec("win10", [entry("all", VENDOR, { count: "all" })]);
    const planner = plan({ host: [...twins, hub], files: [file], domains: [served("win10")] });
    expect([...planner.claims.keys()].sort()).toEqual(["win10/all@1-1", "win10/all@1-2"]);
    expect(of(planner, "win10/all@1-1")).toBe(at(2));
    expect(of(planner, "win10/all@1-2")).toBe(at(3, "1-2"));
    const none = plan({ files: [file], domains: [served("win10")] });
    expect([...none.claims.keys()]).toEqual(["win10/all"]);
    expect(of(none, "win10/all")).toBe("WaitingForHost -> nowhere");
  });
  test("the claim that waited goes when the first match comes, and comes back when the last leaves", () => {
    const planner = planAll(world({ files: [spec("win10", [entry("all", VENDOR, { count: "all" })])], domains: [served("win10")] }));
    const came = planner.apply([{ kind: "host", busid: "1-1", device: x }]);
    expect([...came.claims].map(([id, claim]) => [id, claim === null])).toEqual([
      ["win10/all", true],
      ["win10/all@1-1", false],
    ]);
    const left = planner.apply([{ kind: "host", busid: "1-1", device: null }]);
    expect([...left.claims].map(([id, claim]) => [id, claim === null])).toEqual([
      ["win10/all@1-1", true],
      ["win10/all", false],
    ]);
  });
  test("a hub is never passed on", () => {
    const planner = plan({ host: [hub], files: [spec("win10", [entry("a", { port: "1-4" })])], domains: [served("win10")] });
    expect(of(planner, "win10/a")).toBe("Denied/Hub -> nowhere");
  });
  test("a device that is plugged in anew goes back where it was, its dead object goes", () => {
    const back = replugged(x);
    const planner = plan({ host: [back], files: [spec("win10", [entry("a", onX)])], domains: [served("win10", [ours(x, 1)])] });
    expect(of(planner, "win10/a")).toBe(at(1));
    expect(orphan(planner, ours(x, 1).path)).toMatchObject({ dead: true, target: null });
  });
  test("an object of ours that QEMU says has lost its device is dead, though the device is there", () => {
    const lost = { ...ours(x, 1), attached: false };
    const planner = plan({ host: [x], files: [spec("win10", [entry("a", onX)])], domains: [served("win10", [lost])] });
    expect(orphan(planner, lost.path)).toMatchObject({ dead: true, target: null, why: "QEMU has lost its device" });
    expect(of(planner, "win10/a")).toBe(at(1));
    const theirsLost = plan({
      host: [x],
      files: [spec("win10", [entry("a", onX)])],
      domains: [served("win10", [theirs(x, 1, { attached: false })])],
    });
    expect(of(theirsLost, "win10/a")).toBe(at(1, "1-1", "xhci.0"));
  });
  test("an address that was given out again is told apart by the inode of its node", () => {
    const other = { ...x, inode: 7 };
    const planner = plan({ host: [other], files: [spec("win10", [entry("a", onX)])], domains: [served("win10", [ours(x, 1)])] });
    expect(planner.claims.get("win10/a")?.owned).toBeNull();
    expect(orphan(planner, ours(x, 1).path)?.dead).toBe(true);
  });
  test("a device whose node is not there yet is waited for", () => {
    const planner = plan({ host: [{ ...x, inode: 0 }], files: [spec("win10", [entry("a", onX)])], domains: [served("win10")] });
    expect(of(planner, "win10/a")).toBe("Attaching/NodeMissing -> stay");
  });
});

describe("who gets it", () => {
  const two = (a: number, b: number, objects: readonly ReturnType<typeof ours>[][] = [[], []]) => ({
    host: [x],
    files: [spec("win10", [entry("a", onX, { priority: a })]), spec("lab", [entry("b", onX, { priority: b })])],
    domains: [served("win10", objects[0] ?? []), served("lab", objects[1] ?? [])],
  });
  test("the higher priority", () => {
    const planner = plan(two(1, 2));
    expect(of(planner, "lab/b")).toBe(at(1));
    expect(of(planner, "win10/a")).toBe("Conflict/TakenByClaim -> nowhere");
    expect(message(planner, "win10/a")).toContain("lab/b");
  });
  test("even from a domain that runs with it: the loser gives it back first", () => {
    const planner = plan(two(1, 2, [[ours(x, 1)], []]));
    expect(of(planner, "win10/a")).toBe("Conflict/TakenByClaim -> nowhere");
    expect(planner.claims.get("win10/a")?.owned?.path).toBe(ours(x, 1).path);
    expect(of(planner, "lab/b")).toBe("Attaching/WaitingForRelease -> stay");
    planner.apply(realise(planner));
    expect(of(planner, "lab/b")).toBe(at(1));
  });
  test("between domains at equal priority the one that has it now", () => {
    const planner = plan(two(5, 5, [[], [ours(x, 1)]]));
    expect(of(planner, "lab/b")).toBe(at(1));
    expect(of(planner, "win10/a")).toBe("Conflict/TakenByClaim -> nowhere");
  });
  test("else nobody: both name each other", () => {
    const planner = plan(two(0, 0));
    expect(of(planner, "win10/a")).toBe("Conflict/SamePriority -> nowhere");
    expect(message(planner, "win10/a")).toContain("lab/b");
    expect(of(planner, "lab/b")).toBe("Conflict/SamePriority -> nowhere");
    expect(message(planner, "lab/b")).toContain("win10/a");
  });
  test("within one file the earlier entry, wherever the device sits", () => {
    const file = spec("win10", [entry("a", onX), entry("b", VENDOR)]);
    const planner = plan({ host: [x], files: [file], domains: [served("win10", [ours(x, 2)])] });
    expect(of(planner, "win10/a")).toBe(at(2));
    expect(of(planner, "win10/b")).toBe("Conflict/TakenByClaim -> nowhere");
    expect(message(planner, "win10/b")).toContain("first in the file");
  });
  test("within one file priority comes before order", () => {
    const file = spec("win10", [entry("a", onX), entry("b", onX, { priority: 1 })]);
    const planner = plan({ host: [x], files: [file], domains: [served("win10")] });
    expect(of(planner, "win10/b")).toBe(at(2));
  });
  test("what a claim does not win is free for the next", () => {
    const file = spec("win10", [entry("a", VENDOR, { pick: "lowestPort" }), entry("b", VENDOR)]);
    const planner = plan({ host: [x, y], files: [file], domains: [served("win10")] });
    expect(of(planner, "win10/a")).toBe(at(1));
    expect(of(planner, "win10/b")).toBe(at(2, "1-2"));
  });
  test("an Ambiguous one wins none, and its candidates are free for the next, then and later", () => {
    const file = spec("win10", [entry("a", VENDOR), entry("b", onY)]);
    const planner = plan({ host: [x, y], files: [file], domains: [served("win10")] });
    for (let round = 0; round < 3; round += 1) {
      expect(of(planner, "win10/a")).toBe("Ambiguous/SeveralMatch -> nowhere");
      expect(of(planner, "win10/b")).toBe(at(2, "1-2"));
      planner.apply(realise(planner));
    }
  });
  test("one that has a device does not ask for a twin that another domain wants", () => {
    const planner = plan({
      host: [x, y],
      files: [spec("win10", [entry("a", VENDOR)]), spec("lab", [entry("b", VENDOR)])],
      domains: [served("win10", [ours(x, 1)]), served("lab")],
    });
    expect(of(planner, "win10/a")).toBe(at(1));
    expect(of(planner, "lab/b")).toBe(at(1, "1-2"));
  });
  test("a device of a claim that is denied it goes to the next", () => {
    const planner = plan({ ...two(9, 0), policy: policyOf([rule("no-win", { match: selector(VENDOR), domain: "win*" })]) });
    expect(of(planner, "win10/a")).toBe("Denied/DeniedByRule -> nowhere");
    expect(of(planner, "lab/b")).toBe(at(1));
  });
  test("two in place of one file keep their devices though the first entry matches both", () => {
    const file = spec("win10", [entry("a", VENDOR), entry("b", onX)]);
    const planner = plan({ host: [x, y], files: [file], domains: [served("win10", [ours(x, 6), ours(y, 5)])] });
    expect(of(planner, "win10/a")).toBe(at(5, "1-2"));
    expect(of(planner, "win10/b")).toBe(at(6));
  });
});

describe("a device that sits where it may not be taken from", () => {
  const claim = spec("win10", [entry("a", VENDOR, { priority: 9 })]);
  const matching = [entry("b", VENDOR)];
  test.each([
    ["mode observe", [spec("lab", matching, { mode: "observe" })], {}],
    ["mode paused", [spec("lab", matching, { mode: "paused" })], {}],
    ["no file", [], {}],
    ["a monitor that does not answer", [spec("lab", matching)], { monitorState: "silent" as const }],
    ["a monitor that somebody else has", [spec("lab", matching)], { monitorState: "busy" as const }],
    ["two files for it", [spec("lab", matching), spec("lab2", matching, { target: { by: "name", name: "lab" } })], {}],
  ])("%s: Conflict, naming the holder", (_, files, change) => {
    const planner = plan({ host: [x], files: [claim, ...files], domains: [served("win10"), served("lab", [ours(x, 1)], change)] });
    expect(of(planner, "win10/a")).toBe("Conflict/TakenByDomain -> nowhere");
    expect(message(planner, "win10/a")).toContain("domain lab");
    expect(fate(planner, ours(x, 1).path)).not.toBe("goes");
  });
  test("an operator's pause", () => {
    const planner = plan({
      host: [x],
      files: [claim, spec("lab", matching)],
      domains: [served("win10"), served("lab", [ours(x, 1)])],
      pauses: [{ domain: "lab", since: 1, reason: "backup" }],
    });
    expect(of(planner, "win10/a")).toBe("Conflict/TakenByDomain -> nowhere");
    expect(of(planner, "lab/b")).toBe("Paused/OperatorPaused -> stay");
    expect(planner.claims.get("lab/b")?.owned).not.toBeNull();
    expect(message(planner, "lab/b")).toContain("backup");
  });
  test("an orphan of ours in an enforced domain is released first", () => {
    const planner = plan({ host: [x], files: [claim, spec("lab", [])], domains: [served("win10"), served("lab", [ours(x, 1)])] });
    expect(of(planner, "win10/a")).toBe("Attaching/WaitingForRelease -> stay");
    expect(fate(planner, ours(x, 1).path)).toBe("goes");
  });
  test("a move detaches whatever prune says", () => {
    const files = [claim, spec("lab", [], { prune: "none" })];
    const planner = plan({ host: [x], files, domains: [served("win10"), served("lab", [ours(x, 1)])] });
    expect(fate(planner, ours(x, 1).path)).toBe("goes");
  });
  test("what others attached in an enforced domain and no claim there wants stays", () => {
    const planner = plan({ host: [x], files: [claim, spec("lab", [])], domains: [served("win10"), served("lab", [theirs(x, 1)])] });
    expect(of(planner, "win10/a")).toBe("Conflict/TakenByDomain -> nowhere");
    expect(fate(planner, theirs(x, 1).path)).toBe("stays");
  });
  test("unless that domain prunes all", () => {
    const files = [claim, spec("lab", [], { prune: "all" })];
    const planner = plan({ host: [x], files, domains: [served("win10"), served("lab", [theirs(x, 1)])] });
    expect(of(planner, "win10/a")).toBe("Attaching/WaitingForRelease -> stay");
    expect(fate(planner, theirs(x, 1).path)).toBe("goes");
  });
  test("an auto-scan object of somebody else that may take it counts as a holder", () => {
    const planner = plan({
      host: [x],
      files: [claim],
      domains: [served("win10"), served("lab", [scanning("scan", { vendor: "0529" }, 1)])],
    });
    expect(of(planner, "win10/a")).toBe("Conflict/TakenByDomain -> nowhere");
    const elsewhere = plan({
      host: [x],
      files: [claim],
      domains: [served("win10"), served("lab", [scanning("scan", { vendor: "046d" }, 1)])],
    });
    expect(of(elsewhere, "win10/a")).toBe(at(1));
  });
  test("an auto-scan object in the domain itself: adopted once it surely has it", () => {
    const scan = (attached: boolean) =>
      plan({ host: [x], files: [claim], domains: [served("win10", [scanning("scan", { vendor: "0529" }, 1, { attached })])] });
    expect(of(scan(false), "win10/a")).toBe("Conflict/TakenByDomain -> nowhere");
    expect(of(scan(true), "win10/a")).toBe(at(1, "1-1", "xhci.0"));
    expect(scan(true).claims.get("win10/a")?.remark?.reason).toBe("Adopted");
  });
  test("a silent monitor stops devices that an entry of its file matches, and no others", () => {
    const planner = plan({
      host: [x, y],
      files: [spec("win10", [entry("a", onX), entry("c", onY)]), spec("lab", [entry("b", onX)])],
      domains: [served("win10"), served("lab", [], { monitorState: "silent" })],
    });
    expect(of(planner, "win10/a")).toBe("Conflict/TakenByDomain -> nowhere");
    expect(of(planner, "win10/c")).toBe(at(2, "1-2"));
    expect(of(planner, "lab/b")).toBe("WaitingForDomain/MonitorSilent -> stay");
  });
  test("what is in place is not given up because another monitor falls silent", () => {
    const planner = plan({
      host: [x],
      files: [spec("win10", [entry("a", onX)]), spec("lab", [entry("b", onX)])],
      domains: [served("win10", [ours(x, 1)]), served("lab", [], { monitorState: "busy" })],
    });
    expect(of(planner, "win10/a")).toBe(at(1));
  });
  test("claims of domains that are not live, or not enforced, take nothing from others", () => {
    const files = [
      claim,
      spec("off", [entry("b", VENDOR, { priority: 99 })]),
      spec("obs", [entry("c", VENDOR, { priority: 99 })], { mode: "observe" }),
    ];
    const planner = plan({ host: [x], files, domains: [served("win10"), served("obs")] });
    expect(of(planner, "win10/a")).toBe(at(1));
    expect(of(planner, "off/b")).toBe("WaitingForDomain/DomainAbsent -> nowhere");
    expect(of(planner, "obs/c")).toBe("Attaching/ObserveOnly -> stay");
  });
});

describe("whose is it", () => {
  const file = spec("win10", [entry("a", onX)]);
  test("what others attached and a claim wants is adopted, not ours, and stays where it is", () => {
    const planner = plan({ host: [x], files: [file], domains: [served("win10", [theirs(x, 3)])] });
    expect(of(planner, "win10/a")).toBe(at(3, "1-1", "xhci.0"));
    expect(planner.claims.get("win10/a")).toMatchObject({ ours: false, remark: { reason: "Adopted" } });
  });
  test("a hostdevice names it too", () => {
    const filter = { bus: null, address: null, hostport: null, vendor: null, product: null, hostdevice: x.node };
    const planner = plan({ host: [x], files: [file], domains: [served("win10", [theirs(x, 3, { filter })])] });
    expect(of(planner, "win10/a")).toBe(at(3, "1-1", "xhci.0"));
  });
  test("a file descriptor handed to QEMU tells nothing: it is not dead", () => {
    const filter = { bus: null, address: null, hostport: null, vendor: null, product: null, hostdevice: "/dev/fdset/7" };
    const object = theirs(x, 3, { filter });
    expect(orphan(plan({ files: [file], domains: [served("win10", [object])] }), object.path)).toMatchObject({
      dead: false,
      target: "stay",
    });
  });
  test("ours before theirs when the domain has it twice", () => {
    const planner = plan({ host: [x], files: [file], domains: [served("win10", [theirs(x, 3), ours(x, 1)])] });
    expect(planner.claims.get("win10/a")?.owned?.path).toBe(ours(x, 1).path);
    expect(fate(planner, theirs(x, 3).path)).toBe("stays");
  });
});

describe("removing", () => {
  const held = [ours(x, 1)];
  const run = (parts: Parameters<typeof spec>[2], change = {}, objects = held) =>
    fate(
      plan({ host: [x], files: [forced(spec("win10", [], parts), change)], domains: [served("win10", objects)] }),
      objects[0]?.path ?? "",
    );
  const leaving = entry("a", onX, { onRemove: "leave" });
  test.each([
    ["prune managed takes ours", run({}), "goes"],
    ["prune none takes nothing", run({ prune: "none" }), "stays"],
    ["prune all takes ours", run({ prune: "all" }), "goes"],
    ["an entry that said onRemove: leave keeps it", run({}, { left: [leaving] }), "stays"],
    ["of another device it keeps nothing", run({}, { left: [entry("a", onY, { onRemove: "leave" })] }), "goes"],
    ["it stays if either says so", run({ prune: "all" }, { left: [leaving] }), "stays"],
    ["prune managed leaves what others attached", run({}, {}, [theirs(x, 1)]), "stays"],
    ["prune all does not", run({ prune: "all" }, {}, [theirs(x, 1)]), "goes"],
    ["prune all leaves auto-scan objects", run({ prune: "all" }, {}, [scanning("s", { vendor: "0529" }, 1, { attached: true })]), "stays"],
    ["a vanished file: its prune holds", run({}, { standing: "vanished" }), "goes"],
    ["a vanished file: prune none", run({ prune: "none" }, { standing: "vanished" }), "stays"],
    ["mode observe", run({ mode: "observe" }), "stays"],
    ["mode paused", run({ mode: "paused" }), "stays"],
  ])("%s", (_, found, wanted) => {
    expect(found).toBe(wanted);
  });
  test("a vanished file's entries claim nothing, and those with onRemove: leave keep theirs", () => {
    const file = forced(spec("win10", [leaving, entry("b", onY)]), { standing: "vanished" });
    const planner = plan({ host: [x, y], files: [file], domains: [served("win10", [ours(x, 1), ours(y, 2)])] });
    expect(planner.claims.size).toBe(0);
    expect(fate(planner, ours(x, 1).path)).toBe("stays");
    expect(fate(planner, ours(y, 2).path)).toBe("goes");
  });
  test("a file that is away and not decided about claims as before", () => {
    for (const standing of ["settling", "held-back", "last-good"] as const) {
      const planner = plan({
        host: [x],
        files: [forced(spec("win10", [entry("a", onX)]), { standing })],
        domains: [served("win10", held)],
      });
      expect(of(planner, "win10/a")).toBe(at(1));
    }
  });
  test("a domain that no file names is never touched", () => {
    expect(fate(plan({ host: [x], domains: [served("win10", held)] }), ours(x, 1).path)).toBe("stays");
  });
  const dead = (parts: Parameters<typeof spec>[2] | null, change = {}, object = ours(x, 1)) =>
    orphan(plan({ files: parts === null ? [] : [spec("win10", [], parts)], domains: [served("win10", [object], change)] }), object.path);
  test.each([
    ["prune managed", dead({}), null],
    ["prune none", dead({ prune: "none" }), null],
    ["of somebody else", dead({ prune: "none" }, {}, theirs(x, 1)), null],
    ["mode observe", dead({ mode: "observe" }), "stay"],
    ["mode paused", dead({ mode: "paused" }), "stay"],
    ["no file", dead(null), "stay"],
    ["a silent monitor", dead({}, { monitorState: "silent" }), "stay"],
  ])("the dead object of a device that left: %s", (_, found, target) => {
    expect(found).toMatchObject({ dead: true, target });
    if (target === "stay") expect(found?.why).toContain(`device_del ${found?.at.path.split("/").at(-1) ?? ""}`);
  });
  test("objects that wait for a device by themselves are never dead", () => {
    const scan = scanning("s", { vendor: "0529" }, 1);
    expect(orphan(plan({ files: [spec("win10", [])], domains: [served("win10", [scan])] }), scan.path)).toMatchObject({
      dead: false,
      target: "stay",
    });
  });
});

describe("host policy", () => {
  const keyboard = device("1-1", { interfaces: [{ class: 3, subclass: 1, protocol: 1 }] });
  const mouse = device("1-1", { interfaces: [{ class: 3, subclass: 1, protocol: 2 }] });
  const gamepad = device("1-1", { interfaces: [{ class: 3, subclass: 0, protocol: 0 }] });
  const unknown = device("1-1", { interfaces: null });
  const allow = (lift: readonly ("input" | "disk-in-use" | "default-route")[] = [], change = {}) =>
    rule("ok", { verdict: "allow", match: selector(VENDOR), lift, ...change });
  const run = (given: typeof x, policy = policyOf([]), change: WorldParts = {}) =>
    of(plan({ host: [given], files: [spec("win10", [entry("a", onX)])], domains: [served("win10")], policy, ...change }), "win10/a");
  const vetoed = (builtIn: "disk-in-use" | "default-route") => ({
    vetoes: new Map([[instanceOf(x), { builtIn, message: "The host uses it: sdb1." }]]),
  });
  test.each([
    ["without a policy everything is allowed", run(x), at(1)],
    ["but boot keyboards", run(keyboard), "Denied/BuiltInInput -> nowhere"],
    ["and boot mice", run(mouse), "Denied/BuiltInInput -> nowhere"],
    ["not every HID", run(gamepad), at(1)],
    ["an allow lifts it by name", run(keyboard, policyOf([allow(["input"])])), at(1)],
    ["an allow without the name does not", run(keyboard, policyOf([allow()])), "Denied/BuiltInInput -> nowhere"],
    [
      "an allow for another domain does not",
      run(keyboard, policyOf([allow(["input"], { domain: "lab-*" })])),
      "Denied/BuiltInInput -> nowhere",
    ],
    ["an allow for this domain by glob does", run(keyboard, policyOf([allow(["input"], { domain: "win*" })])), at(1)],
    ["a disk in use", run(x, policyOf([]), vetoed("disk-in-use")), "Denied/DiskInUse -> nowhere"],
    ["the default route", run(x, policyOf([]), vetoed("default-route")), "Denied/DefaultRoute -> nowhere"],
    ["lifted", run(x, policyOf([allow(["disk-in-use"])]), vetoed("disk-in-use")), at(1)],
    ["first match wins: deny", run(x, policyOf([rule("no", { match: selector(VENDOR) }), allow()])), "Denied/DeniedByRule -> nowhere"],
    ["first match wins: allow", run(x, policyOf([allow(), rule("no", { match: selector(VENDOR) })])), at(1)],
    ["a match needs every field", run(x, policyOf([rule("no", { match: selector({ vendor: "0529", product: "ffff" }) })])), at(1)],
    ["default deny", run(x, policyOf([], { default: "deny" })), "Denied/DeniedByDefault -> nowhere"],
    ["default deny and an allow", run(x, policyOf([allow()], { default: "deny" })), at(1)],
    ["unknown interfaces may be a keyboard", run(unknown), "Denied/InterfacesUnknown -> nowhere"],
    ["unless lifted", run(unknown, policyOf([allow(["input"])])), at(1)],
    [
      "unknown interfaces match every deny by interface",
      run(unknown, policyOf([rule("no-modems", { match: selector({ anyInterface: classPattern("02") }) }), allow(["input"])])),
      "Denied/InterfacesUnknown -> nowhere",
    ],
    [
      "and no allow by interface",
      run(unknown, policyOf([rule("ok", { verdict: "allow", match: selector({ anyInterface: classPattern("02") }), lift: ["input"] })])),
      "Denied/InterfacesUnknown -> nowhere",
    ],
    [
      "a deny of other ids is no match even so",
      run(unknown, policyOf([rule("no", { match: selector({ vendor: "ffff", anyInterface: classPattern("02") }) }), allow(["input"])])),
      at(1),
    ],
  ])("%s", (_, found, wanted) => {
    expect(found).toBe(wanted);
  });
  test("hubs are denied, liftable by nothing", () => {
    const given = { ...hub, busid: "1-1" };
    const all = rule("ok", { verdict: "allow", match: selector({ port: "1-1" }), lift: ["input", "disk-in-use", "default-route"] });
    expect(run(given, policyOf([all]))).toBe("Denied/Hub -> nowhere");
  });
  test("a denial names the rule and its line", () => {
    const planner = plan({
      host: [x],
      files: [spec("win10", [entry("a", onX)])],
      domains: [served("win10")],
      policy: policyOf([rule("no-dongles", { match: selector(VENDOR) })]),
    });
    expect(message(planner, "win10/a")).toContain("no-dongles (policy.yaml:9:5)");
  });
  test("a policy that now denies an attached device of ours detaches it, not one of others", () => {
    const policy = policyOf([rule("no", { match: selector(VENDOR) })]);
    const parts = { host: [x], files: [spec("win10", [entry("a", onX)], { prune: "none" })], policy };
    expect(of(plan({ ...parts, domains: [served("win10", [ours(x, 1)])] }), "win10/a")).toBe("Denied/DeniedByRule -> nowhere");
    expect(of(plan({ ...parts, domains: [served("win10", [theirs(x, 1)])] }), "win10/a")).toBe("Denied/DeniedByRule -> stay");
    const unclaimed = { host: [x], files: [spec("win10", [], { prune: "none" })], policy, domains: [served("win10", [ours(x, 1)])] };
    expect(fate(plan(unclaimed), ours(x, 1).path)).toBe("goes");
  });
  test("what is attached is no more in use by the host", () => {
    const parts = {
      host: [x],
      files: [spec("win10", [entry("a", onX)])],
      domains: [served("win10", [ours(x, 1)])],
      ...vetoed("disk-in-use"),
    };
    expect(of(plan(parts), "win10/a")).toBe(at(1));
  });
  test("all matches denied is Denied, denied and taken is Conflict", () => {
    const policy = policyOf([rule("no", { match: selector(onX) })]);
    const files = [spec("win10", [entry("a", VENDOR)]), spec("lab", [entry("b", onY, { priority: 1 })])];
    const planner = plan({ host: [x, y], files, domains: [served("win10"), served("lab")], policy });
    expect(of(planner, "win10/a")).toBe("Conflict/TakenByClaim -> nowhere");
    expect(of(plan({ host: [x], files, domains: [served("win10"), served("lab")], policy }), "win10/a")).toBe(
      "Denied/DeniedByRule -> nowhere",
    );
  });
  test("a denied device is no candidate: the other one is attached", () => {
    const policy = policyOf([rule("no", { match: selector(onX) })]);
    expect(of(plan({ host: [x, y], files: [spec("win10", [entry("a", VENDOR)])], domains: [served("win10")], policy }), "win10/a")).toBe(
      at(1, "1-2"),
    );
  });
  const quarantines = [{ domain: "win10", device: "a", busid: "1-1", fingerprint: fingerprintOf(x) }];
  test("one that came back as another device is denied until approved, for its claim", () => {
    const parts = { host: [x], files: [spec("win10", [entry("a", onX)])], domains: [served("win10")] };
    const planner = plan({ ...parts, quarantines });
    expect(of(planner, "win10/a")).toBe("Denied/IdentityChanged -> nowhere");
    expect(message(planner, "win10/a")).toContain("plugherd approve a win10");
    const approved = planner.apply([{ kind: "overrides", holds: [], pauses: [], quarantines: [] }]);
    expect(told(approved.claims.get("win10/a") ?? undefined)).toBe(at(1));
    expect(of(plan({ ...parts, quarantines, policy: policyOf([], { onIdentityChange: "report" }) }), "win10/a")).toBe(at(1));
    expect(of(plan({ ...parts, quarantines, host: [{ ...x, serial: "other" }] }), "win10/a")).toBe(at(1));
  });
  test("a policy that is not valid: nothing new is attached and nothing detached", () => {
    const planner = plan({
      host: [x, y],
      files: [spec("win10", [entry("a", onX), entry("b", onY)])],
      domains: [served("win10", [ours(y, 2), ours(z, 3)]), served("lab", [ours(device("1-6"), 1)])],
      policy: { kind: "invalid", problems: ["policy.yaml:3:1: unknown key"] },
    });
    expect(of(planner, "win10/a")).toBe("Stalled/InvalidPolicy -> stay");
    expect(message(planner, "win10/a")).toContain("policy.yaml:3:1");
    expect(of(planner, "win10/b")).toBe("-> stay");
    expect(planner.claims.get("win10/b")?.remark?.reason).toBe("InvalidPolicy");
    const pruned = plan({
      host: [x],
      files: [spec("win10", [])],
      domains: [served("win10", [ours(x, 1)])],
      policy: { kind: "invalid", problems: [] },
    });
    expect(fate(pruned, ours(x, 1).path)).toBe("stays");
  });
  test("what the host's list of devices shows of it", () => {
    const policy = policyOf([rule("lab", { verdict: "allow", match: selector(VENDOR), domain: "lab-*", lift: ["input"] })]);
    expect(admitAnywhere(x, world({}))).toEqual({ allowed: true, text: "allowed" });
    expect(admitAnywhere(keyboard, world({})).allowed).toBe(false);
    expect(admitAnywhere(keyboard, world({ policy }))).toMatchObject({ allowed: true, text: expect.stringContaining("lab-*") });
  });
});

describe("operators", () => {
  const file = spec("win10", [entry("a", onX), entry("b", onX)]);
  test("a hold detaches and keeps the device from every claim", () => {
    const files = [file, spec("lab", [entry("c", onX)])];
    const planner = plan({ host: [x], files, domains: [served("win10", [ours(x, 1)]), served("lab")], holds: [hold] });
    expect(of(planner, "win10/a")).toBe("Held/OperatorHold -> nowhere");
    expect(planner.claims.get("win10/a")?.owned).not.toBeNull();
    expect(message(planner, "win10/a")).toContain("2027-01-15T08:00:00.000Z");
    expect(of(planner, "win10/b")).toBe("Held/OperatorHold -> nowhere");
    expect(of(planner, "lab/c")).toBe("Held/OperatorHold -> nowhere");
  });
  test("with release from this claim only", () => {
    const planner = plan({ host: [x], files: [file], domains: [served("win10", [ours(x, 1)])], holds: [{ ...hold, release: true }] });
    expect(of(planner, "win10/a")).toBe("Held/OperatorHold -> nowhere");
    expect(of(planner, "win10/b")).toBe(at(1));
    const alone = plan({
      host: [x],
      files: [spec("win10", [entry("a", onX)])],
      domains: [served("win10", [ours(x, 1)])],
      holds: [{ ...hold, release: true }],
    });
    expect(of(alone, "win10/a")).toBe("Held/OperatorHold -> nowhere");
    expect(alone.claims.get("win10/a")?.owned).not.toBeNull();
  });
  test("a hold on an entry with several matches leaves alone what another domain runs with", () => {
    const files = [spec("win10", [entry("a", VENDOR)]), spec("lab", [entry("c", onY)])];
    const planner = plan({ host: [x, y], files, domains: [served("win10", [ours(x, 1)]), served("lab", [ours(y, 1)])], holds: [hold] });
    expect(of(planner, "lab/c")).toBe(at(1, "1-2"));
  });
  test("a hold detaches whatever prune says, and an adopted device too: the operator named it", () => {
    const parts = { host: [x], files: [spec("win10", [entry("a", onX)], { prune: "none" })], holds: [hold] };
    expect(of(plan({ ...parts, domains: [served("win10", [ours(x, 1)])] }), "win10/a")).toBe("Held/OperatorHold -> nowhere");
    expect(of(plan({ ...parts, domains: [served("win10", [theirs(x, 1)])] }), "win10/a")).toBe("Held/OperatorHold -> nowhere");
  });
  test("Held is shown with nothing plugged in and with no domain", () => {
    expect(of(plan({ files: [file], holds: [hold] }), "win10/a")).toBe("Held/OperatorHold -> nowhere");
  });
  test("paused comes before held, and touches nothing", () => {
    const planner = plan({
      host: [x],
      files: [spec("win10", [entry("a", onX)], { mode: "paused" })],
      domains: [served("win10", [ours(x, 1)])],
      holds: [hold],
    });
    expect(of(planner, "win10/a")).toBe("Paused/ModePaused -> stay");
  });
});

describe("which domain", () => {
  const file = spec("win10", [entry("a", onX)]);
  const uuid = "6c8d2f3e-0000-4000-8000-000000000001";
  test("none yet", () => {
    expect(of(plan({ host: [x], files: [file] }), "win10/a")).toBe("WaitingForDomain/DomainAbsent -> nowhere");
  });
  test("by uuid, whatever its name and its case", () => {
    const byUuid = spec("win10", [entry("a", onX)], { target: { by: "uuid", uuid: uuid.toUpperCase() } });
    expect(of(plan({ host: [x], files: [byUuid], domains: [served("other", [], { uuid })] }), "win10/a")).toBe(at(1));
    expect(of(plan({ host: [x], files: [byUuid], domains: [served("win10", [], { uuid: null })] }), "win10/a")).toContain(
      "WaitingForDomain",
    );
  });
  test("two live ones of one name: Ambiguous, write the uuid", () => {
    const twice = [served("win10", [ours(x, 1)]), { ...served("win10"), key: "win10#2" }];
    const planner = plan({ host: [x], files: [file], domains: twice });
    expect(of(planner, "win10/a")).toBe("Ambiguous/DomainAmbiguous -> nowhere");
    expect(message(planner, "win10/a")).toContain("uuid");
    expect(fate(planner, ours(x, 1).path)).toBe("stays");
    expect(planner.domains.get("win10")?.verdict?.reason).toBe("DomainAmbiguous");
  });
  test.each(["paused", "prelaunch", "suspended", "inmigrate"])("a domain that is %s is served", (state) => {
    expect(of(plan({ host: [x], files: [file], domains: [served("win10", [], { state })] }), "win10/a")).toBe(at(1));
  });
  test.each(["shutdown", "guest-panicked", "internal-error"])("one that is kept after %s gives its devices back", (state) => {
    const planner = plan({ host: [x], files: [file], domains: [served("win10", [ours(x, 1)], { state })] });
    expect(of(planner, "win10/a")).toBe("WaitingForDomain/DomainShutDown -> nowhere");
    expect(planner.claims.get("win10/a")?.owned).not.toBeNull();
  });
  test("what a shut-down domain has is free for another", () => {
    const planner = plan({
      host: [x],
      files: [file, spec("lab", [entry("b", onX)])],
      domains: [served("win10", [ours(x, 1)], { state: "shutdown" }), served("lab")],
    });
    expect(of(planner, "lab/b")).toBe("Attaching/WaitingForRelease -> stay");
  });
  test.each([
    ["busy", "MonitorBusy"],
    ["silent", "MonitorSilent"],
  ] as const)("a %s monitor: nothing moves", (monitorState, reason) => {
    const planner = plan({ host: [x], files: [file], domains: [served("win10", [ours(x, 1)], { monitorState })] });
    expect(of(planner, "win10/a")).toBe(`WaitingForDomain/${reason} -> stay`);
    expect(planner.claims.get("win10/a")?.owned).not.toBeNull();
  });
  test("two files for one domain: both are stalled, nothing moves", () => {
    const files = [file, spec("again", [entry("a", onX)], { target: { by: "uuid", uuid } })];
    const planner = plan({ host: [x], files, domains: [served("win10", [], { uuid })] });
    expect(of(planner, "win10/a")).toBe("Stalled/InvalidFile -> stay");
    expect(of(planner, "again/a")).toBe("Stalled/InvalidFile -> stay");
    expect(message(planner, "again/a")).toContain("win10");
  });
  test("a bad file's domain says InvalidFile while its claims go on", () => {
    const bad = forced(file, { standing: "last-good", problems: ["win10.yaml:3:1: unknown key", "win10.yaml:4:1: too"] });
    const planner = plan({ host: [x], files: [bad], domains: [served("win10")] });
    expect(planner.domains.get("win10")?.verdict).toMatchObject({
      phase: "Stalled",
      reason: "InvalidFile",
      message: expect.stringContaining("win10.yaml:3:1"),
    });
    expect(of(planner, "win10/a")).toBe(at(1));
  });
  test("what is held back says why", () => {
    const held = forced(file, { standing: "held-back", problems: ["MassDetach: 4 of 5 devices would be detached"] });
    expect(plan({ files: [held], domains: [served("win10")] }).domains.get("win10")?.verdict?.reason).toBe("MassDetach");
  });
  test("a live domain without a file has a plan by its key", () => {
    const planner = plan({ domains: [served("win10")] });
    expect(planner.domains.get("win10#1")).toMatchObject({ name: "win10", live: "win10#1", verdict: null });
    const named = planner.apply([{ kind: "forced", name: "win10", domain: forced(file) }]);
    expect(named.domains.get("win10#1")).toBeNull();
    expect(named.domains.get("win10")).toMatchObject({ live: "win10#1" });
  });
});

describe("mode observe", () => {
  const run = (parts: WorldParts, devices = [entry("a", onX)]) =>
    of(plan({ files: [spec("win10", devices, { mode: "observe" })], domains: [served("win10")], ...parts }), "win10/a");
  test.each([
    ["would attach", run({ host: [x] }), "Attaching/ObserveOnly -> stay"],
    ["is attached", run({ host: [x], domains: [served("win10", [ours(x, 1)])] }), "Attached/ObserveOnly -> stay"],
    ["nothing there", run({}), "WaitingForHost/ObserveOnly -> stay"],
    [
      "denied",
      run({ host: [x], policy: policyOf([rule("no", { match: selector(VENDOR) })]), domains: [served("win10", [ours(x, 1)])] }),
      "Denied/ObserveOnly -> stay",
    ],
    ["no place", run({ host: [x], domains: [live("win10", { freeSlots: [] })] }), "Stalled/ObserveOnly -> stay"],
    ["no domain", run({ host: [x], domains: [] }), "WaitingForDomain/ObserveOnly -> nowhere"],
    ["several", run({ host: [x, y] }, [entry("a", VENDOR)]), "Ambiguous/ObserveOnly -> stay"],
  ])("%s", (_, found, wanted) => {
    expect(found).toBe(wanted);
  });
});

describe("where in the domain", () => {
  const file = (change: Parameters<typeof entry>[2] = {}, domain: Parameters<typeof spec>[2] = {}) =>
    spec("win10", [entry("a", onX, change)], domain);
  const run = (
    domain: ReturnType<typeof live>,
    change: Parameters<typeof entry>[2] = {},
    parts: Parameters<typeof spec>[2] = {},
    given = x,
  ) => {
    const planner = plan({ host: [given], files: [file(change, parts)], domains: [domain] });
    return { text: of(planner, "win10/a"), message: message(planner, "win10/a"), target: planner.claims.get("win10/a")?.target };
  };
  const xhci = liveController("xhci.0");
  const full = { occupied: [1, 2, 3, 4, 5, 6, 7, 8] };
  const ehci = liveController("ehci.0", { driver: "usb-ehci", version: 2, ports: 6, minSpeed: 480, maxSpeed: 480 });
  const usb3 = [controller("usb3", { version: 3, ports: 15 })];
  const slow = device("1-1", { speed: 12 });

  test("a controller of ours first", () => {
    expect(run(live("win10", { controllers: [xhci, ourController()] })).text).toBe(at(1));
  });
  test("else a present one with a free port", () => {
    expect(run(live("win10", { controllers: [xhci] })).text).toBe(at(1, "1-1", "xhci.0"));
    expect(run(live("win10", { controllers: [liveController(OUR_BUS, full), xhci] })).text).toBe(at(1, "1-1", "xhci.0"));
  });
  test("of fitting speed", () => {
    expect(run(live("win10", { controllers: [ehci] }), {}, {}, slow).text).toBe(at(1));
    expect(run(live("win10", { controllers: [ehci, xhci] }), {}, {}, slow).text).toBe(at(1, "1-1", "xhci.0"));
    expect(run(live("win10", { controllers: [ehci] })).text).toBe(at(1, "1-1", "ehci.0"));
  });
  test("else a new one, by the first free name", () => {
    const taken = liveController(OUR_BUS, full);
    const { target } = run(live("win10", { controllers: [taken] }));
    expect(target).toMatchObject({
      bus: "plugherd-ctrl-hci1.0",
      port: 1,
      create: { name: "hci1", driver: "qemu-xhci", ports: 8, slot: "pci.0" },
    });
  });
  test("controllers: [] makes none", () => {
    const { text, message: why } = run(live("win10"), {}, { controllers: [] });
    expect(text).toBe("Stalled/NoController -> stay");
    expect(why).toContain("-device qemu-xhci");
  });
  test("a declared one is made, with its model, version and ports", () => {
    expect(run(live("win10"), {}, { controllers: usb3 }).target).toMatchObject({
      bus: "plugherd-ctrl-usb3.0",
      port: 1,
      create: { name: "usb3", driver: "qemu-xhci", ports: 15 },
    });
    const old = [controller("usb1", { version: 1 })];
    expect(run(live("win10"), {}, { controllers: old }, slow).target).toMatchObject({ create: { driver: "piix3-usb-uhci", ports: 2 } });
    const libvirt = [controller("nec", { model: "nec-xhci", ports: 4 })];
    expect(run(live("win10"), {}, { controllers: libvirt }).target).toMatchObject({ create: { driver: "nec-usb-xhci", ports: 4 } });
  });
  test("q35 without a free root port: NoController with the line to add", () => {
    const { text, message: why } = run(live("win10", { machine: "pc-q35-7.2", freeSlots: [] }));
    expect(text).toBe("Stalled/NoController -> stay");
    expect(why).toContain("-device pcie-root-port,id=rp1,chassis=1");
  });
  test("root ports are given to one controller each", () => {
    const devices = [
      entry("a", onX, { controller: "c1" }),
      entry("b", onY, { controller: "c2" }),
      entry("c", { port: "1-3" }, { controller: "c3" }),
    ];
    const files = [spec("win10", devices, { controllers: [controller("c1"), controller("c2"), controller("c3")] })];
    const planner = plan({ host: [x, y, z], files, domains: [live("win10", { machine: "pc-q35-7.2", freeSlots: ["rp0", "rp1"] })] });
    expect(planner.claims.get("win10/a")?.target).toMatchObject({ create: { slot: "rp0" } });
    expect(planner.claims.get("win10/b")?.target).toMatchObject({ create: { slot: "rp1" } });
    expect(of(planner, "win10/c")).toBe("Stalled/NoController -> stay");
  });
  test("the named controller and port, and no other", () => {
    const controllers = [liveController("plugherd-ctrl-usb3.0", { ports: 15 }), ourController()];
    expect(run(live("win10", { controllers }), { controller: "usb3" }, { controllers: usb3 }).text).toBe(
      at(1, "1-1", "plugherd-ctrl-usb3.0"),
    );
    expect(run(live("win10", { controllers }), { controller: "usb3", guestPort: 7 }, { controllers: usb3 }).text).toBe(
      at(7, "1-1", "plugherd-ctrl-usb3.0"),
    );
    expect(run(live("win10", { controllers: [xhci] }), { controller: "xhci" }).text).toBe(at(1, "1-1", "xhci.0"));
    expect(run(live("win10", { controllers: [xhci] }), { controller: "nope" }).text).toBe("Stalled/NoController -> stay");
  });
  test("a guest port that is taken, or that the controller does not have", () => {
    const occupied = live("win10", { controllers: [liveController("xhci.0", { occupied: [2] })] });
    expect(run(occupied, { controller: "xhci", guestPort: 2 })).toMatchObject({
      text: "Stalled/NoController -> stay",
      message: expect.stringContaining("taken"),
    });
    expect(run(occupied, { controller: "xhci", guestPort: 9 })).toMatchObject({
      text: "Stalled/NoController -> stay",
      message: expect.stringContaining("8 ports"),
    });
  });
  test("models that cannot be hot-plugged only match what is there", () => {
    const controllers = [controller("usb", { model: "ich9-ehci1" })];
    const there = liveController("usb.0", { driver: "ich9-usb-ehci1", version: 2, ports: 6 });
    expect(run(live("win10", { controllers: [there] }), { controller: "usb" }, { controllers }).text).toBe(at(1, "1-1", "usb.0"));
    const { text, message: why } = run(live("win10"), { controller: "usb" }, { controllers });
    expect(text).toBe("Stalled/NoController -> stay");
    expect(why).toContain("-device ich9-usb-ehci1,id=usb");
  });
  test("a model that this QEMU does not have", () => {
    expect(run(live("win10", { drivers: ["usb-ehci"] }), {}, { controllers: usb3 }).text).toBe("Stalled/NoController -> stay");
    expect(run(live("win10", { drivers: ["usb-ehci"] })).text).toBe("Stalled/NoController -> stay");
  });
  test("paravirtual controllers are not for plain QEMU", () => {
    for (const pv of [controller("p", { type: "pv" }), controller("p", { model: "qusb2" })]) {
      expect(run(live("win10"), { controller: "p" }, { controllers: [pv] }).text).toBe("Stalled/NoController -> stay");
    }
  });
  test("full or low speed on EHCI: SpeedMismatch before anything is tried", () => {
    expect(run(live("win10", { controllers: [ehci] }), { controller: "ehci" }, {}, slow).text).toBe("Stalled/SpeedMismatch -> stay");
    expect(run(live("win10", { controllers: [ehci] }), {}, { controllers: [] }, slow).text).toBe("Stalled/SpeedMismatch -> stay");
    expect(run(live("win10", { controllers: [ehci] }), { controller: "ehci" }, {}, device("1-1", { speed: null })).text).toBe(
      at(1, "1-1", "ehci.0"),
    );
  });
  test("what is in place stays in place", () => {
    expect(run(served("win10", [ours(x, 5)])).text).toBe(at(5));
    expect(run(served("win10", [theirs(x, 5)])).text).toBe(at(5, "1-1", "xhci.0"));
  });
  test("unless the file names another place", () => {
    expect(run(served("win10", [ours(x, 5)]), { controller: "xhci" }).text).toBe(at(1, "1-1", "xhci.0"));
    expect(run(served("win10", [ours(x, 5)]), { controller: "hci0", guestPort: 2 }).text).toBe(at(2));
    expect(run(served("win10", [ours(x, 5)]), { controller: "hci0" }).text).toBe(at(5));
  });
  test("what cannot go to its new place keeps the old one", () => {
    const blocked = live("win10", { controllers: [ourController(), liveController("xhci.0", { occupied: [2] })], objects: [ours(x, 5)] });
    expect(run(blocked, { controller: "xhci", guestPort: 2 }).text).toBe(`Stalled/NoController ${at(5)}`);
  });
  test("two that swap their ports come to rest", () => {
    const devices = [entry("a", onX, { controller: "hci0", guestPort: 2 }), entry("b", onY, { controller: "hci0", guestPort: 1 })];
    const planner = plan({ host: [x, y], files: [spec("win10", devices)], domains: [served("win10", [ours(x, 1), ours(y, 2)])] });
    expect([of(planner, "win10/a"), of(planner, "win10/b")]).toEqual([at(2), at(1, "1-2")]);
    planner.apply(realise(planner));
    expect(planner.claims.get("win10/a")?.owned).toMatchObject({ port: 2 });
    expect(planner.claims.get("win10/b")?.owned).toMatchObject({ port: 1 });
  });
  test("ports follow from the position in the file, not from who is there", () => {
    const devices = [entry("a", onX), entry("b", onY), entry("c", { port: "1-3" })];
    const planner = plan({ host: [z], files: [spec("win10", devices)], domains: [served("win10")] });
    expect(of(planner, "win10/c")).toBe(at(3, "1-3"));
  });
  test("a port that is occupied by anything is never taken, one of a dead object is", () => {
    expect(run(live("win10", { controllers: [liveController(OUR_BUS, { occupied: [1] })] })).text).toBe(at(2));
    expect(run(served("win10", [ours(y, 1)])).text).toBe(at(1));
  });
  test("no port of another entry is taken while there are others, whether that one is there or not", () => {
    const files = [spec("win10", [entry("a", onX), entry("b", onY), entry("c", { port: "1-3" }, { controller: "hci0", guestPort: 3 })])];
    const domains = [live("win10", { controllers: [liveController(OUR_BUS, { occupied: [1] })] })];
    expect(of(plan({ host: [x], files, domains }), "win10/a")).toBe(at(4));
    const both = plan({ host: [x, y], files, domains });
    expect(of(both, "win10/a")).toBe(at(4));
    expect(of(both, "win10/b")).toBe(at(2, "1-2"));
  });
  test("when only ports are left from which something is going, they are waited for", () => {
    const many = Array.from({ length: 8 }, (_, i) => device(`3-${String(i + 1)}`));
    const objects = many.map((one, i) => ours(one, i + 1));
    const planner = plan({
      host: [x, ...many],
      files: [file()],
      domains: [live("win10", { controllers: [ourController()], objects, freeSlots: [] })],
    });
    expect(of(planner, "win10/a")).toBe("Attaching/WaitingForRelease -> stay");
    planner.apply(realise(planner));
    expect(of(planner, "win10/a")).toBe(at(1));
  });
  test("more devices than ports: one more controller", () => {
    const host = Array.from({ length: 10 }, (_, i) => device(`3-${String(i + 1)}`)).sort((a, b) => compareBusids(a.busid, b.busid));
    const planner = plan({ host, files: [spec("win10", [entry("all", VENDOR, { count: "all" })])], domains: [live("win10")] });
    const buses = host
      .map(({ busid }) => planner.claims.get(`win10/all@${busid}`)?.target)
      .map((target) => (typeof target === "object" ? target?.create?.name : target));
    expect(buses.filter((name) => name === "hci0")).toHaveLength(8);
    expect(buses.filter((name) => name === "hci1")).toHaveLength(2);
    for (let round = 0; round < 3; round += 1) planner.apply(realise(planner));
    expect(planner.world.domains.get("win10#1")?.objects).toHaveLength(10);
  });
  test("ControllerDrift says what differs and changes nothing", () => {
    const there = liveController("plugherd-ctrl-usb3.0", { ports: 4 });
    const planner = plan({ host: [x], files: [file({}, { controllers: usb3 })], domains: [live("win10", { controllers: [there] })] });
    expect(planner.domains.get("win10")?.drift).toEqual([expect.stringContaining("has 4 ports, the file says 15")]);
    expect(of(planner, "win10/a")).toBe(at(1, "1-1", "plugherd-ctrl-usb3.0"));
    const other = plan({
      files: [file({}, { controllers: usb3 })],
      domains: [live("win10", { controllers: [{ ...there, driver: "usb-ehci", version: 2 }] })],
    });
    expect(other.domains.get("win10")?.drift).toEqual([expect.stringContaining("usb-ehci")]);
  });
});

describe("waiting for something", () => {
  const file = spec("win10", [entry("a", onX, { after: ["b"] }), entry("b", onY)]);
  test("after: until that one is attached", () => {
    const planner = plan({ host: [x, y], files: [file], domains: [served("win10")] });
    expect(of(planner, "win10/a")).toBe("Attaching/WaitingForOther -> stay");
    planner.apply(realise(planner));
    expect(of(planner, "win10/a")).toBe(at(1));
  });
  test("or not on the host", () => {
    expect(of(plan({ host: [x], files: [file], domains: [served("win10")] }), "win10/a")).toBe(at(1));
  });
  test("what is attached already keeps its place", () => {
    expect(of(plan({ host: [x, y], files: [file], domains: [served("win10", [ours(x, 1)])] }), "win10/a")).toBe(at(1));
  });
  const ids = [{ vendor: "1a6e" }, { vendor: "18d1" }];
  const facts = (change: object) => ({
    facts: new Map([["win10/a", { contested: false, flapping: false, reEnumerating: false, ...change }]]),
  });
  test("an anyOf that left a moment ago is ReEnumerating, not WaitingForHost", () => {
    const parts = { files: [spec("win10", [entry("a", ids)])], domains: [served("win10")] };
    expect(of(plan({ ...parts, ...facts({ reEnumerating: true }) }), "win10/a")).toBe("Attaching/ReEnumerating -> nowhere");
    expect(of(plan(parts), "win10/a")).toBe("WaitingForHost -> nowhere");
    expect(of(plan({ ...parts, host: [device("1-1", { vendor: "18d1" })] }), "win10/a")).toBe(at(1));
  });
  test("Contested: we stop; Flapping: held off", () => {
    const parts = { host: [x], files: [spec("win10", [entry("a", onX)])], domains: [served("win10")] };
    expect(of(plan({ ...parts, ...facts({ contested: true }) }), "win10/a")).toBe("Contested/UndoneByOthers -> stay");
    expect(message(plan({ ...parts, ...facts({ contested: true }) }), "win10/a")).toContain("plugherd retry a win10");
    expect(of(plan({ ...parts, ...facts({ flapping: true }) }), "win10/a")).toBe("Flapping/ComesAndGoes -> nowhere");
    expect(of(plan({ ...parts, host: [], ...facts({ flapping: true }) }), "win10/a")).toBe("WaitingForHost -> nowhere");
  });
  test("Flapping, what somebody else's object has taken up by itself is left to it", () => {
    const scan = scanning("scan", { vendor: "0529" }, 1, { attached: true });
    const parts = { host: [x], files: [spec("win10", [entry("a", onX)])], domains: [served("win10", [scan])] };
    expect(of(plan({ ...parts, ...facts({ flapping: true }) }), "win10/a")).toBe("Flapping/ComesAndGoes -> stay");
  });
  test("a kind that is not supported yet stalls that device only", () => {
    const uplink = { ...entry("uplink", {}), kind: { type: "unsupported", what: "pci" } as const };
    const planner = plan({ host: [x], files: [spec("win10", [uplink, entry("a", onX)])], domains: [served("win10")] });
    expect(of(planner, "win10/uplink")).toBe("Stalled/NotSupportedYet -> nowhere");
    expect(of(planner, "win10/a")).toBe(at(2));
  });
});

describe("precedence", () => {
  test("Denied comes before WaitingForDomain, that before WaitingForHost", () => {
    const files = [spec("win10", [entry("a", onX), entry("b", onY)])];
    const planner = plan({ host: [x], files, policy: policyOf([rule("no", { match: selector(onX) })]) });
    expect(of(planner, "win10/a")).toBe("Denied/DeniedByRule -> nowhere");
    expect(of(planner, "win10/b")).toBe("WaitingForDomain/DomainAbsent -> nowhere");
  });
});

describe("deltas", () => {
  const parts: WorldParts = {
    host: [x, y],
    files: [spec("win10", [entry("a", onX)]), spec("lab", [entry("b", onY)])],
    domains: [served("win10"), served("lab")],
  };
  test("hold only what a change altered", () => {
    const planner = plan(parts);
    const delta = planner.apply([{ kind: "host", busid: "1-2", device: null }]);
    expect([...delta.claims.keys()]).toEqual(["lab/b"]);
    expect([delta.orphans.size, delta.domains.size]).toEqual([0, 0]);
  });
  test("the same again is nothing", () => {
    const planner = plan(parts);
    const delta = planner.apply([
      { kind: "host", busid: "1-2", device: { ...y } },
      { kind: "live", key: "lab#1", domain: served("lab") },
      { kind: "forced", name: "lab", domain: forced(spec("lab", [entry("b", onY)])) },
    ]);
    expect([delta.claims.size, delta.orphans.size, delta.domains.size]).toEqual([0, 0, 0]);
  });
  test("a file or a domain that is no more takes its plans along", () => {
    const planner = createPlanner();
    planner.apply([{ kind: "forced", name: "win10", domain: forced(spec("win10", [entry("a", onX)])) }]);
    planner.apply([{ kind: "live", key: "win10#1", domain: served("win10", [ours(y, 1)]) }]);
    expect(planner.orphans.size).toBe(1);
    planner.apply([{ kind: "live", key: "win10#1", domain: null }]);
    expect(planner.orphans.size).toBe(0);
    planner.apply([{ kind: "forced", name: "win10", domain: null }]);
    expect([planner.claims.size, planner.domains.size]).toEqual([0, 0]);
  });
});

describe("explain", () => {
  test("names every criterion, every rule and how the port was found", () => {
    const planner = plan({
      host: [x, device("1-2", { vendor: "046d", serial: "S1-1" })],
      files: [spec("win10", [entry("a", { vendor: "0529", serial: "S1-1" })])],
      domains: [served("win10")],
      policy: policyOf([rule("no-modems", { match: selector({ anyInterface: classPattern("02") }) })]),
    });
    const [found] = planner.explain("win10", "a");
    expect(found?.candidates.map(({ device: d }) => d.busid)).toEqual(["1-1", "1-2"]);
    const texts = found?.candidates[0]?.steps.map(({ text }) => text);
    expect(texts).toContain("vendor 0529: yes");
    expect(texts).toContain("rule no-modems (policy.yaml:9:5): does not match");
    expect(found?.candidates[1]?.steps[0]).toEqual({ ok: false, text: "vendor 0529: no, it has 046d" });
    expect(found?.placement[0]).toContain("port 1");
    expect(planner.explain("win10", "nope")).toEqual([]);
    expect(planner.explain("nope", "a")).toEqual([]);
  });
});
