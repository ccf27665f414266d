/** Worlds for the planner's laws: few ports, few ids, few domains, so that everything collides. */
import fc from "fast-check";
import type { DesiredController, DesiredDevice, DesiredDomain, ForcedDomain, UsbSelector } from "../../src/model/desired.ts";
import type { LiveDomain, LiveObject } from "../../src/model/domain.ts";
import { fingerprintOf, type HostDevice, instanceOf } from "../../src/model/hostdev.ts";
import type { World, WorldChange } from "../../src/model/world.ts";
import {
  controller,
  device,
  entry,
  forced,
  live,
  liveController,
  ourController,
  ours,
  policyOf,
  replugged,
  rule,
  scanning,
  selector,
  spec,
  theirs,
} from "./planner-worlds.ts";

const BUSIDS = ["1-1", "1-2", "1-2.1", "1-10", "2-1"] as const;
const NAMES = ["a", "b", "c"] as const;
const ENTRIES = ["e1", "e2", "e3", "e4"] as const;
const UUID = "6c8d2f3e-0000-4000-8000-000000000001";

const pick = <T>(values: readonly T[]): fc.Arbitrary<T> => fc.constantFrom(...values);
const rarely = <T>(value: T, usual: T): fc.Arbitrary<T> =>
  fc.oneof({ weight: 6, arbitrary: fc.constant(usual) }, { weight: 1, arbitrary: fc.constant(value) });

const hostDevice = (busid: string): fc.Arbitrary<HostDevice> =>
  fc
    .record({
      vendor: pick(["0529", "046d"]),
      serial: pick(["A", "B", null]),
      again: fc.boolean(),
      hub: rarely(true, false),
      keyboard: rarely(true, false),
      unknown: rarely(true, false),
      speed: pick([12, 480, 5000, null]),
      anchored: fc.boolean(),
    })
    .map(({ vendor, serial, again, hub, keyboard, unknown, speed, anchored }) => {
      const usual = device(busid, { vendor, serial, hub, speed });
      const given = anchored ? usual : { ...usual, anchor: null };
      const shown = keyboard
        ? { ...given, interfaces: [{ class: 3, subclass: 1, protocol: 1 }] }
        : unknown
          ? { ...given, interfaces: null }
          : given;
      return again ? replugged(shown) : shown;
    });

const usbSelector: fc.Arbitrary<Partial<UsbSelector>> = fc.oneof(
  pick(["0529", "046d"]).map((vendor) => ({ vendor })),
  pick(["A", "B", "*"]).map((serial) => ({ serial, vendor: "0529" })),
  pick([...BUSIDS, "pci-0000:00:14.0/1"]).map((port) => ({ port })),
  pick(["1-2", "pci-0000:00:14.0/2"]).map((under) => ({ under })),
  fc.constant({ anyInterface: { class: 0xff, subclass: null, protocol: null } }),
);

const desiredDevice = (name: string): fc.Arbitrary<DesiredDevice> =>
  fc
    .record({
      selectors: fc.oneof(
        { weight: 4, arbitrary: usbSelector.map((one) => [one]) },
        { weight: 1, arbitrary: fc.array(usbSelector, { minLength: 2, maxLength: 2 }) },
      ),
      all: rarely(true, false),
      lowest: fc.boolean(),
      priority: rarely(7, 0),
      controller: pick([null, null, null, "hci0", "usb3", "xhci"]),
      guestPort: pick([null, null, 1, 2, 5]),
      leave: fc.boolean(),
      after: pick([null, null, null, ...ENTRIES]),
      unsupported: fc.integer({ min: 0, max: 20 }).map((n) => n === 0),
    })
    .map(({ selectors, all, lowest, priority, controller: named, guestPort, leave, after, unsupported }) => {
      const made = entry(name, selectors.length > 1 ? selectors : (selectors[0] ?? {}), {
        count: all ? "all" : 1,
        pick: lowest ? "lowestPort" : "none",
        priority,
        controller: named,
        guestPort: named === null || all ? null : guestPort,
        onRemove: leave ? "leave" : "detach",
        // Only earlier ones: the reader refuses cycles.
        after: after !== null && after < name ? [after] : [],
      });
      return unsupported ? { ...made, kind: { type: "unsupported", what: "pci" } } : made;
    });

