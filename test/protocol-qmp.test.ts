/** QMP on the wire: the reader under any chunking, its limits, and the recordings of real QEMU, read back and played to the fake one. */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { createQmpReader, formatQmpCommand, parseQmpMessage, type QmpMessage } from "../src/protocol/qmp.ts";
import { createFakeQemu, type FakeQemuOptions, type SimHostDevice } from "../src/sim/qmp-server.ts";
import { createQmpInputReader, formatQmpOutput } from "../src/sim/qmp-input.ts";
import { eventually } from "./support/eventually.ts";

const DIR = "specs/transcripts/qmp";
type Wire = Readonly<Record<string, unknown>>;
type Line = { readonly dir: "<" | ">"; readonly msg?: Wire; readonly raw?: string };
const transcript = (name: string): Line[] =>
  readFileSync(join(DIR, name), "utf8")
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Line);
const names = readdirSync(DIR).filter((name) => name.endsWith(".jsonl"));

/** Cuts bytes at the given places. */
const cut = (bytes: Uint8Array, places: readonly number[]): Uint8Array[] => {
  const at = [0, ...new Set(places.map((place) => place % (bytes.length + 1)))].sort((a, b) => a - b);
  return at.map((from, i) => bytes.subarray(from, at[i + 1] ?? bytes.length));
};
const readAll = (chunks: readonly Uint8Array[], limit?: number): QmpMessage[] => {
  const reader = createQmpReader(limit);
  return chunks.flatMap((chunk) => [...reader.push(chunk)]);
};
const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text);

describe("reader", () => {
  const message = fc.oneof(
    fc.record({ return: fc.jsonValue(), id: fc.string() }),
    fc.record({ error: fc.record({ class: fc.string(), desc: fc.string({ unit: "binary" }) }), id: fc.string() }),
    fc.record({
      event: fc.string(),
      data: fc.dictionary(fc.string(), fc.jsonValue()),
      timestamp: fc.record({ seconds: fc.nat(), microseconds: fc.nat() }),
    }),
    fc.jsonValue(),
  );

  test("any chunking gives the same messages", () => {
    fc.assert(
      fc.property(fc.array(message), fc.constantFrom("\n", "\r\n"), fc.array(fc.nat()), (messages, end, places) => {
        const bytes = utf8(messages.map((m) => JSON.stringify(m) + end).join(""));
        const whole = readAll([bytes]);
        expect(whole.length).toBe(messages.length);
        expect(readAll(cut(bytes, places))).toEqual(whole);
        expect(readAll([...bytes].map((byte) => Uint8Array.of(byte)))).toEqual(whole);
      }),
    );
  });

  test("nothing that a peer sends makes it throw, and chunking does not matter there either", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), fc.array(fc.nat()), fc.integer({ min: 1, max: 50 }), (bytes, places, limit) => {
        expect(readAll(cut(bytes, places), limit)).toEqual(readAll([bytes], limit));
      }),
    );
  });

  test("nothing that a peer writes in a line makes the parser throw", () => {
    fc.assert(fc.property(fc.oneof(fc.string(), fc.json()), (line) => parseQmpMessage(line) !== undefined));
  });

  test("a line may be as long as the limit; one byte more ends it all, whatever follows", () => {
    const line = utf8('{"return":{}}');
    const twice = utf8('{"return":{}}\n{"return":{}}x\n{"return":{}}\n');
    expect(readAll([utf8('{"return":{}}\n')], line.length)).toMatchObject([{ kind: "return" }]);
    expect(readAll([twice], line.length)).toMatchObject([{ kind: "return" }, { kind: "malformed", fatal: true }]);
  });

  test("a peer that never ends its line is cut off at 16 MiB", () => {
    const reader = createQmpReader();
    const chunk = new Uint8Array(1024 * 1024).fill(0x20);
    for (let i = 0; i < 16; i += 1) expect(reader.push(chunk)).toEqual([]);
    expect(reader.push(chunk)).toMatchObject([{ kind: "malformed", fatal: true }]);
    expect(reader.push(utf8('\n{"return":{}}\n'))).toEqual([]);
  });

  test.each([
    ["", []],
    ["   \r\n", []],
    ["hello\n", [{ kind: "malformed", reason: 'not JSON: "hello"', fatal: false }]],
    ["[1]\n", [{ kind: "malformed" }]],
    ["null\n", [{ kind: "malformed" }]],
    ["{}\n", [{ kind: "malformed" }]],
    ['{"QMP":{"version":{"qemu":{"major":7}}}}\n', [{ kind: "malformed" }]],
    ['{"event":5}\n', [{ kind: "malformed" }]],
    ['{"error":{"class":"GenericError"},"id":"a"}\n', [{ kind: "malformed" }]],
    ['{"event":"X"}\n', [{ kind: "event", name: "X", data: {}, seconds: -1, microseconds: -1 }]],
    [
      '{"QMP":{"version":{"qemu":{"major":7,"minor":2,"micro":22}}}}\n',
      [{ kind: "greeting", version: "7.2.22", package: "", capabilities: [] }],
    ],
    ['{"return":null,"id":"p1"}\n', [{ kind: "return", id: "p1", value: null }]],
    ['{"error":{"class":"A","desc":"b"}}\n', [{ kind: "error", id: undefined, class: "A", desc: "b" }]],
  ])("%j", (text, expected) => {
    expect(readAll([utf8(text)])).toMatchObject(expected);
  });

  test("a command is one line that QEMU's reader takes back", () => {
    fc.assert(
      fc.property(
        fc.string(),
        fc.option(fc.dictionary(fc.string(), fc.jsonValue()), { nil: undefined }),
        fc.array(fc.nat()),
        (id, args, places) => {
          const line = formatQmpCommand(id, "device_add", args);
          expect(line.indexOf("\n")).toBe(line.length - 1);
          const reader = createQmpInputReader();
          const read = cut(utf8(line), places).flatMap((chunk) => [...reader.push(chunk)]);
          expect(read).toEqual([{ ok: true, value: JSON.parse(line) as unknown }]);
        },
      ),
    );
  });
});

