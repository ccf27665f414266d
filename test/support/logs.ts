/** Logs for tests. */
import { expect } from "vitest";
import type { Log } from "../../src/model/contracts.ts";

export const silentLog: Log = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };
/** An error fails the test. */
export const strictLog: Log = { ...silentLog, error: (message) => expect.fail(message) };
