/** What on a Xen host would stop plugherd or `xl` working, from facts that were gathered (`doctor`). */
import { type HostFinding, quoted } from "./checkup.ts";
import type { DomainType } from "./domain.ts";

export type XenDomainFacts = {
  readonly domid: number;
  readonly name: string;
  /** null: another toolstack's. */
  readonly type: Exclude<DomainType, "qemu"> | null;
  readonly traditional: boolean;
  /** The domain that its device model runs in, where that is not this one. */
  readonly stubdom: number | null;
  readonly restricted: boolean;
  /** Its device model serves paravirtual USB controllers. */
  readonly qusb: boolean;
  readonly controllers: readonly {
    readonly devid: number;
    readonly type: "devicemodel" | "qusb" | "pv";
    /** A paravirtual one whose backend did not leave its first state while we looked. */
    readonly stuck: boolean;
    /** An emulated one that QEMU does not have; null: it could not be asked. */
    readonly absent: boolean | null;
    readonly ports: readonly { readonly path: string; readonly port: number; readonly busid: string }[];
  }[];
};
export type XenHostFacts = {
  readonly way: { readonly kind: "socket" | "device" | "absent"; readonly path: string };
  readonly daemon: "c" | "ocaml" | null;
  /** Why xenstored could not be asked. */
  readonly trouble: string | null;
  /** Why `xl list` gave nothing. */
  readonly xlTrouble: string | null;
  /** flock(1) is there. */
  readonly flock: boolean;
  readonly xenLib: { readonly path: string; readonly usable: boolean };
  /** The kernel's backend is loaded. */
  readonly usbback: boolean;
  readonly domains: readonly XenDomainFacts[];
  /** Controllers' trees of domains that are gone. */
  readonly strays: readonly { readonly path: string; readonly busids: readonly string[] }[];
  /** Busids that are in sysfs now, and addresses as `1.5`. */
  readonly busids: ReadonlySet<string>;
  readonly addresses: ReadonlySet<string>;
  readonly configs: readonly {
    readonly file: string;
    readonly line: number;
    readonly key: "usbdev" | "usbdevice";
    readonly text: string;
    /** Of the host device; null: not named, or no number. */
    readonly bus: number | null;
    readonly address: number | null;
  }[];
};

const DAEMONS = { c: "C xenstored", ocaml: "oxenstored" } as const;
const PV_LINE = 'usbctrl=["type=qusb,version=2,ports=8"]';

export function checkXen(facts: XenHostFacts): readonly HostFinding[] {
  const { way, daemon, trouble, domains } = facts;
  const found: HostFinding[] = [];
  const say = (severity: HostFinding["severity"], reason: string, about: string, message: string, remedy: string | null): void => {
    found.push({ severity, reason, about, message, remedy });
  };
  if (way.kind === "absent")
    say(
      "problem",
      "XenstoreAbsent",
      way.path,
      "This is a Xen host, and there is no way to xenstored.",
      "Start xenstored, or name its socket with --xenstore.",
    );
  else if (trouble !== null)
    say(
      "problem",
      "XenstoreUnreachable",
      way.path,
      `xenstored cannot be asked: ${trouble}.`,
      "Restart nothing: look whether xenstored runs, and run doctor as root.",
    );
  else {
    const by = way.kind === "socket" ? "its socket" : "the kernel's device: it runs in a domain of its own, or has no socket";
    say("note", "XenstoreReached", way.path, `${daemon === null ? "xenstored" : DAEMONS[daemon]} is reached by ${by}.`, null);
  }
  if (facts.xlTrouble !== null)
    say(
      "problem",
      "XlUnusable",
      "xl",
      `xl list fails: ${facts.xlTrouble}.`,
      "Install xl and put it into PATH, or name it with --xl; run doctor as root.",
    );
  if (!facts.flock)
    say(
      "problem",
      "FlockMissing",
      "flock",
      "There is no flock(1): a monitor that is shared with xl cannot be locked.",
      "Install util-linux.",
    );
  if (!facts.xenLib.usable)
    say(
      "problem",
      "XenLibUnreadable",
      facts.xenLib.path,
      "libxl's files tell when a domain is made; without them no domain is served.",
      "Name their directory with --xen-lib, or run plugherd as root.",
    );
  say(
    "note",
    facts.usbback ? "UsbbackLoaded" : "UsbbackMissing",
    "usbback",
    facts.usbback
      ? "Paravirtual controllers are served by the kernel's usbback."
      : "usbback is not loaded: paravirtual controllers are served by QEMU (qusb).",
    null,
  );
  for (const domain of domains) found.push(...checkDomain(domain, facts));
  for (const { path, busids } of facts.strays)
    say(
      busids.length > 0 ? "warning" : "note",
      "StrayRecord",
      path,
      `The domain is gone, and its controller's record is left${busids.length > 0 ? `, holding ${busids.join(", ")}` : ""}.`,
      `xenstore-rm ${path}`,
    );
  for (const config of facts.configs) found.push(checkConfig(config, facts.addresses));
  return found;
}

