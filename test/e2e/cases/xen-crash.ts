/** kill -9 of plugherd in the middle of what it does on Xen: at the turning points, and at every step. */
import assert from "node:assert/strict";
import type { Case } from "../case.ts";
import { STICK, writeDomain } from "../desired.ts";
import type { Host } from "../host.ts";
import { after, arm, around, command, type Moment, tell } from "../killing.ts";
import { WITNESS } from "../places.ts";
import { until } from "../waiting.ts";
import { untilRight, type XenDomain } from "../xen.ts";
import type { XsProxy } from "../xs-record.ts";

type Steps = { readonly attach: readonly Moment[]; readonly pull: readonly Moment[]; readonly detach: readonly Moment[] };

const OTHER = { name: "other", usb: { ...STICK, serial: "KEEP" } };
const MAIN = { name: "stick", usb: { ...STICK, serial: "S1" } };

/** A record is a transaction: before it is begun, within it, before and after it is committed. */
const SETTING = [...around("TRANSACTION_START"), ...around("WRITE"), ...around("WRITE", 2)];
const CLEARING = [...around("TRANSACTION_START"), ...around("WRITE"), ...around("RM")];
const COMMIT = around("TRANSACTION_END");
const OPENED = command("usb_host_open_success", 1);

const HVM: Steps = {
  attach: [...COMMIT, ...command("device_add", 1), ...OPENED],
  pull: [...COMMIT, ...command("device_del", 1)],
  detach: [...command("device_del", 1), ...COMMIT],
};
const HVM_SLOW: Steps = {
  attach: [...SETTING, ...HVM.attach, ...command("handle_qmp_command", 1, 2, 3), ...after(0, 10, 30, 60, 110, 220)],
  pull: [...CLEARING, ...HVM.pull, ...command("handle_qmp_command", 1, 2)],
  detach: [...HVM.detach, ...command("usb_host_close", 1), ...CLEARING],
};
const QUSB: Steps = { attach: [...COMMIT, ...OPENED], pull: COMMIT, detach: [...COMMIT, ...command("usb_host_close", 1)] };
const QUSB_SLOW: Steps = {
  attach: [...SETTING, ...QUSB.attach, ...after(0, 10, 30, 60, 110, 220)],
  pull: [...CLEARING, ...QUSB.pull],
  detach: [...CLEARING, ...QUSB.detach],
};

async function play(host: Host, domain: XenDomain, steps: Steps): Promise<void> {
  const proxy: XsProxy = await host.xen.proxy();
  const how = { trace: `${WITNESS}/${domain.name}.trace`, proxy };
  const start = (): Promise<void> => host.daemon.start(`--xenstore ${proxy.socket}`);
  const said = async (moment: Moment, what: string, devices: Parameters<typeof untilRight>[1]): Promise<void> => {
    await untilRight(domain, devices).catch((error: unknown) => {
      throw new Error(`${what}, killed at ${tell(moment)}: ${String(error)}`);
    });
  };
  await writeDomain(host, domain.name, [OTHER, MAIN]);
  await start();
  await host.plug("keep", "usb-storage", { port: "5", serial: "KEEP" });
  const kept = await host.plugged("2-5");
  const [object] = await untilRight(domain, [kept]);
  const opened = async (): Promise<string> =>
    host.sh(`grep -ac 'usb_host_open_success.*bus ${String(kept.bus)}, addr ${String(kept.address)}$' ${how.trace} || true`);
  const once = await opened();

  for (let index = 0; index < Math.max(steps.attach.length, steps.pull.length); index += 1) {
    const port = index % 2 === 0 ? "1" : "2";
    const [attach, pull] = [steps.attach[index], steps.pull[index]];
    const dead = attach === undefined ? null : await arm(host, attach, how);
    await host.plug("s1", "usb-storage", { port, serial: "S1" });
    const stick = await host.plugged(`2-${port}`);
    if (dead !== null && attach !== undefined) {
      await dead();
      await start();
      await said(attach, "attaching", [kept, stick]);
    } else await untilRight(domain, [kept, stick]);
    await host.phase("stick", "Attached");
    const gone = pull === undefined ? null : await arm(host, pull, how);
    await host.unplug("s1");
    if (gone !== null && pull !== undefined) {
      await gone();
      await start();
      await said(pull, "pulled", [kept]);
    } else await untilRight(domain, [kept]);
  }

  await host.plug("s1", "usb-storage", { port: "1", serial: "S1" });
  const stick = await host.plugged("2-1");
  for (const moment of steps.detach) {
    await untilRight(domain, [kept, stick]);
    await host.phase("stick", "Attached");
    const dead = await arm(host, moment, how);
    await writeDomain(host, domain.name, [OTHER]);
    await dead();
    await start();
    await said(moment, "detaching", [kept]);
    await until("the host's driver has it again", async () => (await host.driver("2-1")) === "usb-storage");
    await writeDomain(host, domain.name, [OTHER, MAIN]);
  }
  const [left] = (await domain.qemu.usbHosts()).filter(({ id }) => id === object?.id);
  assert.equal(left?.attached, true);
  assert.equal(await opened(), once, "the device that was right was touched");
  assert.equal((await domain.usbList()).length, 1);
}

const killed = (what: string, domain: string, steps: Steps, all: boolean): Case => ({
  name: `xen: kill -9 in the middle of ${what}, at ${all ? "every step" : "the turning points"}; a restart converges`,
  mode: "xen",
  start: "guests",
  slow: true,
  timeoutMs: all ? 1_800_000 : 600_000,
  run: (host) => play(host, host.xen.domain(domain), steps),
});

export const xenCrashCases: readonly Case[] = [
  killed("an HVM domain's attach, loss and detach", "hvm1", HVM, false),
  killed("a PV domain's attach, loss and detach", "pv1", QUSB, false),
  killed("an HVM domain's attach, loss and detach", "hvm1", HVM_SLOW, true),
  killed("a PV domain's attach, loss and detach", "pv1", QUSB_SLOW, true),
  {
    name: "xen: kill -9 while a controller is made for an HVM domain; a restart makes one and only one",
    mode: "xen",
    slow: true,
    timeoutMs: 600_000,
    run: async (host) => {
      const { xen } = host;
      const proxy = await xen.proxy();
      const hvm = xen.domain("bare1");
      await writeDomain(host, "bare1", [MAIN]);
      await host.plug("s1", "usb-storage", { port: "1", serial: "S1" });
      const stick = await host.plugged("2-1");
      for (const moment of [...COMMIT, ...command("nec-usb-xhci", 1)]) {
        await hvm.create({ type: "hvm" }, { paused: true });
        // The file that is read first decides: the entry comes once the domain is known.
        await writeDomain(host, "bare1", []);
        await host.daemon.start(`--xenstore ${proxy.socket}`);
        const dead = await arm(host, moment, { trace: `${WITNESS}/bare1.trace`, proxy });
        await writeDomain(host, "bare1", [MAIN]);
        await dead();
        await host.daemon.start(`--xenstore ${proxy.socket}`);
        await untilRight(hvm, [stick]).catch((error: unknown) => {
          throw new Error(`making a controller, killed at ${tell(moment)}: ${String(error)}`);
        });
        assert.equal((await hvm.usbList()).length, 1, tell(moment));
        assert.deepEqual(
          (await hvm.qemu.peripherals()).filter((id) => /^xenusb-\d+$/.test(id)),
          ["xenusb-0"],
        );
        await host.daemon.kill9();
        await hvm.destroy();
      }
    },
  },
];
