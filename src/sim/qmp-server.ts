/**
 * A fake QEMU with its monitor on a real unix socket (or dialling in): real QMP, one client at a time, the rest queued up ungreeted.
 * Has no timer of its own while nothing happens, so that thousands of them fit into one process.
 * Source: specs/transcripts/qmp; what QEMU's monitor does: docs/interop/qmp-spec, monitor/qmp.c.
 */
import { renameSync, rmSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import { err, type Result } from "../model/result.ts";
import { realTimers } from "./pending.ts";
import { createQemu, type DeviceArgs, type Qemu, type QemuOptions, realDelays, type SimDelays, type SimTimers } from "./qemu.ts";
import { propertyOf } from "./qemu-machine.ts";
import type { Refusal } from "./qemu-values.ts";
import { createFaults, type Fault, type Faults } from "./qmp-faults.ts";
import { createQmpInputReader, formatQmpOutput, type QmpInput } from "./qmp-input.ts";

export type { SimHostDevice } from "./qemu-usb-host.ts";
export type { DeviceArgs, SimDelays } from "./qemu.ts";

export type FakeQemuOptions = QemuOptions & {
  /** Where its monitor listens; left out: nowhere (see dialTo). */
  readonly path?: string;
  /** Further monitors of the same machine, each with a slot of its own. */
  readonly monitors?: readonly string[];
  /** Commands with this id are somebody else's. */
  readonly othersId?: number;
  readonly delays?: Partial<SimDelays>;
  readonly timers?: SimTimers;
  /** Wall clock of the events, ms. */
  readonly now?: () => number;
  /** Told of each request the moment its bytes are here, before it is its turn. */
  readonly onRequest?: (request: unknown) => void;
};
/** An object in the domain, as info usb and qom-get would tell together. */
export type SimObject = {
  readonly id: string | null;
  readonly path: string;
  readonly driver: string;
  readonly bus: string;
  /** The port where it really sits, dotted; null: a PCI device. */
  readonly port: string | null;
  readonly attached: boolean;
  /** usb-host: what it was told to look for; 0: anything. */
  readonly hostbus: number;
  readonly hostaddr: number;
  readonly hostport: string;
};
/** A command that changes something, in the order of execution. */
export type Mutation = { readonly command: string; readonly args: DeviceArgs; readonly ok: boolean; readonly by: Mover };
/** monitor: whoever speaks QMP to it; backend: QEMU itself, told by xenstore. */
type Mover = "monitor" | "other" | "backend";
export type FakeQemu = {
  readonly path: string | null;
  /** Starts the process: the machine is as its command line says, whatever was before. */
  start(): Promise<void>;
  /** Ends it in order: the socket file goes. */
  stop(): Promise<void>;
  /** Ends it as SIGKILL does: the socket file stays, and nobody listens on it. */
  kill(): Promise<void>;
  /** Client mode: dials a listening socket from now on, and again whenever the connection is lost. */
  dialTo(path: string): void;
  objects(): readonly SimObject[];
  /** The newest {@link LOG_LIMIT}. */
  readonly mutationLog: readonly Mutation[];
  readonly faults: Faults;
  /** Greets nobody from now on, as while another client holds the monitor; a session that is open goes on. @param path - one of several */
  mute(on: boolean, path?: string): void;
  /** As SIGSTOP: the process takes connections and bytes and answers nothing. */
  hang(on: boolean): void;
  /** Cuts every connection, or those of one of its monitors. */
  disconnect(path?: string): void;
  /** Clients that were greeted. */
  clients(): number;
  pause(): void;
  resume(): void;
  /** The guest resets itself: devices stay, asked-for PCI unplugs happen. */
  reset(): void;
  /** The guest shut down or panicked, and the domain is kept. */
  endGuest(as: "shutdown" | "guest-panicked"): void;
  /** The guest's system lets a controller go after its device_del. @returns whether there was such a request */
  eject(id: string): boolean;
  /** Through a monitor that is not ours; no event tells of an add. */
  addByOther(args: DeviceArgs, by?: Mover): Result<unknown, Refusal>;
  removeByOther(id: string, by?: Mover): Result<unknown, Refusal>;
  /** A `qusb` controller's bus, `<id>.0`; and its end, with what hangs on it. */
  addXenUsb(id: string, ports: number): void;
  dropXenUsb(id: string): void;
  status(): string;
};

export const LOG_LIMIT = 10_000;
const MUTATING = new Set(["device_add", "device_del", "qom-set", "stop", "cont", "system_reset", "system_powerdown", "quit"]);
/** QEMU's listen backlog of 1 lets this many wait; then connecting fails. */
const WAITING = 2;

type Connection = { readonly socket: Socket; readonly slot: Slot; negotiated: boolean; greeted: boolean };
/** One `-qmp`: a slot for one client, and who waits for it. */
type Slot = { readonly path: string | null; active: Connection | null; readonly waiting: Socket[]; server: Server | null; muted: boolean };
type Job = { readonly connection: Connection; readonly input: QmpInput };

export function createFakeQemu(options: FakeQemuOptions = {}): FakeQemu {
  const delays: SimDelays = { ...realDelays, ...options.delays };
  const timers = options.timers ?? realTimers;
  const now = options.now ?? (() => Date.now());
  const { faults, take } = createFaults();
  const log: Mutation[] = [];
  const slotAt = (path: string | null): Slot => ({ path, active: null, waiting: [], server: null, muted: false });
  const served = [...(options.path === undefined ? [] : [options.path]), ...(options.monitors ?? [])].map(slotAt);
  const dialled = slotAt(null);
  const slots = [...served, dialled];
  const jobs: Job[] = [];
  let qemu: Qemu | null = null;
  let dialPath: string | null = null;
  let redial: unknown = null;
  let busyTimer: unknown = null;
  let hung = false;

  const alive = (): Qemu => {
    if (qemu === null) throw new Error("this fake QEMU has not been started");
    return qemu;
  };
  const connections = (): Connection[] => slots.map(({ active }) => active).filter((connection) => connection !== null);
  const write = (connection: Connection, message: unknown): void => {
    if (!connection.socket.destroyed) connection.socket.write(formatQmpOutput(message));
  };
  const emit = (event: string, data?: Readonly<Record<string, unknown>>): void => {
    const ms = now();
    const timestamp = { seconds: Math.floor(ms / 1000), microseconds: Math.floor(ms % 1000) * 1000 };
    const message = { timestamp, event, ...(data === undefined ? {} : { data }) };
    for (const connection of connections()) if (connection.negotiated) write(connection, message);
  };
  const record = (command: string, args: DeviceArgs, done: boolean, by: Mover): void => {
    const line = command === "human-monitor-command" ? String(args["command-line"]) : "";
    if (!MUTATING.has(command) && (line === "" || /^\s*info\b/.test(line))) return;
    log.push({ command, args, ok: done, by });
    if (log.length > LOG_LIMIT) log.shift();
  };

  // One after another over all monitors, as QEMU's main loop does.
  const pump = (): void => {
    while (busyTimer === null && !hung) {
      const job = jobs.shift();
      if (job === undefined) return;
      if (!job.connection.socket.destroyed) handle(job);
    }
  };
  const answer = (connection: Connection, message: unknown, fault: Fault, delayMs: number): void => {
    const send = (): void => {
      if (fault.drop === "after") connection.socket.destroy();
      else if (fault.garble === true) connection.socket.write(`${formatQmpOutput(message).slice(0, -8)}\r\n`);
      else if (fault.swallow !== true) write(connection, message);
    };
    const wait = delayMs + (fault.delayMs ?? 0);
    if (wait <= 0) send();
    else {
      busyTimer = timers.setTimeout(() => {
        busyTimer = null;
        send();
        pump();
      }, wait);
    }
  };
  const handle = ({ connection, input }: Job): void => {
    if (qemu === null) return;
    const request = readRequest(input);
    const { id } = request;
    const refused = (error: Refusal): unknown => ({ ...(id === undefined ? {} : { id }), error });
    const returned = (value: unknown): unknown => ({ return: value, ...(id === undefined ? {} : { id }) });
    if (!request.ok) {
      write(connection, refused({ class: "GenericError", desc: request.desc }));
      return;
    }
    const { command, args } = request;
    if (!connection.negotiated || command === "qmp_capabilities") {
      const problem = negotiate(connection.negotiated, command, args);
      connection.negotiated ||= problem === null;
      write(connection, problem === null ? returned({}) : refused(problem));
      return;
    }
    const fault = take(command) ?? {};
    if (fault.drop === "before") {
      connection.socket.destroy();
      return;
    }
    const { reply, delayMs } =
      fault.refuse === undefined
        ? qemu.execute(command, args)
        : { reply: err(fault.refuse), delayMs: command === "device_add" ? delays.refusalMs : 0 };
    record(command, args, reply.ok, id !== undefined && id === options.othersId ? "other" : "monitor");
    answer(connection, reply.ok ? returned(reply.value) : refused(reply.error), fault, delayMs);
  };

  const greet = (connection: Connection): void => {
    if (connection.slot.muted || hung || connection.greeted) return;
    connection.greeted = true;
    write(connection, { QMP: { version: alive().version, capabilities: ["oob"] } });
  };
  const open = (slot: Slot, socket: Socket): void => {
    const connection: Connection = { socket, slot, negotiated: false, greeted: false };
    const reader = createQmpInputReader();
    slot.active = connection;
    socket.on("data", (bytes: Uint8Array) => {
      for (const input of reader.push(bytes)) {
        if (input.ok) options.onRequest?.(input.value);
        jobs.push({ connection, input });
      }
      pump();
    });
    socket.on("close", () => {
      slot.active = null;
      const next = slot.waiting.shift();
      if (next !== undefined) open(slot, next);
      else if (slot === dialled) dialLater();
    });
    greet(connection);
    socket.resume();
  };
  const accept = (slot: Slot, socket: Socket): void => {
    socket.on("error", () => socket.destroy()); // a client that is gone is no concern of QEMU's
    if (slot.active === null) open(slot, socket);
    else if (slot.waiting.length < WAITING) slot.waiting.push(socket);
    else socket.destroy(); // Node cannot refuse to accept: the nearest to EAGAIN
  };

  const dial = (): void => {
    redial = null;
    if (qemu === null || dialPath === null || dialled.active !== null) return;
    const socket = connect({ path: dialPath });
    let reached = false;
    socket.on("error", () => {
      if (!reached) dialLater();
    });
    socket.on("connect", () => {
      reached = true;
      if (qemu === null || dialled.active !== null) socket.destroy();
      else open(dialled, socket);
    });
  };
  const dialLater = (): void => {
    if (qemu !== null && dialPath !== null && redial === null) redial = timers.setTimeout(dial, delays.redialMs);
  };

  const end = async (leaveFile: boolean): Promise<void> => {
    qemu?.destroy();
    qemu = null;
    jobs.length = 0;
    for (const timer of [busyTimer, redial]) if (timer !== null) timers.clearTimeout(timer);
    busyTimer = null;
    redial = null;
    for (const socket of slots.flatMap(({ waiting }) => waiting.splice(0))) socket.destroy();
    for (const { socket } of connections()) socket.destroy();
    await Promise.all(served.map((slot) => unlisten(slot, leaveFile)));
  };
  const unlisten = async (slot: Slot, leaveFile: boolean): Promise<void> => {
    const { path, server } = slot;
    slot.server = null;
    if (server === null || path === null) return;
    // Closing a listening socket removes its file; a killed process removes nothing.
    if (leaveFile) renameSync(path, `${path}.kept`);
    const closed = new Promise<void>((resolve) => void server.close(() => resolve()));
    if (leaveFile) renameSync(`${path}.kept`, path);
    await closed;
  };
  const listen = async (slot: Slot, path: string): Promise<void> => {
    rmSync(path, { force: true });
    const listening = createServer({ pauseOnConnect: true }, (socket) => accept(slot, socket));
    slot.server = listening;
    await new Promise<void>((resolve, reject) => {
      listening.once("error", reject);
      listening.listen(path, resolve);
    });
  };

  return {
    path: options.path ?? null,
    async start() {
      if (qemu !== null) throw new Error("this fake QEMU runs already");
      qemu = createQemu(options, { delays, timers, emit, exit: () => void end(false) });
      for (const slot of served) if (slot.path !== null) await listen(slot, slot.path);
      dial();
    },
    stop: () => end(false),
    kill: () => end(true),
    dialTo(path) {
      dialPath = path;
      dial();
    },
    objects: () => [...alive().machine.devices.values()].map(objectOf),
    mutationLog: log,
    faults,
    mute(on, path) {
      for (const slot of slots) if (path === undefined || slot.path === path) slot.muted = on;
      for (const connection of connections()) greet(connection);
    },
    hang(on) {
      hung = on;
      for (const connection of connections()) greet(connection);
      pump();
    },
    disconnect(path) {
      for (const { socket, slot } of connections()) if (path === undefined || slot.path === path) socket.destroy();
    },
    clients: () => connections().filter(({ greeted }) => greeted).length,
    pause: () => alive().pause(),
    resume: () => alive().resume(),
    reset: () => alive().reset(),
    endGuest: (as) => alive().end(as),
    eject: (id) => alive().eject(id),
    addByOther(args, by = "other") {
      const { reply } = alive().execute("device_add", args);
      record("device_add", args, reply.ok, by);
      return reply;
    },
    removeByOther(id, by = "other") {
      const { reply } = alive().execute("device_del", { id });
      record("device_del", { id }, reply.ok, by);
      return reply;
    },
    addXenUsb: (id, ports) => void alive().addXenUsb(id, ports),
    dropXenUsb: (id) => alive().dropXenUsb(id),
    status: () => qemu?.status() ?? "ended",
  };
}

type Request =
  | { readonly ok: true; readonly id: unknown; readonly command: string; readonly args: DeviceArgs }
  | { readonly ok: false; readonly id: unknown; readonly desc: string };

function readRequest(input: QmpInput): Request {
  if (!input.ok) return { ok: false, id: undefined, desc: input.error };
  if (!isRecord(input.value)) return { ok: false, id: undefined, desc: "QMP input must be a JSON object" };
  const { id, execute, arguments: args = {} } = input.value;
  const extra = Object.keys(input.value).find((name) => !["id", "execute", "arguments"].includes(name));
  if (extra !== undefined) return { ok: false, id, desc: `QMP input member '${extra}' is unexpected` };
  if (execute === undefined) return { ok: false, id, desc: "QMP input lacks member 'execute'" };
  if (typeof execute !== "string") return { ok: false, id, desc: "QMP input member 'execute' must be a string" };
  if (!isRecord(args)) return { ok: false, id, desc: "QMP input member 'arguments' must be an object" };
  return { ok: true, id, command: execute, args };
}

function negotiate(negotiated: boolean, command: string, args: DeviceArgs): Refusal | null {
  if (negotiated) return { class: "CommandNotFound", desc: "Capabilities negotiation is already complete, command ignored" };
  if (command !== "qmp_capabilities") {
    return { class: "CommandNotFound", desc: "Expecting capabilities negotiation with 'qmp_capabilities'" };
  }
  const enable = args["enable"];
  const wrong: unknown = Array.isArray(enable) ? enable.find((name) => name !== "oob") : undefined;
  return wrong === undefined ? null : { class: "GenericError", desc: `Parameter 'null' does not accept value '${String(wrong)}'` };
}

const objectOf = (device: Qemu["machine"]["devices"] extends ReadonlyMap<string, infer D> ? D : never): SimObject => ({
  id: device.id,
  path: device.path,
  driver: device.driver.name,
  bus: device.bus.name,
  port: device.port?.path ?? null,
  attached: device.attached,
  hostbus: Number(propertyOf(device, "hostbus") ?? 0),
  hostaddr: Number(propertyOf(device, "hostaddr") ?? 0),
  hostport: String(propertyOf(device, "hostport") ?? ""),
});

const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null && !Array.isArray(value);
