/** Which USB controllers can be made in a running domain, and what to say where they cannot (product.md §9; facts/qmp.md B.6). */
import type { DesiredController } from "../model/desired.ts";
import type { LiveController, LiveDomain } from "../model/domain.ts";
import { type ControllerModel, controllerModel, modelOfVersion } from "../model/usbctrl.ts";

/** The model that a declared controller stands for on plain QEMU; undefined: nobody knows it. */
const declaredModel = ({ model, version }: DesiredController): ControllerModel | undefined =>
  model === null ? modelOfVersion(version ?? 3) : controllerModel(model);

const clamp = (ports: number, { minPorts, maxPorts }: ControllerModel): number => Math.min(maxPorts, Math.max(minPorts, ports));

const bootLine = (name: string, driver: string): string => `add to the domain's own configuration: -device ${driver},id=${name}`;

/** @returns the model with the ports to make it with, or why it cannot be made here, in words */
export function makeable(controller: DesiredController, live: LiveDomain): (ControllerModel & { readonly ports: number }) | string {
  const { name, type } = controller;
  const model = declaredModel(controller);
  if (model === undefined) return `controller ${name}: no model is called ${controller.model ?? ""}`;
  if (type === "pv" || model.kind === "pv") {
    return `controller ${name} is paravirtual, which plain QEMU does not have; say \`type: emulated\` or leave the type out`;
  }
  if (live.drivers !== null && !live.drivers.includes(model.driver)) {
    return `controller ${name}: the domain's QEMU has no ${model.driver}; choose another model, such as qemu-xhci`;
  }
  if (!model.hotPluggable) {
    return `controller ${name}: ${model.driver} cannot be added to a running domain; ${bootLine(name, model.driver)}`;
  }
  return { ...model, ports: clamp(controller.ports, model) };
}

/** What to add to the domain so that there is room for a controller. */
export function slotHint({ machine }: Pick<LiveDomain, "machine">): string {
  return machine?.includes("q35") === true
    ? "the domain has no free PCI Express root port; add to its own configuration: -device pcie-root-port,id=rp1,chassis=1"
    : "the domain has no free PCI slot for one; add to its own configuration: -device qemu-xhci,id=usb,p2=8,p3=8";
}

/** What a declared controller and the live one of its name do not agree on; a running domain's controller is never changed. */
export function driftOf(declared: readonly DesiredController[] | null, controllers: readonly LiveController[]): readonly string[] {
  return (declared ?? []).flatMap((controller) => {
    const named = controllers.filter(({ name }) => name === controller.name);
    const live = named.find(({ ours }) => ours) ?? named[0];
    const model = declaredModel(controller);
    if (live === undefined || model === undefined) return [];
    const said = controller.model !== null || controller.version !== null || live.ours;
    const restart = "it changes when the domain is started anew";
    const kind =
      said && (controller.model === null ? live.version !== model.version : live.driver !== model.driver)
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
