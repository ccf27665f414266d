/** The shape of an end-to-end case. Each has a host of its own, fresh from a snapshot. */
import type { Host } from "./host.ts";
import type { Start } from "./image.ts";
import type { Mode } from "./machine.ts";

export type Case = {
  readonly name: string;
  readonly mode?: Mode;
  readonly start?: Start;
  /** Only played with --slow: what it starts from takes minutes to make. */
  readonly slow?: boolean;
  /** The whole case, without the restore. */
  readonly timeoutMs?: number;
  /** Throws when what it sees is wrong. */
  run(host: Host): Promise<void>;
};
