/** A host policy document as written -> HostPolicy, with every meaning check of product.md §3. Shape is the schema's to tell. */
import { NAME, NAME_RULE } from "./controller-check.ts";
import type { UsbSelector } from "./desired.ts";
import type { Checked } from "./desired-check.ts";
import {
  below,
  createFindings,
  entries,
  type Findings,
  hasControl,
  type Json,
  type Locate,
  mapping,
  oneOf,
  show,
  text,
} from "./finding.ts";
import type { BuiltIn, HostPolicy, PolicyRule } from "./policy.ts";
import { checkSelector } from "./selector-check.ts";

const BUILT_INS: readonly BuiltIn[] = ["input", "disk-in-use", "default-route"];

export function checkPolicy(document: unknown, locate: Locate): Checked<HostPolicy> {
  const findings = createFindings();
  const root = mapping(document);
  if (root === null) return { value: null, findings: [] };
  const names = new Map<string, number>();
  const rules = entries(root["rules"]).flatMap((entry, position) => {
    const written = mapping(entry);
    if (written === null) return [];
    const pointer = below("/rules", position);
    const rule = checkRule(written, pointer, findings, locate);
    const name = text(written["name"]) ?? "";
    const first = names.get(name);
    if (first !== undefined && name !== "") {
      findings.error(
        below(pointer, "name"),
        "DuplicateName",
        `the name ${show(name)} is taken by rule ${String(first + 1)}; give each rule its own`,
      );
    } else names.set(name, position);
    return rule === null ? [] : [rule];
  });
  const value: HostPolicy = {
    default: oneOf(root["default"], ["allow", "deny"] as const, "allow" as const),
    onIdentityChange: oneOf(root["onIdentityChange"], ["quarantine", "report"] as const, "quarantine" as const),
    rules,
  };
  return { value, findings: findings.list };
}

function checkRule(written: Json, pointer: string, findings: Findings, locate: Locate): PolicyRule | null {
  const name = text(written["name"]);
  if (name !== null && !NAME.test(name)) {
    findings.error(below(pointer, "name"), "BadName", `${show(name)} cannot be a rule's name; ${NAME_RULE}`);
  }
  const allow = Object.hasOwn(written, "allow");
  const deny = Object.hasOwn(written, "deny");
  if (allow && deny) {
    findings.error(below(pointer, "deny"), "AllowAndDeny", "a rule says allow or deny, not both; make two rules of it", "key");
  } else if (!allow && !deny) {
    findings.error(pointer, "NoVerdict", 'this rule says neither allow nor deny; add deny: { vendor: "…" } or allow: { … }');
  }
  const verdict = allow ? "allow" : "deny";
  const domain = text(written["domain"]);
  if (domain !== null && hasControl(domain)) {
    findings.error(
      below(pointer, "domain"),
      "ControlCharacter",
      "domain has a control character; write a name, with * and ? where it may vary",
    );
  }
  const lift = entries(written["lift"]).flatMap((one) => oneOf(one, BUILT_INS, null) ?? []);
  if (!allow && deny && lift.length > 0) {
    findings.error(below(pointer, "lift"), "LiftInDeny", "only an allow rule can lift a built-in denial; leave lift out", "key");
  }
  const match = checkSelector(written[verdict], below(pointer, verdict), findings);
  if (match !== null) checkTrust(match, verdict, below(pointer, verdict), findings);
  if (match === null || name === null) return null;
  return { name, verdict, match, domain, lift: [...new Set(lift)], mark: locate(pointer, "value") };
}

/** Texts come from the device, which can say what it likes: a rule needs something beside them (product.md §2). */
function checkTrust(match: UsbSelector, verdict: string, pointer: string, findings: Findings): void {
  const { manufacturer, productName, ...others } = match;
  if ((manufacturer !== null || productName !== null) && Object.values(others).every((value) => value === null)) {
    findings.error(
      pointer,
      "UntrustedText",
      `${verdict} goes by manufacturer or productName alone, which any device can claim; add vendor and product, or port`,
      "key",
    );
  }
}
