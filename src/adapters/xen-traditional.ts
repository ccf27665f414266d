/**
 * Attach and detach in a domain whose device model is qemu-traditional: told over its command channel, which answers the same whether it worked
 * or not, and kept by a mark of ours, for nothing lists what it has. Attached is Unverified, always.
 */
import { type Attached, type Outcome, type Place, transient } from "../model/action.ts";
import { instanceOf } from "../model/hostdev.ts";
import { err, ok } from "../model/result.ts";
import { TRADITIONAL_DEVID, traditionalObject } from "../protocol/xenstore-objects.ts";
import { markOf } from "../protocol/xenstore-usb.ts";
import type { DmCommandChannel } from "./dm-command-channel.ts";
import { hindrance, type XenActionDeps, type XenActions } from "./xen-actions.ts";

export function createXenTraditional({ life, records, domid }: XenActionDeps, channel: DmCommandChannel): XenActions {
  return {
    attach: async ({ domain, device, bus, port }: Place, { signal, onStep }): Promise<Outcome> => {
      const hindered = await hindrance(life, signal);
      if (hindered !== null) return err(hindered);
      return await life.change(async (): Promise<Outcome> => {
        onStep("telling the device model");
        const mark = markOf(device, null);
        // The mark first: what was told and not marked could never be taken back.
        const noted = await records.note(TRADITIONAL_DEVID, port, mark);
        life.look();
        if (!noted.ok) return noted;
        const told = await channel.usbAdd(device.bus, device.address, signal);
        if (!told.ok) {
          await records.forgetNote(TRADITIONAL_DEVID, port);
          return told;
        }
        const object = traditionalObject(domid, port, mark);
        life.addObject(object);
        return ok({ domain, path: object.path, bus, port, instance: instanceOf(device) } satisfies Attached);
      });
    },
    detach: async (at, { signal, onStep }): Promise<Outcome> => {
      const hindered = await hindrance(life, signal);
      if (hindered !== null) return err(hindered);
      return await life.change(async (): Promise<Outcome> => {
        const held = life.seen().objects.find(({ path }) => path === at.path)?.filter;
        if (held?.bus == null || held.address === null)
          return err(transient("NotSeen", "What is to be removed is not known any more; it is looked at again."));
        onStep("telling the device model");
        const told = await channel.usbDel(held.bus, held.address, signal);
        if (!told.ok) return told;
        const forgotten = await records.forgetNote(TRADITIONAL_DEVID, at.port);
        life.look();
        if (!forgotten.ok) return forgotten;
        life.removeObject(at.path);
        return ok(null);
      });
    },
  };
}
