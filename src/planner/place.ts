/** Where in a domain each device goes (product.md §2, "Where in the domain"; §9). What is in place stays in place. */
import { busOf, CONTROLLER_PREFIX, type NewController } from "../model/action.ts";
import type { DesiredController, DesiredDevice } from "../model/desired.ts";
import type { LiveController, LiveDomain } from "../model/domain.ts";
import type { HostDevice } from "../model/hostdev.ts";
import { speedFits } from "../model/usbctrl.ts";
import { automaticModel, type Makeable, makeable, slotHint, type Unmakeable } from "./make.ts";

export type Spot = { readonly bus: string; readonly port: number };
export type PlaceRequest = {
  readonly id: string;
  readonly entry: DesiredDevice;
  /** Position that its port follows from, so that placements do not shift when others come or go; from 0. */
  readonly index: number;
  readonly device: HostDevice;
  /** Where the device is now. */
  readonly current: Spot | null;
};
export type Placement =
  | (Spot & { readonly kind: "placed"; readonly create: NewController | null; readonly why: string })
  | { readonly kind: "nowhere"; readonly wait: Wait | null; readonly reason: string; readonly message: string };
/**
 * What it waits for by itself. port: what leaves it is on its way. controller: somebody is making one. frontend: the system inside has closed
 * the controller.
 */
export type Wait = "port" | "controller" | "frontend";

type PlaceWorld = {
  readonly live: LiveDomain;
  /** null: made when needed. */
  readonly declared: readonly DesiredController[] | null;
  readonly requests: readonly PlaceRequest[];
  /** All entries of the file, in their order: their ports are kept free for them as long as there are others. */
  readonly entries: readonly Pick<DesiredDevice, "controller" | "guestPort" | "count">[];
  /** Spots of what is to be removed: nothing is behind it, or a device that has to go first. */
  readonly dead: readonly Spot[];
  readonly leaving: readonly Spot[];
};

const spotKey = ({ bus, port }: Spot): string => `${bus} ${String(port)}`;

/** A controller with its ports, there or to be made. */
type Rack = {
  readonly name: string;
  readonly bus: string;
  readonly ports: number;
  readonly limits: Pick<LiveController, "minSpeed" | "maxSpeed" | "version">;
  readonly live: boolean;
  readonly ours: boolean;
  readonly pv: boolean;
  /** To be called when the first device is put on it; null: cannot be made after all. */
  readonly make: (() => NewController | null) | null;
};

/** What a domain's own configuration can have instead. */
const ownLine = ({ xen, type }: LiveDomain): string =>
  xen === undefined
    ? "-device qemu-xhci,id=usb,p2=8,p3=8"
    : `usbctrl=["type=${type === "hvm" ? "devicemodel,version=3" : "qusb,version=2"},ports=8"]`;

const byName = (a: LiveController, b: LiveController): number => {
  const [x, y] = [a.name ?? a.bus, b.name ?? b.bus];
  return x.length - y.length || (x < y ? -1 : x > y ? 1 : 0);
};

const nowhere = (message: string, wait: Wait | null = null): Placement => ({ kind: "nowhere", wait, reason: "NoController", message });
const unmakeable = ({ reason, message }: Unmakeable): Placement => ({ kind: "nowhere", wait: null, reason, message });
const isMakeable = (model: Makeable | Unmakeable): model is Makeable => "driver" in model;
const isClosed = ({ link }: LiveController): boolean => link === "closed";
const closed = (name: string): Placement =>
  nowhere(`the system inside has closed controller ${name}; it goes on when its driver (xen-hcd) is loaded again`, "frontend");

const tooSlow = ({ device }: PlaceRequest, name: string): Placement => ({
  kind: "nowhere",
  wait: null,
  reason: "SpeedMismatch",
  message: `it runs at ${String(device.speed)} Mb/s, which controller ${name} does not take; name an xHCI controller (\`version: 3\`)`,
});

class Floor {
  private readonly placements = new Map<string, Placement>();
  private readonly taken = new Set<string>();
  private readonly leaving: Set<string>;
  private readonly making = new Map<string, NewController>();
  private readonly world: PlaceWorld;
  private readonly live: LiveDomain;
  private readonly stuck: ReadonlyMap<string, Placement>;

