"""Each process of the service killed at each step of create, get, put and rm. Run by kill_steps_test.sh:

  kill_steps.py KNOWN_VOLUMES TIMES MOST SEED

A step is a system call of a process while it carries out a request: SIGKILL comes before the call, so the first one is the
step before a command, and each further one lies behind the one before it. Each step TIMES times, in an order of chance (of
more than MOST steps a sample); then as often the supervisor, at any moment of each request. Prints for how long nobody was answered. No service runs:
this starts and ends it.
"""
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time

from lab import (DEVICE_CALLS, DOOR, MOUNT_CALLS, Process, Service, Services, Trace, expect, fail, read, signal_at,
                 wait_for, write)

REQUESTS = ("create", "get", "put", "rm")
# Of each process: what it calls that others can see.
CALLS = {"manager": "fdatasync,write", "device": DEVICE_CALLS, "mount": MOUNT_CALLS}
LONG = 0.5  # Seconds that are told of.


class Client:
    """What somebody does with one volume. Whatever is killed, each request is answered with success."""

    def __init__(self, services, name):
        self.services, self.name = services, name

    def ask(self, kind, **body):
        return self.services.ask("volume." + kind, id=self.name, **body)

    def create(self):
        self.ask("create", parent="base")

    def get(self):
        write(self.ask("get")["path"] + "/content", self.name)

    def put(self):
        self.ask("put")

    def check(self):
        expect(f"content of {self.name}", self.name, read(self.ask("get", holder="reader")["path"] + "/content"))
        self.ask("put", holder="reader")

    def rm(self):
        self.ask("remove", wait=True, must_exist=True)
        expect(f"{self.name} is there after its removal", False, self.ask("exists")["exists"])


class Outage(threading.Thread):
    """From the death of a process until a client that comes then has its answer; and until its change is done."""

    def __init__(self, process):
        super().__init__(daemon=True)
        self.handle = os.pidfd_open(process.pid)
        self.died = self.seconds = self.until_change = None
        self.start()

    def run(self):
        if not select.select([self.handle], [], [], 30)[0]:
            os.close(self.handle)
            return
        self.died = time.monotonic()
        client = Service(DOOR)
        client.ask("volume.show", {"id": "base"})
        self.seconds = time.monotonic() - self.died
        client.ask("volume.put", {"id": "base"})  # Nobody has a lease on it.
        self.until_change = time.monotonic() - self.died
        client.close()
        os.close(self.handle)


def percentiles(times):
    times = sorted(times)
    of = [times[min(len(times) - 1, int(len(times) * part))] for part in (0.5, 0.99, 1)]
    return "p50 %d ms, p99 %d ms, max %d ms" % tuple(1000 * seconds for seconds in of)


def program_starts(times):
    """Seconds that the manager's program takes until it is in main() and has ended: no restart is quicker than that."""
    seconds = []
    for _ in range(times):
        begun = time.monotonic()
        subprocess.run(["cowslip-pool-manager", "--version"], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.monotonic() - begun)
    return seconds


