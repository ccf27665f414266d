/** Configurations of the Xen domains under test, as `xl create` reads them. */
import { CONSOLES, WITNESS } from "./places.ts";

export type XenConfig = {
  readonly type: "hvm" | "pv" | "pvh";
  /** `usbctrl = [...]`, each as xl.cfg has it. */
  readonly usbctrl?: readonly string[];
  readonly onReboot?: "destroy" | "restart";
  /** More lines. */
  readonly extra?: readonly string[];
};

const list = (items: readonly string[]): string => `[${items.map((item) => JSON.stringify(item)).join(", ")}]`;

/** What is common to all: the witness's own monitor, and QEMU's trace of every command that reaches it on whichever monitor. */
const deviceModelArgs = (name: string): string[] => [
  ...["-qmp", `unix:${WITNESS}/${name}.sock,server=on,wait=off`, "-pidfile", `${WITNESS}/${name}.pid`],
  ...["-msg", "timestamp=on", "-trace", "enable=handle_qmp_command", "-trace", "enable=usb_host_open_*", "-trace", "enable=usb_host_close"],
  ...["-D", `${WITNESS}/${name}.trace`],
];

/** Where the guest's own Linux writes. HVM: a serial port, emptied when its QEMU starts; else xenconsoled's log, which grows over domids. */
export const consoleOf = (name: string, { type }: XenConfig): string =>
  type === "hvm" ? `${WITNESS}/${name}.console` : `${CONSOLES}/guest-${name}.log`;

export function xenConfig(name: string, config: XenConfig): string {
  const { type, usbctrl = [], onReboot = "destroy", extra = [] } = config;
  const hvm = type === "hvm";
  return [
    `name = "${name}"`,
    `type = "${type}"`,
    `memory = ${hvm ? "256" : "192"}`,
    "vcpus = 1",
    // An HVM guest is started by its firmware, which wants the packed kernel.
    `kernel = "/lab/domu/${hvm ? "vmlinuz" : "vmlinux"}"`,
    'ramdisk = "/lab/domu/initrd"',
    `cmdline = "console=${hvm ? "ttyS0" : "hvc0"} quiet mitigations=off"`,
    ...(hvm ? [`serial = "file:${consoleOf(name, config)}"`, "vnc = 0", 'vga = "none"'] : []),
    // An emulated machine in an emulated machine now and then dies of an intercepted RDTSC.
    ...(type === "pv" ? [] : ['tsc_mode = "native"']),
    'on_poweroff = "destroy"',
    `on_reboot = "${onReboot}"`,
    'on_crash = "preserve"',
    `device_model_args = ${list(deviceModelArgs(name))}`,
    ...(usbctrl.length === 0 ? [] : [`usbctrl = ${list(usbctrl)}`]),
    ...extra,
    "",
  ].join("\n");
}

/** The PV domain of the `guests` snapshot: with a controller from its configuration, since none can be made later without one. */
export const PV1 = { name: "pv1", config: { type: "pv", usbctrl: ["type=qusb,version=2,ports=4"], onReboot: "restart" } } as const;
/** The HVM domain of the `guests` snapshot: without any controller. */
export const HVM1 = { name: "hvm1", config: { type: "hvm", onReboot: "restart" } } as const;
