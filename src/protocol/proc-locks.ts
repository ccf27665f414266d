/**
 * Who holds a lock on which file: text of /proc/locks.
 * Source: Linux, fs/locks.c (lock_get_status), proc_locks(5): `1: FLOCK  ADVISORY  WRITE 708 fe:00:5423947 0 EOF`; the device as major:minor in
 * hex, the inode in decimal; a line with `->` waits for the lock above it.
 */
export type FileLock = {
  /** `FLOCK`, `POSIX`, `OFDLCK`, `LEASE`, `DELEG`. */
  readonly kind: string;
  /** Of the filesystem (its superblock), which need not be what stat says (btrfs, overlayfs). */
  readonly major: number;
  readonly minor: number;
  readonly inode: number;
  /** -1: a lock of an open file, not of a process. 0: not to be seen from here. */
  readonly pid: number;
  /** It is not held yet: somebody waits for it. */
  readonly waits: boolean;
};

const LINE = /^\d+: (-> )?([A-Z]+) +[A-Z*]+ +[A-Z]+ (-?\d+) ([0-9a-f]+):([0-9a-f]+):(\d+) /;

/** Lines of another shape are left out. */
export const parseLocks = (text: string): readonly FileLock[] =>
  text.split("\n").flatMap((line) => {
    const [, arrow, kind, pid, major = "", minor = "", inode] = LINE.exec(line) ?? [];
    if (kind === undefined) return [];
    return [
      {
        kind,
        pid: Number(pid),
        major: Number.parseInt(major, 16),
        minor: Number.parseInt(minor, 16),
        inode: Number(inode),
        waits: arrow !== undefined,
      },
    ];
  });

/**
 * The filesystem's own device number of an open file.
 * @param fdinfo - /proc/self/fdinfo/<fd>, for the mount that it was opened through
 * @param mountinfo - /proc/self/mountinfo: `23 24 8:17 / /srv …`
 * @returns null: not told
 */
export function deviceOfMount(fdinfo: string, mountinfo: string): { readonly major: number; readonly minor: number } | null {
  const mount = /^mnt_id:\s*(\d+)$/m.exec(fdinfo)?.[1];
  if (mount === undefined) return null;
  const [, major, minor] = new RegExp(`^${mount} \\d+ (\\d+):(\\d+) `, "m").exec(mountinfo) ?? [];
  return major === undefined || minor === undefined ? null : { major: Number(major), minor: Number(minor) };
}
