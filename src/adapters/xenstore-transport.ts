/**
 * The way to xenstored: its socket, or the kernel's device where there is no socket (then xenstored runs in a domain of its own).
 * Source: xen, tools/libs/store/xs.c (get_handle): what the path is decides, not its name.
 */
import type { Socket } from "node:net";
import { stat } from "node:fs/promises";
import { ok, type Result } from "../model/result.ts";
import { MAX_REQUEST_BYTES } from "../protocol/xenstore.ts";
import { type ConnectError, type ConnectOptions, connectUnix, takeSocket } from "./socket.ts";
import { openXenbus } from "./xenbus-device.ts";
import type { XenstoreTransport } from "./xenstore-session.ts";

export const XENBUS_DEVICE = "/dev/xen/xenbus";

/** How xenstored is to be reached at this moment. absent: neither socket nor device is there. */
export type XenstoreWay = { readonly kind: "socket" | "device" | "absent"; readonly path: string };

/**
 * @param path - of a socket or a character device
 * @param device - used where there is nothing at `path`
 */
export async function xenstoreWay(path: string, device: string): Promise<XenstoreWay> {
  const [first, second] = await Promise.all([path, device].map((one) => stat(one).catch(() => null)));
  if (first?.isCharacterDevice() === true) return { kind: "device", path };
  // Of another kind, the connection says what is wrong with it.
  if (first != null) return { kind: "socket", path };
  return second?.isCharacterDevice() === true ? { kind: "device", path: device } : { kind: "absent", path };
}

/** One connection, by the way that there is now. */
export async function connectXenstore(
  path: string,
  { device, ...options }: ConnectOptions & { readonly device: string },
): Promise<Result<XenstoreTransport, ConnectError>> {
  const way = await xenstoreWay(path, device);
  if (way.kind === "device") return openXenbus(way.path);
  const socket = await connectUnix(path, options);
  return socket.ok ? ok(socketTransport(socket.value)) : socket;
}

const socketTransport = (socket: Socket): XenstoreTransport => ({
  maxPayloadBytes: MAX_REQUEST_BYTES,
  take: (user) => takeSocket(socket, user, undefined, "latin1"),
  drop: () => void socket.destroy(),
});
