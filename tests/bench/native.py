#!/usr/bin/python3 -u
"""deploy/bench native: what the manager, its bus and its store cost without a kernel, whose part actors play that answer at
once (cowslip-bench actors). Natively, on the file system of FOLDER.

    tests/bench/native.py FOLDER VOLUMES OPERATIONS FIGURES

OPERATIONS are those of the soak, FIGURES is a JSON file to write, or ''. Each ratio is to a reference that runs in turns with ours.
"""
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
from figures import memory_mib, print_figures

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), "../.."))
BIN = os.path.join(ROOT, "build/release/bin")
FOLDER, VOLUMES, OPERATIONS, FIGURES = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
ROUNDS = 5
SUBSCRIBER_PAIRS = 20
SOAK_CLIENTS = 16
OPERATIONS_OF_CYCLE = 4
SCALE_STEPS = (0.01, 0.03, 0.1, 0.3, 1)  # Of all volumes.
BEGUN = time.monotonic()
SIZE = 512 << 20


def result_of(program, *words):
    return json.loads(subprocess.run([f"{BIN}/cowslip-bench", program, *map(str, words)], check=True, stdout=subprocess.PIPE, text=True).stdout)


class Service:
    """A manager, and actors that answer at once."""

    def __init__(self, state):
        self.state = state
        self.socket = f"{state}/run/clients.sock"
        self.log = open(f"{state}/log", "w")
        self.actors = subprocess.Popen([f"{BIN}/cowslip-bench", "actors", "--state", state], stdout=self.log, stderr=self.log)
        while not os.path.isdir(f"{state}/run/actors"):
            time.sleep(0.01)
        self.start()
        self.cowslip("pool", "create", "--loop", "64T")
        self.cowslip("create", "base", "--size", str(SIZE))

    def start(self):
        """Seconds until it answers what waits for its start."""
        begun = time.monotonic()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.socket)
        self.manager = subprocess.Popen([f"{BIN}/cowslip-pool-manager", "--state", self.state], stdout=self.log, stderr=self.log)
        while not os.path.exists(self.socket):
            if self.manager.poll() is not None:
                sys.exit("bench: the manager does not start:\n" + open(self.log.name).read())
            time.sleep(0.005)
        self.cowslip("leases")  # Waits for the end of the start.
        return time.monotonic() - begun

    def kill(self):
        self.manager.kill()
        self.manager.wait()

    def cowslip(self, *words):
        return subprocess.run([f"{BIN}/cowslip", "--state", self.state, *words], check=True, stdout=subprocess.PIPE, text=True).stdout

    def requests(self, kind, clients, count, prefix="v"):
        return result_of("requests", "--socket", self.socket, "--base", "base", "--type", kind, "--clients", clients, "--requests", count,
                         "--prefix", prefix)

    def cycle(self, workers, cycles, *more):
        return result_of("cycle", "--socket", self.socket, "--base", "base", "--workers", workers, "--cycles", cycles, "--no-write", *more)

    def memory_mib(self):
        return memory_mib(self.manager.pid)

    def end(self):
        for process in (self.manager, self.actors):
            process.terminate()
            process.wait(30)


@contextlib.contextmanager
def echo(folder, *words):
    """The reference: a function as Service.requests."""
    socket = f"{folder}/echo.sock"
    process = subprocess.Popen([f"{BIN}/cowslip-bench", "echo", "--socket", socket, *words])
    while not os.path.exists(socket):
        time.sleep(0.01)
    try:
        yield lambda kind, clients, count: result_of("requests", "--socket", socket, "--base", "base", "--type", kind, "--clients", clients,
                                                     "--requests", count)
    finally:
        process.kill()
        process.wait()
        os.unlink(socket)


def median(values):
    return statistics.median(values)


def compare(reference, ours, key):
    """The median of the ratios of pairs that were measured one after the other."""
    pairs = [(ours()[key], reference()[key]) for _ in range(ROUNDS)]
    return median([one / other for one, other in pairs]), median([one for one, _ in pairs])


def say(text):
    print(f"{time.monotonic() - BEGUN:7.1f} s  {text}", file=sys.stderr)


