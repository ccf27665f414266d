/** The operators' verbs (product.md §5): each names what it changed, or what it did not find and what was probably meant. */
import type { Timings } from "../model/timings.ts";
import { claimId, type ClaimId, type Explanation } from "../model/world.ts";
import { nearest } from "../model/nearest.ts";
import type { Book } from "./book.ts";
import type { DesiredStateKeeper } from "./desired-state.ts";
import type { Overrides } from "./overrides.ts";
import type { Reconciler } from "./reconcile.ts";
import type { OperatorAnswer, OperatorRequest } from "./view.ts";

export type Operator = {
  operate(request: OperatorRequest): Promise<OperatorAnswer>;
  /** @returns null: no such entry */
  explain(device: string, domain?: string): readonly Explanation[] | null;
};

export function createOperator(deps: {
  readonly book: Book;
  readonly reconciler: Reconciler;
  readonly overrides: Overrides;
  readonly desired: () => DesiredStateKeeper | null;
  readonly timings: Timings;
  readonly now: () => number;
}): Operator {
  const { book, reconciler, overrides } = deps;
  const { planner } = reconciler;

  const entriesOf = (domain: string): string[] => {
    const file = planner.world.forced.get(domain);
    return file === undefined || file.standing === "vanished" ? [] : file.spec.devices.map(({ name }) => name);
  };
  const unknownDomain = (domain: string): OperatorAnswer => ({
    ok: false,
    kind: "unknown-name",
    message: `No file in force names a domain "${domain}".`,
    suggestion: nearest(domain, [...planner.world.forced.keys()]),
  });
  const check = (domain: string, device: string | null): OperatorAnswer | null => {
    if (!planner.world.forced.has(domain)) return unknownDomain(domain);
    if (device === null || entriesOf(domain).includes(device)) return null;
    return {
      ok: false,
      kind: "unknown-name",
      message: `The file of ${domain} has no device "${device}".`,
      suggestion: nearest(device, entriesOf(domain)),
    };
  };
  const idsOf = (domain: string, device: string): ClaimId[] => [...reconciler.registry.ofEntry(claimId(domain, device, null))];
  const note = (domain: string | null, device: string | null, verb: string, reason: string | undefined): void =>
    book.note({
      domain,
      device,
      kind: "operator",
      reason: verb,
      message: reason === undefined ? `Operator: ${verb}.` : `Operator: ${verb} (${reason}).`,
    });
  const done = (message: string): OperatorAnswer => ({ ok: true, message });
  const idle = (message: string): OperatorAnswer => ({ ok: false, kind: "not-applicable", message, suggestion: null });

  return {
    async operate(request) {
      const domain = "domain" in request ? request.domain : null;
      const device = "device" in request ? request.device : null;
      const wrong = domain === null ? null : check(domain, device);
      if (wrong !== null) return wrong;
      switch (request.verb) {
        case "pause":
          note(request.domain, null, "pause", request.reason);
          overrides.pause(request.domain, request.reason ?? null);
          return done(`${request.domain} is paused until \`plugherd resume ${request.domain}\`.`);
        case "resume":
          if (!overrides.resume(request.domain)) return idle(`${request.domain} is not paused by an operator.`);
          note(request.domain, null, "resume", request.reason);
          return done(`${request.domain} is reconciled again.`);
        case "detach": {
          const until = deps.now() + request.holdMs;
          note(request.domain, request.device, "detach", request.reason);
          overrides.hold({
            domain: request.domain,
            device: request.device,
            until,
            release: request.release,
            reason: request.reason ?? null,
          });
          return done(
            `${request.device} is held off ${request.release ? `${request.domain}` : "every domain"} until ${new Date(until).toISOString()}.`,
          );
        }
        case "attach":
          if (!overrides.release(request.domain, request.device))
            return idle(`${request.device} of ${request.domain} is not held; see \`plugherd describe ${request.domain}\`.`);
          note(request.domain, request.device, "attach", request.reason);
          return done(`The hold on ${request.device} has ended.`);
        case "retry":
          note(request.domain, request.device, "retry", request.reason);
          await reconciler.retry(idsOf(request.domain, request.device));
          return done(`${request.device} of ${request.domain} is tried again.`);
        case "approve": {
          if (request.what === "mass-detach") {
            if (deps.desired()?.approveMassDetach() !== true) return idle("Nothing waits for approval.");
            note(null, null, "approve mass-detach", request.reason);
            return done("The vanished files are now a decision.");
          }
          if (!overrides.approve(request.domain, request.device)) return idle(`${request.device} of ${request.domain} is not quarantined.`);
          note(request.domain, request.device, "approve", request.reason);
          return done(`${request.device} of ${request.domain} is approved as it is now.`);
        }
      }
    },
    explain(device, domain) {
      const names = domain === undefined ? [...planner.world.forced.keys()].filter((name) => entriesOf(name).includes(device)) : [domain];
      const found = names.flatMap((name) => planner.explain(name, device));
      return found.length === 0 ? null : found;
    },
  };
}
