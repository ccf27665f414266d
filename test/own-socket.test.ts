/** Taking the place of a socket of ours: what is in the way is never lost, and trouble later on ends nothing. */
import { lstatSync, mkdtempSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { connect, createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { type ListenError, listenOnOwnSocket } from "../src/adapters/own-socket.ts";
import { holderOf } from "../src/interfaces/http/holder.ts";
import type { Result } from "../src/model/result.ts";
import { realClock } from "./support/domains-rig.ts";

let dir = "";
const servers: Server[] = [];
const troubles: string[] = [];
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "plugherd-own-"));
  troubles.length = 0;
});
afterEach(() => {
  for (const server of servers.splice(0)) server.close();
  rmSync(dir, { recursive: true });
});
const made = (): Server => {
  const server = createServer((socket) => socket.destroy());
  servers.push(server);
  return server;
};
const take = (path: string, server = made()): Promise<Result<void, ListenError>> =>
  listenOnOwnSocket(server, path, { clock: realClock, timeoutMs: 1_000, onTrouble: (message) => troubles.push(message) });

test("a file, a directory and a link in the way stay as they are", async () => {
  const file = join(dir, "precious.yaml");
  writeFileSync(file, "precious");
  expect(await take(file)).toMatchObject({ ok: false, error: { kind: "failed", message: `${file} is there and is no socket` } });
  expect(readFileSync(file, "utf8")).toBe("precious");
  const link = join(dir, "link.sock");
  symlinkSync(file, link);
  expect(await take(link)).toMatchObject({ ok: false, error: { kind: "failed" } });
  expect(lstatSync(link).isSymbolicLink()).toBe(true);
  expect(await take(dir)).toMatchObject({ ok: false, error: { kind: "failed" } });
});

test("its directory is made; it is for owner and group from the first moment, whatever the umask", async () => {
  const path = join(dir, "a", "b", "own.sock");
  const umask = process.umask(0);
  try {
    expect(await take(path)).toEqual({ ok: true, value: undefined });
    expect(process.umask()).toBe(0);
  } finally {
    process.umask(umask);
  }
  expect(statSync(path).mode & 0o777).toBe(0o660);
  expect(await take(path)).toMatchObject({ ok: false, error: { kind: "held" } });
});

test("a path that is too long is said to be, and is not cut off", async () => {
  expect(await take(join(dir, "x".repeat(120)))).toMatchObject({ ok: false, error: { kind: "failed" } });
});

test("a connection that cannot be taken is told, and ends nothing", async () => {
  const path = join(dir, "own.sock");
  const server = made();
  await take(path, server);
  server.emit("error", new Error("accept EMFILE"));
  expect(troubles).toEqual([`${path}: accept EMFILE`]);
  const client = connect(path);
  await new Promise((resolve) => client.once("connect", resolve));
  client.destroy();
});

test("a holder that answers byte by byte for ever is named by the kernel's word", async () => {
  const path = join(dir, "slow.sock");
  const timers = new Set<NodeJS.Timeout>();
  const slow = createServer((socket) => {
    const timer = setInterval(() => socket.write("x"), 100);
    timers.add(timer);
    socket.write("HTTP/1.1 200 OK\r\n\r\n");
    socket.on("error", () => undefined);
    socket.on("close", () => clearInterval(timer));
  });
  servers.push(slow);
  await new Promise<void>((resolve) => slow.listen(path, resolve));
  expect(await holderOf(path)).toContain(`(process ${String(process.pid)})`);
  for (const timer of timers) clearInterval(timer);
});
