/** Log lines: safe, bounded, never a reason to fail. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { createLog, LOG_FORMATS, type LogFormat, type LogLevel } from "../src/adapters/log.ts";

const lines = (format: LogFormat, level: LogLevel, say: (log: ReturnType<typeof createLog>) => void): string[] => {
  const written: string[] = [];
  say(createLog({ level, format, stream: { write: (text) => written.push(text) } }));
  return written;
};

describe("log lines", () => {
  test("text is level, message and pairs; JSON has time, level, msg and fields", () => {
    expect(lines("text", "info", (log) => log.info("it runs", { pid: 1, path: "/a b", empty: "" }))).toEqual([
      'info: it runs pid=1 path="/a b" empty=""\n',
    ]);
    const [line] = lines("json", "info", (log) => log.warn("odd", { pid: 1 }));
    expect(JSON.parse(line ?? "")).toEqual({
      level: "warn",
      time: expect.stringMatching(/^\d{4}-.*Z$/) as string,
      msg: "odd",
      fields: { pid: 1 },
    });
  });

  test("only what the level lets through", () => {
    const all = (log: ReturnType<typeof createLog>): void => {
      for (const at of ["debug", "info", "warn", "error"] as const) log[at](at);
    };
    for (const format of LOG_FORMATS) {
      expect(lines(format, "warn", all)).toHaveLength(2);
      expect(lines(format, "silent", all)).toHaveLength(0);
      expect(lines(format, "debug", all)).toHaveLength(4);
    }
  });

  test("secrets are hidden, control characters written out, long things cut", () => {
    const said = {
      token: "t0p",
      nested: { Authorization: "Bearer t0p" },
      text: "a\u001b[31m\nb\u202e",
      long: "x".repeat(10_000),
      many: Array.from({ length: 1_000 }, () => "y"),
    };
    for (const format of LOG_FORMATS) {
      const [line = ""] = lines(format, "info", (log) => log.info("x\u0007\r\ny", said));
      expect(line).not.toContain("t0p");
      expect(line.trimEnd()).not.toMatch(/\p{Cc}|\p{Cf}/u);
      expect(line.length).toBeLessThan(3_000);
    }
  });

  test("a reader that stalls costs lines, not memory, and is told how many", () => {
    const written: string[] = [];
    const stream = { write: (text: string) => written.push(text), writableLength: 2 ** 20 + 1 };
    const log = createLog({ level: "info", format: "text", stream });
    log.info("one");
    log.info("two");
    expect(written).toEqual([]);
    stream.writableLength = 0;
    log.info("three");
    expect(written).toEqual(["warn: log lines were lost: they were not read in time lines=2\n", "info: three\n"]);
  });

  test("whatever is logged is one line, and nothing throws", () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...LOG_FORMATS),
        fc.string(),
        fc.dictionary(fc.string(), fc.anything({ withBigInt: true, withMap: true, withDate: true })),
        (format, message, fields) => {
          const written = lines(format, "info", (log) => log.info(message, fields));
          expect(written).toHaveLength(1);
          expect(written[0]?.trimEnd().includes("\n")).toBe(false);
        },
      ),
    );
    const circle: Record<string, unknown> = {};
    circle["self"] = circle;
    expect(lines("json", "info", (log) => log.info("round", circle))).toHaveLength(1);
    const trap = {
      get broken(): never {
        throw new Error("no");
      },
    };
    expect(lines("text", "info", (log) => log.error("trap", trap))).toEqual(["error: trap\n"]);
    expect(() =>
      createLog({
        level: "info",
        format: "json",
        stream: {
          write: () => {
            throw new Error("full");
          },
        },
      }).info("x"),
    ).not.toThrow();
  });
});
