"""A volume's user who notices everything: writes block after block past the page cache, each with its number in it.

  steady_writer.py write DEVICE LOG    until SIGTERM; then reads all back. LOG gets a line for each write that took 5 ms or
                                       more: when it ended (ms since 1970), and how long it took; last "N writes"
  steady_writer.py check DEVICE        DEVICE is what DEVICE of a writer was at one instant: what was written up to some
                                       number, and nothing after it
  steady_writer.py catch FILE PID...   when FILE says 1 (the device is suspended), stops the processes; if it still says
                                       so then, kills them and prints when (ms since 1970), else lets them go on
"""
import mmap
import os
import signal
import sys
import time

BLOCK = 4096
STEP = 7919  # Prime: every block has its turn, in an order that no reader expects.


def content(number):
    return (b"%020d" % number) * (BLOCK // 20) + bytes(BLOCK % 20)


def now_ms():
    return time.clock_gettime_ns(time.CLOCK_REALTIME) // 1_000_000


def blocks_of(fd):
    return os.lseek(fd, 0, os.SEEK_END) // BLOCK


def content_of(path):
    """Of a device that is not large, past the page cache."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    buffer = mmap.mmap(-1, blocks_of(fd) * BLOCK)
    at = 0
    while at < len(buffer):
        at += os.preadv(fd, [memoryview(buffer)[at:]], at)
    os.close(fd)
    return buffer[:]


def numbers_in(path):
    """By block: of the write that is the last there."""
    data = content_of(path)
    blocks = len(data) // BLOCK
    found = []
    for block in range(blocks):
        here = data[block * BLOCK:(block + 1) * BLOCK]
        number = int(here[:20]) if here != bytes(BLOCK) else 0
        if number != 0 and (here != content(number) or number * STEP % blocks != block):
            sys.exit(f"block {block} holds what was never written there")
        found.append(number)
    return found


def check(path):
    found = numbers_in(path)
    blocks = len(found)
    last = max(found)
    for number in range(max(1, last - blocks + 1), last + 1):
        if found[number * STEP % blocks] != number:
            sys.exit(f"write {last} is there, and write {number} is not")
    return last


def write(path, log):
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    blocks = blocks_of(fd)
    buffer = mmap.mmap(-1, BLOCK)
    number = 0
    with open(log, "w", buffering=1) as out:
        while not ended:
            number += 1
            buffer[:] = content(number)
            begun = now_ms()
            os.pwritev(fd, [buffer], number * STEP % blocks * BLOCK)
            end = now_ms()
            if end - begun >= 5:
                print(end, end - begun, file=out)
        if check(path) != number:
            sys.exit(f"write {number} was done, and is not there")
        print(number, "writes", file=out)


def catch(file, pids):
    def state():
        with open(file) as suspended:
            return suspended.read(1)

    def is_stopped(pid):
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] == "T"

    while True:
        while state() != "1":
            pass
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        while not all(map(is_stopped, pids)):
            pass
        caught = state() == "1"
        for pid in pids:
            os.kill(pid, signal.SIGKILL if caught else signal.SIGCONT)
        if caught:
            print(now_ms())
            return


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2], sys.argv[3])
    elif sys.argv[1] == "check":
        print(check(sys.argv[2]))
    else:
        catch(sys.argv[2], [int(pid) for pid in sys.argv[3:]])