describe("recordings", () => {
  test("there are some, together small", () => {
    expect(names.length).toBeGreaterThan(40);
    expect(names.reduce((sum, name) => sum + readFileSync(join(DIR, name)).length, 0)).toBeLessThan(400_000);
  });

  test.each(names)("%s: every line of QEMU is understood", (name) => {
    const theirs = transcript(name).flatMap(({ dir, msg }) => (dir === "<" && msg !== undefined ? [msg] : []));
    const read = readAll([utf8(theirs.map(formatQmpOutput).join(""))]);
    expect(read.map((m) => m.kind)).toEqual(
      theirs.map((msg) => ("QMP" in msg ? "greeting" : "event" in msg ? "event" : "error" in msg ? "error" : "return")),
    );
  });
});

/** How a recording is played to the fake: its machine, and the host as it was at certain commands (by id). */
type Play = {
  readonly file: string;
  readonly options: FakeQemuOptions;
  readonly host?: Readonly<Record<string, readonly SimHostDevice[]>>;
  /** Lines whose answer hangs on what is not modelled: by id, command or HMP line. */
  readonly skip?: RegExp;
  readonly events?: true;
};
const V10 = { version: "10.0.13" };
const xhci = { driver: "qemu-xhci", id: "xhci" };
const uhci = { driver: "piix3-usb-uhci", id: "uhci" };
const ehci = { driver: "usb-ehci", id: "ehci" };
const nec = { driver: "nec-usb-xhci", id: "nec" };
const root = { driver: "pcie-root-port", id: "rp0", chassis: 1 };
const q35 = { machine: "q35", running: false } as const;
const B2 = { ...q35, devices: [uhci, ehci, xhci, nec, root] } as const;
const B2_SKIP = /blockdev|chardev|u2f|e1000|a\.b_c-d|stor2|stor4|"stor"|c-29|c-52|"c-70"|"c-79"|"c-78"|info usb|x-query-usb/;
const usb = (bus: number, address: number, rest: Partial<SimHostDevice> = {}): SimHostDevice => ({
  bus,
  address,
  port: "1",
  vendor: "0001",
  product: "0001",
  speed: 3,
  node: `/dev/bus/usb/00${String(bus)}/00${String(address)}`,
  openable: true,
  ...rest,
});
const stick = { vendor: "0951", product: "1666", name: "Stick" };
const mouse = usb(1, 6, { speed: 3, name: "Fake_Mouse", port: "2" });
const E_SKIP = /fd|usb-bot|"bot"|c-11[1-7]|\/dev\/null/;

