/** A Xen host as the cases handle it: `xl`, xenstore, and the domains with their guests' own view. */
import type { Ran } from "./agent.ts";
import type { Host, Plugged } from "./host.ts";
import type { Inner, UsbHost } from "./inner.ts";
import { CONFIGS } from "./places.ts";
import { until } from "./waiting.ts";
import { consoleOf, HVM1, PV1, type XenConfig, xenConfig } from "./xen-config.ts";
import { startProxy, watchStore, type XsProxy, type XsWatch } from "./xs-record.ts";

/** A controller as `xl usb-list` prints it. */
export type UsbController = {
  readonly devid: number;
  readonly type: string;
  readonly backend: number;
  /** Of the frontend; 0 for `devicemodel`. */
  readonly state: number;
  readonly version: number;
  readonly ports: readonly { readonly port: number; readonly device: { readonly bus: number; readonly address: number } | null }[];
};
/** A mark of plugherd's beside libxl's tree: what it says it has attached there (product.md §2). */
export type Mark = { readonly devid: number; readonly port: number; readonly busid: string; readonly at: string; readonly id: string };
/** A node as `xenstore-ls -fp` prints it; permissions as `n0,r7`. */
export type XsNode = { readonly path: string; readonly value: string; readonly perms: string };

export type XenDomain = {
  readonly name: string;
  /** Its device model, by the witness's own monitor and trace. */
  readonly qemu: Inner;
  /** `xl create` with this configuration (kept for the next time); resolves to the domid. */
  create(config?: XenConfig, options?: { readonly paused?: boolean }): Promise<number>;
  /** Starts it and waits until its Linux has started. */
  boot(config?: XenConfig): Promise<number>;
  destroy(): Promise<void>;
  /** null: there is none of that name. */
  domid(): Promise<number | null>;
  usbList(): Promise<UsbController[]>;
  /** What `xl usb-list` says and what plugherd's marks say, read together. */
  records(): Promise<{ readonly controllers: UsbController[]; readonly marks: Mark[] }>;
  /** How much its guest has written so far. */
  consoleSize(): Promise<number>;
  /** Waits until the guest's own kernel has, or no longer has, a device of those ids; told by what it wrote after `from`. */
  sees(ids: string, present: boolean, options?: { readonly from?: number; readonly timeoutMs?: number }): Promise<void>;
};

export type Xen = {
  /** Throws unless it exits 0. */
  xl(args: string, timeoutMs?: number): Promise<string>;
  tryXl(args: string, timeoutMs?: number): Promise<Ran>;
  domain(name: string): XenDomain;
  /** null: there is no such node. */
  read(path: string): Promise<string | null>;
  tree(path: string): Promise<XsNode[]>;
  /** Every event below these paths, with the value and permissions read right after it. */
  watch(...paths: string[]): Promise<XsWatch>;
  /** A way to xenstored that keeps a record of every request, and can kill a process at any of them. */
  proxy(): Promise<XsProxy>;
  /** Replaces the running xenstored by a new one in place, all connections and watches kept. */
  liveUpdate(): Promise<void>;
};

const CREATE_MS = 120_000;
const BOOT_MS = 900_000;
/** A look costs the emulated host several processes, and everything that is looked at runs on it. */
const LOOK_MS = 500;
const ASK_MS = 150;
const ROW = /^(\d+)\s+(\S+)\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s*$/;
const PORT = /^\s+Port (\d+):(?: Bus ([0-9a-f]+) Device ([0-9a-f]+))?\s*$/;
const NODE = /^(\/\S*) = "(.*)" {1,3}\(([^)]*)\)$/;

/** Bus and device are hexadecimal there. */
export function parseUsbList(text: string): UsbController[] {
  const found: (Omit<UsbController, "ports"> & { ports: UsbController["ports"][number][] })[] = [];
  for (const line of text.split("\n")) {
    const row = ROW.exec(line);
    if (row !== null) {
      const [devid = 0, backend = 0, state = 0, version = 0] = [row[1], row[3], row[4], row[5]].map(Number);
      found.push({ devid, type: row[2] ?? "", backend, state, version, ports: [] });
      continue;
    }
    const port = PORT.exec(line);
    if (port === null) continue;
    const device = port[2] === undefined ? null : { bus: Number.parseInt(port[2], 16), address: Number.parseInt(port[3] ?? "", 16) };
    found.at(-1)?.ports.push({ port: Number(port[1]), device });
  }
  return found;
}

