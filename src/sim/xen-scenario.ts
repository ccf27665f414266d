/** Scenarios of a Xen host: what a domain of Xen is given, and the verbs of xl, xenstored and guests. */
import { count, either, flag, listOf, oneOf, type Reader, record, text, yes, matching } from "./shape.ts";
import type { SimXen } from "./xen.ts";
import type { XenSpec } from "./xen-domain.ts";
import { FRONTENDS } from "./xen-frontend.ts";
import type { XlOutcome } from "./xl-qmp.ts";

const busid = matching(/^\d+-\d+(\.\d+)*$/, "a busid such as 1-1.4");
const place = { controller: count, port: count };
const controller = { type: oneOf("auto", "devicemodel", "qusb", "pv"), version: count, ports: count };
/** See XenSpec. */
export const xenDomainKeys = {
  type: oneOf("hvm", "pv", "pvh"),
  traditional: flag,
  deviceModel: flag,
  monitor: flag,
  usb: flag,
  usbversion: count,
  usbctrl: listOf(record({}, controller)),
  usbdev: listOf(record({ busid }, place)),
  frontend: oneOf(...FRONTENDS),
  paused: flag,
  foreign: flag,
  stubdom: flag,
  memory: count,
};
/** A node's path, with `{name}` for a domain's domid. */
const nodePath = matching(/^\/[A-Za-z0-9/_@{}.-]+$/, "a path of xenstore, {name} for a domain's domid");
const REASONS = { poweroff: 0, reboot: 1, suspend: 2, crash: 3, watchdog: 4 } as const;
const reasons = Object.keys(REASONS) as (keyof typeof REASONS)[];

/** What is refused must say so: `refused: true`. */
const refused = { refused: yes };
export const xenVerbs = <D>(domain: Reader<D>) =>
  ({
    xlCreate: domain,
    xlDestroy: text,
    xlReboot: text,
    xlRename: record({ domain: text, to: text }, {}),
    xlPause: text,
    xlUnpause: text,
    xlShutDown: record({ domain: text, as: oneOf(...reasons) }, {}),
    xlSave: either(text, record({ domain: text }, { checkpoint: flag })),
    xlRestore: either(text, record({ domain: text }, refused)),
    xlMigrateIn: domain,
    xlMigrateOut: text,
    xlUsbctrlAttach: record({ domain: text }, { ...controller, ...refused }),
    xlUsbctrlDetach: record({ domain: text, controller: count }, refused),
    xlUsbdevAttach: record({ domain: text, busid }, { ...place, ...refused }),
    xlUsbdevDetach: record({ domain: text, controller: count, port: count }, refused),
    frontend: record({ domain: text, does: oneOf(...FRONTENDS) }, {}),
    usbback: oneOf("load", "unload"),
    xenstored: oneOf("restart", "stop", "start", "hang", "go-on", "cut"),
    releaseEvent: yes,
    xenstoreWrite: record({ path: nodePath, value: text }, {}),
    xenstoreRemove: nodePath,
  }) as const;
/** A domain as scenarios have it: one without a type is none of Xen's. */
type DomainSpec = Omit<XenSpec, "type"> & { readonly type?: XenSpec["type"] };
function xenSpecOf(spec: DomainSpec): XenSpec {
  const { type } = spec;
  if (type === undefined) throw new Error(`${spec.name} needs a type`);
  return { ...spec, type };
}
type XenVerbs = ReturnType<typeof xenVerbs<DomainSpec>>;
export type XenStep = { [V in keyof XenVerbs]: { readonly verb: V; readonly value: NonNullable<ReturnType<XenVerbs[V]>> } }[keyof XenVerbs];

/** `{name}` becomes the domid of that domain. */
export const withDomids = (path: string, xen: SimXen): string =>
  path.replace(/\{([^}]+)\}/g, (_, name: string) => String(xen.xl.domain(name).domid));

function mustBe(outcome: XlOutcome, wanted: boolean | undefined): void {
  if (outcome.ok && wanted === true) throw new Error("xl did it, but was to refuse");
  if (!outcome.ok && wanted !== true) throw new Error(`xl refuses: ${outcome.error}`);
}

export async function playXen({ verb, value }: XenStep, xen: SimXen | null): Promise<void> {
  if (xen === null) throw new Error("the simulated host is none of Xen's");
  const { xl, store } = xen;
  switch (verb) {
    case "xlCreate":
      return void (await xl.create(xenSpecOf(value))); // one that fails leaves no domain
    case "xlDestroy":
      return xl.destroy(value);
    case "xlReboot":
      return mustBe(await xl.reboot(value), false);
    case "xlRename":
      return xl.rename(value.domain, value.to);
    case "xlPause":
      return xl.pause(value);
    case "xlUnpause":
      return xl.unpause(value);
    case "xlShutDown":
      return xl.shutDown(value.domain, REASONS[value.as]);
    case "xlSave":
      return typeof value === "string" ? xl.save(value) : xl.save(value.domain, { checkpoint: value.checkpoint === true });
    case "xlRestore":
      return typeof value === "string" ? mustBe(await xl.restore(value), false) : mustBe(await xl.restore(value.domain), value.refused);
    case "xlMigrateIn":
      return mustBe(await xl.migrateIn(xenSpecOf(value)), false);
    case "xlMigrateOut":
      return xl.migrateOut(value);
    case "xlUsbctrlAttach": {
      const { domain, refused: no, ...wish } = value;
      return mustBe(await xl.usbctrlAttach(domain, wish), no);
    }
    case "xlUsbctrlDetach":
      return mustBe(await xl.usbctrlDetach(value.domain, value.controller), value.refused);
    case "xlUsbdevAttach": {
      const { domain, busid: device, refused: no, ...where } = value;
      return mustBe(await xl.usbdevAttach(domain, { ...xen.addressOf(device), ...where }), no);
    }
    case "xlUsbdevDetach":
      return mustBe(await xl.usbdevDetach(value.domain, value.controller, value.port), value.refused);
    case "frontend":
      return xen.frontend(value.domain, value.does);
    case "usbback":
      return xen.usbback(value === "load");
    case "xenstored":
      return xenstored(xen, value);
    case "releaseEvent":
      return store.core.tellRelease();
    case "xenstoreWrite":
      return void store.write(withDomids(value.path, xen), value.value);
    case "xenstoreRemove":
      return void store.remove(withDomids(value, xen));
  }
}
const xenstored = async (xen: SimXen, does: Extract<XenStep, { verb: "xenstored" }>["value"]): Promise<void> => {
  switch (does) {
    case "restart":
      return xen.restartStore();
    case "stop":
      return xen.stopStore();
    case "start":
      return xen.startStore();
    case "hang":
      return xen.store.hang(true);
    case "go-on":
      return xen.store.hang(false);
    case "cut":
      return xen.store.disconnect();
  }
};
