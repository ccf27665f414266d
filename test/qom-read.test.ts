/** Reading a domain that holds very much: in portions that a session takes. */
import { EMPTY } from "rxjs";
import { expect, test } from "vitest";
import { MAX_IN_FLIGHT, MAX_QUEUED, type QmpSession } from "../src/adapters/qmp-client.ts";
import { readProperties } from "../src/adapters/qom-read.ts";
import { err, ok } from "../src/model/result.ts";

test("properties of a thousand objects, one by one, never more commands than a session takes", async () => {
  let open = 0;
  const session: QmpSession = {
    version: "7.2.0",
    events$: EMPTY,
    closed: new Promise(() => undefined),
    close: () => undefined,
    execute: async (_command, args) => {
      open += 1;
      const taken = open <= MAX_IN_FLIGHT + MAX_QUEUED;
      await Promise.resolve();
      open -= 1;
      return taken ? ok(`${String(args?.["path"])}.${String(args?.["property"])}`) : err({ kind: "protocol", reason: "too many" });
    },
  };
  const names = ["hostbus", "hostaddr", "hostport", "vendorid", "productid", "hostdevice", "attached", "port"];
  const wanted = Array.from({ length: 1_000 }, (_, i) => ({ path: `/o${String(i)}`, names }));
  const read = await readProperties(session, wanted);
  expect(read.ok && read.value.length).toBe(1_000);
  expect(read.ok && read.value[999]).toMatchObject({ hostbus: "/o999.hostbus", port: "/o999.port" });
});
