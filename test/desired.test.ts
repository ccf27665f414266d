/** Desired state from text: the examples, every kind of bad input with its exact lines, and what holds for any text. */
import { readdirSync, readFileSync } from "node:fs";
import type { AnySchemaObject } from "ajv";
import { Ajv2020 } from "ajv/dist/2020.js";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { checkTexts, readTexts } from "../src/adapters/read-paths.ts";
import { checkShape, schemaText } from "../src/adapters/schema-check.ts";
import { formatProblem, readDomainFile, readSpec } from "../src/adapters/spec-reading.ts";
import type { DesiredDevice, DesiredDomain, UsbSelector } from "../src/model/desired.ts";
import { checkDomain } from "../src/model/desired-check.ts";
import { parseHostPort } from "../src/model/host-port.ts";

const EXAMPLES = "specs/examples";
const BAD = `${EXAMPLES}/invalid`;
const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const HEAD = "apiVersion: plugherd/v1\nkind: Domain\n";

const lines = (text: string, file = "f.yaml"): string[] => readSpec(file, bytes(text), ["Domain"]).problems.map(formatProblem);
const domain = (text: string): DesiredDomain => {
  const reading = readDomainFile("f.yaml", bytes(text), null);
  if (reading.kind !== "read") throw new Error(JSON.stringify(reading));
  const [first] = reading.domains;
  if (first === undefined) throw new Error("no domain");
  return first;
};
const withSpec = (spec: string): DesiredDomain => domain(`${HEAD}metadata: { name: win10 }\nspec:\n${spec}`);
const device = (fields: string): DesiredDevice => {
  const [first] = withSpec(`  devices:\n    - { name: it, ${fields} }\n`).devices;
  if (first === undefined) throw new Error("no device");
  return first;
};
const selector = (fields: string): UsbSelector => {
  const { kind } = device(`usb: { ${fields} }`);
  const first = kind.type === "usb" ? kind.selectors[0] : undefined;
  if (first === undefined) throw new Error("no selector");
  return first;
};

describe("examples", () => {
  test.each(["minimal.yaml", "lab.yaml"])("%s is valid, without a warning", (name) => {
    const { problems, domains } = readSpec(name, readFileSync(`${EXAMPLES}/${name}`), ["Domain"]);
    expect(problems).toEqual([]);
    expect(domains.length).toBeGreaterThan(0);
  });

  const bad = readdirSync(BAD).filter((name) => !name.endsWith(".expect"));
  test("there are at least 50 kinds of bad input", () => {
    expect(bad.length).toBeGreaterThanOrEqual(50);
  });
  test.each(bad)("invalid/%s prints exactly what it says", (name) => {
    const content = readFileSync(`${BAD}/${name}`);
    const isPolicy = name.startsWith("policy-") && name !== "policy-among-domains.yaml";
    const header = content.toString("utf8").split("\n");
    const expected = header
      .slice(
        0,
        header.findIndex((line) => !line.startsWith("# expect: ")),
      )
      .map((line) => line.slice("# expect: ".length));
    const beside = readdirSync(BAD).includes(name.replace(/\.\w+$/, ".expect"));
    const wanted = beside
      ? readFileSync(`${BAD}/${name.replace(/\.\w+$/, ".expect")}`, "utf8")
          .trimEnd()
          .split("\n")
      : expected;
    const { problems } = readSpec("f", content, [isPolicy ? "HostPolicy" : "Domain"]);
    expect(problems.some(({ severity }) => severity === "error")).toBe(true);
    expect(problems.map(formatProblem).map((line) => line.slice("f:".length))).toEqual(wanted);
    for (const { message } of problems) expect(message, "says what is wrong and what would be right").toMatch(/.; ./);
  });
});

