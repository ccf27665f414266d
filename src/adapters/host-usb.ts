/** Host USB devices: a change of a device node makes us look again at that one device in sysfs; every doubt at all of them. */
import { join } from "node:path";
import { Observable, type Subscriber } from "rxjs";
import type { Clock, HostChange, HostUsb, Log } from "../model/contracts.ts";
import type { Timings } from "../model/timings.ts";
import { createHostDevices } from "./host-devices.ts";
import { createInUse } from "./in-use.ts";
import { createNodeWatch } from "./node-watch.ts";
import { createSettling } from "./settling.ts";
import { createSysfsReader, type SysfsReader } from "./sysfs-reader.ts";

export type HostUsbOptions = {
  /** Directories in the place of /sys, /dev and /proc. Missing ones are noticed when they appear. */
  readonly sysfs: string;
  readonly dev: string;
  readonly proc: string;
  readonly timings: Pick<Timings, "hostSettleMs" | "auditMs" | "commandMs">;
  readonly clock: Clock;
  readonly log: Log;
  /** Whether a reader of sysfs waits while a device's lock is held; left out: if it is the kernel's own. */
  readonly mayWait?: boolean;
};

/** No timers of its own but for devices that are settling. */
export function createHostUsb(options: HostUsbOptions): HostUsb {
  const { sysfs, dev, proc, clock, timings, mayWait } = options;
  const reader = createSysfsReader({ sysfs, dev, ...(mayWait === undefined ? {} : { mayWait }) });
  let running: Running | null = null;
  return {
    changes$: new Observable<HostChange>((out) => {
      const mine = run(reader, out, options);
      running = mine;
      return () => {
        mine.close();
        if (running === mine) running = null;
      };
    }),
    inUse: createInUse({ sysfs, dev, proc, clock, timings }),
    audit: () => running?.audit() ?? Promise.resolve(),
  };
}

type Running = { audit(): Promise<void>; close(): void };

/** Devices read in one go before others get their turn, where the reading is waited for; an audit's are read one by one. A device takes a tenth of a millisecond. */
const BATCH = 8;

function run(reader: SysfsReader, out: Subscriber<HostChange>, { dev, clock, timings, log }: HostUsbOptions): Running {
  const settling = createSettling(clock, timings.hostSettleMs);
  /** The first snapshot is out. */
  let told = false;
  let closed = false;
  let lastAudit = clock.now();
  /** Logged since the last full reading: a watch that fails may say so once a directory. */
  const doubts = new Set<string>();

  const devices = createHostDevices(reader, settling, (busid, device) => {
    if (told && !closed) out.next({ kind: "device", busid, device });
  });
  const readAll = async (awaited: boolean): Promise<void> => {
    const present = reader.list() ?? [];
    let count = 0;
    for (const busid of new Set([...present, ...devices.places()])) {
      if (closed) return;
      devices.look(busid);
      count += 1;
      if (!awaited || count % BATCH === 0) await new Promise((resolve) => setImmediate(resolve));
    }
    // What is still settling belongs to the first picture, or it would be taken for absent.
    if (!told) await settling.idle();
  };
  const readings = createReadings(readAll, () => {
    if (closed) return;
    told = true;
    doubts.clear();
    out.next({ kind: "snapshot", devices: devices.all() });
  });
  const watch = createNodeWatch(join(dev, "bus/usb"), {
    onNode: devices.lookAtNode,
    onBus: devices.lookAtBus,
    onDoubt: (reason) => {
      if (reason !== null && !doubts.has(reason)) log.warn("reading all host devices again", { reason });
      if (reason !== null) doubts.add(reason);
      void readings.ask(true);
    },
  });

  return {
    audit: () => {
      const now = clock.now();
      // Timers stand still while the host sleeps, the wall clock does not.
      const slept = Math.abs(now - lastAudit) > 2 * timings.auditMs;
      lastAudit = now;
      watch.check();
      return readings.ask(slept);
    },
    close: () => {
      closed = true;
      devices.close();
      settling.close();
      watch.close();
    },
  };
}

/** Full readings, one at a time: whoever asks during one gets the next, which all that ask meanwhile share. `told`: one was asked for with a snapshot. */
function createReadings(
  readAll: (snapshot: boolean) => Promise<void>,
  tellSnapshot: () => void,
): { ask(snapshot: boolean): Promise<void> } {
  let running: Promise<void> = Promise.resolve();
  let next: { snapshot: boolean; promise: Promise<void> } | null = null;
  return {
    ask: (snapshot) => {
      if (next !== null) {
        next.snapshot ||= snapshot;
        return next.promise;
      }
      const mine = { snapshot, promise: running };
      mine.promise = running.then(async () => {
        next = null;
        await readAll(mine.snapshot);
        if (mine.snapshot) tellSnapshot();
      });
      next = mine;
      running = mine.promise;
      return mine.promise;
    },
  };
}
