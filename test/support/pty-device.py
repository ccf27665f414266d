"""A character device that speaks xenstore: a terminal in raw mode, whose far end is passed on to xenstored's socket.

Each time that it is opened it is a connection of its own, as /dev/xen/xenbus is; it takes one at a time.
Arguments: the socket, and where a link to the device is made. Ends when its standard input does.
"""
import os, select, socket, sys, time, tty

path, link = sys.argv[1:]
master, slave = os.openpty()
tty.setraw(slave)
os.symlink(os.ttyname(slave), link)
os.close(slave)
poll = select.poll()
poll.register(master, 0)
while True:
    # Nobody has it open.
    while any(events & select.POLLHUP for _, events in poll.poll(0)):
        if select.select([0], [], [], 0.005)[0]:
            sys.exit()
    there = socket.socket(socket.AF_UNIX)
    try:
        there.connect(path)
        while True:
            ready = select.select([0, master, there], [], [])[0]
            if 0 in ready:
                sys.exit()
            if master in ready:
                there.sendall(os.read(master, 65536))
            if there in ready:
                data = there.recv(2048)
                if not data:
                    break
                while data:
                    data = data[os.write(master, data):]
    except OSError:
        pass
    there.close()
    time.sleep(0.005)
