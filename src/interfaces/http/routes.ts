/** `/api/v1/*`, `/healthz`, `/readyz`: what each path answers. No sockets here: a request comes in as a value, an answer goes out as one. */
import type { ControllerView, EventFilter } from "../../controller/view.ts";
import type { Result } from "../../model/result.ts";
import { createSelection, type Filters, filtersOfQuery } from "../filters.ts";
import type { Role } from "./auth.ts";
import type { ErrorBody, HealthBody, OperatorRequest, PlanRequest, ReadyBody, StatusBody } from "./messages.ts";
import { checkShape } from "./schema.ts";

export type Answer = { readonly status: number; readonly body: unknown; readonly headers?: Readonly<Record<string, string>> };
export type Asked = {
  readonly method: string;
  readonly url: URL;
  readonly role: Role;
  /** Came over the unix socket. */
  readonly local: boolean;
  /** Reads and parses the body; its error is an answer. */
  readonly body: () => Promise<Result<unknown, Answer>>;
};
export type RouteOptions = { readonly view: ControllerView; readonly version: string; readonly pid: number };

const DEFAULT_EVENTS = 200;
const MOST_EVENTS = 5_000;

export const refuse = (status: number, code: string, message: string, remedy: string | null = null): Answer => ({
  status,
  body: { error: { code, message, remedy } } satisfies ErrorBody,
});

/** Paths that need no token on TCP: they tell nothing of the host. */
export const OPEN_PATHS: ReadonlySet<string> = new Set(["/healthz", "/readyz"]);

type Handler = (asked: Asked) => Answer | Promise<Answer>;
type Route = { readonly method: "GET" | "POST"; readonly role: Role; readonly answer: Handler };