const plays: readonly Play[] = [
  { file: "q72-A1-protocol.jsonl", options: { running: false }, skip: /<byte|"x[123]|^\}\n$|dup2|nesting/ },
  { file: "q72-A2-first-client.jsonl", options: { devices: [{ driver: "qemu-xhci", id: "xhci" }] }, events: true },
  { file: "q72-B2-usb-devices.jsonl", options: B2, skip: B2_SKIP },
  { file: "q72-B3-controllers-pc-S.jsonl", options: { running: false }, skip: /"c-5[35]"/, events: true },
  { file: "q72-B3b-controllers-q35-run.jsonl", options: { machine: "q35", devices: [root] }, skip: /"cont"/ },
  { file: "q72-B4-nousb.jsonl", options: q35, skip: /usbhost/ },
  {
    file: "q72-B4-speed-ports.jsonl",
    options: {
      ...q35,
      devices: [{ driver: "nec-usb-xhci", id: "x0" }, uhci, { driver: "qemu-xhci", id: "x3", p2: 0, p3: 2 }, ehci, { ...uhci, id: "u9" }],
    },
  },
  {
    file: "q72-C-listing.jsonl",
    options: {
      ...q35,
      devices: [
        { driver: "ich9-usb-ehci1", id: "e0", addr: "1d.7", multifunction: "on" },
        { driver: "ich9-usb-uhci1", id: "u1", masterbus: "e0.0", firstport: 0, addr: "1d.0", multifunction: "on" },
        { driver: "ich9-usb-uhci2", id: "u2", masterbus: "e0.0", firstport: 2, addr: "1d.1", multifunction: "on" },
        { driver: "ich9-usb-uhci3", masterbus: "e0.0", firstport: 4, addr: "1d.2", multifunction: "on" },
        xhci,
        root,
      ],
    },
    skip: /usbhost|qtree|query-pci|hmp1|nosuch/,
  },
  { file: "q72-D-events.jsonl", options: { devices: [xhci] }, skip: /"o \/|wakeup|nmi|"c-1[2346789]"|"c-2[0-9]"/ },
  { file: "q72-E-usb-host.jsonl", options: { ...q35, devices: [xhci, uhci] }, skip: E_SKIP },
  {
    file: "q72-F2-busaddr.jsonl",
    options: { devices: [{ ...xhci, p2: 8, p3: 8 }] },
    host: {
      "c-2": [usb(1, 5, stick)],
      "c-4": [],
      "c-8": [mouse],
      "c-13": [mouse, usb(1, 7, { ...stick, openable: false })],
    },
  },
  {
    file: "q72-F3-double-match.jsonl",
    options: { devices: [uhci, ehci, xhci] },
    host: {
      "c-2": [usb(1, 5, stick)],
      "c-10": [usb(1, 5, stick), usb(1, 6, stick)],
      "c-17": [usb(1, 5, { speed: 2 })],
      "c-21": [usb(2, 5, { ...stick, openable: false }), usb(2, 6, { openable: false }), usb(2, 7), usb(2, 8, { port: "1" }), usb(1, 2)],
    },
    skip: /info usb|\/dev\/null/,
  },
  { file: "q72-F6-system-reset-kept.jsonl", options: { devices: [xhci] }, host: { "c-2": [usb(1, 5, { port: "2" })] } },
  { file: "q72-J-client-mode.jsonl", options: { name: "vm7", uuid: "11111111-2222-3333-4444-555555555555" } },
  { file: "q100-B2-usb-devices.jsonl", options: { ...B2, ...V10 }, skip: new RegExp(`${B2_SKIP.source}|"c-80"`) },
  { file: "q100-B4-nousb.jsonl", options: { ...q35, ...V10 }, skip: /usbhost/ },
  { file: "q100-D-events.jsonl", options: { devices: [xhci], ...V10 }, skip: /"o \/|wakeup|nmi|"c-1[2346789]"|"c-2[0-9]"/ },
  {
    file: "q100-E-usb-host.jsonl",
    options: { ...q35, devices: [xhci, uhci], ...V10 },
    skip: /fd|usb-bot|"bot"|c-11[1-7]|\/dev\/null|"c-[346]"|info usb/,
  },
];

/** Replies to bytes that the recording does not hold. */
const RAW_ONLY = /^(x[123]|big)$/;
/** Listings hang on a QEMU's build: the fake's are a part of the real ones; those of containers are the same. */
const partial = (mine: unknown, theirs: unknown): boolean => {
  if (!Array.isArray(mine) || !Array.isArray(theirs)) return false;
  const known = new Set(theirs.map((entry: Wire) => entry["name"]));
  return mine.every((entry: Wire) => known.has(entry["name"]));
};
const sorted = (list: unknown): unknown => (Array.isArray(list) ? [...list].map((entry) => JSON.stringify(entry)).sort() : list);
/** `Device 0.1`: the 1 is the guest's, and no guest runs here. */
const unnumbered = (value: unknown): unknown => (typeof value === "string" ? value.replace(/Device (\d+)\.\d+/g, "Device $1.0") : value);
const compare = (asked: Wire | undefined, mine: Wire, theirs: Wire): void => {
  const command = asked?.["execute"];
  const path = (asked?.["arguments"] as Wire | undefined)?.["path"];
  expect([mine["id"], "error" in mine]).toEqual([theirs["id"], "error" in theirs]);
  if ("error" in theirs) expect(mine["error"]).toEqual(theirs["error"]);
  else if (["query-commands", "device-list-properties", "qom-list-types"].includes(String(command))) {
    expect(partial(mine["return"], theirs["return"])).toBe(true);
  } else if (command === "qom-list" && !/peripheral(-anon)?$/.test(String(path))) {
    expect(partial(mine["return"], theirs["return"])).toBe(true);
  } else expect(sorted(mine["return"])).toEqual(sorted(unnumbered(theirs["return"])));
};

describe("the fake QEMU answers as the real one did", () => {
  test.each(plays)("$file", async ({ file, options, host = {}, skip, events }) => {
    const dir = mkdtempSync(join(tmpdir(), "plugherd-replay-"));
    let present: readonly SimHostDevice[] = [];
    const qemu = createFakeQemu({
      ...options,
      path: join(dir, "m.sock"),
      hostDevices: () => present,
      delays: { deletedMs: 1, refusalMs: 0, scanMs: 60_000 },
    });
    await qemu.start();
    const socket = connect({ path: join(dir, "m.sock") });
    const got: Wire[] = [];
    let rest = "";
    socket.setEncoding("utf8").on("data", (text: string) => {
      const lines = (rest + text).split("\r\n");
      rest = lines.pop() ?? "";
      got.push(...lines.map((line) => JSON.parse(line) as Wire));
    });
    try {
      const lines = transcript(file);
      const replies = (list: readonly Wire[]): Wire[] => list.filter((msg) => !("event" in msg) && !("QMP" in msg));
      const told = (list: readonly Wire[]): string[] =>
        list.flatMap((msg) => ("event" in msg ? [JSON.stringify([msg["event"], msg["data"]])] : []));
      const asked = new Map<unknown, Wire>();
      const wanted: Wire[] = [];
      const skipped = new Set<unknown>();
      await eventually(() => got.length > 0);
      let at = lines.findIndex(({ msg }) => msg !== undefined && "QMP" in msg) + 1;
      let skipping = false;
      for (; at < lines.length; at += 1) {
        const { dir: way, msg, raw } = lines[at] ?? { dir: "<" };
        if (way === ">") {
          const text = raw ?? JSON.stringify(msg);
          const id = msg?.["id"];
          skipping = skip?.test(text) === true;
          if (skipping) {
            if (id !== undefined) skipped.add(id);
            continue;
          }
          present = host[String(id)] ?? present;
          if (id !== undefined && msg !== undefined) asked.set(id, msg);
          socket.write(text);
        } else if (msg !== undefined && !("event" in msg)) {
          if (msg["id"] === undefined) skipping ||= skip?.test(JSON.stringify(msg)) === true;
          if (skipped.has(msg["id"]) || RAW_ONLY.test(String(msg["id"])) || (msg["id"] === undefined && skipping)) continue;
          wanted.push(msg);
          const mine = await eventually(() => replies(got)[wanted.length - 1]);
          if (mine !== undefined) compare(asked.get(msg["id"]), mine, msg);
        }
      }
      if (events === true) {
        const theirs = told(lines.flatMap(({ msg }) => (msg === undefined ? [] : [msg]))).filter(
          (event) => !event.includes('"guest":true'),
        );
        await eventually(() => {
          expect(told(got).sort()).toEqual(theirs.sort());
          return true;
        });
      }
    } finally {
      socket.destroy();
      await qemu.stop();
      rmSync(dir, { recursive: true });
    }
  });
});
