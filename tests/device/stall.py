"""Actors that are stopped in the middle of each kind of command, and wake or die at the worst moment. Run by stall_test.sh:

  stall.py POINTS SEED [KIND...]

POINTS of each kind, chosen by chance; all of them if there are no more. No service runs: this starts and ends it.
"""
import os
import random
import signal
import sys
import time

from lab import (DEVICE_CALLS, MOUNT_CALLS, Asking, Process, Services, Trace, blocks_agree, dmsetup, expect, fail,
                 live_devices, read, signal_at, wait_for, write)

KNOWN = ("aside", "base", "live")


class Point:
    """Of one kind: what a client asks for, in `request`; what others ask of the same volume meanwhile, in `rivals`; and
    what is there afterwards. `actor` is the kind of the one that is stopped."""
    actor = "device"
    parent = "base"
    victim = None  # Who is stopped, if it is known beforehand.

    def __init__(self, services, number):
        self.services, self.number, self.volume = services, number, f"volume-{number}"
        self.request = ("volume.create", {"id": self.volume, "parent": self.parent})
        self.rivals = [("volume.remove", {"id": self.volume, "wait": True, "must_exist": True}),
                       ("volume.create", {"id": self.volume, "parent": "base"})]
        self.begin()

    def ask(self, kind, **body):
        return self.services.ask("volume." + kind, id=self.volume, **body)

    def begin(self):
        pass

    def rivals_wait(self, met):
        """While the actor is stopped in `met`, a command of the request."""
        return True

    def made(self, **body):
        self.ask("create", **body)
        self.services.settle()  # It is activated behind the reply.

    def provoke(self):
        self.first = Asking(self.request, request_id=f"request-{self.number}")

    def content_is(self, wanted):
        expect(f"content of {self.volume}", wanted, read(self.ask("get", holder="reader")["path"] + "/content"))

    def check(self):
        self.content_is("base")

    def end(self):
        self.check()
        self.ask("put", all_holders=True, remove=True)


class Other(Point):
    """Of requests that are not recorded before they are carried out, a manager's death can change the order: the rivals make
    another volume."""
    other = None

    def begin(self):
        self.other = self.volume + "-other"
        self.rivals = [("volume.create", {**self.request[1], "id": self.other})]

    def end(self):
        self.services.ask("volume.remove", id=self.other, must_exist=True)
        super().end()


class Template(Other):
    def begin(self):
        # Of another size, so with a template of its own.
        self.request = ("volume.create", {"id": self.volume, "size_bytes": (16 << 20) + (self.number << 12)})
        super().begin()

    def rivals_wait(self, met):
        return met != "device.create_snap" and "behind" not in met  # The template is ready then.

    def check(self):
        expect("what is in an empty volume", [], os.listdir(self.ask("get")["path"]))


class Mkfs(Template):
    actor = "mount"


class Raw(Point):
    def begin(self):
        self.request = ("volume.create", {"id": self.volume, "size_bytes": 8 << 20, "fs": "none"})


class Clone(Point):
    pass


class CloneActive(Point):
    parent = "live"


class Attach(Point):
    def begin(self):
        self.made(size_bytes=8 << 20, fs="none")
        self.request = ("volume.attach", {"id": self.volume, "read_only": True})
        self.rivals = [("volume.attach", {"id": self.volume, "read_only": True, "holder": "rival"})]

    def check(self):
        leases = self.ask("show")["leases"]
        expect("the leases", ["default", "rival"], sorted(lease["holder"] for lease in leases))


class Switch(Attach):
    """From a device that can be written to one that cannot."""
    def begin(self):
        super().begin()
        self.ask("remove", wait=True)
        self.made(parent="base")  # Is active for a while.

    def check(self):
        super().check()
        self.ask("detach", all_holders=True)
        self.content_is("base")


class Detach(Attach):
    def begin(self):
        super().begin()
        self.ask("attach", read_only=True)
        self.request = ("volume.detach", {"id": self.volume})

    def check(self):
        expect("the leases", ["rival"], [lease["holder"] for lease in self.ask("show")["leases"]])


class Get(Point):
    actor = "mount"

    def begin(self):
        self.made(parent="base")
        self.request = ("volume.get", {"id": self.volume})
        self.rivals = [("volume.get", {"id": self.volume, "holder": "rival"})]


class Put(Get):
    def begin(self):
        super().begin()
        write(self.ask("get")["path"] + "/content", self.volume)
        self.request = ("volume.put", {"id": self.volume})

    def check(self):
        expect("the leases", ["rival"], [lease["holder"] for lease in self.ask("show")["leases"]])
        self.content_is(self.volume)


