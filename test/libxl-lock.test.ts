/** libxl's lock files against real flock(1) on real files: other processes, files that are removed meanwhile, holders that die. */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, renameSync, rmSync, statSync, unlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createLibxlLocks, type LibxlLocks, type LockError } from "../src/adapters/libxl-lock.ts";
import type { Result } from "../src/model/result.ts";
import { deviceOfMount, parseLocks } from "../src/protocol/proc-locks.ts";
import { realClock } from "./support/domains-rig.ts";
import { eventually } from "./support/eventually.ts";

let dir: string;
let path: string;
const children: ChildProcess[] = [];
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "plugherd-lock-"));
  path = join(dir, "userdata-l.7.uuid.qmp-socket-lock");
});
afterEach(() => {
  for (const child of children.splice(0)) child.kill("SIGKILL");
  rmSync(dir, { recursive: true, force: true });
});
const create = (libxlLockMs = 10_000, more: { command?: string; proc?: string } = {}): LibxlLocks =>
  createLibxlLocks({ clock: realClock, timings: { libxlLockMs }, ...more });
const errorOf = (result: Result<unknown, LockError>): string => (result.ok ? "none" : `${result.error.kind}: ${result.error.message}`);

/** Another process that takes the lock as libxl does, tells `held`, and gives it back by unlink and close once a file `go` is there. */
const TAKE = `
path=$1 dir=$2
while :; do
  exec 9<>"$path"
  flock -x 9
  [ "$(stat -Lc %d:%i /proc/$$/fd/9)" = "$(stat -c %d:%i "$path" 2>/dev/null)" ] && break
done
`;
const LIBXL = `${TAKE}
: > "$dir/held"
while [ ! -e "$dir/go" ]; do sleep 0.01; done
rm "$path"
exec 9>&-
: > "$dir/released"
`;
async function holder(script = LIBXL): Promise<ChildProcess> {
  const child = spawn("sh", ["-c", script, "sh", path, dir], { stdio: "inherit" });
  children.push(child);
  await eventually(() => existsSync(join(dir, "held")));
  return child;
}
/** Somebody waits for the lock on this file. */
const waitedFor = (inode: number): boolean => new RegExp(`-> FLOCK .*:${String(inode)} `).test(readFileSync("/proc/locks", "utf8"));
const letGo = (): void => writeFileSync(join(dir, "go"), "");

