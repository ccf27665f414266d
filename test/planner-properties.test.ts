/** The planner's laws: what holds of every plan in every world. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Place } from "../src/model/action.ts";
import { instanceOf } from "../src/model/hostdev.ts";
import type { ClaimPlan, Planner, WorldChange } from "../src/model/world.ts";
import { changesOf, createPlanner, planAll } from "../src/planner/plan.ts";
import { hostChange, wholeWorld, worldChange } from "./support/arbitraries.ts";
import { realise } from "./support/planner-worlds.ts";

const RUNS = { numRuns: Number(process.env["PLANNER_RUNS"] ?? 200) };
const ROUNDS = 12;

const sorted = <T>(map: ReadonlyMap<string, T>): readonly (readonly [string, T])[] => [...map].sort(([a], [b]) => (a < b ? -1 : 1));
const everything = ({ claims, orphans, domains }: Pick<Planner, "claims" | "orphans" | "domains">) => ({
  claims: sorted(claims),
  orphans: sorted(orphans),
  domains: sorted(domains),
});
const planned = (changes: readonly WorldChange[]): Planner => {
  const planner = createPlanner();
  planner.apply(changes);
  return planner;
};
const isPlace = (target: ClaimPlan["target"]): target is Place => target !== null && target !== "stay";
const placesOf = ({ claims }: Planner): readonly Place[] => [...claims.values()].flatMap(({ target }) => (isPlace(target) ? [target] : []));
const duplicates = (texts: readonly string[]): readonly string[] => texts.filter((text, i) => texts.indexOf(text) !== i);
const kept = (target: Place, owned: ClaimPlan["owned"]): boolean =>
  owned !== null && owned.bus === target.bus && owned.port === target.port && owned.instance === instanceOf(target.device);

/** Does what is planned until nothing is left to do. */
function settle(planner: Planner): number {
  for (let round = 0; round < ROUNDS; round += 1) {
    const changes = realise(planner);
    if (changes.length === 0) return round;
    planner.apply(changes);
  }
  return ROUNDS;
}

describe("the answer depends on the world alone", () => {
  test("whatever the order in which it came about", () => {
    fc.assert(
      fc.property(
        wholeWorld.chain((changes) => fc.tuple(fc.constant(changes), fc.shuffledSubarray([...changes], { minLength: changes.length }))),
        ([changes, shuffled]) => {
          const oneByOne = createPlanner();
          for (const change of shuffled) oneByOne.apply([change]);
          expect(everything(oneByOne)).toEqual(everything(planned(changes)));
        },
      ),
      RUNS,
    );
  });

  test("incremental = full, after every change, and deltas tell all of it", () => {
    fc.assert(
      fc.property(wholeWorld, fc.array(worldChange, { maxLength: 12 }), (start, changes) => {
        const planner = createPlanner();
        const mirror = { claims: new Map(), orphans: new Map(), domains: new Map() };
        for (const batch of [start, ...changes.map((change) => [change])]) {
          const delta = planner.apply(batch);
          for (const part of ["claims", "orphans", "domains"] as const) {
            for (const [id, value] of delta[part]) {
              if (value === null) expect(mirror[part].delete(id)).toBe(true);
              else mirror[part].set(id, value);
            }
          }
          expect(everything(planner)).toEqual(everything(planAll(planner.world)));
        }
        expect(everything(planner)).toEqual(everything(mirror));
      }),
      RUNS,
    );
  });

  test("a world told again alters nothing", () => {
    fc.assert(
      fc.property(wholeWorld, (changes) => {
        const planner = planned(changes);
        const delta = planner.apply(changesOf(planner.world));
        expect([...delta.claims, ...delta.orphans, ...delta.domains]).toEqual([]);
      }),
      RUNS,
    );
  });
});

