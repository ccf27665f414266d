/** `controllers:` of a desired-state file as written -> their values, defaults filled in, and what is wrong with them. */
import type { DesiredController } from "./desired.ts";
import {
  below,
  either,
  entries,
  type Findings,
  given,
  hasControl,
  integer,
  type Json,
  type Locate,
  mapping,
  oneOf,
  show,
  text,
} from "./finding.ts";
import { nearest } from "./nearest.ts";
import { type ControllerModel, controllerModel, controllerModelNames, modelOfVersion, type UsbVersion } from "./usbctrl.ts";

/** Names of controllers and devices (product.md §2). */
export const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,47}$/;
export const NAME_RULE = "letters, digits, dot, dash and underscore, a letter or digit first, 48 characters at most";

const DEFAULT_PORTS = 8;
const TYPES = ["auto", "emulated", "pv"] as const;

/** @returns null: left out, so made when needed */
export function checkControllers(value: unknown, pointer: string, findings: Findings, locate: Locate): readonly DesiredController[] | null {
  if (!Array.isArray(value)) return null;
  const names = new Map<string, number>();
  const indexes = new Map<number, string>();
  return entries(value).flatMap((entry, position) => {
    const written = mapping(entry);
    if (written === null) return [];
    const at = below(pointer, position);
    const controller = checkController(written, position, at, findings, locate);
    const first = names.get(controller.name);
    if (first !== undefined) {
      const where = given(written, "name") ? below(at, "name") : at;
      const what = given(written, "name") ? `the name ${show(controller.name)}` : `${show(controller.name)}, the name it gets here,`;
      findings.error(where, "DuplicateName", `${what} is taken by controller ${String(first + 1)} of this list; give it a name of its own`);
    } else names.set(controller.name, position);
    if (controller.index !== null) {
      const other = indexes.get(controller.index);
      if (other !== undefined) {
        findings.error(
          below(at, "index"),
          "DuplicateIndex",
          `index ${String(controller.index)} is taken by controller ${show(other)}; give each its own`,
        );
      } else indexes.set(controller.index, controller.name);
    }
    return [controller];
  });
}

function checkController(written: Json, position: number, pointer: string, findings: Findings, locate: Locate): DesiredController {
  const type = oneOf(written["type"], TYPES, "auto" as const);
  const version = oneOf<UsbVersion, null>(written["version"], [1, 2, 3], null);
  const modelName = text(written["model"]);
  const model = modelName === null || modelName === "" ? undefined : controllerModel(modelName);
  checkName(written, pointer, findings);
  checkModel(modelName, model, type, version, pointer, findings);
  checkBackend(written, type, version, model, pointer, findings);
  const isPv = type === "pv" || model?.kind === "pv";
  return {
    name: text(written["name"]) ?? `${isPv ? "pv" : "hci"}${String(position)}`,
    type,
    version,
    model: modelName,
    index: integer(written["index"]),
    ports: checkPorts(written, type, version, modelName, model, pointer, findings),
    backend: text(written["backend"]),
    mark: locate(pointer, "value"),
  };
}

function checkName(written: Json, pointer: string, findings: Findings): void {
  const name = text(written["name"]);
  if (name !== null && !NAME.test(name)) {
    findings.error(below(pointer, "name"), "BadName", `${show(name)} cannot be a controller's name; ${NAME_RULE}`);
  }
}

function checkModel(
  name: string | null,
  model: ControllerModel | undefined,
  type: (typeof TYPES)[number],
  version: UsbVersion | null,
  pointer: string,
  findings: Findings,
): void {
  if (name === null) {
    if (type === "pv" && version === 3) {
      findings.error(below(pointer, "version"), "BadVersion", "a pv controller has USB 1 or 2; write 2, or type: emulated for USB 3");
    }
    return;
  }
  if (version !== null) {
    findings.error(
      below(pointer, "model"),
      "VersionAndModel",
      "version and model are both given; keep one, as a model has its version",
      "key",
    );
  }
  if (model === undefined) {
    const near = nearest(name, controllerModelNames);
    const hint =
      near === null
        ? `${either(["qemu-xhci", "nec-usb-xhci", "usb-ehci", "piix3-usb-uhci", "qusb2"])} are some that are`
        : `did you mean "${near}"?`;
    if (name !== "") findings.error(below(pointer, "model"), "UnknownModel", `model ${show(name)} is not known; ${hint}`);
  } else if (type !== "auto" && model.kind !== type) {
    findings.error(
      below(pointer, "model"),
      "TypeAndModel",
      `model ${show(name)} is ${model.kind === "pv" ? "pv" : "emulated"}, but type says ${type}; leave type out, or name another model`,
    );
  }
}

function checkBackend(
  written: Json,
  type: (typeof TYPES)[number],
  version: UsbVersion | null,
  model: ControllerModel | undefined,
  pointer: string,
  findings: Findings,
): void {
  const backend = text(written["backend"]);
  if (backend === null) return;
  if (hasControl(backend)) {
    findings.error(below(pointer, "backend"), "ControlCharacter", "backend has a control character; write the backend domain's name");
  } else if (type === "emulated" || model?.kind === "emulated" || version === 3) {
    findings.error(below(pointer, "backend"), "BackendNotPv", "only a pv controller has a backend; leave it out, or write type: pv", "key");
  }
}

/** Ports within what the model can be made with; left out: 8, or what comes nearest. */
function checkPorts(
  written: Json,
  type: (typeof TYPES)[number],
  version: UsbVersion | null,
  modelName: string | null,
  model: ControllerModel | undefined,
  pointer: string,
  findings: Findings,
): number {
  const asked = integer(written["ports"]);
  if (modelName !== null && model === undefined) return asked ?? DEFAULT_PORTS;
  const limits = model ?? (type === "pv" ? { driver: "pv", minPorts: 1, maxPorts: 31 } : modelOfVersion(version ?? 3));
  const { minPorts, maxPorts } = limits;
  if (asked === null) return Math.min(Math.max(DEFAULT_PORTS, minPorts), maxPorts);
  if (asked < minPorts || asked > maxPorts) {
    const what =
      modelName ?? (version === null ? `a USB 3 controller (${limits.driver})` : `a USB ${String(version)} controller (${limits.driver})`);
    const has = minPorts === maxPorts ? `has ${String(maxPorts)}` : `has ${String(minPorts)} to ${String(maxPorts)}`;
    const pv = model === undefined && type === "auto" && version !== 3 && asked > maxPorts && asked <= 31;
    const right = minPorts === maxPorts ? String(maxPorts) : `${String(minPorts)} to ${String(maxPorts)}`;
    const hint = `write ${right}${pv ? ", or type: pv if the domain is PV or PVH" : ""}`;
    findings.error(below(pointer, "ports"), "BadPorts", `ports: ${String(asked)}, but ${what} ${has}; ${hint}`);
  }
  return asked;
}
