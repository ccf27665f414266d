#!/usr/bin/env python3
"""xs-proxy.py LISTEN XENSTORED LOG ORDER: a way to xenstored that writes every request with its answer to LOG, a JSON object a line.

ORDER is a file that may come up at any time, with "PID N before|after TYPE": SIGKILL for PID at the N-th request of that TYPE from then on (any: that
changes something, or begins or ends a transaction), before it is handed on to xenstored, or after xenstored has answered. The file is removed when that is
done; one that is removed by somebody else is no order any more."""
import json, os, signal, socket, struct, sys, threading, time

listen, real, log_path, order_path = sys.argv[1:5]
NAMES = {1: "DIRECTORY", 2: "READ", 3: "GET_PERMS", 4: "WATCH", 5: "UNWATCH", 6: "TRANSACTION_START", 7: "TRANSACTION_END", 11: "WRITE", 12: "MKDIR",
         13: "RM", 14: "SET_PERMS", 15: "WATCH_EVENT", 16: "ERROR", 18: "RESET_WATCHES", 19: "DIRECTORY_PART"}
CHANGING = {6, 7, 11, 12, 13, 14}
lock = threading.Lock()
log = open(log_path, "a", buffering=1)
order = None  # [pid, requests still to come, when, type, the file's identity]
clients = 0


def message(sock):
    def exactly(n):
        data = b""
        while len(data) < n:
            more = sock.recv(n - len(data))
            if not more:
                raise EOFError
            data += more
        return data
    head = exactly(16)
    kind, request, tx, length = struct.unpack("<IIII", head)
    return kind, request, tx, head + exactly(length)


def due(kind, when_now):
    """Whether the order is for this moment of this change; counts the change when it comes in."""
    global order
    with lock:
        try:
            found = os.stat(order_path).st_ino
        except OSError:
            order = None
            return False
        if order is None or order[4] != found:
            pid, n, when, what = open(order_path).read().split()
            order = [int(pid), int(n), when, what, found]
        if order[3] not in ("any", NAMES[kind]):
            return False
        if when_now == "before":
            order[1] -= 1
        if order[1] != 0 or order[2] != when_now:
            return False
        os.kill(order[0], signal.SIGKILL)
        order = None
        os.remove(order_path)
        return True


def serve(client, number):
    server = socket.socket(socket.AF_UNIX)
    server.connect(real)
    pending = {}

    def entry(kind, tx, body, answer):
        parts = body.split(b"\0", 1)
        log.write(json.dumps({"at": time.time(), "client": number, "type": NAMES.get(kind, str(kind)), "tx": tx, "path": parts[0].decode("latin1"),
                              "value": parts[1].rstrip(b"\0").decode("latin1") if len(parts) > 1 and kind in (11, 14) else None, "answer": answer}) + "\n")

    def back():
        try:
            while True:
                kind, request, tx, whole = message(server)
                asked = pending.pop(request, None) if kind != 15 else None
                if asked is not None:
                    error = whole[16:].rstrip(b"\0").decode("latin1") if kind == 16 else "OK"
                    # An answer to the start of a transaction is its number.
                    number_of = int(whole[16:].rstrip(b"\0")) if asked[0] == 6 and kind != 16 else asked[1]
                    entry(asked[0], number_of, asked[2], error)
                    if asked[0] in CHANGING and due(asked[0], "after"):
                        break
                client.sendall(whole)
        except (EOFError, OSError):
            pass
        end(client, server)

    threading.Thread(target=back, daemon=True).start()
    try:
        while True:
            kind, request, tx, whole = message(client)
            if kind in CHANGING and due(kind, "before"):
                entry(kind, tx, whole[16:], None)
                break
            pending[request] = (kind, tx, whole[16:])
            server.sendall(whole)
    except (EOFError, OSError):
        pass
    end(client, server)


def end(*sockets):
    for sock in sockets:
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


door = socket.socket(socket.AF_UNIX)
door.bind(listen)
door.listen(16)
while True:
    connection, _ = door.accept()
    clients += 1
    threading.Thread(target=serve, args=(connection, clients), daemon=True).start()