class KillSteps:
    def __init__(self, known, seed):
        self.chance = random.Random(seed)
        self.services = Services()
        self.services.start()
        self.services.ask("volume.create", id="base", size_bytes=16 << 20)
        self.services.ask("volume.create", id="raw", size_bytes=1 << 20, fs="none")
        self.names = [f"known-{number}" for number in range(known)]
        begun = time.monotonic()
        makers = [threading.Thread(target=self.make, args=(self.names[first::8],)) for first in range(8)]
        for maker in makers:
            maker.start()
        for maker in makers:
            maker.join()
        print(f"{known} volumes made in {time.monotonic() - begun:.0f} s", flush=True)
        self.names += ["base", "raw"]
        self.done = 0
        self.outages, self.until_change = {}, {}

    @staticmethod
    def make(names):
        client = Service(DOOR)
        for name in names:
            client.ask("volume.create", {"id": name, "parent": "raw"})
        client.close()

    def process(self, kind):
        return self.services.manager() if kind == "manager" else self.services.worker(kind)

    def find_steps(self):
        """(process, request, call, nth): as it is when nothing disturbs it. Of two times the one with fewer calls: a turn
        may also have written the log into the database."""
        steps = []
        client = Client(self.services, "undisturbed")
        for kind, calls in CALLS.items():
            traces = {request: [] for request in REQUESTS}
            for _ in range(2):
                for request in REQUESTS:
                    self.services.settle()
                    trace = Trace(self.process(kind), "-e", "trace=" + calls)
                    getattr(client, request)()
                    traces[request].append(trace.end())
            for request in REQUESTS:
                found = min(traces[request], key=len)
                print(f"{kind}, {request}: {' '.join(purpose for _, _, purpose in found) or 'nothing'}", flush=True)
                steps += [(kind, request, call, nth) for call, nth, _ in found]
        return steps

    def carry_out(self, request, disturb):
        """All requests of a volume; during one of them disturb(), which gives the outage."""
        client = Client(self.services, f"volume-{self.done}")
        self.services.settle()
        for each in REQUESTS:
            if each != request:
                getattr(client, each)()
            else:
                self.services.settle()
                outage = disturb(client)
            if each == "put":
                client.check()
        self.done += 1
        if self.done % 50 == 0:
            self.services.settle()
            self.services.all_well(self.names)
        return outage

    def note(self, kind, outage, what):
        outage.join(60)
        if outage.until_change is None:
            fail(f"{what}: nobody died, or nobody answers")
        self.outages.setdefault(kind, []).append(outage.seconds)
        self.until_change.setdefault(kind, []).append(outage.until_change)
        if outage.seconds > LONG:
            print(f"{1000 * outage.seconds:.0f} ms until an answer: {what}", flush=True)

    def kill(self, kind, request, call, nth):
        """It may not come to its step: another actor was told to do it, or the manager did in one turn what came at the same
        time, with fewer calls. Then once more, for some times."""
        what = f"{kind} killed at {call} {nth} of {request}"

        def disturb(client):
            if kind == "manager":
                wait_for("no manager stands by", 30, self.services.has_standby)
            victim = self.process(kind)
            outage = Outage(victim)
            trace = signal_at(victim, call, nth, signal.SIGKILL)
            getattr(client, request)()
            end = time.monotonic() + 10  # What comes last may be behind the reply.
            while victim.state() not in ("", "Z") and time.monotonic() < end:
                time.sleep(0.01)
            came_to = trace.end()
            if victim.state() in ("", "Z"):
                return outage
            actors = [actor["incarnation"] for actor in self.services.ask("system.status")["actors"]]
            print(f"not {what}: process {victim.pid} came to {came_to}; actors {actors}", flush=True)
            return None

        for _ in range(4):
            outage = self.carry_out(request, disturb)
            if outage:
                self.note(kind, outage, what)
                return
        fail(f"not {what}, four times")

    def kill_supervisor(self, request):
        def disturb(client):
            victim = Process(self.services.up.pid)
            outage = Outage(victim)

            def kill_and_start():
                time.sleep(self.chance.random() * 0.05)
                victim.send(signal.SIGKILL)
                self.services.up.wait()
                self.services.start()
            starter = threading.Thread(target=kill_and_start)
            starter.start()
            getattr(client, request)()
            starter.join()
            return outage
        self.note("supervisor", self.carry_out(request, disturb), f"the supervisor killed during {request}")

    def run(self, times, most):
        steps = self.find_steps()
        for _ in range(times):
            for step in self.chance.sample(steps, min(most, len(steps))):
                self.kill(*step)
        for _ in range(times):
            for request in REQUESTS:
                self.kill_supervisor(request)
        self.services.settle()
        self.services.all_well(self.names)
        for kind, seconds in self.outages.items():
            print(f"{len(seconds)} times {kind} killed; until a new client was answered: {percentiles(seconds)}; until a "
                  f"change was done: {percentiles(self.until_change[kind])}")
        ours = [seconds for kind in CALLS for seconds in self.outages.get(kind, [])]
        print(f"the manager's program alone, started and ended: {percentiles(program_starts(20))}")
        print(f"{self.done} kills, nothing lost; without a supervisor's: {percentiles(ours)}", flush=True)
        self.services.stop()


KillSteps(int(sys.argv[1]), int(sys.argv[4])).run(int(sys.argv[2]), int(sys.argv[3]))