class Remove(Point):
    def rivals_wait(self, met):
        return False  # The name is free.

    def begin(self):
        self.made(parent="base")
        self.request = ("volume.remove", {"id": self.volume, "wait": True})
        self.rivals = [("volume.create", {"id": self.volume, "parent": "live"})]

    def check(self):
        self.content_is("live")


class Recovery(Other):
    """A manager that starts: devices and mounts are listed, the label is read, the pool's id moved on, its thins listed."""
    def begin(self):
        super().begin()
        # Also if it is the watcher now: the next manager takes another one for that.
        self.victim = Process(min(self.services.actors("device"), key=lambda actor: actor["incarnation"])["pid"])

    def provoke(self):
        self.services.manager().send(signal.SIGKILL)
        super().provoke()


class Resume(CloneActive):
    """An origin that was left suspended by an actor that died: it is the watcher that resumes it, and is stopped."""
    def begin(self):
        self.suspender = self.services.worker("device")
        self.victim = self.services.watcher()
        trace = signal_at(self.suspender, "ioctl", 3, signal.SIGSTOP)
        super().provoke()
        trace.wait_for_signal("nobody suspends the origin")
        trace.end()
        expect("suspended devices", 1, sum(read(path + "/suspended") == "1\n" for path in live_devices().values()))

    def provoke(self):
        self.suspender.send(signal.SIGKILL)


KINDS = {"template": Template, "mkfs": Mkfs, "raw": Raw, "clone": Clone, "clone_active": CloneActive, "attach": Attach,
         "switch": Switch, "detach": Detach, "get": Get, "put": Put, "remove": Remove, "recovery": Recovery, "resume": Resume}


