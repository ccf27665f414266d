/**
 * What libxl writes into xenstore, in its order. Source: recordings of xl on a real Xen host (specs/transcripts/xen); tools/libs/light:
 * libxl_create.c, libxl_device.c, libxl_usb.c.
 */
import type { LocalStore, StoreNodes } from "./xenstore-local.ts";

export type XenType = "hvm" | "pv" | "pvh";
/** Kind of a device in paths; `null`: it has no backend, only libxl knows it. */
export type BackendKind = "console" | "vkbd" | "qusb" | "vusb" | null;
export type Entry = readonly [name: string, value: string];
export type XenDevice = {
  readonly domid: number;
  /** The directory of its frontend and of libxl's record. */
  readonly kind: "console" | "vkbd" | "vusb";
  readonly backend: BackendKind;
  readonly devid: number;
};

export const domainPath = (domid: number): string => `/local/domain/${String(domid)}`;
export const libxlPath = (domid: number): string => `/libxl/${String(domid)}`;
export const modelPath = (domid: number): string => `/local/domain/0/device-model/${String(domid)}`;
export const recordPath = ({ domid, kind, devid }: XenDevice): string => `${libxlPath(domid)}/device/${kind}/${String(devid)}`;
export const backendPath = ({ domid, backend, devid }: XenDevice): string =>
  `/local/domain/0/backend/${backend ?? ""}/${String(domid)}/${String(devid)}`;
export const frontendPath = ({ domid, kind, devid }: XenDevice): string =>
  kind === "console" ? `${domainPath(domid)}/console` : `${domainPath(domid)}/device/${kind}/${String(devid)}`;

const own = (path: string, permissions: readonly string[], tx: StoreNodes): void => {
  tx.mkdir(path);
  tx.permit(path, permissions);
};

/** @param readOnly - of a console: entries that the guest may not change */
export function addDevice(
  tx: StoreNodes,
  device: XenDevice,
  front: readonly Entry[],
  back: readonly Entry[],
  readOnly: readonly Entry[] = [],
): void {
  const { domid, kind } = device;
  const record = recordPath(device);
  const guest = `${String(domid)}`;
  const guests = [`n${guest}`, "r0"];
  const hosts = ["n0", `r${guest}`];
  tx.remove(record);
  if (device.backend !== null) {
    const [frontend, backend] = [frontendPath(device), backendPath(device)];
    tx.write(`${record}/frontend`, frontend);
    tx.write(`${record}/backend`, backend);
    tx.remove(frontend);
    own(frontend, kind === "console" ? hosts : guests, tx);
    tx.write(`${frontend}/backend`, backend);
    for (const [entries, permissions] of [
      [front, guests],
      [readOnly, hosts],
    ] as const) {
      for (const [name, value] of entries) {
        tx.write(`${frontend}/${name}`, value);
        tx.permit(`${frontend}/${name}`, permissions);
      }
    }
    tx.remove(backend);
    own(backend, hosts, tx);
    tx.write(`${backend}/frontend`, frontend);
    for (const [name, value] of back) tx.write(`${backend}/${name}`, value);
  }
  for (const [name, value] of back) tx.write(`${record}/${name}`, value);
}

/** A node with all below it, and then those above it that are empty (libxl__xs_path_cleanup). */
export function cleanUp(tx: StoreNodes, path: string): void {
  if (!tx.exists(path)) return;
  tx.remove(path);
  for (let at = path.lastIndexOf("/"); at > 0; at = path.lastIndexOf("/", at - 1)) {
    const parent = path.slice(0, at);
    if (!tx.exists(parent) || tx.read(parent) !== "" || tx.list(parent).length > 0) return;
    tx.remove(parent);
  }
}
export function forgetDevice(store: LocalStore, device: XenDevice): void {
  store.transaction((tx) => {
    if (device.backend !== null) cleanUp(tx, frontendPath(device));
    cleanUp(tx, recordPath(device));
    if (device.backend !== null) cleanUp(tx, backendPath(device));
    return true;
  });
}

