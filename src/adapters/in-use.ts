/** What of the host depends on a device now: read at the moment of an action, never kept (product.md §3). */
import { constants, readdirSync } from "node:fs";
import { open, readdir, readlink } from "node:fs/promises";
import { basename, join } from "node:path";
import type { Clock, HostUsb } from "../model/contracts.ts";
import { type InUse, printable } from "../model/hostdev.ts";
import type { Timings } from "../model/timings.ts";
import { parseDefaultRoutes, parseMounts, parseSwaps } from "../protocol/proc-use.ts";
import { readStart } from "./bounded-read.ts";

export type InUseOptions = {
  readonly sysfs: string;
  readonly dev: string;
  readonly proc: string;
  readonly clock: Clock;
  readonly timings: Pick<Timings, "commandMs">;
};

/** Some thousand mounts and routes; default routes come first, and a disk that is held tells by itself. */
const MAX_BYTES = 4 << 20;
/** `1-1:1.0/host0/target0:0:0/0:0:0:0/block` is five deep; a card reader's one more. */
const MAX_DEPTH = 8;
const MAX_DIRECTORIES = 512;
/** As many VLANs as an interface can have. */
const MAX_UPPERS = 4096;
/** Below these nothing is a disk or a network interface. */
const SKIP = /^(?:power|ep_[0-9a-f]{2}|bsg|bsg_.*|scsi_.*|queue|mq|trace|integrity)$/;

type Disk = { readonly name: string; readonly directory: string };
/** `all`: nothing was left out. */
type Children = { readonly disks: readonly Disk[]; readonly nets: readonly string[]; readonly all: boolean };

/** Ends within `commandMs`: what does not answer by then counts as in use, and so does what there is too much of to look at. */
export function createInUse(options: InUseOptions): HostUsb["inUse"] {
  const { sysfs, dev, proc, clock, timings } = options;
  return async (device) => {
    const { disks, nets, all } = childrenOf(join(sysfs, "bus/usb/devices", device.busid), device.busid);
    if (!all) return inUseFor(`${device.busid} (more hangs on it than is looked at)`);
    if (disks.length === 0 && nets.length === 0) return FREE;
    let timer: unknown;
    const late = new Promise<InUse>((resolve) => {
      timer = clock.setTimeout(() => resolve(inUseFor(`${device.busid} (the host did not answer)`)), timings.commandMs);
    });
    const read = async (): Promise<InUse> => {
      const [disksUsed, routes] = await Promise.all([disksInUse(disks, dev, proc), routesOver(nets, sysfs, proc)]);
      return { disks: disksUsed, routes };
    };
    try {
      return await Promise.race([read(), late]);
    } finally {
      clock.clearTimeout(timer);
    }
  };
}

const FREE: InUse = { disks: [], routes: [] };
/** Both: a policy may lift the one denial and not the other. */
const inUseFor = (reason: string): InUse => ({ disks: [reason], routes: [reason] });

/**
 * Below the interfaces only: what hangs on a hub's ports is other devices. At once and not on a thread: listing sysfs waits for no device, and
 * most devices have no disk and no network interface, so that nothing stands between them and QEMU.
 */
function childrenOf(directory: string, busid: string): Children {
  const disks: Disk[] = [];
  const nets: string[] = [];
  let visited = 0;
  const visit = (path: string, depth: number): void => {
    for (const name of directoriesIn(path)) {
      const child = `${path}/${name}`;
      visited += 1;
      if (visited > MAX_DIRECTORIES) return;
      if (depth === 0 && !name.startsWith(`${busid}:`)) continue;
      if (name === "block") disks.push(...disksIn(child));
      else if (name === "net") nets.push(...directoriesIn(child));
      else if (depth < MAX_DEPTH && !SKIP.test(name)) visit(child, depth + 1);
    }
  };
  visit(directory, 0);
  return { disks, nets, all: visited <= MAX_DIRECTORIES };
}

