/** The floor: bare chokidar on the same nodes, and one round trip to a bare QMP monitor when it tells of a new one. Nothing else. */
import { connect, type Socket } from "node:net";
import { watch } from "chokidar";
import { answer, nowMs } from "./child.ts";

/** By path of the node, in the clock of nowMs(). */
export type FloorTimes = Readonly<Record<string, { readonly added: number; readonly replied: number }>>;

let times: Record<string, { added: number; replied: number }> = {};
let socket: Socket | null = null;
const asked: string[] = [];

/** @returns once the whole tree is watched */
async function start({ nodes, monitor }: { readonly nodes: string; readonly monitor: string }): Promise<void> {
  socket = connect(monitor);
  const lines = readLines(socket);
  await lines.next();
  socket.write('{"execute":"qmp_capabilities"}\n');
  await lines.next();
  void (async () => {
    for await (const _ of lines) {
      const path = asked.shift();
      const one = path === undefined ? undefined : times[path];
      if (one !== undefined) one.replied = nowMs();
    }
  })();
  const watcher = watch(nodes, { atomic: false, ignoreInitial: true, followSymlinks: false, usePolling: false, depth: 1 });
  watcher.on("add", (path) => {
    times[path] = { added: nowMs(), replied: Number.NaN };
    asked.push(path);
    socket?.write('{"execute":"query-version"}\n');
  });
  await new Promise<void>((resolve) => watcher.once("ready", () => resolve()));
}

async function* readLines(from: Socket): AsyncGenerator<string> {
  let rest = "";
  for await (const chunk of from) {
    const parts = `${rest}${String(chunk)}`.split("\n");
    rest = parts.pop() ?? "";
    yield* parts;
  }
}

const handlers = {
  start,
  take: (_: null): FloorTimes => {
    const taken = times;
    times = {};
    return taken;
  },
};
export type FloorHandlers = typeof handlers;
answer(handlers);
