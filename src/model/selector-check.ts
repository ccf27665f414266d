/** A selector (`usb:`, one of `anyOf:`, a policy rule's `allow:` or `deny:`) as written -> its value and what is wrong with it. */
import type { ClassPattern, UsbSelector } from "./desired.ts";
import { below, type Findings, flag, given, hasControl, integer, type Json, mapping, show, text } from "./finding.ts";
import { parseHostPort } from "./host-port.ts";

const FIELDS =
  "vendor, product, serial, port, under, anyInterface, allInterfaces, manufacturer, productName, removable, or bus and address";

/** @returns null: no mapping, or an empty one */
export function checkSelector(value: unknown, pointer: string, findings: Findings): UsbSelector | null {
  const given = mapping(value);
  if (given === null) return null;
  if (Object.keys(given).length === 0) {
    findings.error(pointer, "EmptySelector", `this matches nothing, as it says nothing; give at least one of ${FIELDS}`);
    return null;
  }
  const id = (field: "vendor" | "product"): string | null => checkId(field, given[field], below(pointer, field), findings);
  const glob = (field: "serial" | "manufacturer" | "productName"): string | null =>
    checkText(field, given[field], below(pointer, field), findings);
  const port = (field: "port" | "under"): string | null => checkPort(field, given[field], below(pointer, field), findings);
  const pattern = (field: "anyInterface" | "allInterfaces"): ClassPattern | null =>
    checkClass(field, given[field], below(pointer, field), findings);
  checkAddress(given, pointer, findings);
  return {
    vendor: id("vendor"),
    product: id("product"),
    serial: glob("serial"),
    port: port("port"),
    under: port("under"),
    anyInterface: pattern("anyInterface"),
    allInterfaces: pattern("allInterfaces"),
    manufacturer: glob("manufacturer"),
    productName: glob("productName"),
    removable: flag(given["removable"]),
    bus: integer(given["bus"]),
    address: integer(given["address"]),
  };
}

function checkId(field: "vendor" | "product", value: unknown, pointer: string, findings: Findings): string | null {
  const written = text(value);
  if (written === null) return null;
  const digits = written.replace(/^0x/i, "").toLowerCase();
  if (/^[0-9a-f]{4}$/.test(digits)) return digits;
  const both = /^(?:0x)?([0-9a-f]{4}):(?:0x)?([0-9a-f]{4})$/i.exec(written);
  const hint =
    both !== null
      ? `write vendor: "${both[1] ?? ""}" and product: "${both[2] ?? ""}"`
      : /^[0-9a-f]{1,3}$/.test(digits)
        ? `write all 4 digits: "${digits.padStart(4, "0")}"`
        : /[*?]/.test(written)
          ? "an id is written out: * and ? work in serial, manufacturer and productName"
          : `write 4 hex digits, like "${field === "vendor" ? "0529" : "0001"}"`;
  findings.error(pointer, "BadId", `${field} ${show(written)} is not a USB ${field} id; ${hint}`);
  return null;
}

function checkClass(field: string, value: unknown, pointer: string, findings: Findings): ClassPattern | null {
  const written = text(value);
  if (written === null) return null;
  const parts = written.replace(/^0x/i, "").split(":");
  if (parts.length <= 3 && parts.every((part) => /^[0-9a-f]{2}$/i.test(part))) {
    const [c, subclass, protocol] = parts.map((part) => Number.parseInt(part, 16));
    return { class: c ?? 0, subclass: subclass ?? null, protocol: protocol ?? null };
  }
  const padded = parts.map((part) => part.padStart(2, "0")).join(":");
  const hint =
    parts.length <= 3 && parts.every((part) => /^[0-9a-f]{1,2}$/i.test(part))
      ? `write two digits each: "${padded}"`
      : 'write class[:subclass[:protocol]], two hex digits each, like "03" or "03:01:02"';
  findings.error(pointer, "BadInterface", `${field} ${show(written)} is not an interface class; ${hint}`);
  return null;
}

function checkPort(field: string, value: unknown, pointer: string, findings: Findings): string | null {
  const written = text(value);
  if (written === null) return null;
  const parsed = parseHostPort(written);
  if (parsed.ok) return parsed.value;
  findings.error(pointer, "BadPort", `${field} ${show(written)} is not a port of the host; ${parsed.error}`);
  return null;
}

/** Serial numbers that makers leave in by the thousand: all one character, or counting up. */
export const isDummy = (serial: string): boolean =>
  /^(.)\1*$/.test(serial) ||
  (serial.length >= 4 &&
    ["0123456789ABCDEF", "1234567890ABCDEF", "12345678901234567890", "01234567890123456789"].some((row) =>
      row.startsWith(serial.toUpperCase()),
    )) ||
  /^(?:none|null|n\/?a|default(?: string)?|serial(?: ?number)?|unknown|not ?available|xxxx*)$/i.test(serial);

function checkText(field: "serial" | "manufacturer" | "productName", value: unknown, pointer: string, findings: Findings): string | null {
  const written = text(value);
  if (written === null) return null;
  if (hasControl(written)) {
    findings.error(pointer, "ControlCharacter", `${field} has a control character, which no device shows; write ? in its place`);
  } else if (/^\*+$/.test(written)) {
    findings.warn(pointer, "MatchesAll", `${field} ${show(written)} matches every device that has one; write more of it, or leave it out`);
  } else if (field === "serial" && isDummy(written)) {
    findings.warn(
      pointer,
      "DummySerial",
      `serial ${show(written)} is one that many devices share; tell the device by port: as well, or by port: alone`,
    );
  }
  return written;
}

function checkAddress(selector: Json, pointer: string, findings: Findings): void {
  const bus = given(selector, "bus");
  const address = given(selector, "address");
  if (bus !== address) {
    const [has, lacks] = bus ? ["bus", "address"] : ["address", "bus"];
    findings.error(
      below(pointer, has),
      "BusAndAddress",
      `${has} without ${lacks}; give both, or better port: which stays over a replug`,
      "key",
    );
  } else if (bus) {
    findings.warn(
      below(pointer, "bus"),
      "LiveAddress",
      "bus and address change at every replug; use port:, or vendor: and product:, which stay",
      "key",
    );
  }
}
