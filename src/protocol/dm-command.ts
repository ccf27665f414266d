/**
 * The command channel of qemu-xen-traditional, a device model without QMP: three nodes in xenstore.
 * Source: qemu-xen-traditional, xenstore.c (xenstore_process_dm_command_event) and vl.c (usb_device_add); xen 4.4, tools/python/xen/xend/image.py.
 * The toolstack writes `parameter`, then `command`; the device model removes `command`, acts, and writes `state`; the toolstack puts `state` back.
 */

/** What the device model says about itself when it waits for a command. */
export const DM_RUNNING = "running";

export type DmCommand = {
  /** Value of `command`. */
  readonly command: "usb-add" | "usb-del";
  /** Value of `parameter`, in the words of `-usbdevice`. */
  readonly parameter: string;
  /** Value of `state` once it was executed, well or badly. */
  readonly done: string;
};

const DONE = { "usb-add": "usb-added", "usb-del": "usb-deleted" } as const;

/**
 * @param bus - of the host, 1 or more
 * @param address - on that bus, 1 to 127; in decimal, as `host:1.5`
 */
export const usbCommand = (command: DmCommand["command"], bus: number, address: number): DmCommand => ({
  command,
  parameter: `host:${String(bus)}.${String(address)}`,
  done: DONE[command],
});

/** States in which a command that nobody finished has left it: whoever sent it went before `state` was put back. */
export const isLeftOver = (state: string): boolean => state === DONE["usb-add"] || state === DONE["usb-del"];

/** @param domid - of the domain. @param modelDomid - where its device model runs: 0, or its stub domain */
export const dmPaths = (domid: number, modelDomid = 0) => {
  const base = `/local/domain/${String(modelDomid)}/device-model/${String(domid)}`;
  return { base, state: `${base}/state`, parameter: `${base}/parameter`, command: `${base}/command` };
};
