#!/usr/bin/env node
/** The process around the command line: signals, streams, exit code. */
import { EXIT, type Io } from "./io.ts";
import { main } from "./program.ts";

const stop = new AbortController();
let listening = false;

const io: Io = {
  stdout: process.stdout,
  stderr: process.stderr,
  env: process.env,
  now: () => Date.now(),
  stopping: () => {
    if (!listening) for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => stop.abort());
    listening = true;
    return stop.signal;
  },
};

// Whoever reads what we print may stop reading (`| head`): that is no error.
process.stdout.on("error", (cause: NodeJS.ErrnoException) => process.exit(cause.code === "EPIPE" ? EXIT.ok : EXIT.bug));
// Whoever reads the log may, too, and the daemon goes on.
process.stderr.on("error", () => undefined);

const bug = (cause: unknown): void => {
  const { message, stack } = cause instanceof Error ? cause : new Error(String(cause));
  process.stderr.write(`plugherd: ${message}\nThis is a bug in plugherd. Please report it with what --debug adds to this text.\n`);
  if (process.argv.includes("--debug")) process.stderr.write(`${stack ?? ""}\n`);
  process.exit(EXIT.bug);
};
process.on("uncaughtException", bug);
process.on("unhandledRejection", bug);

// The exit code is set, not forced: what is still to be written is written.
process.exitCode = await main(process.argv.slice(2), io, {
  // Loaded for `run` and `demo` only.
  createApp: async (config, deps) => (await import("../../app.ts")).createApp(config, deps),
});
