"""What the tests in Python share that stop and kill our processes: the services, what is live in the kernel, and strace to
stop or kill a process at one of its system calls. COWSLIP_STATE names the state folder; the scripts that run these tests
have made a pool in it, and end the services."""
import dataclasses
import glob
import os
import re
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time

from bus_client import Refused, Service

STATE = os.environ["COWSLIP_STATE"]
DOOR = STATE + "/run/clients.sock"
FOLDER = tempfile.mkdtemp()
LOG = FOLDER + "/up.log"
DEVICE_ACTORS, MOUNT_ACTORS = 3, 3
DEVICE_CALLS = "ioctl"
# What a mount is made of, and an unmount.
MOUNT_CALLS = "mkdirat,renameat,fsopen,fsconfig,fsmount,move_mount,syncfs,umount2,unlinkat,ioctl"


def fail(what):
    print("\nFAILED:", what, "\n--- the end of the services' log:", *read(LOG).splitlines()[-80:], sep="\n", flush=True)
    os._exit(1)  # Whatever thread this is.


def expect(what, wanted, got):
    if wanted != got:
        fail(f"{what}: wanted {wanted!r}, got {got!r}")


def wait_for(what, seconds, condition, pause=0.01):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            fail(what)
        time.sleep(pause)


def read(path):
    with open(path) as file:
        return file.read()


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


@dataclasses.dataclass
class Process:
    """One of ours, or a child of one."""
    pid: int

    def send(self, number):
        os.kill(self.pid, number)

    def state(self):
        """As in ps: T is stopped, D waits for a disk. Empty if it is gone."""
        try:
            return read(f"/proc/{self.pid}/stat").rsplit(")", 1)[1].split()[0]
        except OSError:
            return ""

    def children(self):
        return [Process(int(pid)) for pid in read(f"/proc/{self.pid}/task/{self.pid}/children").split()]


class Trace:
    """strace of a process, from now on."""

    def __init__(self, process, *options):
        self.path = FOLDER + "/calls"
        write(self.path, "")
        self.strace = subprocess.Popen(["strace", "-qq", "-o", self.path, "-p", str(process.pid), *options])
        wait_for(f"strace does not come to {process.pid}", 20,
                 lambda: f"TracerPid:\t{self.strace.pid}\n" in read(f"/proc/{process.pid}/status"))

    def wait_for_signal(self, what):
        wait_for(what, 30, lambda: re.search(r"--- stopped by SIGSTOP|\+\+\+ killed by", read(self.path)))

    def end(self):
        """What is stopped stays stopped. The calls: (name, which one of that name, what it was for)."""
        self.strace.terminate()
        self.strace.wait()
        calls, count = [], {}
        for name, rest in re.findall(r"^(?:\d+ +)?(\w+)\((.*)", read(self.path), re.MULTILINE):
            count[name] = count.get(name, 0) + 1
            purpose = re.match(r"\d+, ([A-Z][A-Z_0-9]+)", rest)
            calls.append((name, count[name], purpose[1] if purpose else name))
        return calls


def signal_at(process, call, nth, number, *options):
    """The process gets the signal at its nth such call from now on: SIGKILL before it, SIGSTOP behind it."""
    return Trace(process, "-e", "trace=" + call, "-e", f"inject={call}:signal={number.name}:when={nth}", *options)


