#!/usr/bin/env python3
"""udev-attach.py MONITOR BUS ADDRESS: what a udev rule runs, as rivals do: QMP device_add of the device that was just plugged in.
Detached by the rule: run inside RUN+= it never succeeds, as libusb waits for udev and udev for the script."""
import json, socket, sys, time

path, bus, address = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
s = socket.socket(socket.AF_UNIX)
s.connect(path)
f = s.makefile("rw")


def call(command, **arguments):
    f.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
    f.flush()
    while True:
        message = json.loads(f.readline())
        if "event" not in message:
            return message


f.readline()
call("qmp_capabilities")
for _ in range(50):
    answer = call("device_add", driver="usb-host", id="h1", bus="x0.0", port="1", hostbus=bus, hostaddr=address)
    if "return" in answer:
        break
    time.sleep(0.05)
