/** Texts of the simulated /proc that tell what is in use. The lines around are from a real host (specs/transcripts/sysfs). */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

export type ProcFiles = {
  /** The device number that a block node has for good, by name: `8:3`. */
  numberOf(name: string): string;
  /** By node name (`sdb1`). */
  mount(name: string, on: string): void;
  swapOn(name: string): void;
  /** No longer mounted nor swapped on. */
  release(name: string): void;
  /** A default route over this interface, besides those that are there. */
  route(name: string): void;
  unroute(name: string): void;
};

export function createProcFiles(root: string): ProcFiles {
  const numbers = new Map<string, string>();
  const mounts = new Map<string, string>();
  const swaps = new Set<string>();
  const routes = new Set<string>();
  mkdirSync(join(root, "self"), { recursive: true });
  mkdirSync(join(root, "net"), { recursive: true });

  const numberOf = (name: string): string => {
    const number = numbers.get(name) ?? `8:${String(numbers.size)}`;
    numbers.set(name, number);
    return number;
  };
  const writeDisks = (): void => {
    const lines = [...mounts].map(
      ([name, on], i) => `${String(40 + i)} 24 ${numberOf(name)} / ${quote(on)} rw,relatime - ext4 /dev/${name} rw`,
    );
    writeFileSync(
      join(root, "self/mountinfo"),
      ["23 24 0:5 / /dev rw,relatime - devtmpfs dev rw,size=485532k", "24 1 254:0 / / rw,noatime - ext4 /dev/vda rw", ...lines, ""].join(
        "\n",
      ),
    );
    const header = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
    writeFileSync(join(root, "swaps"), header + [...swaps].map((name) => `/dev/${name}\tpartition\t8188\t\t0\t\t-2\n`).join(""));
  };
  const writeRoutes = (): void => {
    const header = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
    const ipv4 = [...routes].map((name) => `${name}\t00000000\t0202000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n`);
    writeFileSync(join(root, "net/route"), header + ipv4.join(""));
    const zero = "0".repeat(32);
    writeFileSync(join(root, "net/ipv6_route"), `${zero} 00 ${zero} 00 ${zero} ffffffff 00000001 00000000 00200200       lo\n`);
  };
  writeDisks();
  writeRoutes();

  return {
    numberOf,
    mount: (name, on) => {
      mounts.set(name, on);
      writeDisks();
    },
    swapOn: (name) => {
      swaps.add(name);
      writeDisks();
    },
    release: (name) => {
      if ([mounts.delete(name), swaps.delete(name)].includes(true)) writeDisks();
    },
    route: (name) => {
      routes.add(name);
      writeRoutes();
    },
    unroute: (name) => {
      if (routes.delete(name)) writeRoutes();
    },
  };
}

const quote = (path: string): string =>
  path.replace(/[\\ \t\n]/g, (character) => `\\${character.charCodeAt(0).toString(8).padStart(3, "0")}`);
