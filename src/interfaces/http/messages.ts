/** The live API's messages (product.md §6). Each has a schema in specs/live-api.schema.json; what comes in is checked against it. */
import type { Change, HostDeviceStatus, OperatorRequest } from "../../controller/view.ts";
import type { ClaimStatus, Condition, DomainStatus } from "../../model/status.ts";

/** First message of `/api/v1/watch`, unless the client's number could be resumed from. */
export type SnapshotMessage = {
  readonly type: "snapshot";
  /** Life of the daemon; numbers belong to it. */
  readonly id: string;
  readonly seq: number;
  readonly ready: boolean;
  readonly domains: readonly { readonly key: string; readonly value: DomainStatus }[];
  readonly devices: readonly { readonly key: string; readonly value: ClaimStatus }[];
  readonly host: readonly { readonly key: string; readonly value: HostDeviceStatus }[];
  readonly conditions: readonly Condition[];
};
/** `seq` is the last number in it. A resumed client that missed nothing gets one without changes at once. */
export type ChangesMessage = { readonly type: "changes"; readonly id: string; readonly seq: number; readonly changes: readonly Change[] };
export type WatchMessage = SnapshotMessage | ChangesMessage;

/** Where a client was when it lost the connection: `?id=…&seq=…`. */
export type Resume = { readonly id: string; readonly seq: number };

/** Every answer that is not 2xx, but for `operate`, whose refusals are an OperatorAnswer. */
export type ErrorBody = { readonly error: { readonly code: string; readonly message: string; readonly remedy: string | null } };

export type HealthBody = {
  readonly status: "ok";
  readonly name: "plugherd";
  /** Only on the unix socket. */
  readonly pid: number | null;
  readonly id: string;
  readonly version: string;
};
export type ReadyBody = {
  readonly ready: boolean;
  readonly checks: readonly { readonly name: string; readonly ok: boolean; readonly message: string }[];
};

/** The daemon as a whole. */
export type StatusBody = {
  readonly id: string;
  readonly version: string;
  readonly seq: number;
  readonly ready: boolean;
  readonly conditions: readonly Condition[];
  readonly domains: number;
  readonly devices: { readonly total: number; readonly attached: number };
};

export type PlanRequest = { readonly files: readonly { readonly name: string; readonly text: string }[] | null };
export type { OperatorRequest };

/** Codes with which the server ends a watch, beside the standard ones. */
export const CLOSE = { tooSlow: 4001, stopping: 1001, notUnderstood: 1008 } as const;
