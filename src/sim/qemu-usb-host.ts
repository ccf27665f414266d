/**
 * The usb-host of a fake QEMU: how it finds, opens and loses devices of the host. Exact mode opens once and never looks again; auto-scan mode
 * looks every two seconds, at each new auto-scan object, at each close and when the domain goes on, and gives up after three failed opens.
 * Source: QEMU hw/usb/host-libusb.c (usb_host_realize, usb_host_auto_check); specs/transcripts/qmp, F1 to F5.
 */
import { ok, type Result } from "../model/result.ts";
import { FULL, HIGH, LOW, SUPER } from "./qemu-drivers.ts";
import { propertyOf, type SimDevice, speedRefusal } from "./qemu-machine.ts";
import { type Refusal, refuse } from "./qemu-values.ts";

/** A USB device of the simulated host, as libusb would show it. */
export type SimHostDevice = {
  readonly bus: number;
  readonly address: number;
  /** Dotted, without the bus: `2.1`. */
  readonly port: string;
  /** Four hex digits each. */
  readonly vendor: string;
  readonly product: string;
  /** 1 low, 2 full, 3 high, 4 super. */
  readonly speed: 1 | 2 | 3 | 4;
  /** Path of its device node. */
  readonly node: string;
  /** false: found, but opening it fails (rights, somebody else's claim). */
  readonly openable: boolean;
  /** Shown by `info usb`. */
  readonly name?: string;
};

export type UsbHostDeps = {
  readonly devices: () => Iterable<SimHostDevice>;
  readonly running: () => boolean;
  readonly strict: boolean;
  readonly scanMs: number;
  readonly setTimeout: (run: () => void, ms: number) => unknown;
  readonly clearTimeout: (timer: unknown) => void;
};

const MASKS = { 1: LOW, 2: FULL, 3: HIGH | FULL, 4: SUPER | HIGH } as const;
const OPEN_TRIES = 3;

export type UsbHost = ReturnType<typeof createUsbHost>;

export function createUsbHost(deps: UsbHostDeps) {
  /** Auto-scan objects; exact ones are on nobody's list. */
  const scanned = new Map<SimDevice, { failures: number; seen: boolean }>();
  let timer: unknown = null;

  const text = (device: SimDevice, name: string): string => String(propertyOf(device, name));
  const number = (device: SimDevice, name: string): number => Number(propertyOf(device, name));

  const open = (device: SimDevice, found: SimHostDevice): boolean => {
    if (!found.openable) return false;
    const [speeds, productName] = [device.speeds, device.productName];
    device.speeds = MASKS[found.speed];
    device.productName = found.name ?? `host:${String(found.bus)}.${String(found.address)}`;
    device.attached = speedRefusal(device) === null;
    if (!device.attached) [device.speeds, device.productName] = [speeds, productName];
    return device.attached;
  };
  const close = (device: SimDevice): void => {
    device.attached = false;
    device.productName = "USB Host Device";
    scan();
  };

  const matches = (device: SimDevice, found: SimHostDevice): boolean => {
    const port = text(device, "hostport");
    return (
      [0, found.bus].includes(number(device, "hostbus")) &&
      [0, found.address].includes(number(device, "hostaddr")) &&
      (port === "" || port === found.port) &&
      [0, Number.parseInt(found.vendor, 16)].includes(number(device, "vendorid")) &&
      [0, Number.parseInt(found.product, 16)].includes(number(device, "productid"))
    );
  };
  const scan = (): void => {
    if (scanned.size === 0 || !deps.running()) return;
    for (const found of deps.devices()) {
      for (const [device, state] of scanned) {
        if (!matches(device, found)) continue;
        state.seen = true;
        if (state.failures >= OPEN_TRIES || device.attached) continue;
        if (open(device, found)) break;
        state.failures += 1;
      }
    }
    for (const [device, state] of scanned) {
      if (!state.seen) {
        state.failures = 0;
        if (device.attached) [device.attached, device.productName] = [false, "USB Host Device"];
      }
      state.seen = false;
    }
    schedule();
  };
  const schedule = (): void => {
    if (timer !== null) deps.clearTimeout(timer);
    timer = null;
    if (scanned.size === 0 || !deps.running()) return;
    timer = deps.setTimeout(() => {
      timer = null;
      scan();
    }, deps.scanMs);
  };

  const openNode = (device: SimDevice, node: string): Result<unknown, Refusal> => {
    const found = [...deps.devices()].find((candidate) => candidate.node === node);
    const cannot = (why: string): Result<unknown, Refusal> =>
      refuse(deps.strict ? `Could not open '${node}': ${why}` : `failed to open ${node}: ${why}`);
    if (found === undefined) return cannot("No such file or directory");
    if (!found.openable) return cannot("Permission denied");
    return open(device, found) ? ok(null) : refuse(`failed to open host usb device ${node}`);
  };

  return {
    realize(device: SimDevice): Result<unknown, Refusal> {
      for (const [name, limit] of [
        ["vendorid", 0xffff],
        ["productid", 0xffff],
        ["hostaddr", 127],
      ] as const) {
        if (number(device, name) > limit) return refuse(`${name} out of range`);
      }
      const node = device.given.get("hostdevice");
      if (typeof node === "string") return openNode(device, node);
      const [bus, address] = [number(device, "hostbus"), number(device, "hostaddr")];
      const exact =
        bus > 0 && address > 0 && number(device, "vendorid") === 0 && number(device, "productid") === 0 && text(device, "hostport") === "";
      if (!exact) {
        scanned.set(device, { failures: 0, seen: false });
        scan();
        return ok(null);
      }
      const found = [...deps.devices()].find((candidate) => candidate.bus === bus && candidate.address === address);
      const name = `${String(bus)}:${String(address)}`;
      if (found === undefined) return refuse(`failed to find host usb device ${name}`);
      return open(device, found) ? ok(null) : refuse(`failed to open host usb device ${name}`);
    },
    unrealize(device: SimDevice): void {
      scanned.delete(device);
      if (device.attached) close(device);
      schedule();
    },
    /** The domain went on, or paused: look at once, or no more. */
    runStateChanged(): void {
      if (deps.running()) scan();
      schedule();
    },
    stop(): void {
      scanned.clear();
      schedule();
    },
  };
}
