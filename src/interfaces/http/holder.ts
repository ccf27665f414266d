/** Who answers on a socket that we wanted: asked for its name, and looked for in the kernel where it does not say. */
import { request } from "node:http";
import { socketHolder } from "../../adapters/socket-holder.ts";

/** A daemon that is busy answers within this, whole answer and all. */
const ANSWER_MS = 2_000;
const MOST_CHARACTERS = 4_096;

/** @returns in words: `plugherd, process 123` */
export async function holderOf(path: string): Promise<string> {
  const body = await healthOf(path);
  if (body?.name === "plugherd" && Number.isSafeInteger(body.pid)) return `plugherd, process ${String(body.pid)}`;
  return (await socketHolder(path)) ?? "a program that does not say who it is";
}

/** @returns null: it is no plugherd, or says nothing in time */
const healthOf = (path: string): Promise<{ readonly name?: unknown; readonly pid?: unknown } | null> =>
  new Promise((resolve) => {
    const nothing = (): void => resolve(null);
    // Not the socket's own time-out, which whoever sends a byte now and then never meets.
    const asked = request({ socketPath: path, path: "/healthz", signal: AbortSignal.timeout(ANSWER_MS) }, (answer) => {
      let text = "";
      answer.setEncoding("utf8");
      answer.on("data", (chunk: string) => {
        text = `${text}${chunk}`.slice(0, MOST_CHARACTERS);
      });
      answer.on("error", nothing);
      answer.on("end", () => {
        try {
          resolve(JSON.parse(text) as { name?: unknown; pid?: unknown } | null);
        } catch {
          nothing();
        }
      });
    });
    asked.on("error", nothing);
    asked.end();
  });
