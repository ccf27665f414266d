/** The hand on the cable: plug, unplug, replug, many times and quickly. */
import assert from "node:assert/strict";
import type { Case } from "../case.ts";
import { oneStick, rig, writeDomain } from "../desired.ts";
import type { DeviceStatus } from "../host.ts";
import { untilAttached } from "../inner.ts";
import { sleep, until } from "../waiting.ts";

const REPLUGS = 100;
/** product.md: faster than this is Flapping. */
const PACE_MS = 1_200;

export const cableCases: readonly Case[] = [
  {
    name: "cable: a stick is plugged, unplugged, and plugged into another port",
    run: async (host) => {
      const vm = await rig(host, oneStick);
      await host.phase("stick", "WaitingForHost");
      await host.plug("s1", "usb-storage", { port: "1", serial: "S1" });
      const waited = await host.plugherd("wait stick vm1 --timeout 60s");
      assert.equal(waited.rc, 0, waited.err);
      const stick = await host.plugged("2-1");
      const [object] = await untilAttached(vm, [stick]);
      assert.ok(object?.id.startsWith(`plugherd-${String(stick.bus)}-${String(stick.address)}-`), object?.id);
      assert.ok((await vm.infoUsb()).includes(`ID: ${object?.id ?? ""}`));
      const told = await host.plugherd("get devices -o json");
      const [status] = JSON.parse(told.out) as DeviceStatus[];
      assert.deepEqual([status?.domain, status?.name, status?.phase], ["vm1", "stick", "Attached"]);
      assert.equal(status?.guest?.attached, true);
      assert.equal(status?.host?.busid, "2-1");

      await host.unplug("s1");
      await untilAttached(vm, []);
      await host.phase("stick", "WaitingForHost");

      await host.plug("s1", "usb-storage", { port: "2", serial: "S1" });
      const again = await host.plugged("2-2");
      await untilAttached(vm, [again]);
      await host.phase("stick", "Attached");
      const events = await host.plugherd("events -o json");
      assert.equal(events.rc, 0, events.err);
      assert.ok(events.out.includes("stick"));
      assert.equal((await host.plugherd("wait nobody vm1 --timeout 1s")).rc, 2);
    },
  },
  {
    name: `cable: ${String(REPLUGS)} replugs in a row leave nothing behind`,
    timeoutMs: 900_000,
    run: async (host) => {
      const vm = await rig(host, oneStick);
      const cycle = async (index: number): Promise<void> => {
        const began = Date.now();
        const port = index % 2 === 0 ? "1" : "2";
        await host.plug("s1", "usb-storage", { port, serial: "S1" });
        await untilAttached(vm, [await host.plugged(`2-${port}`)]);
        await host.unplug("s1");
        await untilAttached(vm, []);
        await sleep(Math.max(0, PACE_MS - (Date.now() - began)));
      };
      const counts = async (): Promise<{ qemu: number; daemon: number; objects: string[] }> => ({
        qemu: await vm.fds(),
        daemon: await host.daemon.fds(),
        objects: await vm.peripherals(),
      });
      await cycle(0);
      await cycle(1);
      const before = await counts();
      for (let index = 0; index < REPLUGS; index += 1) await cycle(index);
      const after = await counts();
      assert.deepEqual(after.objects, before.objects);
      assert.ok(after.qemu <= before.qemu + 1, `QEMU has ${String(after.qemu)} descriptors, had ${String(before.qemu)}`);
      assert.ok(after.daemon <= before.daemon + 1, `plugherd has ${String(after.daemon)} descriptors, had ${String(before.daemon)}`);
      await host.plug("s1", "usb-storage", { port: "1", serial: "S1" });
      await untilAttached(vm, [await host.plugged("2-1")]);
      await writeDomain(host, "vm1", []);
      await untilAttached(vm, []);
      await until("the host's driver has it again", async () => (await host.driver("2-1")) === "usb-storage");
    },
  },
  {
    name: "cable: of 20 quick replugs the last one stays and is attached",
    run: async (host) => {
      const vm = await rig(host, oneStick);
      const seen = new Set<string>();
      let watching = true;
      const watch = (async () => {
        while (watching) {
          for (const { phase } of await host.devices().catch(() => [])) seen.add(phase);
          await sleep(150);
        }
      })();
      await host.plug("s1", "usb-storage", { port: "1", serial: "S1" });
      const first = await host.plugged("2-1");
      for (let index = 0; index < 20; index += 1) {
        await host.unplug("s1");
        await sleep(120);
        await host.plug("s1", "usb-storage", { port: "1", serial: "S1" });
        await sleep(450);
      }
      const last = await host.plugged("2-1");
      await untilAttached(vm, [last]);
      await host.phase("stick", "Attached");
      watching = false;
      await watch;
      // On a slow machine the kernel misses some of the quick ones: only what it saw counts.
      if (last.address - first.address >= 18) assert.ok(seen.has("Flapping"), `phases seen: ${[...seen].join(" ")}`);
    },
  },
  {
    name: "cable: everything behind a hub's port, and the hub itself never",
    run: async (host) => {
      const vm = await rig(host, [{ name: "shelf", usb: { under: "1-3" }, count: "all" }]);
      await host.plug("hub", "usb-hub", { port: "3" });
      await host.plugged("1-3");
      await host.plug("u1", "usb-serial", { port: "3.1", serial: "U1" });
      await host.plug("t1", "usb-tablet", { port: "3.2", serial: "T1" });
      const devices = [await host.plugged("1-3.1"), await host.plugged("1-3.2")];
      await untilAttached(vm, devices);
      await host.unplug("u1");
      await untilAttached(vm, devices.slice(1));
      await host.unplug("hub");
      await untilAttached(vm, []);
      await host.phase("shelf", "WaitingForHost");
    },
  },
];