class Services:
    """`cowslip up`, and a client of it."""

    def __init__(self):
        self.log = open(LOG, "ab")
        self.service = Service(DOOR)

    def start(self):
        """As systemd does: again and again, for an older manager may have to end first."""
        while True:
            self.up = subprocess.Popen(["cowslip", "up", "--state", STATE, "--device-actors", str(DEVICE_ACTORS),
                                        "--mount-actors", str(MOUNT_ACTORS)], stdout=subprocess.PIPE, stderr=self.log)
            if self.up.stdout.readline().startswith(b"ready"):
                return
            self.up.wait()
            time.sleep(0.02)

    def stop(self):
        self.up.send_signal(signal.SIGTERM)
        expect("how the services end", 0, self.up.wait(60))

    def ask(self, kind, **body):
        return self.service.ask(kind, body)

    def actors(self, kind):
        return [actor for actor in self.ask("system.status")["actors"] if actor["kind"] == kind]

    def worker(self, kind):
        """The actor that is told the next command while all are idle: the first by name."""
        workers = [actor for actor in self.actors(kind) if not actor["watcher"]]
        return Process(min(workers, key=lambda actor: actor["incarnation"])["pid"])

    def watcher(self):
        return Process(next(actor["pid"] for actor in self.actors("device") if actor["watcher"]))

    def manager(self):
        """Who listens at the clients' door; another one may stand by."""
        with socket.socket(socket.AF_UNIX) as door:
            try:
                door.connect(DOOR)
            except OSError:
                return None
            return Process(struct.unpack("iII", door.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])

    def has_standby(self):
        """Whether another manager stands by, its program begun."""
        def is_one(pid):
            try:
                return "--standby" in read(f"/proc/{pid}/cmdline") and len(os.listdir(f"/proc/{pid}/task")) > 1
            except OSError:
                return False  # It has just ended.
        return any(is_one(child.pid) for child in Process(self.up.pid).children())

    def doing(self, process):
        return next((actor["doing"] for actor in self.ask("system.status")["actors"] if actor["pid"] == process.pid), "")

    def settle(self, devices=None):
        """Until all are there and nobody does anything; and so many devices are active, besides the pool."""
        def settled():
            if devices is not None and len(live_devices()) != devices + 1:
                return False
            status = self.ask("system.status")
            actors = status["actors"]
            kinds = [actor["kind"] for actor in actors]
            return (kinds.count("device") >= DEVICE_ACTORS and kinds.count("mount") >= MOUNT_ACTORS and
                    any(actor["watcher"] for actor in actors) and not any(actor["doing"] for actor in actors) and
                    status["behind_reply"] == 0)
        wait_for("the service does not settle", 90, settled, 0.05)

    def names(self):
        found, more = [], True
        while more:
            page = self.ask("volume.list", after=found[-1] if found else "")
            found += [volume["id"] for volume in page["volumes"]]
            more = page["more"]
        return found

    def all_well(self, volumes):
        """No finding, nothing suspended, mounts are leases, and the volumes are these. Nobody may be at work."""
        found = self.ask("system.fsck")
        if not found["ok"] or not found["pool_compared"]:
            fail(f"fsck: {found}")
        expect("what is suspended", [], [name for name, path in live_devices().items() if read(path + "/suspended") != "0\n"])
        leased = {lease["path"] for lease in self.ask("lease.list")["leases"] if lease["mode"].startswith("mounted")}
        expect("what is mounted", leased, {line.split()[4] for line in open("/proc/self/mountinfo")
                                           if line.split()[4].startswith(STATE + "/mnt/")})
        expect("the volumes", sorted(volumes), sorted(self.names()))


def live_devices():
    """Ours: by name, the folder that tells of it."""
    found = {}
    for path in glob.glob("/sys/block/dm-*/dm"):
        try:
            name = read(path + "/name").strip()
        except OSError:
            continue  # It has just gone.
        if name.startswith("cowslip-"):
            found[name] = path
    return found


def dmsetup(*arguments):
    return subprocess.run(["dmsetup", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def blocks_agree():
    """The pool counts as used what is mapped. Nobody may be at work."""
    pool = next(name for name in live_devices() if name.endswith("-pool"))
    metadata = subprocess.run(["losetup", "--noheadings", "--output", "NAME", "--associated", STATE + "/pool/metadata"],
                              check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    wait_for("the metadata snapshot is held", 60, lambda: subprocess.run(  # A backup of the store holds it for a moment.
        ["dmsetup", "message", pool, "0", "reserve_metadata_snap"], stderr=subprocess.DEVNULL).returncode == 0)
    dump = subprocess.run(["thin_dump", "--metadata-snap", metadata], check=True, stdout=subprocess.PIPE, text=True).stdout
    dmsetup("message", pool, "0", "release_metadata_snap")
    blocks = set()
    for line in dump.splitlines():
        number = {key: int(value) for key, value in re.findall(r'(\w+)="(\d+)"', line)}
        if "<single_mapping" in line:
            blocks.add(number["data_block"])
        elif "<range_mapping" in line:
            blocks.update(range(number["data_begin"], number["data_begin"] + number["length"]))
    expect("used blocks", len(blocks), int(dmsetup("status", pool).split()[5].split("/")[0]))


class Asking(threading.Thread):
    """A client that asks one thing after the other, and waits."""

    def __init__(self, *requests, request_id=None):
        super().__init__(daemon=True)
        self.requests, self.request_id, self.error = requests, request_id, None
        self.answers = []
        self.start()

    def run(self):
        client = Service(DOOR)
        try:
            for kind, body in self.requests:
                self.answers.append(client.ask(kind, body, self.request_id))
        except (Refused, TimeoutError) as error:
            self.error = error
        client.close()

    def answer(self):
        self.join(150)
        if self.is_alive() or self.error:
            fail(f"{self.requests} is answered by {self.error or 'nothing'}")
        return self.answers
