/** Every setting of `run`, by the name that it has in the config file (product.md §5). */

export const DEFAULT_API = "/run/plugherd/api.sock";

type Setting = {
  /** Name in the config file; `--kebab-case` and `PLUGHERD_UPPER_CASE` follow from it. */
  readonly key: string;
  readonly value: string;
  readonly about: string;
  readonly fallback: string | null;
  /** No option: it would show in the process list. */
  readonly secret?: true;
};

export const SETTINGS = [
  { key: "specs", value: "dir", about: "directory of desired-state files", fallback: "/etc/plugherd/domains" },
  { key: "policy", value: "file", about: "the host's policy", fallback: "/etc/plugherd/policy.yaml" },
  { key: "qmpDir", value: "dir", about: "monitor sockets: each *.sock is a QEMU", fallback: "/run/plugherd/qmp" },
  { key: "qmpListen", value: "path", about: "socket for QEMUs that dial in", fallback: "/run/plugherd/monitor.sock" },
  { key: "sysfs", value: "dir", about: "where sysfs is mounted", fallback: "/sys" },
  { key: "dev", value: "dir", about: "where the device nodes are", fallback: "/dev" },
  { key: "proc", value: "dir", about: "where procfs is mounted", fallback: "/proc" },
  { key: "xenstore", value: "path", about: "socket or device of xenstored", fallback: "/run/xenstored/socket" },
  { key: "xenLib", value: "dir", about: "where libxl keeps its files of domains", fallback: "/var/lib/xen" },
  { key: "xl", value: "program", about: "the xl program", fallback: "xl" },
  { key: "state", value: "dir", about: "where plugherd keeps intentions over restarts", fallback: "/var/lib/plugherd" },
  { key: "api", value: "path", about: "socket of the live API", fallback: DEFAULT_API },
  { key: "listen", value: "host:port", about: "serve the live API on TCP too, with a token", fallback: null },
  { key: "logLevel", value: "level", about: "debug, info, warn, error, silent", fallback: "info" },
  { key: "logFormat", value: "format", about: "text, json", fallback: "text" },
  { key: "apiToken", value: "text", about: "token of operators on TCP", fallback: null, secret: true },
  { key: "apiReadToken", value: "text", about: "token on TCP that may only look", fallback: null, secret: true },
] as const satisfies readonly Setting[];

export type SettingKey = (typeof SETTINGS)[number]["key"];

export const kebab = (key: string): string => key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
export const flagOf = ({ key, value }: Pick<Setting, "key" | "value">): string => `--${kebab(key)} <${value}>`;
export const variableOf = (key: string): string => `PLUGHERD_${kebab(key).replaceAll("-", "_").toUpperCase()}`;
