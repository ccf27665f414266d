/**
 * The way to xenstored: its socket, or the kernel's device where there is no socket (then xenstored runs in a domain of its own).
 * Source: xen, tools/libs/store/xs.c (get_handle): what the path is decides, not its name.
 */
import type { Socket } from "node:net";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { ok, type Result } from "../model/result.ts";
import { MAX_REQUEST_BYTES } from "../protocol/xenstore.ts";
import { readTextSync } from "./bounded-read.ts";
import { type ConnectError, type ConnectOptions, connectUnix, takeSocket } from "./socket.ts";
import { openXenbus } from "./xenbus-device.ts";
import type { XenstoreTransport } from "./xenstore-session.ts";

/** The kernel's way to xenstored, for where there is no socket. */
export type XenbusPlace = { readonly device: string; readonly proc: string };
export const XENBUS_PLACE: XenbusPlace = { device: "/dev/xen/xenbus", proc: "/proc" };

/** How xenstored is to be reached at this moment. absent: neither socket nor device is there. */
export type XenstoreWay = { readonly kind: "socket" | "device" | "absent"; readonly path: string };

/** Whether this system is the one that controls a Xen host: a guest has the device, too (drivers/xen/xenfs/super.c). */
export const controlsXen = (proc: string): boolean => readTextSync(join(proc, "xen/capabilities"))?.includes("control_d") === true;

/**
 * @param path - of a socket or a character device; a device that is named is used whatever this system is
 * @param xenbus - used where there is nothing at `path`, and this system controls a Xen host
 */
export async function xenstoreWay(path: string, xenbus: XenbusPlace): Promise<XenstoreWay> {
  const first = await stat(path).catch(() => null);
  if (first?.isCharacterDevice() === true) return { kind: "device", path };
  // Of another kind, the connection says what is wrong with it.
  if (first !== null) return { kind: "socket", path };
  const second = controlsXen(xenbus.proc) ? await stat(xenbus.device).catch(() => null) : null;
  return second?.isCharacterDevice() === true ? { kind: "device", path: xenbus.device } : { kind: "absent", path };
}

/** One connection, by the way that there is now. */
export async function connectXenstore(
  path: string,
  { xenbus, ...options }: ConnectOptions & { readonly xenbus: XenbusPlace },
): Promise<Result<XenstoreTransport, ConnectError>> {
  const way = await xenstoreWay(path, xenbus);
  if (way.kind === "device") return openXenbus(way.path);
  const socket = await connectUnix(path, options);
  return socket.ok ? ok(socketTransport(socket.value)) : socket;
}

const socketTransport = (socket: Socket): XenstoreTransport => ({
  maxPayloadBytes: MAX_REQUEST_BYTES,
  take: (user) => takeSocket(socket, user, undefined, "latin1"),
  drop: () => void socket.destroy(),
});
