/** What takes time to become true of a claim, on a simulated clock. */
import { SimulatedClock } from "xstate";
import { beforeEach, describe, expect, test } from "vitest";
import { createHistory, type History, type Holder } from "../src/controller/history.ts";
import type { HostDevice } from "../src/model/hostdev.ts";
import { defaultTimings } from "../src/model/timings.ts";
import type { ClaimFacts } from "../src/model/world.ts";

const stick = (overrides: Partial<HostDevice> = {}): HostDevice => ({
  busid: "1-1",
  anchor: null,
  bus: 1,
  address: 5,
  inode: 100,
  node: "/dev/bus/usb/001/005",
  vendor: "0781",
  product: "5581",
  deviceClass: null,
  interfaces: [{ class: 8, subclass: 6, protocol: 80 }],
  speed: 480,
  serial: "A",
  manufacturer: null,
  productName: null,
  removable: null,
  hub: false,
  drivers: [],
  ...overrides,
});
const holder: Holder = { id: "win10/stick", domain: "win10", device: "stick", anyOf: false };

let clock: SimulatedClock;
let facts: Map<string, ClaimFacts | null>;
let history: History;
beforeEach(() => {
  clock = new SimulatedClock();
  facts = new Map();
  history = createHistory({ clock, timings: defaultTimings, onFacts: (id, value) => facts.set(id, value) });
});
const flap = (times: number): void => {
  for (let i = 0; i < times; i += 1) {
    history.left(stick(), [holder]);
    clock.increment(500);
    history.came(stick());
    history.won(holder.id);
  }
};

describe("flapping", () => {
  test("ten disconnects within ten seconds are none yet, the eleventh is", () => {
    flap(10);
    expect(facts.get(holder.id)).toBeUndefined();
    flap(1);
    expect(facts.get(holder.id)?.flapping).toBe(true);
  });
  test("eleven disconnects, spread wider, are none", () => {
    for (let i = 0; i < 30; i += 1) {
      history.left(stick(), [holder]);
      clock.increment(1_200);
      history.won(holder.id);
    }
    expect(facts.size).toBe(0);
  });
  test("it ends once the device has stayed, and not before", () => {
    flap(11);
    clock.increment(defaultTimings.flapHoldMs - 1);
    expect(facts.get(holder.id)?.flapping).toBe(true);
    clock.increment(1);
    expect(facts.get(holder.id)).toBeNull();
  });
  test("a device that leaves again starts the stay anew", () => {
    flap(11);
    clock.increment(2_000);
    flap(1);
    clock.increment(2_000);
    expect(facts.get(holder.id)?.flapping).toBe(true);
    clock.increment(1_000);
    expect(facts.get(holder.id)).toBeNull();
  });
});

describe("contested", () => {
  test("three times within ten minutes, until forgiven", () => {
    history.undone(holder.id);
    history.undone(holder.id);
    expect(facts.size).toBe(0);
    history.undone(holder.id);
    expect(facts.get(holder.id)?.contested).toBe(true);
    history.forgive(holder.id);
    expect(facts.get(holder.id)).toBeNull();
  });
  test("three times spread over more are none", () => {
    for (let i = 0; i < 6; i += 1) {
      history.undone(holder.id);
      clock.increment(defaultTimings.contestWindowMs / 2);
    }
    expect(facts.size).toBe(0);
  });
});

describe("re-enumeration", () => {
  const anyOf: Holder = { ...holder, anyOf: true };
  test("an anyOf may be away for its time, and is back when it is won", () => {
    history.left(stick(), [anyOf]);
    expect(facts.get(holder.id)?.reEnumerating).toBe(true);
    history.won(holder.id);
    expect(facts.get(holder.id)).toBeNull();
  });
  test("away for longer is away", () => {
    history.left(stick(), [anyOf]);
    clock.increment(defaultTimings.reEnumerateMs);
    expect(facts.get(holder.id)).toBeNull();
  });
  test("a plain claim is simply gone", () => {
    history.left(stick(), [holder]);
    expect(facts.size).toBe(0);
  });
});

describe("identity", () => {
  test.each<[string, Partial<HostDevice>, boolean]>([
    ["the same again, at a new address", { address: 6, inode: 101 }, false],
    ["another product", { product: "ffff" }, true],
    ["another serial", { serial: "B" }, true],
    [
      "a keyboard beside the disk",
      {
        interfaces: [
          { class: 8, subclass: 6, protocol: 80 },
          { class: 3, subclass: 1, protocol: 1 },
        ],
      },
      true,
    ],
    ["interfaces not known yet", { interfaces: null }, false],
  ])("%s", (_, now, changed) => {
    history.left(stick(), [holder]);
    clock.increment(defaultTimings.identityMs);
    expect(history.came(stick(now)) !== null).toBe(changed);
  });
  test("after the window it is a new device", () => {
    history.left(stick(), [holder]);
    clock.increment(defaultTimings.identityMs + 1);
    expect(history.came(stick({ product: "ffff" }))).toBeNull();
  });
});

test("a claim that is no more leaves nothing behind", () => {
  flap(11);
  history.forget(holder.id);
  expect(facts.get(holder.id)).toBeNull();
  clock.increment(60_000);
  expect(facts.size).toBe(1);
});
