/** Who may do what over the live API. The unix socket is guarded by its file mode; TCP by tokens, the Host and the Origin header. */
import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import { link, mkdir, readFile, unlink, writeFile } from "node:fs/promises";
import type { IncomingMessage } from "node:http";
import { join } from "node:path";
import { err, ok, type Result } from "../../model/result.ts";

/** `read`: looks only. */
export type Role = "operator" | "read";
export type Tokens = { readonly operator: string; readonly read: string };
export type Refusal = { readonly status: 401 | 403; readonly code: string; readonly message: string; readonly remedy: string };

/** Subprotocol of the watch, and the one that carries a token (a browser's WebSocket can set no header). */
export const SUBPROTOCOL = "plugherd.v1";
const TOKEN_SUBPROTOCOL = "plugherd.token.";

export const TOKEN_FILES = { operator: "api-token", read: "api-token-read" } as const;
/** Fit for a header, a query and a subprotocol alike. */
const TOKEN = /^[A-Za-z0-9._~-]{16,256}$/;

export type Listen = { readonly host: string; readonly port: number };

/** @param text - `127.0.0.1:7777`, `[::1]:7777`, `localhost:7777`; port 0 takes any free one */
export function parseListen(text: string): Result<Listen, string> {
  const match = /^(\[[0-9A-Fa-f:]+\]|[^:[\]/\s]+):(\d{1,5})$/.exec(text);
  const host = match?.[1]?.replace(/^\[|\]$/g, "");
  const port = Number(match?.[2]);
  if (host === undefined || port > 65535) return err(`${JSON.stringify(text)} is no address; write HOST:PORT, for example 127.0.0.1:7777`);
  const loopback = host === "localhost" || host === "::1" || /^127(\.\d{1,3}){3}$/.test(host);
  if (!loopback)
    return err(
      `${host} can be reached from other machines, and the API is not encrypted; listen on 127.0.0.1 and go there through ssh -L or a TLS proxy`,
    );
  return ok({ host, port });
}

const same = (a: string, b: string): boolean => {
  const hash = (text: string): Buffer => createHash("sha256").update(text).digest();
  return timingSafeEqual(hash(a), hash(b));
};

/** Every token that a request offers: Bearer header, WebSocket subprotocol, and for WebSockets the query. */
function offered(request: IncomingMessage, url: URL, upgrade: boolean): string[] {
  const bearer = /^Bearer ([^\s]+)$/i.exec(request.headers.authorization ?? "")?.[1];
  const protocols = (request.headers["sec-websocket-protocol"] ?? "").split(",").map((text) => text.trim());
  const carried = protocols.filter((text) => text.startsWith(TOKEN_SUBPROTOCOL)).map((text) => text.slice(TOKEN_SUBPROTOCOL.length));
  const query = upgrade ? url.searchParams.get("token") : null;
  return [bearer, ...(upgrade ? carried.slice(0, 4) : []), query].filter((text) => typeof text === "string");
}

/** A request that came over TCP. Names in Host other than ours are refused: a page elsewhere could point its own name at us. */
export function authorize(
  request: IncomingMessage,
  url: URL,
  { tokens, listen, upgrade }: { readonly tokens: Tokens; readonly listen: Listen; readonly upgrade: boolean },
): Result<Role, Refusal> {
  const host = request.headers.host ?? "";
  const name = host
    .replace(/:\d+$/, "")
    .replace(/^\[|\]$/g, "")
    .toLowerCase();
  if (![listen.host, "localhost", "127.0.0.1", "::1"].includes(name))
    return err({
      status: 403,
      code: "wrong-host",
      message: `This server does not go by the name in the Host header.`,
      remedy: `Use ${listen.host}.`,
    });
  const origin = request.headers.origin;
  if (origin !== undefined && origin !== `http://${host}` && origin !== `https://${host}`)
    return err({
      status: 403,
      code: "wrong-origin",
      message: "A page of another origin may not use this API.",
      remedy: "Open the page that this server serves.",
    });
  for (const token of offered(request, url, upgrade)) {
    if (same(token, tokens.operator)) return ok("operator");
    if (same(token, tokens.read)) return ok("read");
  }
  return err({
    status: 401,
    code: "token-needed",
    message: "A token is needed here, and none that is known was given.",
    remedy: `Send "Authorization: Bearer …" with the text of the file ${TOKEN_FILES.operator} (or ${TOKEN_FILES.read}, to look only) in the --state directory.`,
  });
}

/** Reads a token's file, or makes it (0600). Two daemons that make it at once end up with one. */
async function ownToken(path: string): Promise<Result<string, string>> {
  const read = async (): Promise<Result<string, string> | null> => {
    try {
      const text = (await readFile(path, "utf8")).trim();
      return TOKEN.test(text)
        ? ok(text)
        : err(`${path} holds no token (16 to 256 letters, digits, . _ ~ -); delete it and a new one is made`);
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code === "ENOENT") return null;
      return err(`${path} cannot be read: ${(cause as Error).message}`);
    }
  };
  const there = await read();
  if (there !== null) return there;
  const draft = `${path}.${randomBytes(6).toString("hex")}`;
  try {
    await writeFile(draft, `${randomBytes(32).toString("base64url")}\n`, { flag: "wx", mode: 0o600 });
    await link(draft, path).catch((cause: NodeJS.ErrnoException) => {
      if (cause.code !== "EEXIST") throw cause;
    });
  } catch (cause) {
    return err(`${path} cannot be written: ${(cause as Error).message}`);
  } finally {
    await unlink(draft).catch(() => undefined);
  }
  return (await read()) ?? err(`${path} vanished`);
}

/** @param configured - tokens that the owner has set; the others come from files in the state directory */
export async function loadTokens(state: string, configured: Partial<Tokens>): Promise<Result<Tokens, string>> {
  for (const [role, token] of Object.entries(configured))
    if (!TOKEN.test(token)) return err(`the ${role} token that is configured does not fit; it takes 16 to 256 letters, digits, . _ ~ -`);
  try {
    await mkdir(state, { recursive: true, mode: 0o700 });
  } catch (cause) {
    return err(`${state} cannot be made: ${(cause as Error).message}`);
  }
  const operator = configured.operator === undefined ? await ownToken(join(state, TOKEN_FILES.operator)) : ok(configured.operator);
  if (!operator.ok) return operator;
  const read = configured.read === undefined ? await ownToken(join(state, TOKEN_FILES.read)) : ok(configured.read);
  return read.ok ? ok({ operator: operator.value, read: read.value }) : read;
}