export function parseTree(text: string): XsNode[] {
  return text.split("\n").flatMap((line) => {
    const [, path, value, perms] = NODE.exec(line.trimEnd()) ?? [];
    return path === undefined || value === undefined || perms === undefined ? [] : [{ path, value, perms }];
  });
}

const MARK = /^\/libxl\/\d+\/plugherd\/(\d+)\/(\d+)$/;
const marksIn = (nodes: readonly XsNode[]): Mark[] =>
  nodes.flatMap(({ path, value }) => {
    const [, devid, port] = MARK.exec(path) ?? [];
    const [busid = "", at = "", , id = ""] = value.split(" ");
    return devid === undefined ? [] : [{ devid: Number(devid), port: Number(port), busid, at, id }];
  });

/** What the last "DOMU usb" line says. */
const lastSeen = (console: string): string =>
  console
    .split("\n")
    .filter((line) => line.includes("DOMU usb"))
    .at(-1) ?? "";

export function createXen({ sh, run, qemu, write }: Pick<Host, "sh" | "run" | "qemu" | "write">): Xen {
  const configs = new Map<string, XenConfig>([PV1, HVM1].map(({ name, config }) => [name, config]));
  const domains = new Map<string, XenDomain>();
  const xl: Xen["xl"] = async (args, timeoutMs) => {
    const { rc, out } = await run(`xl ${args}`, timeoutMs);
    if (rc !== 0) throw new Error(`xl ${args}: exit ${String(rc)}: ${out.slice(-2_000)}`);
    return out;
  };
  const domain = (name: string): XenDomain => {
    const consolePath = (): string => consoleOf(name, configs.get(name) ?? { type: "hvm" });
    const self: XenDomain = {
      name,
      qemu: qemu(name),
      create: async (config = configs.get(name), { paused = false } = {}) => {
        if (config === undefined) throw new Error(`${name} has no configuration`);
        configs.set(name, config);
        await write(`${CONFIGS}/${name}.cfg`, xenConfig(name, config));
        // The process that stays behind to see the domain's end keeps nothing of ours open.
        await sh(
          `mkdir -p /var/log/e2e; xl create ${paused ? "-p " : ""}${CONFIGS}/${name}.cfg </dev/null >/var/log/e2e/xl-${name}.log 2>&1 || { cat /var/log/e2e/xl-${name}.log; exit 1; }`,
          CREATE_MS,
        );
        return (await self.domid()) ?? Number.NaN;
      },
      boot: async (config) => {
        // HVM: emptied by its own QEMU; else what an earlier life wrote stays.
        const from = (config ?? configs.get(name))?.type === "hvm" ? 0 : await self.consoleSize();
        const domid = await self.create(config);
        await until(
          `${name}'s Linux has started`,
          async () => (await sh(`tail -c +${String(from + 1)} ${consolePath()}`)).includes("DOMU ready"),
          {
            timeoutMs: BOOT_MS,
            // Every look takes time from the guest that is waited for.
            everyMs: 1_500,
          },
        );
        return domid;
      },
      destroy: async () => {
        await xl(`destroy ${name}`);
      },
      domid: async () => {
        const { rc, out } = await run(`xl domid ${name} 2>/dev/null`);
        return rc === 0 ? Number(out.trim()) : null;
      },
      usbList: async () => parseUsbList(await xl(`usb-list ${name}`)),
      records: async () => {
        const out = await sh(`d=$(xl domid ${name}) || exit 1; xl usb-list $d; xenstore-ls -fp /libxl/$d/plugherd 2>/dev/null || true`);
        return { controllers: parseUsbList(out), marks: marksIn(parseTree(out)) };
      },
      consoleSize: async () => Number(await sh(`stat -c %s ${consolePath()} 2>/dev/null || echo 0`)),
      sees: async (ids, present, { from = 0, timeoutMs = 60_000 } = {}) => {
        await until(
          `${name}'s kernel ${present ? "has" : "has lost"} ${ids}`,
          async () => {
            const last = lastSeen(await sh(`tail -c +${String(from + 1)} ${consolePath()} | tr -d '\\r'`));
            if (last.includes(`=${ids}@`) !== present) throw new Error(`its last word: ${last}`);
            return true;
          },
          { timeoutMs, everyMs: LOOK_MS },
        );
      },
    };
    return self;
  };
  return {
    xl,
    tryXl: (args, timeoutMs) => run(`xl ${args}`, timeoutMs),
    domain: (name) => {
      const known = domains.get(name) ?? domain(name);
      domains.set(name, known);
      return known;
    },
    read: async (path) => {
      const { rc, out } = await run(`xenstore-read ${path} 2>/dev/null`);
      return rc === 0 ? out.replace(/\n$/, "") : null;
    },
    tree: async (path) => parseTree((await run(`xenstore-ls -fp ${path} 2>/dev/null`)).out),
    watch: (...paths) => watchStore({ sh }, paths),
    proxy: () => startProxy({ sh }),
    liveUpdate: async () => {
      await sh(`b=$(readlink /proc/$(cat /run/xen/xenstored.pid /run/xenstored.pid /run/xenstore.pid 2>/dev/null | sed -n 1p)/exe)
        p=$(pidof oxenstored xenstored); xenstore-control live-update -s "\${b% (deleted)}" && [ "$p" = "$(pidof oxenstored xenstored)" ]`);
    },
  };
}