def measure_queries(service, folder, figures):
    with echo(folder) as reference:
        for kind in ("exists", "show"):
            ratio, microseconds = compare(lambda: reference(kind, 1, 5000), lambda: service.requests(kind, 1, 5000), "p50_us")
            figures[f"{kind}.p50_us"], figures[f"{kind}.p50_ratio"] = microseconds, ratio
            say(f"{kind}: {ratio:.2f} of an echo's {microseconds:.0f} us")
            ratio, rate = compare(lambda: reference(kind, 8, 5000), lambda: service.requests(kind, 8, 5000), "rate")
            figures[f"{kind}.rate"], figures[f"{kind}.rate_ratio"] = rate, ratio


def measure_creates(service, folder, figures):
    numbers = iter(range(1000))
    made = []

    def ours():
        made.append(f"c{next(numbers)}")
        return service.requests("create", 64, 200, made[-1])

    def reference():
        with tempfile.TemporaryDirectory(dir=folder) as there, echo(there, "--store", f"{there}/store.db") as inserting:
            return inserting("create", 64, 200)

    ratio, rate = compare(reference, ours, "rate")
    say(f"create: {rate:.0f}/s, {ratio:.2f} of echo and insert")
    figures["create.k64.rate"], figures["create.k64.rate_ratio"] = rate, ratio
    for prefix in made:
        service.requests("remove", 64, 200, prefix)


