/** Rows of a benchmark on the test host, and how their moments are read. */
import { median, type Row } from "../bench/row.ts";
import type { Host } from "./host.ts";

/** Least, median, most. */
export const spread = (numbers: readonly number[]): string =>
  `${Math.min(...numbers).toFixed(0)}/${median(numbers).toFixed(0)}/${Math.max(...numbers).toFixed(0)}`;
export const round = (value: number): number => Math.round(value * 10) / 10;
/** A promise of at least `floor` times. */
export const times = (ratio: number, floor: number): Pick<Row, "value" | "unit" | "promise" | "met"> => ({
  value: round(ratio),
  unit: "x",
  promise: `>= ${String(floor)}`,
  met: ratio >= floor,
});
/** A row without a promise. */
export const beside = (name: string, value: number): Row => ({ name, value: round(value), unit: "ms", promise: null, met: null });

/** Birth of a device node and first and last line of QEMU's trace of that kind since, in seconds of the host's clock. */
export async function moments(
  host: Host,
  name: string,
  node: string,
): Promise<{ birth: number; add: number | null; open: number; opened: number }> {
  const trace = `/run/witness/${name}.trace`;
  const out = await host.sh(
    `stat -c 'birth %.9W' ${node}
     tail -n 200 ${trace} | grep -a '"device_add"' | grep -a usb-host | sed -n 's/^[0-9]*@\\([0-9.]*\\):.*/add \\1/p'
     tail -n 200 ${trace} | sed -n 's/^[0-9]*@\\([0-9.]*\\):usb_host_open_success.*/opened \\1/p; s/^[0-9]*@\\([0-9.]*\\):usb_host_open_\\(started\\|hostfd\\).*/open \\1/p'`,
  );
  const all = out.split("\n").map((line) => line.split(" "));
  const birth = Number(all.find(([kind]) => kind === "birth")?.[1]);
  const since = (kind: string): number[] =>
    all.filter((line) => line[0] === kind && Number(line[1]) >= birth - 0.01).map((line) => Number(line[1]));
  const [open, opened] = [since("open")[0], since("opened")[0]];
  if (open === undefined || opened === undefined) throw new Error(`no opening in ${trace} since ${String(birth)}: ${out.slice(-800)}`);
  return { birth, add: since("add")[0] ?? null, open, opened };
}
