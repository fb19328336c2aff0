"""A client of the service in nothing but Python's own library, for tests: it is there at once, where the command line takes
a while to start. Speaks ZMTP 3 (as a DEALER) and msgpack.

  service = Service(path of clients.sock)
  service.ask("volume.create", {"id": "a", "parent": "base"})    the reply's body; Refused if it is an error

It connects and asks again, under the same request id, for as long as there is time; also a service that ends.
"""
import os
import socket
import struct
import time

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
MORE, LONG, COMMAND = 1, 2, 4


class Refused(Exception):
    def __init__(self, error):
        super().__init__(f"{error['code']}: {error['message']}")
        self.code = error["code"]
        self.retryable = error.get("retryable", False)


def pack(value):
    if value is True or value is False:
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        return b"\xcf" + struct.pack(">Q", value)
    if isinstance(value, str):
        data = value.encode()
        return b"\xdb" + struct.pack(">I", len(data)) + data
    if isinstance(value, dict):
        return b"\xdf" + struct.pack(">I", len(value)) + b"".join(pack(k) + pack(v) for k, v in value.items())
    raise TypeError(type(value))


class Unpacker:
    NUMBERS = {0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q",
               0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"}
    LENGTHS = {0xC4: ">B", 0xC5: ">H", 0xC6: ">I", 0xD9: ">B", 0xDA: ">H", 0xDB: ">I",
               0xDC: ">H", 0xDD: ">I", 0xDE: ">H", 0xDF: ">I"}

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, size):
        self.at += size
        return self.data[self.at - size:self.at]

    def number(self, form):
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def value(self):
        tag = self.take(1)[0]
        if tag < 0x80:
            return tag
        if tag >= 0xE0:
            return tag - 256
        if tag < 0x90:
            return self.map(tag & 15)
        if tag < 0xA0:
            return [self.value() for _ in range(tag & 15)]
        if tag < 0xC0:
            return self.take(tag & 31).decode()
        if tag in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[tag]
        if tag in self.NUMBERS:
            return self.number(self.NUMBERS[tag])
        length = self.number(self.LENGTHS[tag])
        if tag < 0xC7:
            return self.take(length)
        if tag < 0xDC:
            return self.take(length).decode()
        return [self.value() for _ in range(length)] if tag < 0xDE else self.map(length)

    def map(self, length):
        return {self.value(): self.value() for _ in range(length)}


def frame(flags, data):
    if len(data) < 256:
        return bytes([flags, len(data)]) + data
    return bytes([flags | LONG]) + struct.pack(">Q", len(data)) + data


def encode(request_id, kind, body, seconds):
    return pack({"v": 1, "request_id": request_id, "type": kind, "timeout_ms": seconds * 1000, "body": body})


class Service:
    def __init__(self, path):
        self.path, self.socket = path, None

    def close(self):
        if self.socket:
            self.socket.close()
        self.socket = None

    def connect(self, deadline):
        self.socket = socket.socket(socket.AF_UNIX)
        self.wait_at_most(deadline)
        self.socket.connect(self.path)
        fields = b"".join(bytes([len(name)]) + name + struct.pack(">I", len(value)) + value
                          for name, value in ((b"Socket-Type", b"DEALER"), (b"Identity", b"")))
        self.socket.sendall(GREETING + frame(COMMAND, b"\x05READY" + fields))
        self.read(64)
        self.receive(wanted=COMMAND)

    def wait_at_most(self, deadline):
        self.socket.settimeout(max(deadline - time.monotonic(), 0.001))

    def read(self, size):
        data = b""
        while len(data) < size:
            got = self.socket.recv(size - len(data))
            if not got:
                raise ConnectionResetError
            data += got
        return data

    def receive(self, wanted=0):
        while True:
            flags, length = self.read(2)
            if flags & LONG:
                length = struct.unpack(">Q", bytes([length]) + self.read(7))[0]
            data = self.read(length)
            if flags & COMMAND and data.startswith(b"\x04PING"):
                self.socket.sendall(frame(COMMAND, b"\x04PONG" + data[7:]))
            elif flags & COMMAND == wanted:
                return data

    def ask_all(self, requests, seconds=120):
        """(kind, body) of each, sent together; the replies' bodies. Of a service that nobody disturbs."""
        deadline = time.monotonic() + seconds
        if not self.socket:
            self.connect(deadline)
        self.wait_at_most(deadline)
        waiting = {os.urandom(12).hex(): request for request in requests}
        self.socket.sendall(b"".join(frame(0, encode(request_id, *request, seconds)) for request_id, request in waiting.items()))
        bodies = []
        while len(bodies) < len(waiting):
            reply = Unpacker(self.receive()).value()
            if reply["request_id"] not in waiting:
                continue
            if "error" in reply:
                raise Refused(reply["error"])
            bodies.append(reply["body"])
        return bodies

    def ask(self, kind, body, request_id=None, seconds=120):
        request_id = request_id or os.urandom(12).hex()
        deadline = time.monotonic() + seconds
        request = encode(request_id, kind, body, seconds)
        while True:
            try:
                if not self.socket:
                    self.connect(deadline)
                self.wait_at_most(deadline)
                self.socket.sendall(frame(0, request))
                while True:
                    reply = Unpacker(self.receive()).value()
                    if reply["request_id"] == request_id:
                        break
            except OSError:
                self.close()
                if time.monotonic() >= deadline:
                    raise TimeoutError(f"{kind} {body}: no answer in {seconds} s") from None
                time.sleep(0.02)  # More often would cost what it waits for much of an emulated processor.
                continue
            if "error" in reply and reply["error"]["code"] != "unavailable":
                raise Refused(reply["error"])
            if "body" in reply and not reply["body"].get("accepted"):
                return reply["body"]
            # By a service that ends: the next one has the answer.
            if time.monotonic() >= deadline:
                raise TimeoutError(f"{kind} {body}: {reply}")
            time.sleep(0.05)
