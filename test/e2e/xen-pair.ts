/** hvm1 and pv1, which want a stick each: claims `h` and `p`, sticks `sh` (serial H) and `sp` (serial P). */
import { STICK, writeDomain } from "./desired.ts";
import type { Host } from "./host.ts";
import { untilRight, type Wanted, type XenDomain } from "./xen.ts";

const PAIR = [
  { domain: "hvm1", claim: "h", stick: "sh", serial: "H" },
  { domain: "pv1", claim: "p", stick: "sp", serial: "P" },
];

export const pairOf = ({ xen }: Host): readonly [XenDomain, XenDomain] => [xen.domain("hvm1"), xen.domain("pv1")];

export async function writePair(host: Host): Promise<void> {
  for (const { domain, claim, serial } of PAIR) await writeDomain(host, domain, [{ name: claim, usb: { ...STICK, serial } }]);
}
/** @param port - for hvm1's; pv1's gets 2 always. @returns both, in this order */
export async function plugPair(host: Host, port: string): Promise<readonly Wanted[]> {
  await host.plug("sh", "usb-storage", { port, serial: "H" });
  await host.plug("sp", "usb-storage", { port: "2", serial: "P" });
  return [await host.plugged(`2-${port}`), await host.plugged("2-2")];
}
export async function unplugPair(host: Host): Promise<void> {
  for (const { stick } of PAIR) await host.unplug(stick);
}
export async function pairAttached(host: Host, timeoutMs = 60_000): Promise<void> {
  for (const { claim } of PAIR) await host.phase(claim, "Attached", { timeoutMs });
}
/** @param devices - as {@link plugPair} returns them; none: neither has one */
export async function pairHas(
  host: Host,
  devices: readonly Wanted[],
  check: (domain: XenDomain, devices: readonly Wanted[]) => Promise<unknown> = untilRight,
): Promise<void> {
  for (const [i, domain] of pairOf(host).entries()) await check(domain, devices.slice(i, i + 1));
}