export function createRoutes({ view, version, pid }: RouteOptions): (asked: Asked) => Promise<Answer> {
  const { id } = view.snapshot();
  /** Rows of the snapshot, with the number that they belong to in the headers. */
  const rows =
    (
      pick: (snapshot: ReturnType<ControllerView["snapshot"]>, selection: ReturnType<typeof createSelection>) => readonly unknown[],
    ): Handler =>
    ({ url }) => {
      const filters = filtersOfQuery(url.searchParams);
      if (!filters.ok) return refuse(400, "bad-query", filters.error);
      const snapshot = view.snapshot();
      return {
        status: 200,
        body: pick(snapshot, selectionOf(filters.value)),
        headers: { "x-plugherd-id": snapshot.id, "x-plugherd-seq": String(snapshot.seq) },
      };
    };
  const selectionOf = (filters: Filters): ReturnType<typeof createSelection> => {
    const labels = new Map(filters.labels.length === 0 ? [] : view.snapshot().domains.map((domain) => [domain.name, domain.labels]));
    return createSelection(filters, (name) => labels.get(name) ?? {});
  };

  const status: Handler = () => {
    const { seq, conditions, domains, devices } = view.snapshot();
    const attached = devices.filter(({ phase }) => phase === "Attached").length;
    const counts = { domains: domains.length, devices: { total: devices.length, attached } };
    return { status: 200, body: { id, version, seq, ready: view.ready, conditions, ...counts } satisfies StatusBody };
  };

  const events: Handler = ({ url: { searchParams: query } }) => {
    const filters = filtersOfQuery(query);
    if (!filters.ok) return refuse(400, "bad-query", filters.error);
    const limit = Number(query.get("limit") ?? DEFAULT_EVENTS);
    if (!Number.isSafeInteger(limit) || limit < 1 || limit > MOST_EVENTS)
      return refuse(400, "bad-query", `limit takes a whole number from 1 to ${String(MOST_EVENTS)}`);
    const [domain] = filters.value.domains;
    const device = query.get("device");
    const alone = filters.value.domains.length === 1 && filters.value.labels.length === 0;
    const filter: EventFilter = {
      ...(alone && domain !== undefined ? { domain } : {}),
      ...(device === null ? {} : { device }),
      limit: alone || (filters.value.domains.length === 0 && filters.value.labels.length === 0) ? limit : MOST_EVENTS,
    };
    const selection = selectionOf(filters.value);
    return { status: 200, body: view.events(filter).filter(selection.event).slice(-limit) };
  };

  const explain: Handler = ({ url: { searchParams: query } }) => {
    const device = query.get("device");
    if (device === null)
      return refuse(400, "bad-query", "device is missing", "Ask for /api/v1/explain?device=NAME, and &domain=NAME for one of several.");
    const explanations = view.explain(device, query.get("domain") ?? undefined);
    return explanations === null ? refuse(404, "unknown-name", "No entry of that name is in force.") : { status: 200, body: explanations };
  };

  const plan: Handler = async ({ body }) => {
    const read = await body();
    if (!read.ok) return read.error;
    const request = checkShape<PlanRequest>("planRequest", read.value);
    return request.ok ? { status: 200, body: view.plan(request.value.files) } : refuse(400, "bad-body", request.error);
  };

  const operate: Handler = async ({ body }) => {
    const read = await body();
    if (!read.ok) return read.error;
    const request = checkShape<OperatorRequest>("operatorRequest", read.value);
    if (!request.ok) return refuse(400, "bad-body", request.error);
    const answer = await view.operate(request.value);
    return { status: answer.ok ? 200 : answer.kind === "unknown-name" ? 404 : 409, body: answer };
  };

  const healthz: Handler = ({ local }) => ({
    status: 200,
    body: { status: "ok", name: "plugherd", pid: local ? pid : null, id, version } satisfies HealthBody,
  });
  const readyz: Handler = () => {
    const { ready } = view;
    const message = ready
      ? "host, domains, files and policy have each been read once"
      : "waiting for the first reading of the host, the domains, the files and the policy";
    return { status: ready ? 200 : 503, body: { ready, checks: [{ name: "sources", ok: ready, message }] } satisfies ReadyBody };
  };
  const later =
    (what: string): Handler =>
    () =>
      refuse(404, "not-there-yet", `${what} is not part of this version.`, "See /api/v1/devices, /api/v1/domains and /api/v1/watch.");

  const look = (answer: Handler): Route => ({ method: "GET", role: "read", answer });
  const routes = new Map<string, Route>([
    ["/api/v1/domains", look(rows(({ domains }, selection) => domains.filter(selection.domain)))],
    ["/api/v1/devices", look(rows(({ devices }, selection) => devices.filter(selection.device)))],
    ["/api/v1/host", look(rows(({ host }, selection) => host.filter(selection.host)))],
    ["/api/v1/status", look(status)],
    ["/api/v1/events", look(events)],
    ["/api/v1/explain", look(explain)],
    // A plan changes nothing, whoever asks.
    ["/api/v1/plan", { method: "POST", role: "read", answer: plan }],
    ["/api/v1/operate", { method: "POST", role: "operator", answer: operate }],
    ["/healthz", look(healthz)],
    ["/readyz", look(readyz)],
    ["/metrics", look(later("/metrics"))],
    ["/", look(later("The web page"))],
  ]);

  return async (asked) => {
    const { method, url, role } = asked;
    if (url.pathname === "/api/v1/watch")
      return {
        ...refuse(426, "upgrade-needed", "/api/v1/watch is a WebSocket."),
        headers: { upgrade: "websocket", connection: "Upgrade" },
      };
    const route = routes.get(url.pathname);
    if (route === undefined)
      return refuse(404, "unknown-path", "There is nothing at this path.", `Paths are ${[...routes.keys(), "/api/v1/watch"].join(" ")}.`);
    if (method !== route.method && !(method === "HEAD" && route.method === "GET"))
      return {
        ...refuse(405, "wrong-method", `This path takes ${route.method}.`),
        headers: { allow: route.method === "GET" ? "GET, HEAD" : "POST" },
      };
    if (route.role === "operator" && role !== "operator")
      return refuse(403, "read-only", "This token may look, and change nothing.", "Use the operator's token.");
    return route.answer(asked);
  };
}