  /** @param stuck - what has a place and could not move, with the reason */
  constructor(world: PlaceWorld, stuck: ReadonlyMap<string, Placement>) {
    this.world = world;
    this.stuck = stuck;
    this.live = world.live;
    this.leaving = new Set(world.leaving.map(spotKey));
    const dead = new Set(world.dead.map(spotKey));
    for (const { bus, occupied } of this.live.controllers) {
      for (const port of occupied) {
        const key = spotKey({ bus, port });
        if (!dead.has(key) && !this.leaving.has(key)) this.taken.add(key);
      }
    }
  }

  private rackOf(live: LiveController): Rack {
    return {
      name: live.name ?? live.bus,
      bus: live.bus,
      ports: live.ports,
      limits: live,
      live: true,
      ours: live.ours,
      pv: live.link !== undefined,
      make: null,
    };
  }

  /** The controller that a file calls `name`: ours before one of somebody else. */
  private liveNamed(name: string): LiveController | undefined {
    const named = this.live.controllers.filter((controller) => controller.name === name);
    return named.find(({ ours }) => ours) ?? named.sort(byName)[0];
  }

  private slot(): string | null | undefined {
    const { freeSlots, machine, xen } = this.live;
    if (xen !== undefined) return null; // as libxl, which leaves the slot to QEMU
    const next = freeSlots[this.making.size];
    if (next !== undefined) return next;
    if (freeSlots.includes("pci.0")) return "pci.0";
    return machine === null ? null : undefined;
  }

  private newRack(name: string, { driver, ports, ...limits }: Makeable): Rack {
    const { xen } = this.live;
    const made =
      this.making.get(name) ??
      ({
        name,
        driver,
        ports,
        slot: this.slot() ?? null,
        ...(xen === undefined ? {} : { xen: { devid: xen.nextDevid + this.making.size, version: limits.version } }),
      } satisfies NewController);
    const make = (): NewController | null => {
      if (!this.making.has(name)) {
        if (this.slot() === undefined) return null;
        this.making.set(name, made);
      }
      return made;
    };
    return { name, bus: busOf(made), ports, limits, live: false, ours: true, pv: limits.kind === "pv", make };
  }

  /** @returns the rack of a declared controller, or why there is none */
  private declared(controller: DesiredController): Rack | Unmakeable {
    const live = this.liveNamed(controller.name);
    if (live !== undefined) return this.rackOf(live);
    const model = makeable(controller, this.live);
    return isMakeable(model) ? this.newRack(controller.name, model) : model;
  }

  /** A controller that nobody asked for, where `controllers:` is left out. */
  private automatic(): Rack | null {
    const { live } = this;
    if (this.world.declared !== null || this.isPending()) return null;
    const model = automaticModel(live);
    if (!isMakeable(model)) return null;
    for (let n = 0; ; n += 1) {
      const name = `${model.kind === "pv" ? "pv" : "hci"}${String(n)}`;
      const known = live.controllers.some((c) => c.name === name || c.path.endsWith(`/${CONTROLLER_PREFIX}${name}`));
      if (known) continue;
      const rack = this.newRack(name, model);
      const full = this.making.has(name) && !this.ports(rack, 0).some((port) => !this.isUsed(rack.bus, port));
      if (!full) return rack;
    }
  }

  /** Whether a controller may yet appear, or be opened again, that makes another one needless (product.md §2). */
  private isPending(): boolean {
    const { xen, controllers } = this.live;
    return xen !== undefined && (xen.pending.length > 0 || controllers.some(isClosed));
  }

  private isUsed(bus: string, port: number): boolean {
    const key = spotKey({ bus, port });
    return this.taken.has(key) || this.leaving.has(key);
  }

  /** The ports of a controller in the order in which an entry takes them: its own, then those that no other entry counts on. */
  private ports(rack: Rack, index: number): readonly number[] {
    const all = Array.from({ length: rack.ports }, (_, i) => i + 1);
    const { entries, requests } = this.world;
    const named = entries.flatMap(({ controller, guestPort }) => (controller === rack.name ? (guestPort ?? []) : []));
    const alone = entries.flatMap(({ guestPort, count }, i) => (guestPort === null && count === 1 ? i + 1 : []));
    const counted = new Set([...alone, ...requests.map((request) => request.index + 1)]);
    const rank = (port: number): number => (named.includes(port) ? 3 : port === index + 1 ? 0 : counted.has(port) ? 2 : 1);
    return all.sort((a, b) => rank(a) - rank(b) || a - b);
  }

