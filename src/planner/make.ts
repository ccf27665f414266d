/** Which USB controllers can be made in a running domain, and what to say where they cannot (product.md §9; facts/qmp.md B.6). */
import type { DesiredController } from "../model/desired.ts";
import type { LiveDomain } from "../model/domain.ts";
import { type ControllerModel, controllerModel, modelOfVersion } from "../model/usbctrl.ts";

/** Paravirtual or emulated, where the file leaves it open (product.md §2, `type`). */
const isPv = ({ type }: DesiredController, live: Pick<LiveDomain, "type">): boolean =>
  type === "pv" || (type === "auto" && (live.type === "pv" || live.type === "pvh"));

/** The model that a declared controller stands for in this domain; undefined: nobody knows it. libxl's xHCI is NEC's. */
function declaredModel(controller: DesiredController, live: Pick<LiveDomain, "type" | "xen">): ControllerModel | undefined {
  const { model, version } = controller;
  if (model !== null) return controllerModel(model);
  if (isPv(controller, live)) return controllerModel(version === 1 ? "xenusb1" : "xenusb2");
  return live.xen !== undefined && (version ?? 3) === 3 ? controllerModel("xenusb3") : modelOfVersion(version ?? 3);
}

const clamp = (ports: number, { minPorts, maxPorts }: ControllerModel): number => Math.min(maxPorts, Math.max(minPorts, ports));

const bootLine = (name: string, driver: string): string => `add to the domain's own configuration: -device ${driver},id=${name}`;

/** Why a controller cannot be made. */
export type Unmakeable = { readonly reason: "NoController" | "BackendNotLocal"; readonly message: string };
export type Makeable = ControllerModel & { readonly ports: number };
const impossible = (message: string): Unmakeable => ({ reason: "NoController", message });

/** @returns the model with the ports to make it with, or why it cannot be made here, in words */
export function makeable(controller: DesiredController, live: LiveDomain): Makeable | Unmakeable {
  const { name, type, backend } = controller;
  const model = declaredModel(controller, live);
  if (model === undefined) return impossible(`controller ${name}: no model is called ${controller.model ?? ""}`);
  const ports = clamp(controller.ports, model);
  if (type === "pv" || model.kind === "pv") {
    if (live.xen === undefined) {
      return impossible(`controller ${name} is paravirtual, which plain QEMU does not have; say \`type: emulated\` or leave the type out`);
    }
    if (backend !== null && backend !== "Domain-0") {
      const message = `controller ${name}: its backend is domain ${backend}, and plugherd serves its own domain only; leave \`backend\` out`;
      return { reason: "BackendNotLocal", message };
    }
    const driver = live.xen.backends.find((one) => model.driver === "xenusb" || model.driver === one);
    return driver === undefined ? impossible(`controller ${name}: ${pvHint(live)}`) : { ...model, driver, ports };
  }
  if (live.xen?.emulated === false) return impossible(`controller ${name}: ${EMULATED_HINT}`);
  if (live.drivers !== null && !live.drivers.includes(model.driver)) {
    return impossible(`controller ${name}: the domain's QEMU has no ${model.driver}; choose another model, such as qemu-xhci`);
  }
  if (!model.hotPluggable) {
    return impossible(`controller ${name}: ${model.driver} cannot be added to a running domain; ${bootLine(name, model.driver)}`);
  }
  return { ...model, ports };
}

const EMULATED_HINT = "this domain has no device model that could emulate one; say `type: pv` or leave the type out";

/** A paravirtual controller needs a backend: a device model that serves qusb, or a kernel with usbback. */
const pvHint = ({ name }: Pick<LiveDomain, "name">): string =>
  "no paravirtual USB controller can be made while the domain runs: it has no device model that serves qusb, and the kernel no usbback; " +
  `add to its own configuration (${name ?? "domain"}.cfg): usbctrl=["type=qusb,version=2,ports=8"]`;

/** The controller that is made where the file names none; or why none can be. */
export function automaticModel(live: LiveDomain): Makeable | Unmakeable {
  const { xen } = live;
  const driver = xen === undefined ? "qemu-xhci" : live.type === "hvm" ? "nec-usb-xhci" : xen.backends[0];
  if (driver === undefined) return impossible(pvHint(live));
  const model = controllerModel(driver);
  if (model === undefined) throw new Error(`no model ${driver}`);
  if (model.kind === "emulated" && (xen?.emulated === false || (live.drivers !== null && !live.drivers.includes(driver))))
    return impossible(`its QEMU has no ${driver}; add to its own configuration: -device nec-usb-xhci,id=usb`);
  return { ...model, ports: DEFAULT_PORTS };
}
const DEFAULT_PORTS = 8;

/** What to add to the domain so that there is room for a controller. */
export function slotHint({ machine }: Pick<LiveDomain, "machine">): string {
  return machine?.includes("q35") === true
    ? "the domain has no free PCI Express root port; add to its own configuration: -device pcie-root-port,id=rp1,chassis=1"
    : "the domain has no free PCI slot for one; add to its own configuration: -device qemu-xhci,id=usb,p2=8,p3=8";
}

/** What a declared controller and the live one of its name do not agree on; a running domain's controller is never changed. */
export function driftOf(declared: readonly DesiredController[] | null, domain: LiveDomain): readonly string[] {
  return (declared ?? []).flatMap((controller) => {
    const named = domain.controllers.filter(({ name }) => name === controller.name);
    const live = named.find(({ ours }) => ours) ?? named[0];
    const model = declaredModel(controller, domain);
    if (live === undefined || model === undefined) return [];
    const said = controller.model !== null || controller.version !== null || live.ours;
    const restart = "it changes when the domain is started anew";
    const kind =
      said && (controller.model === null || model.driver === "xenusb" ? live.version !== model.version : live.driver !== model.driver)
        ? [`controller ${controller.name} is a ${live.driver}, the file says ${model.driver}; ${restart}`]
        : [];
    const ports = clamp(controller.ports, model);
    const count =
      live.ours && kind.length === 0 && live.ports !== ports
        ? [`controller ${controller.name} has ${String(live.ports)} ports, the file says ${String(ports)}; ${restart}`]
        : [];
    return [...kind, ...count];
  });
}