class Stall:
    def __init__(self, points, chance):
        self.points, self.chance = points, chance
        self.services = Services()
        self.services.start()
        self.number = self.total = 0
        for name in KNOWN:
            self.services.ask("volume.create", id=name, size_bytes=16 << 20)
            write(self.services.ask("volume.get", id=name)["path"] + "/content", name)
            if name != "live":
                self.services.ask("volume.put", id=name)
        self.settle()

    def settle(self):
        self.services.settle(devices=1)

    def new(self, kind):
        self.number += 1
        return KINDS[kind](self.services, self.number)

    def find_calls(self, kind):
        """The points: undisturbed, as it is carried out."""
        if kind == "resume":
            return [("ioctl", 1, "DM_DEV_STATUS"), ("ioctl", 2, "DM_DEV_SUSPEND")]
        point = self.new(kind)
        traced = Trace(point.victim or self.services.worker(point.actor), "-e",
                       "trace=" + (MOUNT_CALLS if point.actor == "mount" else DEVICE_CALLS))
        point.provoke()
        point.first.answer()
        self.services.settle()  # Also what is behind its reply.
        calls = traced.end()
        Asking(*point.rivals).answer()
        self.end(point)
        return calls

    def end(self, point):
        """Nothing is left of it, and all else is as it was."""
        point.end()
        self.settle()
        self.services.all_well(KNOWN)

    def work_aside(self):
        name = f"aside-{self.number}"
        made = Asking(("volume.create", {"id": name, "parent": "aside", "get": True}))
        made.join(30)
        if made.is_alive():
            status = self.services.ask("system.status")
            fail(f"another volume waits for {self.services.ask('operation.list')['operations']}, while the actors are at "
                 f"{status['actors']}")
        path = made.answer()[0]["path"] + "/content"
        write(path, name)
        expect("content of another volume", name, read(path))
        self.services.ask("volume.put", id=name, remove=True)

    def restart_manager(self):
        old = self.services.manager()
        old.send(signal.SIGKILL)
        wait_for("no manager is started again", 20, lambda: self.services.manager() not in (None, old))
        # It sends nothing while the stopped one has not said that it carries out nothing.
        time.sleep(0.3)

    def point(self, kind, call, nth, purpose):
        begun = time.monotonic()
        print(f"{kind}, {f'behind {call} {nth} ({purpose})' if nth else 'before'}", end=" ", flush=True)
        fate = self.chance.choice((signal.SIGCONT, signal.SIGCONT, signal.SIGKILL))
        restart = self.chance.choice((False, True))
        point = self.new(kind)
        victim = point.victim or self.services.worker(point.actor)
        if nth == 0:
            victim.send(signal.SIGSTOP)  # Its command waits for it in its socket.
            point.provoke()
            if kind != "recovery":
                wait_for("it is told nothing", 20, lambda: self.services.doing(victim))
        else:
            trace = signal_at(victim, call, nth, signal.SIGSTOP)
            point.provoke()
            trace.wait_for_signal(f"{kind}: there is no call {nth} of {call}")
            trace.end()
        wait_for("it is not stopped", 20, lambda: victim.state() == "T")
        again = Asking(point.request, request_id=f"request-{point.number}")
        rivals = Asking(*point.rivals)
        met = "its recovery"
        if kind != "recovery":
            self.work_aside()
            met = self.services.doing(victim)
            self.check_who_waits(point, met, again, rivals)
        if restart:
            self.restart_manager()
        victim.send(fate)
        expect("the answer to the repeated request", point.first.answer(), again.answer())
        rivals.answer()
        self.end(point)
        self.total += 1
        print(f"in {met or 'nothing'}: {fate.name}{', the manager killed meanwhile' if restart else ''}: "
              f"{time.monotonic() - begun:.1f} s", flush=True)

    def check_who_waits(self, point, met, again, rivals):
        """What the stopped one does is not done by another, and nobody else gets hold of the volume."""
        own = met.startswith(("mount.", "device.create_", "device.activate", "device.deactivate", "device.delete_thin"))
        behind = "behind" in met  # The client has its answer.
        if isinstance(point, Resume):
            own = met == "device.resume"
        if own and not (point.first.is_alive() and again.is_alive()):
            fail(f"while its actor is stopped in {met}, the client is answered: {point.first.answers} {again.answers}")
        if (own or behind) and point.rivals_wait(met) and not rivals.is_alive():
            fail(f"while the actor is stopped in {met}, others are answered: {rivals.answers}")

    def outlived(self, restart):
        """A mkfs that hangs in the kernel outlives its actor. What it formats is nobody's until it is gone."""
        point = self.new("mkfs")
        victim = self.services.worker("mount")
        trace = signal_at(victim, "pwrite64", 1, signal.SIGSTOP, "-f")
        point.provoke()
        trace.wait_for_signal("there is no mkfs")
        trace.end()
        child = victim.children()[0]
        device = next(os.path.basename(path) for path in (os.readlink(link) for link in self.links(child))
                      if path.startswith("/dev/mapper/"))
        dmsetup("suspend", "--noflush", "--nolockfs", device)
        child.send(signal.SIGCONT)
        wait_for("mkfs does not wait for its device", 20, lambda: child.state() == "D")
        victim.send(signal.SIGKILL)
        wait_for("its actor lives", 20, lambda: victim.state() in ("", "Z"))
        again = Asking(point.request, request_id=f"request-{point.number}")
        rivals = Asking(*point.rivals)
        self.work_aside()
        time.sleep(1.5)  # The manager looks for dead ones every second.
        expect("the state of mkfs", "D", child.state())
        if not (point.first.is_alive() and again.is_alive() and rivals.is_alive()):
            fail(f"while mkfs runs, somebody is answered: {point.first.answers} {again.answers} {rivals.answers}")
        if restart:
            self.restart_manager()
        dmsetup("resume", device)
        expect("the answer to the repeated request", point.first.answer(), again.answer())
        rivals.answer()
        self.end(point)
        self.total += 1
        print(f"mkfs outlives its actor{', the manager killed meanwhile' if restart else ''}", flush=True)

    @staticmethod
    def links(process):
        folder = f"/proc/{process.pid}/fd/"
        return [folder + name for name in os.listdir(folder)]

    def run(self, kinds):
        for kind in kinds:
            if kind == "outlived":
                self.outlived(False)
                self.outlived(True)
                continue
            calls = self.find_calls(kind)
            print(f"{kind}: {' '.join(purpose for _, _, purpose in calls)}", flush=True)
            calls.insert(0, ("", 0, ""))
            for call in self.chance.sample(calls, min(self.points, len(calls))):
                self.point(kind, *call)
        blocks_agree()
        self.services.ask("volume.put", id="live")
        for name in KNOWN:
            self.services.ask("volume.remove", id=name, wait=True)
        self.services.settle(devices=0)
        self.services.all_well([])
        blocks_agree()
        self.services.stop()
        print(f"{self.total} points: 0 harmed", flush=True)


Stall(int(sys.argv[1]), random.Random(int(sys.argv[2]))).run(sys.argv[3:] or [*KINDS, "outlived"])
