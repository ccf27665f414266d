/**
 * sysfs's binary `descriptors`: the device descriptor (18 bytes), then every configuration as the device sent it.
 * Source: USB 2.0, 9.6; Linux, drivers/usb/core/sysfs.c (descriptors_read) and config.c (usb_parse_configuration).
 */
import type { UsbClass } from "../model/hostdev.ts";

export type Descriptors = {
  /** null: there is no device descriptor. */
  readonly deviceClass: UsbClass | null;
  /** Every interface and alternate setting that was met, in order. */
  readonly interfaces: readonly UsbClass[];
  /**
   * Whether these are all of them for sure: the chain of lengths ends where the bytes end, as many configurations were met as the device tells,
   * and each is as long as it says.
   */
  readonly complete: boolean;
};

const DEVICE = 1;
const CONFIGURATION = 2;
const INTERFACE = 4;
/** Always 18 in sysfs, whatever the device's own bLength says. */
const DEVICE_BYTES = 18;
const CONFIGURATION_BYTES = 9;
const INTERFACE_BYTES = 9;
/** The kernel takes 32 interfaces a configuration; far more than any real device has is no list to decide by. */
const MAX_INTERFACES = 1024;

/**
 * Walks the chain of descriptors by their own lengths, as the kernel and guests do, and not by `wTotalLength`: a total that lies hides nothing.
 * @param bytes - the whole attribute; cut off or made up, anything is taken
 */
export function parseDescriptors(bytes: Uint8Array): Descriptors {
  if (bytes.length < DEVICE_BYTES || bytes[1] !== DEVICE) return { deviceClass: null, interfaces: [], complete: false };
  const interfaces: UsbClass[] = [];
  /** Where each configuration should end. */
  const ends: number[] = [];
  let honest = true;
  let at = DEVICE_BYTES;
  while (at < bytes.length && interfaces.length <= MAX_INTERFACES) {
    const length = bytes[at] ?? 0;
    if (length < 2 || at + length > bytes.length) break;
    const type = bytes[at + 1];
    if (type === CONFIGURATION && length >= CONFIGURATION_BYTES) {
      honest &&= at === (ends.at(-1) ?? DEVICE_BYTES);
      ends.push(at + (bytes[at + 2] ?? 0) + 256 * (bytes[at + 3] ?? 0));
    }
    if (type === INTERFACE && length >= INTERFACE_BYTES) interfaces.push(classAt(bytes, at + 5));
    at += length;
  }
  const complete = honest && at === bytes.length && ends.at(-1) === at && ends.length === bytes[17];
  return { deviceClass: classAt(bytes, 4), interfaces, complete };
}

const classAt = (bytes: Uint8Array, at: number): UsbClass => ({
  class: bytes[at] ?? 0,
  subclass: bytes[at + 1] ?? 0,
  protocol: bytes[at + 2] ?? 0,
});

export type DescriptorsOf = {
  /** 0–65535 each. */
  readonly vendor: number;
  readonly product: number;
  readonly deviceClass: UsbClass;
  /** Interfaces by configuration, without endpoints; at most 255 configurations. */
  readonly configurations: readonly (readonly UsbClass[])[];
};

/** What a well-behaved device has there. {@link parseDescriptors} reads it back. */
export function formatDescriptors({ vendor, product, deviceClass, configurations }: DescriptorsOf): Uint8Array {
  const { class: c, subclass, protocol } = deviceClass;
  const bytes = [
    DEVICE_BYTES,
    DEVICE,
    0,
    2,
    c,
    subclass,
    protocol,
    64,
    ...word(vendor),
    ...word(product),
    0,
    1,
    0,
    0,
    0,
    configurations.length,
  ];
  configurations.forEach((interfaces, i) => {
    const total = CONFIGURATION_BYTES + INTERFACE_BYTES * interfaces.length;
    bytes.push(CONFIGURATION_BYTES, CONFIGURATION, ...word(total), Math.min(interfaces.length, 255), i + 1, 0, 0x80, 50);
    interfaces.forEach((face, n) => {
      bytes.push(INTERFACE_BYTES, INTERFACE, n % 256, 0, 0, face.class, face.subclass, face.protocol, 0);
    });
  });
  return Uint8Array.from(bytes);
}

/** Little endian, as the bus sends it. */
const word = (value: number): [number, number] => [value & 0xff, (value >> 8) & 0xff];
