/**
 * A xenstored behind the kernel's device: the only way where it runs in a domain of its own. The bytes are those of the socket.
 * Source: Linux, drivers/xen/xenbus/xenbus_dev_frontend.c. One write holds one message: what follows it in the same write is thrown away.
 * Some requests are refused by the write itself (a watch that xenstored does not take), without an answer; the connection goes on.
 *
 * Node cannot poll a character device, and a blocking read would hold a thread of its pool for ever. So a child reads, on the same open file, which
 * is the connection, and passes the bytes on through a pipe; writing waits for nothing, and is done here. The child ends when plugherd does,
 * however that happens, so that no connection with its watches and transactions is left behind.
 */
import { spawn } from "node:child_process";
import { close, constants, open, write } from "node:fs";
import { err, ok, type Result } from "../model/result.ts";
import type { ConnectError, SocketUser } from "./socket.ts";
import type { XenstoreTransport, XenstoreWire } from "./xenstore-session.ts";

/** The kernel's buffer of a page holds the header too. */
const MAX_PAYLOAD_BYTES = 4096 - 16;
const MAX_QUEUED_BYTES = 1024 * 1024;
/** The first cat reads the device (3) until it ends; the second waits for the end of our pipe. Only the first has stdout, so its end is seen there. */
const READER = "cat <&3 & exec 3<&- >/dev/null; cat; kill -9 $!";
/** Codes of a write after which there is no connection any more. */
const LOST = new Set(["EBADF", "EIO", "ENODEV", "ENXIO", "EPIPE"]);

/** An open device. */
export type DeviceFile = {
  readonly fd: number;
  /** @returns how many bytes were taken, or the code of the refusal */
  write(bytes: Uint8Array): Promise<number | string>;
  close(): void;
};

/** @param path - a character device; opened anew for each connection */
export async function openXenbus(path: string): Promise<Result<XenstoreTransport, ConnectError>> {
  const file = await openDevice(path);
  return file.ok ? ok(createXenbusTransport(file.value, path)) : file;
}

function openDevice(path: string): Promise<Result<DeviceFile, ConnectError>> {
  return new Promise((resolve) => {
    open(path, constants.O_RDWR | constants.O_NOCTTY, (cause, fd) => {
      if (cause !== null) {
        const absent = cause.code === "ENOENT" || cause.code === "ENXIO" || cause.code === "ENODEV";
        resolve(err({ kind: absent ? "absent" : "failed", message: `cannot open ${path}: ${cause.code ?? cause.message}` }));
        return;
      }
      resolve(
        ok({
          fd,
          write: (bytes) =>
            new Promise((done) => {
              write(fd, bytes, 0, bytes.length, null, (failed, count) => done(failed === null ? count : (failed.code ?? "EIO")));
            }),
          close: () => close(fd, () => undefined),
        }),
      );
    });
  });
}

/** @param file - ours from here on */
export function createXenbusTransport(file: DeviceFile, path: string): XenstoreTransport {
  let wire: XenstoreWire | null = null;
  return {
    maxPayloadBytes: MAX_PAYLOAD_BYTES,
    take(user) {
      wire = takeDevice(file, path, user);
      return wire;
    },
    drop: () => (wire === null ? file.close() : wire.close("closed by plugherd")),
  };
}

function takeDevice(file: DeviceFile, path: string, user: SocketUser): XenstoreWire {
  const queue: { readonly bytes: Uint8Array; readonly refused: (code: string) => void }[] = [];
  let queuedBytes = 0;
  let open = true;
  let writing = false;

  const child = spawn("/bin/sh", ["-c", READER], { stdio: ["pipe", "pipe", "ignore", file.fd] });
  const { stdin, stdout } = child;
  const end = (reason: string): void => {
    if (!open) return;
    open = false;
    stdin?.destroy(); // ends the child
    stdout?.destroy();
    // A descriptor that is closed under a write may be another file's by the time that it is used.
    if (!writing) file.close();
    user.onClose(reason);
  };
  child.on("error", (cause) => end(`${path} has no reader: ${cause.message}`));
  stdin?.on("error", () => undefined); // the child is gone: stdout tells
  stdout?.on("error", () => end(`the reader of ${path} broke`));
  stdout?.on("end", () => end(`${path} cannot be read any more`));
  stdout?.on("data", (bytes: Uint8Array) => {
    if (open) user.onBytes(bytes);
  });

  /** @returns null: taken; else the code of the refusal */
  const writeOne = async (bytes: Uint8Array): Promise<string | null> => {
    for (let at = 0; open && at < bytes.length; ) {
      const done = await file.write(bytes.subarray(at));
      if (typeof done === "string") return done;
      at += done;
    }
    return null;
  };
  const writeQueued = async (): Promise<void> => {
    writing = true;
    for (let next = queue.shift(); open && next !== undefined; next = queue.shift()) {
      const code = await writeOne(next.bytes);
      queuedBytes -= next.bytes.length;
      if (code === null || !open) continue;
      if (LOST.has(code)) end(`${path} cannot be written any more (${code})`);
      else next.refused(code);
    }
    writing = false;
    if (!open) file.close();
  };
  return {
    write(message, refused) {
      if (!open) return;
      const bytes = Buffer.from(message, "latin1");
      queue.push({ bytes, refused });
      queuedBytes += bytes.length;
      if (queuedBytes > MAX_QUEUED_BYTES) end(`${path} takes no more: ${String(queuedBytes)} bytes wait for it`);
      else if (!writing) void writeQueued();
    },
    close: end,
  };
}
