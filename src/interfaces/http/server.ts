/** The live API's server: always on a unix socket, on TCP when asked (product.md §6). Everything that comes in has a limit of size and time. */
import { createServer, type IncomingMessage, type Server, type ServerResponse, STATUS_CODES } from "node:http";
import type { AddressInfo } from "node:net";
import type { Duplex } from "node:stream";
import { WebSocketServer } from "ws";
import { listenOnOwnSocket } from "../../adapters/own-socket.ts";
import { systemClock } from "../../app.ts";
import type { ControllerView } from "../../controller/view.ts";
import type { Log } from "../../model/contracts.ts";
import { err, ok, type Result } from "../../model/result.ts";
import { authorize, type Listen, type Role, SUBPROTOCOL, type Tokens } from "./auth.ts";
import { type Deadlines, defaultDeadlines, keepDeadlines, NEVER_CHECK } from "./deadlines.ts";
import { holderOf } from "./holder.ts";
import { createLive, type Live, type LiveLimits, type LiveTimings } from "./live.ts";
import { readBody, resumeOf, urlOf } from "./request.ts";
import { type Answer, createRoutes, OPEN_PATHS, refuse } from "./routes.ts";

/** What stands before TCP. */
type Guard = { readonly listen: Listen; readonly tokens: Tokens };

export type ApiOptions = {
  readonly view: ControllerView;
  readonly log: Log;
  readonly version: string;
  /** Path of the unix socket. */
  readonly socket: string;
  /** null: no TCP. */
  readonly tcp: Guard | null;
  readonly live?: { readonly timings: LiveTimings; readonly limits: LiveLimits };
  readonly deadlines?: Deadlines;
};
export type ApiServer = {
  /** Refused: the socket is somebody else's, or cannot be made. Says what to do. */
  start(): Promise<Result<{ readonly port: number | null }, string>>;
  stop(): Promise<void>;
};

const MOST_CONNECTIONS = 512;
/** Whether somebody answers on a socket that is in our place. */
const CONNECT_MS = 2_000;
/** What is left of a refused body is thrown away for this long, so that the client gets to read why. */
const DRAIN_MS = 1_000;

