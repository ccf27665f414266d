/** Command lines of QEMU: what libxl starts, what people write, and what means something else. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { parseQemuCmdline } from "../src/protocol/qemu-cmdline.ts";

const parse = (args: readonly string[]) => parseQemuCmdline(new TextEncoder().encode(`${args.join("\0")}\0`));
const socketsOf = (...args: string[]) => parse(["qemu", ...args]).sockets;

// ps on a real host, libxl 4.17; the words of -append were one argument.
const LIBXL =
  `/usr/libexec/xen-qemu-system-i386 -xen-domid 7 -no-shutdown -chardev socket,id=libxl-cmd,path=/var/run/xen/qmp-libxl-7,server=on,wait=off
  -mon chardev=libxl-cmd,mode=control -chardev socket,id=libxenstat-cmd,path=/var/run/xen/qmp-libxenstat-7,server=on,wait=off
  -mon chardev=libxenstat-cmd,mode=control -nodefaults -no-user-config -name hvm1 -vnc none -display none -kernel /lab/domu/vmlinuz
  -initrd /lab/domu/initrd -append console=ttyS0_quiet_mitigations=off -serial file:/tmp/hvm1.con -boot order=cda -net none
  -machine xenfv,suppress-vmdesc=on -m 256`
    .split(/\s+/)
    .map((arg) => arg.replaceAll("_", arg.startsWith("console") ? " " : "_"));

test("what libxl starts", () => {
  expect(parse(LIBXL)).toEqual({
    xenDomid: 7,
    sockets: [
      { id: "libxl-cmd", path: "/var/run/xen/qmp-libxl-7", server: true },
      { id: "libxenstat-cmd", path: "/var/run/xen/qmp-libxenstat-7", server: true },
    ],
    restricted: false,
  });
});

test("what libxl starts with dm_restrict: monitors on descriptors, and no rights", () => {
  const args =
    "qemu -xen-domid 9 -chardev socket,id=libxl-cmd,fd=24,server=on,wait=off -mon chardev=libxl-cmd,mode=control -xen-domid-restrict";
  expect(parse([...args.split(" "), "-chroot", "/var/run/xen/qemu-root-9", "-runas", "65545:65545"])).toEqual({
    xenDomid: 9,
    sockets: [],
    restricted: true,
  });
  expect(parse(["qemu", "-run-with", "async-teardown=on"]).restricted).toBe(false);
  expect(parse(["qemu", "-run-with", "async-teardown=on,chroot=/x"]).restricted).toBe(true);
  expect(parse(["qemu", "-sandbox", "on"]).restricted).toBe(false);
});

test.each<[string[], { id: string | null; path: string; server: boolean }[]]>([
  [["-qmp", "unix:/run/a.sock,server=on,wait=off"], [{ id: null, path: "/run/a.sock", server: true }]],
  [["--qmp", "unix:/run/a.sock,server,nowait"], [{ id: null, path: "/run/a.sock", server: true }]],
  [["-qmp-pretty", "unix:a.sock,server"], [{ id: null, path: "a.sock", server: true }]],
  [["-qmp", "unix:/run/monitor.sock"], [{ id: null, path: "/run/monitor.sock", server: false }]],
  [["-qmp", "unix:/run/a,,b,,.sock,server=on"], [{ id: null, path: "/run/a,b,.sock", server: true }]],
  [["-mon", "c,mode=control", "-chardev", "socket,server=on,path=/p,id=c"], [{ id: "c", path: "/p", server: true }]],
  [["-mon", "mode=control,pretty=on,chardev=c", "-chardev", "id=c,backend=socket,path=/p=q"], [{ id: "c", path: "/p=q", server: false }]],
  [["-chardev", "socket,id=c,path=/p,server=on", "-qmp", "chardev:c"], [{ id: "c", path: "/p", server: true }]],
  // no control mode, no socket, no path, no such chardev
  [["-chardev", "socket,id=c,path=/p,server=on", "-mon", "chardev=c"], []],
  [["-chardev", "socket,id=c,path=/p,server=on", "-mon", "chardev=c,mode=readline"], []],
  [["-monitor", "unix:/p,server"], []],
  [["-serial", "unix:/p,server"], []],
  [["-chardev", "socket,id=c,path=/p,server=on"], []],
  [["-chardev", "pty,id=c,path=/p", "-mon", "chardev=c,mode=control"], []],
  [["-chardev", "socket,id=c,host=0,port=4444,server=on", "-mon", "chardev=c,mode=control"], []],
  [["-chardev", "socket,id=c,path=/p,abstract=on,server=on", "-mon", "chardev=c,mode=control"], []],
  [["-mon", "chardev=none,mode=control"], []],
  [["-qmp", "tcp:localhost:4444,server"], []],
  [["-qmp", "unix:"], []],
  [["-qmp"], []],
  [["-append", "-qmp", "unix:/p,server"], []],
  [["-name", "-xen-domid", "7"], []],
])("%j", (args, sockets) => {
  expect(parse(["qemu", ...args])).toEqual({ xenDomid: null, sockets, restricted: false });
});

test("anything at all is taken", () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ maxLength: 400 }),
      fc.array(fc.constantFrom("-qmp", "-mon", "-chardev", "unix:,", ",,,=", "socket,id=", "\0")),
      (noise, words) => {
        expect(parseQemuCmdline(noise).sockets).toEqual([]);
        expect(Array.isArray(parse(words).sockets)).toBe(true);
      },
    ),
  );
  expect(socketsOf("-qmp", `unix:${",".repeat(100_000)}`)).toHaveLength(1);
});
