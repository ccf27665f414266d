/** What on a host would stop plugherd working, from facts that were gathered (`doctor`, product.md §5). What is Xen's own is in xen-checkup.ts. */

export const SEVERITIES = ["problem", "warning", "note"] as const;
export type HostFinding = {
  /** problem: something does not work. warning: something will not, or costs something. note: how things are. */
  readonly severity: (typeof SEVERITIES)[number];
  /** CamelCase, stable. */
  readonly reason: string;
  /** What it is about: a path, a domain, a file and line. */
  readonly about: string;
  /** One sentence. */
  readonly message: string;
  /** What to do about it; null: nothing. */
  readonly remedy: string | null;
};

/** A directory, as whoever asks may use it. */
export type PlaceFacts = { readonly path: string; readonly state: "usable" | "missing" | "denied" | "other" };
/** Files that people write. */
export type FilesFacts = PlaceFacts & {
  readonly files: number;
  readonly errors: number;
  readonly warnings: number;
  /** The first of them, as `validate` prints it. */
  readonly first: string | null;
};
export type HostFacts = {
  /** Version of Node, e.g. `20.19.0`, and the least that will do. */
  readonly node: string;
  readonly leastNode: string;
  /** Whoever asks is root: else what is denied may be denied to him only. */
  readonly root: boolean;
  /** `bus/usb/devices` in sysfs, and `bus/usb` among the device nodes. */
  readonly sysfs: PlaceFacts;
  readonly nodes: PlaceFacts;
  /** Usable: it can be written to, or made. */
  readonly state: PlaceFacts;
  readonly monitors: PlaceFacts;
  readonly specs: FilesFacts;
  readonly policy: FilesFacts;
};

/** What the daemon tells of itself. */
export type LiveFacts = {
  readonly version: string;
  readonly ready: boolean;
  /** Of the daemon, then of its domains: all but those that say that nothing is wrong. */
  readonly conditions: readonly { readonly about: string; readonly reason: string; readonly message: string; readonly stalled: boolean }[];
  readonly monitors: readonly { readonly domain: string; readonly path: string; readonly state: string }[];
};
export type DaemonFacts =
  | { readonly live: LiveFacts }
  | { readonly unreachable: { readonly message: string; readonly remedy: string | null } };

const byUs = "run plugherd as root, or as somebody who may";

export function checkHost(facts: HostFacts): readonly HostFinding[] {
  const { node, leastNode, sysfs, nodes, state, monitors, specs, policy } = facts;
  const found: HostFinding[] = [];
  const say = (severity: HostFinding["severity"], reason: string, about: string, message: string, remedy: string | null): void => {
    found.push({ severity, reason, about, message, remedy });
  };
  if (isOlder(node, leastNode)) say("problem", "NodeTooOld", "node", `This is Node ${node}.`, `Install Node ${leastNode} or newer.`);
  if (!facts.root) say("note", "NotRoot", "doctor", "You are not root: what you may not see is not checked.", "Run it with sudo.");
  if (sysfs.state !== "usable")
    say(
      "problem",
      "SysfsUnreadable",
      sysfs.path,
      sysfs.state === "missing" ? "The kernel shows no USB devices." : "The host's USB devices cannot be read.",
      sysfs.state === "missing" ? "Mount sysfs, and load usbcore with a host controller's driver." : `Let it be read: ${byUs}.`,
    );
  if (nodes.state !== "usable")
    say(
      "problem",
      "DeviceNodesUnreadable",
      nodes.path,
      nodes.state === "missing"
        ? "There are no device nodes of USB devices: nothing could be passed on."
        : "The device nodes cannot be read.",
      nodes.state === "missing" ? "Mount devtmpfs; in a container, pass the host's /dev/bus/usb in." : `Let them be read: ${byUs}.`,
    );
  if (state.state !== "usable")
    say(
      "problem",
      "StateNotWritable",
      state.path,
      "What is intended (holds, last good files) cannot be kept over a restart.",
      `Make it writable, or name another with --state; or ${byUs}.`,
    );
  if (monitors.state === "denied" || monitors.state === "other")
    say(
      "problem",
      "MonitorDirUnreadable",
      monitors.path,
      monitors.state === "other" ? "It is no directory: no QEMU is found." : "It cannot be read: no QEMU is found.",
      "Name the directory of the monitor sockets with --qmp-dir.",
    );
  else if (monitors.state === "missing")
    say(
      "note",
      "MonitorDirMissing",
      monitors.path,
      "It is not there yet.",
      "Make it, and have QEMUs put their monitor sockets there, ending in .sock; plugherd notices.",
    );
  found.push(...checkFiles("Specs", specs), ...checkFiles("Policy", policy));
  return found;
}

