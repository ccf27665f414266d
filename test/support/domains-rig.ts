/** The Domains contract over real sockets in a temp directory, with everything that it tells kept. */
import { mkdirSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import type { Subscription } from "rxjs";
import { createDomains, type QemuDomains } from "../../src/adapters/domains.ts";
import type { Attached, NewController, Outcome, Place } from "../../src/model/action.ts";
import type { ActionOptions, Clock, DomainChange, Log } from "../../src/model/contracts.ts";
import type { LiveDomain, LiveObject } from "../../src/model/domain.ts";
import type { HostDevice } from "../../src/model/hostdev.ts";
import { defaultTimings, type Timings } from "../../src/model/timings.ts";
import { eventually } from "./eventually.ts";
import type { TestDevice, TestHost } from "./qemu.ts";
import { silentLog } from "./logs.ts";

export const realClock: Clock = {
  now: () => Date.now(),
  setTimeout: (fn, ms) => setTimeout(fn, ms),
  clearTimeout: (handle) => clearTimeout(handle as NodeJS.Timeout),
};
export const quickTimings: Timings = {
  ...defaultTimings,
  connectMs: 2_000,
  greetingMs: 400,
  commandMs: 5_000,
  reconnectBaseMs: 10,
  reconnectMaxMs: 100,
};
export const testDevice = (address: number, more: Partial<TestDevice> = {}): TestDevice => ({
  bus: 1,
  address,
  port: `2.${String(address)}`,
  vendor: "0529",
  product: "0001",
  openable: true,
  ...more,
});
export const hostDevice = ({ bus, address, port, vendor, product }: TestDevice): HostDevice => ({
  busid: `${String(bus)}-${port}`,
  anchor: null,
  bus,
  address,
  inode: 300 + address,
  node: `/dev/bus/usb/001/${String(address).padStart(3, "0")}`,
  vendor,
  product,
  deviceClass: null,
  interfaces: null,
  speed: 480,
  serial: null,
  manufacturer: null,
  productName: null,
  removable: null,
  hub: false,
  drivers: [],
});

export type DomainsRig = {
  readonly domains: QemuDomains;
  readonly qmpDir: string;
  readonly qmpListen: string;
  readonly changes: readonly DomainChange[];
  /** What is told now, by key. */
  readonly live: ReadonlyMap<string, LiveDomain>;
  readonly warnings: readonly string[];
  /** The one domain of this name, once `so` holds of it. */
  domain(name: string, so?: (domain: LiveDomain) => boolean): Promise<LiveDomain>;
  ready(): Promise<void>;
  attach(
    domain: LiveDomain,
    device: TestDevice,
    bus: string,
    port: number,
    more?: Partial<ActionOptions> & { create?: NewController },
  ): Promise<Outcome>;
  detach(domain: LiveDomain, object: Pick<LiveObject, "path" | "bus" | "port">): Promise<Outcome>;
  close(): void;
};
let rigs = 0;
export function createDomainsRig(
  host: TestHost,
  {
    timings = {},
    clock = realClock,
    makeDir = true,
  }: { readonly timings?: Partial<Timings>; readonly clock?: Clock; readonly makeDir?: boolean } = {},
): DomainsRig {
  rigs += 1;
  const dir = join(host.dir, `rig${String(rigs)}`);
  const qmpDir = join(dir, "qmp");
  const qmpListen = join(dir, "run", "monitor.sock");
  if (makeDir) mkdirSync(qmpDir, { recursive: true });
  const changes: DomainChange[] = [];
  const live = new Map<string, LiveDomain>();
  const warnings: string[] = [];
  const warn = (message: string): void => void warnings.push(message);
  const log: Log = { ...silentLog, warn, error: warn };
  const domains = createDomains({
    qmpDir,
    qmpListen,
    devDir: join(dir, "dev"),
    timings: { ...quickTimings, ...timings },
    clock,
    random: Math.random,
    log,
  });
  const subscription: Subscription = domains.changes$.subscribe((change) => {
    changes.push(change);
    if (change.kind === "domain") live.set(change.domain.key, change.domain);
    if (change.kind === "gone") live.delete(change.key);
  });
  return {
    domains,
    qmpDir,
    qmpListen,
    changes,
    live,
    warnings,
    domain: (name, so = (domain) => domain.monitorState === "answering") =>
      eventually(() => {
        const found = [...live.values()].filter((domain) => domain.name === name && so(domain));
        if (found.length !== 1 || found[0] === undefined) throw new Error(`not so: ${JSON.stringify([...live.values()])}`);
        return found[0];
      }),
    ready: async () => void (await eventually(() => changes.some(({ kind }) => kind === "ready"))),
    attach: (domain, device, bus, port, { create, signal, onStep } = {}) =>
      domains.attach(placeOf(domain, device, bus, port, create ?? null), {
        signal: signal ?? new AbortController().signal,
        onStep: onStep ?? (() => undefined),
      }),
    detach: (domain, { path, bus, port }) =>
      domains.detach({ domain: domain.key, path, bus, port: Number(port.split(".")[0]), instance: null } satisfies Attached, {
        signal: new AbortController().signal,
        onStep: () => undefined,
      }),
    close: () => subscription.unsubscribe(),
  };
}
export const placeOf = (domain: LiveDomain, device: TestDevice, bus: string, port: number, create: NewController | null = null): Place => ({
  domain: domain.key,
  device: hostDevice(device),
  bus,
  port,
  create,
});

export type Tap = {
  /** Cuts the connection when our side sends this text: before it goes on, or after QEMU has answered it. */
  cutOn(text: string, when: "before" | "after"): void;
  /** Everything that our side sent. */
  readonly sent: () => string;
  close(): void;
};
/** Stands between a monitor and plugherd; for cutting a connection where it hurts. */
export async function tapMonitor(path: string, target: string): Promise<Tap> {
  let sent = "";
  let cut: { text: string; when: "before" | "after" } | null = null;
  const sockets = new Set<Socket>();
  const server: Server = createServer((ours) => {
    const theirs = connect({ path: target });
    let cutting = false;
    const end = (): void => {
      ours.destroy();
      theirs.destroy();
    };
    for (const socket of [ours, theirs]) {
      sockets.add(socket);
      socket.on("error", end);
      socket.on("close", end);
    }
    ours.on("data", (bytes: Buffer) => {
      sent += bytes.toString();
      if (cut !== null && sent.includes(cut.text)) {
        if (cut.when === "before") return end();
        cutting = true;
      }
      theirs.write(bytes);
    });
    theirs.on("data", (bytes: Buffer) => {
      if (cutting) end();
      else ours.write(bytes);
    });
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  return {
    cutOn: (text, when) => {
      sent = "";
      cut = { text, when };
    },
    sent: () => sent,
    close: () => {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}