export type NewDomain = { readonly domid: number; readonly uuid: string; readonly name: string; readonly type: XenType };

/** Steps 2 and 3 of a creation: everything but what the built domain has, in one transaction; then the device model's version. */
export function writeDomain(store: LocalStore, { domid, uuid, name, type }: NewDomain, version: string): void {
  const [dom, vm, libxl] = [domainPath(domid), `/vm/${uuid}`, libxlPath(domid)];
  const read = ["n0", `r${String(domid)}`];
  const theirs = [`n${String(domid)}`];
  const hvm = type === "hvm";
  store.transaction((tx) => {
    for (const [path, permissions] of [
      [dom, read],
      [vm, read],
      [libxl, ["n0"]],
      [`${libxl}/device`, ["n0"]],
    ] as const) {
      tx.remove(path);
      own(path, permissions, tx);
    }
    tx.write(`${dom}/vm`, vm);
    tx.write(`${dom}/name`, name);
    tx.write(`${vm}/name`, name);
    for (const dir of ["cpu", "memory", "device"]) own(`${dom}/${dir}`, read, tx);
    own(`${dom}/device/suspend/event-channel`, theirs, tx);
    own(`${dom}/control`, read, tx);
    if (hvm) own(`${dom}/hvmloader`, read, tx);
    const features = ["shutdown", "feature-poweroff", "feature-reboot", "feature-suspend", ...(hvm ? ["feature-s3", "feature-s4"] : [])];
    for (const node of [...features, "sysrq"]) own(`${dom}/control/${node}`, theirs, tx);
    for (const dir of ["data", "drivers", "feature", "attr", "error"]) own(`${dom}/${dir}`, theirs, tx);
    tx.write(`${vm}/uuid`, uuid);
    tx.write(`${vm}/name`, name);
    tx.write(`${dom}/control/platform-feature-multiprocessor-suspend`, "1");
    tx.write(`${dom}/control/platform-feature-xs_reset_watches`, "1");
    tx.write(`${libxl}/type`, type);
    return true;
  });
  store.write(`${libxl}/dm-version`, version);
}

/** Step 4: the domain is built. */
export function writeBuilt(store: LocalStore, { domid, uuid, type }: NewDomain, version: string, memoryMb: number): void {
  const dom = domainPath(domid);
  const memory = String(memoryMb * 1024);
  const hvm = type === "hvm";
  store.transaction((tx) => {
    tx.write(`${dom}/memory/static-max`, memory);
    tx.write(`${dom}/memory/target`, memory);
    tx.write(`${dom}/memory/videoram`, "0");
    tx.write(`${dom}/domid`, String(domid));
    tx.write(`${dom}/store/port`, "1");
    tx.write(`${dom}/store/ring-ref`, hvm ? "1044476" : "650241");
    tx.write(`${dom}/cpu/0/availability`, "online");
    if (hvm) {
      for (const [name, value] of [
        ["acpi", "1"],
        ["acpi_s3", "1"],
        ["acpi_s4", "1"],
        ["acpi_laptop_slate", "0"],
        ["device-model", version],
      ]) {
        tx.write(`${dom}/platform/${name ?? ""}`, value ?? "");
      }
    }
    return true;
  });
  store.transaction((tx) => {
    if (hvm) tx.write(`/vm/${uuid}/rtc/timeoffset`, "");
    tx.write(`/vm/${uuid}/image/ostype`, hvm ? "hvm" : "linux");
    if (!hvm) tx.write(`/vm/${uuid}/image/kernel`, "/boot/vmlinuz");
    tx.write(`/vm/${uuid}/start_time`, "1795230463.09");
    if (!hvm) tx.write(`/vm/${uuid}/image/ramdisk`, "/boot/initrd.img");
    if (!hvm) tx.write(`/vm/${uuid}/image/cmdline`, "console=hvc0 quiet");
    return true;
  });
  store.write(`${libxlPath(domid)}/dm-version`, version);
}

