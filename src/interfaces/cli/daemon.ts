/** The daemon as `run` and `demo` start it: app and live API together. Loaded only by them: it is most of the program. */
import { createLog } from "../../adapters/log.ts";
import type { App, AppConfig } from "../../app.ts";
import type { Log } from "../../model/contracts.ts";
import { err, ok, type Result } from "../../model/result.ts";
import { loadTokens, TOKEN_FILES } from "../http/auth.ts";
import { type ApiServer, createApiServer } from "../http/server.ts";
import type { AppFactory, Context } from "./context.ts";
import { type Done, EXIT, type Failure, type Io } from "./io.ts";
import { readRunConfig, type RunConfig } from "./run-options.ts";

/** What stood on the command line. */
export type RunFlags = Readonly<Record<string, string | undefined>> & { readonly debug?: true };

export type Running = { readonly app: App; readonly api: ApiServer; stop(): Promise<void> };

const cannotStart = (message: string, remedy: string | null = null): Failure => ({
  exit: EXIT.cannotStart,
  message: `It cannot start: ${message}.`,
  remedy,
});

/** App and live API together. The socket comes first: of two daemons the second ends before it has touched anything. */
export async function startDaemon(
  config: AppConfig,
  how: {
    readonly createApp: AppFactory;
    readonly log: Log;
    readonly version: string;
    readonly api: string;
    readonly tcp: Pick<RunConfig, "listen" | "tokens"> | null;
  },
): Promise<Result<Running, Failure>> {
  const { log, version, tcp } = how;
  const tokens = tcp?.listen == null ? null : await loadTokens(config.state, tcp.tokens);
  if (tokens !== null && !tokens.ok) return err(cannotStart(tokens.error));
  const app = await how.createApp(config, { log });
  const guard = tcp?.listen == null || tokens === null ? null : { listen: tcp.listen, tokens: tokens.value };
  const api = createApiServer({ view: app.view, log, version, socket: how.api, tcp: guard });
  const listening = await api.start();
  if (!listening.ok) {
    await app.stop();
    return err(cannotStart(listening.error));
  }
  const stop = async (): Promise<void> => {
    await api.stop();
    await app.stop();
  };
  const running = await app.start();
  if (!running.ok) {
    await stop();
    return err(cannotStart(`${running.error}; end it, or give another --qmp-listen`));
  }
  if (guard !== null && listening.value.port !== null)
    log.info("the live API listens on TCP too", {
      at: `http://${guard.listen.host}:${String(listening.value.port)}`,
      see: `${config.state}/${TOKEN_FILES.operator}`,
    });
  return ok({ app, api, stop });
}

/** Until it is told to stop. */
export async function runDaemon(io: Io, options: RunFlags, { createApp, version }: Pick<Context, "createApp" | "version">): Promise<Done> {
  const read = readRunConfig(options, io.env);
  if (!read.ok) return read;
  const config: RunConfig = options.debug === true ? { ...read.value, logLevel: "debug" } : read.value;
  const log = createLog({ level: config.logLevel, format: config.logFormat, stream: io.stderr });
  const { paths } = config;
  const stopping = io.stopping();
  const started = await startDaemon(paths, { createApp, log, version, api: paths.api, tcp: config });
  if (!started.ok) return started;
  log.info(`plugherd ${version} runs`, { pid: process.pid, specs: paths.specs, api: paths.api });
  if (!stopping.aborted) await new Promise((resolve) => stopping.addEventListener("abort", resolve, { once: true }));
  log.info("stopping; devices stay attached");
  await started.value.stop();
  return ok(EXIT.ok);
}
