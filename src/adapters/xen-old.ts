/**
 * Attach and detach in a domain whose device model is qemu-traditional: told over its command channel, which answers the same whether it worked
 * or not, and kept by a mark of ours, for nothing lists what it has. Attached is Unverified, always.
 */
import { type Attached, type Outcome, type Place, transient } from "../model/action.ts";
import { instanceOf } from "../model/hostdev.ts";
import { err, ok } from "../model/result.ts";
import { markOf, paths } from "../protocol/xenstore-usb.ts";
import type { DomainLife } from "./domain-life.ts";
import type { XenActions } from "./xen-hvm.ts";
import type { XenRecords } from "./xen-records.ts";
import type { XenTraditional } from "./xen-traditional.ts";

export type XenOldDeps = {
  readonly life: DomainLife;
  readonly records: Pick<XenRecords, "note" | "forgetNote">;
  readonly channel: XenTraditional;
  readonly domid: number;
};

/** Marks of this device model lie under it: there is one controller. */
const DEVID = 0;

export function createXenOld({ life, records, channel, domid }: XenOldDeps): XenActions {
  const begin = async (): Promise<Outcome | null> => {
    await life.settled();
    const blocked = life.blocked();
    return blocked === null ? null : err(blocked);
  };
  return {
    attach: async ({ domain, device, bus, port }: Place, { signal, onStep }): Promise<Outcome> =>
      (await begin()) ??
      (await life.change(async (): Promise<Outcome> => {
        onStep("telling the device model");
        // The mark first: what was told and not marked could never be taken back.
        const noted = await records.note(DEVID, port, markOf(device, null));
        life.look();
        if (!noted.ok) return noted;
        const told = await channel.usbAdd(device.bus, device.address, signal);
        if (!told.ok) {
          await records.forgetNote(DEVID, port);
          return told;
        }
        const path = paths.mark(domid, DEVID, port);
        life.addObject({
          path,
          id: null,
          bus,
          port: String(port),
          ours: true,
          inode: device.inode,
          filter: { bus: device.bus, address: device.address, hostport: null, vendor: null, product: null, hostdevice: null },
          exact: true,
          attached: true,
          remark: "Unverified",
        });
        return ok({ domain, path, bus, port, instance: instanceOf(device) } satisfies Attached);
      })),
    detach: async (at, { signal, onStep }): Promise<Outcome> =>
      (await begin()) ??
      (await life.change(async (): Promise<Outcome> => {
        const held = life.last()?.objects.find(({ path }) => path === at.path)?.filter;
        if (held?.bus == null || held.address === null)
          return err(transient("NotSeen", "What is to be removed is not known any more; it is looked at again."));
        onStep("telling the device model");
        const told = await channel.usbDel(held.bus, held.address, signal);
        if (!told.ok) return told;
        const forgotten = await records.forgetNote(DEVID, at.port);
        life.look();
        if (!forgotten.ok) return forgotten;
        life.removeObject(at.path);
        return ok(null);
      })),
  };
}
