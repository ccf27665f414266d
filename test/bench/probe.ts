/** Loaded into the daemon before everything else: tells of its own process what cannot be read from outside. */
import { Server } from "node:net";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { answer } from "./child.ts";

const RESOLUTION_MS = 2;
const delay = monitorEventLoopDelay({ resolution: RESOLUTION_MS });

// What is before the first listening socket is the loading of the program.
const listen = Server.prototype.listen;
Server.prototype.listen = function (this: Server, ...args: Parameters<typeof listen>) {
  Server.prototype.listen = listen;
  delay.enable();
  return listen.apply(this, args);
} as typeof listen;

const handlers = {
  /** User and system, ms. */
  cpu: (_: null): number => {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1e3;
  },
  /** Ends the watch on pauses of the event loop. @returns the longest, ms */
  pause: (_: null): number => {
    delay.disable();
    return Math.max(0, delay.max / 1e6 - RESOLUTION_MS);
  },
};
export type ProbeHandlers = typeof handlers;
answer(handlers);
process.channel?.unref();
