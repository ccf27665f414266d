/** kill -9 of the daemon at a chosen moment. */
import type { Host } from "./host.ts";
import { SCRIPTS } from "./places.ts";
import type { XsProxy } from "./xs-record.ts";

/**
 * When to kill: the n-th command of a kind that reaches QEMU; so many ms after the device node came up; or before or after xenstored has dealt
 * with the n-th request of a kind.
 */
export type Moment =
  | { readonly command: string; readonly n: number }
  | { readonly afterMs: number }
  | { readonly request: string; readonly n: number; readonly when: "before" | "after" };
export const command = (text: string, ...numbers: number[]): Moment[] => numbers.map((n) => ({ command: text, n }));
export const after = (...times: number[]): Moment[] => times.map((afterMs) => ({ afterMs }));
/** Both sides of the n-th request of that kind. */
export const around = (request: string, n = 1): Moment[] => (["before", "after"] as const).map((when) => ({ request, n, when }));
export const tell = (moment: Moment): string => {
  if ("command" in moment) return `${moment.command} ${String(moment.n)}`;
  if ("request" in moment) return `${moment.when} ${moment.request} ${String(moment.n)}`;
  return `${String(moment.afterMs)} ms`;
};

const KILLER = `${SCRIPTS}/kill-at.py`;

/**
 * Arms the killer; the returned promise resolves once the daemon is dead. A moment that does not come in 15 s: killed then.
 *
 * @param trace - QEMU's, for commands
 * @param proxy - the daemon's way to xenstored, for requests
 */
export async function arm(host: Host, moment: Moment, { trace, proxy }: { trace: string; proxy?: XsProxy }): Promise<() => Promise<void>> {
  const pid = String(await host.daemon.pid());
  if ("request" in moment) {
    if (proxy === undefined) throw new Error("the daemon has no proxy");
    await proxy.killAt(Number(pid), moment.n, moment.when, moment.request);
    return async () => {
      await host.sh(`for i in $(seq 300); do [ -d /proc/${pid} ] || exit 0; sleep 0.05; done; kill -9 ${pid}`);
      await proxy.disarm();
    };
  }
  const how = "command" in moment ? `${trace} ${moment.command} ${String(moment.n)}` : `/dev/bus/usb after ${String(moment.afterMs)}`;
  await host.sh(
    `rm -f /tmp/killer; setsid python3 ${KILLER} ${pid} ${how} </dev/null >/tmp/killer 2>&1 &
     for i in $(seq 200); do grep -q armed /tmp/killer 2>/dev/null && exit 0; sleep 0.02; done; cat /tmp/killer; exit 1`,
  );
  return async () => {
    await host.sh(
      `for i in $(seq 400); do [ -d /proc/${pid} ] || exit 0; grep -q nothing /tmp/killer && break; sleep 0.05; done; cat /tmp/killer; kill -9 ${pid}`,
    );
  };
}