describe("what is planned", () => {
  const holds = (law: (planner: Planner) => void): void => {
    fc.assert(
      fc.property(wholeWorld, (changes) => {
        const planner = planned(changes);
        for (let round = 0; round < ROUNDS; round += 1) {
          law(planner);
          const next = realise(planner);
          if (next.length === 0) return;
          planner.apply(next);
        }
      }),
      RUNS,
    );
  };

  test("comes to rest, with every target in place", () => {
    fc.assert(
      fc.property(wholeWorld, (changes) => {
        const planner = planned(changes);
        expect(settle(planner)).toBeLessThan(ROUNDS);
        for (const { id, target, owned } of planner.claims.values()) {
          if (isPlace(target)) expect([id, kept(target, owned)]).toEqual([id, true]);
          else if (target === null) expect([id, owned]).toEqual([id, null]);
        }
        for (const { id, target } of planner.orphans.values()) expect([id, target]).toEqual([id, "stay"]);
      }),
      RUNS,
    );
  });

  test("never gives a device two owners, nor a place two devices, nor an object two claims", () => {
    holds((planner) => {
      const places = placesOf(planner);
      expect(duplicates(places.map(({ device }) => device.busid))).toEqual([]);
      expect(duplicates(places.map(({ domain, bus, port }) => `${domain} ${bus} ${String(port)}`))).toEqual([]);
      const objects = [...planner.claims.values()].flatMap(({ owned }) => (owned === null ? [] : [`${owned.domain} ${owned.path}`]));
      expect(duplicates([...objects, ...planner.orphans.keys()])).toEqual([]);
    });
  });

  test("never attaches a hub, nor what sits in another domain, nor what is not on the host", () => {
    holds((planner) => {
      const { host, domains } = planner.world;
      for (const { id, target } of planner.claims.values()) {
        if (!isPlace(target)) continue;
        expect([id, target.device.hub]).toEqual([id, false]);
        expect(host.get(target.device.busid)).toEqual(target.device);
        const { bus, address, inode } = target.device;
        const elsewhere = [...domains.values()].filter(
          ({ key, objects }) =>
            key !== target.domain &&
            objects.some(
              ({ exact, filter, inode: made }) => exact && filter.bus === bus && filter.address === address && (made ?? inode) === inode,
            ),
        );
        const owned = planner.claims.get(id)?.owned ?? null;
        if (owned === null) expect([id, elsewhere.map(({ key }) => key)]).toEqual([id, []]);
      }
    });
  });

  test("touches nothing in a domain that is observed, paused, silent or without a file", () => {
    holds((planner) => {
      const { domains, forced, pauses } = planner.world;
      const paused = new Set(pauses.map(({ domain }) => domain));
      const acting = new Set(
        [...planner.domains.values()].flatMap(({ name, live }) => {
          const file = forced.get(name);
          const monitor = live === null ? null : domains.get(live)?.monitorState;
          return file !== undefined && live !== null && monitor === "answering" && file.spec.mode === "enforce" && !paused.has(name)
            ? [live]
            : [];
        }),
      );
      for (const { id, live, target } of planner.claims.values()) {
        if (live === null || acting.has(live)) continue;
        expect([id, target]).toEqual([id, "stay"]);
      }
      for (const { id, live, target } of planner.orphans.values()) if (!acting.has(live)) expect([id, target]).toEqual([id, "stay"]);
    });
  });

  test("puts a device only where there is room", () => {
    holds((planner) => {
      for (const { target } of planner.claims.values()) {
        if (!isPlace(target)) continue;
        const live = planner.world.domains.get(target.domain);
        const bus = live?.controllers.find((one) => one.bus === target.bus);
        expect(target.create === null).toBe(bus !== undefined);
        expect(target.port).toBeLessThanOrEqual(bus?.ports ?? target.create?.ports ?? 0);
      }
    });
  });

  test("says why whenever a claim has nothing and gets nothing", () => {
    holds((planner) => {
      for (const { id, target, owned, verdict } of planner.claims.values()) {
        if (isPlace(target) || (target === "stay" && owned !== null)) continue;
        expect([id, verdict === null]).toEqual([id, false]);
        expect(verdict?.message).toMatch(/^[^a-z].*[.!?]$/s);
      }
    });
  });
});

describe("what is right stays", () => {
  /** Scanning objects of others make what they hold uncertain as soon as there are two; objects of ours are of another file's making. */
  const foreign = (change: WorldChange): boolean =>
    change.kind !== "live" || change.domain === null || change.domain.objects.every(({ exact, ours }) => exact && !ours);

  test("a device that arrives moves none that is attached, whatever came and went before", () => {
    fc.assert(
      fc.property(wholeWorld, fc.array(hostChange, { minLength: 1, maxLength: 10 }), (changes, history) => {
        const planner = planned(changes.filter(foreign));
        settle(planner);
        for (const change of history) {
          const arrives = change.kind === "host" && change.device !== null && !planner.world.host.has(change.busid);
          const before = [...planner.claims.values()].filter(({ target, owned }) => isPlace(target) && kept(target, owned));
          planner.apply([change]);
          if (arrives) {
            const after = before.flatMap(({ id }) => planner.claims.get(id) ?? []);
            expect(after.map(({ id, target, owned }) => [id, target, owned])).toEqual(
              before.map(({ id, target, owned }) => [id, target, owned]),
            );
          }
          settle(planner);
        }
      }),
      RUNS,
    );
  });
});
