/**
 * Xenstore on the wire: bytes -> bounded packets -> replies and watch events, and requests -> bytes. No sockets, no time.
 * Source: xen/include/public/io/xs_wire.h, docs/misc/xenstore.txt; where the daemons differ, what both were seen to do.
 */
import { err, ok, type Result } from "../model/result.ts";

/** Numbers of the message types on the wire. */
export const XENSTORE_TYPES = {
  directory: 1,
  read: 2,
  "get-perms": 3,
  watch: 4,
  unwatch: 5,
  "transaction-start": 6,
  "transaction-end": 7,
  introduce: 8,
  release: 9,
  write: 11,
  mkdir: 12,
  rm: 13,
  "set-perms": 14,
  "watch-event": 15,
  error: 16,
  "is-introduced": 17,
  "directory-part": 22,
} as const;

export const HEADER_BYTES = 16;
/** Longest payload of a request (XENSTORE_PAYLOAD_MAX): C xenstored drops the connection over one byte more. */
export const MAX_REQUEST_BYTES = 4096;
/** Longest payload taken from a daemon: oxenstored sends a large directory in one reply. */
export const MAX_REPLY_BYTES = 16 * 1024 * 1024;
/** oxenstored's default; C takes twice as much. */
const MAX_PATH_LENGTH = 1023;

/** One message, either way. */
export type XenstorePacket = {
  readonly type: number;
  /** 0 to 2^32 - 1, echoed in the reply; 0 in watch events. */
  readonly reqId: number;
  /** 0: no transaction. Not always echoed: never match on it. */
  readonly txId: number;
  readonly payload: Uint8Array;
};
/** After one that is malformed the reader says nothing any more: where the next message begins cannot be known. */
export type XenstoreInput = XenstorePacket | { readonly kind: "malformed"; readonly reason: string };
export type XenstoreReader = {
  /** Takes bytes in any portions; returns the messages that they complete. Never throws. */
  push(chunk: Uint8Array): readonly XenstoreInput[];
};

/** @param maxPayloadBytes - longest payload that is taken */
export function createXenstoreReader(maxPayloadBytes: number = MAX_REPLY_BYTES): XenstoreReader {
  let held = new Uint8Array(HEADER_BYTES);
  let used = 0;
  let dead = false;

  /** Doubles, up to what the header announces: neither a large announcement nor bytes that drip cost more than what came. */
  const hold = (part: Uint8Array, want: number): void => {
    if (used + part.length > held.length) {
      const grown = new Uint8Array(Math.min(want, Math.max(used + part.length, 2 * held.length)));
      grown.set(held.subarray(0, used));
      held = grown;
    }
    held.set(part, used);
    used += part.length;
  };

  return {
    push(chunk) {
      const found: XenstoreInput[] = [];
      let from = 0;
      while (!dead) {
        const view = new DataView(held.buffer);
        const size = used < HEADER_BYTES ? 0 : view.getUint32(12, true);
        const want = HEADER_BYTES + size;
        if (size > maxPayloadBytes) {
          dead = true;
          held = new Uint8Array(0);
          found.push({ kind: "malformed", reason: `a message of ${String(size)} bytes` });
        } else if (used === want) {
          const [type, reqId, txId] = [view.getUint32(0, true), view.getUint32(4, true), view.getUint32(8, true)];
          found.push({ type, reqId, txId, payload: held.slice(HEADER_BYTES, want) });
          used = 0;
          if (held.length > MAX_REQUEST_BYTES + HEADER_BYTES) held = new Uint8Array(HEADER_BYTES); // idle connections keep no buffer
        } else {
          if (from === chunk.length) break;
          const part = chunk.subarray(from, from + want - used);
          hold(part, want);
          from += part.length;
        }
      }
      return found;
    },
  };
}

export function formatXenstorePacket({ type, reqId, txId, payload }: XenstorePacket): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES + payload.length);
  const view = new DataView(bytes.buffer);
  [type, reqId, txId, payload.length].forEach((value, i) => {
    view.setUint32(4 * i, value, true);
  });
  bytes.set(payload, HEADER_BYTES);
  return bytes;
}