  /** @returns null: the controller cannot be made */
  private put(rack: Rack, port: number, why: string): Placement | null {
    const create = rack.make === null ? null : rack.make();
    if (rack.make !== null && create === null) return null;
    this.taken.add(spotKey({ bus: rack.bus, port }));
    return { kind: "placed", bus: rack.bus, port, create, why };
  }

  private noSlot(): Placement {
    return nowhere(`no USB controller can be made: ${slotHint(this.live)}`);
  }

  /** On the controller that the entry names, and on no other. */
  private placeNamed(request: PlaceRequest, name: string): Placement {
    const { entry, device } = request;
    const declared = this.world.declared?.find((controller) => controller.name === name);
    const live = this.liveNamed(name);
    if (live === undefined && this.live.xen?.pending.includes(name) === true)
      return nowhere(`controller ${name} is being made`, "controller");
    const rack = live !== undefined ? this.rackOf(live) : declared !== undefined ? this.declared(declared) : null;
    if (rack === null) return nowhere(`the domain has no controller ${name}, and its file declares none of that name`);
    if ("reason" in rack) return unmakeable(rack);
    if (live !== undefined && isClosed(live)) return closed(name);
    if (speedFits(rack.limits, device.speed) === "no") return tooSlow(request, name);
    return entry.guestPort === null ? this.placeOnAny(request, rack) : this.placeAt(rack, entry.guestPort);
  }

  private placeAt(rack: Rack, port: number): Placement {
    const text = String(port);
    if (port > rack.ports) return nowhere(`controller ${rack.name} has ${String(rack.ports)} ports; there is no port ${text}`);
    if (this.taken.has(spotKey({ bus: rack.bus, port }))) {
      return nowhere(`port ${text} of controller ${rack.name} is taken; free it or choose another \`guestPort\``);
    }
    return this.put(rack, port, `the file says controller ${rack.name}, port ${text}`) ?? this.noSlot();
  }

  private placeOnAny(request: PlaceRequest, rack: Rack): Placement {
    const port = this.freePort(request, rack);
    if (port !== undefined)
      return this.put(rack, port, `the file says controller ${rack.name}; port ${String(port)} is free`) ?? this.noSlot();
    const message = `all ${String(rack.ports)} ports of controller ${rack.name} are taken; free one or name another controller`;
    return nowhere(message, this.isLeft(rack) ? "port" : null);
  }

  private freePort({ index }: PlaceRequest, rack: Rack): number | undefined {
    const own = index + 1;
    const isNamed = this.world.entries.some(({ controller, guestPort }) => guestPort === own && controller === rack.name);
    // The rule's first answer, and nearly always the one: no need to put all ports in order for it.
    if (own <= rack.ports && !isNamed && !this.isUsed(rack.bus, own)) return own;
    return this.ports(rack, index).find((port) => !this.isUsed(rack.bus, port));
  }

  /** Whether a port will be free as soon as what leaves it has left. */
  private isLeft(rack: Rack): boolean {
    return this.ports(rack, 0).some((port) => !this.taken.has(spotKey({ bus: rack.bus, port })));
  }

  /** Racks in the order in which a device without `controller:` takes them. */
  private racks(): readonly Rack[] {
    const usable = this.live.controllers.filter((controller) => !isClosed(controller));
    const ours = usable.filter((controller) => controller.ours).sort(byName);
    const wanted = (this.world.declared ?? [])
      .flatMap((controller): readonly Rack[] => {
        const rack = this.declared(controller);
        return "reason" in rack ? [] : [rack];
      })
      .filter((rack) => !rack.live || usable.some(({ bus }) => bus === rack.bus));
    const declared = new Set(wanted.filter(({ live }) => live).map(({ bus }) => bus));
    const present = usable.filter((controller) => !controller.ours && !declared.has(controller.bus)).sort(byName);
    const automatic = this.automatic();
    const racks = [
      ...wanted.filter(({ live }) => live),
      ...ours.filter(({ bus }) => !declared.has(bus)).map((controller) => this.rackOf(controller)),
      ...wanted.filter(({ live }) => !live),
      ...present.map((controller) => this.rackOf(controller)),
      ...(automatic === null ? [] : [automatic]),
    ];
    // Where a domain has both kinds, the paravirtual one counts once its frontend is connected (product.md §2, `type: auto`).
    const pvFirst = this.live.type !== "hvm" || usable.some(({ link }) => link === "connected");
    return [...racks.filter(({ pv }) => pv === pvFirst), ...racks.filter(({ pv }) => pv !== pvFirst)];
  }

