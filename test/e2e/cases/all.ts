/** Every case, in the order in which they are played. */
import type { Case } from "../case.ts";
import { cableCases } from "./cable.ts";
import { crashCases } from "./crash.ts";
import { desiredCases } from "./desired.ts";
import { domainCases } from "./domain.ts";
import { testbedCases } from "./testbed.ts";
import { xenTestbedCases } from "./xen-testbed.ts";

export const cases: readonly Case[] = [...testbedCases, ...cableCases, ...domainCases, ...desiredCases, ...crashCases, ...xenTestbedCases];
