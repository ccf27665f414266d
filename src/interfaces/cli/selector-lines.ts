/** Ready-made `usb:` selectors for a device, the most lasting first. Pure. */
import type { HostDeviceStatus } from "../../controller/view.ts";
import { isDummy } from "../../model/selector-check.ts";

type Device = HostDeviceStatus["device"];
export type SelectorLine = {
  /** Flow mapping, as after `usb:`. */
  readonly yaml: string;
  /** What it follows, and what it does not. */
  readonly why: string;
};

/** A double-quoted YAML scalar that is also JSON. */
const quote = (text: string): string => JSON.stringify(text);
/** `*` and `?` would be read as globs; hidden characters cannot be pasted. */
const pastable = (text: string): boolean => !/[*?]|\p{C}|\p{Zl}|\p{Zp}/u.test(text);

/** @param present - every device on the host, to tell what is unique now */
export function selectorLines(device: Device, present: readonly Device[]): readonly SelectorLine[] {
  const lines: SelectorLine[] = [];
  const kin = present.filter(({ vendor, product }) => vendor === device.vendor && product === device.product);
  const ids = `vendor: ${quote(device.vendor)}, product: ${quote(device.product)}`;
  const { serial, anchor } = device;
  if (serial !== null && pastable(serial) && !isDummy(serial) && kin.filter((other) => other.serial === serial).length === 1)
    lines.push({ yaml: `{ ${ids}, serial: ${quote(serial)} }`, why: "this very device, in any port" });
  if (anchor !== null) lines.push({ yaml: `{ port: ${quote(anchor)} }`, why: "whatever is in this port" });
  else lines.push({ yaml: `{ port: ${quote(device.busid)} }`, why: "whatever is in this port, as buses are numbered now" });
  lines.push(
    kin.length === 1
      ? { yaml: `{ ${ids} }`, why: "any device of this make, in any port" }
      : {
          yaml: `{ ${ids}, port: ${quote(anchor ?? device.busid)} }`,
          why: `a device of this make, in this port (${String(kin.length)} of them are on the host)`,
        },
  );
  return lines;
}
