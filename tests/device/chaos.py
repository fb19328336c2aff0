"""Clients at work while processes of the service are killed and stopped, at random. Run by chaos_test.sh:

  chaos.py SECONDS SEED

Eight clients make volumes, write to them, put them, read them again and remove them, each request answered with success.
Meanwhile some process of ours, the supervisor too, is killed with -9 or stopped for 0.1 to 3 s, again and again. At the
end everything acknowledged is there with its checksum, and nothing else. No service runs: this starts and ends it.
"""
import collections
import hashlib
import random
import signal
import sys
import threading
import time

from lab import DOOR, Process, Refused, Service, Services, blocks_agree, expect, fail

CLIENTS = 8
MOST_VOLUMES = 6  # Of a client.


def checksum(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


class Client(threading.Thread):
    def __init__(self, number, seed, until):
        super().__init__(daemon=True)
        self.number, self.chance, self.until = number, random.Random(f"{seed} {number}"), until
        self.service = Service(DOOR)
        self.volumes = {}  # Acknowledged: the checksum of each, when it was put.
        self.made = self.requests = 0
        self.start()

    def ask(self, kind, name, **body):
        self.requests += 1
        try:
            return self.service.ask("volume." + kind, {"id": name, **body})
        except (Refused, TimeoutError) as error:
            fail(f"client {self.number}: {kind} {name}: {error}")

    def run(self):
        while time.monotonic() < self.until:
            if self.volumes and (len(self.volumes) >= MOST_VOLUMES or self.chance.random() < 0.3):
                name = self.chance.choice(list(self.volumes))
                if self.chance.random() < 0.5:
                    self.check(name)
                self.ask("remove", name, must_exist=True)
                del self.volumes[name]
                expect(f"{name} is there after its removal", False, self.ask("exists", name)["exists"])
            else:
                self.make()

    def make(self):
        name = f"client-{self.number}-{self.made}"
        self.made += 1
        parent = self.chance.choice(["base", "live", *self.volumes])
        if self.chance.random() < 0.5:
            path = self.ask("create", name, parent=parent, get=True)["path"]
        else:
            self.ask("create", name, parent=parent)
            path = self.ask("get", name)["path"]
        if parent in self.volumes:
            expect(f"what {name} has of {parent}", self.volumes[parent], checksum(path + "/data"))
        with open(path + "/data", "wb") as file:
            file.write(self.chance.randbytes(self.chance.randint(1, 200_000)))
        written = checksum(path + "/data")
        self.ask("put", name)
        self.volumes[name] = written

    def check(self, name):
        path = self.ask("get", name)["path"]
        expect(f"checksum of {name}", self.volumes[name], checksum(path + "/data"))
        self.ask("put", name)


class Chaos:
    def __init__(self, seed):
        self.chance = random.Random(seed)
        self.services = Services()
        self.services.start()
        for name in ("base", "live"):
            self.services.ask("volume.create", id=name, size_bytes=16 << 20)
        self.services.ask("volume.get", id="live")
        self.done = collections.Counter()
        self.stopped = []  # (when it goes on, process)

    def let_go_on(self, until):
        for entry in [entry for entry in self.stopped if entry[0] <= until]:
            self.stopped.remove(entry)
            try:
                entry[1].send(signal.SIGCONT)
            except ProcessLookupError:
                pass

    def disturb(self):
        up = Process(self.services.up.pid)
        if self.chance.random() < 0.02:
            # Its services end by themselves then; the next one waits for that.
            self.let_go_on(float("inf"))
            up.send(signal.SIGKILL)
            self.services.up.wait()
            self.services.start()
            self.done["supervisor killed"] += 1
            return
        children = up.children()
        if not children:
            return
        victim = self.chance.choice(children)
        try:
            name = open(f"/proc/{victim.pid}/comm").read().strip()
            if self.chance.random() < 0.5:
                victim.send(signal.SIGKILL)
                self.done[name + " killed"] += 1
            else:
                victim.send(signal.SIGSTOP)
                self.stopped.append((time.monotonic() + self.chance.uniform(0.1, 3), victim))
                self.done[name + " stopped"] += 1
        except (FileNotFoundError, ProcessLookupError):
            pass

    def run(self, seconds, seed):
        until = time.monotonic() + seconds
        clients = [Client(number, seed, until) for number in range(CLIENTS)]
        while time.monotonic() < until:
            self.disturb()
            pause = time.monotonic() + self.chance.uniform(0.1, 1.5)
            while time.monotonic() < pause:
                self.let_go_on(time.monotonic())
                time.sleep(0.02)
        self.let_go_on(float("inf"))
        for client in clients:
            client.join(150)
            if client.is_alive():
                fail(f"client {client.number} has no answer")
        print(f"{sum(client.requests for client in clients)} requests; {dict(sorted(self.done.items()))}", flush=True)
        self.services.settle()
        there = [name for client in clients for name in client.volumes]
        for client in clients:
            for name in client.volumes:
                client.check(name)
        self.services.settle(devices=1)
        self.services.all_well(["base", "live", *there])
        blocks_agree()
        self.services.ask("volume.put", id="live")
        for name in ["base", "live", *there]:
            self.services.ask("volume.remove", id=name, wait=True, must_exist=True)
        self.services.settle(devices=0)
        self.services.all_well([])
        blocks_agree()
        self.services.stop()
        print(f"all {len(there)} volumes that were there are whole, and nothing else was", flush=True)


if __name__ == "__main__":
    Chaos(int(sys.argv[2])).run(int(sys.argv[1]), sys.argv[2])
