/** The host USB adapter on a simulated tree in a temp directory, with everything that it told. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { onTestFinished } from "vitest";
import { createHostUsb, type HostUsbOptions } from "../../src/adapters/host-usb.ts";
import type { HostChange, HostUsb } from "../../src/model/contracts.ts";
import type { HostDevice } from "../../src/model/hostdev.ts";
import { createSysfsTree, type SysfsTree, type SysfsTreeOptions } from "../../src/sim/sysfs-tree.ts";
import { eventually } from "./eventually.ts";

export const newTree = (options: SysfsTreeOptions = {}): SysfsTree => {
  const root = mkdtempSync(join(tmpdir(), "plugherd-host-"));
  onTestFinished(() => rmSync(root, { recursive: true, force: true }));
  return createSysfsTree(root, options);
};

export type HostWatch = {
  readonly host: HostUsb;
  readonly changes: HostChange[];
  readonly warnings: string[];
  /** Timers of the adapter that are set now. */
  readonly timers: Set<unknown>;
  /** Puts the wall clock forward, as a sleep of the host does. */
  sleep(ms: number): void;
  /** As told so far: devices by busid. */
  now(): ReadonlyMap<string, HostDevice>;
  /** What was told of one place, in order: address, or null. */
  told(busid: string): readonly (number | null)[];
  device(busid: string): Promise<HostDevice>;
  gone(busid: string): Promise<void>;
  close(): void;
};

/** Waits until a check no longer throws. */
export const holds = async (check: () => void): Promise<void> => {
  await eventually(() => {
    check();
    return true;
  });
};

/** Resolves once the first snapshot is there. */
export async function watchHost(
  tree: Pick<SysfsTree, "sysfs" | "dev" | "proc">,
  options: Partial<HostUsbOptions> = {},
): Promise<HostWatch> {
  const changes: HostChange[] = [];
  const warnings: string[] = [];
  const timers = new Set<unknown>();
  let ahead = 0;
  const host = createHostUsb({
    sysfs: tree.sysfs,
    dev: tree.dev,
    proc: tree.proc,
    timings: { hostSettleMs: 60, auditMs: 30_000, commandMs: 5_000 },
    clock: {
      now: () => Date.now() + ahead,
      setTimeout: (fn, ms) => {
        const timer = setTimeout(() => {
          timers.delete(timer);
          fn();
        }, ms);
        timers.add(timer);
        return timer;
      },
      clearTimeout: (timer) => {
        timers.delete(timer);
        clearTimeout(timer as NodeJS.Timeout);
      },
    },
    log: {
      debug: () => undefined,
      info: () => undefined,
      warn: (text, fields) => warnings.push(`${text} ${JSON.stringify(fields)}`),
      error: (text) => warnings.push(text),
    },
    ...options,
  });
  const subscription = host.changes$.subscribe((change) => changes.push(change));
  onTestFinished(() => subscription.unsubscribe());
  const now = (): Map<string, HostDevice> => {
    const devices = new Map<string, HostDevice>();
    for (const change of changes) {
      if (change.kind === "snapshot") {
        devices.clear();
        for (const device of change.devices) devices.set(device.busid, device);
      } else if (change.device === null) devices.delete(change.busid);
      else devices.set(change.busid, change.device);
    }
    return devices;
  };
  await eventually(() => changes.length > 0);
  return {
    host,
    changes,
    warnings,
    timers,
    sleep: (ms) => {
      ahead += ms;
    },
    now,
    told: (busid) =>
      changes.flatMap((change) => (change.kind === "device" && change.busid === busid ? [change.device?.address ?? null] : [])),
    device: async (busid) => {
      await eventually(() => now().has(busid));
      const device = now().get(busid);
      if (device === undefined) throw new Error(`${busid} left at once`);
      return device;
    },
    gone: (busid) => eventually(() => !now().has(busid)).then(() => undefined),
    close: () => subscription.unsubscribe(),
  };
}
