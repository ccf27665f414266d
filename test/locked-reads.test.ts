/** Reads that wait for the kernel: few at a time, for one enumeration, and our own queue counts against nobody. */
import { expect, test } from "vitest";
import { createLockedReads, type LockedReads } from "../src/adapters/locked-reads.ts";
import type { Found, SysfsReader } from "../src/adapters/sysfs-reader.ts";
import type { LockedReading } from "../src/protocol/sysfs-usb.ts";

const place = (busid: string): Found => ({ busid, directory: `/sys/${busid}` });
const answer = (serial: string): LockedReading => ({ descriptors: null, serial, manufacturer: null, product: null, kernel: null });
const unlocked = answer("unlocked");
const refused = (): never => {
  throw new Error("not to be asked");
};

type Rig = { locked: LockedReads; told: string[]; pending: Map<string, (serial: string) => Promise<void>>; instances: Map<string, string> };
const rig = (): Rig => {
  const pending = new Map<string, (serial: string) => Promise<void>>();
  const instances = new Map<string, string>();
  const told: string[] = [];
  const reader: SysfsReader = {
    mayWait: true,
    lockedLater: ({ busid }) =>
      new Promise((resolve) => {
        pending.set(busid, async (serial) => {
          pending.delete(busid);
          resolve(answer(serial));
          await Promise.resolve();
          await Promise.resolve();
        });
      }),
    unlocked: () => unlocked,
    instance: ({ busid }) => instances.get(busid) ?? "1",
    locked: refused,
    list: refused,
    find: refused,
    directoryOf: refused,
    plain: refused,
    node: refused,
    nodesOf: refused,
  };
  return { locked: createLockedReads(reader, (busid) => told.push(busid)), told, pending, instances };
};

test("two at a time; an answer is kept for its enumeration and for no other", async () => {
  const { locked, told, pending } = rig();
  for (const busid of ["a", "b", "c"]) expect(locked.get(place(busid), "1", false)).toBeNull();
  expect([...pending.keys()]).toEqual(["a", "b"]);
  await pending.get("a")?.("S");
  expect(told).toEqual(["a"]);
  expect([...pending.keys()]).toEqual(["b", "c"]);
  expect(locked.get(place("a"), "1", false)).toEqual(answer("S"));
  expect(locked.get(place("a"), "2", false)).toBeNull();
});

test("an answer about an enumeration that has gone meanwhile is dropped, and its device looked at again", async () => {
  const { locked, told, pending, instances } = rig();
  locked.get(place("a"), "1", false);
  instances.set("a", "2");
  await pending.get("a")?.("old");
  expect(told).toEqual(["a"]);
  expect(locked.get(place("a"), "1", false)).toBeNull();
});

test("when time is over, what needs no lock has to do, or the last answer", async () => {
  const { locked, pending } = rig();
  expect(locked.get(place("a"), "1", true)).toBe(unlocked);
  await pending.get("a")?.("S");
  locked.refresh("a");
  expect(locked.get(place("a"), "1", false)).toBeNull();
  expect(locked.get(place("a"), "1", true)).toEqual(answer("S"));
  locked.drop("a");
  expect(locked.get(place("a"), "1", true)).toBe(unlocked);
});

test("a device gets more time while the queue before it moves, none once it stands still", async () => {
  const { locked, pending } = rig();
  for (const busid of ["a", "b", "c", "d"]) locked.get(place(busid), "1", false);
  expect(["a", "d"].map((busid) => locked.moved(busid))).toEqual([true, true]);
  expect(["a", "d"].map((busid) => locked.moved(busid))).toEqual([false, false]);
  await pending.get("b")?.("S");
  expect(["a", "d"].map((busid) => locked.moved(busid))).toEqual([false, true]);
  expect(locked.moved("b")).toBe(false);
});
