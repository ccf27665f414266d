/**
 * Domains of Xen's over xenstore, one suite: on the fake xenstored in both its ways and on the real C xenstored and oxenstored where they are
 * installed. Domains are written as libxl writes them; there is no QEMU, so what is seen is xenstore alone.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeEach, describe, expect, test } from "vitest";
import { createLibxlLocks } from "../src/adapters/libxl-lock.ts";
import { createUsbback } from "../src/adapters/usbback.ts";
import { createXenDomains, type XenDomains } from "../src/adapters/xen-domains.ts";
import { createXenstoreClient } from "../src/adapters/xenstore-client.ts";
import type { Xl } from "../src/adapters/xl.ts";
import type { Outcome, Place } from "../src/model/action.ts";
import type { DomainChange } from "../src/model/contracts.ts";
import type { LiveDomain } from "../src/model/domain.ts";
import { ok } from "../src/model/result.ts";
import { recordWrites } from "../src/protocol/xenstore-usb.ts";
import { formatPermission } from "../src/protocol/xenstore.ts";
import { quickTimings, realClock } from "./support/domains-rig.ts";
import { eventually } from "./support/eventually.ts";
import { device } from "./support/planner-worlds.ts";
import { openRaw, type RawClient, removeStandin, type TestXenstored, xenstoredKinds } from "./support/xenstored.ts";
import { strictLog } from "./support/logs.ts";

const UUID = "c88e6c64-4586-4eee-9d61-5085bffefc40";
const [READ, DIRECTORY, WRITE, RM, SET_PERMS] = [2, 1, 11, 13, 14];

let dir: string;
let raw: RawClient;
let daemon: TestXenstored;
let xen: XenDomains;
let stop: () => void;
let listed: number[] = [];
const told: DomainChange[] = [];
const now = new Map<string, LiveDomain>();

test.runIf(process.env["PLUGHERD_REQUIRE_REAL"] === "1")("every real xenstored is installed", () => {
  expect(xenstoredKinds().flatMap(({ missing }) => missing ?? [])).toEqual([]);
});

describe.each(
  xenstoredKinds().map((kind) => ({ kind, title: kind.missing === null ? kind.title : `${kind.title}: skipped, ${kind.missing}` })),
)("on $title", ({ kind }) => {
  const it = test.skipIf(kind.missing !== null);
  beforeEach(async () => {
    if (kind.missing !== null) return;
    dir = mkdtempSync(join(tmpdir(), "plugherd-xc-"));
    for (const name of ["store", "lib", "qmp", "sysfs", "proc"]) mkdirSync(join(dir, name));
    daemon = kind.create(join(dir, "store"));
    await daemon.start();
    raw = await openRaw(join(dir, "store", "socket"));
    listed = [0, 7];
  });
  afterEach(async () => {
    if (kind.missing !== null) return;
    stop();
    raw.close();
    await daemon.kill();
    rmSync(dir, { recursive: true, force: true });
  });
  afterAll(removeStandin);

  const write = async (path: string, value: string): Promise<void> => {
    expect(await raw.ask(WRITE, `${path}\0${value}`)).toBe("OK");
  };
  const read = (path: string): Promise<string> => raw.ask(READ, `${path}\0`);
  /** What of a PV domain libxl writes, and its file in the end. */
  const makeDomain = async (domid: number, name: string, { finished = true } = {}): Promise<void> => {
    const home = `/local/domain/${String(domid)}`;
    for (const [path, value] of [
      [`${home}/vm`, `/vm/${UUID}`],
      [`${home}/name`, name],
      [`/libxl/${String(domid)}/type`, "pv"],
      [`/libxl/${String(domid)}/dm-version`, "qemu_xen"],
      [`${home}/device`, ""],
    ] as const)
      await write(path, value);
    if (finished) finish(domid);
  };
  const finish = (domid: number): void => writeFileSync(join(dir, "lib", `userdata-d.${String(domid)}.${UUID}.libxl-json`), "{}");
  const makeController = async (domid: number, states: readonly [backend: number, frontend: number]): Promise<void> => {
    for (const step of recordWrites({ domid, devid: 0, type: "qusb", version: 2, ports: 2 })) {
      if (step.kind === "write") await write(step.path, step.value);
      else {
        await write(step.path, "");
        // Only a domain that is known may be named; the test's own need not be.
        await raw.ask(SET_PERMS, `${step.path}\0${step.permissions.map(formatPermission).join("\0")}\0`);
      }
    }
    await setStates(domid, states);
  };
  const setStates = async (domid: number, [backend, frontend]: readonly [number, number]): Promise<void> => {
    await write(`/local/domain/${String(domid)}/device/vusb/0/state`, String(frontend));
    await write(`/local/domain/0/backend/qusb/${String(domid)}/0/state`, String(backend));
  };
  /** Its queue may be full of those who try again. */
  const reopen = async (): Promise<void> => {
    await eventually(async () => {
      raw = await openRaw(join(dir, "store", "socket"));
      return true;
    });
  };
  const xl: Xl = {
    list: () =>
      Promise.resolve(
        ok(
          listed.map((domid) => ({
            domid,
            name: "d",
            uuid: UUID,
            state: { running: true, blocked: false, paused: false, shutdown: false, crashed: false, dying: false },
            reason: null,
          })),
        ),
      ),
  };
  const start = async (): Promise<void> => {
    const rim = {
      timings: { ...quickTimings, recordSettleMs: 50, phantomMs: 100, auditMs: 200 },
      clock: realClock,
      random: () => 0.1,
      log: strictLog,
    };
    const storePath = join(dir, "store", "socket");
    const store = createXenstoreClient(storePath, rim);
    const sysfs = join(dir, "sysfs");
    xen = createXenDomains({
      ...rim,
      store,
      storePath,
      xenLib: join(dir, "lib"),
      proc: join(dir, "proc"),
      qmpDir: join(dir, "qmp"),
      devDir: "/dev",
      xl,
      locks: createLibxlLocks(rim),
      usbback: createUsbback({ ...rim, nodes: store, sysfs }),
    });
    told.length = 0;
    now.clear();
    const subscription = xen.changes$.subscribe((change) => {
      told.push(change);
      if (change.kind === "domain") now.set(change.domain.key, change.domain);
      else if (change.kind === "gone") now.delete(change.key);
    });
    stop = () => subscription.unsubscribe();
    await eventually(() => told.some(({ kind: what }) => what === "ready"));
  };
  const seen = (): LiveDomain => {
    const [domain] = now.values();
    if (domain === undefined) throw new Error("no domain is seen");
    return domain;
  };
  const until = (is: (domain: LiveDomain) => boolean): Promise<unknown> => eventually(() => now.size === 1 && is(seen()));
  const attach = (busid: string, port: number): Promise<Outcome> => {
    const place: Place = { domain: seen().key, device: device(busid), bus: "xen-qusb-0.0", port, create: null };
    return xen.attach(place, { signal: new AbortController().signal, onStep: () => undefined });
  };

  it("a domain comes, is finished, has a controller, is renamed, and goes", async () => {
    await start();
    await makeDomain(7, "pv1", { finished: false });
    await until(({ xen: side }) => side?.obstacle?.reason === "DomainStarting");
    finish(7);
    await until(({ xen: side }) => side?.obstacle === null);
    expect(seen()).toMatchObject({ key: `${UUID}/7/-`, name: "pv1", uuid: UUID, type: "pv", monitorState: "answering" });
    await makeController(7, [2, 1]);
    await until(({ controllers }) => controllers[0]?.link === "waiting");
    await setStates(7, [4, 4]);
    await until(({ controllers }) => controllers[0]?.link === "connected");
    await write("/local/domain/7/name", "web");
    await until(({ name }) => name === "web");
    for (const path of ["/libxl/7", "/local/domain/7"]) expect(await raw.ask(RM, `${path}\0`)).toBe("OK");
    await eventually(() => now.size === 0);
  });

  it("attach and detach: record and mark in one transaction, seen again by a daemon that comes later", async () => {
    await makeDomain(7, "pv1");
    await makeController(7, [4, 4]);
    await start();
    await until(({ controllers }) => controllers.length === 1);
    expect(await attach("1-1", 2)).toMatchObject({ ok: true });
    expect(await read("/local/domain/0/backend/qusb/7/0/port/2")).toBe("1-1");
    expect(await read("/libxl/7/plugherd/0/2")).toBe("1-1 1.71 1071 xen-qusb-0-2");
    stop();
    await start();
    await until(({ objects }) => objects.length === 1);
    expect(seen().objects).toMatchObject([{ ours: true, inode: 1071, remark: "Unconfirmed", filter: { bus: 1, address: 71 } }]);
    expect(await attach("1-2", 2)).toMatchObject({ ok: false, error: { reason: "PortBusy" } });
    const at = { domain: seen().key, path: seen().objects[0]?.path ?? "", bus: "xen-qusb-0.0", port: 2, instance: null };
    expect(await xen.detach(at, { signal: new AbortController().signal, onStep: () => undefined })).toEqual({ ok: true, value: null });
    expect(await read("/local/domain/0/backend/qusb/7/0/port/2")).toBe("");
    expect(await read("/libxl/7/plugherd/0/2")).toBe("ENOENT");
  });

  it("nothing is written for another life of the domid", async () => {
    await makeDomain(7, "pv1");
    await makeController(7, [4, 4]);
    await start();
    await until(({ controllers }) => controllers.length === 1);
    const late = attach("1-1", 1);
    // Asked before, or after, the domain is another one: the transaction compares.
    await write("/local/domain/7/vm", "/vm/00000000-0000-0000-0000-000000000001");
    const outcome = await late;
    const port = await read("/local/domain/0/backend/qusb/7/0/port/1");
    expect(outcome.ok ? "1-1" : "").toBe(port);
    expect(
      (
        await xen.attach(
          { domain: `${UUID}/7/-`, device: device("1-2"), bus: "xen-qusb-0.0", port: 2, create: null },
          { signal: new AbortController().signal, onStep: () => undefined },
        )
      ).ok,
    ).toBe(false);
    expect(await read("/local/domain/0/backend/qusb/7/0/port/2")).toBe("");
  });

  it("killed, and back with an empty store: doubt, until the domain is there again or nobody has it any more", async () => {
    await makeDomain(7, "pv1");
    await makeController(7, [4, 4]);
    await start();
    await until(({ controllers }) => controllers.length === 1);
    expect(await attach("1-1", 1)).toMatchObject({ ok: true });
    raw.close();
    await daemon.kill();
    await until(({ xen: side, objects }) => side?.obstacle?.reason === "StoreInDoubt" && objects.length === 1);
    await daemon.start();
    await reopen();
    await eventually(async () => {
      await xen.audit();
      return seen().xen?.obstacle?.message.includes("without this domain") === true;
    });
    expect(seen().objects).toHaveLength(1);
    expect(await attach("1-2", 2)).toMatchObject({ ok: false, error: { reason: "StoreInDoubt" } });
    const top = await raw.ask(DIRECTORY, "/\0");
    expect(top.split("|")).not.toContain("libxl");
    await makeDomain(7, "pv1");
    await until(({ xen: side }) => side?.obstacle === null);
    expect(seen().objects).toEqual([]);

    raw.close();
    await daemon.kill();
    await until(({ xen: side }) => side?.obstacle?.reason === "StoreInDoubt");
    listed = [0];
    await daemon.start();
    await reopen();
    await eventually(async () => {
      await xen.audit();
      return now.size === 0;
    });
  });

  it("a record that does not change for long and serves nobody is a phantom, and then told", async () => {
    await makeDomain(7, "pv1");
    await makeController(7, [1, 1]);
    await start();
    await until(({ xen: side }) => (side?.phantoms.length ?? 0) === 1);
    expect(seen().xen).toMatchObject({ pending: [], nextDevid: 1 });
  });
});
