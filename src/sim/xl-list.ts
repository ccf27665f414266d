/** Texts that xl prints. Source: tools/xl: xl_info.c (list_domains), xl_usb.c; golden recordings. */
import type { StoreNodes } from "./xenstore-local.ts";
import { controllerDevice, frontendPath, listControllers, portsPath } from "./xl-nodes.ts";

/** A domain as the hypervisor knows it. */
export type Listed = {
  readonly domid: number;
  readonly uuid: string;
  readonly memoryMb: number;
  readonly paused: boolean;
  /** Why it has shut down: 0 poweroff, 1 reboot, 2 suspend, 3 crash, 4 watchdog, 5 soft reset; null: it lives. */
  readonly shutdown: number | null;
  readonly dying: boolean;
};

const REASONS = "-rscwS";
const ZERO_UUID = "00000000-0000-0000-0000-000000000000";

const HEAD = "Name                                        ID   Mem VCPUs\tState\tTime(s)";
export const listHead = (verbose: boolean): string =>
  `${HEAD}${verbose ? "   UUID                            Reason-Code\tSecurity Label" : ""}\n`;
export const DOM0: Listed = { domid: 0, uuid: ZERO_UUID, memoryMb: 1536, paused: false, shutdown: null, dying: false };

/** @param name - from xenstore; null: not there, which xl shows as C does */
export function listRow({ domid, uuid, memoryMb, paused, shutdown, dying }: Listed, name: string | null, verbose: boolean): string {
  const reason = shutdown === null ? "-" : (REASONS[shutdown] ?? "?");
  const flags = [
    domid === 0 ? "r" : "-",
    domid === 0 || paused || shutdown !== null || dying ? "-" : "b",
    paused ? "p" : "-",
    shutdown === null ? "-" : "s",
    reason,
    dying ? "d" : "-",
  ];
  const columns = [String(domid).padStart(5), String(memoryMb).padStart(5), (domid === 0 ? "2" : "1").padStart(5)];
  const plain = `${(name ?? "(null)").padEnd(40)} ${columns.join(" ")}     ${flags.join("")}  ${"12.5".padStart(8)}`;
  const more = ` ${uuid} ${(shutdown === null ? "-" : shutdown.toString(16)).padStart(8)} ${"-".padStart(16)}`;
  return `${plain}${verbose ? more : ""}\n`;
}

/** @param addressOf - of what is plugged in at a busid; null: nothing */
export function usbListText(
  store: StoreNodes,
  domid: number,
  addressOf: (busid: string) => { readonly bus: number; readonly address: number } | null,
): string {
  const hex = (value: number): string => value.toString(16).padStart(3, "0");
  return listControllers(store, domid)
    .map((controller) => {
      const { devid, type, version, ports } = controller;
      const device = controllerDevice(domid, controller);
      const state = device.backend === null ? "0" : (store.read(`${frontendPath(device)}/state`) ?? "0");
      const lines = Array.from({ length: ports }, (_, n) => {
        const busid = store.read(`${portsPath(domid, controller)}/${String(n + 1)}`) ?? "";
        const found = busid === "" ? null : addressOf(busid);
        return `  Port ${String(n + 1)}:${found === null ? "" : ` Bus ${hex(found.bus)} Device ${hex(found.address)}`}`;
      });
      const columns = [String(devid).padEnd(6), type.padEnd(12), "0".padEnd(3), state.padEnd(5), String(version).padEnd(7)];
      return ["Devid  Type         BE  state usb-ver ports", `${columns.join(" ")} ${String(ports).padEnd(5)}`, ...lines, ""].join("\n");
    })
    .join("");
}