describe("a domain", () => {
  test("all defaults", () => {
    expect(domain(`${HEAD}metadata: { name: win10 }\nspec: { devices: [{ name: dongle, usb: { vendor: "0529" } }] }`)).toEqual({
      name: "win10",
      labels: {},
      target: { by: "name", name: "win10" },
      mode: "enforce",
      prune: "managed",
      controllers: null,
      devices: [
        {
          name: "dongle",
          kind: { type: "usb", selectors: [expect.objectContaining({ vendor: "0529", product: null, removable: null })], anyOf: false },
          count: 1,
          pick: "none",
          priority: 0,
          controller: null,
          guestPort: null,
          required: false,
          onRemove: "detach",
          after: [],
          mark: { file: "f.yaml", line: 4, column: 19 },
        },
      ],
      mark: { file: "f.yaml", line: 3, column: 19 },
      generation: expect.stringMatching(/^[0-9a-f]{12}$/) as string,
      commit: null,
    });
  });

  test("devices and controllers may be empty or missing, and empty controllers are not missing ones", () => {
    expect(withSpec("  mode: observe\n").devices).toEqual([]);
    expect(withSpec("  devices:\n").devices).toEqual([]);
    expect(withSpec("  devices: []\n  controllers:\n").controllers).toBeNull();
    expect(withSpec("  controllers: []\n").controllers).toEqual([]);
  });

  test("ids, uuids and ports are brought into one spelling", () => {
    expect(selector('vendor: "0x0AbC", product: "FFff"')).toMatchObject({ vendor: "0abc", product: "ffff" });
    expect(selector('port: "pci-0000:00:1D.0/1.4"').port).toBe("pci-0000:00:1d.0/1.4");
    expect(selector("under: 1-1").under).toBe("1-1");
    expect(selector('anyInterface: "0E"').anyInterface).toEqual({ class: 14, subclass: null, protocol: null });
    expect(selector('allInterfaces: "03:01:02"').allInterfaces).toEqual({ class: 3, subclass: 1, protocol: 2 });
    expect(withSpec("  domain: { uuid: 0F8E3C2A-5D1B-4C7E-9A60-3B2F1D4E5A6C }\n").target).toEqual({
      by: "uuid",
      uuid: "0f8e3c2a-5d1b-4c7e-9a60-3b2f1d4e5a6c",
    });
  });

  test("controllers get names by position, and the ports that their model can have", () => {
    const { controllers } = withSpec(
      "  controllers:\n    - {}\n    - { type: pv }\n    - { type: emulated, version: 1 }\n    - { model: ehci }\n    - { name: own, model: qusb2, ports: 31 }\n",
    );
    expect(controllers?.map(({ name, ports }) => `${name} ${String(ports)}`)).toEqual(["hci0 8", "pv1 8", "hci2 2", "hci3 6", "own 31"]);
  });

  test.each([
    ["emulated: { type: tablet }", "emulated"],
    ['pci: { address: "0000:06:02.0" }, managed: true', "pci"],
    ["pci: { netdev: eth22 }", "pci"],
    ['pci: { netdev: eth22 }, interface: { mac: "00:16:3e:5d:c7:9e" }', "interface"],
    ['interface: { mac: "00:16:3e:5d:c7:9e" }', "interface"],
  ])("{ %s } is valid, and of a kind that is not supported yet", (fields, what) => {
    expect(device(fields).kind).toEqual({ type: "unsupported", what });
  });

  test("aliases are followed, and what is wrong with them is told where they stand", () => {
    const text = `${HEAD}metadata: { name: win10 }\nspec:\n  devices:\n    - { name: a, usb: &it { vendor: "0529" } }\n    - { name: b, usb: *it }\n`;
    expect(domain(text).devices.map(({ kind }) => kind)).toEqual([domain(text).devices[0]?.kind, domain(text).devices[0]?.kind]);
    expect(lines(text.replace("0529", "9"))).toEqual([
      'f.yaml:6:37: vendor "9" is not a USB vendor id; write all 4 digits: "0009"',
      'f.yaml:7:23: vendor "9" is not a USB vendor id; write all 4 digits: "0009"',
    ]);
  });

  test("a byte order mark, CRLF and JSON with tabs are no mistakes", () => {
    expect(lines(`\uFEFF${HEAD}metadata: { name: win10 }\nspec: {}\n`.replaceAll("\n", "\r\n"))).toEqual([]);
    expect(
      lines(
        '{\n\t"$schema": "x.json",\n\t"apiVersion": "plugherd/v1",\n\t"kind": "Domain",\n\t"metadata": {"name": "a"},\n\t"spec": {}\n}',
        "f.json",
      ),
    ).toEqual([]);
  });
});

