/** Contract Domains over several kinds of host side by side. */
import { Observable } from "rxjs";
import { DOMAIN_GONE } from "../model/action.ts";
import type { DomainChange, Domains } from "../model/contracts.ts";
import type { DomainKey } from "../model/domain.ts";
import { err } from "../model/result.ts";

/** Ready once all are. Their keys are never the same. */
export function allDomains(kinds: readonly Domains[]): Domains {
  const ownerOf = new Map<DomainKey, Domains>();
  return {
    changes$: new Observable<DomainChange>((out) => {
      let awaited = kinds.length;
      const subscriptions = kinds.map((kind) =>
        kind.changes$.subscribe((change) => {
          if (change.kind === "domain") ownerOf.set(change.domain.key, kind);
          else if (change.kind === "gone") ownerOf.delete(change.key);
          else awaited -= 1;
          if (change.kind !== "ready" || awaited === 0) out.next(change);
        }),
      );
      return () => {
        for (const subscription of subscriptions) subscription.unsubscribe();
        ownerOf.clear();
      };
    }),
    attach: (place, options) => ownerOf.get(place.domain)?.attach(place, options) ?? Promise.resolve(err(DOMAIN_GONE)),
    detach: (at, options) => ownerOf.get(at.domain)?.detach(at, options) ?? Promise.resolve(err(DOMAIN_GONE)),
    async audit() {
      await Promise.all(kinds.map((kind) => kind.audit()));
    },
  };
}
