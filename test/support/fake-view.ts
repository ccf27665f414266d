/** A ControllerView that a test drives: plain values in, numbered changes out. */
import { Subject } from "rxjs";
import type {
  Change,
  ControllerView,
  HostDeviceStatus,
  JournalEntry,
  OperatorAnswer,
  OperatorRequest,
  PlanAnswer,
} from "../../src/controller/view.ts";
import type { ClaimStatus, Condition, DomainStatus } from "../../src/model/status.ts";
import type { Explanation } from "../../src/model/world.ts";

const SINCE = "2026-01-02T03:04:05.000Z";

export const claim = (domain: string, name: string, more: Partial<ClaimStatus> = {}): ClaimStatus => ({
  domain,
  name,
  phase: "Attached",
  reason: null,
  message: "Attached on hci0 port 1.",
  since: SINCE,
  tries: 0,
  nextTryAt: null,
  step: null,
  host: {
    busid: "1-1.4",
    anchor: "pci-0000:00:14.0/1.4",
    bus: 1,
    address: 7,
    vendor: "0529",
    product: "0001",
    serial: "0A4C2F",
    text: "SafeNet HASP HL",
  },
  guest: { controller: "hci0", port: 1, path: "/machine/peripheral/plugherd-1-7-312", attached: true },
  cause: { kind: "host", file: null, commit: null },
  ...more,
});

export const domain = (name: string, more: Partial<DomainStatus> = {}): DomainStatus => ({
  name,
  labels: { site: "lab" },
  mode: "enforce",
  file: `${name}.yaml`,
  observedGeneration: "0123456789ab",
  commit: null,
  live: {
    key: `${name}#1`,
    name,
    uuid: null,
    type: "qemu",
    state: "running",
    version: "7.2.22",
    monitor: `/run/plugherd/qmp/${name}.sock`,
    monitorState: "answering",
    controllers: [{ name: "hci0", driver: "qemu-xhci", ports: 8, ours: true, occupied: [1] }],
    others: [],
  },
  conditions: [{ type: "Ready", status: "True", reason: "AsDesired", message: "Every device is where it should be, or not on the host." }],
  devices: { total: 1, attached: 1 },
  ...more,
});

export const hostDevice = (
  busid: string,
  more: Partial<HostDeviceStatus["device"]> = {},
  rest: Partial<HostDeviceStatus> = {},
): HostDeviceStatus => ({
  device: {
    busid,
    anchor: `pci-0000:00:14.0/${busid.slice(2)}`,
    bus: 1,
    address: 7,
    vendor: "0529",
    product: "0001",
    serial: "0A4C2F",
    text: "SafeNet HASP HL",
    speed: 12,
    class: "00:00:00",
    interfaces: ["ff:00:00"],
    removable: true,
    hub: false,
    drivers: [],
    ...more,
  },
  claims: [],
  policy: { allowed: true, text: "no rule denies it" },
  holder: null,
  ...rest,
});

export const explanation = (domainName: string, name: string): Explanation => ({
  claim: {
    id: `${domainName}/${name}`,
    domain: domainName,
    device: name,
    busid: null,
    live: `${domainName}#1`,
    target: "stay",
    owned: null,
    ours: false,
    hostdev: null,
    verdict: null,
    remark: null,
  },
  candidates: [
    {
      device: {
        busid: "1-1.4",
        anchor: null,
        bus: 1,
        address: 7,
        inode: 312,
        node: "/dev/bus/usb/001/007",
        vendor: "0529",
        product: "0001",
        deviceClass: null,
        interfaces: null,
        speed: 12,
        serial: null,
        manufacturer: "SafeNet",
        productName: "HASP\u001b[31m HL",
        removable: null,
        hub: false,
        drivers: [],
      },
      steps: [
        { ok: true, text: "vendor 0529: yes" },
        { ok: false, text: "serial X: no, it is not known" },
      ],
      outcome: "does not match",
    },
  ],
  placement: ["controller hci0 has a free port"],
});

export type FakeView = ControllerView & {
  ready: boolean;
  /** Applies changes (numbered here) and emits them together. */
  change(...changes: readonly Unnumbered[]): void;
  /** As if the daemon had been restarted under another life. */
  rebirth(id: string): void;
  readonly asked: OperatorRequest[];
  answer: OperatorAnswer;
  planned: PlanAnswer;
  journal: JournalEntry[];
};
type Unnumbered = Change extends infer C ? (C extends Change ? Omit<C, "seq"> : never) : never;

/** Changes older than this are forgotten: a client that comes back from before gets a snapshot. */
const KEPT = 100;

export function createFakeView(
  start: {
    readonly domains?: readonly DomainStatus[];
    readonly devices?: readonly ClaimStatus[];
    readonly host?: readonly HostDeviceStatus[];
  } = {},
): FakeView {
  const domains = new Map((start.domains ?? []).map((value) => [value.name, value]));
  const devices = new Map((start.devices ?? []).map((value) => [`${value.domain}/${value.name}`, value]));
  const host = new Map((start.host ?? []).map((value) => [value.device.busid, value]));
  const changes$ = new Subject<readonly Change[]>();
  let id = "life-1";
  let seq = 0;
  let history: Change[] = [];
  let conditions: readonly Condition[] = [];
  const put = <T>(map: Map<string, T>, key: string, value: T | null): void => {
    if (value === null) map.delete(key);
    else map.set(key, value);
  };
  const view: FakeView = {
    ready: true,
    asked: [],
    answer: { ok: true, message: "done" },
    planned: { problems: [], changes: [] },
    journal: [],
    changes$,
    snapshot: () => ({
      id,
      seq,
      domains: [...domains.values()],
      devices: [...devices.values()],
      deviceKeys: [...devices.keys()],
      host: [...host.values()],
      conditions,
    }),
    since(life, from) {
      if (life !== id || from > seq || from < seq - KEPT) return null;
      return history.filter((change) => change.seq > from);
    },
    events: ({ domain: ofDomain, device, limit = 200 }) =>
      view.journal
        .filter((entry) => (ofDomain === undefined || entry.domain === ofDomain) && (device === undefined || entry.device === device))
        .slice(-limit),
    explain(device, ofDomain) {
      const found = [...devices.values()].filter((one) => one.name === device && (ofDomain === undefined || one.domain === ofDomain));
      return found.length === 0 ? null : found.map((one) => explanation(one.domain, one.name));
    },
    plan: () => view.planned,
    operate(request) {
      view.asked.push(request);
      return Promise.resolve(view.answer);
    },
    change(...changes) {
      const numbered = changes.map((change) => {
        seq += 1;
        return { ...change, seq } as Change;
      });
      for (const change of numbered) {
        if (change.kind === "device") put(devices, change.key, change.value);
        else if (change.kind === "domain") put(domains, change.key, change.value);
        else if (change.kind === "host") put(host, change.key, change.value);
        else if (change.kind === "conditions") conditions = change.value;
        else if (change.kind === "event") view.journal.push(change.value);
      }
      history = [...history, ...numbered].slice(-KEPT);
      changes$.next(numbered);
    },
    rebirth(life) {
      id = life;
      seq = 0;
      history = [];
    },
  };
  return view;
}
