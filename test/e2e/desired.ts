/** Desired-state files as the cases write them. A JSON value is YAML too. */
import type { Host } from "./host.ts";
import type { Inner, InnerOptions } from "./inner.ts";

export const SPECS = "/etc/plugherd/domains";
/** What the outer QEMU's devices are. */
export const STICK = { vendor: "46f4", product: "0001" } as const;

type Entry = { readonly name: string } & Readonly<Record<string, unknown>>;

/** A file of one domain; `spec` goes beside `devices`. */
export const domainFile = (name: string, devices: readonly Entry[], spec: Readonly<Record<string, unknown>> = {}): string =>
  [
    "apiVersion: plugherd/v1",
    "kind: Domain",
    `metadata: { name: ${name} }`,
    "spec:",
    ...Object.entries(spec).map(([key, value]) => `  ${key}: ${JSON.stringify(value)}`),
    "  devices:",
    ...devices.map((entry) => `    - ${JSON.stringify(entry)}`),
    ...(devices.length === 0 ? ["      []"] : []),
    "",
  ].join("\n");

export const writeDomain = (host: Host, name: string, devices: readonly Entry[], spec?: Readonly<Record<string, unknown>>): Promise<void> =>
  host.write(`${SPECS}/${name}.yaml`, domainFile(name, devices, spec));

/** A running domain, its file, and the daemon: how most cases begin. */
export async function rig(host: Host, devices: readonly Entry[], options: InnerOptions = {}): Promise<Inner> {
  const vm = host.qemu("vm1");
  await vm.start(options);
  await writeDomain(host, "vm1", devices);
  await host.daemon.start();
  return vm;
}
export const oneStick: readonly Entry[] = [{ name: "stick", usb: STICK }];
