/** `run`: the daemon. */
import { type Command, Option } from "commander";
import { createLog } from "../../../adapters/log.ts";
import type { App, AppConfig } from "../../../app.ts";
import type { Log } from "../../../model/contracts.ts";
import { err, ok, type Result } from "../../../model/result.ts";
import { loadTokens, TOKEN_FILES } from "../../http/auth.ts";
import { type ApiServer, createApiServer } from "../../http/server.ts";
import type { AppFactory, Context } from "../context.ts";
import { type Done, EXIT, type Failure, type Io } from "../io.ts";
import { flagOf, readRunConfig, type RunConfig, SETTINGS, variableOf } from "../run-options.ts";

export type Running = { readonly app: App; readonly api: ApiServer; stop(): Promise<void> };

const cannotStart = (message: string, remedy: string | null = null): Failure => ({
  exit: EXIT.cannotStart,
  message: `plugherd cannot start: ${message}.`,
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
  await app.start();
  if (guard !== null && listening.value.port !== null)
    log.info("the live API listens on TCP too", {
      at: `http://${guard.listen.host}:${String(listening.value.port)}`,
      tokenFile: `${config.state}/${TOKEN_FILES.operator}`,
    });
  return ok({ app, api, stop });
}

export async function runDaemon(io: Io, config: RunConfig, { createApp, version }: Pick<Context, "createApp" | "version">): Promise<Done> {
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

export function addRun(program: Command, context: Context): void {
  const { io, does } = context;
  const command = program.command("run").description("run the daemon: keep the devices where the files say");
  for (const setting of SETTINGS) {
    if ("secret" in setting) continue;
    const fallback = setting.fallback === null ? "" : `, default ${setting.fallback}`;
    command.addOption(new Option(flagOf(setting), `${setting.about} (${variableOf(setting.key)}${fallback})`));
  }
  command
    .option("--config <file>", "YAML file of these settings (PLUGHERD_CONFIG)")
    .option("--debug", "log more, and show where in the program an error comes from")
    .action(
      does((options: Readonly<Record<string, string | undefined>> & { debug?: true }): Promise<Done> => {
        const config = readRunConfig(options, io.env);
        if (!config.ok) return Promise.resolve(config);
        return runDaemon(io, options.debug === true ? { ...config.value, logLevel: "debug" } : config.value, context);
      }),
    );
}
