/** Watches the daemon for as long as the command runs, over its restarts. */
import { err, ok } from "../../model/result.ts";
import type { Resume, WatchMessage } from "../http/messages.ts";
import type { Api, Watching } from "./client.ts";
import { type Done, EXIT, type ExitCode, type Failure } from "./io.ts";

export type Follower = {
  /** @returns an exit code to end with; null: go on */
  readonly onMessage: (message: WatchMessage) => ExitCode | null;
  /** The connection is gone and will be tried again. */
  readonly onAway: (why: Failure) => void;
  /** Where to go on from. */
  readonly resume: () => Resume | null;
};

const FIRST_WAIT_MS = 100;
const LONGEST_WAIT_MS = 2_000;

/** Ends when `onMessage` says so, when `signal` aborts (ok), or at once when the daemon cannot be reached to begin with. */
export function follow(api: Api, signal: AbortSignal, follower: Follower): Promise<Done> {
  return new Promise((resolve) => {
    let watching: Watching | null = null;
    let timer: NodeJS.Timeout | undefined;
    let connected = false;
    let waitMs = FIRST_WAIT_MS;
    const end = (done: Done): void => {
      clearTimeout(timer);
      watching?.close();
      signal.removeEventListener("abort", aborted);
      resolve(done);
    };
    const aborted = (): void => end(ok(EXIT.ok));
    const connect = (): void => {
      watching = api.watch(follower.resume(), {
        onMessage: (message) => {
          connected = true;
          waitMs = FIRST_WAIT_MS;
          const code = follower.onMessage(message);
          if (code !== null) end(ok(code));
        },
        onEnd: (why) => {
          if (!connected) return end(err(why));
          follower.onAway(why);
          timer = setTimeout(connect, waitMs);
          waitMs = Math.min(LONGEST_WAIT_MS, waitMs * 2);
        },
      });
    };
    if (signal.aborted) return resolve(ok(EXIT.ok));
    signal.addEventListener("abort", aborted);
    connect();
  });
}