function checkDomain(domain: XenDomainFacts, { usbback, busids }: XenHostFacts): readonly HostFinding[] {
  const { name, domid, type, controllers } = domain;
  const found: HostFinding[] = [];
  const say = (severity: HostFinding["severity"], reason: string, message: string, remedy: string | null): void => {
    found.push({ severity, reason, about: name, message, remedy });
  };
  const id = quoted(name);
  if (type === null) {
    const remedy = `Give its QEMU a monitor of plugherd's own: "-qmp","unix:/run/plugherd/qmp/NAME.sock,server=on,wait=off".`;
    say("note", "ForeignToolstack", "Another toolstack than xl made it: it is shown and not served.", remedy);
    return found;
  }
  if (domain.stubdom !== null)
    say(
      "warning",
      "StubDomain",
      `Its device model runs in domain ${String(domain.stubdom)} and has none of the host's devices.`,
      "Use device_model_stubdomain_override=0.",
    );
  if (domain.restricted)
    say("warning", "DeviceModelRestricted", "Its device model gave up root and opens no host devices.", "Use dm_restrict=0.");
  if (domain.traditional)
    say(
      "note",
      "Unverified",
      "Its device model is qemu-traditional, which says that it added a device even when it did not.",
      'Use device_model_version="qemu-xen".',
    );
  if (type !== "hvm" && !usbback && !domain.qusb)
    say(
      "warning",
      "NoController",
      "It has no device model that serves paravirtual controllers, and gets none while it runs.",
      `Add ${PV_LINE} to its configuration, and create it anew.`,
    );
  for (const { devid, stuck, absent, ports } of controllers) {
    const remedy = `xl usbctrl-detach ${id} ${String(devid)}`;
    if (absent === true) say("warning", "PhantomController", `Controller ${String(devid)} is recorded, and its QEMU has none.`, remedy);
    if (stuck) say("warning", "PhantomController", `Controller ${String(devid)} is recorded, and no backend serves it.`, remedy);
    for (const { path, port, busid } of ports)
      if (!busids.has(busid))
        say(
          "problem",
          "DeadRecord",
          `Port ${String(port)} of controller ${String(devid)} is recorded to hold ${busid}, where nothing is plugged in: no xl usbdev-attach on this host works.`,
          `plugherd clears it in domains that it serves; by hand: xenstore-write ${path} ""`,
        );
  }
  const emulated = controllers.some((controller) => controller.type === "devicemodel");
  const holds = controllers.some(({ ports }) => ports.length > 0);
  if (type === "hvm" && (emulated || holds))
    say(
      "warning",
      "NotSaveable",
      `${emulated ? "An emulated controller" : "A host device"} is in domain ${String(domid)}: xl save and migration seem to work, and the guest is lost at the restore.`,
      "Configure usbversion=3 and no usbctrl, and hold devices off while saving: plugherd detach DEVICE DOMAIN.",
    );
  return found;
}

function checkConfig(
  { file, line, key, text, bus, address }: XenHostFacts["configs"][number],
  addresses: ReadonlySet<string>,
): HostFinding {
  const about = `${file}:${String(line)}`;
  const remedy = "Take the line out, and write the device into a file of plugherd's: it is attached once the domain runs.";
  if (key === "usbdevice")
    return {
      severity: "problem",
      reason: "UsbdeviceInConfig",
      about,
      message: `qemu-xen does not take usbdevice=${text}: the domain does not start.`,
      remedy,
    };
  const at = `${String(bus)}.${String(address)}`;
  const missing = bus !== null && address !== null && !addresses.has(at);
  const why = missing
    ? `There is no device ${at} now: xl create destroys the domain that it makes.`
    : `If the device is missing or taken, or came back with another address, xl create destroys the domain that it makes.`;
  return { severity: missing ? "problem" : "warning", reason: "UsbdevInConfig", about, message: `usbdev=${text}. ${why}`, remedy };
}
