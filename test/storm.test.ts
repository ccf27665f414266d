/**
 * A storm of seeded accidents on the simulated host, then calm: whatever happened, the daemon ends where a fresh one would, which finds
 * nothing to do (house rule 1). What counts events over time (flapping, contested, identity) is out of the way: it depends on the past by design.
 */
import { createHash } from "node:crypto";
import { afterEach, expect, test } from "vitest";
import { stringify } from "yaml";
import type { GadgetKind } from "../src/sim/gadgets.ts";
import type { SimHost } from "../src/sim/world.ts";
import { createRig, type Rig } from "./support/rig.ts";

let rig: Rig | null = null;
afterEach(async () => {
  await rig?.close();
  rig = null;
});

const DOMAINS = ["one", "two", "three"] as const;
const PORTS = ["1-1", "1-2", "1-3", "1-4", "3-1", "3-2"] as const;
const KINDS: readonly GadgetKind[] = ["stick", "dongle", "zigbee", "camera"];

type Random = (below: number) => number;
const randomOf = (seed: number): Random => {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 4294967296) * below);
  };
};
const oneOf = <T>(random: Random, of: readonly T[]): T => {
  const found = of[random(of.length)];
  if (found === undefined) throw new Error("nothing to choose from");
  return found;
};

const VENDORS: Readonly<Record<string, string>> = { stick: "0781", dongle: "0529", zigbee: "10c4", camera: "046d" };
/** Each file has a claim on a device of its own, which is plugged in when the storm is over: once it is attached, everything before was seen. */
const fileOf = (name: string, random: Random): string => {
  const first = random(KINDS.length);
  const devices = KINDS.slice(0, 1 + random(KINDS.length)).map((_, i) => {
    const kind = KINDS[(first + i) % KINDS.length] ?? "stick";
    const how = [{}, { pick: "lowestPort" }, { count: "all" }, { priority: random(3) }][random(4)];
    return { name: kind, usb: { vendor: VENDORS[kind] }, ...how };
  });
  const calm = { name: "calm", usb: { vendor: "056a", serial: name } };
  const more = [{}, { prune: "none" }, { controllers: [{ name: "mine", ports: 8 }] }, { mode: "observe" }, {}][random(5)];
  return stringify({
    apiVersion: "plugherd/v1",
    kind: "Domain",
    metadata: { name },
    spec: { domain: { name }, ...more, devices: [...devices, calm] },
  });
};

async function accident(host: SimHost, random: Random): Promise<string> {
  const name = oneOf(random, DOMAINS);
  const busid = oneOf(random, PORTS);
  const runs = host.domainNames().includes(name);
  const plugged = host.plugged().includes(busid);
  const kind = oneOf(random, KINDS);
  switch (random(16)) {
    case 0:
    case 1:
    case 2:
      if (plugged) host.unplug(busid);
      else host.plug({ busid, kind, serial: String(random(3)) });
      return `${plugged ? "unplug" : "plug"} ${busid} ${kind}`;
    case 3:
      if (plugged) host.reenumerate(busid, {});
      return `reenumerate ${busid}`;
    case 4: {
      const to = oneOf(random, PORTS);
      if (plugged && (to === busid || !host.plugged().includes(to))) host.replug(busid, to);
      return `replug ${busid} to ${to}`;
    }
    case 5:
      if (runs) await host.killDomain(name);
      else await host.startDomain({ name, machine: "pc", version: oneOf(random, ["7.2.22", "10.0.13"]) });
      return `${runs ? "kill" : "start"} ${name}`;
    case 6:
      if (runs) await host.restartDomain(name);
      return `restart ${name}`;
    case 7:
      if (runs) host.qemu(name).disconnect();
      return `cut ${name}`;
    case 8: {
      const how = oneOf(random, [{ drop: "before" }, { drop: "after" }, { garble: true }, { swallow: true }, { delayMs: 20 }] as const);
      if (runs) host.qemu(name).faults.next(oneOf(random, ["device_add", "device_del", "qom-list", "*"]), how);
      return `fault ${name} ${JSON.stringify(how)}`;
    }
    case 9:
      if (runs) host.qemu(name).faults.refuse(oneOf(random, ["device_add", "device_del"]), "not now", 1 + random(3));
      return `refuse ${name}`;
    case 10:
    case 11:
      host.files.write({ [`${name}.yaml`]: fileOf(name, random) });
      return `write ${name}.yaml`;
    case 12:
      host.files.write({ [`${name}.yaml`]: "kind: nonsense" });
      return `break ${name}.yaml`;
    case 13:
      if (!runs) return "nothing";
      if (random(2) === 0) host.holdMonitor(name);
      else host.releaseMonitor(name);
      return `monitor of ${name} held or released`;
    case 14: {
      const [object] = runs ? host.objects(name) : [];
      if (object?.holds != null) host.detachByHand(name, object.holds);
      return `detach by hand in ${name}`;
    }
    default:
      if (runs) oneOf(random, [host.qemu(name).pause, host.qemu(name).resume, host.qemu(name).reset])();
      return `run state of ${name}`;
  }
}

