/** `pause resume detach attach retry approve`: an operator's overrides. They are in the journal, survive a restart, and holds expire. */
import type { Command } from "commander";
import type { OperatorAnswer, OperatorRequest } from "../../../controller/view.ts";
import { err, ok } from "../../../model/result.ts";
import type { ErrorBody } from "../../http/messages.ts";
import { api, type CommonOptions, type Context, common, duration } from "../context.ts";
import { type Done, EXIT, usage } from "../io.ts";
import { shown } from "../render.ts";

type Options = CommonOptions & { readonly reason?: string };
type DetachOptions = Options & { readonly hold: number; readonly release?: true };

export const DEFAULT_HOLD_MS = 3_600_000;

export function addOperate(program: Command, context: Context): void {
  const { io, does } = context;
  const verb = (name: string, about: string): Command =>
    common(program.command(name).description(about), context).option("--reason <text>", "why; shown in events and status");
  const because = ({ reason }: Options): { reason?: string } => (reason === undefined ? {} : { reason });

  async function ask(options: Options, request: OperatorRequest): Promise<Done> {
    const answer = await api(options).post("/api/v1/operate", request);
    if (!answer.ok) return answer;
    const body = answer.value.body as (Partial<OperatorAnswer> & Partial<ErrorBody>) | null;
    if (body?.ok === true && typeof body.message === "string") {
      io.stdout.write(`${shown(body.message, 1_000)}\n`);
      return ok(EXIT.ok);
    }
    if (body?.ok === false && typeof body.message === "string")
      return err(usage(shown(body.message, 1_000), body.suggestion == null ? null : `Did you mean ${shown(body.suggestion)}?`));
    if (body?.error !== undefined) return err(usage(shown(body.error.message, 1_000), body.error.remedy));
    return err({
      exit: EXIT.unreachable,
      message: "The daemon's answer is not understood.",
      remedy: "Check that daemon and command are of one version.",
    });
  }

  verb("pause", "leave a domain alone: nothing is attached, detached or moved until `resume`")
    .argument("<DOMAIN>", "metadata.name of the domain")
    .action(does((domain: string, options: Options) => ask(options, { verb: "pause", domain, ...because(options) })));
  verb("resume", "end a `pause`")
    .argument("<DOMAIN>", "metadata.name of the domain")
    .action(does((domain: string, options: Options) => ask(options, { verb: "resume", domain, ...because(options) })));
  verb("detach", "take a device out of its domain and keep it out for a time")
    .argument("<DEVICE>", "name of the entry")
    .argument("<DOMAIN>", "metadata.name of the domain")
    .option("--hold <duration>", "how long, for example 90s, 1h, 2d", duration, DEFAULT_HOLD_MS)
    .option("--release", "keep it from this entry only: another that claims it may have it")
    .action(
      does((device: string, domain: string, options: DetachOptions) =>
        ask(options, { verb: "detach", device, domain, holdMs: options.hold, release: options.release === true, ...because(options) }),
      ),
    );
  verb("attach", "end the hold that `detach` made")
    .argument("<DEVICE>", "name of the entry")
    .argument("<DOMAIN>", "metadata.name of the domain")
    .action(
      does((device: string, domain: string, options: Options) => ask(options, { verb: "attach", device, domain, ...because(options) })),
    );
  verb("retry", "try a device again that is Stalled or Contested, or waits")
    .argument("<DEVICE>", "name of the entry")
    .argument("<DOMAIN>", "metadata.name of the domain")
    .action(
      does((device: string, domain: string, options: Options) => ask(options, { verb: "retry", device, domain, ...because(options) })),
    );
  verb("approve", "let a held-back decision through: `approve mass-detach`, or a device that changed its identity")
    .argument("<DEVICE>", "name of the entry, or mass-detach")
    .argument("[DOMAIN]", "metadata.name of the domain")
    .action(
      does((device: string, domain: string | undefined, options: Options): Promise<Done> => {
        if (domain !== undefined) return ask(options, { verb: "approve", what: "device", device, domain, ...because(options) });
        if (device === "mass-detach") return ask(options, { verb: "approve", what: "mass-detach", ...because(options) });
        return Promise.resolve(
          err(usage("approve takes DEVICE DOMAIN, or mass-detach.", `For example: plugherd approve ${shown(device)} DOMAIN`)),
        );
      }),
    );
}
