/** The control: the test host itself, without plugherd. When this fails, the testbed is broken and not the program. */
import assert from "node:assert/strict";
import type { Case } from "../case.ts";
import { untilAttached } from "../inner.ts";
import { until } from "../waiting.ts";

export const testbedCases: readonly Case[] = [
  {
    name: "testbed: a stick is plugged, passed on by hand and given back",
    run: async (host) => {
      const vm = host.qemu("vm1");
      await vm.start();
      await host.plug("s1", "usb-storage", { port: "1", serial: "S1" });
      const stick = await host.plugged("2-1");
      await until("the host's driver has it", async () => (await host.driver("2-1")) === "usb-storage");
      await vm.qmp("device_add", { driver: "qemu-xhci", id: "x0" });
      const place = { driver: "usb-host", id: "h1", bus: "x0.0", port: "1" };
      await vm.qmp("device_add", { ...place, hostbus: stick.bus, hostaddr: stick.address });
      await untilAttached(vm, [stick]);
      assert.match(await vm.infoUsb(), /QEMU USB HARDDRIVE|USB/);
      assert.notEqual(await host.driver("2-1"), "usb-storage");
      await vm.qmp("device_del", { id: "h1" });
      await until("the host's driver has it again", async () => (await host.driver("2-1")) === "usb-storage");
      const told = (await vm.changes()).map((line) => /"execute": *"([^"]+)"/.exec(line)?.[1]);
      assert.deepEqual(told, ["device_add", "device_add", "device_del"]);
      await host.unplug("s1");
      await host.gone("2-1");
    },
  },
  {
    name: "testbed: the inner guest's kernel sees what is passed on",
    slow: true,
    start: "guest",
    run: async (host) => {
      const vm = host.qemu("guest");
      await host.plug("s1", "usb-storage", { port: "1", serial: "S1" });
      const stick = await host.plugged("2-1");
      await vm.qmp("device_add", { driver: "usb-host", id: "h1", bus: "xhci.0", port: "1", hostbus: stick.bus, hostaddr: stick.address });
      await until("the inner guest has enumerated it", async () => (await vm.console()).includes("46f4:0001"), { timeoutMs: 60_000 });
    },
  },
];