const devicesOf = (domid: number): Readonly<Record<"console" | "vkbd", XenDevice>> => ({
  console: { domid, kind: "console", backend: "console", devid: 0 },
  vkbd: { domid, kind: "vkbd", backend: "vkbd", devid: 0 },
});
const backOf = (domid: number): Entry[] => [
  ["frontend-id", String(domid)],
  ["online", "1"],
  ["state", "1"],
];

/** Step 7 before the device model: console, and for HVM the keyboard and what its firmware is told. */
export function writeConsole(store: LocalStore, { domid, type }: NewDomain): void {
  const { console: screen, vkbd } = devicesOf(domid);
  const ring = type === "hvm" ? "1044479" : "650242";
  const entries: Entry[] = [
    ["limit", "1048576"],
    ["type", "xenconsoled"],
    ["output", "pty"],
    ["tty", ""],
    ["port", "2"],
    ["ring-ref", ring],
  ];
  store.transaction((tx) => {
    addDevice(tx, screen, [["backend-id", "0"]], [...backOf(domid), ["protocol", "vt100"]], entries);
    return true;
  });
  store.write(`${domainPath(domid)}/console/tty`, "/dev/pts/0");
  if (type !== "hvm") return;
  store.transaction((tx) => {
    const front: Entry[] = [
      ["backend-id", "0"],
      ["state", "1"],
    ];
    addDevice(tx, vkbd, front, backOf(domid));
    return true;
  });
  store.write(`${domainPath(domid)}/hvmloader/bios`, "seabios");
  store.write(`${domainPath(domid)}/hvmloader/allow-memory-relocate`, "0");
}
/** What a destroyed domain's console and keyboard leave by. */
export const plainDevices = (domid: number): readonly XenDevice[] => Object.values(devicesOf(domid));

export type Controller = {
  readonly devid: number;
  readonly type: "devicemodel" | "qusb" | "pv";
  readonly version: number;
  readonly ports: number;
};
export const controllerDevice = (domid: number, { devid, type }: Pick<Controller, "devid" | "type">): XenDevice => ({
  domid,
  kind: "vusb",
  backend: type === "devicemodel" ? null : type === "pv" ? "vusb" : "qusb",
  devid,
});
export function addController(tx: StoreNodes, domid: number, controller: Controller): void {
  const device = controllerDevice(domid, controller);
  const { type, version, ports } = controller;
  addDevice(
    tx,
    device,
    [
      ["backend-id", "0"],
      ["state", "1"],
    ],
    [
      ...(device.backend === null ? [] : backOf(domid)),
      ["type", type],
      ["usb-ver", String(version)],
      ["num-ports", String(ports)],
      ["port", ""],
      ...Array.from({ length: ports }, (_, n): Entry => [`port/${String(n + 1)}`, ""]),
    ],
  );
}
/** Where the ports of a controller are kept: an emulated one's in libxl's record, else with the backend. */
export function portsPath(domid: number, controller: Pick<Controller, "devid" | "type">): string {
  const device = controllerDevice(domid, controller);
  return `${device.backend === null ? recordPath(device) : backendPath(device)}/port`;
}

/** Controllers that libxl finds; one whose record is not whole is not among them. */
export function listControllers(store: StoreNodes, domid: number): readonly Controller[] {
  return store.list(`${libxlPath(domid)}/device/vusb`).flatMap((name): Controller[] => {
    const record = `${libxlPath(domid)}/device/vusb/${name}`;
    const type = store.read(`${record}/type`);
    if (type !== "devicemodel" && type !== "qusb" && type !== "pv") return [];
    const at = type === "devicemodel" ? record : (store.read(`${record}/backend`) ?? "");
    const number = (node: string): number => Number(store.read(`${at}/${node}`) ?? 0);
    return [{ devid: Number(name), type, version: number("usb-ver"), ports: number("num-ports") }];
  });
}
