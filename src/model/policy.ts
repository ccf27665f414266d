/** Host policy as values (product.md §3). Deciding with it: planner/admit.ts. */
import type { SourceMark, UsbSelector } from "./desired.ts";

/** Built-in denials that a matching `allow` can lift by name. Hubs are denied too, liftable by nothing. */
export type BuiltIn = "input" | "disk-in-use" | "default-route";

export type PolicyRule = {
  readonly name: string;
  readonly verdict: "allow" | "deny";
  readonly match: UsbSelector;
  /** Glob over metadata.name; null: every domain. */
  readonly domain: string | null;
  readonly lift: readonly BuiltIn[];
  readonly mark: SourceMark;
};

export type HostPolicy = {
  readonly default: "allow" | "deny";
  readonly onIdentityChange: "quarantine" | "report";
  readonly rules: readonly PolicyRule[];
};

/** No policy file: everything is allowed but the built-in denials. */
export const openPolicy: HostPolicy = { default: "allow", onIdentityChange: "quarantine", rules: [] };

/** The policy in force. `invalid`: bad at start and no last good version: nothing new is attached and nothing detached. */
export type PolicyState =
  | { readonly kind: "valid"; readonly policy: HostPolicy; readonly problems: readonly string[] }
  | { readonly kind: "invalid"; readonly problems: readonly string[] };