/** Every disk and its partitions, which are directories of their own in it. */
function disksIn(block: string): readonly Disk[] {
  const found: Disk[] = [];
  for (const name of directoriesIn(block)) {
    const directory = `${block}/${name}`;
    found.push({ name, directory });
    for (const part of directoriesIn(directory)) if (part.startsWith(name)) found.push({ name: part, directory: `${directory}/${part}` });
  }
  return found;
}

async function disksInUse(disks: readonly Disk[], dev: string, proc: string): Promise<readonly string[]> {
  if (disks.length === 0) return [];
  const mounts = parseMounts(await textOf(join(proc, "self/mountinfo")));
  const swaps = parseSwaps(await textOf(join(proc, "swaps")));
  const why = async ({ name, directory }: Disk): Promise<string | null> => {
    const number = (await textOf(`${directory}/dev`)).trim();
    // btrfs mounts have a device number of their own: its source tells. The kernel writes / in a name as !.
    const file = name.replaceAll("!", "/");
    const mount = mounts.find(({ device, source }) => device === number || isNode(source, file));
    if (mount !== undefined) return `mounted on ${mount.on}`;
    if (swaps.some((path) => isNode(path, file))) return "swap";
    const holders = await namesIn(`${directory}/holders`);
    if (holders[0] !== undefined) return `held by ${holders.join(", ")}`;
    return (await refusesExclusive(join(dev, file))) ? "opened exclusively" : null;
  };
  const found: string[] = [];
  for (const disk of disks) {
    const reason = await why(disk);
    if (reason !== null) found.push(printable(`${disk.name} (${reason})`, 200));
  }
  return found;
}
const isNode = (path: string, file: string): boolean => path.startsWith("/") && path.endsWith(`/dev/${file}`);

/** Mounts, swap, LVM, RAID and ZFS hold their block nodes exclusively (block/bdev.c, bd_prepare_to_claim); a plain file never refuses. */
async function refusesExclusive(path: string): Promise<boolean> {
  try {
    const file = await open(path, constants.O_RDONLY | constants.O_EXCL | constants.O_NONBLOCK);
    await file.close();
    return false;
  } catch (cause) {
    return cause instanceof Error && "code" in cause && cause.code === "EBUSY";
  }
}

async function routesOver(nets: readonly string[], sysfs: string, proc: string): Promise<readonly string[]> {
  if (nets.length === 0) return [];
  const ipv4 = await textOf(join(proc, "net/route"));
  const ipv6 = await textOf(join(proc, "net/ipv6_route"));
  const routed = parseDefaultRoutes(ipv4, ipv6);
  const found: string[] = [];
  for (const name of nets) {
    const carrier = await carrierOf(name, join(sysfs, "class/net"), routed);
    if (carrier === name) found.push(printable(`${name} (default route)`, 200));
    else if (carrier !== null) found.push(printable(`${name} (part of ${carrier}, which has the default route)`, 200));
  }
  return found;
}

/** The interface itself, or one that it is a part of (bridge, bond, VLAN: `master` and `upper_*` links), that carries a default route. */
async function carrierOf(name: string, interfaces: string, routed: ReadonlySet<string>): Promise<string | null> {
  const seen = new Set([name]);
  for (const one of seen) {
    if (routed.has(one)) return one;
    if (seen.size > MAX_UPPERS) return null;
    const master = await readlink(`${interfaces}/${one}/master`).catch(() => null);
    if (master !== null) seen.add(basename(master));
    for (const entry of await namesIn(`${interfaces}/${one}`)) if (entry.startsWith("upper_")) seen.add(entry.slice("upper_".length));
  }
  return null;
}

const textOf = async (path: string): Promise<string> => {
  const bytes = await readStart(path, MAX_BYTES);
  return bytes === null ? "" : new TextDecoder().decode(bytes);
};
const namesIn = (path: string): Promise<readonly string[]> => readdir(path).catch(() => []);
/** Real directories only: sysfs is full of links that lead back up. */
const directoriesIn = (path: string): readonly string[] => {
  try {
    return readdirSync(path, { withFileTypes: true }).flatMap((entry) => (entry.isDirectory() ? [entry.name] : []));
  } catch {
    return [];
  }
};