export function createApiServer(options: ApiOptions): ApiServer {
  const { view, log, version, tcp, socket: socketPath, live: liveOptions, deadlines = defaultDeadlines } = options;
  const routes = createRoutes({ view, version, pid: process.pid });
  const sockets = new WebSocketServer({
    noServer: true,
    maxPayload: 1_024,
    perMessageDeflate: false,
    clientTracking: false,
    handleProtocols: (offered) => (offered.has(SUBPROTOCOL) ? SUBPROTOCOL : false),
  });
  const servers: Server[] = [];
  let live: Live | null = null;

  /** @param guard - null: the unix socket, whose file mode is the guard */
  const roleOf = (request: IncomingMessage, url: URL, guard: Guard | null, upgrade: boolean): Result<Role, Answer> => {
    if (guard === null) return ok("operator");
    if (OPEN_PATHS.has(url.pathname)) return ok("read");
    const role = authorize(request, url, { ...guard, upgrade });
    return role.ok ? role : err(refuse(role.error.status, role.error.code, role.error.message, role.error.remedy));
  };

  async function answerTo(request: IncomingMessage, guard: Guard | null): Promise<Answer> {
    const url = urlOf(request);
    if (url === null) return refuse(400, "bad-path", "This is no path of ours.");
    const role = roleOf(request, url, guard, false);
    if (!role.ok) return role.error;
    return routes({ method: request.method ?? "GET", url, role: role.value, local: guard === null, body: () => readBody(request) });
  }

  function reply(request: IncomingMessage, response: ServerResponse, { status, body, headers }: Answer): void {
    const text = Buffer.from(`${JSON.stringify(body)}\n`);
    response.writeHead(status, {
      "content-type": "application/json; charset=utf-8",
      "content-length": String(text.length),
      "cache-control": "no-store",
      "x-content-type-options": "nosniff",
      "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
      ...headers,
      ...(request.complete ? {} : { connection: "close" }),
    });
    response.end(request.method === "HEAD" ? undefined : text);
    if (request.complete) return;
    request.resume();
    const drained = setTimeout(() => request.destroy(), DRAIN_MS).unref();
    request.once("close", () => clearTimeout(drained));
  }

  function onRequest(request: IncomingMessage, response: ServerResponse, guard: Guard | null): void {
    request.on("error", () => undefined); // the client went away
    response.on("error", () => undefined);
    answerTo(request, guard)
      .then((answer) => reply(request, response, answer))
      .catch((cause: unknown) => {
        log.error("a request failed: this is a bug", { path: request.url?.split("?")[0], cause });
        if (response.headersSent) response.destroy();
        else reply(request, response, refuse(500, "bug", "plugherd failed to answer; its log says more."));
      });
  }

  /** @returns null: it may watch */
  function whyNotWatch(request: IncomingMessage, url: URL | null, guard: Guard | null): Answer | null {
    if (url === null) return refuse(400, "bad-path", "This is no path of ours.");
    const role = roleOf(request, url, guard, true);
    if (!role.ok) return role.error;
    if (url.pathname !== "/api/v1/watch") return refuse(404, "unknown-path", "There is no WebSocket at this path.", "Use /api/v1/watch.");
    return live === null || live.full ? refuse(503, "too-many-clients", "Too many clients watch already.", "Close some.") : null;
  }

  function onUpgrade(request: IncomingMessage, socket: Duplex, head: Buffer, guard: Guard | null): void {
    socket.on("error", () => socket.destroy());
    const url = urlOf(request);
    const refused = whyNotWatch(request, url, guard);
    if (refused !== null) {
      const text = Buffer.from(JSON.stringify(refused.body));
      const head = `HTTP/1.1 ${String(refused.status)} ${STATUS_CODES[refused.status] ?? ""}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: ${String(text.length)}\r\n\r\n`;
      // Not only ended: a client that keeps its half open would stay for ever.
      socket.end(Buffer.concat([Buffer.from(head), text]), () => socket.destroy());
      return;
    }
    sockets.handleUpgrade(request, socket, head, (client) => {
      if (live === null) client.terminate();
      else live.add(client, url === null ? null : resumeOf(url));
    });
  }

  function make(guard: Guard | null): Server {
    const server = createServer({ maxHeaderSize: 16 * 1024, ...NEVER_CHECK });
    keepDeadlines(server, deadlines);
    server.maxConnections = MOST_CONNECTIONS;
    server.maxRequestsPerSocket = 10_000;
    server.on("request", (request: IncomingMessage, response: ServerResponse) => onRequest(request, response, guard));
    server.on("upgrade", (request: IncomingMessage, socket: Duplex, head: Buffer) => onUpgrade(request, socket, head, guard));
    server.on("clientError", (_cause, socket) => {
      if (socket.writable) socket.end("HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n");
      else socket.destroy();
    });
    servers.push(server);
    return server;
  }

  const onTrouble = (message: string): void => log.warn("a client of the live API could not be taken", { message });
  const listenTcp = (server: Server, { host, port }: Listen): Promise<Result<number, string>> =>
    new Promise((resolve) => {
      const where = `${host}:${String(port)}`;
      const refused = (cause: NodeJS.ErrnoException): void =>
        resolve(
          err(
            cause.code === "EADDRINUSE"
              ? `${where} is taken by another program; give another --listen`
              : `cannot listen on ${where}: ${cause.message}`,
          ),
        );
      server.once("error", refused);
      server.listen({ host, port }, () => {
        server.off("error", refused);
        server.on("error", ({ message }) => onTrouble(`${where}: ${message}`));
        resolve(ok((server.address() as AddressInfo).port));
      });
    });

  const stop = async (): Promise<void> => {
    live?.stop();
    live = null;
    await Promise.all(
      servers.splice(0).map(
        (server) =>
          new Promise<void>((resolve) => {
            if (!server.listening) return resolve();
            server.close(() => resolve());
            server.closeAllConnections();
          }),
      ),
    );
  };

  return {
    async start() {
      live = createLive(view, liveOptions?.timings, liveOptions?.limits);
      const listening = await listenOnOwnSocket(make(null), socketPath, { clock: systemClock, timeoutMs: CONNECT_MS, onTrouble });
      if (!listening.ok) {
        await stop();
        const { kind, message } = listening.error;
        return err(
          kind === "held"
            ? `${socketPath} is answered by ${await holderOf(socketPath)}; stop it, or give another --api`
            : `${message}; give another --api`,
        );
      }
      if (tcp === null) return ok({ port: null });
      const port = await listenTcp(make(tcp), tcp.listen);
      if (!port.ok) {
        await stop();
        return port;
      }
      return ok({ port: port.value });
    },
    stop,
  };
}