const controllers: fc.Arbitrary<readonly DesiredController[] | null> = fc.oneof(
  { weight: 5, arbitrary: fc.constant(null) },
  { weight: 1, arbitrary: fc.constant([]) },
  { weight: 2, arbitrary: fc.constant([controller("usb3", { version: 3, ports: 4 })]) },
  { weight: 1, arbitrary: fc.constant([controller("usb2", { version: 2 }), controller("usb3", { model: "nec-xhci", ports: 2 })]) },
  { weight: 1, arbitrary: fc.constant([controller("old", { model: "ich9-ehci1" })]) },
);

const desiredDomain = (name: string): fc.Arbitrary<DesiredDomain> =>
  fc
    .record({
      devices: fc.tuple(...ENTRIES.map((one) => fc.option(desiredDevice(one), { freq: 2 }))),
      mode: fc.oneof(
        { weight: 5, arbitrary: fc.constant("enforce" as const) },
        { weight: 1, arbitrary: pick(["observe", "paused"] as const) },
      ),
      prune: pick(["managed", "none", "all"] as const),
      controllers,
      byUuid: rarely(true, false),
      target: rarely<string>("a", name),
    })
    .map(({ devices, byUuid, target, ...rest }) =>
      spec(
        name,
        devices.filter((one) => one !== null),
        { ...rest, target: byUuid ? { by: "uuid", uuid: UUID } : { by: "name", name: target } },
      ),
    );

const forcedDomain = (name: string): fc.Arbitrary<ForcedDomain> =>
  fc
    .record({
      domain: desiredDomain(name),
      standing: fc.oneof(
        { weight: 5, arbitrary: fc.constant("current" as const) },
        { weight: 2, arbitrary: pick(["last-good", "settling", "held-back", "vanished"] as const) },
      ),
      left: fc.option(desiredDevice("gone"), { freq: 3 }),
    })
    .map(({ domain, standing, left }) => forced(domain, { standing, left: left === null ? [] : [left] }));

/** Objects that stand for devices as they may be plugged in, or may have been. */
const liveObjects: fc.Arbitrary<readonly LiveObject[]> = fc
  .tuple(
    fc.uniqueArray(fc.tuple(pick(BUSIDS), fc.boolean()), { selector: ([busid, again]) => `${busid}${String(again)}`, maxLength: 3 }),
    fc.shuffledSubarray([1, 2, 3, 4, 5]),
    fc.array(fc.boolean(), { minLength: 3, maxLength: 3 }),
    fc.option(fc.record({ vendor: pick(["0529", "046d"]), attached: fc.boolean() }), { freq: 5 }),
  )
  .map(([held, ports, mine, scan]) => [
    ...held.flatMap(([busid, again], i) => {
      const port = ports[i];
      const given = again ? replugged(device(busid)) : device(busid);
      if (port === undefined) return [];
      return mine[i] === true
        ? [ours(given, port)]
        : [theirs(given, port, { path: `/machine/peripheral/their-${busid}-${String(again)}` })];
    }),
    ...(scan === null ? [] : [scanning("scan", { vendor: scan.vendor }, 6, { attached: scan.attached })]),
  ]);

const liveDomain = (key: string): fc.Arbitrary<LiveDomain> =>
  fc
    .record({
      objects: liveObjects,
      name: fc.oneof({ weight: 6, arbitrary: fc.constant(key.charAt(0)) }, { weight: 1, arbitrary: pick(NAMES) }),
      uuid: rarely<string | null>(UUID, null),
      state: rarely("shutdown", "running"),
      monitorState: fc.oneof(
        { weight: 6, arbitrary: fc.constant("answering" as const) },
        { weight: 1, arbitrary: pick(["busy", "silent"] as const) },
      ),
      freeSlots: pick([["pci.0"], ["rp0"], ["rp0", "rp1"], []]),
      bare: fc.boolean(),
    })
    .map(({ objects, bare, ...rest }) => {
      const needed = new Set(objects.map(({ bus }) => bus));
      const there = [ourController(), liveController("xhci.0", { ports: 6 })].filter(({ bus }) => !bare || needed.has(bus));
      return live(rest.name, { ...rest, key, objects, controllers: there });
    });

const policies: fc.Arbitrary<World["policy"]> = fc.oneof(
  { weight: 5, arbitrary: fc.constant(policyOf([])) },
  { weight: 1, arbitrary: fc.constant(policyOf([rule("no", { match: selector({ vendor: "046d" }), domain: "a" })])) },
  {
    weight: 1,
    arbitrary: fc.constant(
      policyOf([rule("yes", { verdict: "allow", match: selector({ vendor: "0529" }), lift: ["input"] })], { default: "deny" }),
    ),
  },
  { weight: 1, arbitrary: fc.constant<World["policy"]>({ kind: "invalid", problems: ["policy.yaml:1:1: not a policy"] }) },
);

