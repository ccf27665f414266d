/**
 * Who uses a disk or a network interface, from texts of /proc.
 * Source: Linux, proc(5); net/ipv4/fib_trie.c (fib_route_seq_show), net/ipv6/route.c (rt6_info_route).
 */

export type Mount = { /** `8:17` */ readonly device: string; readonly on: string; readonly source: string };

/** `23 24 8:17 / /srv rw,relatime shared:1 - ext4 /dev/sdb1 rw`; lines of another shape are left out. */
export const parseMounts = (text: string): readonly Mount[] =>
  text.split("\n").flatMap((line) => {
    const [left, right] = line.split(" - ");
    const [, , device, , on] = left?.split(" ") ?? [];
    const source = right?.split(" ")[1];
    return device === undefined || on === undefined || source === undefined ? [] : [{ device, on: unquote(on), source: unquote(source) }];
  });

/** @returns paths of what is swapped on (`/dev/sdb2`) */
export const parseSwaps = (text: string): readonly string[] =>
  text
    .split("\n")
    .slice(1)
    .flatMap((line) => {
      const path = line.split(/[\t ]/)[0];
      return path === undefined || path === "" ? [] : [unquote(path)];
    });

const RTF_UP = 0x1;
const RTF_REJECT = 0x200;

/**
 * @param ipv4 - /proc/net/route: Iface Destination Gateway Flags RefCnt Use Metric Mask …, numbers in hex
 * @param ipv6 - /proc/net/ipv6_route: destination length source length gateway metric refcnt use flags interface
 * @returns names of the interfaces that carry a default route
 */
export function parseDefaultRoutes(ipv4: string, ipv6: string): ReadonlySet<string> {
  const names = new Set<string>();
  const counts = (flags: string | undefined): boolean => {
    const bits = Number.parseInt(flags ?? "", 16);
    return (bits & RTF_UP) !== 0 && (bits & RTF_REJECT) === 0;
  };
  for (const line of ipv4.split("\n").slice(1)) {
    const [name, destination, , flags, , , , mask] = line.trim().split(/\s+/);
    if (name !== undefined && name !== "lo" && isZero(destination, 8) && isZero(mask, 8) && counts(flags)) names.add(name);
  }
  for (const line of ipv6.split("\n")) {
    const [destination, length, , , , , , , flags, name] = line.trim().split(/\s+/);
    if (name !== undefined && name !== "lo" && isZero(destination, 32) && isZero(length, 2) && counts(flags)) names.add(name);
  }
  return names;
}

const isZero = (text: string | undefined, digits: number): boolean => text === "0".repeat(digits);
/** Space, tab, line feed and backslash are written as octal escapes. */
const unquote = (text: string): string =>
  text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
