/** Reads of small files of the kernel: never more than a limit, never a wait for a pipe's writer, and no error but "nothing there". */
import { closeSync, constants, openSync, read, readSync } from "node:fs";
import { open } from "node:fs/promises";

/** A FIFO put in an attribute's place must not hold us. */
const FLAGS = constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY;
/** sysfs gives one page per attribute. */
export const PAGE = 4096;
const page = Buffer.allocUnsafe(PAGE);

/** @returns at most {@link PAGE} bytes as text; null: missing or not readable */
export function readTextSync(path: string): string | null {
  let fd: number;
  try {
    fd = openSync(path, FLAGS);
  } catch {
    return null;
  }
  try {
    return page.toString("utf8", 0, readSync(fd, page, 0, PAGE, null));
  } catch {
    return null;
  } finally {
    closeSync(fd);
  }
}

/** @returns the whole file; null: missing, not readable, or longer than `limit` */
export function readBytesSync(path: string, limit: number): Uint8Array | null {
  let fd: number;
  try {
    fd = openSync(path, FLAGS);
  } catch {
    return null;
  }
  try {
    const parts: Buffer[] = [];
    let total = 0;
    for (;;) {
      const length = readSync(fd, page, 0, PAGE, null);
      if (length === 0) return Buffer.concat(parts, total);
      total += length;
      if (total > limit) return null;
      parts.push(Buffer.from(page.subarray(0, length)));
    }
  } catch {
    return null;
  } finally {
    closeSync(fd);
  }
}

/**
 * {@link readBytesSync} with the reads on a thread: for attributes that may wait on a lock of the kernel. To open and to close one never waits,
 * and a trip to a thread and back is what this costs most. A short read is the last (fs/kernfs/file.c).
 */
export async function readAttribute(path: string, limit: number): Promise<Uint8Array | null> {
  let fd: number;
  try {
    fd = openSync(path, FLAGS);
  } catch {
    return null;
  }
  try {
    const parts: Buffer[] = [];
    let total = 0;
    for (;;) {
      const buffer = Buffer.allocUnsafe(PAGE);
      const length = await new Promise<number>((resolve, reject) => {
        read(fd, buffer, 0, PAGE, null, (failed, count) => (failed === null ? resolve(count) : reject(failed)));
      });
      total += length;
      if (total > limit) return null;
      parts.push(buffer.subarray(0, length));
      if (length < PAGE) return Buffer.concat(parts, total);
    }
  } catch {
    return null;
  } finally {
    closeSync(fd);
  }
}

/** {@link readAttribute} as text, {@link PAGE} bytes at most. */
export const readAttributeText = async (path: string): Promise<string | null> => {
  const bytes = await readAttribute(path, PAGE);
  return bytes === null ? null : new TextDecoder().decode(bytes);
};

/** @returns the file's first bytes, `limit` at most; null: missing or not readable */
export async function readStart(path: string, limit: number): Promise<Uint8Array | null> {
  const file = await open(path, FLAGS).catch(() => null);
  if (file === null) return null;
  try {
    const parts: Buffer[] = [];
    let total = 0;
    for (;;) {
      const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(PAGE), 0, Math.min(PAGE, limit - total), null);
      parts.push(buffer.subarray(0, bytesRead));
      total += bytesRead;
      if (bytesRead === 0 || total >= limit) return Buffer.concat(parts, total);
    }
  } catch {
    return null;
  } finally {
    await file.close().catch(() => undefined);
  }
}
