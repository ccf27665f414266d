/** Every case, in the order in which they are played. */
import type { Case } from "../case.ts";
import { testbedCases } from "./testbed.ts";

export const cases: readonly Case[] = [...testbedCases];
