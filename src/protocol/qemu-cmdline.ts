/**
 * What a QEMU was started with, as far as it tells whose device model it is and where its monitors are: bytes of /proc/<pid>/cmdline -> values.
 * Source: QEMU, system/vl.c (options, with one dash or two), monitor/monitor.c, chardev/char.c (`unix:PATH,…`), util/qemu-option.c (`,,` is a
 * comma inside a value); libxl, tools/libs/light/libxl_dm.c.
 */

/** A unix socket with a monitor in control mode (QMP) behind it. */
export type MonitorSocket = {
  /** Of its chardev; null: `-qmp` without one. */
  readonly id: string | null;
  /** As it was written: relative to the working directory of that QEMU where it does not begin with `/`. */
  readonly path: string;
  /** QEMU listens there; otherwise it dialled somebody who does. */
  readonly server: boolean;
};
export type QemuCmdline = {
  /** null: not a device model of Xen's. */
  readonly xenDomid: number | null;
  /** In the order of the command line. Monitors on a descriptor that was handed in (libxl's dm_restrict) have no path and are left out. */
  readonly sockets: readonly MonitorSocket[];
  /** It gave up root, its root directory or its hold on other domains (libxl's dm_restrict): it opens no host devices. */
  readonly restricted: boolean;
};

/** Options whose value is free text, which may look like an option. */
const FREE_TEXT = new Set(["append", "name", "kernel", "initrd", "dtb", "bios", "L", "pidfile", "D"]);
const RESTRICTING = new Set(["runas", "chroot", "xen-domid-restrict"]);

type Chardev = { readonly path: string; readonly server: boolean };
/** A monitor in control mode, by its chardev's id or by itself. */
type Monitor = { readonly chardev: string } | (Chardev & { readonly chardev: null });

/** @param bytes - arguments, each ended by a NUL, the program first */
export function parseQemuCmdline(bytes: Uint8Array): QemuCmdline {
  const args = new TextDecoder().decode(bytes).split("\0");
  const chardevs = new Map<string, Chardev>();
  const monitors: Monitor[] = [];
  let xenDomid: number | null = null;
  let restricted = false;
  for (let i = 1; i < args.length; i += 1) {
    const option = /^--?([A-Za-z][\w-]*)$/.exec(args[i] ?? "")?.[1];
    if (option === undefined) continue;
    const value = args[i + 1] ?? "";
    if (RESTRICTING.has(option)) restricted = true;
    if (FREE_TEXT.has(option)) i += 1;
    else if (option === "xen-domid") xenDomid = /^\d{1,5}$/.test(value) ? Number(value) : null;
    else if (option === "run-with") restricted ||= ["chroot", "user"].some((key) => parseOptions(value, "").has(key));
    else if (option === "chardev") {
      const options = parseOptions(value, "backend");
      const socket = options.get("backend") === "socket" ? socketOf(options) : null;
      const id = options.get("id");
      if (socket !== null && id !== undefined) chardevs.set(id, socket);
    } else if (option === "mon") {
      const options = parseOptions(value, "chardev");
      const chardev = options.get("chardev");
      if (options.get("mode") === "control" && chardev !== undefined) monitors.push({ chardev });
    } else if (option === "qmp" || option === "qmp-pretty") {
      const [, kind, rest = ""] = /^(chardev|unix):(.*)$/s.exec(value) ?? [];
      if (kind === "chardev") monitors.push({ chardev: rest });
      const socket = kind === "unix" ? socketOf(parseOptions(rest, "path")) : null;
      if (socket !== null) monitors.push({ ...socket, chardev: null });
    }
  }
  const sockets = monitors.flatMap((monitor): MonitorSocket[] => {
    if (monitor.chardev === null) return [{ id: null, path: monitor.path, server: monitor.server }];
    const found = chardevs.get(monitor.chardev);
    return found === undefined ? [] : [{ id: monitor.chardev, ...found }];
  });
  return { xenDomid, sockets, restricted };
}

/**
 * `a,b=c,,d,noe` -> implied key `a`, `b` = `c,d`, `noe` = on. The last of several counts.
 * @param implied - key of a first value that has none; empty: there is none
 */
function parseOptions(text: string, implied: string): ReadonlyMap<string, string> {
  const options = new Map<string, string>();
  // A comma that neither follows nor precedes its double separates.
  const parts = text.match(/(?:[^,]|,,)+/gs) ?? [];
  parts.forEach((written, i) => {
    const part = written.replaceAll(",,", ",");
    const at = part.indexOf("=");
    if (at > 0) options.set(part.slice(0, at), part.slice(at + 1));
    else if (i === 0 && implied !== "") options.set(implied, part);
    else options.set(part, "on");
  });
  return options;
}

function socketOf(options: ReadonlyMap<string, string>): Chardev | null {
  const path = options.get("path");
  if (path === undefined || path === "" || isOn(options.get("abstract"))) return null;
  return { path, server: isOn(options.get("server")) };
}
const isOn = (value: string | undefined): boolean => value === "on" || value === "yes" || value === "true" || value === "y";
