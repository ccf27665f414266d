/** The package's public surface. */
export { type App, type AppConfig, createApp } from "./app.ts";
export type {
  Change,
  ControllerView,
  HostDeviceStatus,
  JournalEntry,
  OperatorAnswer,
  OperatorRequest,
  PlanAnswer,
  Snapshot,
} from "./controller/view.ts";
export type { Clock, Log, Random } from "./model/contracts.ts";
export type { ClaimStatus, Condition, DomainStatus, Phase } from "./model/status.ts";
export { defaultTimings, type Timings } from "./model/timings.ts";
