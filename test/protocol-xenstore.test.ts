/** Xenstore's bytes: worked examples, any chunking, limits, and whatever else may come. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  createXenstoreReader,
  formatPermission,
  formatXenstorePacket,
  formatXenstoreRequest,
  MAX_REQUEST_BYTES,
  parseDirectoryPart,
  parsePermission,
  parsePermissions,
  parseStrings,
  parseXenstoreMessage,
  pathProblem,
  XENSTORE_TYPES,
  type XenstorePacket,
  type XenstoreRequest,
} from "../src/protocol/xenstore.ts";

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");
const bytes = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, "latin1"));
const word = (value: number): string => Buffer.from(Uint32Array.of(value).buffer).toString("hex");

// xs_wire.h on a little-endian host; each was accepted by both real daemons.
const WORKED: readonly (readonly [request: XenstoreRequest, txId: number, type: number, payload: string])[] = [
  [{ op: "read", path: "/local/domain/0/name" }, 0, 2, "/local/domain/0/name\0"],
  [{ op: "transaction-start" }, 0, 6, "\0"],
  [{ op: "write", path: "/t/a", value: "v" }, 7, 11, "/t/a\0v"],
  [{ op: "write", path: "/t/a", value: "" }, 0, 11, "/t/a\0"],
  [{ op: "transaction-end", commit: true }, 7, 7, "T\0"],
  [{ op: "transaction-end", commit: false }, 7, 7, "F\0"],
  [{ op: "watch", path: "/libxl", token: "w1" }, 0, 4, "/libxl\0w1\0"],
  [{ op: "watch", path: "@releaseDomain", token: "" }, 0, 4, "@releaseDomain\0\0"],
  [{ op: "directory-part", path: "/vm", offset: 4000 }, 0, 22, "/vm\x004000\0"],
  [
    {
      op: "set-perms",
      path: "/t/a",
      permissions: [
        { domid: 7, access: "none" },
        { domid: 0, access: "read" },
      ],
    },
    0,
    14,
    "/t/a\0n7\0r0\0",
  ],
];
test.each(WORKED)("%o in transaction %i", (request, txId, type, payload) => {
  const made = formatXenstoreRequest(request, 0x01020384, txId);
  expect(made.ok && hex(made.value)).toBe(word(type) + word(0x01020384) + word(txId) + word(payload.length) + hex(bytes(payload)));
});

describe("what is never sent", () => {
  test.each([
    ["", "not absolute"],
    ["local/domain", "not absolute"],
    ["/local/", "ends in /"],
    ["/local//domain", "contains //"],
    ["/a.b", "a character other"],
    ["/a:b", "a character other"],
    ["/a\0b", "a character other"],
    ["/ä", "a character other"],
    [`/${"a".repeat(1023)}`, "longer than 1023"],
  ])("a path %j", (path, why) => {
    expect(pathProblem(path)).toContain(why);
    expect(formatXenstoreRequest({ op: "read", path }, 1, 0)).toMatchObject({ ok: false, error: { kind: "invalid" } });
  });
  test.each<XenstoreRequest>([
    { op: "rm", path: "/" },
    { op: "watch", path: "@other", token: "a" },
    { op: "watch", path: "/a", token: "a\0b" },
    { op: "set-perms", path: "/a", permissions: [] },
    { op: "set-perms", path: "/a", permissions: [{ domid: -1, access: "read" }] },
    { op: "directory-part", path: "/a", offset: Number.NaN },
  ])("%o", (request) => {
    expect(formatXenstoreRequest(request, 1, 0)).toMatchObject({ ok: false, error: { kind: "invalid" } });
  });
  test("more than a daemon takes", () => {
    const write = (length: number) => formatXenstoreRequest({ op: "write", path: "/a", value: "v".repeat(length) }, 1, 0);
    expect(write(MAX_REQUEST_BYTES - 3).ok).toBe(true);
    expect(write(MAX_REQUEST_BYTES - 2)).toMatchObject({ ok: false, error: { kind: "too-large" } });
  });
});

const packets = fc.array(
  fc.record({
    type: fc.nat(30),
    reqId: fc.nat(0xffff_ffff),
    txId: fc.nat(0xffff_ffff),
    payload: fc.uint8Array({ maxLength: 300 }),
  }),
  { maxLength: 8 },
);
const inChunks = (stream: Uint8Array, sizes: readonly number[]): Uint8Array[] => {
  const chunks: Uint8Array[] = [];
  for (let from = 0, i = 0; from < stream.length; i += 1) {
    const size = sizes.length === 0 ? stream.length : (sizes[i % sizes.length] ?? 1);
    chunks.push(stream.subarray(from, from + size));
    from += size;
  }
  return chunks;
};
const sizes = fc.array(fc.integer({ min: 1, max: 64 }), { maxLength: 6 });

test("reading undoes writing, in any portions", () => {
  fc.assert(
    fc.property(packets, sizes, (sent: readonly XenstorePacket[], cuts) => {
      const reader = createXenstoreReader();
      const stream = Buffer.concat(sent.map(formatXenstorePacket));
      expect(inChunks(stream, cuts).flatMap((chunk) => reader.push(chunk))).toEqual(sent);
    }),
  );
});

test("a large answer is taken, one over the limit ends it, and nothing is read after that", () => {
  const large = { type: 1, reqId: 1, txId: 0, payload: new Uint8Array(20_000).fill(0x61) };
  const reader = createXenstoreReader(20_000);
  expect(inChunks(formatXenstorePacket(large), [4_096]).flatMap((chunk) => reader.push(chunk))).toEqual([large]);
  const over = formatXenstorePacket({ ...large, payload: new Uint8Array(20_001) });
  expect(reader.push(over)).toEqual([{ kind: "malformed", reason: "a message of 20001 bytes" }]);
  expect(reader.push(formatXenstorePacket(large))).toEqual([]);
});

test("whatever comes, nothing throws", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 400 }), sizes, (stream, cuts) => {
      const reader = createXenstoreReader(200);
      for (const input of inChunks(stream, cuts).flatMap((chunk) => reader.push(chunk))) {
        if (!("kind" in input)) parseXenstoreMessage(input);
      }
      for (const parse of [parseStrings, parsePermissions, parseDirectoryPart]) parse(stream);
      for (const type of Object.values(XENSTORE_TYPES)) parseXenstoreMessage({ type, reqId: 0, txId: 0, payload: stream });
    }),
  );
});

describe("messages", () => {
  const message = (type: number, text: string) => parseXenstoreMessage({ type, reqId: 9, txId: 0, payload: bytes(text) });
  test("events, with strings that a newer daemon may append", () => {
    expect(message(15, "/a\0w\0")).toEqual({ kind: "event", path: "/a", token: "w" });
    expect(message(15, "/a\0\0")).toEqual({ kind: "event", path: "/a", token: "" });
    expect(message(15, "/a\0w\x001\0")).toEqual({ kind: "event", path: "/a", token: "w" });
    expect(message(15, "/a\0").kind).toBe("malformed");
    expect(message(15, "/a\0w").kind).toBe("malformed");
  });
  test("errors; one without a name counts as EINVAL, as in libxenstore", () => {
    expect(message(16, "ENOENT\0")).toEqual({ kind: "error", reqId: 9, code: "ENOENT" });
    expect(message(16, "")).toEqual({ kind: "error", reqId: 9, code: "EINVAL" });
  });
});

test("permissions", () => {
  fc.assert(
    fc.property(fc.nat(0x7fef), fc.constantFrom("none", "read", "write", "both"), (domid, access) => {
      expect(parsePermission(formatPermission({ domid, access }))).toEqual({ domid, access });
    }),
  );
  expect(parsePermissions(bytes("n0\0r12\0"))).toEqual([
    { domid: 0, access: "none" },
    { domid: 12, access: "read" },
  ]);
  for (const wrong of ["", "n0", "x0\0", "n\0", "n0\0\0"]) expect(parsePermissions(bytes(wrong))).toBeNull();
});

test("pieces of a directory", () => {
  expect(parseDirectoryPart(bytes("12\0a\0b\0"))).toEqual({ generation: "12", names: ["a", "b"], bytes: 4, last: false });
  expect(parseDirectoryPart(bytes("12\0a\0b\0\0"))).toEqual({ generation: "12", names: ["a", "b"], bytes: 4, last: true });
  expect(parseDirectoryPart(bytes("12\0\0"))).toEqual({ generation: "12", names: [], bytes: 0, last: true });
  for (const wrong of ["", "12", "12\0", "\0a\0", "12\0a"]) expect(parseDirectoryPart(bytes(wrong))).toBeNull();
});