describe("warnings leave a file valid", () => {
  const warning = (fields: string): string[] =>
    lines(`${HEAD}metadata: { name: win10 }\nspec: { devices: [{ name: it, ${fields} }] }`).map((line) =>
      line.replace(/^f.yaml:[\d:]+ /, ""),
    );
  test.each(["0123456789ABCDEF", "123456789012", "000000000000", "0", "None", "Default string", "ffffffff"])(
    "a dummy serial, %s",
    (serial) => {
      expect(warning(`usb: { serial: "${serial}" }`)).toEqual([expect.stringContaining("warning: serial")]);
      expect(selector(`serial: "${serial}"`).serial).toBe(serial);
    },
  );
  test.each(["0A4C2F", "A6008isP", "1234A", "20090516", "*-7"])("no dummy: %s", (serial) => {
    expect(warning(`usb: { serial: "${serial}" }`)).toEqual([]);
  });
  test.each([
    ["usb: { bus: 3, address: 7 }", "bus and address change at every replug"],
    ['usb: { serial: "*" }', "matches every device"],
    ['usb: { vendor: "0529" }, count: all, pick: lowestPort', "pick has no say"],
    ['anyOf: [{ vendor: "0529" }, { vendor: "0x0529" }]', "listed twice"],
  ])("%s", (fields, text) => {
    expect(warning(fields)).toEqual([expect.stringContaining(text)]);
  });
  test("a controller that no file declares may be the domain's own; a slip of the pen is told", () => {
    const text = (controllers: string): string =>
      `${HEAD}metadata: { name: a }\nspec:\n${controllers}  devices: [{ name: it, usb: { vendor: "0529" }, controller: usb33, guestPort: 9 }]\n`;
    expect(lines(text(""))).toEqual([]);
    expect(lines(text("  controllers: []\n"))).toEqual([]);
    expect(lines(text("  controllers: [{ name: usb3 }]\n"))).toEqual([
      'f.yaml:6:62: warning: controller "usb33" is none of this file\'s, so the domain must have one of that id; did you mean "usb3"?',
    ]);
  });
});

describe("files against each other", () => {
  const file = (name: string, more = ""): string => `${HEAD}metadata: { name: ${name} }\nspec: { ${more} }\n`;
  test("one metadata.name twice: both are invalid, each names the other", () => {
    const { domains, problems } = readTexts([
      { name: "a.yaml", text: file("win10") },
      { name: "b.yaml", text: file("win10") },
      { name: "c.yaml", text: file("lab") },
    ]);
    expect(domains.map(({ name }) => name)).toEqual(["lab"]);
    expect(problems.map(formatProblem)).toEqual([
      'a.yaml:3:19: the name "win10" is in b.yaml:3 too, so neither counts; keep one, or rename one',
      'b.yaml:3:19: the name "win10" is in a.yaml:3 too, so neither counts; keep one, or rename one',
    ]);
  });
  test("one target twice under two names, by name or by uuid", () => {
    const uuid = "domain: { uuid: 0f8e3c2a-5d1b-4c7e-9a60-3b2f1d4e5a6c }";
    const lines = (a: string, b: string): string[] =>
      readTexts([
        { name: "a.yaml", text: a },
        { name: "b.yaml", text: b },
      ]).problems.map(formatProblem);
    expect(lines(file("one", uuid), file("two", uuid.toUpperCase().replace("DOMAIN", "domain").replace("UUID", "uuid")))).toEqual([
      "a.yaml:3:19: the domain with uuid 0f8e3c2a-5d1b-4c7e-9a60-3b2f1d4e5a6c is spoken for in b.yaml:3 too, so neither counts; put all of it in one file",
      "b.yaml:3:19: the domain with uuid 0f8e3c2a-5d1b-4c7e-9a60-3b2f1d4e5a6c is spoken for in a.yaml:3 too, so neither counts; put all of it in one file",
    ]);
    expect(lines(file("one"), file("two", "domain: { name: one }"))).toHaveLength(2);
    expect(lines(file("one", "domain: { name: two }"), file("two", "domain: { name: one }"))).toEqual([]);
  });
  test("twice in one file", () => {
    expect(lines(`${file("a")}---\n${file("a")}`)).toEqual([]);
    const { problems } = readTexts([{ name: "a.yaml", text: `${file("a")}---\n${file("a")}` }]);
    expect(problems.map(({ line }) => line)).toEqual([3, 8]);
  });
  test("a good file whose name is in a bad one too is invalid", () => {
    const { domains } = readTexts([
      { name: "a.yaml", text: file("win10") },
      { name: "b.yaml", text: file("win10", "mode: on") },
      { name: "c.yaml", text: `${file("lab")}\tx` },
      { name: "d.yaml", text: file("lab") },
    ]);
    expect(domains).toEqual([]);
  });
  test("desired state and policy can be checked together", () => {
    const { domains, policies, problems } = checkTexts([
      { name: "all.yaml", text: `${file("a")}---\napiVersion: plugherd/v1\nkind: HostPolicy\n` },
    ]);
    expect([domains.length, policies.length, problems.length]).toEqual([1, 1, 0]);
  });
});