const overrides: fc.Arbitrary<WorldChange & { kind: "overrides" }> = fc
  .record({
    holds: fc.uniqueArray(fc.record({ domain: pick(NAMES), device: pick(ENTRIES), release: fc.boolean() }), {
      maxLength: 2,
      selector: ({ domain, device: name }) => `${domain}/${name}`,
    }),
    paused: fc.option(pick(NAMES), { freq: 3 }),
    quarantine: fc.option(fc.record({ domain: pick(NAMES), device: pick(ENTRIES), busid: pick(BUSIDS) }), { freq: 3 }),
  })
  .map(({ holds, paused, quarantine }) => ({
    kind: "overrides",
    holds: holds.map((hold) => ({ ...hold, until: 1_800_000_000_000, reason: null })),
    pauses: paused === null ? [] : [{ domain: paused, since: 1, reason: null }],
    quarantines: quarantine === null ? [] : [{ ...quarantine, fingerprint: fingerprintOf(device(quarantine.busid)) }],
  }));

const calm: fc.Arbitrary<WorldChange & { kind: "overrides" }> = fc.constant({ kind: "overrides", holds: [], pauses: [], quarantines: [] });

const facts: fc.Arbitrary<WorldChange> = fc
  .record({
    domain: pick(NAMES),
    name: pick(ENTRIES),
    facts: fc.option(fc.record({ contested: fc.boolean(), flapping: fc.boolean(), reEnumerating: fc.boolean() })),
  })
  .map(({ domain, name, facts: given }) => ({ kind: "facts", claim: `${domain}/${name}`, facts: given }));

const vetoChange: fc.Arbitrary<WorldChange> = fc.record({ busid: pick(BUSIDS), on: fc.boolean() }).map(({ busid, on }) => ({
  kind: "veto",
  instance: instanceOf(device(busid)),
  veto: on ? { builtIn: "disk-in-use", message: "The host uses it." } : null,
}));

const KEYS = ["a#1", "b#1", "c#1"] as const;
const maybe = <T>(value: fc.Arbitrary<T>, freq = 4): fc.Arbitrary<T | null> => fc.option(value, { freq });

export const hostChange: fc.Arbitrary<WorldChange> = pick(BUSIDS).chain((busid) =>
  maybe(hostDevice(busid)).map((given) => ({ kind: "host", busid, device: given })),
);
const liveChange: fc.Arbitrary<WorldChange> = pick(KEYS).chain((key) =>
  maybe(liveDomain(key)).map((domain) => ({ kind: "live", key, domain })),
);
const forcedChange: fc.Arbitrary<WorldChange> = pick(NAMES).chain((name) =>
  maybe(forcedDomain(name)).map((domain) => ({ kind: "forced", name, domain })),
);

/** One change of any kind. */
export const worldChange: fc.Arbitrary<WorldChange> = fc.oneof(
  { weight: 5, arbitrary: hostChange },
  { weight: 5, arbitrary: liveChange },
  { weight: 4, arbitrary: forcedChange },
  { weight: 1, arbitrary: policies.map((policy) => ({ kind: "policy", policy }) as const) },
  { weight: 2, arbitrary: overrides },
  { weight: 1, arbitrary: facts },
  { weight: 1, arbitrary: vetoChange },
);

/** The changes that make a whole world, in no particular order. */
export const wholeWorld: fc.Arbitrary<readonly WorldChange[]> = fc
  .tuple(
    fc.tuple(...BUSIDS.map((busid) => maybe(hostDevice(busid)).map((given): WorldChange => ({ kind: "host", busid, device: given })))),
    fc.tuple(...KEYS.map((key) => maybe(liveDomain(key), 8).map((domain): WorldChange => ({ kind: "live", key, domain })))),
    fc.tuple(...NAMES.map((name) => maybe(forcedDomain(name), 8).map((domain): WorldChange => ({ kind: "forced", name, domain })))),
    policies.map((policy): WorldChange => ({ kind: "policy", policy })),
    fc.oneof(calm, overrides),
  )
  .map(([host, lives, files, policy, over]) => [...host, ...lives, ...files, policy, over]);
