/**
 * Every change that plugherd makes in xenstore for one attach and one detach, in order, beside what `xl` makes for the same on the same host: an HVM
 * domain (device model) and a PV domain (qusb). Prints tables in Markdown.
 *
 * usage: npm run e2e -- --list builds it; then node test/e2e/.work/js/e2e/writes.js
 */
import { resolve } from "node:path";
import { STICK, writeDomain } from "./desired.ts";
import { createHost, type Host } from "./host.ts";
import { openWorkshop } from "./image.ts";
import { untilHeld, untilRight, type XenDomain } from "./xen.ts";
import type { XsProxy, XsRequest } from "./xs-record.ts";

const say = (line: string): void => {
  process.stderr.write(`${line}\n`);
};

function told({ type, tx, path, value, answer }: XsRequest, domid: number): string {
  const where = path.replaceAll(new RegExp(`/${String(domid)}(?=/|$)`, "g"), "/D");
  const what = {
    TRANSACTION_START: "begin",
    TRANSACTION_END: path === "T" ? "commit" : "abort",
    WRITE: `${where} = ${JSON.stringify((value ?? "").replaceAll(/\b\d{3,}\b/g, "N"))}`,
    SET_PERMS: `perms ${where}: ${(value ?? "").replaceAll("\0", " ").replaceAll(String(domid), "D")}`,
  }[type];
  return `${tx === 0 && type === "WRITE" ? "(no transaction) " : ""}${what ?? `${type.toLowerCase()} ${where}`}${answer === "OK" ? "" : ` → ${answer ?? "no answer"}`}`;
}

const table = (title: string, ours: readonly string[], theirs: readonly string[]): string =>
  [
    `### ${title}`,
    "",
    "| | plugherd | xl |",
    "| --- | --- | --- |",
    ...Array.from({ length: Math.max(ours.length, theirs.length) }, (_, index) => {
      const cell = (all: readonly string[]): string => (all[index] === undefined ? "" : `\`${all[index].replaceAll("|", "\\|")}\``);
      return `| ${String(index + 1)} | ${cell(ours)} | ${cell(theirs)} |`;
    }),
    "",
  ].join("\n");

async function compare(host: Host, proxy: XsProxy, domain: XenDomain, title: string): Promise<string> {
  const domid = (await domain.domid()) ?? 0;
  const lines = async (act: () => Promise<unknown>): Promise<string[]> => {
    await proxy.clear();
    await act();
    return (await proxy.changes()).map((request) => told(request, domid));
  };
  const { name } = domain;
  const wanted = (yes: boolean): Promise<void> => writeDomain(host, name, yes ? [{ name: "stick", usb: { ...STICK, serial: "S1" } }] : []);
  const stick = await host.plugged("2-1");
  const through = `XENSTORED_PATH=${proxy.socket} xl`;
  const ours = async (present: boolean): Promise<void> => {
    await wanted(present);
    await untilRight(domain, present ? [stick] : []);
  };
  // A first time that does not count: where the domain has no controller it is made then.
  const controller = await lines(() => ours(true));
  await ours(false);
  const attach = await lines(() => ours(true));
  const detach = await lines(() => ours(false));
  const xlAttach = await lines(async () => {
    await host.sh(`${through} usbdev-attach ${name} hostbus=${String(stick.bus)} hostaddr=${String(stick.address)} controller=0 port=1`);
    await untilHeld(domain, [stick]);
  });
  const xlDetach = await lines(async () => {
    await host.sh(`${through} usbdev-detach ${name} 0 1`);
    await untilHeld(domain, []);
  });
  await ours(true);
  const pulled = await lines(async () => {
    await host.unplug("s1");
    await untilRight(domain, []);
  });
  await wanted(false);
  await host.plug("s1", "usb-storage", { port: "1", serial: "S1" });
  await host.plugged("2-1");
  return [
    table(`${title}: attach`, attach, xlAttach),
    table(`${title}: detach`, detach, xlDetach),
    table(`${title}: the device is pulled out (xl writes nothing)`, pulled, []),
    ...(controller.length > attach.length + 2 ? [table(`${title}: the first attach, with a new controller`, controller, [])] : []),
  ].join("\n");
}

const project = resolve(process.env["PLUGHERD_E2E_PROJECT"] ?? ".");
const work = resolve(process.env["PLUGHERD_E2E_WORK"] ?? "test/e2e/.work");
const machine = await openWorkshop(project, work, say).fresh("xen", "guests");
const host = createHost(machine);
try {
  const proxy = await host.xen.proxy();
  await host.daemon.start(`--xenstore ${proxy.socket}`);
  await host.plug("s1", "usb-storage", { port: "1", serial: "S1" });
  await host.plugged("2-1");
  for (const [name, title] of [
    ["hvm1", "HVM (device model)"],
    ["pv1", "PV (qusb)"],
  ] as const)
    process.stdout.write(`${await compare(host, proxy, host.xen.domain(name), title)}\n`);
} catch (error) {
  say(`${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n${await host.report()}`);
  process.exitCode = 1;
} finally {
  await machine.stop();
}
