"""Clones of a volume that somebody writes to without a pause, 64 asked for at once: each is the volume at one instant, not
before it was asked for. Run by clones_test.sh:

  clones.py ROUNDS

Prints how many instants there were, and for how long the writer waited. No service runs: this starts and ends it.
"""
import os
import signal
import subprocess
import sys

from lab import FOLDER, Services, expect, fail, read, wait_for
from steady_writer import check, numbers_in

AT_ONCE = 64
LOG = FOLDER + "/stalls"


def stalls():
    """Milliseconds of each write so far that took 5 or more."""
    return [int(line.split()[1]) for line in read(LOG).splitlines() if line.endswith(tuple("0123456789"))]


def check_clone(services, name, least):
    device = services.ask("volume.attach", id=name)["device"]
    last = check(device)
    services.ask("volume.detach", id=name)
    if last < least:
        fail(f"{name} ends with write {last}, and {least} was there when it was asked for")
    return last


def main():
    rounds = int(sys.argv[1])
    services = Services()
    services.start()
    services.ask("volume.create", id="live", size_bytes=1 << 20, fs="none")
    device = services.ask("volume.attach", id="live")["device"]
    writer = subprocess.Popen([sys.executable, os.path.join(os.path.dirname(__file__), "steady_writer.py"), "write", device, LOG])
    wait_for("the writer does not begin", 10, lambda: os.path.exists(LOG))
    longest, instants = [], 0
    for number in range(rounds):
        before = len(stalls())
        written = max(numbers_in(device))
        names = [f"{number}-{clone}" for clone in range(AT_ONCE)]
        services.service.ask_all([("volume.create", {"id": name, "parent": "live"}) for name in names])
        longest.append(max(stalls()[before:], default=0))
        instants += len({check_clone(services, name, written) for name in names})
        services.service.ask_all([("volume.remove", {"id": name, "wait": True}) for name in names])
        if number % 10 == 9:
            print(f"{(number + 1) * AT_ONCE} clones", flush=True)
    suspensions = services.ask("system.status")["counters"]["origins_suspended"]
    expect("times that the volume was suspended", True, suspensions <= rounds * 2)
    writer.send_signal(signal.SIGTERM)
    expect("how the writer ends", 0, writer.wait(60))
    services.ask("volume.detach", id="live")
    services.stop()
    longest.sort()
    print(f"{rounds * AT_ONCE} clones, each the volume at one of {instants} instants; it was suspended {suspensions} times; "
          f"the writer's longest wait in each round: p50 {longest[len(longest) // 2]} ms, "
          f"p99 {longest[min(len(longest) - 1, len(longest) * 99 // 100)]} ms")


main()