describe("hostile texts end in problems, soon", () => {
  const nested = (n: number): string => `${"[".repeat(n)}${"]".repeat(n)}`;
  test.each([
    ["50,000 brackets", nested(50_000)],
    ["50,000 open brackets", "[".repeat(50_000)],
    ["50,000 dashes on one line", "- ".repeat(50_000)],
    ["50,000 question marks", "? ".repeat(50_000)],
    ["a million tokens", "[]\n".repeat(340_000)],
    ["many keys", Array.from({ length: 60_000 }, (_, i) => `k${String(i)}: 1`).join("\n")],
    [
      "aliases of aliases",
      Array.from({ length: 20 }, (_, i) => `a${String(i)}: &a${String(i)} [${i === 0 ? "x" : `*a${String(i - 1)}, `.repeat(9)}]`).join(
        "\n",
      ),
    ],
    ["more than a mebibyte", "#".repeat(1_100_000)],
    ["no UTF-8", "\u0000"],
  ])("%s", (_, text) => {
    const { problems } = readSpec("f.yaml", bytes(text), ["Domain"]);
    expect(problems.length).toBeGreaterThan(0);
    expect(problems.length).toBeLessThanOrEqual(101);
  });
  test("a key that is __proto__ is a key like any other", () => {
    expect(lines(`${HEAD}metadata: { name: a, labels: { __proto__: x } }\nspec: { __proto__: { mode: paused } }`)).toEqual([
      'f.yaml:4:9: unknown key "__proto__"; known here: domain, mode, prune, controllers, devices',
    ]);
  });
  test.each(["constructor", "toString", "__proto__", "hasOwnProperty"])("%s is no key, no value and no model that is known", (word) => {
    const text = `${HEAD}metadata: { name: a, ${word}: 1 }\nspec: { mode: ${word}, prune: { ${word}: 1 }, controllers: [{ model: ${word} }] }`;
    expect(lines(text).map((line) => line.replace(/;.*/, ""))).toEqual([
      `f.yaml:3:22: unknown key "${word}"`,
      `f.yaml:4:15: mode: ${word} is not known`,
      expect.stringMatching(/^f.yaml:4:\d+: prune: .* is not known$/),
      expect.stringMatching(new RegExp(`^f.yaml:4:\\d+: model "${word}" is not known$`)),
    ]);
  });
  test("control characters of a file never reach the message", () => {
    const all = lines(`${HEAD}metadata: { name: "a\\e[2J", "k\\e[2J": 1 }\nspec: { mode: "\\e[2J", devices: [{ name: "\\a" }] }`);
    expect(all.length).toBeGreaterThan(3);
    for (const line of all) expect(line).not.toMatch(/\p{Cc}/u);
  });
});

