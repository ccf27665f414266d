/** The simulated host as a whole: one truth for tree and QEMUs, and nothing left of it in the end. */
import { existsSync, lstatSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { createSimHost, type SimHost, type SimHostOptions } from "../src/sim/world.ts";

let host: SimHost | null = null;
afterEach(async () => {
  await host?.close();
  host = null;
});
const make = async (given: SimHostOptions["given"] = {}): Promise<SimHost> => {
  host = await createSimHost({ given });
  return host;
};

test("a QEMU finds exactly what is plugged in, and holds nothing of what left", async () => {
  const made = await make({
    host: [{ busid: "1-1", kind: "stick" }],
    domains: [{ name: "lab", controllers: [{ id: "usb", driver: "qemu-xhci" }] }],
  });
  made.attachByHand("lab", "1-1", "one");
  expect(made.objects("lab")).toMatchObject([{ id: "one", holds: "1-1" }]);
  expect(() => made.attachByHand("lab", "1-2")).toThrow("1-2");
  made.replug("1-1", "1-2");
  expect(made.objects("lab")).toMatchObject([{ id: "one", holds: null }]);
  made.attachByHand("lab", "1-2");
  expect(made.objects("lab").map(({ holds }) => holds)).toEqual([null, "1-2"]);
  made.detachByHand("lab", "1-2");
  expect(made.objects("lab")).toMatchObject([{ holds: null }]);
  expect(made.mutations("lab")).toEqual([]);
});

test("a hub takes along what hangs on it", async () => {
  const made = await make({
    host: [
      { busid: "1-1", kind: "hub" },
      { busid: "1-1.1", kind: "dongle" },
      { busid: "1-10", kind: "stick" },
    ],
  });
  made.unplug("1-1");
  expect(made.plugged()).toEqual(["1-10"]);
  expect(readdirSync(join(made.paths.sysfs, "bus/usb/devices")).filter((name) => /^1-[\d.]+$/.test(name))).toEqual(["1-10"]);
});

test("a re-enumeration changes the address, and what it is only if told to", async () => {
  const made = await make({ host: [{ busid: "1-1", kind: "stick", serial: "A1" }] });
  const read = (name: string): string => readFileSync(join(made.paths.sysfs, "bus/usb/devices/1-1", name), "utf8").trim();
  const before = read("devnum");
  made.reenumerate("1-1", {});
  expect(read("devnum")).not.toBe(before);
  expect([read("idVendor"), read("serial")]).toEqual(["0781", "A1"]);
  made.reenumerate("1-1", { kind: "zigbee" });
  expect(read("idVendor")).toBe("10c4");
});

test("a killed QEMU leaves its socket's file, one that quits does not", async () => {
  const made = await make({ domains: [{ name: "one" }, { name: "two" }] });
  await made.killDomain("one");
  await made.quitDomain("two");
  expect(readdirSync(made.paths.qmpDir)).toEqual(["one.sock"]);
  expect(made.domainNames()).toEqual([]);
  await made.startDomain({ name: "one" });
  expect(made.domainNames()).toEqual(["one"]);
});

test.each(["directory", "link", "volume"] as const)("a tree as a %s is swapped as a whole", async (tree) => {
  const made = await make({ tree, files: { "a.yaml": "a", "b.yaml": "b" } });
  const { specs } = made.paths;
  expect(lstatSync(specs).isSymbolicLink()).toBe(tree === "link");
  made.files.swap({ "b.yaml": "b2", "sub/c.yaml": "c" });
  expect(readdirSync(specs).filter((name) => !name.startsWith("."))).toEqual(["b.yaml", "sub"]);
  expect(readFileSync(join(specs, "b.yaml"), "utf8")).toBe("b2");
  expect(readFileSync(join(specs, "sub/c.yaml"), "utf8")).toBe("c");
});

test("nothing is left of it in the end", async () => {
  const made = await createSimHost({ given: { host: [{ busid: "1-1", kind: "stick" }], domains: [{ name: "lab" }], policy: "text" } });
  made.mount("1-1");
  await made.close();
  expect(existsSync(made.root)).toBe(false);
});
