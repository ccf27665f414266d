/** A host device as `get host` and `host` show it: what it is, whether policy lets it go, who claims and who holds it. */
import { formatClass, type HostDevice } from "../model/hostdev.ts";
import type { ClaimStatus } from "../model/status.ts";
import { admitAnywhere } from "../planner/admit.ts";
import type { Reconciler } from "./reconcile.ts";
import { hostView } from "./status.ts";
import type { HostDeviceStatus } from "./view.ts";

export function hostStatus(
  busid: string,
  { planner, registry }: Pick<Reconciler, "planner" | "registry">,
  statusOf: (id: string) => ClaimStatus | undefined,
): HostDeviceStatus | null {
  const device = planner.world.host.get(busid);
  if (device === undefined) return null;
  const about = [...registry.about(busid)];
  return {
    device: {
      ...hostView(device),
      speed: device.speed,
      class: device.deviceClass === null ? null : formatClass(device.deviceClass),
      interfaces: device.interfaces?.map(formatClass) ?? null,
      removable: device.removable,
      hub: device.hub,
      drivers: [...device.drivers],
    },
    claims: about.flatMap((id) => {
      const status = statusOf(id);
      return status === undefined ? [] : [{ domain: status.domain, name: status.name, phase: status.phase }];
    }),
    policy: admitAnywhere(device, planner.world),
    holder: holderOf(device, about, { planner }),
  };
}

const holderOf = (device: HostDevice, about: readonly string[], { planner }: Pick<Reconciler, "planner">): string | null => {
  for (const id of about) {
    const claim = planner.claims.get(id);
    if (claim?.owned != null && claim.hostdev?.busid === device.busid) return claim.domain;
    const orphan = planner.orphans.get(id);
    if (orphan !== undefined && !orphan.dead) return planner.world.domains.get(orphan.live)?.name ?? orphan.live;
  }
  return null;
};
