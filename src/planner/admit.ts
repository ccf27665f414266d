/** Host policy (product.md §3): whether a device may go into a domain, and which rule, with its line, says so. */
import type { SourceMark } from "../model/desired.ts";
import { fingerprintOf, formatClass, type HostDevice, instanceOf, type UsbClass } from "../model/hostdev.ts";
import type { Quarantine } from "../model/intentions.ts";
import { type BuiltIn, type HostPolicy, openPolicy, type PolicyRule } from "../model/policy.ts";
import type { Veto, World } from "../model/world.ts";
import { globMatches, selectorMatches, type Step } from "./selector.ts";

type Denial = { readonly reason: string; readonly message: string };
export type Admission = { readonly denial: Denial | null; readonly steps: readonly Step[] };

type AdmissionRequest = {
  readonly policy: HostPolicy;
  readonly device: HostDevice;
  /** metadata.name. */
  readonly domain: string;
  /** The entry that asks; null: an object that no entry claims. */
  readonly entry: string | null;
  /** What was read at the moment of an attach; says nothing of a device that is already in the domain. */
  readonly veto: Veto | null;
  readonly quarantines: readonly Quarantine[];
};

const at = ({ file, line, column }: SourceMark): string => `${file}:${String(line)}:${String(column)}`;
const name = (rule: PolicyRule): string => `rule ${rule.name} (${at(rule.mark)})`;

/** Boot keyboard and boot mouse (HID 1.11, 4.2 and 4.3). */
const isBootInput = (c: UsbClass): boolean => c.class === 3 && c.subclass === 1 && (c.protocol === 1 || c.protocol === 2);

const liftHint = (builtIn: BuiltIn): string => `an allow rule with \`lift: [${builtIn}]\` in the host policy lets it through`;

const concerns = (rule: PolicyRule, domain: string): boolean => rule.domain === null || globMatches(rule.domain, domain);

const ruleMatches = (rule: PolicyRule, device: HostDevice): boolean =>
  selectorMatches(rule.match, device, rule.verdict === "deny" ? "match" : "no-match");

function quarantineOf({ policy, device, domain, entry, quarantines }: AdmissionRequest): Quarantine | undefined {
  if (policy.onIdentityChange === "report" || quarantines.length === 0) return undefined;
  // Interfaces that come to be known, or are not known this time, make no other device of it.
  const print = fingerprintOf(device);
  const bare = fingerprintOf({ ...device, interfaces: null });
  const isIt = ({ fingerprint }: Quarantine): boolean =>
    fingerprint === print || fingerprint === bare || (print === bare && fingerprint.startsWith(bare.slice(0, -1)));
  return quarantines.find((q) => q.domain === domain && q.device === entry && q.busid === device.busid && isIt(q));
}

function denialOfRule(rule: PolicyRule, device: HostDevice): Denial {
  return selectorMatches(rule.match, device)
    ? { reason: "DeniedByRule", message: `${name(rule)} denies it` }
    : {
        reason: "InterfacesUnknown",
        message: `its interfaces are not known, and ${name(rule)} denies by interface; replug it, or allow it in an earlier rule`,
      };
}

function denialOfBuiltIns(device: HostDevice, veto: Veto | null, lifted: readonly BuiltIn[]): Denial | null {
  if (!lifted.includes("input")) {
    if (device.interfaces === null) {
      return {
        reason: "InterfacesUnknown",
        message: `its interfaces are not known, so it may be a keyboard or mouse (built-in \`input\`); replug it, or ${liftHint("input")}`,
      };
    }
    const found = device.interfaces.find(isBootInput);
    if (found !== undefined) {
      const what = found.protocol === 1 ? "keyboard" : "mouse";
      return {
        reason: "BuiltInInput",
        message: `it is a boot ${what} (interface ${formatClass(found)}, built-in \`input\`); ${liftHint("input")}`,
      };
    }
  }
  if (veto !== null && !lifted.includes(veto.builtIn)) {
    return {
      reason: veto.builtIn === "disk-in-use" ? "DiskInUse" : "DefaultRoute",
      message: `${veto.message.replace(/\.$/, "")} (built-in \`${veto.builtIn}\`); free it and run \`plugherd retry\`, or ${liftHint(veto.builtIn)}`,
    };
  }
  return null;
}

/** First match wins; hubs never pass; what a rule allows still meets the built-in denials that it does not lift. */
export function admit(request: AdmissionRequest): Admission {
  const { policy, device, domain, entry, veto } = request;
  const steps: Step[] = [];
  const deny = (denial: Denial): Admission => ({ denial, steps: [...steps, { ok: false, text: `denied: ${denial.message}` }] });

  if (device.hub) return deny({ reason: "Hub", message: "hubs are never passed on; name the devices behind it (`under:`)" });
  const quarantine = quarantineOf(request);
  if (quarantine !== undefined) {
    return deny({
      reason: "IdentityChanged",
      message: `it came back at ${device.busid} as another device; if that is right, run \`plugherd approve ${entry ?? ""} ${domain}\``,
    });
  }
  let allowing: PolicyRule | null = null;
  for (const rule of policy.rules) {
    if (!concerns(rule, domain)) {
      steps.push({ ok: true, text: `${name(rule)}: not for domain ${domain}` });
      continue;
    }
    if (!ruleMatches(rule, device)) {
      steps.push({ ok: true, text: `${name(rule)}: does not match` });
      continue;
    }
    if (rule.verdict === "deny") return deny(denialOfRule(rule, device));
    steps.push({ ok: true, text: `${name(rule)}: allows it` });
    allowing = rule;
    break;
  }
  if (allowing === null) {
    if (policy.default === "deny") {
      return deny({ reason: "DeniedByDefault", message: "no rule of the host policy allows it and its default is deny" });
    }
    steps.push({ ok: true, text: "no rule matches: the policy's default allows it" });
  }
  const builtIn = denialOfBuiltIns(device, veto, allowing?.lift ?? []);
  return builtIn === null ? { denial: null, steps: [...steps, { ok: true, text: "no built-in denial" }] } : deny(builtIn);
}

/** Whether there is a domain that may have the device, and what says so; rules for some domains only are told as such. */
export function admitAnywhere(device: HostDevice, { policy, vetoes }: World): { readonly allowed: boolean; readonly text: string } {
  const { rules, ...rest } = policy.kind === "valid" ? policy.policy : openPolicy;
  const veto = vetoes.get(instanceOf(device)) ?? null;
  const ask = (some: readonly PolicyRule[]): Denial | null =>
    admit({
      policy: { ...rest, rules: some.map((rule) => ({ ...rule, domain: null })) },
      device,
      domain: "",
      entry: null,
      veto,
      quarantines: [],
    }).denial;
  const everywhere = rules.filter(({ domain }) => domain === null);
  const general = ask(everywhere);
  if (general === null) {
    const but = rules.find((rule) => rule.domain !== null && rule.verdict === "deny" && ruleMatches(rule, device));
    return { allowed: true, text: but === undefined ? "allowed" : `allowed, but not in domains ${but.domain ?? ""}: ${name(but)}` };
  }
  const special = rules.find(
    (rule, i) => rule.domain !== null && rule.verdict === "allow" && ruleMatches(rule, device) && ask(rules.slice(i)) === null,
  );
  return special === undefined
    ? { allowed: false, text: general.message }
    : { allowed: true, text: `allowed in domains ${special.domain ?? ""} only: ${name(special)}` };
}