/** Access of one domain to one node. The first of a node's list is its owner, and what everybody has who is not listed. */
export type XenstorePermission = { readonly domid: number; readonly access: "none" | "read" | "write" | "both" };
const ACCESS = { n: "none", r: "read", w: "write", b: "both" } as const;
/** Ids from 0x7ff0 on are reserved by Xen. */
const MAX_DOMID = 0x7fef;

/** @param text - e.g. `r7`; null: not a permission */
export function parsePermission(text: string): XenstorePermission | null {
  const match = /^([nrwb])(\d{1,5})$/.exec(text);
  if (match === null) return null;
  return { domid: Number(match[2]), access: ACCESS[match[1] as keyof typeof ACCESS] };
}
/** Inverse of {@link parsePermission}. */
export const formatPermission = ({ domid, access }: XenstorePermission): string => `${access.charAt(0)}${String(domid)}`;

/** @returns what is wrong with a path of ours, or null. Absolute, and what both daemons take. */
export function pathProblem(path: string): string | null {
  if (path.length > MAX_PATH_LENGTH) return `longer than ${String(MAX_PATH_LENGTH)} characters`;
  if (!path.startsWith("/")) return "not absolute";
  if (!/^[A-Za-z0-9/_@-]*$/.test(path)) return "a character other than letters, digits, - / _ @";
  if (path !== "/" && path.endsWith("/")) return "ends in /";
  return path.includes("//") ? "contains //" : null;
}
/** Watched beside paths: a domain came; one shut down, crashed, was suspended or went. */
export const INTRODUCE_EVENT = "@introduceDomain";
export const RELEASE_EVENT = "@releaseDomain";
const watchProblem = (path: string): string | null => (path === INTRODUCE_EVENT || path === RELEASE_EVENT ? null : pathProblem(path));

export type XenstoreRequest =
  | { readonly op: "read" | "directory" | "mkdir" | "rm" | "get-perms"; readonly path: string }
  /** The value goes as UTF-8, without an end mark: one would become part of it. */
  | { readonly op: "write"; readonly path: string; readonly value: string }
  | { readonly op: "set-perms"; readonly path: string; readonly permissions: readonly XenstorePermission[] }
  /** token: printable ASCII, told with each event. */
  | { readonly op: "watch" | "unwatch"; readonly path: string; readonly token: string }
  /** offset: in bytes of the list. Only C xenstored has it. */
  | { readonly op: "directory-part"; readonly path: string; readonly offset: number }
  | { readonly op: "transaction-start" }
  | { readonly op: "transaction-end"; readonly commit: boolean };
/** Why a request cannot be sent. */
export type RequestProblem = { readonly kind: "invalid" | "too-large"; readonly message: string };

/**
 * @param reqId - 1 to 2^32 - 1
 * @param txId - 0: no transaction
 * @returns at least one byte of payload (oxenstored holds an empty request back until more bytes come), {@link MAX_REQUEST_BYTES} at most
 */
export function formatXenstoreRequest(request: XenstoreRequest, reqId: number, txId: number): Result<Uint8Array, RequestProblem> {
  const problem = problemOf(request);
  if (problem !== null) return err({ kind: "invalid", message: problem });
  const payload = new TextEncoder().encode(payloadOf(request));
  if (payload.length > MAX_REQUEST_BYTES)
    return err({ kind: "too-large", message: `a ${request.op} of ${String(payload.length)} bytes; ${String(MAX_REQUEST_BYTES)} at most` });
  return ok(formatXenstorePacket({ type: XENSTORE_TYPES[request.op], reqId, txId, payload }));
}

function problemOf(request: XenstoreRequest): string | null {
  if (!("path" in request)) return null;
  const watched = request.op === "watch" || request.op === "unwatch";
  const wrong = watched ? watchProblem(request.path) : pathProblem(request.path);
  if (wrong !== null) return `${JSON.stringify(request.path.slice(0, 80))} is no xenstore path: ${wrong}`;
  if (request.op === "rm" && request.path === "/") return "the root is never removed"; // oxenstored would
  if (watched && !/^[\x20-\x7e]{0,64}$/.test(request.token)) return "a token is up to 64 characters of printable ASCII";
  if (request.op === "set-perms") {
    if (request.permissions.length === 0) return "a node has at least one permission: its owner's";
    if (request.permissions.some(({ domid }) => !Number.isInteger(domid) || domid < 0 || domid > MAX_DOMID))
      return `a domid is 0 to ${String(MAX_DOMID)}`;
  }
  if (request.op === "directory-part" && !(Number.isSafeInteger(request.offset) && request.offset >= 0)) return "an offset is 0 or more";
  return null;
}

