/** The columns of `get` and `watch`. Pure. */
import type { HostDeviceStatus, JournalEntry } from "../../controller/view.ts";
import { compareBusids } from "../../model/busid.ts";
import type { ClaimStatus, DomainStatus, HostView } from "../../model/status.ts";
import { formatDuration } from "./durations.ts";
import { type Column, type Colour, paint, phaseColour, shown } from "./render.ts";

const since = (time: string, now: number): string => formatDuration(now - Date.parse(time));
export const ids = (device: Pick<HostView, "vendor" | "product">): string => `${device.vendor}:${device.product}`;
const hostText = ({ host }: ClaimStatus): string => (host === null ? "" : `${host.busid} ${ids(host)} ${host.text}`);
const guestText = ({ guest }: ClaimStatus): string => (guest === null ? "" : `${guest.controller}:${String(guest.port)}`);

export const deviceColumns = (now: number): readonly Column<ClaimStatus>[] => [
  { title: "DOMAIN", value: ({ domain }) => domain },
  { title: "NAME", value: ({ name }) => name },
  { title: "PHASE", value: ({ phase }) => phase, colour: ({ phase }) => phaseColour(phase) },
  { title: "REASON", value: ({ reason }) => reason ?? "" },
  { title: "HOST", value: hostText },
  { title: "GUEST", value: guestText },
  { title: "AGE", value: (claim) => since(claim.since, now) },
  { title: "SERIAL", wide: true, value: ({ host }) => host?.serial ?? "" },
  { title: "ANCHOR", wide: true, value: ({ host }) => host?.anchor ?? "" },
  { title: "ADDRESS", wide: true, value: ({ host }) => (host === null ? "" : `${String(host.bus)}.${String(host.address)}`) },
  { title: "OBJECT", wide: true, value: ({ guest }) => guest?.path ?? "" },
  { title: "TRIES", wide: true, value: ({ tries }) => String(tries) },
  {
    title: "NEXT TRY",
    wide: true,
    value: ({ nextTryAt }) => (nextTryAt === null ? "" : `in ${formatDuration(Date.parse(nextTryAt) - now)}`),
  },
  { title: "STEP", wide: true, value: ({ step }) => step ?? "" },
  {
    title: "CAUSE",
    wide: true,
    value: ({ cause }) => (cause === null ? "" : [cause.kind, cause.file, cause.commit].filter((text) => text !== null).join(" ")),
  },
  { title: "MESSAGE", value: ({ message }) => message },
];

const readyOf = (domain: DomainStatus) => domain.conditions.find(({ type }) => type === "Ready");
const readyColour = (domain: DomainStatus): Colour => (readyOf(domain)?.status === "True" ? "green" : "red");

export const domainColumns = (): readonly Column<DomainStatus>[] => [
  { title: "NAME", value: ({ name }) => name },
  { title: "MODE", value: ({ mode }) => mode },
  { title: "READY", value: (domain) => readyOf(domain)?.status ?? "", colour: readyColour },
  { title: "REASON", value: (domain) => readyOf(domain)?.reason ?? "" },
  {
    title: "STATE",
    value: ({ live }) =>
      live === null ? "" : live.monitorState === "answering" ? live.state : `${live.state} (monitor ${live.monitorState})`,
  },
  { title: "DEVICES", value: ({ devices }) => `${String(devices.attached)}/${String(devices.total)}` },
  { title: "FILE", value: ({ file }) => file ?? "" },
  {
    title: "GENERATION",
    wide: true,
    value: ({ observedGeneration, commit }) => [observedGeneration, commit].filter((text) => text !== null).join(" "),
  },
  { title: "TYPE", wide: true, value: ({ live }) => live?.type ?? "" },
  { title: "UUID", wide: true, value: ({ live }) => live?.uuid ?? "" },
  { title: "VERSION", wide: true, value: ({ live }) => live?.version ?? "" },
  { title: "MONITOR", wide: true, value: ({ live }) => live?.monitor ?? "" },
  {
    title: "LABELS",
    wide: true,
    value: ({ labels }) =>
      Object.entries(labels)
        .map(([key, value]) => `${key}=${value}`)
        .join(","),
  },
  { title: "MESSAGE", value: (domain) => readyOf(domain)?.message ?? "" },
];

export const hostColumns = (): readonly Column<HostDeviceStatus>[] => [
  { title: "BUSID", value: ({ device }) => device.busid },
  { title: "ID", value: ({ device }) => ids(device) },
  { title: "DEVICE", value: ({ device }) => device.text },
  { title: "SERIAL", value: ({ device }) => device.serial ?? "" },
  { title: "SPEED", value: ({ device }) => (device.speed === null ? "" : `${String(device.speed)}M`) },
  { title: "HOLDER", value: ({ holder }) => holder ?? "" },
  { title: "CLAIMS", value: ({ claims }) => claims.map(({ domain, name }) => `${domain}/${name}`).join(",") },
  { title: "ANCHOR", wide: true, value: ({ device }) => device.anchor ?? "" },
  { title: "ADDRESS", wide: true, value: ({ device }) => `${String(device.bus)}.${String(device.address)}` },
  { title: "INTERFACES", wide: true, value: ({ device }) => device.interfaces?.join(",") ?? "unknown" },
  { title: "DRIVERS", wide: true, value: ({ device }) => device.drivers.join(",") },
  {
    title: "POLICY",
    value: ({ policy }) => (policy.allowed ? "allowed" : `denied: ${policy.text}`),
    colour: ({ policy }) => (policy.allowed ? "none" : "red"),
  },
];

const order = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);
/** By domain; entries keep the order in which they came, which is their file's. */
export const sortDevices = (rows: readonly ClaimStatus[]): ClaimStatus[] => [...rows].sort((a, b) => order(a.domain, b.domain));
export const sortDomains = (rows: readonly DomainStatus[]): DomainStatus[] => [...rows].sort((a, b) => order(a.name, b.name));
export const sortHost = (rows: readonly HostDeviceStatus[]): HostDeviceStatus[] =>
  [...rows].sort((a, b) => compareBusids(a.device.busid, b.device.busid));

/** `09:41:07`, in the reader's time zone. */
const clockTime = (time: string): string => {
  const date = new Date(time);
  return Number.isNaN(date.getTime()) ? shown(time, 32) : date.toTimeString().slice(0, 8);
};

/** One line of `watch` and `demo` without a terminal: domain, device, phase, and why. */
export const deviceLine = (claim: ClaimStatus, colour: boolean): string => {
  const reason = claim.reason === null ? "" : `/${claim.reason}`;
  const device = claim.host === null ? "" : `  [${shown(claim.host.busid)}]`;
  return `${shown(`${claim.domain}/${claim.name}`)}  ${paint(shown(`${claim.phase}${reason}`), phaseColour(claim.phase), colour)}${device}  ${shown(claim.message)}`;
};

/** One line of `events`. */
export const eventLine = (event: JournalEntry, colour: boolean): string => {
  const about = [event.domain, event.device].filter((text) => text !== null).join("/");
  return [
    paint(clockTime(event.time), "dim", colour),
    event.kind.padEnd(8),
    shown(about) || "-",
    shown(event.reason ?? "-"),
    shown(event.message, 1_000),
  ].join("  ");
};
