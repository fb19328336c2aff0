"""Cycles of create, get, write, put and rm, by eight clients, until there have been CYCLES of them: afterwards each process has
the memory and descriptors it had, and kernel, pool and state folder what they had. Run by soak_test.sh:

  soak.py CYCLES

What is used at first only (caches, the pages that SQLite keeps, a heap that has found its size) is not counted: a quarter as
many cycles go before the first look. The manager's heap grows for 1,300 of them. No service runs: this starts and ends it.
"""
import os
import sys
import threading
import time

from lab import DOOR, STATE, Process, Service, Services, expect, fail, live_devices, read, wait_for, write

CLIENTS = 8
SAME = ("processes", "descriptors", "threads", "dm devices", "dm nodes", "mounts", "files", "volumes")
REQUESTS = 4  # Of a cycle.
BLOCK = 65536
MOST_MORE_KIB = 2048  # Of memory, of each process: what a heap is off by from one look to the next.
MOST_MORE_OF_MANAGER_KIB = 4096  # It keeps 2 MiB of the store's pages as well.
# The answers of an hour and the newest 100,000 events are kept: so the store itself grows by so much with each cycle.
MOST_STORE_BYTES = 8192
# The ring of store backups in the pool goes on to a block that it has not used before: once or twice in a long soak.
MOST_MORE_BLOCKS = 2


def cycles(first, count):
    service = Service(DOOR)
    for number in range(first, count, CLIENTS):
        name = f"soak-{number}"
        service.ask("volume.create", {"id": name, "parent": "base"})
        write(service.ask("volume.get", {"id": name})["path"] + "/content", name)
        service.ask("volume.put", {"id": name})
        service.ask("volume.remove", {"id": name})
    service.close()


def run(count):
    clients = [threading.Thread(target=cycles, args=(first, count)) for first in range(CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()


def resident_kib(pid):
    return next(int(line.split()[1]) for line in read(f"/proc/{pid}/status").splitlines() if line.startswith("RssAnon"))


def files_of_state():
    """But for what is told of volumes and is kept for a while: the store, its log and its backups."""
    return sorted(os.path.relpath(os.path.join(folder, name), STATE)
                  for folder, _, names in os.walk(STATE) for name in names if not folder.startswith(STATE + "/store"))


def count_descriptors(pid):
    """An actor opens the control device once more when it first waits for the pool's events: two of it are as one."""
    folder = f"/proc/{pid}/fd"
    files = [os.readlink(f"{folder}/{number}") for number in os.listdir(folder)]
    return len(files) - min(files.count("/dev/mapper/control"), 2)


def look(services):
    services.settle(devices=0)
    wait_for("no manager stands by", 30, services.has_standby)
    time.sleep(1)
    processes = {child.pid: read(f"/proc/{child.pid}/comm").strip() for child in Process(services.up.pid).children()}
    processes[services.up.pid] = "cowslip"
    pool = services.ask("pool.status")
    return {
        "memory": {pid: resident_kib(pid) for pid in processes},
        "processes": processes,
        "descriptors": {pid: count_descriptors(pid) for pid in processes},
        "threads": {pid: len(os.listdir(f"/proc/{pid}/task")) for pid in processes},
        "dm devices": sorted(live_devices()),
        "dm nodes": sorted(name for name in os.listdir("/dev/mapper")),
        "mounts": sum(STATE in line for line in open("/proc/self/mountinfo")),
        "blocks of the pool": pool["data"]["used_bytes"],
        "files": files_of_state(),
        "volumes": services.names(),
        "bytes of the store": sum(os.path.getsize(f"{STATE}/store/{name}") for name in ("store.db", "store.db-wal")),
    }


def main():
    count = int(sys.argv[1])
    services = Services()
    services.start()
    services.ask("volume.create", id="base", size_bytes=16 << 20)
    run(max(count // 4, 100))
    before = look(services)
    begun = time.monotonic()
    run(count)
    seconds = time.monotonic() - begun
    # A connection is closed a moment after its client has gone.
    for _ in range(10):
        after = look(services)
        more_blocks = (after["blocks of the pool"] - before["blocks of the pool"]) / BLOCK
        if all(after[what] == before[what] for what in SAME) and more_blocks <= MOST_MORE_BLOCKS:
            break
    for what in SAME:
        expect(what, before[what], after[what])
    if not 0 <= more_blocks <= MOST_MORE_BLOCKS:
        fail(f"the pool has {more_blocks} blocks more than before")
    for pid, name in before["processes"].items():
        more = after["memory"][pid] - before["memory"][pid]
        print(f"{name} {pid}: {before['memory'][pid]} KiB, and {more:+d} after {count} cycles")
        if more > (MOST_MORE_OF_MANAGER_KIB if name == "cowslip-pool-ma" else MOST_MORE_KIB):
            fail(f"{name} has {more} KiB more than before")
    more = after["bytes of the store"] - before["bytes of the store"]
    if more > count * MOST_STORE_BYTES:
        fail(f"the store has {more} bytes more than before")
    services.all_well(["base"])
    print(f"{REQUESTS * count} operations in {seconds:.0f} s: descriptors, threads, devices, nodes, mounts, blocks and files are what they "
          f"were; the store has {more / count:.0f} bytes more for each cycle")
    services.stop()


main()
