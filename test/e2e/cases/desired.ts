/** Desired-state files, policy and operators: what a person does and what becomes of it. */
import assert from "node:assert/strict";
import type { Case } from "../case.ts";
import { domainFile, oneStick, rig, SPECS, STICK, writeDomain } from "../desired.ts";
import type { Host } from "../host.ts";
import { untilAttached } from "../inner.ts";
import { sleep, until } from "../waiting.ts";

/** Longer than a file that vanished takes to be a decision (product.md §2: 5 s). */
const LONGER_THAN_VANISH_MS = 7_000;

const driverBack = (host: Host, busid: string): Promise<true> =>
  until("the host's driver has it again", async () => ((await host.driver(busid)) === "usb-storage" ? true : null));

type Domain = { readonly name: string; readonly conditions: readonly { type: string; status: string; reason: string; message: string }[] };
const condition = (host: Host, domain: string, reason: string): Promise<string> =>
  until(`${domain} says ${reason}`, async () => {
    const all = JSON.parse((await host.get("/api/v1/domains")).body) as Domain[];
    const found = all.find(({ name }) => name === domain)?.conditions.find((one) => one.reason === reason);
    if (found === undefined) throw new Error(JSON.stringify(all));
    return found.message;
  });

export const desiredCases: readonly Case[] = [
  {
    name: "desired: an entry that is edited out is detached at once and the host's driver has the device again",
    run: async (host) => {
      const vm = await rig(host, oneStick);
      await host.plug("s1", "usb-storage", { port: "1", serial: "S1" });
      const stick = await host.plugged("2-1");
      await untilAttached(vm, [stick]);
      await writeDomain(host, "vm1", []);
      await untilAttached(vm, []);
      await driverBack(host, "2-1");
      await writeDomain(host, "vm1", oneStick);
      await untilAttached(vm, [await host.plugged("2-1")]);
    },
  },
  {
    name: "desired: the whole directory moved away detaches nothing; one file that vanishes is a decision after a while",
    run: async (host) => {
      const vm = await rig(host, oneStick);
      await writeDomain(host, "vm2", []);
      await host.plug("s1", "usb-storage", { port: "1", serial: "S1" });
      const stick = await host.plugged("2-1");
      await untilAttached(vm, [stick]);
      await host.phase("stick", "Attached");
      const told = await vm.changes();
      await host.sh(`mv ${SPECS} ${SPECS}.away`);
      await sleep(LONGER_THAN_VANISH_MS);
      await untilAttached(vm, [stick]);
      await host.sh(`mv ${SPECS}.away ${SPECS}`);
      await sleep(1_000);
      assert.deepEqual(await vm.changes(), told);
      await host.sh(`rm ${SPECS}/vm1.yaml`);
      await untilAttached(vm, []);
      await driverBack(host, "2-1");
    },
  },
  {
    name: "desired: a broken file is told with its line, and the last good one stays in force, over a restart too",
    run: async (host) => {
      const vm = await rig(host, oneStick);
      await host.plug("s1", "usb-storage", { port: "1", serial: "S1" });
      await untilAttached(vm, [await host.plugged("2-1")]);
      await host.phase("stick", "Attached");
      await host.write(`${SPECS}/vm1.yaml`, domainFile("vm1", oneStick).replace("  devices:", "  devcies:"));
      const message = await condition(host, "vm1", "InvalidFile");
      assert.match(message, /vm1\.yaml:5:3: .*devices/);
      const judged = await host.plugherd(`validate ${SPECS}`);
      assert.equal(judged.rc, 3);
      assert.match(judged.out + judged.err, /vm1\.yaml:5:3: /);
      await host.unplug("s1");
      await untilAttached(vm, []);
      await host.plug("s1", "usb-storage", { port: "2", serial: "S1" });
      await untilAttached(vm, [await host.plugged("2-2")]);
      await host.daemon.kill9();
      await host.unplug("s1");
      await host.daemon.start();
      await untilAttached(vm, []);
      await host.plug("s1", "usb-storage", { port: "1", serial: "S1" });
      await untilAttached(vm, [await host.plugged("2-1")]);
    },
  },
  {
    name: "desired: two identical sticks are Ambiguous, and a serial tells them apart",
    run: async (host) => {
      const vm = await rig(host, oneStick);
      await host.daemon.kill9();
      await host.plug("sa", "usb-storage", { port: "1", serial: "A" });
      await host.plug("sb", "usb-storage", { port: "2", serial: "B" });
      await host.plugged("2-1");
      const second = await host.plugged("2-2");
      await host.daemon.start();
      const { message } = await host.phase("stick", "Ambiguous");
      assert.ok(message.includes("2-1") && message.includes("2-2"), message);
      assert.deepEqual(await vm.usbHosts(), []);
      await writeDomain(host, "vm1", [{ name: "stick", usb: { ...STICK, serial: "B" } }]);
      await untilAttached(vm, [second]);
      await host.phase("stick", "Attached");
    },
  },
  {
    name: "desired: a mounted stick is denied, and attached once it is unmounted and retried",
    run: async (host) => {
      const vm = await rig(host, []);
      await host.plug("s1", "usb-storage", { port: "1", serial: "S1" });
      const stick = await host.plugged("2-1");
      await host.sh(
        `for i in $(seq 200); do d=$(echo /sys/bus/usb/devices/2-1:1.0/host*/target*/*/block/*); [ -e "$d" ] && break; sleep 0.05; done
         d=/dev/$(basename $d); for i in $(seq 100); do [ -b $d ] && break; sleep 0.05; done; mkdir -p /mnt && mount -t ext4 $d /mnt`,
      );
      await writeDomain(host, "vm1", oneStick);
      const { message } = await host.phase("stick", "Denied");
      assert.match(message, /mounted|\/mnt|disk-in-use/);
      assert.deepEqual(await vm.usbHosts(), []);
      await host.sh("umount /mnt");
      const retried = await host.plugherd("retry stick vm1");
      assert.equal(retried.rc, 0, retried.err);
      await untilAttached(vm, [stick]);
    },
  },
  {
    name: "desired: a keyboard is denied, until the policy lifts that for it",
    run: async (host) => {
      const keyboard = { vendor: "0627", product: "0001" };
      const vm = await rig(host, [{ name: "keys", usb: keyboard }]);
      await host.plug("k1", "usb-kbd", { port: "4", serial: "K1" });
      const device = await host.plugged("1-4");
      const { message } = await host.phase("keys", "Denied");
      assert.match(message, /input/);
      assert.deepEqual(await vm.usbHosts(), []);
      await host.write(
        "/etc/plugherd/policy.yaml",
        `apiVersion: plugherd/v1\nkind: HostPolicy\ndefault: allow\nrules:\n  - name: kvm-switch\n    allow: ${JSON.stringify(keyboard)}\n    lift: [input]\n`,
      );
      await untilAttached(vm, [device]);
      await host.phase("keys", "Attached");
    },
  },
  {
    name: "desired: a start with every path missing; each is noticed when it appears",
    run: async (host) => {
      await host.sh("rm -rf /etc/plugherd /run/plugherd /var/lib/plugherd");
      await host.daemon.start();
      const vm = host.qemu("vm1");
      await vm.start();
      await host.plug("s1", "usb-storage", { port: "1", serial: "S1" });
      const stick = await host.plugged("2-1");
      await writeDomain(host, "vm1", oneStick);
      await untilAttached(vm, [stick]);
      await host.phase("stick", "Attached");
    },
  },
  {
    name: "desired: an operator's hold takes the device out, survives a restart and can be ended",
    run: async (host) => {
      const vm = await rig(host, oneStick);
      await host.plug("s1", "usb-storage", { port: "1", serial: "S1" });
      await untilAttached(vm, [await host.plugged("2-1")]);
      await host.phase("stick", "Attached");
      const held = await host.plugherd("detach stick vm1 --hold 10m --reason test");
      assert.equal(held.rc, 0, held.err);
      await untilAttached(vm, []);
      await driverBack(host, "2-1");
      await host.daemon.kill9();
      await host.daemon.start();
      await host.phase("stick", "Held");
      assert.deepEqual(await vm.usbHosts(), []);
      const ended = await host.plugherd("attach stick vm1");
      assert.equal(ended.rc, 0, ended.err);
      await untilAttached(vm, [await host.plugged("2-1")]);
    },
  },
  {
    name: "desired: no daemon is exit 4, and a second one is refused with the holder named",
    run: async (host) => {
      assert.equal((await host.plugherd("get devices")).rc, 4);
      await host.daemon.start();
      const second = await host.plugherd("run");
      assert.equal(second.rc, 5, second.err);
      assert.match(second.err + second.out, /api\.sock/);
      assert.equal((await host.plugherd("get devices -o json")).rc, 0);
    },
  },
];
