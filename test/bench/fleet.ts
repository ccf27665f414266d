/** The host that is measured on: so many domains with so many devices each, as numbers. */

export type Size = { readonly domains: number; readonly devices: number };

/** Devices on a bus, each in a root port of its own; a bus has 127 addresses. */
export const DEVICES_A_BUS = 100;
/** The one controller of a domain. */
export const CONTROLLER = "usb";
export const PORTS = 15;

export const domainName = (domain: number): string => `d${String(domain).padStart(4, "0")}`;
export const placeOf = (device: number): { readonly bus: number; readonly port: number } => ({
  bus: Math.floor(device / DEVICES_A_BUS) + 1,
  port: (device % DEVICES_A_BUS) + 1,
});
export const busidOf = (device: number): string => {
  const { bus, port } = placeOf(device);
  return `${String(bus)}-${String(port)}`;
};
export const serialOf = (device: number): string => `SN${String(device).padStart(6, "0")}`;
export const busesOf = ({ domains, devices }: Size): number => Math.ceil((domains * devices) / DEVICES_A_BUS);

/** Desired state of one domain. */
export const specOf = (domain: number, { devices }: Size): string =>
  [
    "apiVersion: plugherd/v1",
    "kind: Domain",
    `metadata: { name: ${domainName(domain)} }`,
    "spec:",
    `  controllers: [{ name: ${CONTROLLER}, ports: ${String(PORTS)} }]`,
    "  devices:",
    ...Array.from({ length: devices }, (_, n) => [
      `    - name: dongle-${String(n)}`,
      `      usb: { vendor: "0529", product: "0001", serial: ${serialOf(domain * devices + n)} }`,
    ]).flat(),
    "",
  ].join("\n");
