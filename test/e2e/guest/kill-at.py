#!/usr/bin/env python3
"""kill-at.py PID LOG PATTERN N | kill-at.py PID NODE-DIR after MS

Sends SIGKILL to PID at a chosen moment and prints what it did. First form: as soon as LOG (QEMU's trace) has grown by N lines that hold
PATTERN. Second form: MS milliseconds after a new device node comes up below NODE-DIR. Gives up after 15 s."""
import os, signal, sys, time

pid, path, what, number = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
end = time.monotonic() + 15


def nodes():
    found = set()
    for bus in os.listdir(path):
        try:
            found |= {(bus, n, os.stat(f"{path}/{bus}/{n}").st_ino) for n in os.listdir(f"{path}/{bus}")}
        except OSError:
            pass
    return found


def seen():
    if what == "after":
        return bool(nodes() - before)
    global text
    text += log.read()
    return text.count(what.encode()) >= number


if what == "after":
    before = nodes()
else:
    log, text = open(path, "rb"), b""
    log.seek(0, 2)
print("armed", flush=True)
while not seen():
    if time.monotonic() > end:
        sys.exit("nothing came")
    time.sleep(0.0005)
if what == "after":
    time.sleep(number / 1000)
os.kill(pid, signal.SIGKILL)
print("killed")
