/** The xenstore client, one suite: on the simulator in both its ways, and on the real C xenstored and oxenstored where they are installed. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeEach, describe, expect, test } from "vitest";
import { createXenstoreClient, type WatchNews, type XenstoreChange, type XenstoreClient } from "../src/adapters/xenstore-client.ts";
import type { XenstoreError } from "../src/adapters/xenstore-nodes.ts";
import { err, ok, type Result } from "../src/model/result.ts";
import type { Timings } from "../src/model/timings.ts";
import { createFakeXenstored, type FakeXenstored, type FakeXenstoredOptions } from "../src/sim/xenstored.ts";
import { quickTimings, realClock } from "./support/domains-rig.ts";
import { eventually } from "./support/eventually.ts";
import { openRaw, type RawClient, removeStandin, type TestXenstored, xenstoredKinds } from "./support/xenstored.ts";
import { strictLog } from "./support/logs.ts";

let dir: string;
let socket: string;
const open: (() => unknown)[] = [];
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "plugherd-xs-"));
  socket = join(dir, "socket");
});
afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close();
  rmSync(dir, { recursive: true, force: true });
});
afterAll(removeStandin);

type Client = XenstoreClient & {
  readonly told: XenstoreChange[];
  up(life?: number): Promise<unknown>;
  fired(path: string): readonly string[];
};
function createClient(timings: Partial<Timings> = {}): Client {
  const client = createXenstoreClient(socket, {
    timings: { ...quickTimings, ...timings },
    clock: realClock,
    random: () => 0.1,
    log: strictLog,
  });
  const told: XenstoreChange[] = [];
  client.changes$.subscribe((change) => told.push(change));
  client.start();
  open.push(() => client.close());
  return {
    ...client,
    told,
    up: (life = 1) => eventually(() => told.some((one) => one.kind === "up" && one.life === life)),
    fired(path) {
      const news: string[] = [];
      const subscription = client.watch(path).subscribe((one: WatchNews) => news.push(one.kind === "fired" ? one.path : one.error.kind));
      open.push(() => subscription.unsubscribe());
      return news;
    },
  };
}
const must = <T>(result: Result<T, XenstoreError>): T => {
  if (!result.ok) throw new Error(result.error.message);
  return result.value;
};
const kindOf = (result: Result<unknown, XenstoreError>): string => (result.ok ? "ok" : result.error.kind);

describe.each(
  xenstoredKinds().map((kind) => ({ kind, title: kind.missing === null ? kind.title : `${kind.title}: skipped, ${kind.missing}` })),
)("on $title", ({ kind }) => {
  const it = test.skipIf(kind.missing !== null);
  const ocaml = kind.like === "ocaml";
  let daemon: TestXenstored;
  let client: Client;
  let other: RawClient;
  beforeEach(async () => {
    if (kind.missing !== null) return;
    daemon = kind.create(dir);
    open.push(() => daemon.kill());
    await daemon.start();
    client = createClient();
    await client.up();
    other = await openRaw(socket);
    open.push(() => other.close());
  });

  describe("nodes", () => {
    it("reads back what was written, as others do", async () => {
      for (const value of ["1-1.4", "", "späß ☃", "a\0b", "x".repeat(2048)]) {
        must(await client.write("/t/deep/er", value));
        expect(must(await client.read("/t/deep/er"))).toBe(value);
      }
      expect(await other.ask(2, "/t/deep/er\0")).toBe("x".repeat(2048));
      expect(must(await client.read("/t/deep"))).toBe("");
      must(await client.mkdir("/t/deep/er")); // one that is there stays as it is
      expect(must(await client.read("/t/deep/er"))).toBe("x".repeat(2048));
    });

    it("tells what is missing, and what cannot be sent", async () => {
      expect(kindOf(await client.read("/no/such"))).toBe("missing");
      expect(kindOf(await client.directory("/no/such"))).toBe("missing");
      expect(kindOf(await client.permissions("/no/such"))).toBe("missing");
      expect(kindOf(await client.remove("/no/such"))).toBe("missing");
      expect(kindOf(await client.remove("/tool/such"))).toBe("ok");
      expect(kindOf(await client.write("/a.b", ""))).toBe("invalid");
      expect(kindOf(await client.remove("/"))).toBe("invalid");
      expect(kindOf(await client.write("/t", "x".repeat(4095)))).toBe("too-large");
      expect(kindOf(await client.write("/t", "x".repeat(2049)))).toBe(ocaml ? "too-large" : "ok");
    });

    it("lists a directory, and one that is too large for one answer", async () => {
      must(await client.mkdir("/t"));
      expect(must(await client.directory("/t"))).toEqual([]);
      const names = Array.from({ length: 300 }, (_, i) => `node-with-a-long-name-${String(999 - i)}`);
      for (const done of await Promise.all(names.map((name) => client.write(`/t/${name}`, name)))) must(done);
      const listed = must(await client.directory("/t"));
      expect(listed).toEqual(ocaml ? names.toSorted() : names);
      must(await client.remove("/t"));
      expect(kindOf(await client.read(`/t/${names[0] ?? ""}`))).toBe("missing");
    });

    it("sets permissions, which new nodes below inherit", async () => {
      must(await client.mkdir("/t"));
      expect(must(await client.permissions("/t"))).toEqual([{ domid: 0, access: "none" }]);
      const wanted = [
        { domid: 0, access: "none" },
        { domid: 0, access: "read" },
      ] as const;
      must(await client.setPermissions("/t", wanted));
      must(await client.write("/t/a/b", "1"));
      expect(must(await client.permissions("/t/a/b"))).toEqual(wanted);
    });
  });

  describe("watches", () => {
    it("fire once registered, and at every change at or below", async () => {
      const all = client.fired("/t");
      const leaf = client.fired("/t/a/b");
      await eventually(() => all.length === 1 && leaf.length === 1);
      await other.ask(11, "/t/a/b\x001");
      await eventually(() => all.length === 2 && leaf.length === 2);
      await other.ask(13, "/t/a\0"); // one event a watch: of deleted children only those that are watched are told
      await eventually(() => all.length === 3 && leaf.length === 3);
      must(await client.mkdir("/t")); // changes nothing
      must(await client.write("/t", "1"));
      await eventually(() => all.length === 4);
      expect(all).toEqual(["/t", "/t/a/b", "/t/a", "/t"]);
      expect(leaf).toEqual(["/t/a/b", "/t/a/b", "/t/a/b"]);
    });

    it("are let go", async () => {
      const news: WatchNews[] = [];
      const subscription = client.watch("/t").subscribe((one) => news.push(one));
      await eventually(() => news.length === 1);
      subscription.unsubscribe();
      const still = client.fired("/t");
      await eventually(() => still.length === 1); // C drops an event that is the same as one still waiting to go out
      must(await client.write("/t", "1"));
      await eventually(() => still.length === 2);
      expect(news).toHaveLength(1);
    });

    it("tell of domains that come and go", async () => {
      const came = client.fired("@introduceDomain");
      const went = client.fired("@releaseDomain");
      await eventually(() => came.length === 1 && went.length === 1);
      writeFileSync(join(dir, "domains"), "0 0 0 0\n5 0 0 0\n"); // those that the stand-in's hypervisor has
      expect(await other.ask(8, "5\x001\x001\0")).toBe("OK");
      await eventually(() => came.length === 2);
      expect(await other.ask(17, "5\0")).toBe("T");
      expect(await other.ask(9, "5\0")).toBe("OK");
      await eventually(() => went.length === 2);
      expect(await other.ask(17, "5\0")).toBe("F");
      expect(came).toEqual(["@introduceDomain", "@introduceDomain"]);
    });
  });

  describe("transactions", () => {
    it("are seen by others once committed, all at once, and fire then", async () => {
      const news = client.fired("/t");
      await eventually(() => news.length === 1);
      const result = await client.transaction(async (tx) => {
        must(await tx.write("/t/a", "1"));
        must(await tx.write("/t/b", "2"));
        must(await tx.write("/t/b", "3"));
        expect(must(await tx.read("/t/b"))).toBe("3");
        expect(kindOf(await client.read("/t/b"))).toBe("missing");
        expect(news).toHaveLength(1);
        return ok({ commit: true, value: "done" });
      });
      expect(result).toEqual(ok("done"));
      expect(must(await client.read("/t/b"))).toBe("3");
      await eventually(() => news.length >= (ocaml ? 4 : 3));
      expect(news.toSorted()).toEqual(["/t", "/t/a", "/t/b", ...(ocaml ? ["/t/b"] : [])]);
    });

    it("leave nothing behind when they are called off, or their body fails", async () => {
      const off = await client.transaction(async (tx) => {
        must(await tx.write("/t", "1"));
        return ok({ commit: false, value: 7 });
      });
      expect(off).toEqual(ok(7));
      const failed = await client.transaction(async (tx) => {
        must(await tx.write("/t", "1"));
        const found = await tx.read("/no/such");
        return found.ok ? ok({ commit: true, value: 7 }) : found;
      });
      expect(kindOf(failed)).toBe("missing");
      const bug = client.transaction(async (tx) => {
        must(await tx.write("/t", "1"));
        throw new Error("a bug");
      });
      await expect(bug).rejects.toThrow("a bug");
      expect(kindOf(await client.read("/t"))).toBe("missing");
    });

    it("are done again when others changed what they read", async () => {
      must(await client.write("/t", "0"));
      let runs = 0;
      const result = await client.transaction(async (tx) => {
        runs += 1;
        const value = must(await tx.read("/t"));
        if (runs < 3) await other.ask(11, `/t\0other${String(runs)}`);
        must(await tx.write("/t", `${value}+`));
        return ok({ commit: true, value });
      });
      expect([result, runs]).toEqual([ok("other2"), 3]);
      expect(must(await client.read("/t"))).toBe("other2+");
    });

    it("are given up when others are always quicker", async () => {
      let runs = 0;
      const result = await client.transaction(async (tx) => {
        runs += 1;
        await tx.read("/t");
        await other.ask(11, `/t\0${String(runs)}`);
        must(await tx.write("/t", "mine"));
        return ok({ commit: true, value: null });
      });
      expect([kindOf(result), runs]).toEqual(["conflict", quickTimings.transactionTries]);
      expect(must(await client.read("/t"))).toBe(String(runs));
    });

    it("many at once on one counter lose nothing", async () => {
      must(await client.write("/t", "0"));
      const raise = () =>
        client.transaction(async (tx) => {
          const value = Number(must(await tx.read("/t"))) + 1;
          must(await tx.write("/t", String(value)));
          return ok({ commit: true, value });
        });
      const done = await Promise.all(Array.from({ length: 12 }, raise));
      const won = done.filter(({ ok }) => ok).length;
      expect(won).toBeGreaterThan(0);
      expect(done.every((one) => one.ok || one.error.kind === "conflict")).toBe(true);
      expect(must(await client.read("/t"))).toBe(String(won));
    });

    it("are lost with the daemon before their end, and nothing was written", async () => {
      const result = await client.transaction(async (tx) => {
        must(await tx.write("/t", "1"));
        await daemon.kill();
        await eventually(() => client.told.at(-1)?.kind === "down");
        return ok({ commit: true, value: null });
      });
      expect(kindOf(result)).toBe("lost");
    });

    // What the simulator has to do as the real ones do; asked for in plain bytes.
    it("conflict by this daemon's own rules", async () => {
      const conflicts = async (before: string[], inside: [number, string][], meanwhile: [number, string]): Promise<boolean> => {
        await other.ask(13, "/t\0");
        for (const node of before) await other.ask(11, `${node}\x000`);
        const txId = Number(await other.ask(6, "\0"));
        for (const [type, payload] of inside) await other.ask(type, payload, txId);
        await other.ask(...meanwhile);
        const answer = await other.ask(7, "T\0", txId);
        expect(["OK", "EAGAIN"]).toContain(answer);
        return answer === "EAGAIN";
      };
      const seen = {
        onlyRead: await conflicts(["/t/a"], [[2, "/t/a\0"]], [11, "/t/a\x001"]),
        readThenWrite: await conflicts(["/t/a"], [[2, "/t/a\0"], [11, "/t/b\x001"]], [11, "/t/a\x001"]), // biome-ignore format: one row
        blindWrites: await conflicts(["/t/a"], [[11, "/t/a\x002"]], [11, "/t/a\x001"]),
        siblingMade: await conflicts(["/t/a"], [[11, "/t/b\x002"]], [11, "/t/c\x001"]),
        siblingWritten: await conflicts(["/t/a"], [[11, "/t/b\x002"]], [11, "/t/a\x001"]),
        listed: await conflicts(["/t/a"], [[1, "/t\0"], [11, "/u\x001"]], [11, "/t/c\x001"]), // biome-ignore format: one row
        elsewhere: await conflicts(["/t/a"], [[11, "/t/a\x002"]], [11, "/tool/x\x001"]),
        removed: await conflicts(["/t/a"], [[11, "/t/a\x002"]], [13, "/t/a\0"]),
      };
      expect(seen).toEqual({
        onlyRead: !ocaml,
        readThenWrite: true,
        blindWrites: !ocaml,
        siblingMade: !ocaml,
        siblingWritten: false,
        listed: true,
        elsewhere: false,
        removed: !ocaml,
      });
    });
  });

  it("answers and events come in this daemon's own order", async () => {
    await other.ask(4, "/t\0w\0");
    await eventually(() => other.heard.length === 2);
    await other.ask(11, "/t\x001");
    await eventually(() => other.heard.length === 4);
    expect(other.heard).toEqual(["OK", "! /t w", ...(ocaml ? ["OK", "! /t w"] : ["! /t w", "OK"])]);
  });

  it("a removal is told to watches below in this daemon's own way", async () => {
    await other.ask(11, "/t/a/b\x001");
    await other.ask(4, "/t/a/none\0none\0");
    await other.ask(4, "/t/a/b\0leaf\0");
    await other.ask(4, "/t\0root\0");
    await eventually(() => other.heard.filter((line) => line.startsWith("!")).length === 3);
    const before = other.heard.length;
    await other.ask(13, "/t/a\0");
    await other.ask(13, "/t/a\0"); // there is nothing to remove
    await other.ask(4, "/end\0end\0");
    await eventually(() => other.heard.at(-1) === "! /end end");
    const events = other.heard.slice(before).filter((line) => line.startsWith("!"));
    expect(events.toSorted()).toEqual(["! /end end", "! /t/a root", "! /t/a/b leaf", ...(ocaml ? ["! /t/a/none none"] : [])]);
  });

  it("refuses in this daemon's own words", async () => {
    const gone = ocaml ? "EIO" : "ENOENT";
    expect(await other.ask(4, "/t\0w\0")).toBe("OK");
    expect(await other.ask(4, "/t\0w\0")).toBe("EEXIST");
    expect(await other.ask(5, "/t\0v\0")).toBe("ENOENT");
    expect(await other.ask(7, "T\0", 4711)).toBe(gone);
    expect(await other.ask(2, "/tool\0", 4711)).toBe(gone);
    expect(await other.ask(7, "T\0")).toBe("ENOENT");
    expect(await other.ask(2, "/a.b\0")).toBe("EINVAL");
    expect(await other.ask(99, "\0")).toBe("ENOSYS");
    const txId = Number(await other.ask(6, "\0"));
    expect(await other.ask(6, "\0", txId)).toBe("EBUSY");
  });

  it("a thousand requests at once are all answered", async () => {
    const done = await Promise.all(Array.from({ length: 1000 }, (_, i) => client.write(`/t/${String(i % 50)}`, String(i))));
    expect(done.every((one) => one.ok)).toBe(true);
    expect(must(await client.read("/t/49"))).toBe("999");
  });

  it("a restarted daemon is told as a new life, its store read as it is, its watches registered anew", async () => {
    const news = client.fired("/t");
    await eventually(() => news.length === 1);
    must(await client.write("/t", "1"));
    await eventually(() => news.length === 2);
    await daemon.kill();
    await eventually(() => client.told.at(-1)?.kind === "down");
    expect(kindOf(await client.read("/t"))).toBe("away");
    expect(kindOf(await client.transaction(() => Promise.resolve(ok({ commit: true, value: null }))))).toBe("away");
    await daemon.start();
    client.kick();
    await client.up(2);
    await eventually(() => news.length === 3); // the registration's own: look again
    expect(kindOf(await client.read("/t"))).toBe("missing");
    must(await client.write("/t/a", "2"));
    await eventually(() => news.at(-1) === "/t/a");
  });
});

describe.each(["c", "ocaml"] as const)("faults, on the simulator as %s", (like) => {
  const start = async (options: Partial<FakeXenstoredOptions> = {}): Promise<FakeXenstored> => {
    const daemon = createFakeXenstored({ path: socket, like, ...options });
    open.push(() => daemon.kill());
    await daemon.start();
    return daemon;
  };
  const put = (client: Client) =>
    client.transaction(async (tx) => {
      const done = await tx.write("/t", "1");
      return done.ok ? ok({ commit: true, value: null }) : done;
    });

  test("a commit without an answer may have been done or not", async () => {
    const daemon = await start();
    const client = createClient({ commandMs: 50 });
    await client.up();
    for (const fault of [{ drop: "before" }, { drop: "after" }, { swallow: true }, { garble: true }] as const) {
      const { length } = client.told;
      daemon.remove("/t");
      daemon.fault("transaction-end", fault);
      expect(kindOf(await put(client))).toBe("unknown");
      expect(daemon.read("/t")).toBe("drop" in fault && fault.drop === "before" ? null : "1");
      if (!("swallow" in fault)) await eventually(() => client.told.slice(length).some(({ kind }) => kind === "up"));
    }
    await eventually(() => daemon.transactions() === 0);
  });

  test("a transaction that the daemon does not know any more is lost, called off or not", async () => {
    const daemon = await start();
    const client = createClient();
    await client.up();
    for (const commit of [true, false]) {
      daemon.fault("transaction-end", { refuse: like === "c" ? "ENOENT" : "EIO" });
      expect(kindOf(await client.transaction(() => Promise.resolve(ok({ commit, value: null }))))).toBe("lost");
    }
    daemon.fault("transaction-end", { refuse: "EAGAIN" }, 3);
    expect(kindOf(await put(client))).toBe("ok");
  });

  test("a transaction whose beginning was answered too late is ended all the same", async () => {
    const daemon = await start();
    const client = createClient({ commandMs: 60 });
    await client.up();
    daemon.hang(true);
    const result = put(client);

    expect(kindOf(await result)).toBe("lost");
    daemon.hang(false);
    await eventually(() => daemon.requestLog.some(({ op, text }) => op === "transaction-end" && text === "F|"));
    await eventually(() => daemon.transactions() === 0);
  });

  test("a daemon that hangs is given up, and found again", async () => {
    const daemon = await start();
    const client = createClient({ commandMs: 50, greetingMs: 50 });
    await client.up();
    daemon.hang(true);
    expect(kindOf(await client.read("/tool"))).toBe("unknown");
    await eventually(() => client.told.at(-1)?.kind === "down");
    daemon.hang(false);
    client.kick();
    await client.up(2);
    expect(kindOf(await client.read("/tool"))).toBe("ok");
  });

  test("quotas are told as such, and a watch that was refused is tried again with the next connection", async () => {
    const daemon = await start({ quotas: { watches: 1, transactions: 0, nodes: 8, valueBytes: 10 } });
    const client = createClient();
    await client.up();
    const first = client.watch("/t").subscribe();
    const second = client.fired("/u");
    await eventually(() => second.length === 1);
    expect(second).toEqual(["quota"]);
    expect(kindOf(await put(client))).toBe("quota");
    expect(kindOf(await client.write("/t", "x".repeat(11)))).toBe(like === "c" ? "quota" : "too-large");
    const made = await Promise.all(Array.from({ length: 10 }, (_, i) => client.mkdir(`/n${String(i)}`)));
    expect(made.some((one) => kindOf(one) === "quota")).toBe(true);
    first.unsubscribe();
    daemon.disconnect();
    await client.up(2);
    await eventually(() => second.at(-1) === "/u");
  });

  test("requests beyond what may wait are refused, and a transaction ends all the same", async () => {
    const daemon = await start();
    const client = createClient();
    await client.up();
    let asked: Promise<Result<string, XenstoreError>>[] = [];
    const result = await client.transaction(async (tx) => {
      must(await tx.write("/t", "1"));
      asked = Array.from({ length: 4300 }, () => client.read("/tool"));
      return ok({ commit: true, value: null });
    });
    expect(kindOf(result)).toBe("ok");
    const kinds = (await Promise.all(asked)).map(kindOf);
    expect(kinds.filter((kind) => kind === "ok")).toHaveLength(4096 + 128);
    expect(new Set(kinds)).toEqual(new Set(["ok", "quota"]));
    expect([daemon.read("/t"), daemon.transactions()]).toEqual(["1", 0]);
  });

  test("other refusals keep their kind", async () => {
    const daemon = await start();
    const client = createClient();
    await client.up();
    for (const [code, kind] of [
      ["EACCES", "denied"],
      ["EPERM", "denied"],
      ["EEXIST", "exists"],
      ["ENOSYS", "refused"],
      ["EIO", "refused"],
      ["EQUOTA", "quota"],
    ] as const) {
      daemon.fault("write", { refuse: code });
      expect(kindOf(await client.write("/t", "1"))).toBe(kind);
    }
  });

  test("what a domain may not do is refused, and what it owned goes with it", async () => {
    const daemon = await start();
    const client = createClient();
    await client.up();
    must(await client.write("/local/domain/5/data", ""));
    expect(daemon.write("/local/domain/5/data", "x", 5)).toBe("EACCES");
    must(await client.setPermissions("/local/domain/5/data", [{ domid: 5, access: "none" }]));
    expect(daemon.write("/local/domain/5/data/own", "x", 5)).toBeNull();
    const news = client.fired("@releaseDomain");
    await eventually(() => news.length === 1);
    daemon.introduce(5);
    daemon.release(5);
    await eventually(() => news.length === 2);
    expect(must(await client.directory("/local/domain/5"))).toEqual([]);
  });

  test("closed for good: streams complete, nothing stays registered, requests are away", async () => {
    const daemon = await start();
    const client = createClient();
    await client.up();
    let completed = 0;
    const complete = (): void => {
      completed += 1;
    };
    client.changes$.subscribe({ complete });
    client.watch("/t").subscribe({ complete });

    client.close();
    expect(completed).toBe(2);
    expect(await client.read("/t")).toEqual(err({ kind: "away", message: "xenstored is not connected" }));
    await eventually(() => daemon.clients() === 0 && daemon.watches().length === 0);
  });
});