describe("for any text", () => {
  const key = fc.constantFrom(
    "apiVersion",
    "kind",
    "metadata",
    "spec",
    "name",
    "devices",
    "controllers",
    "usb",
    "anyOf",
    "vendor",
    "port",
    "after",
    "count",
    "guestPort",
    "bus",
    "x",
  );
  const json = fc.letrec((tie) => ({
    value: fc.oneof(
      { maxDepth: 5 },
      fc.constantFrom<unknown>("plugherd/v1", "Domain", "win10", "0529", 529, 1, true, null, "all", "1-1", "", "\u001b"),
      fc.array(tie("value"), { maxLength: 3 }),
      fc.dictionary(key, tie("value"), { maxKeys: 6 }),
    ),
  })).value;

  test("what is read is what the schema and the checks both take, and every problem has a place in the file", () => {
    fc.assert(
      fc.property(json, (value) => {
        const text = JSON.stringify(value, null, 1);
        const { problems, domains } = readSpec("f.json", bytes(text), ["Domain"]);
        const bad = problems.some(({ severity }) => severity === "error");
        const shape = checkShape("Domain", value, () => null);
        if (shape.findings.length + shape.forms.length > 0) expect(bad).toBe(true);
        if (!bad) expect(domains).toHaveLength(1);
        for (const { line, column } of problems) expect(text.split("\n")[line - 1]?.length ?? -1).toBeGreaterThanOrEqual(column - 1);
      }),
      { numRuns: 500 },
    );
  });
  test("no text throws", () => {
    const piece = fc.constantFrom(
      "- ",
      "a: ",
      "[",
      "]",
      "{",
      "}",
      "\n",
      "  ",
      '"',
      "'",
      "&a ",
      "*a",
      "!!",
      "#",
      "|",
      ">",
      "? ",
      ": ",
      ",",
      "---\n",
      "%YAML",
      "\t",
      "0529",
      "...\n",
    );
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 60 }), (pieces) => {
        for (const line of lines(pieces.join(""))) expect(line).toMatch(/^f\.yaml:\d+:\d+: /);
      }),
      { numRuns: 500 },
    );
  });
  test("the meaning check alone takes any value", () => {
    fc.assert(
      fc.property(json, (value) => void checkDomain(value, () => ({ file: "", line: 1, column: 1 }), { generation: "", commit: null })),
    );
  });
  test("a port in its one spelling stays as it is", () => {
    const chain = fc.array(fc.integer({ min: 1, max: 255 }), { minLength: 1, maxLength: 6 }).map((ports) => ports.join("."));
    const port = fc.oneof(
      chain.map((ports) => `3-${ports}`),
      chain.map((ports) => `pci-0000:00:14.0/${ports}`),
      chain.map((ports) => `platform-xhci-hcd.1.auto/${ports}`),
    );
    fc.assert(fc.property(port, (written) => void expect(parseHostPort(written)).toEqual({ ok: true, value: written })));
  });
});

test("the schemas take nothing that they do not name, and describe what they take", () => {
  const walk = (schema: unknown, path: string): void => {
    if (typeof schema !== "object" || schema === null) return;
    const part = schema as Record<string, unknown>;
    if (part["properties"] !== undefined) {
      expect(part["additionalProperties"], path).toBe(false);
      for (const [key, property] of Object.entries(part["properties"] as Record<string, Record<string, unknown>>)) {
        expect(property["title"] ?? property["$ref"], `${path}/${key}`).toBeTypeOf("string");
      }
    }
    for (const [key, value] of Object.entries(part)) if (key !== "examples") walk(value, `${path}/${key}`);
  };
  for (const kind of ["Domain", "HostPolicy"] as const) {
    const schema = JSON.parse(schemaText(kind)) as AnySchemaObject;
    walk(schema, kind);
    expect(new Ajv2020().validateSchema(schema), kind).toBe(true);
  }
});
