/** Nodes of a xenstore, plainly or inside a transaction: one request each, answers checked, refusals as errors of ours. */
import { err, ok, type Result } from "../model/result.ts";
import {
  MAX_REPLY_BYTES,
  parseDirectoryPart,
  parsePermissions,
  parseStrings,
  parseValue,
  type XenstorePermission,
  type XenstoreRequest,
} from "../protocol/xenstore.ts";
import type { SessionError, XenstoreSession } from "./xenstore-session.ts";

/**
 * missing: no such node, or (setPermissions) no such domain. quota: a limit of the daemon's. too-large: more than the daemon takes at once.
 * invalid: no path, permission or domid; never sent. refused: any other code. lost: the transaction is gone, and nothing was written.
 * conflict: others changed the same, in every try, and nothing was written. away: no connection; nothing was sent.
 * unknown: no answer; it may have been done or not: look again.
 */
export type XenstoreError = {
  readonly kind: "missing" | "denied" | "exists" | "quota" | "too-large" | "invalid" | "refused" | "lost" | "conflict" | "away" | "unknown";
  readonly message: string;
};
type Answer<T> = Promise<Result<T, XenstoreError>>;

export type XenstoreNodes = {
  /** Bytes that are not UTF-8 come as U+FFFD. */
  read(path: string): Answer<string>;
  /** Names of the children; the order is the daemon's own. */
  directory(path: string): Answer<readonly string[]>;
  /** Owner first. */
  permissions(path: string): Answer<readonly XenstorePermission[]>;
  /** Makes what is missing on the way. */
  write(path: string, value: string): Answer<void>;
  /** One that is there stays as it is. */
  mkdir(path: string): Answer<void>;
  /** With all below it; one that is not there is fine as long as its parent is. */
  remove(path: string): Answer<void>;
  /** Owner first; replaces the list. */
  setPermissions(path: string, permissions: readonly XenstorePermission[]): Answer<void>;
};

/** Times that a directory may change while it is read in pieces. */
const MAX_RESTARTS = 8;

/** @param session - the connection now; null: none. A transaction's is always the one in which it was begun */
export function createXenstoreNodes(session: () => XenstoreSession | null, txId = 0): XenstoreNodes {
  const ask = async (request: XenstoreRequest): Answer<Uint8Array> => {
    const answer = await session()?.request(request, { txId });
    if (answer === undefined) return AWAY;
    return answer.ok ? answer : err(errorOf(request, answer.error, txId));
  };
  const read = async <T>(request: XenstoreRequest, parse: (payload: Uint8Array) => T | null): Answer<T> => {
    const answer = await ask(request);
    if (!answer.ok) return answer;
    const value = parse(answer.value);
    return value === null ? err(unreadable(request)) : ok(value);
  };
  const change = async (request: XenstoreRequest): Answer<void> => {
    const answer = await ask(request);
    return answer.ok ? ok(undefined) : answer;
  };
  /** As C xenstored gives a directory that is too large for one answer. */
  const inPieces = async (path: string): Answer<readonly string[]> => {
    for (let restarts = 0; restarts < MAX_RESTARTS; restarts += 1) {
      const names: string[] = [];
      let offset = 0;
      let generation: string | null = null;
      for (;;) {
        const part = await read({ op: "directory-part", path, offset }, parseDirectoryPart);
        if (!part.ok) return part;
        if (generation !== null && part.value.generation !== generation) break;
        generation = part.value.generation;
        for (const name of part.value.names) names.push(name);
        offset += part.value.bytes;
        if (part.value.last) return ok(names);
        if (offset > MAX_REPLY_BYTES) return err({ kind: "too-large", message: `${path} has too many children` });
      }
    }
    return err({ kind: "conflict", message: `${path} changes too quickly to be listed` });
  };

  return {
    read: (path) => read({ op: "read", path }, parseValue),
    permissions: (path) => read({ op: "get-perms", path }, parsePermissions),
    async directory(path) {
      const names = await read({ op: "directory", path }, parseStrings);
      return !names.ok && names.error.kind === "too-large" ? await inPieces(path) : names;
    },
    write: (path, value) => change({ op: "write", path, value }),
    mkdir: (path) => change({ op: "mkdir", path }),
    remove: (path) => change({ op: "rm", path }),
    setPermissions: (path, permissions) => change({ op: "set-perms", path, permissions }),
  };
}

export const AWAY: Result<never, XenstoreError> = err({ kind: "away", message: "xenstored is not connected" });

const unreadable = ({ op }: XenstoreRequest): XenstoreError => ({ kind: "refused", message: `an answer to ${op} that cannot be read` });

/** @param txId - 0: outside of any transaction */
export function errorOf(request: XenstoreRequest, error: SessionError, txId: number): XenstoreError {
  switch (error.kind) {
    case "invalid":
    case "too-large":
      return error;
    case "overload":
      return { kind: "quota", message: error.message };
    case "unanswered":
      if (!error.sent) return { kind: "away", message: error.message };
      return { kind: "unknown", message: error.message };
    case "refused":
      return { kind: kindOf(request, error.code, txId), message: `${error.code} to ${nameOf(request)}` };
  }
}

function kindOf({ op }: XenstoreRequest, code: string, txId: number): XenstoreError["kind"] {
  switch (code) {
    // C xenstored says so of a transaction that it does not know, too: a transaction's answers count only once its end was answered.
    case "ENOENT":
      return op === "transaction-end" ? "lost" : "missing";
    case "EIO":
      return txId === 0 ? "refused" : "lost";
    case "EAGAIN":
      return "conflict";
    case "EACCES":
    case "EPERM":
      return "denied";
    case "EEXIST":
      return "exists";
    case "ENOSPC":
    case "EQUOTA":
      return "quota";
    case "E2BIG":
      return op === "watch" ? "quota" : "too-large";
    default:
      return "refused";
  }
}

const nameOf = (request: XenstoreRequest): string => ("path" in request ? `${request.op} ${request.path}` : request.op);
