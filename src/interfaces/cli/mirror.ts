/** The daemon's state as a watching command has it: fed by messages, tells what each one altered. */
import type { Change, HostDeviceStatus } from "../../controller/view.ts";
import type { ClaimStatus, Condition, DomainStatus } from "../../model/status.ts";
import type { Resume, WatchMessage } from "../http/messages.ts";

export type Mirror = {
  readonly devices: ReadonlyMap<string, ClaimStatus>;
  readonly domains: ReadonlyMap<string, DomainStatus>;
  readonly host: ReadonlyMap<string, HostDeviceStatus>;
  readonly conditions: readonly Condition[];
  /** Where to go on from after a lost connection. */
  readonly resume: Resume | null;
  readonly ready: boolean;
  /** @returns what is now different from before; after a snapshot, only what truly is */
  take(message: WatchMessage): readonly Change[];
};

const same = (a: unknown, b: unknown): boolean => JSON.stringify(a) === JSON.stringify(b);

export function createMirror(): Mirror {
  const devices = new Map<string, ClaimStatus>();
  const domains = new Map<string, DomainStatus>();
  const host = new Map<string, HostDeviceStatus>();
  let conditions: readonly Condition[] = [];
  let resume: Resume | null = null;
  let ready = false;

  const put = <T>(map: Map<string, T>, key: string, value: T | null): void => {
    if (value === null) map.delete(key);
    else map.set(key, value);
  };
  function apply(change: Change): void {
    if (change.kind === "device") put(devices, change.key, change.value);
    else if (change.kind === "domain") put(domains, change.key, change.value);
    else if (change.kind === "host") put(host, change.key, change.value);
    else if (change.kind === "conditions") conditions = change.value;
  }
  /** What turns the old map into the new one, as changes that bear the snapshot's number. */
  function differences<K extends "device" | "domain" | "host", T>(
    kind: K,
    seq: number,
    old: ReadonlyMap<string, T>,
    now: readonly { readonly key: string; readonly value: T }[],
  ): { seq: number; kind: K; key: string; value: T | null }[] {
    const present = new Set(now.map(({ key }) => key));
    return [
      ...[...old.keys()].filter((key) => !present.has(key)).map((key) => ({ seq, kind, key, value: null })),
      ...now.filter(({ key, value }) => !same(old.get(key), value)).map(({ key, value }) => ({ seq, kind, key, value })),
    ];
  }

  return {
    devices,
    domains,
    host,
    get conditions() {
      return conditions;
    },
    get resume() {
      return resume;
    },
    get ready() {
      return ready;
    },
    take(message) {
      resume = { id: message.id, seq: message.seq };
      if (message.type === "changes") {
        for (const change of message.changes) apply(change);
        return message.changes;
      }
      const { seq } = message;
      ready = message.ready;
      const altered: Change[] = [
        ...differences("domain", seq, domains, message.domains),
        ...differences("host", seq, host, message.host),
        ...differences("device", seq, devices, message.devices),
        ...(same(conditions, message.conditions) ? [] : [{ seq, kind: "conditions", value: message.conditions } as const]),
      ];
      for (const change of altered) apply(change);
      return altered;
    },
  };
}