/** A device that a domain should have; `ours`: plugherd attached it, so there is a mark (default true). */
export type Wanted = Plugged & { readonly ours?: boolean };
const at = ({ bus, address }: Pick<Plugged, "bus" | "address">): string => `${String(bus)}.${String(address)}`;
const same = (one: readonly string[], other: readonly string[]): boolean =>
  JSON.stringify([...one].sort()) === JSON.stringify([...other].sort());

/** Every device that `xl usb-list` shows, as `bus.address`. */
export const listed = (controllers: readonly UsbController[]): string[] =>
  controllers.flatMap(({ ports }) => ports.flatMap(({ device }) => (device === null ? [] : [at(device)])));

/** Waits until `xl usb-list` shows exactly these devices. */
export const untilListed = (domain: XenDomain, devices: readonly Plugged[], timeoutMs = 20_000): Promise<UsbController[]> =>
  until(
    `xl usb-list ${domain.name} shows exactly ${JSON.stringify(devices)}`,
    async () => {
      const seen = await domain.usbList();
      if (same(listed(seen), devices.map(at))) return seen;
      throw new Error(JSON.stringify(seen));
    },
    { timeoutMs, everyMs: LOOK_MS },
  );

/** Waits until the domain's QEMU has exactly these devices and every one of them is open, on whichever controller: by address, or (qusb) by port. */
export const untilHeld = (domain: XenDomain, devices: readonly Plugged[], timeoutMs = 60_000): Promise<UsbHost[]> =>
  until(
    `${domain.name}'s QEMU has exactly ${JSON.stringify(devices)}`,
    async () => {
      const seen = await domain.qemu.usbHosts();
      const found = seen.map(({ hostbus, hostaddr, hostport }) => {
        const device = devices.find(({ bus, address, busid }) =>
          hostport === null ? bus === hostbus && address === hostaddr : busid === `${String(hostbus)}-${hostport}`,
        );
        return device?.busid ?? "another";
      });
      if (
        same(
          found,
          devices.map(({ busid }) => busid),
        ) &&
        seen.every(({ attached }) => attached)
      )
        return seen;
      throw new Error(`it has ${JSON.stringify(seen)}`);
    },
    { timeoutMs, everyMs: ASK_MS },
  );

/**
 * Waits until everything agrees: QEMU has exactly these devices, `xl usb-list` shows exactly these, and plugherd's marks name those that are
 * ours, each with its present enumeration and the object that QEMU has.
 */
export async function untilRight(domain: XenDomain, devices: readonly Wanted[], timeoutMs = 60_000): Promise<UsbHost[]> {
  const objects = await untilHeld(domain, devices, timeoutMs);
  const ours = devices.filter((device) => device.ours !== false);
  await until(
    `records and marks of ${domain.name} name exactly ${JSON.stringify(devices)}`,
    async () => {
      const { controllers, marks } = await domain.records();
      // What xl has taken out leaves its mark behind, which counts only where the record holds its device.
      const counting = marks.filter(({ devid, port }) =>
        controllers.some((one) => one.devid === devid && one.ports.some((two) => two.port === port && two.device !== null)),
      );
      const marked = counting.map((mark) => `${mark.busid} ${mark.at} ${objects.some(({ id }) => id === mark.id) ? "seen" : mark.id}`);
      const right = same(
        marked,
        ours.map((device) => `${device.busid} ${at(device)} seen`),
      );
      if (right && same(listed(controllers), devices.map(at))) return true;
      throw new Error(`${JSON.stringify(controllers)} ${JSON.stringify(marks)}`);
    },
    { timeoutMs: 30_000, everyMs: LOOK_MS },
  );
  return objects;
}
