/**
 * What `xl list -v` prints: which domains the hypervisor has, and whether one that is shut down only is so for a save.
 * Source: xen, tools/xl/xl_list.c (list_domains): `name ID Mem VCPUs State Time(s) UUID Reason-Code Security Label`, the name padded to 40
 * characters and free to be longer and to hold spaces, the reason in hex; xen/include/public/sched.h for the reasons.
 */
import { err, ok, type Result } from "../model/result.ts";

export type XlState = {
  readonly running: boolean;
  readonly blocked: boolean;
  readonly paused: boolean;
  /** It does not run any more and was not destroyed yet: `reason` says why. */
  readonly shutdown: boolean;
  readonly crashed: boolean;
  /** It is being destroyed. */
  readonly dying: boolean;
};
export type XlDomain = {
  readonly domid: number;
  /** null: it has none yet, or not any more. */
  readonly name: string | null;
  /** Lower case; the hypervisor's handle, which is the uuid of a domain that `xl` made. */
  readonly uuid: string;
  readonly state: XlState;
  /** One of {@link SHUTDOWN}, or a number that Xen added since. null: the domain is not shut down, or nobody knows why. */
  readonly reason: number | null;
};

/** Reasons of a shutdown. A domain is `suspend` while it is saved or migrates, and goes on afterwards. */
export const SHUTDOWN = { poweroff: 0, reboot: 1, suspend: 2, crash: 3, watchdog: 4, softReset: 5 } as const;

/** Longest row, a name of as many bytes as a xenstore node holds included. */
const MAX_ROW = 5_000;
const HEADER = /^Name +ID +Mem +VCPUs\s+State\s+Time\(s\).*UUID.*Reason-Code/;
/** From the end of the row: the name comes first and may look like anything. */
const ROW = new RegExp(
  [
    /^(.*) +(\d{1,5}) +\d+ +\d+ {5}/, // name, domid, memory, vcpus
    /([r-])([b-])([p-])([s-])([-rscwS?])([d-]) +[\d.,]+/, // flags and time
    / ([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}) +(-|[0-9a-f]{1,8})(?: +\S+)?\s*$/, // uuid, reason, label
  ]
    .map(({ source }) => source)
    .join(""),
  "is",
);
/** As libxl writes a reason that it does not know. */
const UNKNOWN = 0xffff_ffff;
/** What C prints for a name that is not there. */
const NO_NAME = "(null)";

/**
 * @param text - all of the output
 * @returns every domain, Domain-0 too. Refused as a whole where a line makes no sense: a list that lacks a row would tell of a domain as gone
 */
export function parseXlList(text: string): Result<readonly XlDomain[], { readonly message: string }> {
  const [header = "", ...lines] = text.split("\n");
  if (!HEADER.test(header)) return err({ message: `not a list of domains: ${quoted(header)}` });
  if (lines.pop() !== "") return err({ message: "the list of domains is cut off" });
  const rows: XlDomain[] = [];
  let held: string | null = null;
  for (const line of lines) {
    // A name may hold line ends.
    const row: string = held === null ? line : `${held}\n${line}`;
    if (row.length > MAX_ROW) return err({ message: `no row of a list of domains: ${quoted(row)}` });
    const parsed = parseRow(row);
    if (parsed === null) held = row;
    else {
      rows.push(parsed);
      held = null;
    }
  }
  return held === null ? ok(rows) : err({ message: `no row of a list of domains: ${quoted(held)}` });
}

function parseRow(row: string): XlDomain | null {
  const match = ROW.exec(row);
  if (match === null) return null;
  const [, name = "", domid, r, b, p, s, why, d, uuid = "", code = "-"] = match;
  const reason = code === "-" ? null : Number.parseInt(code, 16);
  return {
    domid: Number(domid),
    name: name.trimEnd() === NO_NAME ? null : name.trimEnd(),
    uuid: uuid.toLowerCase(),
    state: {
      running: r === "r",
      blocked: b === "b",
      paused: p === "p",
      shutdown: s === "s",
      crashed: why === "c",
      dying: d === "d",
    },
    reason: s !== "s" || reason === UNKNOWN ? null : reason,
  };
}

const quoted = (text: string): string => JSON.stringify(text.slice(0, 80));