def measure_syncs(service, figures):
    for workers in (1, 16, 64):
        for name, words in (("cycle", ()), ("cycle2", ("--two-requests",))):
            result = service.cycle(workers, max(2000 // workers, 20), *words)
            say(f"{name} K={workers}: {result['rate']:.0f}/s, {result['store_syncs']:.2f} syncs, {result['turns']:.1f} turns, "
                f"{result['request_path_p50']:.2f} ms")
            prefix = f"native.{name}.k{workers}"
            figures[f"{prefix}.rate"] = result["rate"]
            figures[f"{prefix}.store_syncs"] = result["store_syncs"]
            figures[f"{prefix}.turns"] = result["turns"]


@contextlib.contextmanager
def subscribers(service, count, stopped):
    """So many, and some more that do not read what they get."""
    def start(number):
        process = subprocess.Popen([f"{BIN}/cowslip-bench", "subscribers", "--socket", f"{service.state}/run/events.sock", "--count",
                                    str(number)], stdout=subprocess.PIPE, text=True)
        process.stdout.readline()  # ready
        return process
    reading, idle = start(count), start(stopped)
    idle.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        idle.send_signal(signal.SIGCONT)
        for process in (reading, idle):
            process.terminate()
            process.wait()


def measure_subscribers(service, figures):
    """The cycle without anybody who listens and with 100, one of them stopped, in turns."""
    def cycle():
        return service.cycle(1, 50)["request_path_p50"]

    before = service.memory_mib()
    ratios = []
    for _ in range(SUBSCRIBER_PAIRS):
        alone = cycle()
        with subscribers(service, 99, 1):
            ratios.append(cycle() / alone)
    figures["subscribers.cycle_ratio"] = median(ratios)
    with subscribers(service, 99, 1):
        service.cycle(16, 400)
        figures["subscribers.memory_more_mib"] = service.memory_mib() - before
    say(f"100 subscribers, one of them stopped: a cycle takes {median(ratios):.2f} of what it takes without, "
        f"{figures['subscribers.memory_more_mib']:.1f} MiB more")


def measure_soak(service, figures):
    """Cycles of 16 clients until there have been so many operations: what the manager has more afterwards. What grows at
    first only (heap, the store's pages) is there after a tenth of them."""
    def look():
        time.sleep(5)  # Until nothing is kept active and nothing is left behind a reply.
        folder = f"/proc/{service.manager.pid}"
        return {"memory_more_mib": service.memory_mib(), "descriptors_more": len(os.listdir(f"{folder}/fd")),
                "threads_more": len(os.listdir(f"{folder}/task")), "volumes_more": len(service.cowslip("ls").splitlines())}

    cycles = OPERATIONS // OPERATIONS_OF_CYCLE // SOAK_CLIENTS
    service.cycle(SOAK_CLIENTS, cycles // 10)
    before = look()
    rate = service.cycle(SOAK_CLIENTS, cycles)["rate"]
    figures["soak.operations"] = cycles * SOAK_CLIENTS * OPERATIONS_OF_CYCLE
    for key, value in look().items():
        figures[f"soak.{key}"] = value - before[key]
    say(f"{figures['soak.operations']} operations, {rate:.0f} cycles/s: {figures['soak.memory_more_mib']:+.1f} MiB")


def measure_scale(service, figures):
    """The same requests with few volumes and with ever more."""
    def look():
        runs = [service.cycle(1, 300) for _ in range(ROUNDS)]
        return {key: median([run[f"{key}_p50"] for run in runs]) for key in ("create", "get", "put", "rm")}

    few = look()
    made, seconds = 0, 0
    for step, part in enumerate(SCALE_STEPS):
        each = max((round(VOLUMES * part) - made) // 64, 1)
        begun = time.monotonic()
        service.requests("create", 64, each, f"many{step}")
        seconds += time.monotonic() - begun
        made += 64 * each
        many = look()
        for key, value in many.items():
            figures[f"scale.{made}.{key}_p50_ms"] = value
        figures[f"scale.{made}.memory_mib"] = service.memory_mib()
        begun = time.monotonic()
        listed = len(service.cowslip("ls").splitlines())
        figures[f"scale.{made}.list_ms_per_1000"] = (time.monotonic() - begun) * 1000000 / listed
        say(f"{made} volumes: create {many['create']:.2f} ms, {service.memory_mib():.1f} MiB")
    figures["scale.volumes"], figures["scale.creates_per_second"] = made, made / seconds
    for key in ("create", "get"):
        figures[f"scale.{key}_p50_ratio"] = many[key] / few[key]
    figures["scale.memory_mib"] = service.memory_mib()
    service.kill()
    figures["scale.start_seconds"] = service.start()
    figures["scale.memory_after_start_mib"] = service.memory_mib()
    say(f"started after {figures['scale.start_seconds']:.2f} s")
    begun = time.monotonic()
    # As they were made: the last step has most.
    service.requests("remove", 64, each, f"many{step}")
    figures["scale.removes_per_second"] = 64 * each / (time.monotonic() - begun)


GOALS = {
    "exists.p50_ratio": ("<=", 1.3),
    "exists.rate_ratio": (">=", 0.5),
    "show.p50_ratio": ("<=", 1.3),
    "show.rate_ratio": (">=", 0.5),
    "create.k64.rate_ratio": (">=", 0.4),
    "native.cycle.k1.store_syncs": ("<=", 4),
    "native.cycle.k16.store_syncs": ("<=", 2),
    "native.cycle.k64.store_syncs": ("<=", 1),
    "subscribers.cycle_ratio": ("<=", 1.05),
    "soak.memory_more_mib": ("<=", 4),
    "soak.descriptors_more": ("<=", 0),
    "soak.threads_more": ("<=", 0),
    "soak.volumes_more": ("<=", 0),
    "scale.create_p50_ratio": ("<=", 1.1),
    "scale.get_p50_ratio": ("<=", 1.1),
    "scale.memory_mib": ("<=", 64),
    "scale.start_seconds": ("<=", 2),
}


def main():
    figures = {}
    with tempfile.TemporaryDirectory(prefix="cowslip-bench-", dir=FOLDER) as folder:
        os.chmod(folder, 0o711)
        state = f"{folder}/state"
        os.mkdir(state, 0o711)
        service = Service(state)
        try:
            measure_queries(service, folder, figures)
            measure_creates(service, folder, figures)
            measure_syncs(service, figures)
            measure_subscribers(service, figures)
            measure_scale(service, figures)
            measure_soak(service, figures)
        finally:
            service.end()
    print_figures(figures, GOALS)
    if FIGURES:
        with open(FIGURES, "w") as file:
            json.dump(figures, file, indent=1)


signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
main()
