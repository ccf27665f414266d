/**
 * A fake xenstored on a real unix socket, as C xenstored or oxenstored: tree, permissions, watches, transactions with conflicts, quotas, faults.
 * Has no timer, so that it costs nothing while nobody asks. Source: what both real daemons were seen to do (test/xenstore-contract.test.ts).
 */
import { renameSync, rmSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { createXenstoreReader, formatXenstorePacket, XENSTORE_TYPES } from "../protocol/xenstore.ts";
import { createStoreCore, type StoreCore, type StorePeer } from "./xenstore-core.ts";
import type { StoreLimits } from "./xenstore-requests.ts";
import { find, walk } from "./xenstore-tree.ts";

export type XenstoreOp = keyof typeof XENSTORE_TYPES;
export type FakeXenstoredOptions = {
  readonly path: string;
  /** Whose ways it has where the two differ; `c`. */
  readonly like?: "c" | "ocaml";
  readonly quotas?: Partial<StoreLimits>;
};
/** What happens to one request. */
export type XenstoreFault = {
  /** Refused with this code, without being executed. */
  readonly refuse?: string;
  /** The connection is cut before it is executed, or after that but before its reply. */
  readonly drop?: "before" | "after";
  /** Executed, never answered. */
  readonly swallow?: boolean;
  /** Answered by bytes that are no message. */
  readonly garble?: boolean;
};
export type FakeXenstored = {
  readonly path: string;
  /** With the tree that it had when it was stopped; after a kill with an empty one. */
  start(): Promise<void>;
  /** Ends in order: the socket file goes, the tree is kept. */
  stop(): Promise<void>;
  /** As SIGKILL does: the socket file stays, and the tree is lost. */
  kill(): Promise<void>;
  /** As SIGSTOP: takes connections and bytes and answers nothing. */
  hang(on: boolean): void;
  /** Cuts every connection: their watches and transactions end. */
  disconnect(): void;
  /** The next `times` (1) of an operation; `*`: of any. */
  fault(op: XenstoreOp | "*", fault: XenstoreFault, times?: number): void;
  /** What another client, or a domain (by: its domid, 0), does. @returns null, or the code of the refusal */
  write(path: string, value: string, by?: number): string | null;
  remove(path: string, by?: number): string | null;
  /** A node's value; null: no such node. */
  read(path: string): string | null;
  /** Every path, the root left out. */
  paths(): readonly string[];
  /** For those parts of the simulator that use it without a socket. */
  readonly core: StoreCore;
  /** A domain is made known. */
  introduce(domid: number): void;
  /** A domain is gone: what it owned is removed with all below it. */
  release(domid: number): void;
  clients(): number;
  /** Of all connections: `path token`. */
  watches(): readonly string[];
  /** Open ones, of all connections. */
  transactions(): number;
  /** Requests in the order of their coming, the newest {@link LOG_LIMIT}; text is the payload with `|` for NUL. */
  readonly requestLog: readonly { readonly op: XenstoreOp | number; readonly txId: number; readonly text: string }[];
};

export const LOG_LIMIT = 10_000;
const OPS = new Map<number, XenstoreOp>(Object.entries(XENSTORE_TYPES).map(([op, type]) => [type, op as XenstoreOp]));

type Connection = {
  readonly socket: Socket;
  readonly peer: StorePeer;
  /** Events that wait to go out. */
  readonly unsent: Set<string>;
};

export function createFakeXenstored({ path, like = "c", quotas = {} }: FakeXenstoredOptions): FakeXenstored {
  const limits: StoreLimits = {
    like,
    valueBytes: like === "c" ? 4096 : 2048,
    nodes: Infinity,
    watches: Infinity,
    transactions: Infinity,
    ...quotas,
  };
  const log: { op: XenstoreOp | number; txId: number; text: string }[] = [];
  const faults: { readonly op: XenstoreOp | "*"; readonly fault: XenstoreFault; left: number }[] = [];
  const connections = new Set<Connection>();
  const core = createStoreCore(limits);
  let server: Server | null = null;
  let hung = false;

  const send = ({ socket }: Connection, type: number, reqId: number, txId: number, payload: Uint8Array | string): void => {
    const bytes = typeof payload === "string" ? new TextEncoder().encode(payload) : payload;
    if (!socket.destroyed) socket.write(formatXenstorePacket({ type, reqId, txId, payload: bytes }));
  };
  /** C xenstored drops one that is the same as another that still waits. */
  const sendEvent = ({ socket, unsent }: Connection, path: string, token: string): void => {
    const text = `${path}\0${token}\0`;
    if (socket.destroyed || (like === "c" && unsent.has(text))) return;
    if (!path.startsWith("@")) unsent.add(text);
    const payload = new TextEncoder().encode(text);
    socket.write(formatXenstorePacket({ type: XENSTORE_TYPES["watch-event"], reqId: 0, txId: 0, payload }), () => unsent.delete(text));
  };
  const takeFault = (op: XenstoreOp): XenstoreFault => {
    const found = faults.find((entry) => entry.op === op || entry.op === "*");
    if (found === undefined) return {};
    found.left -= 1;
    if (found.left <= 0) faults.splice(faults.indexOf(found), 1);
    return found.fault;
  };
  const handle = (connection: Connection, type: number, reqId: number, txId: number, payload: Uint8Array): void => {
    const op = OPS.get(type);
    const text = new TextDecoder().decode(payload);
    log.push({ op: op ?? type, txId, text: text.replaceAll("\0", "|") });
    if (log.length > LOG_LIMIT) log.splice(0, log.length - LOG_LIMIT);
    const fault = op === undefined ? {} : takeFault(op);
    if (fault.drop === "before") return void connection.socket.destroy();
    const { reply, tell } =
      op === undefined || (op === "directory-part" && like === "ocaml")
        ? { reply: { error: "ENOSYS" }, tell: () => undefined }
        : fault.refuse !== undefined
          ? { reply: { error: fault.refuse }, tell: () => undefined }
          : core.execute(connection.peer, { op, txId, payload, strings: text.split("\0"), domid: 0 });
    if (fault.drop === "after") connection.socket.destroy();
    if (like === "c") tell();
    if (fault.garble === true) connection.socket.write(new Uint8Array(64).fill(0xff));
    else if (fault.swallow !== true) {
      if (typeof reply === "object" && "error" in reply) send(connection, XENSTORE_TYPES.error, reqId, txId, `${reply.error}\0`);
      else send(connection, type, reqId, txId, reply);
    }
    if (like === "ocaml") tell();
  };

  const leave = (connection: Connection): void => {
    connections.delete(connection);
    core.leave(connection.peer);
  };
  const accept = (socket: Socket): void => {
    const peer: StorePeer = {
      who: "socket",
      watches: [],
      transactions: new Map(),
      event: (path, token) => sendEvent(connection, path, token),
    };
    const connection: Connection = { socket, peer, unsent: new Set() };
    const reader = createXenstoreReader(4096);
    connections.add(connection);
    socket.on("error", () => socket.destroy());
    socket.on("close", () => leave(connection));
    socket.on("data", (bytes: Uint8Array) => {
      for (const input of reader.push(bytes)) {
        if (socket.destroyed) return;
        if ("kind" in input) socket.destroy();
        else handle(connection, input.type, input.reqId, input.txId, input.payload);
      }
    });
    if (hung) socket.pause();
  };
  const end = async (leaveFile: boolean): Promise<void> => {
    const closing = server;
    server = null;
    for (const connection of [...connections]) {
      connection.socket.destroy();
      leave(connection);
    }
    if (closing === null) return;
    // Closing a listening socket removes its file; a killed process removes nothing.
    if (leaveFile) renameSync(path, `${path}.kept`);
    const closed = new Promise<void>((resolve) => void closing.close(() => resolve()));
    if (leaveFile) renameSync(`${path}.kept`, path);
    await closed;
  };
  const byOther = (op: "write" | "rm", node: string, value: string, domid: number): string | null => {
    const payload = new TextEncoder().encode(`${node}\0${value}`);
    const other: StorePeer = { who: "other", watches: [], transactions: new Map(), event: () => undefined };
    const { reply, tell } = core.execute(other, { op, txId: 0, payload, strings: [node, ""], domid });
    tell();
    return typeof reply === "object" && "error" in reply ? reply.error : null;
  };

  return {
    path,
    async start() {
      if (server !== null) throw new Error("this fake xenstored runs already");
      rmSync(path, { force: true });
      const listening = createServer(accept);
      server = listening;
      await new Promise<void>((resolve, reject) => {
        listening.once("error", reject);
        listening.listen(path, resolve);
      });
    },
    stop: () => end(false),
    async kill() {
      await end(true);
      core.clear();
    },
    hang(on) {
      hung = on;
      for (const { socket } of connections) on ? socket.pause() : socket.resume();
    },
    disconnect() {
      for (const { socket } of connections) socket.destroy();
    },
    fault: (op, fault, times = 1) => void faults.push({ op, fault, left: times }),
    write: (node, value, by = 0) => byOther("write", node, value, by),
    remove: (node, by = 0) => byOther("rm", node, "", by),
    read(node) {
      const found = find(core.root(), node);
      return found === undefined ? null : new TextDecoder().decode(found.value);
    },
    paths: () => [...walk("/", core.root())].map(([one]) => one).slice(1),
    core,
    introduce: core.introduce,
    release: core.release,
    clients: () => connections.size,
    watches: () => [...connections].flatMap(({ peer }) => peer.watches.map((one) => `${one.path} ${one.token}`)),
    transactions: () => [...connections].reduce((sum, { peer }) => sum + peer.transactions.size, 0),
    requestLog: log,
  };
}
