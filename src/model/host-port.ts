/**
 * Ports of the host as selectors write them: a busid (`1-1.4`), or anchored (`pci-0000:00:14.0/1.4`; `platform-…/1.4` on boards whose
 * controller is no PCI device), so that bus renumbering cannot move it.
 */
import { formatBusid, parseBusid } from "./busid.ts";
import { err, ok, type Result } from "./result.ts";

/** @returns the port in its one spelling, or what would be right (a part of a sentence) */
export function parseHostPort(written: string): Result<string, string> {
  const slash = written.lastIndexOf("/");
  return slash < 0 ? plain(written) : anchored(written.slice(0, slash), written.slice(slash + 1));
}

const FORMS = 'write a busid like "1-1.4", or an anchored port like "pci-0000:00:14.0/1.4"';

function plain(written: string): Result<string, string> {
  const parsed = parseBusid(written);
  if (parsed.ok) return ok(formatBusid(parsed.value));
  const device = /^(\d+-[\d.]+):/.exec(written)?.[1];
  if (parsed.error.kind === "is-interface" && device !== undefined) return err(`that names one interface of a device; write "${device}"`);
  if (parsed.error.kind === "out-of-range") return err(`a bus counts from 1 and a port from 1 to 255; ${FORMS}`);
  if (/^usb\d+$/.test(written)) return err(`that names a whole bus; ${FORMS}`);
  return err(FORMS);
}

function anchored(anchor: string, chain: string): Result<string, string> {
  const bare = /^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$/i;
  if (bare.test(anchor)) return err(`write "pci-${anchor.toLowerCase()}/${chain}"`);
  const pci = anchor.startsWith("pci-") && bare.test(anchor.slice(4));
  if (!pci && !/^platform-[A-Za-z0-9._:@+-]{1,100}$/.test(anchor)) return err(FORMS);
  const ports = parseBusid(`1-${chain}`);
  return ports.ok ? ok(`${pci ? anchor.toLowerCase() : anchor}/${ports.value.ports.join(".")}`) : err(FORMS);
}
