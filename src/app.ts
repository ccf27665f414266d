/** Composition root: configuration -> adapters + controller. The only place where they meet, and where real time and chance come in. */
import { randomUUID } from "node:crypto";
import { join } from "node:path";
import { allDomains } from "./adapters/all-domains.ts";
import { createDesiredFiles } from "./adapters/desired-files.ts";
import { createDomains } from "./adapters/domains.ts";
import { createHostUsb } from "./adapters/host-usb.ts";
import { createPolicyFile } from "./adapters/policy-file.ts";
import { readTexts } from "./adapters/read-paths.ts";
import { socketHolder } from "./adapters/socket-holder.ts";
import { createLibxlLocks } from "./adapters/libxl-lock.ts";
import { createStateStore } from "./adapters/state-store.ts";
import { createUsbback } from "./adapters/usbback.ts";
import { createXenDomains } from "./adapters/xen-domains.ts";
import { createXenstoreClient } from "./adapters/xenstore-client.ts";
import { createXl } from "./adapters/xl.ts";
import { createController } from "./controller/controller.ts";
import type { ControllerView } from "./controller/view.ts";
import type { Clock, Log, Random } from "./model/contracts.ts";
import { noIntentions } from "./model/intentions.ts";
import { err, ok, type Result } from "./model/result.ts";
import { defaultTimings, type Timings } from "./model/timings.ts";

/** Paths of everything that plugherd watches and owns (product.md §5). */
export type AppConfig = {
  /** Directory of desired-state files. */
  readonly specs: string;
  readonly policy: string;
  /** Directory of monitor sockets, a QEMU each. */
  readonly qmpDir: string;
  /** Socket of ours that QEMUs dial; null: none. */
  readonly qmpListen: string | null;
  readonly sysfs: string;
  readonly dev: string;
  readonly proc: string;
  /** xenstored's socket, or a device that speaks the same. Where there is neither, this is no Xen host yet. null: never one. */
  readonly xenstore: string | null;
  /** libxl's directory: its files of each domain (`userdata-d.<domid>.<uuid>.libxl-json`) and its locks. */
  readonly xenLib: string;
  /** Name or path of `xl`, asked for what xenstore does not tell. */
  readonly xl: string;
  readonly state: string;
  readonly timings?: Partial<Timings>;
};

export type App = {
  /**
   * Starts every watch; resolves when they run. Missing paths are no error: they are noticed when they appear. Refused: somebody else
   * answers on our socket for QEMUs that dial in; in words, and nothing was started that still runs.
   */
  start(): Promise<Result<void, string>>;
  /** Ends them; devices stay attached. */
  stop(): Promise<void>;
  readonly view: ControllerView;
};

export const systemClock: Clock = {
  now: () => Date.now(),
  setTimeout: (fn, ms) => setTimeout(fn, ms),
  clearTimeout: (handle) => clearTimeout(handle as NodeJS.Timeout),
};

export async function createApp(
  config: AppConfig,
  deps: { readonly log: Log; readonly clock?: Clock; readonly random?: Random },
): Promise<App> {
  const { log, clock = systemClock, random = Math.random } = deps;
  const timings: Timings = { ...defaultTimings, ...config.timings };
  const store = createStateStore({ dir: config.state, log });
  const loaded = await store.load();
  if (!loaded.ok)
    log.error("what was remembered could not be read: no last good files, no operator overrides", { reason: loaded.error.message });
  const intentions = loaded.ok ? loaded.value : noIntentions;

  const rim = { timings, clock, random, log };
  const { xenstore } = config;
  const xenbus = { device: join(config.dev, "xen/xenbus"), proc: config.proc };
  const xenstored = xenstore === null ? null : createXenstoreClient(xenstore, { ...rim, xenbus });
  const xen =
    xenstore === null || xenstored === null
      ? null
      : createXenDomains({
          ...rim,
          store: xenstored,
          storePath: xenstore,
          xenLib: config.xenLib,
          proc: config.proc,
          qmpDir: config.qmpDir,
          devDir: config.dev,
          xl: createXl({ ...rim, command: config.xl }),
          locks: createLibxlLocks(rim),
          usbback: createUsbback({ ...rim, nodes: xenstored, sysfs: config.sysfs }),
        });
  const domains = createDomains({
    ...rim,
    qmpDir: config.qmpDir,
    qmpListen: config.qmpListen,
    devDir: config.dev,
    ...(xen === null ? {} : { isOthers: (path: string) => xen.owns(path) }),
  });
  const controller = createController(
    {
      host: createHostUsb({ sysfs: config.sysfs, dev: config.dev, proc: config.proc, timings, clock, log }),
      domains: xen === null ? domains : allDomains([domains, xen]),
      desired: createDesiredFiles({ dir: config.specs, timings, clock, log }),
      policy: createPolicyFile({ path: config.policy, lastGood: intentions.lastGoodPolicy, timings, clock, log }),
      store,
      clock,
      random,
      log,
    },
    { timings, intentions, life: randomUUID(), defer: (fn) => void setImmediate(fn), readFiles: readTexts },
  );
  return {
    start: async () => {
      controller.start();
      const { qmpListen } = config;
      const listening = qmpListen === null ? ok(null) : await domains.listening;
      // A socket that cannot be made is told in the log, and QEMUs that do not dial in are served all the same.
      if (qmpListen === null || listening.ok || listening.error.kind !== "held") return ok(undefined);
      controller.stop();
      return err(`${qmpListen} is answered by ${(await socketHolder(qmpListen, config.proc)) ?? "another program"}`);
    },
    stop: async () => {
      controller.stop();
      await store.flush();
    },
    view: controller.view,
  };
}
