/** The live API over real sockets: every message against specs/live-api.schema.json, resuming, slow clients, tokens, hostile input. */
import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer as createHttpServer, type IncomingHttpHeaders, request } from "node:http";
import { connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Ajv2020 } from "ajv/dist/2020.js";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { WebSocket } from "ws";
import { loadTokens, parseListen } from "../src/interfaces/http/auth.ts";
import { liveLimits, liveTimings } from "../src/interfaces/http/live.ts";
import type { ChangesMessage, SnapshotMessage, WatchMessage } from "../src/interfaces/http/messages.ts";
import { type ApiOptions, type ApiServer, createApiServer } from "../src/interfaces/http/server.ts";
import { eventually } from "./support/eventually.ts";
import { claim, createFakeView, domain, type FakeView, hostDevice } from "./support/fake-view.ts";
import { silentLog } from "./support/logs.ts";

const ajv = new Ajv2020({ allErrors: true, strict: true, allowUnionTypes: true });
ajv.addSchema(JSON.parse(readFileSync("specs/live-api.schema.json", "utf8")) as object, "api");
const expectShape = (definition: string, value: unknown): void => {
  const check = ajv.compile({ $ref: `api#/$defs/${definition}` });
  check(value);
  expect(check.errors ?? []).toEqual([]);
};

const tokens = { operator: "operator-token-0123456789", read: "reader-token-0123456789" };

let dir: string;
let path: string;
let view: FakeView;
const ends: (() => unknown)[] = [];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "plugherd-api-"));
  path = join(dir, "run", "api.sock");
  view = createFakeView({
    domains: [domain("win10"), domain("build", { labels: { site: "office" } })],
    devices: [claim("win10", "dongle"), claim("build", "board", { phase: "WaitingForHost", host: null, guest: null })],
    host: [
      hostDevice("1-1.4", {}, { holder: "win10", claims: [{ domain: "win10", name: "dongle", phase: "Attached" }] }),
      hostDevice("1-2"),
    ],
  });
});
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
  rmSync(dir, { recursive: true, force: true });
});

async function serve(more: Partial<ApiOptions> = {}): Promise<{ server: ApiServer; port: number | null }> {
  const server = createApiServer({ view, log: silentLog, version: "1.2.3", socket: path, tcp: null, ...more });
  ends.push(() => server.stop());
  const started = await server.start();
  if (!started.ok) throw new Error(started.error);
  return { server, port: started.value.port };
}
const tcp = { listen: { host: "127.0.0.1", port: 0 }, tokens };

type Reply = { status: number; body: unknown; headers: IncomingHttpHeaders };
type Where = { socketPath: string } | { host: string; port: number };
const ask = (
  target: string,
  {
    method = "GET",
    body,
    headers = {},
    where = { socketPath: path },
  }: { method?: string; body?: string | Buffer; headers?: Record<string, string>; where?: Where } = {},
): Promise<Reply> =>
  new Promise((resolve, reject) => {
    const sent = request({ ...where, path: target, method, agent: false, headers }, (answer) => {
      let text = "";
      answer.on("data", (chunk: Buffer) => {
        text += chunk.toString();
      });
      answer.on("end", () =>
        resolve({ status: answer.statusCode ?? 0, headers: answer.headers, body: text === "" ? null : (JSON.parse(text) as unknown) }),
      );
    });
    sent.on("error", reject);
    sent.end(body);
  });
const post = (target: string, value: unknown): Promise<Reply> =>
  ask(target, { method: "POST", body: JSON.stringify(value), headers: { "content-type": "application/json" } });

type Client = {
  readonly messages: WatchMessage[];
  readonly closed: () => number | null;
  readonly socket: WebSocket;
};
function watch(query = "", options: { url?: string; protocols?: string[]; headers?: Record<string, string> } = {}): Client {
  const socket = new WebSocket(options.url ?? `ws://localhost/api/v1/watch${query}`, options.protocols ?? [], {
    perMessageDeflate: false,
    headers: options.headers ?? {},
    ...(options.url === undefined ? { createConnection: () => connect(path) } : {}),
  });
  const messages: WatchMessage[] = [];
  let code: number | null = null;
  socket.on("message", (data) => {
    messages.push(JSON.parse(String(data)) as WatchMessage);
  });
  socket.on("close", (why) => {
    code = why;
  });
  socket.on("error", () => undefined);
  ends.push(() => socket.terminate());
  return { messages, closed: () => code, socket };
}
const changesOf = (messages: readonly WatchMessage[]) => messages.flatMap((message) => (message.type === "changes" ? message.changes : []));