  private placeAnywhere(request: PlaceRequest): Placement {
    const { speed } = request.device;
    const racks = this.racks();
    const fitting = (wanted: string): readonly Rack[] =>
      racks.filter(({ limits }) => (speed === null ? "yes" : speedFits(limits, speed)) === wanted);
    const usable = [...fitting("yes"), ...fitting("maybe")];
    for (const rack of usable) {
      const port = this.freePort(request, rack);
      if (port === undefined) continue;
      const what = rack.live ? (rack.ours ? "a controller of ours" : "a controller of the domain") : "a controller to be made";
      const placed = this.put(rack, port, `${rack.name} is ${what}; its port ${String(port)} is free`);
      if (placed !== null) return placed;
    }
    const shut = this.live.controllers.find(isClosed);
    if (shut !== undefined) return closed(shut.name ?? shut.bus);
    const [pending] = this.live.xen?.pending ?? [];
    if (pending !== undefined) return nowhere(`controller ${pending} is being made`, "controller");
    if (racks.length > 0 && usable.length === 0) return tooSlow(request, racks.map(({ name }) => name).join(", "));
    const leaving = usable.some((rack) => rack.live && this.isLeft(rack));
    return leaving ? nowhere("every fitting USB port of the domain is taken", "port") : this.none(racks);
  }

  private none(racks: readonly Rack[]): Placement {
    const { declared } = this.world;
    if (racks.some(({ live }) => !live)) return nowhere(`no free USB port, and no controller can be made: ${slotHint(this.live)}`);
    const what = racks.length === 0 ? "the domain has no USB controller" : "every fitting USB port of the domain is taken";
    if (declared === null) {
      const model = automaticModel(this.live);
      return isMakeable(model) ? this.noSlot() : unmakeable({ ...model, message: `${what}, and ${model.message}` });
    }
    for (const controller of declared) {
      const rack = this.declared(controller);
      if ("reason" in rack) return unmakeable(rack);
    }
    return nowhere(
      declared.length === 0
        ? `${what}, and \`controllers: []\` makes none; add to its own configuration: ${ownLine(this.live)}`
        : `${what}; declare another controller in \`controllers:\``,
    );
  }

  /** Whether the file says of a device in place that it belongs somewhere else. */
  private isMisplaced({ entry, current }: PlaceRequest): boolean {
    if (current === null || entry.controller === null) return false;
    const named = this.liveNamed(entry.controller)?.bus;
    return named !== current.bus || (entry.guestPort !== null && entry.guestPort !== current.port);
  }

  run(): ReadonlyMap<string, Placement> {
    const requests = [...this.world.requests].sort((a, b) => a.index - b.index || (a.id < b.id ? -1 : 1));
    const movers = new Set(requests.filter((request) => !this.stuck.has(request.id) && this.isMisplaced(request)));
    for (const request of requests) {
      const { current } = request;
      if (current === null) continue;
      if (movers.has(request)) {
        this.leaving.add(spotKey(current));
        this.taken.delete(spotKey(current));
      } else this.keep(request, current);
    }
    const open = requests.filter((request) => request.current === null || movers.has(request));
    const named = open.filter(({ entry }) => entry.controller !== null);
    const exact = named.filter(({ entry }) => entry.guestPort !== null);
    const rest = named.filter(({ entry }) => entry.guestPort === null);
    for (const request of [...exact, ...rest]) this.placements.set(request.id, this.placeNamed(request, request.entry.controller ?? ""));
    for (const request of open.filter(({ entry }) => entry.controller === null)) {
      this.placements.set(request.id, this.placeAnywhere(request));
    }
    return this.placements;
  }

  private keep(request: PlaceRequest, current: Spot): void {
    this.taken.add(spotKey(current));
    const why = "it is in place, and what is in place stays";
    this.placements.set(request.id, this.stuck.get(request.id) ?? { kind: "placed", ...current, create: null, why });
  }
}

/** A device that should move and cannot keeps its place, so that nothing else may be put there: then all is worked out again. */
export function placeAll(world: PlaceWorld): ReadonlyMap<string, Placement> {
  const stuck = new Map<string, Placement>();
  for (;;) {
    const placements = new Floor(world, stuck).run();
    const failed = world.requests.find(({ id, current }) => current !== null && !stuck.has(id) && placements.get(id)?.kind === "nowhere");
    const placement = failed === undefined ? undefined : placements.get(failed.id);
    if (failed === undefined || placement === undefined) return placements;
    stuck.set(failed.id, placement);
  }
}
