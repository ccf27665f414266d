/** What comes in with a request, bounded and checked before anybody looks at it. */
import type { IncomingMessage } from "node:http";
import { err, ok, type Result } from "../../model/result.ts";
import type { Resume } from "./messages.ts";
import { type Answer, refuse } from "./routes.ts";

/** A plan carries whole trees of files; nothing else is long. */
const MOST_BODY_BYTES = 16 * 1024 * 1024;
const MOST_URL = 8 * 1024;
/** @returns null: not a path that we would answer */
export function urlOf(request: IncomingMessage): URL | null {
  const { url } = request;
  if (url === undefined || url.length > MOST_URL || !url.startsWith("/") || url.startsWith("//")) return null;
  // Parsed only for its query: the path is taken as it was sent, so that no `..` or %2f is ever resolved.
  const [path = "/", ...query] = url.split("?");
  try {
    const parsed = new URL(`http://localhost/?${query.join("?")}`);
    parsed.pathname = path;
    return parsed.pathname === path ? parsed : null;
  } catch {
    return null;
  }
}

export async function readBody(request: IncomingMessage): Promise<Result<unknown, Answer>> {
  const tooLong = refuse(413, "body-too-long", `A body may have ${String(MOST_BODY_BYTES)} bytes.`);
  if (!/^application\/json\s*(;|$)/i.test(request.headers["content-type"] ?? ""))
    return err(refuse(415, "not-json", "The body must be JSON.", "Send the header content-type: application/json."));
  if (Number(request.headers["content-length"] ?? 0) > MOST_BODY_BYTES) return err(tooLong);
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of request.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
      size += chunk.length;
      if (size > MOST_BODY_BYTES) return err(tooLong);
      chunks.push(chunk);
    }
    return ok(JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(chunks))) as unknown);
  } catch {
    return err(refuse(400, "not-json", "The body is not JSON."));
  }
}

/** Seq and id of a client that comes back; anything odd is treated as a newcomer. */
export function resumeOf(url: URL): Resume | null {
  const id = url.searchParams.get("id");
  const seq = url.searchParams.get("seq");
  if (id === null || id === "" || seq === null || !/^\d{1,15}$/.test(seq)) return null;
  return { id, seq: Number(seq) };
}