describe("HTTP", () => {
  test("answers what the schema says", async () => {
    await serve();
    view.change({
      kind: "event",
      value: { seq: 1, time: "2026-01-02T03:04:05Z", domain: "win10", device: "dongle", kind: "phase", reason: null, message: "Attached." },
    });
    for (const name of ["domains", "devices", "host", "events"]) {
      const { status, body } = await ask(`/api/v1/${name}`);
      expect(status).toBe(200);
      expect(body).not.toEqual([]);
      expectShape(name, body);
    }
    expectShape("explanations", (await ask("/api/v1/explain?device=dongle&domain=win10")).body);
    expectShape("status", (await ask("/api/v1/status")).body);
    expectShape("health", (await ask("/healthz")).body);
    expectShape("ready", (await ask("/readyz")).body);
    view.planned = {
      problems: [{ file: "a.yaml", line: 1, column: 2, code: "X", message: "m", severity: "warning", pointer: "" }],
      changes: [{ domain: "win10", name: "dongle", action: "attach", text: "t" }],
    };
    expectShape("planAnswer", (await post("/api/v1/plan", { files: [{ name: "a.yaml", text: "" }] })).body);
    expectShape("operatorAnswer", (await post("/api/v1/operate", { verb: "pause", domain: "win10" })).body);
    expectShape("error", (await ask("/nowhere")).body);
  });

  test("readyz says 503 until every source has reported", async () => {
    await serve();
    view.ready = false;
    expect((await ask("/readyz")).status).toBe(503);
    view.ready = true;
    expect((await ask("/readyz")).status).toBe(200);
  });

  test.each([
    ["devices?domain=win10", 1],
    ["devices?phase=waitingforhost", 1],
    ["devices?phase=Attached,WaitingForHost", 2],
    ["devices?label=site%3Doffice", 1],
    ["devices?label=site!%3Doffice", 1],
    ["devices?label=nothing", 0],
    ["domains?label=site", 2],
    ["host?domain=win10", 1],
    ["host", 2],
  ])("filters %s", async (query, count) => {
    await serve();
    expect((await ask(`/api/v1/${query}`)).body).toHaveLength(count);
  });

  test.each([
    ["GET", "/api/v1/devices?phase=Atached", 400, "bad-query"],
    ["GET", "/api/v1/devices?label=%3D", 400, "bad-query"],
    ["GET", "/api/v1/events?limit=0", 400, "bad-query"],
    ["GET", "/api/v1/events?limit=1e9", 400, "bad-query"],
    ["GET", "/api/v1/explain", 400, "bad-query"],
    ["GET", "/api/v1/explain?device=nobody", 404, "unknown-name"],
    ["GET", "/metrics", 404, "not-there-yet"],
    ["GET", "/", 404, "not-there-yet"],
    ["GET", "/api/v1/watch", 426, "upgrade-needed"],
    ["GET", "/api/v1", 404, "unknown-path"],
    ["GET", "/api/v1/devices/", 404, "unknown-path"],
    ["GET", "/api/v1/../v1/devices", 400, "bad-path"],
    ["GET", "/api/v1/%64evices", 404, "unknown-path"],
    ["GET", "/api/v1/devices%2f..%2fhost", 404, "unknown-path"],
    ["GET", "//api/v1/devices", 400, "bad-path"],
    ["GET", "/api\\v1\\devices", 400, "bad-path"],
    ["GET", "/__proto__", 404, "unknown-path"],
    ["DELETE", "/api/v1/devices", 405, "wrong-method"],
    ["GET", "/api/v1/operate", 405, "wrong-method"],
    ["TRACE", "/healthz", 405, "wrong-method"],
  ])("%s %s is refused with %i %s", async (method, target, status, code) => {
    await serve();
    const reply = await ask(target, { method });
    expect([reply.status, (reply.body as { error: { code: string } }).error.code]).toEqual([status, code]);
    expectShape("error", reply.body);
  });

  test.each([
    ["no JSON", "{", 400],
    ["no UTF-8", Buffer.from([0xff, 0xfe]), 400],
    ["nothing", "", 400],
    ["another shape", "[]", 400],
    ["an unknown verb", '{"verb":"explode","domain":"win10"}', 400],
    ["something extra", '{"verb":"pause","domain":"win10","force":true}', 400],
    ["an endless hold", '{"verb":"detach","device":"a","domain":"b","holdMs":1e300,"release":false}', 400],
    ["a prototype", '{"verb":"pause","domain":"win10","__proto__":{"x":1}}', 400],
    ["deep nesting", `${"[".repeat(50_000)}${"]".repeat(50_000)}`, 400],
    ["a long name", JSON.stringify({ verb: "pause", domain: "x".repeat(5_000) }), 400],
  ])("a body of %s is refused", async (_what, body, status) => {
    await serve();
    const reply = await ask("/api/v1/operate", { method: "POST", body, headers: { "content-type": "application/json" } });
    expect(reply.status).toBe(status);
    expectShape("error", reply.body);
    expect(view.asked).toEqual([]);
    expect((await ask("/healthz")).status).toBe(200);
  });

  test("a body that is not called JSON is refused: a form on a page cannot send one", async () => {
    await serve();
    const reply = await ask("/api/v1/operate", {
      method: "POST",
      body: '{"verb":"pause","domain":"win10"}',
      headers: { "content-type": "text/plain" },
    });
    expect(reply.status).toBe(415);
    expect(view.asked).toEqual([]);
  });

  test("a huge body is refused, told or untold", async () => {
    await serve();
    const told = await ask("/api/v1/plan", {
      method: "POST",
      headers: { "content-type": "application/json", "content-length": String(1e9) },
      body: "{",
    }).catch(() => null);
    expect(told === null || told.status === 413).toBe(true);
    const untold = await ask("/api/v1/plan", {
      method: "POST",
      headers: { "content-type": "application/json", "transfer-encoding": "chunked" },
      body: Buffer.alloc(17 * 1024 * 1024, 32),
    }).catch(() => null);
    expect(untold === null || untold.status === 413).toBe(true);
    expect((await ask("/healthz")).status).toBe(200);
  });

  test("operators' requests reach the controller as they were sent", async () => {
    await serve();
    const request = { verb: "detach", device: "dongle", domain: "win10", holdMs: 90_000, release: true, reason: "backup" };
    expect((await post("/api/v1/operate", request)).status).toBe(200);
    expect(view.asked).toEqual([request]);
    view.answer = { ok: false, kind: "unknown-name", message: "no such", suggestion: "win10" };
    expect((await post("/api/v1/operate", { verb: "resume", domain: "wni10" })).status).toBe(404);
    view.answer = { ok: false, kind: "not-applicable", message: "not paused", suggestion: null };
    const idle = await post("/api/v1/operate", { verb: "resume", domain: "win10" });
    expect(idle.status).toBe(409);
    expectShape("operatorAnswer", idle.body);
  });

  test("a view that throws is a bug: 500, and the server lives", async () => {
    await serve();
    view.plan = () => {
      throw new Error("boom");
    };
    const reply = await post("/api/v1/plan", { files: null });
    expect(reply.status).toBe(500);
    expect(JSON.stringify(reply.body)).not.toContain("boom");
    expect((await ask("/healthz")).status).toBe(200);
  });

  test("half a request is cut off in the end, garbage at once", async () => {
    await serve({ deadlines: { headersMs: 50, answerMs: 50 } });
    const said = (text: string): Promise<boolean> =>
      new Promise((resolve) => {
        const socket: Socket = connect(path, () => socket.write(text));
        socket.on("error", () => undefined);
        socket.on("close", () => resolve(true));
        socket.resume();
      });
    expect(await said("GET /healthz HT")).toBe(true);
    expect(await said("POST /api/v1/plan HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{")).toBe(true);
    expect(await said("\u0000\u0001\u0002 nonsense\r\n\r\n")).toBe(true);
    expect(await said(`GET / HTTP/1.1\r\nx: ${"y".repeat(100_000)}\r\n\r\n`)).toBe(true);
    expect((await ask("/healthz")).status).toBe(200);
  });
});