function checkFiles(kind: "Specs" | "Policy", { path, state, files, errors, warnings, first }: FilesFacts): readonly HostFinding[] {
  const one = (severity: HostFinding["severity"], reason: string, message: string, remedy: string): readonly HostFinding[] => [
    { severity, reason: `${kind}${reason}`, about: path, message, remedy },
  ];
  if (state === "denied" || state === "other") return one("problem", "Unreadable", "It cannot be read.", `Correct it, or ${byUs}.`);
  if (kind === "Specs" && (state === "missing" || files === 0))
    return one("warning", "Missing", "No file says which devices belong where.", "Write one: plugherd host prints lines to begin with.");
  if (state === "missing") return one("note", "Missing", "Everything but the built-in denials is allowed.", "Write one to allow less.");
  const more = errors + warnings > 1 ? ` (${String(errors)} errors, ${String(warnings)} warnings)` : "";
  if (errors > 0) return one("problem", "Invalid", `${first ?? "It is invalid"}${more}`, `plugherd validate ${path}`);
  return warnings > 0 ? one("warning", "Doubtful", `${first ?? "It has warnings"}${more}`, `plugherd validate ${path}`) : [];
}

/** @param version - of this program: daemon and command should be of one */
export function checkDaemon(facts: DaemonFacts, version: string): readonly HostFinding[] {
  if ("unreachable" in facts) {
    const { message, remedy } = facts.unreachable;
    return [{ severity: "warning", reason: "DaemonUnreachable", about: "daemon", message, remedy }];
  }
  const { live } = facts;
  const found: HostFinding[] = [];
  if (live.version !== version)
    found.push({
      severity: "warning",
      reason: "VersionsDiffer",
      about: "daemon",
      message: `The daemon is plugherd ${live.version}, this command ${version}.`,
      remedy: "Restart the daemon; devices stay attached.",
    });
  if (!live.ready)
    found.push({
      severity: "warning",
      reason: "NotReady",
      about: "daemon",
      message: "It has not read host, domains, files and policy once.",
      remedy: "Look at its log for what it waits for.",
    });
  for (const { about, reason, message, stalled } of live.conditions)
    found.push({
      severity: stalled ? "problem" : "warning",
      reason,
      about,
      message,
      remedy: `plugherd describe${about === "daemon" ? "" : ` ${quoted(about)}`}`,
    });
  for (const { domain, path, state } of live.monitors) {
    if (state === "busy")
      found.push({
        severity: "problem",
        reason: "MonitorBusy",
        about: domain,
        message: `Another program holds its monitor ${path}, which serves one at a time.`,
        remedy: "End that program, or give the QEMU a monitor for plugherd alone.",
      });
    const ofXentop = /\/qmp-libxenstat-\d+$/.test(path);
    if (ofXentop)
      found.push({
        severity: "note",
        reason: "LibxenstatHeld",
        about: domain,
        message: `plugherd holds ${path}: xentop shows no disk figures of the domain.`,
        remedy: `To have both: device_model_args=["-qmp","unix:/run/plugherd/qmp/NAME.sock,server=on,wait=off"] in its configuration.`,
      });
  }
  return found;
}

function isOlder(version: string, least: string): boolean {
  const [a, b] = [version, least].map((text) => text.split(".").map(Number));
  for (let i = 0; i < 3; i += 1) if ((a?.[i] ?? 0) !== (b?.[i] ?? 0)) return (a?.[i] ?? 0) < (b?.[i] ?? 0);
  return false;
}
/** For a shell. */
export const quoted = (text: string): string => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
