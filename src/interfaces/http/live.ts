/**
 * `/api/v1/watch`: a snapshot, then numbered changes (product.md §6). All clients are served together, in rounds at least `batchMs` apart:
 * each round serialises what happened once and sends it to everybody; newcomers get their snapshot in a round as well, so that nothing is
 * sent twice and no client gets more than one message a round.
 */
import type { RawData, WebSocket } from "ws";
import type { Change, ControllerView } from "../../controller/view.ts";
import { CLOSE, type ChangesMessage, type Resume, type SnapshotMessage } from "./messages.ts";

export type LiveTimings = {
  /** Shortest time between two messages to one client. */
  readonly batchMs: number;
  /** A client is asked for a sign of life this often, and cut off if it gave none since the last time. */
  readonly heartbeatMs: number;
};
export type LiveLimits = {
  /** Bytes that may wait for a client beyond its snapshot; more, and it is cut off. */
  readonly backlogBytes: number;
  readonly clients: number;
  /** A client has nothing to say: this many messages in its whole life are ignored, one more ends it. */
  readonly clientMessages: number;
};
export const liveTimings: LiveTimings = { batchMs: 50, heartbeatMs: 20_000 };
export const liveLimits: LiveLimits = { backlogBytes: 4 * 1024 * 1024, clients: 256, clientMessages: 32 };

type Client = {
  readonly socket: WebSocket;
  /** null: nothing sent yet. */
  seq: number | null;
  readonly resume: Resume | null;
  /** Size of its first message, which it may take its time for. */
  allowance: number;
  alive: boolean;
  said: number;
};

export type Live = {
  add(socket: WebSocket, resume: Resume | null): void;
  readonly full: boolean;
  stop(): void;
};

export function createLive(view: ControllerView, timings: LiveTimings = liveTimings, limits: LiveLimits = liveLimits): Live {
  const { id } = view.snapshot();
  const clients = new Set<Client>();
  let pending: Change[] = [];
  let round: NodeJS.Timeout | null = null;
  let heartbeat: NodeJS.Timeout | null = null;
  let lastRound = Number.NEGATIVE_INFINITY;
  let kept: { readonly seq: number; readonly ready: boolean; readonly bytes: Buffer } | null = null;

  const serialised = (message: ChangesMessage | SnapshotMessage): Buffer => Buffer.from(JSON.stringify(message));

  function snapshotBytes(): { readonly seq: number; readonly bytes: Buffer } {
    const { seq, domains, devices, deviceKeys, host, conditions } = view.snapshot();
    const { ready } = view;
    if (kept !== null && kept.seq === seq && kept.ready === ready) return kept;
    const bytes = serialised({
      type: "snapshot",
      id,
      seq,
      ready,
      domains: domains.map((value) => ({ key: value.name, value })),
      devices: devices.map((value, index) => ({ key: deviceKeys[index] ?? `${value.domain}/${value.name}`, value })),
      host: host.map((value) => ({ key: value.device.busid, value })),
      conditions,
    });
    kept = { seq, ready, bytes };
    return kept;
  }

  const drop = (client: Client): void => {
    clients.delete(client);
    if (clients.size > 0) return;
    pending = [];
    kept = null;
    if (heartbeat !== null) clearInterval(heartbeat);
    heartbeat = null;
    if (round !== null) clearTimeout(round);
    round = null;
  };
  const cutOff = (client: Client, code: number, reason: string): void => {
    drop(client);
    // A close frame would queue behind what it does not read: told where there is room, ended at once in any case.
    if (client.socket.bufferedAmount === 0) client.socket.close(code, reason);
    else client.socket.terminate();
  };
  const send = (client: Client, bytes: Buffer): void => {
    if (client.socket.readyState !== client.socket.OPEN) return;
    if (client.socket.bufferedAmount > client.allowance + limits.backlogBytes) cutOff(client, CLOSE.tooSlow, "too slow");
    else client.socket.send(bytes, { binary: false });
  };

  /** First message of a client, and the number that it is at after it. */
  function greeting(resume: Resume | null): { readonly seq: number; readonly bytes: Buffer } {
    const missed = resume === null ? null : view.since(resume.id, resume.seq);
    if (resume === null || missed === null) return snapshotBytes();
    const seq = missed.at(-1)?.seq ?? resume.seq;
    return { seq, bytes: serialised({ type: "changes", id: resume.id, seq, changes: missed }) };
  }
  function welcome(client: Client): void {
    const { seq, bytes } = greeting(client.resume);
    client.seq = seq;
    client.allowance = bytes.length;
    send(client, bytes);
  }

  function runRound(): void {
    round = null;
    lastRound = performance.now();
    const changes = pending;
    pending = [];
    const newcomers = [...clients].filter((client) => client.seq === null);
    const first = changes[0];
    const last = changes.at(-1);
    if (first !== undefined && last !== undefined) {
      const everybody = serialised({ type: "changes", id, seq: last.seq, changes });
      for (const client of [...clients]) {
        if (client.seq === null || client.seq >= last.seq) continue;
        const partly = client.seq >= first.seq;
        const { seq } = client;
        send(
          client,
          partly ? serialised({ type: "changes", id, seq: last.seq, changes: changes.filter((change) => change.seq > seq) }) : everybody,
        );
        client.seq = last.seq;
      }
    }
    for (const client of newcomers) welcome(client);
  }
  function soon(): void {
    if (round !== null) return;
    const wait = Math.ceil(lastRound + timings.batchMs - performance.now());
    // Not within the caller's turn even when due: what it changes together goes out together.
    round = setTimeout(runRound, Math.max(0, wait));
  }
  function beat(): void {
    for (const client of [...clients]) {
      if (!client.alive) {
        drop(client);
        client.socket.terminate();
        continue;
      }
      client.alive = false;
      client.socket.ping();
    }
  }

  const subscription = view.changes$.subscribe((changes) => {
    if (clients.size === 0) return;
    pending.push(...changes);
    soon();
  });

  return {
    get full() {
      return clients.size >= limits.clients;
    },
    add(socket, resume) {
      const client: Client = { socket, seq: null, resume, allowance: 0, alive: true, said: 0 };
      clients.add(client);
      heartbeat ??= setInterval(beat, timings.heartbeatMs);
      socket.on("pong", () => {
        client.alive = true;
      });
      socket.on("message", (_data: RawData) => {
        client.said += 1;
        if (client.said > limits.clientMessages) cutOff(client, CLOSE.notUnderstood, "this stream takes no messages");
      });
      socket.on("error", () => {
        drop(client);
        socket.terminate();
      });
      socket.on("close", () => drop(client));
      soon();
    },
    stop() {
      subscription.unsubscribe();
      for (const client of [...clients]) {
        client.socket.close(CLOSE.stopping, "plugherd stops");
        drop(client);
        client.socket.terminate();
      }
    },
  };
}
