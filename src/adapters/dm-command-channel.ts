/**
 * USB devices of a domain whose device model is qemu-xen-traditional: sent through its command channel in xenstore, watched, not polled.
 *
 * It cannot be run for real where this was written: Xen dropped this device model, and no distribution has it. It is tested against a dialogue
 * written from the sources that protocol/dm-command.ts names. `usb-added` comes after a failure too, and nothing lists what the device model has:
 * success here means only that it has executed the command.
 */
import { type ActionError, transient, CALLED_OFF, DOMAIN_GONE } from "../model/action.ts";
import type { Clock } from "../model/contracts.ts";
import { err, ok, type Result } from "../model/result.ts";
import type { Timings } from "../model/timings.ts";
import { DM_RUNNING, type DmCommand, dmPaths, isLeftOver, usbCommand } from "../protocol/dm-command.ts";
import { createGate } from "./gate.ts";
import { createLooker } from "./looker.ts";
import type { XenstoreClient } from "./xenstore-client.ts";
import type { XenstoreError, XenstoreNodes } from "./xenstore-nodes.ts";

type Done = Promise<Result<void, ActionError>>;
export type DmCommandChannel = {
  /** Resolves once the device model has executed it, which proves nothing. One command at a time; the next ones wait. */
  usbAdd(bus: number, address: number, signal?: AbortSignal): Done;
  /** Likewise; one that is not there is no error to it. */
  usbDel(bus: number, address: number, signal?: AbortSignal): Done;
};
export type DmCommandChannelDeps = {
  readonly store: Pick<XenstoreClient, "read" | "watch" | "transaction">;
  readonly domid: number;
  /** Value of the domain's `vm` node: nothing is written for another life of the domid. */
  readonly vm: string;
  readonly clock: Clock;
  readonly timings: Pick<Timings, "dmCommandMs">;
};

/** What a look found: `wait` for something else to be there, or an end. */
type Look = { readonly kind: "wait" } | { readonly kind: "end"; readonly result: Result<void, ActionError> };
const WAIT: Look = { kind: "wait" };
const end = (result: Result<void, ActionError>): Look => ({ kind: "end", result });
const DONE = end(ok(undefined));
const CLOSED = transient("StoreLost", "The connection to xenstored was closed.");
const told = ({ message }: XenstoreError): ActionError =>
  transient("StoreLost", `The device model cannot be told through xenstore: ${message}.`);

export function createDmCommandChannel({ store, domid, vm, clock, timings }: DmCommandChannelDeps): DmCommandChannel {
  const paths = dmPaths(domid);
  const oneByOne = createGate(1);

  /** Looks now, and at each change of the channel, until a look ends it or the time is over. */
  const watching = (look: () => Promise<Look>, silent: ActionError, signal: AbortSignal | undefined): Done =>
    new Promise((resolve) => {
      const finish = (result: Result<void, ActionError>): void => {
        clock.clearTimeout(timer);
        signal?.removeEventListener("abort", onAbort);
        looker.stop();
        watch.unsubscribe();
        resolve(result);
      };
      const onAbort = (): void => finish(err(CALLED_OFF));
      const timer = clock.setTimeout(() => finish(err(silent)), timings.dmCommandMs);
      const looker = createLooker(clock, async () => {
        const seen = await look();
        if (seen.kind === "end") finish(seen.result);
      });
      signal?.addEventListener("abort", onAbort, { once: true });
      // A registration fires at once: that is the first look.
      const watch = store.watch(paths.base).subscribe({
        next: (news) => (news.kind === "fired" ? looker.now() : finish(err(told(news.error)))),
        complete: () => queueMicrotask(() => finish(err(CLOSED))),
      });
    });
  /**
   * In one transaction, and only in this life of the domain; written only if it ends the wait.
   * @param body - gets what `state` and `command` are; null: missing
   */
  const write = async (
    body: (tx: XenstoreNodes, state: string | null, pending: string | null) => Promise<Result<Look, XenstoreError>>,
  ): Promise<Look> => {
    const written = await store.transaction<Look>(async (tx) => {
      const life = await nodeValue(tx, `/local/domain/${String(domid)}/vm`);
      if (!life.ok) return life;
      if (life.value !== vm) return ok({ commit: false, value: end(err(DOMAIN_GONE)) });
      const state = await nodeValue(tx, paths.state);
      if (!state.ok) return state;
      const pending = await nodeValue(tx, paths.command);
      if (!pending.ok) return pending;
      const look = await body(tx, state.value, pending.value);
      return look.ok ? ok({ commit: look.value.kind === "end", value: look.value }) : look;
    });
    return written.ok ? written.value : end(err(told(written.error)));
  };

  /** Sends it once the device model waits for a command. */
  const send = ({ command, parameter }: DmCommand) =>
    write(async (tx, state, pending) => {
      // Not there yet, saving the domain, or at work for somebody else.
      if (pending !== null || state === null || (state !== DM_RUNNING && !isLeftOver(state))) return ok(WAIT);
      const steps = [
        ...(state === DM_RUNNING ? [] : [[paths.state, DM_RUNNING] as const]),
        [paths.parameter, parameter] as const,
        [paths.command, command] as const,
      ];
      for (const [path, value] of steps) {
        const done = await tx.write(path, value);
        if (!done.ok) return done;
      }
      return ok(DONE);
    });
  /** Puts the state back once it tells that the command was executed. */
  const finish = ({ command, done }: DmCommand) =>
    write(async (tx, state, pending) => {
      if (state !== done || pending === command) return ok(WAIT);
      const restored = await tx.write(paths.state, DM_RUNNING);
      return restored.ok ? ok(DONE) : restored;
    });
  /** A command that the device model has not taken is taken back. */
  const takeBack = ({ command }: DmCommand) =>
    write(async (tx, _, pending) => {
      const removed = pending === command ? await tx.remove(paths.command) : ok(undefined);
      return removed.ok ? ok(DONE) : removed;
    });

  const run = (command: DmCommand, signal?: AbortSignal): Done =>
    oneByOne(async () => {
      if (signal?.aborted === true) return err(CALLED_OFF);
      const within = `within ${String(timings.dmCommandMs)} ms`;
      const busy = transient("DeviceModelBusy", `The device model (qemu-traditional) took no command ${within}: it is not up, or saves.`);
      const sent = await watching(() => send(command), busy, signal);
      if (!sent.ok) return sent;
      const silent = transient("DeviceModelSilent", `The device model (qemu-traditional) did not execute ${command.command} ${within}.`);
      const executed = await watching(() => finish(command), silent, signal);
      if (!executed.ok) await takeBack(command);
      return executed;
    });
  return {
    usbAdd: (bus, address, signal) => run(usbCommand("usb-add", bus, address), signal),
    usbDel: (bus, address, signal) => run(usbCommand("usb-del", bus, address), signal),
  };
}

/** null: no such node. */
async function nodeValue(tx: Pick<XenstoreNodes, "read">, path: string): Promise<Result<string | null, XenstoreError>> {
  const value = await tx.read(path);
  if (value.ok) return value;
  return value.error.kind === "missing" ? ok(null) : value;
}
