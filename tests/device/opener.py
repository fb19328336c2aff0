"""Clients make, mount, put and remove volumes while somebody opens each new device-mapper device for 300 ms, as udev rules
and scanners do. Run by opener_udev_test.sh:

  opener.py CYCLES CLIENTS

Each request must succeed; prints how many opens there were, and the longest request.
"""
import os
import socket
import sys
import threading
import time

from bus_client import Refused, Service
from lab import DOOR, fail, read, write

HOLD = 0.3  # Seconds.
NETLINK_KOBJECT_UEVENT = 15


class Opener(threading.Thread):
    """Opens what the kernel announces, before udevd has looked at it."""

    def __init__(self):
        super().__init__(daemon=True)
        self.events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_KOBJECT_UEVENT)
        self.events.bind((0, 1))
        self.held, self.opens = {}, 0
        self.start()

    def run(self):
        while True:
            self.events.settimeout(0.02)
            try:
                fields = dict(field.split("=", 1) for field in self.events.recv(65536).decode().split("\0") if "=" in field)
                if fields.get("ACTION") in ("add", "change") and fields.get("DEVNAME", "").startswith("dm-"):
                    self.open("/dev/" + fields["DEVNAME"])
            except TimeoutError:
                pass
            for path, (descriptor, end) in list(self.held.items()):
                if time.monotonic() > end:
                    os.close(descriptor)
                    del self.held[path]

    def open(self, path):
        if path in self.held:
            return
        try:
            self.held[path] = os.open(path, os.O_RDONLY), time.monotonic() + HOLD
            self.opens += 1
        except OSError:
            pass  # It has just gone.


def use(client_number, cycles, longest):
    service = Service(DOOR)

    def ask(kind, **body):
        begun = time.monotonic()
        try:
            reply = service.ask("volume." + kind, body)
        except (Refused, TimeoutError) as error:
            fail(f"{kind} {body}: {error}")
        longest[0] = max(longest[0], (time.monotonic() - begun, kind))
        return reply

    for cycle in range(cycles):
        name = f"opened-{client_number}-{cycle}"
        ask("create", id=name, parent="base")
        path = ask("get", id=name)["path"] + "/file"
        write(path, name)
        ask("put", id=name)
        path = ask("get", id=name)["path"] + "/file"
        if read(path) != name:
            fail(f"{name}: another content")
        ask("put", id=name)
        ask("remove", id=name)
    service.close()


def main(cycles, clients):
    opener = Opener()
    longest = [(0, "")]
    users = [threading.Thread(target=use, args=(number, cycles // clients, longest)) for number in range(clients)]
    begun = time.monotonic()
    for user in users:
        user.start()
    for user in users:
        user.join()
    seconds = time.monotonic() - begun
    print(f"{cycles} cycles in {seconds:.0f} s, none refused; {opener.opens} opens; longest request: {longest[0][1]}, "
          f"{longest[0][0]:.1f} s", flush=True)
    if opener.opens < cycles:
        fail("what is new was not opened")
    service = Service(DOOR)
    end = time.monotonic() + 60
    while service.ask("system.status", {})["behind_reply"] != 0:
        if time.monotonic() > end:
            fail("a minute later there is still something behind the replies")
        time.sleep(0.05)
    service.close()


main(int(sys.argv[1]), int(sys.argv[2]))