describe("the lock", () => {
  test("is a file while it is held, and none afterwards", async () => {
    const locks = create();
    const given = await locks.withLock(path, async () => {
      expect(statSync(path).mode & 0o777).toBe(0o600);
      expect(await locks.isHeld(path)).toBe(false); // by nobody else
      expect(await create().isHeld(path)).toBe(true);
      return 7;
    });
    expect(given).toEqual({ ok: true, value: 7 });
    expect(existsSync(path)).toBe(false);
    expect(await locks.isHeld(path)).toBe(false);
  });

  test("is waited for, and taken in a file of its own once the other has removed his", async () => {
    await holder();
    const locks = create();
    expect(await locks.isHeld(path)).toBe(true);
    let ran = false;
    const mine = locks.withLock(path, async () => {
      ran = true;
      expect(existsSync(join(dir, "released"))).toBe(true);
      expect(existsSync(path)).toBe(true);
    });
    expect(ran).toBe(false);
    letGo();
    expect(errorOf(await mine)).toBe("none");
    expect(existsSync(path)).toBe(false);
  });

  test("keeps others out, beyond the end of flock(1)", async () => {
    const locks = create();
    let done = false;
    await locks.withLock(path, async () => {
      const child = spawn("sh", ["-c", LIBXL, "sh", path, dir], { stdio: "inherit" });
      children.push(child);
      await eventually(() => waitedFor(statSync(path).ino));
      expect(existsSync(join(dir, "held"))).toBe(false);
      done = true;
    });
    expect(done).toBe(true);
    await eventually(() => existsSync(join(dir, "held")));
    expect(await locks.isHeld(path)).toBe(true);
    letGo();
    await eventually(() => existsSync(join(dir, "released")));
    expect(await locks.isHeld(path)).toBe(false);
  });

  test("is not waited for without end, and is left as it was", async () => {
    await holder();
    const ino = statSync(path).ino;
    const result = await create(150).withLock(path, () => Promise.reject(new Error("never")));
    expect(errorOf(result)).toMatch(/^held: .* was not free within 150 ms$/);
    expect(statSync(path).ino).toBe(ino);
    letGo();
    await eventually(() => existsSync(join(dir, "released")));
    expect(errorOf(await create().withLock(path, async () => undefined))).toBe("none");
  });

  test("is free again when its holder dies, and its file is used on", async () => {
    const child = await holder();
    child.kill("SIGKILL");
    const locks = create();
    expect(errorOf(await locks.withLock(path, async () => undefined))).toBe("none");
    expect(existsSync(path)).toBe(false);
  });

  test("a file that is left over and not locked is free", async () => {
    writeFileSync(path, "");
    expect(await create().isHeld(path)).toBe(false);
    expect(errorOf(await create().withLock(path, async () => undefined))).toBe("none");
  });

  test("on a file that was replaced while we waited is no lock", async () => {
    await holder();
    const old = statSync(path).ino;
    const mine = create().withLock(path, async () => statSync(path).ino);
    await eventually(() => waitedFor(old));
    renameSync(path, `${path}.old`);
    writeFileSync(path, "");
    letGo(); // which unlinks the new one, and gives the old one's lock to us
    const result = await mine;
    expect(result.ok && result.value !== old).toBe(true);
    expect(existsSync(path)).toBe(false);
  });

  test("whose file is another's at the end is not unlinked", async () => {
    await create().withLock(path, async () => {
      unlinkSync(path); // with the domain's other files
      writeFileSync(`${path}.other`, "other");
      renameSync(`${path}.other`, path);
    });
    expect(readFileSync(path, "utf8")).toBe("other");
  });

  test("is one at a time here too, in order, and given back when a run fails", async () => {
    const locks = create();
    const order: string[] = [];
    const run = (name: string) =>
      locks.withLock(path, async () => {
        order.push(`${name}+`);
        await new Promise((resolve) => setImmediate(resolve));
        order.push(`${name}-`);
        if (name === "b") throw new Error("a bug");
        return name;
      });
    const all = await Promise.allSettled([run("a"), run("b"), run("c"), locks.withLock(join(dir, "other"), async () => order.push("o"))]);
    expect(all.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled", "fulfilled"]);
    expect(order.filter((one) => one !== "o")).toEqual(["a+", "a-", "b+", "b-", "c+", "c-"]);
    expect(existsSync(path)).toBe(false);
  });

  test("of many processes that raise one number loses none", async () => {
    const number = join(dir, "number");
    writeFileSync(number, "0");
    const raise = () =>
      create().withLock(path, async () => {
        const value = Number(readFileSync(number, "utf8"));
        await new Promise((resolve) => setImmediate(resolve));
        writeFileSync(number, String(value + 1));
      });
    const script = `
i=0
while [ $i -lt 20 ]; do
  i=$((i + 1))
  ${TAKE}
  echo $(($(cat "$dir/number") + 1)) > "$dir/number"
  rm "$path"
  exec 9>&-
done
: > "$dir/held"
`;
    const others = holder(script);
    const results = await Promise.all(Array.from({ length: 20 }, raise));
    await others;
    expect(results.map(errorOf)).toEqual(results.map(() => "none"));
    expect(readFileSync(number, "utf8").trim()).toBe("40");
  });

  test.each([
    ["no directory", "none/lock", {}, /^failed: .* cannot be opened: ENOENT$/],
    ["no flock(1)", "lock", { command: "/no/flock" }, /^failed: .*there is no program \/no\/flock$/],
    ["a flock(1) that fails", "lock", { command: "false" }, /^failed: .*false ended with 1$/],
  ])("cannot be had with %s", async (_, name, more, message) => {
    expect(errorOf(await create(10_000, more).withLock(join(dir, name), async () => 1))).toMatch(message);
  });

  test("is held when it cannot be told", async () => {
    writeFileSync(path, "");
    expect(await create(1, { proc: dir }).isHeld(path)).toBe(true);
    expect(await create(1, { proc: dir }).isHeld(`${path}.none`)).toBe(false);
  });
});

test("lines of /proc/locks", () => {
  const text = `1: POSIX  ADVISORY  WRITE 3568 fd:00:2531452 0 EOF
2: FLOCK  ADVISORY  WRITE 3517 fd:00:2531448 0 EOF
2: -> FLOCK  ADVISORY  WRITE 3600 fd:00:2531448 0 EOF
3: OFDLCK ADVISORY  READ -1 fe:1a:5423947 203 203
4: LEASE  ACTIVE    READ 3518 00:19:77 0 EOF
5: FLOCK  MSNFS     READ 0 103:02:78 0 EOF
6: nonsense
`;
  expect(parseLocks(text)).toEqual([
    { kind: "POSIX", pid: 3568, major: 0xfd, minor: 0, inode: 2531452, waits: false },
    { kind: "FLOCK", pid: 3517, major: 0xfd, minor: 0, inode: 2531448, waits: false },
    { kind: "FLOCK", pid: 3600, major: 0xfd, minor: 0, inode: 2531448, waits: true },
    { kind: "OFDLCK", pid: -1, major: 0xfe, minor: 0x1a, inode: 5423947, waits: false },
    { kind: "LEASE", pid: 3518, major: 0, minor: 0x19, inode: 77, waits: false },
    { kind: "FLOCK", pid: 0, major: 0x103, minor: 2, inode: 78, waits: false },
  ]);
});

test("a mount's own device number", () => {
  const mountinfo =
    "23 24 0:5 / /dev rw - devtmpfs dev rw\n29 1 0:26 /@ / rw - btrfs /dev/sda2 rw\n129 1 8:1 / /x rw - ext4 /dev/sda1 rw\n";
  expect(deviceOfMount("pos:\t0\nflags:\t02\nmnt_id:\t29\n", mountinfo)).toEqual({ major: 0, minor: 26 });
  expect(deviceOfMount("mnt_id:\t9\n", mountinfo)).toBe(null);
  expect(deviceOfMount("", mountinfo)).toBe(null);
});
