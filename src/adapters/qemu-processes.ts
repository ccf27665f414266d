/** QEMUs of Xen's by their processes: what each was started with, from procfs. */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { parseQemuCmdline, type QemuCmdline } from "../protocol/qemu-cmdline.ts";
import { readStart } from "./bounded-read.ts";

/** Processes that are looked at. */
const MOST_PROCESSES = 32_768;
const MAX_CMDLINE_BYTES = 1024 * 1024;

/** null: no such process, or not to be read. */
export async function cmdlineOf(proc: string, pid: number): Promise<QemuCmdline | null> {
  const bytes = await readStart(join(proc, String(pid), "cmdline"), MAX_CMDLINE_BYTES);
  return bytes === null || bytes.length === 0 ? null : parseQemuCmdline(bytes);
}

/** The first QEMU of Xen's that is so; null: none. */
export async function findQemu(proc: string, is: (cmdline: QemuCmdline) => boolean): Promise<QemuCmdline | null> {
  const pids = (await readdir(proc).catch(() => [])).filter((name) => /^\d+$/.test(name)).slice(0, MOST_PROCESSES);
  for (const pid of pids) {
    const cmdline = await cmdlineOf(proc, Number(pid));
    if (cmdline !== null && cmdline.xenDomid !== null && is(cmdline)) return cmdline;
  }
  return null;
}
