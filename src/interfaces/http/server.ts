/** The live API's server: always on a unix socket, on TCP when asked (product.md §6). Everything that comes in has a limit of size and time. */
import { createServer, type IncomingMessage, type Server, type ServerResponse, STATUS_CODES } from "node:http";
import type { AddressInfo } from "node:net";
import type { Duplex } from "node:stream";
import { WebSocketServer } from "ws";
import type { ControllerView } from "../../controller/view.ts";
import type { Log } from "../../model/contracts.ts";
import { err, ok, type Result } from "../../model/result.ts";
import { authorize, type Listen, type Role, SUBPROTOCOL, type Tokens } from "./auth.ts";
import { type Deadlines, defaultDeadlines, keepDeadlines, NEVER_CHECK } from "./deadlines.ts";
import { createLive, type Live, type LiveLimits, type LiveTimings, type Resume } from "./live.ts";
import { type Answer, createRoutes, OPEN_PATHS, refuse } from "./routes.ts";
import { freeSocketPath, listenOnSocket } from "./unix-socket.ts";

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

/** A plan carries whole trees of files; nothing else is long. */
const MOST_BODY_BYTES = 16 * 1024 * 1024;
const MOST_URL = 8 * 1024;
const MOST_CONNECTIONS = 512;
/** What is left of a refused body is thrown away for this long, so that the client gets to read why. */
const DRAIN_MS = 1_000;

/** @returns null: not a path that we would answer */
function urlOf(request: IncomingMessage): URL | null {
  const { url } = request;
  if (url === undefined || url.length > MOST_URL || !url.startsWith("/") || url.startsWith("//")) return null;
  // Parsed only for its query: the path is taken as it was sent, so that no `..` or %2f is ever resolved.
  const [path = "/", ...query] = url.split("?");
  try {
    const parsed = new URL(`http://localhost/?${query.join("?")}`);
    parsed.pathname = path;
    return parsed.pathname === path ? parsed : null;
  } catch {
    return null;
  }
}

async function readBody(request: IncomingMessage): Promise<Result<unknown, Answer>> {
  const tooLong = refuse(413, "body-too-long", `A body may have ${String(MOST_BODY_BYTES)} bytes.`);
  if (!/^application\/json\s*(;|$)/i.test(request.headers["content-type"] ?? ""))
    return err(refuse(415, "not-json", "The body must be JSON.", "Send the header content-type: application/json."));
  if (Number(request.headers["content-length"] ?? 0) > MOST_BODY_BYTES) return err(tooLong);
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of request.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
      size += chunk.length;
      if (size > MOST_BODY_BYTES) return err(tooLong);
      chunks.push(chunk);
    }
    return ok(JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(chunks))) as unknown);
  } catch {
    return err(refuse(400, "not-json", "The body is not JSON."));
  }
}

/** Seq and id of a client that comes back; anything odd is treated as a newcomer. */
function resumeOf(url: URL): Resume | null {
  const id = url.searchParams.get("id");
  const seq = url.searchParams.get("seq");
  if (id === null || id === "" || seq === null || !/^\d{1,15}$/.test(seq)) return null;
  return { id, seq: Number(seq) };
}

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
        log.error("a request failed: this is a bug", { path: request.url, cause });
        if (response.headersSent) response.destroy();
        else reply(request, response, refuse(500, "bug", "plugherd failed to answer; its log says more."));
      });
  }

  function onUpgrade(request: IncomingMessage, socket: Duplex, head: Buffer, guard: Guard | null): void {
    socket.on("error", () => socket.destroy());
    const end = ({ status, body }: Answer): void => {
      const text = JSON.stringify(body);
      socket.end(
        `HTTP/1.1 ${String(status)} ${STATUS_CODES[status] ?? ""}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: ${String(Buffer.byteLength(text))}\r\n\r\n${text}`,
      );
    };
    const url = urlOf(request);
    if (url === null) return end(refuse(400, "bad-path", "This is no path of ours."));
    const role = roleOf(request, url, guard, true);
    if (!role.ok) return end(role.error);
    if (url.pathname !== "/api/v1/watch")
      return end(refuse(404, "unknown-path", "There is no WebSocket at this path.", "Use /api/v1/watch."));
    if (live === null || live.full) return end(refuse(503, "too-many-clients", "Too many clients watch already.", "Close some."));
    sockets.handleUpgrade(request, socket, head, (client) => {
      if (live === null) client.terminate();
      else live.add(client, resumeOf(url));
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

  const listenTcp = (server: Server, { host, port }: Listen): Promise<Result<number, string>> =>
    new Promise((resolve) => {
      const where = `${host}:${String(port)}`;
      server.once("error", (cause: NodeJS.ErrnoException) =>
        resolve(
          err(
            cause.code === "EADDRINUSE"
              ? `${where} is taken by another program; give another --listen`
              : `cannot listen on ${where}: ${cause.message}`,
          ),
        ),
      );
      server.listen({ host, port }, () => resolve(ok((server.address() as AddressInfo).port)));
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
      const free = await freeSocketPath(socketPath);
      if (!free.ok) return free;
      live = createLive(view, liveOptions?.timings, liveOptions?.limits);
      const listening = await listenOnSocket(make(null), socketPath);
      if (!listening.ok) {
        await stop();
        return listening;
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
