/**
 * A fake xenstored on a real unix socket, as C xenstored or oxenstored: tree, permissions, watches, transactions with conflicts, quotas, faults.
 * Has no timer, so that it costs nothing while nobody asks. Source: what both real daemons were seen to do (test/xenstore-contract.test.ts).
 */
import { renameSync, rmSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { createXenstoreReader, formatXenstorePacket, INTRODUCE_EVENT, RELEASE_EVENT, XENSTORE_TYPES } from "../protocol/xenstore.ts";
import { applyRequest, type Reply, type StoreChange, type StoreLimits, type StoreRequest } from "./xenstore-requests.ts";
import { emptyTree, find, type StoreNode, walk } from "./xenstore-tree.ts";
import { beginTransaction, type Transaction } from "./xenstore-transaction.ts";

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

type Watch = { readonly path: string; readonly token: string };
type Connection = {
  readonly socket: Socket;
  readonly watches: Watch[];
  readonly transactions: Map<number, Transaction>;
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
  const known = new Set<number>([0]);
  let root: StoreNode = emptyTree(like);
  let server: Server | null = null;
  let hung = false;
  let lastTransaction = 0;

  const quota = (code: string): Reply => ({ error: like === "c" ? code : "EQUOTA" });
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
  /** Tells every watch that a change concerns. */
  const fire = (changes: readonly StoreChange[]): void => {
    for (const connection of connections) {
      for (const { path: watched, token } of connection.watches) {
        for (const { path: changed, removed } of changes) {
          const above = watched === changed || (watched === "/" ? !changed.startsWith("@") : changed.startsWith(`${watched}/`));
          // oxenstored tells those below a removed node whether theirs was there or not.
          const gone = like === "c" ? removed.includes(watched) : removed.length > 0 && watched.startsWith(`${changed}/`);
          const below = !above && gone;
          if (above || below) sendEvent(connection, above ? changed : watched, token);
        }
      }
    }
  };
  /** What a request does, and what it tells others; the daemons differ in which goes out first. */
  const execute = (connection: Connection, request: StoreRequest): { readonly reply: Reply; readonly tell: () => void } => {
    const silent = (reply: Reply): { reply: Reply; tell: () => void } => ({ reply, tell: () => undefined });
    const [first = "", second = ""] = request.strings;
    switch (request.op) {
      case "watch": {
        const special = first.startsWith("@");
        if (!special && !first.startsWith("/")) return silent({ error: "EINVAL" });
        if (connection.watches.some((one) => one.path === first && one.token === second)) return silent({ error: "EEXIST" });
        if (connection.watches.length >= limits.watches) return silent(quota("E2BIG"));
        connection.watches.push({ path: first, token: second });
        // The event of a registration comes after its reply, in both daemons.
        return {
          reply: "OK\0",
          tell: () => queueMicrotask(() => sendEvent(connection, first, second)),
        };
      }
      case "unwatch": {
        const at = connection.watches.findIndex((one) => one.path === first && one.token === second);
        if (at === -1) return silent({ error: "ENOENT" });
        connection.watches.splice(at, 1);
        return silent("OK\0");
      }
      case "transaction-start": {
        if (request.txId !== 0) return silent({ error: "EBUSY" });
        if (connection.transactions.size >= limits.transactions) return silent(quota("ENOSPC"));
        lastTransaction += 1;
        connection.transactions.set(lastTransaction, beginTransaction(root, limits));
        return silent(`${String(lastTransaction)}\0`);
      }
      case "transaction-end": {
        const transaction = connection.transactions.get(request.txId);
        if (transaction === undefined) return silent({ error: request.txId === 0 || like === "c" ? "ENOENT" : "EIO" });
        connection.transactions.delete(request.txId);
        if (first !== "T" && first !== "F") return silent({ error: "EINVAL" });
        if (first === "F") return silent("OK\0");
        const done = transaction.commit(root);
        if (done === null) return silent({ error: "EAGAIN" });
        root = done.root;
        return { reply: "OK\0", tell: () => fire(done.changes) };
      }
      case "introduce":
        introduced(Number(first));
        return silent("OK\0");
      case "release":
        released(Number(first));
        return silent("OK\0");

      case "is-introduced":
        return silent(known.has(Number(first)) ? "T\0" : "F\0");
      default: {
        if (request.txId !== 0) {
          const transaction = connection.transactions.get(request.txId);
          return silent(transaction === undefined ? { error: like === "c" ? "ENOENT" : "EIO" } : transaction.apply(request));
        }
        const { root: next, reply, changes } = applyRequest(root, request, limits);
        root = next;
        return { reply, tell: () => fire(changes) };
      }
    }
  };
  const introduced = (domid: number): void => {
    if (known.has(domid)) return;
    known.add(domid);
    fire([{ path: INTRODUCE_EVENT, removed: [] }]);
  };
  const released = (domid: number): void => {
    known.delete(domid);
    const owned = [...walk("/", root)].filter(([one, { permissions }]) => one !== "/" && Number(permissions[0]?.slice(1)) === domid);
    for (const [one] of owned) if (find(root, one) !== undefined) byOther("rm", one, "", 0);
    fire([{ path: RELEASE_EVENT, removed: [] }]);
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
          : execute(connection, { op, txId, payload, strings: text.split("\0"), domid: 0 });
    if (fault.drop === "after") connection.socket.destroy();
    if (like === "c") tell();
    if (fault.garble === true) connection.socket.write(new Uint8Array(64).fill(0xff));
    else if (fault.swallow !== true) {
      if (typeof reply === "object" && "error" in reply) send(connection, XENSTORE_TYPES.error, reqId, txId, `${reply.error}\0`);
      else send(connection, type, reqId, txId, reply);
    }
    if (like === "ocaml") tell();
  };

  const accept = (socket: Socket): void => {
    const connection: Connection = { socket, watches: [], transactions: new Map(), unsent: new Set() };
    const reader = createXenstoreReader(4096);
    connections.add(connection);
    socket.on("error", () => socket.destroy());
    socket.on("close", () => connections.delete(connection));
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
    for (const { socket } of connections) socket.destroy();
    connections.clear();
    if (closing === null) return;
    // Closing a listening socket removes its file; a killed process removes nothing.
    if (leaveFile) renameSync(path, `${path}.kept`);
    const closed = new Promise<void>((resolve) => void closing.close(() => resolve()));
    if (leaveFile) renameSync(`${path}.kept`, path);
    await closed;
  };
  const byOther = (op: "write" | "rm", node: string, value: string, domid: number): string | null => {
    const payload = new TextEncoder().encode(`${node}\0${value}`);
    const { root: next, reply, changes } = applyRequest(root, { op, txId: 0, payload, strings: [node, ""], domid }, limits);
    root = next;
    fire(changes);
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
      root = emptyTree(like);
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
      const found = find(root, node);
      return found === undefined ? null : new TextDecoder().decode(found.value);
    },
    paths: () => [...walk("/", root)].map(([one]) => one).slice(1),
    introduce: introduced,
    release: released,
    clients: () => connections.size,
    watches: () => [...connections].flatMap(({ watches }) => watches.map((one) => `${one.path} ${one.token}`)),
    transactions: () => [...connections].reduce((sum, { transactions }) => sum + transactions.size, 0),
    requestLog: log,
  };
}