function payloadOf(request: XenstoreRequest): string {
  switch (request.op) {
    case "write":
      return `${request.path}\0${request.value}`;
    case "set-perms":
      return `${[request.path, ...request.permissions.map(formatPermission)].join("\0")}\0`;
    case "watch":
    case "unwatch":
      return `${request.path}\0${request.token}\0`;
    case "directory-part":
      return `${request.path}\0${String(request.offset)}\0`;
    case "transaction-start":
      return "\0";
    case "transaction-end":
      return request.commit ? "T\0" : "F\0";
    default:
      return `${request.path}\0`;
  }
}

export type XenstoreMessage =
  /** Something changed at or below a watched path; path is the changed node, or the watched one. No order against replies is promised. */
  | { readonly kind: "event"; readonly path: string; readonly token: string }
  /** code: e.g. `ENOENT`; what the daemon wrote, cut to 32 characters. */
  | { readonly kind: "error"; readonly reqId: number; readonly code: string }
  | { readonly kind: "reply"; readonly reqId: number; readonly type: number; readonly payload: Uint8Array }
  | { readonly kind: "malformed"; readonly reason: string };

/** What a packet from a daemon says; anything at all may come. */
export function parseXenstoreMessage({ type, reqId, payload }: XenstorePacket): XenstoreMessage {
  if (type === XENSTORE_TYPES.error) return { kind: "error", reqId, code: /^[A-Z0-9]{1,32}/.exec(parseValue(payload))?.[0] ?? "EINVAL" };
  if (type !== XENSTORE_TYPES["watch-event"]) return { kind: "reply", reqId, type, payload };
  // A newer daemon may append strings.
  const [path, token] = parseStrings(payload) ?? [];
  if (path === undefined || token === undefined) return { kind: "malformed", reason: "a watch event without path or token" };
  return { kind: "event", path, token };
}

/** A node's value. Bytes that are not UTF-8 become U+FFFD: guests write what they like. */
export const parseValue = (payload: Uint8Array): string => new TextDecoder("utf-8", { ignoreBOM: true }).decode(payload);

/** @returns the strings of a list that are each ended by a NUL; null: the last one is not */
export function parseStrings(payload: Uint8Array): readonly string[] | null {
  if (payload.length === 0) return [];
  if (payload[payload.length - 1] !== 0) return null;
  return parseValue(payload.subarray(0, -1)).split("\0");
}

/** @returns null: not a list of permissions */
export function parsePermissions(payload: Uint8Array): readonly XenstorePermission[] | null {
  const found = parseStrings(payload)?.map(parsePermission) ?? [];
  const permissions = found.filter((one) => one !== null);
  return found.length > 0 && permissions.length === found.length ? permissions : null;
}

/** A piece of a directory too large for one reply of C xenstored. */
export type DirectoryPart = {
  /** Changes when the list does: then start again at 0. */
  readonly generation: string;
  readonly names: readonly string[];
  /** Added to the offset for the next piece. */
  readonly bytes: number;
  readonly last: boolean;
};
/** @param payload - `generation NUL (name NUL)*`, and one more NUL in the last piece; null: something else */
export function parseDirectoryPart(payload: Uint8Array): DirectoryPart | null {
  const end = payload.indexOf(0);
  if (end <= 0) return null;
  const list = payload.subarray(end + 1);
  const last = list.length > 0 && list[list.length - 1] === 0 && (list.length === 1 || list[list.length - 2] === 0);
  const names = parseStrings(last ? list.subarray(0, -1) : list);
  // A piece that holds nothing and is not the last would be asked for without end.
  if (names === null || (!last && names.length === 0)) return null;
  return { generation: parseValue(payload.subarray(0, end)), names, bytes: list.length - (last ? 1 : 0), last };
}
