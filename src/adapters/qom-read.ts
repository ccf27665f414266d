/** Questions to QEMU's object tree. Replies come in order, so a whole round of them is written at once and costs one round trip. */
import { ok, type Result } from "../model/result.ts";
import { parsePropertyLists } from "../protocol/qom-usb.ts";
import type { QmpError, QmpSession } from "./qmp-client.ts";

export type Answer = Result<unknown, QmpError>;
export type Read<T> = Promise<Result<T, QmpError>>;
/** Values of properties; one that the object does not have, or that could not be read, is missing or null. */
export type Properties = Readonly<Record<string, unknown>>;

export const qomList = (session: QmpSession, path: string): Promise<Answer> => session.execute("qom-list", { path });
export const qomGet = (session: QmpSession, path: string, property: string): Promise<Answer> =>
  session.execute("qom-get", { path, property });
/** A question that needs none. */
export const NOTHING: Promise<Answer> = Promise.resolve(ok(null));

/** A refusal is an answer (null: no such thing); a monitor that does not answer fails the whole. */
export async function all(questions: readonly Promise<Answer>[]): Read<readonly unknown[]> {
  const values: unknown[] = [];
  for (const answer of await Promise.all(questions)) {
    if (!answer.ok && answer.error.kind !== "refused") return answer;
    values.push(answer.ok ? answer.value : null);
  }
  return ok(values);
}

/** Objects that one qom-list-get asks for; a reply has some 2 kB for each. */
const AT_ONCE = 64;
/** Objects whose properties are asked for one by one in a round: eight each, and a session takes some four thousand commands at a time. */
const PORTION = 256;

/** Properties of many objects; a path may go through a link. Since QEMU 10.1 one command reads whole objects. */
export async function readProperties(
  session: QmpSession,
  wanted: readonly { readonly path: string; readonly names: readonly string[] }[],
): Read<readonly Properties[]> {
  if (wanted.length > 1 && atLeast(session.version, 10, 1)) {
    const chunks = Array.from({ length: Math.ceil(wanted.length / AT_ONCE) }, (_, i) => wanted.slice(i * AT_ONCE, (i + 1) * AT_ONCE));
    const answers = await all(chunks.map((chunk) => session.execute("qom-list-get", { paths: chunk.map(({ path }) => path) })));
    if (!answers.ok) return answers;
    const lists = answers.value.flatMap((answer, i) => parsePropertyLists(answer, chunks[i]?.length ?? 0) ?? []);
    // All or nothing: where one object has just gone, the whole command is refused.
    if (lists.length === wanted.length) return ok(lists);
  }
  const found: Properties[] = [];
  for (let from = 0; from < wanted.length; from += PORTION) {
    const portion = wanted.slice(from, from + PORTION);
    const answers = await all(portion.flatMap(({ path, names }) => names.map((name) => qomGet(session, path, name))));
    if (!answers.ok) return answers;
    const values = answers.value.values();
    for (const { names } of portion) found.push(Object.fromEntries(names.map((name) => [name, values.next().value])));
  }
  return ok(found);
}

const atLeast = (version: string, major: number, minor: number): boolean => {
  const [x = 0, y = 0] = version.split(".").map(Number);
  return x > major || (x === major && y >= minor);
};
