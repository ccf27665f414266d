/** kill -9 of plugherd in the middle of things, and of QEMU. */
import assert from "node:assert/strict";
import type { Case } from "../case.ts";
import { oneStick, rig, STICK, writeDomain } from "../desired.ts";
import type { Host } from "../host.ts";
import { type Inner, untilAttached } from "../inner.ts";
import { after, arm, command, type Moment, tell } from "../killing.ts";
import { sleep, until } from "../waiting.ts";

/** Every step of an attach that QEMU can see, and the time before, between and after. */
const ATTACH: readonly Moment[] = [
  ...command("device_add", 1),
  ...command("handle_qmp_command", 1, 2, 3, 5, 8),
  ...command("usb_host_open_", 1),
  ...command("usb_host_open_success", 1),
  ...after(0, 10, 30, 60, 110, 220),
];
const DETACH: readonly Moment[] = [
  ...command("device_del", 1),
  ...command("usb_host_close", 1),
  ...command("handle_qmp_command", 1, 2, 3, 5),
];

const TRACE = { trace: "/run/witness/vm1.trace" };

const OTHER = { name: "other", usb: { ...STICK, serial: "KEEP" } };
const MAIN = { name: "stick", usb: { ...STICK, serial: "S1" } };

/** A second stick that is right all along: nothing may touch it. */
async function withBystander(
  host: Host,
): Promise<{ readonly vm: Inner; readonly check: () => Promise<void>; readonly kept: { bus: number; address: number } }> {
  const vm = await rig(host, [OTHER, MAIN]);
  await host.plug("keep", "usb-storage", { port: "5", serial: "KEEP" });
  const kept = await host.plugged("2-5");
  const [object] = await untilAttached(vm, [kept]);
  const id = object?.id ?? "";
  const check = async (): Promise<void> => {
    const touched = (await vm.changes()).filter((line) => line.includes(id));
    assert.equal(touched.length, 1, `the device that was right was touched: ${touched.join("\n")}`);
  };
  return { vm, check, kept };
}

export const crashCases: readonly Case[] = [
  {
    name: "crash: kill -9 in the middle of an attach, at every step; a restart converges",
    timeoutMs: 900_000,
    run: async (host) => {
      const { vm, check, kept } = await withBystander(host);
      for (const [index, moment] of ATTACH.entries()) {
        const port = index % 2 === 0 ? "1" : "2";
        const dead = await arm(host, moment, TRACE);
        await host.plug("s1", "usb-storage", { port, serial: "S1" });
        const stick = await host.plugged(`2-${port}`);
        await dead();
        await host.daemon.start();
        await untilAttached(vm, [kept, stick]).catch((error: unknown) => {
          throw new Error(`killed at ${tell(moment)}: ${String(error)}`);
        });
        await host.phase("stick", "Attached");
        await host.unplug("s1");
        await untilAttached(vm, [kept]);
      }
      await check();
      assert.deepEqual((await vm.peripherals()).filter((id) => id.startsWith("plugherd-ctrl-")).length, 1);
    },
  },
  {
    name: "crash: kill -9 in the middle of a detach, at every step; a restart converges",
    timeoutMs: 600_000,
    run: async (host) => {
      const { vm, check, kept } = await withBystander(host);
      await host.plug("s1", "usb-storage", { port: "1", serial: "S1" });
      const stick = await host.plugged("2-1");
      for (const moment of DETACH) {
        await untilAttached(vm, [kept, stick]);
        await host.phase("stick", "Attached");
        const dead = await arm(host, moment, TRACE);
        await writeDomain(host, "vm1", [OTHER]);
        await dead();
        await host.daemon.start();
        await untilAttached(vm, [kept]).catch((error: unknown) => {
          throw new Error(`killed at ${tell(moment)}: ${String(error)}`);
        });
        await until("the host's driver has it again", async () => (await host.driver("2-1")) === "usb-storage");
        await writeDomain(host, "vm1", [OTHER, MAIN]);
      }
      await check();
    },
  },
  {
    name: "crash: a restart of plugherd, by kill -9 or by signal, touches nothing that is right",
    run: async (host) => {
      const vm = await rig(host, oneStick);
      await host.plug("s1", "usb-storage", { port: "1", serial: "S1" });
      const stick = await host.plugged("2-1");
      const [object] = await untilAttached(vm, [stick]);
      await host.phase("stick", "Attached");
      const told = await vm.changes();
      const opens = (): Promise<string> => host.sh("grep -ac usb_host_open_ /run/witness/vm1.trace");
      const opened = await opens();
      for (const end of [host.daemon.kill9, host.daemon.stop]) {
        await end();
        assert.equal((await vm.usbHosts())[0]?.attached, true);
        await host.daemon.start();
        await host.phase("stick", "Attached");
        // Time for a wrong deed to be done.
        await sleep(2_000);
      }
      assert.equal((await untilAttached(vm, [stick]))[0]?.id, object?.id);
      assert.deepEqual(await vm.changes(), told);
      assert.equal(await opens(), opened);
    },
  },
  {
    name: "crash: what happened while plugherd was down is made good",
    run: async (host) => {
      const vm = await rig(host, oneStick);
      await host.plug("s1", "usb-storage", { port: "1", serial: "S1" });
      await untilAttached(vm, [await host.plugged("2-1")]);
      await host.phase("stick", "Attached");
      await host.daemon.kill9();
      await host.unplug("s1");
      await host.plug("s1", "usb-storage", { port: "3", serial: "S1" });
      const moved = await host.plugged("2-3");
      await host.daemon.start();
      await untilAttached(vm, [moved]);
      await host.phase("stick", "Attached");
    },
  },
  {
    name: "crash: QEMU is killed and started again; everything comes back",
    run: async (host) => {
      const vm = await rig(host, oneStick);
      await host.plug("s1", "usb-storage", { port: "1", serial: "S1" });
      const stick = await host.plugged("2-1");
      await untilAttached(vm, [stick]);
      await host.phase("stick", "Attached");
      await vm.kill();
      await host.phase("stick", "WaitingForDomain");
      await vm.start();
      await untilAttached(vm, [stick]);
      await host.phase("stick", "Attached");
    },
  },
];
