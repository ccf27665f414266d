/** The shape of what `--state` keeps (model/intentions.ts), for what is read back: the file may be old, half written by another tool, or hostile. */
import type { ValidateFunction } from "ajv";
import { Ajv2020 } from "ajv/dist/2020.js";
import type { Intentions } from "../model/intentions.ts";

const text = { type: "string", maxLength: 4096 };
const orNull = (schema: object): object => ({ anyOf: [schema, { type: "null" }] });
const list = (items: object, maxItems = 100_000): object => ({ type: "array", maxItems, items });
/** Every property is needed, and nothing else is taken. */
const record = (properties: Readonly<Record<string, object>>): object => ({
  type: "object",
  additionalProperties: false,
  required: Object.keys(properties),
  properties,
});
const whole = { type: "integer", minimum: Number.MIN_SAFE_INTEGER, maximum: Number.MAX_SAFE_INTEGER };
const byte = { type: "integer", minimum: 0, maximum: 255 };
const hex4 = { type: "string", pattern: "^[0-9a-f]{4}$" };
const name = { type: "string", pattern: "^[A-Za-z0-9][A-Za-z0-9._-]{0,47}$" };
const domainName = { type: "string", minLength: 1, maxLength: 255, pattern: "^[^/\\u0000-\\u001f]+$" };
const mark = record({ file: text, line: whole, column: whole });
const pattern = record({ class: byte, subclass: orNull(byte), protocol: orNull(byte) });
const selector = record({
  vendor: orNull(hex4),
  product: orNull(hex4),
  serial: orNull(text),
  port: orNull(text),
  under: orNull(text),
  anyInterface: orNull(pattern),
  allInterfaces: orNull(pattern),
  manufacturer: orNull(text),
  productName: orNull(text),
  removable: orNull({ type: "boolean" }),
  bus: orNull(whole),
  address: orNull(whole),
});
const device = record({
  name,
  kind: {
    anyOf: [
      record({ type: { const: "usb" }, selectors: { ...list(selector, 64), minItems: 1 }, anyOf: { type: "boolean" } }),
      record({ type: { const: "unsupported" }, what: { enum: ["emulated", "pci", "interface"] } }),
    ],
  },
  count: { enum: [1, "all"] },
  pick: { enum: ["none", "lowestPort"] },
  priority: whole,
  controller: orNull(text),
  guestPort: orNull(whole),
  required: { type: "boolean" },
  onRemove: { enum: ["detach", "leave"] },
  after: list(text),
  mark,
});
const controller = record({
  name,
  type: { enum: ["auto", "emulated", "pv"] },
  version: { enum: [1, 2, 3, null] },
  model: orNull(text),
  index: orNull(whole),
  ports: { type: "integer", minimum: 1, maximum: 31 },
  backend: orNull(text),
  mark,
});
const domain = record({
  name: domainName,
  labels: { type: "object", additionalProperties: text },
  target: { anyOf: [record({ by: { const: "name" }, name: text }), record({ by: { const: "uuid" }, uuid: text })] },
  mode: { enum: ["enforce", "observe", "paused"] },
  prune: { enum: ["managed", "none", "all"] },
  controllers: orNull(list(controller)),
  devices: list(device),
  mark,
  generation: text,
  commit: orNull(text),
});
const rule = record({
  name,
  verdict: { enum: ["allow", "deny"] },
  match: selector,
  domain: orNull(text),
  lift: list({ enum: ["input", "disk-in-use", "default-route"] }),
  mark,
});

/** One entry of each list, and the policy. */
const SHAPES: Readonly<Record<keyof Intentions, object>> = {
  lastGood: record({ file: text, domains: list(domain) }),
  lastGoodPolicy: record({
    default: { enum: ["allow", "deny"] },
    onIdentityChange: { enum: ["quarantine", "report"] },
    rules: list(rule),
  }),
  vanished: domain,
  left: record({ domain: domainName, devices: list(device) }),
  holds: record({ domain: text, device: text, until: whole, release: { type: "boolean" }, reason: orNull(text) }),
  pauses: record({ domain: text, since: whole, reason: orNull(text) }),
  quarantines: record({ domain: text, device: text, busid: text, fingerprint: { type: "string", maxLength: 65_536 } }),
};

const known = new Map<keyof Intentions, ValidateFunction>();
/** Whether a value is such an entry. Compiled when it is first asked: most starts have few kinds of entries. */
export function hasShape(key: keyof Intentions, value: unknown): boolean {
  const validate =
    known.get(key) ?? new Ajv2020({ strict: true, meta: false, validateSchema: false, code: { optimize: false } }).compile(SHAPES[key]);
  known.set(key, validate);
  return validate(value);
}