describe("the watch", () => {
  test("begins with a snapshot and goes on with numbered changes, each as the schema says", async () => {
    await serve();
    const client = watch();
    await eventually(() => expect(client.messages).toHaveLength(1));
    expect(client.messages[0]).toMatchObject({ type: "snapshot", id: "life-1", seq: 0, ready: true });
    view.change({ kind: "device", key: "win10/dongle", value: claim("win10", "dongle", { phase: "Detaching" }) });
    view.change(
      { kind: "domain", key: "build", value: null },
      { kind: "host", key: "1-2", value: null },
      { kind: "conditions", value: [{ type: "MassDetach", status: "True", reason: "MassDetach", message: "m" }] },
      {
        kind: "event",
        value: { seq: 1, time: "2026-01-02T03:04:05Z", domain: null, device: null, kind: "daemon", reason: null, message: "m" },
      },
    );
    await eventually(() => expect(changesOf(client.messages).map(({ seq }) => seq)).toEqual([1, 2, 3, 4, 5]));
    for (const message of client.messages) expectShape("watchMessage", message);
  });

  test("a burst goes out together, and a client gets at most one message every 50 ms", async () => {
    await serve();
    const client = watch();
    await eventually(() => expect(client.messages).toHaveLength(1));
    const burst = (count: number): void => {
      for (let i = 0; i < count; i += 1)
        view.change({ kind: "device", key: "win10/dongle", value: claim("win10", "dongle", { tries: i }) });
    };
    burst(500);
    await eventually(() => expect(changesOf(client.messages)).toHaveLength(500));
    expect(client.messages).toHaveLength(2);
    burst(1);
    await eventually(() => expect(changesOf(client.messages)).toHaveLength(501));
  });

  test("a client that comes back gets exactly what it missed", async () => {
    await serve();
    for (let i = 1; i <= 5; i += 1) view.change({ kind: "device", key: "win10/dongle", value: claim("win10", "dongle", { tries: i }) });
    const back = watch("?id=life-1&seq=3");
    await eventually(() => expect(back.messages).toHaveLength(1));
    expect(changesOf(back.messages).map(({ seq }) => seq)).toEqual([4, 5]);
    const current = watch("?id=life-1&seq=5");
    await eventually(() => expect(current.messages).toHaveLength(1));
    expect(current.messages[0]).toEqual({ type: "changes", id: "life-1", seq: 5, changes: [] });
    view.change({ kind: "host", key: "1-2", value: null });
    await eventually(() => expect([back, current].map(({ messages }) => changesOf(messages).at(-1)?.seq)).toEqual([6, 6]));
    expectShape("watchMessage", current.messages[0]);
  });

  test.each(["?id=another-life&seq=3", "?id=life-1&seq=99", "?id=life-1&seq=-1", "?id=life-1&seq=1e3", "?seq=1", "?id=life-1"])(
    "gets a fresh snapshot for %s",
    async (query) => {
      await serve();
      for (let i = 1; i <= 5; i += 1) view.change({ kind: "host", key: "1-2", value: null });
      const client = watch(query);
      await eventually(() => expect(client.messages).toHaveLength(1));
      expect(client.messages[0]).toMatchObject({ type: "snapshot", id: "life-1", seq: 5 });
    },
  );

  test("nothing is lost or sent twice to clients that come in the middle of changes", async () => {
    await serve();
    const clients: Client[] = [];
    for (let i = 1; i <= 60; i += 1) {
      view.change({ kind: "device", key: "win10/dongle", value: claim("win10", "dongle", { tries: i }) });
      if (i % 6 === 0) clients.push(watch());
      await new Promise((resolve) => setImmediate(resolve));
    }
    await eventually(() => {
      for (const { messages } of clients) expect((messages.at(-1) as ChangesMessage | SnapshotMessage | undefined)?.seq).toBe(60);
      return true;
    });
    for (const { messages } of clients) {
      const [first] = messages as [SnapshotMessage];
      expect(changesOf(messages).map(({ seq }) => seq)).toEqual(Array.from({ length: 60 - first.seq }, (_, i) => first.seq + 1 + i));
    }
  });

  test("a client that does not read is cut off; others go on", async () => {
    await serve({ live: { timings: { ...liveTimings, batchMs: 1 }, limits: { ...liveLimits, backlogBytes: 200_000 } } });
    const slow = watch();
    const good = watch();
    await eventually(() => expect([slow.messages.length, good.messages.length]).toEqual([1, 1]));
    slow.socket.pause();
    let count = 0;
    const text = "x".repeat(100_000);
    await eventually(
      () => {
        view.change({ kind: "device", key: "win10/dongle", value: claim("win10", "dongle", { message: text }) });
        count += 1;
        return count > 60;
      },
      { timeoutMs: 20_000 },
    );
    await eventually(() => expect(changesOf(good.messages)).toHaveLength(count));
    slow.socket.resume();
    await eventually(() => expect(slow.closed()).not.toBeNull());
    expect(changesOf(slow.messages).length).toBeLessThan(count);
    expect(good.closed()).toBeNull();
  });

  test("a client that gives no sign of life is cut off", async () => {
    await serve({ live: { timings: { ...liveTimings, heartbeatMs: 20 }, limits: liveLimits } });
    const alive = watch();
    const dead = await new Promise<{ socket: Socket; ended: () => boolean }>((resolve) => {
      let ended = false;
      const socket = connect(path, () =>
        socket.write(
          "GET /api/v1/watch HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        ),
      );
      socket.on("error", () => undefined);
      socket.on("close", () => {
        ended = true;
      });
      socket.once("data", () => resolve({ socket, ended: () => ended }));
      socket.resume();
    });
    ends.push(() => dead.socket.destroy());
    await eventually(() => expect(dead.ended()).toBe(true));
    expect(alive.closed()).toBeNull();
  });

  test("a client that talks is cut off, and one that says too much at once", async () => {
    await serve();
    const chatty = watch();
    const loud = watch();
    await eventually(() => expect([chatty.messages.length, loud.messages.length]).toEqual([1, 1]));
    for (let i = 0; i <= liveLimits.clientMessages; i += 1) chatty.socket.send("hello");
    loud.socket.send("x".repeat(10_000));
    await eventually(() => expect([chatty.closed(), loud.closed()]).toEqual([1008, 1009]));
  });

  test("there is a limit to clients", async () => {
    await serve({ live: { timings: liveTimings, limits: { ...liveLimits, clients: 1 } } });
    const first = watch();
    await eventually(() => expect(first.messages).toHaveLength(1));
    const second = watch();
    await eventually(() => expect(second.closed()).not.toBeNull());
    expect(second.messages).toEqual([]);
  });

  test("one that is refused is let go, though it keeps its half of the connection open", async () => {
    const { server } = await serve();
    const socket = connect({ path, allowHalfOpen: true });
    ends.push(() => socket.destroy());
    let heard = "";
    socket.on("data", (chunk) => {
      heard += chunk.toString();
    });
    socket.write("GET /nowhere HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n");
    await eventually(() => heard.includes("unknown-path"));
    // A server ends once its last connection has.
    await server.stop();
  });

  test("stopping ends every watch", async () => {
    const { server } = await serve();
    const client = watch();
    await eventually(() => expect(client.messages).toHaveLength(1));
    await server.stop();
    await eventually(() => expect(client.closed()).not.toBeNull());
    expect(existsSync(path)).toBe(false);
  });
});

describe("the unix socket", () => {
  test("is for owner and group only", async () => {
    await serve();
    expect(statSync(path).mode & 0o777).toBe(0o660);
  });

  test("that nobody answers on is taken over", async () => {
    const dead = join(dir, "dead.sock");
    // A socket file that outlives its server: renamed away from where the server would remove it.
    const { renameSync } = await import("node:fs");
    const old = createServer();
    await new Promise<void>((resolve) => old.listen(join(dir, "old.sock"), () => resolve()));
    renameSync(join(dir, "old.sock"), dead);
    await new Promise((resolve) => old.close(resolve));
    expect(existsSync(dead)).toBe(true);
    await serve({ socket: dead });
    expect((await ask("/healthz", { where: { socketPath: dead } })).status).toBe(200);
  });

  test("that a plugherd answers on ends the start with its process named, and is left alone", async () => {
    await serve();
    const second = createApiServer({ view, log: silentLog, version: "1", socket: path, tcp: null });
    const started = await second.start();
    expect(started).toEqual({
      ok: false,
      error: `${path} is answered by plugherd, process ${String(process.pid)}; stop it, or give another --api`,
    });
    expect((await ask("/healthz")).status).toBe(200);
  });

  test("that something else answers on, or that is no socket, is left alone", async () => {
    const other = createHttpServer((_request, response) => response.end("hello"));
    const taken = join(dir, "other.sock");
    await new Promise<void>((resolve) => other.listen(taken, () => resolve()));
    ends.push(() => new Promise((resolve) => other.close(resolve)));
    const start = async (socket: string): Promise<string> => {
      const started = await createApiServer({ view, log: silentLog, version: "1", socket, tcp: null }).start();
      return started.ok ? "" : started.error;
    };
    expect(await start(taken)).toContain(`(process ${String(process.pid)})`);
    const file = join(dir, "file");
    writeFileSync(file, "precious");
    expect(await start(file)).toContain("is no socket");
    expect(readFileSync(file, "utf8")).toBe("precious");
    expect(await start(join(dir, "x".repeat(120)))).toContain("too long");
    expect(await start(join(file, "api.sock"))).toContain("cannot be made");
  });
});

describe("TCP", () => {
  const where = (port: number | null): Where => ({ host: "127.0.0.1", port: port ?? 0 });
  const bearer = (token: string) => ({ authorization: `Bearer ${token}` });

  test("takes a token for everything but health", async () => {
    const { port } = await serve({ tcp });
    expect((await ask("/api/v1/devices", { where: where(port) })).status).toBe(401);
    expect((await ask("/api/v1/devices", { where: where(port), headers: bearer("wrong-token-0123456789") })).status).toBe(401);
    expect((await ask("/api/v1/devices?token=operator-token-0123456789", { where: where(port) })).status).toBe(401);
    expect((await ask("/api/v1/devices", { where: where(port), headers: bearer(tokens.read) })).status).toBe(200);
    const health = await ask("/healthz", { where: where(port) });
    expect([health.status, (health.body as { pid: unknown }).pid]).toEqual([200, null]);
  });

  test("the read-only role changes nothing", async () => {
    const { port } = await serve({ tcp });
    const pause = (token: string): Promise<Reply> =>
      ask("/api/v1/operate", {
        where: where(port),
        method: "POST",
        body: '{"verb":"pause","domain":"win10"}',
        headers: { ...bearer(token), "content-type": "application/json" },
      });
    expect((await pause(tokens.read)).status).toBe(403);
    expect(view.asked).toEqual([]);
    expect((await pause(tokens.operator)).status).toBe(200);
    expect(view.asked).toHaveLength(1);
  });

  test("pages of other origins and strange host names are refused", async () => {
    const { port } = await serve({ tcp });
    const get = async (headers: Record<string, string>): Promise<number> =>
      (await ask("/api/v1/devices", { where: where(port), headers: { ...bearer(tokens.operator), ...headers } })).status;
    expect(await get({ origin: "https://evil.example" })).toBe(403);
    expect(await get({ origin: "null" })).toBe(403);
    expect(await get({ host: "evil.example" })).toBe(403);
    expect(await get({ host: `localhost:${String(port)}`, origin: `http://localhost:${String(port)}` })).toBe(200);
  });

  test("a watch takes the token as header, subprotocol or query, and no other origin", async () => {
    const { port } = await serve({ tcp });
    const url = `ws://127.0.0.1:${String(port)}/api/v1/watch`;
    const welcome = [
      watch("", { url, headers: bearer(tokens.read) }),
      watch("", { url, protocols: ["plugherd.v1", `plugherd.token.${tokens.read}`] }),
      watch("", { url: `${url}?token=${tokens.read}` }),
    ];
    await eventually(() => expect(welcome.map(({ messages }) => messages.length)).toEqual([1, 1, 1]));
    const turnedAway = [
      watch("", { url }),
      watch("", { url: `${url}?token=${tokens.read}`, headers: { origin: "http://evil.example" } }),
      watch("", { url: `${url}?token=` }),
    ];
    await eventually(() => expect(turnedAway.every(({ closed }) => closed() !== null)).toBe(true));
    expect(turnedAway.flatMap(({ messages }) => messages)).toEqual([]);
  });

  test("tokens are made once, for the owner only, and a bad file is told", async () => {
    const state = join(dir, "state");
    const [first, second] = await Promise.all([loadTokens(state, {}), loadTokens(state, {})]);
    expect(first).toEqual(second);
    expect(first).toEqual(await loadTokens(state, {}));
    expect(statSync(state).mode & 0o777).toBe(0o700);
    expect(statSync(join(state, "api-token")).mode & 0o777).toBe(0o600);
    expect(readdirSync(state)).toEqual(["api-token", "api-token-read"]);
    expect(await loadTokens(state, { operator: "short" })).toMatchObject({ ok: false });
    writeFileSync(join(state, "api-token"), "x y\n");
    chmodSync(join(state, "api-token"), 0o600);
    expect(await loadTokens(state, {})).toMatchObject({ ok: false });
    expect(await loadTokens(state, tokens)).toEqual({ ok: true, value: tokens });
  });

  test.each(["0.0.0.0:7777", "192.168.1.1:80", "[::]:7777", "example.org:1", "127.0.0.1", "127.0.0.1:99999", "::1:7777", ":7777"])(
    "will not listen on %s",
    (text) => {
      expect(parseListen(text).ok).toBe(false);
    },
  );
  test.each(["127.0.0.1:7777", "[::1]:7777", "localhost:0"])("listens on %s", (text) => {
    expect(parseListen(text).ok).toBe(true);
  });
});
