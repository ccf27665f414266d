/** Who listens on a unix socket, from procfs: the socket's inode by its path, then the process that has it open. A guess for people, no more. */
import { readdir, readFile, readlink } from "node:fs/promises";
import { resolve } from "node:path";

/** Processes that are looked at. */
const MOST_PROCESSES = 32_768;
const LISTENING = 0x10000;

/** @returns `qemu-system-x86 (process 123)`; null: not to be found (another's, without the rights to look) */
export async function socketHolder(path: string, proc = "/proc"): Promise<string | null> {
  const inode = await inodeOf(path, proc);
  if (inode === null) return null;
  const pids = (await readdir(proc).catch(() => [])).filter((name) => /^\d+$/.test(name)).slice(0, MOST_PROCESSES);
  for (const pid of pids) {
    const fds = await readdir(`${proc}/${pid}/fd`).catch(() => []);
    for (const fd of fds) {
      if ((await readlink(`${proc}/${pid}/fd/${fd}`).catch(() => "")) !== `socket:[${inode}]`) continue;
      const name = (await readFile(`${proc}/${pid}/comm`, "utf8").catch(() => "")).trim();
      return `${name === "" ? "a program" : name} (process ${pid})`;
    }
  }
  return null;
}

/** Lines of net/unix: `Num RefCount Protocol Flags Type St Inode Path`; the path as it was given to bind. */
async function inodeOf(path: string, proc: string): Promise<string | null> {
  const text = await readFile(`${proc}/net/unix`, "utf8").catch(() => "");
  for (const line of text.split("\n")) {
    const [, , , flags, , , inode, ...rest] = line.trim().split(/\s+/);
    const bound = rest.join(" ");
    if (inode === undefined || flags === undefined || (Number.parseInt(flags, 16) & LISTENING) === 0) continue;
    if (bound === path || bound === resolve(path)) return inode;
  }
  return null;
}
