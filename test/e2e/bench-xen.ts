/**
 * Plug to attached on a real Xen host, beside a udev rule that runs `xl usbdev-attach`, interleaved in one run: an HVM domain and a PV domain, each
 * with both contenders. Both are detached in order before each pull: after a surprise pull xl does not attach again, which is tried at the end.
 */
import { median, type Row } from "../bench/row.ts";
import { beside, moments, spread, times } from "./bench-rows.ts";
import { STICK, writeDomain } from "./desired.ts";
import type { Host } from "./host.ts";
import { WITNESS } from "./places.ts";
import { sleep, until } from "./waiting.ts";
import { untilHeld, type XenDomain } from "./xen.ts";

/** All in ms. `share`: node readable → the command reaches QEMU (qusb: QEMU starts to open, as there is no command). */
type Run = { readonly share: number; readonly opening: number; readonly whole: number };
type Contender = {
  readonly name: string;
  readonly port: string;
  readonly serial: string;
  readonly domain: XenDomain;
  readonly runs: Run[];
  readonly detach: () => Promise<void>;
  readonly ready: () => Promise<void>;
};

const ARMED_MS = 500;
const PACE_MS = 1_500;
const RULE_LOG = `${WITNESS}/udev-xl.log`;

async function once(host: Host, contender: Contender): Promise<void> {
  const { domain, port, serial, runs } = contender;
  const trace = `${WITNESS}/${domain.name}.trace`;
  await contender.ready();
  const seen = host.sh(
    `grep -q -m1 usb_host_open_success < <(exec timeout 60 tail -n 0 -f ${trace}); r=$?; kill $! 2>/dev/null; exit $r`,
    70_000,
  );
  await sleep(ARMED_MS);
  const began = Date.now();
  await Promise.all([seen, host.plug(`s${port}`, "usb-storage", { port, serial })]);
  const whole = Date.now() - began;
  const device = await host.plugged(`2-${port}`);
  await untilHeld(domain, [device]);
  const { birth, add, open } = await moments(host, domain.name, `/dev/bus/usb/002/${String(device.address).padStart(3, "0")}`);
  runs.push({ share: ((add ?? open) - birth) * 1e3, opening: (open - birth) * 1e3, whole });
  await contender.detach();
  await untilHeld(domain, []);
  await host.unplug(`s${port}`);
  await host.gone(`2-${port}`);
  await sleep(Math.max(0, PACE_MS - (Date.now() - began)));
}

/** @param runs - of each contender on each domain, after one that does not count */
export async function xenRows(host: Host, runs: number, say: (line: string) => void): Promise<Row[]> {
  const { xen } = host;
  const rules = [
    { domain: "hvm1", serial: "XH" },
    { domain: "pv1", serial: "XP" },
  ].map(
    ({ domain, serial }) =>
      `ACTION=="add", SUBSYSTEM=="usb", ENV{DEVTYPE}=="usb_device", ATTR{serial}=="${serial}", RUN+="/bin/sh -c 'setsid xl usbdev-attach ${domain} hostbus=$attr{busnum} hostaddr=$attr{devnum} >>${RULE_LOG} 2>&1 </dev/null &'"\n`,
  );
  await host.write("/etc/udev/rules.d/99-xl.rules", rules.join(""));
  await host.sh("udevadm control --reload");
  await host.daemon.start();
  const contenders = ["hvm1", "pv1"].flatMap((name, index): Contender[] => {
    const domain = xen.domain(name);
    const serial = `OURS-${name}`;
    const port = String(1 + 2 * index);
    const wanted = (yes: boolean): Promise<void> => writeDomain(host, name, yes ? [{ name: "stick", usb: { ...STICK, serial } }] : []);
    return [
      {
        name: `plugherd, ${name}`,
        port,
        serial,
        domain,
        runs: [],
        detach: () => wanted(false),
        ready: async () => {
          await wanted(true);
          await host.phase("stick", "WaitingForHost", { domain: name });
        },
      },
      {
        name: `udev rule with xl, ${name}`,
        port: String(2 + 2 * index),
        serial: index === 0 ? "XH" : "XP",
        domain,
        runs: [],
        detach: async () => {
          const [spot] = (await domain.usbList()).flatMap(({ devid, ports }) =>
            ports.flatMap(({ port: at, device }) => (device === null ? [] : [`${String(devid)} ${String(at)}`])),
          );
          await xen.xl(`usbdev-detach ${name} ${spot ?? ""}`);
        },
        ready: () => Promise.resolve(),
      },
    ];
  });
  for (const contender of contenders) {
    await once(host, contender);
    contender.runs.length = 0;
  }
  for (let index = 0; index < runs; index += 1) for (const contender of contenders) await once(host, contender);
  for (const { name, runs: all } of contenders)
    say(
      `${name}: node -> command ${spread(all.map(({ share }) => share))}, node -> opening ${spread(all.map(({ opening }) => opening))}, plug -> attached ${spread(all.map(({ whole }) => whole))} ms`,
    );
  const of = (index: number, what: (run: Run) => number): number => median((contenders[index]?.runs ?? []).map(what));
  const kinds = [
    { title: "HVM", index: 0 },
    { title: "PV", index: 2 },
  ];
  const rows = kinds.flatMap(({ title, index }): Row[] => [
    {
      name: `testbed, Xen ${title}: own share, how much less than a udev rule that runs xl usbdev-attach`,
      ...times(of(index + 1, ({ share }) => share) / of(index, ({ share }) => share), 10),
    },
    beside(
      `testbed, Xen ${title}: own share, plugherd (median)`,
      of(index, ({ share }) => share),
    ),
    beside(
      `testbed, Xen ${title}: own share, udev rule with xl (median)`,
      of(index + 1, ({ share }) => share),
    ),
    beside(
      `testbed, Xen ${title}: whole plug to attached, plugherd (median)`,
      of(index, ({ whole }) => whole),
    ),
    beside(
      `testbed, Xen ${title}: whole plug to attached, udev rule with xl (median)`,
      of(index + 1, ({ whole }) => whole),
    ),
  ]);
  say(await surprise(host, contenders[1]));
  return rows;
}

/** What becomes of the rule's device when it is pulled without having been detached, and plugged in again. */
async function surprise(host: Host, contender: Contender | undefined): Promise<string> {
  if (contender === undefined) return "";
  const { domain, port, serial } = contender;
  const plug = (): Promise<void> => host.plug(`s${port}`, "usb-storage", { port, serial });
  const ended = (): Promise<boolean> =>
    until("the rule's xl has ended", async () => (await host.run("pgrep -x xl -a | grep usbdev-attach")).rc !== 0, { everyMs: 200 });
  await plug();
  await untilHeld(domain, [await host.plugged(`2-${port}`)]);
  await ended();
  await host.sh(`: > ${RULE_LOG}`);
  await host.unplug(`s${port}`);
  await host.gone(`2-${port}`);
  await plug();
  await host.plugged(`2-${port}`);
  await until("the rule has run", async () => (await host.sh(`cat ${RULE_LOG}`)) !== "", { everyMs: 200 });
  await ended();
  return `after a surprise pull and a replug, the udev rule with xl: ${(await host.sh(`cat ${RULE_LOG}`)).trim().split("\n").at(-1) ?? "attached"}`;
}