/** Makes everything well-behaved, and waits until what was done before must have been seen. */
async function calm({ host, app, wait, expect: until, settled }: Rig, random: Random): Promise<void> {
  const written = new Map<string, string>();
  for (const name of DOMAINS) {
    if (!host.domainNames().includes(name)) await host.startDomain({ name });
    host.qemu(name).faults.clear();
    host.releaseMonitor(name);
    const text = fileOf(name, random).replace("mode: observe", "mode: enforce").replace("prune: none", "prune: managed");
    host.files.write({ [`${name}.yaml`]: text });
    written.set(name, createHash("sha256").update(text).digest("hex").slice(0, 12));
  }
  const ports = ["1-11", "1-12", "1-13"];
  for (const [i, name] of DOMAINS.entries()) host.plug({ busid: ports[i] ?? "", kind: "tablet", serial: name });
  const domains = () => app.view.snapshot().domains;
  await wait(() =>
    domains().flatMap(({ name, observedGeneration: of }) => (of === written.get(name) ? [] : [`${name} is at ${of ?? "-"}`])),
  );
  await until({
    claims: Object.fromEntries(DOMAINS.map((name) => [`${name}/calm`, "Attached"])),
    conditions: Object.fromEntries(DOMAINS.map((name) => [name, { Reconciling: "absent" }])),
    noLeftovers: true,
  });
  await settled();
  // Nothing waits to be taken out.
  await wait(() => domains().flatMap(({ live }) => live?.others.map(({ path, text }) => `${path}: ${text}`) ?? ["a domain is not seen"]));
}

/** What is shown and what is so, a line each, in no order. */
const picture = ({ app, host }: Rig): readonly string[] =>
  [
    ...app.view
      .snapshot()
      .devices.map(({ domain, name, phase, reason, guest, host: at }) =>
        [domain, name, phase, reason, at?.busid, guest?.controller, guest?.port].join(" "),
      ),
    ...DOMAINS.flatMap((name) => host.objects(name).map(({ id, holds, bus, port }) => [name, id, holds, bus, port].join(" "))),
  ].sort();

const SEEDS = (process.env["STORM_SEEDS"] ?? "1,2,3,4").split(",").map(Number);
test.each(SEEDS)("after storm %i a fresh daemon finds nothing to do", async (seed) => {
  const random = randomOf(seed);
  rig = await createRig(
    {
      domains: DOMAINS.map((name) => ({ name })),
      files: Object.fromEntries(DOMAINS.map((name) => [`${name}.yaml`, fileOf(name, random)])),
    },
    { flapCount: 1_000, contestCount: 1_000, identityMs: 0, reEnumerateMs: 0 },
  );
  const told: string[] = [];
  try {
    for (let n = 0; n < 60; n += 1) {
      told.push(await accident(rig.host, random));
      // Now and then the daemon gets a moment, mostly it does not.
      if (random(3) === 0) await new Promise((resolve) => setImmediate(resolve));
      if (random(6) === 0) await rig.settled().catch(() => undefined);
    }
    await calm(rig, random);
    const before = picture(rig);
    rig.host.mark();
    await rig.restart();
    await rig.expect({ noLeftovers: true, untouched: DOMAINS });
    await rig.settled();
    const after = picture(rig);
    const fresh = after.filter((line) => !before.includes(line));
    const stale = before.filter((line) => !after.includes(line));
    if (fresh.length + stale.length > 0) throw new Error(`it was\n${stale.join("\n")}\nand is\n${fresh.join("\n")}\n${rig.report()}`);
    expect(after.length).toBe(before.length);
    await rig.expect({ untouched: DOMAINS });
  } catch (cause) {
    throw new Error(`${told.join("\n")}\n${cause instanceof Error ? cause.message : String(cause)}`);
  }
});
