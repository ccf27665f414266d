/** xl as a program of the simulated host: a shell script that prints a listing, which is kept as one file a domain. */
import { mkdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { DOM0, type Listed, listHead, listRow } from "./xl-list.ts";

export type XlProgram = {
  show(domain: Listed, name: string | null): void;
  hide(domid: number): void;
  /** Without xenstored it does nothing. */
  allow(on: boolean): void;
};

const SCRIPT = `#!/bin/sh
case "$*" in
  list) kind=plain ;;
  "list -v" | "list --verbose") kind=verbose ;;
  *) echo "xl: command not simulated: $*" >&2; exit 1 ;;
esac
test -e "$0.allowed" || { echo "xl: libxl_ctx_alloc failed: cannot connect to xenstore" >&2; exit 1; }
cat "$0.$kind"/* 2>/dev/null
exit 0
`;

export function createXlProgram(path: string): XlProgram {
  const kinds = [
    ["plain", false],
    ["verbose", true],
  ] as const;
  const put = (file: string, text: string): void => {
    writeFileSync(`${path}.new`, text);
    renameSync(`${path}.new`, file);
  };
  /** Sorted as the hypervisor lists them. */
  const row = (kind: string, domid: number): string => join(`${path}.${kind}`, String(domid).padStart(5, "0"));
  const program: XlProgram = {
    show(domain, name) {
      for (const [kind, verbose] of kinds) put(row(kind, domain.domid), listRow(domain, name, verbose));
    },
    hide(domid) {
      for (const [kind] of kinds) rmSync(row(kind, domid), { force: true });
    },
    allow(on) {
      if (on) writeFileSync(`${path}.allowed`, "");
      else rmSync(`${path}.allowed`, { force: true });
    },
  };

  mkdirSync(dirname(path), { recursive: true });
  for (const [kind, verbose] of kinds) {
    mkdirSync(`${path}.${kind}`, { recursive: true });
    writeFileSync(join(`${path}.${kind}`, "-head"), listHead(verbose));
  }
  program.show(DOM0, "Domain-0");
  writeFileSync(path, SCRIPT, { mode: 0o755 });
  return program;
}
