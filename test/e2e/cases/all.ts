/** Every case, in the order in which they are played: as few changes of what they start from as can be. */
import type { Case } from "../case.ts";
import { cableCases } from "./cable.ts";
import { crashCases } from "./crash.ts";
import { desiredCases } from "./desired.ts";
import { domainCases } from "./domain.ts";
import { testbedCases } from "./testbed.ts";
import { xenBesideCases } from "./xen-beside.ts";
import { xenCrashCases } from "./xen-crash.ts";
import { xenHvmCases } from "./xen-hvm.ts";
import { xenPvCases } from "./xen-pv.ts";
import { xenReachCases } from "./xen-reach.ts";
import { xenTestbedCases } from "./xen-testbed.ts";

export const cases: readonly Case[] = [
  ...[...testbedCases, ...cableCases, ...domainCases, ...desiredCases, ...crashCases],
  ...[...xenTestbedCases, ...xenHvmCases, ...xenPvCases, ...xenBesideCases, ...xenCrashCases, ...xenReachCases],
];
