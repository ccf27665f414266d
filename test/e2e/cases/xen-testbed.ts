/** The control on Xen: the host, its domains, `xl` and the recorders, without plugherd. When this fails, the testbed is broken and not the program. */
import assert from "node:assert/strict";
import type { Case } from "../case.ts";
import { until } from "../waiting.ts";
import { untilHeld, untilListed } from "../xen.ts";

const STICK = "46f4:0001";

export const xenTestbedCases: readonly Case[] = [
  {
    name: "testbed: on Xen, xl passes a stick to an HVM and to a PV domain, and every witness sees it",
    mode: "xen",
    start: "guests",
    run: async (host) => {
      const { xen } = host;
      const [hvm, pv] = [xen.domain("hvm1"), xen.domain("pv1")];
      await host.plug("s1", "usb-storage", { port: "1", serial: "S1" });
      const stick = await host.plugged("2-1");
      const place = `hostbus=${String(stick.bus)} hostaddr=${String(stick.address)}`;
      const [hvmId, pvId] = [await hvm.domid(), await pv.domid()];
      const record = `/libxl/${String(hvmId)}/device/vusb/0/port/2`;
      const seen = await xen.watch("/libxl", "/local/domain/0/backend/qusb");
      const proxy = await xen.proxy();

      await xen.xl("usbctrl-attach hvm1 version=3 ports=4");
      await host.sh(`XENSTORED_PATH=${proxy.socket} xl usbdev-attach hvm1 ${place} controller=0 port=2`);
      const [controller] = await untilListed(hvm, [stick]);
      assert.deepEqual([controller?.type, controller?.version, controller?.ports[1]?.device?.address], ["devicemodel", 3, stick.address]);
      const [object] = await untilHeld(hvm, [stick]);
      assert.deepEqual([object?.id, object?.port], [`xenusb-${String(stick.bus)}-${String(stick.address)}`, "2"]);
      await hvm.sees(STICK, true);
      assert.equal(await xen.read(record), "2-1");
      await host.sh(`XENSTORED_PATH=${proxy.socket} xl usbdev-detach hvm1 0 2`);
      await untilHeld(hvm, []);
      await hvm.sees(STICK, false);
      const writes = (await proxy.changes()).filter(({ type }) => type === "WRITE");
      assert.deepEqual(
        writes.map(({ path, value, answer }) => [path, value, answer]),
        ["2-1", ""].map((value) => [record, value, "OK"]),
      );

      await xen.xl(`usbdev-attach pv1 ${place} controller=0 port=1`);
      await untilListed(pv, [stick]);
      await untilHeld(pv, [stick]);
      await pv.sees(STICK, true);
      await xen.xl("usbdev-detach pv1 0 1");
      await untilHeld(pv, []);
      await pv.sees(STICK, false);
      const backend = `/local/domain/0/backend/qusb/${String(pvId)}/0`;
      const node = (await xen.tree(backend)).find(({ path }) => path === `${backend}/port/1`);
      assert.deepEqual([node?.value, node?.perms], ["", `n0,r${String(pvId)}`]);
      const events = (await seen.stop()).filter(({ path }) => path === `${backend}/port/1`);
      assert.deepEqual(
        events.map(({ value }) => value),
        ["2-1", ""],
      );
    },
  },
  {
    name: "testbed: on Xen, a process is killed at the request that was chosen, and xenstored changes under everybody",
    mode: "xen",
    run: async (host) => {
      const { xen } = host;
      const proxy = await xen.proxy();
      const alive = async (pid: number): Promise<boolean> => (await host.run(`kill -0 ${String(pid)}`)).rc === 0;
      const victim = async (): Promise<number> => Number(await host.sh("setsid sleep 600 </dev/null >/dev/null 2>&1 & echo $!"));
      const write = (key: string): Promise<unknown> =>
        host.run(`XENSTORED_PATH=${proxy.socket} timeout 5 xenstore-write /tool/test/${key} 1`);
      for (const [when, expected] of [
        ["before", null],
        ["after", "1"],
      ] as const) {
        const pid = await victim();
        await proxy.killAt(pid, 2, when);
        await write(`${when}-1`);
        assert.equal(await alive(pid), true);
        await write(`${when}-2`);
        await until("the process is dead", async () => !(await alive(pid)));
        assert.equal(await xen.read(`/tool/test/${when}-1`), "1");
        assert.equal(await xen.read(`/tool/test/${when}-2`), expected);
      }
      const seen = await xen.watch("/tool/test");
      await xen.liveUpdate();
      await host.sh("xenstore-write /tool/test/later 2");
      await until("a watch from before tells", async () =>
        (await seen.events()).some(({ path, value }) => path === "/tool/test/later" && value === "2"),
      );
      assert.equal(await xen.read("/tool/test/after-2"), "1");
    },
  },
];
