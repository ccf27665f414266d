/** Domains in every state: paused, reset, dialling in, with a monitor that somebody else holds, with a Linux inside. */
import assert from "node:assert/strict";
import type { Case } from "../case.ts";
import { oneStick, rig, STICK, writeDomain } from "../desired.ts";
import { untilAttached } from "../inner.ts";
import { until } from "../waiting.ts";

export const domainCases: readonly Case[] = [
  {
    name: "domain: one that is not running yet (-S) is served",
    run: async (host) => {
      const vm = await rig(host, oneStick, { paused: true });
      await host.plug("s1", "usb-storage", { port: "1", serial: "S1" });
      await untilAttached(vm, [await host.plugged("2-1")]);
      await host.phase("stick", "Attached");
      assert.equal(((await vm.qmp("query-status")) as { running: boolean }).running, false);
    },
  },
  {
    name: "domain: a q35 machine with a free root port gets its controller there",
    run: async (host) => {
      const vm = await rig(host, oneStick, { machine: "q35", extra: ["-device", "pcie-root-port,id=rp1,chassis=1"] });
      await host.plug("s1", "usb-storage", { port: "1", serial: "S1" });
      await untilAttached(vm, [await host.plugged("2-1")]);
    },
  },
  {
    name: "domain: a reset keeps the device",
    run: async (host) => {
      const vm = await rig(host, oneStick);
      await host.plug("s1", "usb-storage", { port: "1", serial: "S1" });
      const stick = await host.plugged("2-1");
      const [object] = await untilAttached(vm, [stick]);
      await host.phase("stick", "Attached");
      const told = await vm.changes();
      await vm.qmp("system_reset");
      await until("the reset was told", async () => (await vm.changes()).some((line) => line.includes("system_reset")));
      const now = await host.plugged("2-1");
      assert.equal((await untilAttached(vm, [now]))[0]?.id, object?.id);
      await host.phase("stick", "Attached");
      assert.deepEqual(
        (await vm.changes()).filter((line) => !line.includes("system_reset")),
        told,
      );
    },
  },
  {
    name: "domain: a QEMU that dials in is served",
    run: async (host) => {
      const vm = host.qemu("vm1");
      await host.daemon.start();
      await writeDomain(host, "vm1", oneStick);
      await vm.start({ dialTo: "/run/plugherd/monitor.sock" });
      await host.plug("s1", "usb-storage", { port: "1", serial: "S1" });
      await untilAttached(vm, [await host.plugged("2-1")]);
      await host.daemon.kill9();
      await host.unplug("s1");
      await host.daemon.start();
      await untilAttached(vm, []);
    },
  },
  {
    name: "domain: a monitor that somebody else holds is said to be busy, and served once it is free",
    run: async (host) => {
      const vm = host.qemu("vm1");
      await vm.start();
      await host.sh(
        "setsid socat UNIX-CONNECT:/run/plugherd/qmp/vm1.sock EXEC:'sleep 600' </dev/null >/dev/null 2>&1 & echo $! > /run/witness/holder; sleep 0.5",
      );
      await writeDomain(host, "vm1", oneStick);
      await host.daemon.start();
      await host.plug("s1", "usb-storage", { port: "1", serial: "S1" });
      const stick = await host.plugged("2-1");
      await until("the domain says that its monitor is busy", async () => {
        const { body } = await host.get("/api/v1/domains");
        if (!/busy|another client|somebody else|held by/i.test(body)) throw new Error(body);
        return true;
      });
      assert.deepEqual(await vm.usbHosts(), []);
      await host.sh("kill $(cat /run/witness/holder)");
      await untilAttached(vm, [stick]);
      await host.phase("stick", "Attached");
    },
  },
  {
    name: "domain: two domains on one host get each its own",
    run: async (host) => {
      const [one, two] = [host.qemu("vm1"), host.qemu("vm2")];
      await rig(host, [{ name: "a", usb: { ...STICK, serial: "A" } }]);
      await two.start();
      await writeDomain(host, "vm2", [{ name: "b", usb: { ...STICK, serial: "B" } }]);
      await host.plug("sa", "usb-storage", { port: "1", serial: "A" });
      await host.plug("sb", "usb-storage", { port: "2", serial: "B" });
      await untilAttached(one, [await host.plugged("2-1")]);
      await untilAttached(two, [await host.plugged("2-2")]);
    },
  },
  {
    name: "domain: the Linux inside sees the device come and go, and again after its reset",
    slow: true,
    start: "guest",
    timeoutMs: 400_000,
    run: async (host) => {
      const guest = host.qemu("guest");
      const sees = (what: string, present: boolean, from: number, timeoutMs = 90_000): Promise<boolean> =>
        until(
          `the inner guest ${present ? "has" : "has lost"} ${what}`,
          async () => {
            const last = (await guest.console())
              .slice(from)
              .split("\n")
              .filter((line) => line.startsWith("DOMU usb"))
              .at(-1);
            return last?.includes(what) === present;
          },
          { timeoutMs, everyMs: 300 },
        );
      await writeDomain(host, "guest", [{ name: "stick", usb: STICK, controller: "xhci", guestPort: 2 }], {
        controllers: [{ name: "xhci", model: "qemu-xhci", ports: 4 }],
      });
      await host.daemon.start();
      await host.plug("s1", "usb-storage", { port: "1", serial: "S1" });
      const stick = await host.plugged("2-1");
      const [object] = await untilAttached(guest, [stick]);
      assert.equal(object?.port, "2");
      await sees("46f4:0001", true, 0);
      await host.unplug("s1");
      await sees("46f4:0001", false, 0);
      await host.plug("s1", "usb-storage", { port: "2", serial: "S1" });
      const moved = await host.plugged("2-2");
      await untilAttached(guest, [moved]);
      await sees("46f4:0001", true, 0);
      const before = (await guest.console()).length;
      await guest.qmp("system_reset");
      await sees("46f4:0001", true, before, 200_000);
      await untilAttached(guest, [moved]);
    },
  },
];
