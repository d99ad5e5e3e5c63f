#!/usr/bin/env python3
"""An independent client of the dmashare socket, written from proto/PROTOCOL.md alone.

It shows that the text is enough, and the tests use it as a peer that shares no code with the
broker. Standard library only. Each command prints JSON, an object a line; it holds what it made
until its standard input ends. Exit status: 0; 1 the broker answered with an error (printed); 2 usage;
3 the connection failed.
"""

import argparse
import array
import collections
import contextlib
import ctypes
import fcntl
import json
import mmap
import os
import select
import socket
import struct
import sys

SOCKET = "/run/dmashare/broker.sock"
HEADER = struct.Struct("<HHIQ")
MAX_MESSAGE = 16384
MAX_FDS = 8
MAX_POINT = (1 << 63) - 1
# More than the limit, so that a message with too many is seen as one and not as a cut one.
ROOM_FDS = 253


class ProtocolError(Exception):
    """The peer sent what PROTOCOL.md does not allow."""


class Refused(Exception):
    """The broker answered with Error."""

    def __init__(self, body):
        super().__init__("{message} (code {code})".format(**body))
        self.body = body


# --- encoding (section 3): each type is a pair of functions, to bytes and from a Reader ---


class Reader:
    def __init__(self, data):
        self.data = data
        self.at = 0

    def take(self, count):
        if count > len(self.data) - self.at:
            raise ProtocolError("bytes are missing")
        self.at += count
        return self.data[self.at - count : self.at]

    def end(self):
        if self.at != len(self.data):
            raise ProtocolError(f"{len(self.data) - self.at} bytes are left over")


Type = collections.namedtuple("Type", "write read")


def varint(bits):
    longest = (bits + 6) // 7

    def write(value):
        if not 0 <= value < 1 << bits:
            raise ValueError(f"{value} is no u{bits}")
        out = bytearray()
        while value > 0x7F:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        out.append(value)
        return bytes(out)

    def read(reader):
        value = 0
        for i in range(longest):
            byte = reader.take(1)[0]
            value |= (byte & 0x7F) << (7 * i)
            if not byte & 0x80:
                if value >> bits:
                    raise ProtocolError(f"a value beyond u{bits}")
                return value
        raise ProtocolError(f"a varint of more than {longest} bytes")

    return Type(write, read)


U16, U32, U64 = varint(16), varint(32), varint(64)


def _read_bool(reader):
    byte = reader.take(1)[0]
    if byte > 1:
        raise ProtocolError("a bool is 0 or 1")
    return bool(byte)


def _read_i32(reader):
    value = U32.read(reader)
    return (value >> 1) ^ -(value & 1)


def _write_string(value):
    data = value.encode()
    return U64.write(len(data)) + data


def _read_string(reader):
    try:
        return reader.take(U64.read(reader)).decode()
    except UnicodeDecodeError as error:
        raise ProtocolError("a string that is not UTF-8") from error


BOOL = Type(lambda value: bytes([value]), _read_bool)
I32 = Type(lambda value: U32.write((value << 1) ^ (value >> 31)), _read_i32)
STRING = Type(_write_string, _read_string)
BYTES16 = Type(bytes.fromhex, lambda reader: reader.take(16).hex())
NOTHING = Type(lambda value: b"", lambda reader: None)


def sequence(element):
    return Type(
        lambda values: U64.write(len(values)) + b"".join(map(element.write, values)),
        lambda reader: [element.read(reader) for _ in range(U64.read(reader))],
    )


def optional(inner):
    def read(reader):
        return inner.read(reader) if _read_bool(reader) else None

    return Type(lambda value: b"\0" if value is None else b"\1" + inner.write(value), read)


def record(**fields):
    return Type(
        lambda value: b"".join(kind.write(value[name]) for name, kind in fields.items()),
        lambda reader: {name: kind.read(reader) for name, kind in fields.items()},
    )


def enum(*variants):
    """Variants are names, or pairs of a name and what it carries."""
    names = [it if isinstance(it, str) else it[0] for it in variants]
    carried = [None if isinstance(it, str) else it[1] for it in variants]

    def write(value):
        name, inner = (value, None) if isinstance(value, str) else next(iter(value.items()))
        i = names.index(name)
        return U32.write(i) + (carried[i].write(inner) if carried[i] else b"")

    def read(reader):
        i = U32.read(reader)
        if i >= len(names):
            raise ProtocolError(f"no variant has the number {i}")
        return {names[i]: carried[i].read(reader)} if carried[i] else names[i]

    return Type(write, read)


# --- types and messages (sections 4 and 5) ---

DEVICE_STATES = ("Present", "Draining", "Lost", "Gone")
DEVICE_STATE = enum(*DEVICE_STATES)
GUARD_KIND = enum("Source", "SwSync", "Vgem", "Simulated", "None")
CAUSE = enum(
    "Unplugged", "Vanished", "Wedged", "Ejected", ("Exporter", I32), "TimedOut", "Rehearsed"
)
FENCE_STATE = enum(
    "Pending", ("Ok", record(at_ns=U64)), ("Failed", record(cause=CAUSE, at_ns=U64))
)
POINT_STATE = enum(
    "Unknown",
    "Promised",
    "Pending",
    ("Ok", record(at_ns=U64)),
    ("Failed", record(cause=CAUSE, at_ns=U64)),
    "Forgotten",
)
POLICY = enum("Auto", "Guard", "Pass")
DIRECTION = enum("Acquire", "Release")
POINT_AT = record(timeline=U64, point=U64)
DEVICE_AT = record(device=U64, slot=U32, word=U32)
DEVICE_INFO = record(
    at=DEVICE_AT,
    state=DEVICE_STATE,
    driver=STRING,
    pci=STRING,
    nodes=sequence(STRING),
    removable=BOOL,
)
LAYOUT = record(
    width=U32,
    height=U32,
    fourcc=U32,
    modifier=U64,
    planes=sequence(record(offset=U32, stride=U32)),
)

TERMS = record(to=enum("Anyone", ("Uid", U32)), uses=U32, ttl_ms=U32)

REQUESTS = {
    "Hello": (1, record(version_min=U16, version_max=U16, features=U64, name=STRING)),
    "ListDevices": (2, NOTHING),
    "Export": (3, record(layout=LAYOUT, grant=optional(TERMS))),
    "Grant": (4, record(object=U64, to=enum("Anyone", ("Uid", U32)), uses=U32, ttl_ms=U32)),
    "Import": (5, record(token=BYTES16, by=enum("Cpu", "Device"))),
    "Release": (6, U64),
    "ShareFence": (7, record(policy=POLICY, deadline_ms=U32, grant=optional(TERMS))),
    "ImportFence": (8, BYTES16),
    "QueryFence": (9, U64),
    "Acknowledge": (10, U64),
    "CreateTimeline": (11, record(policy=POLICY, direction=DIRECTION)),
    "PromisePoint": (12, POINT_AT),
    "SubmitPoint": (13, record(to=POINT_AT, deadline_ms=U32)),
    "ImportTimeline": (14, BYTES16),
    "QueryPoint": (15, POINT_AT),
    "WaitPoint": (16, POINT_AT),
    "AttachFence": (17, record(fence=U64, buffer=U64, access=enum("Read", "Write"))),
    "Allocate": (18, record(width=U32, height=U32, fourcc=U32)),
    "Declare": (
        19,
        record(on_loss=enum("Wait", "Relaunch", "Kill", "Ignore"), survives=BOOL),
    ),
    "Inhibit": (20, record(device=optional(U64), mode=enum("Delay", "Block"), why=STRING)),
}
REPLIES = {
    "Welcome": (
        0x8001,
        record(version=U16, features=U64, instance=BYTES16, backend=GUARD_KIND),
    ),
    "Devices": (0x8002, sequence(DEVICE_INFO)),
    "Exported": (0x8003, record(buffer=U64, at=DEVICE_AT, token=optional(BYTES16))),
    "Granted": (0x8004, BYTES16),
    "Imported": (
        0x8005,
        record(
            **{"import": U64},
            buffer=U64,
            at=optional(DEVICE_AT),
            layout=LAYOUT,
            sizes=sequence(U64),
            cpu_sync=BOOL,
        ),
    ),
    "Done": (0x8006, NOTHING),
    "FenceShared": (
        0x8007,
        record(fence=U64, at=DEVICE_AT, guard=GUARD_KIND, token=optional(BYTES16)),
    ),
    "FenceImported": (
        0x8008,
        record(fence=U64, at=DEVICE_AT, guard=GUARD_KIND, state=FENCE_STATE),
    ),
    "FenceState": (0x8009, FENCE_STATE),
    "Timeline": (
        0x800A,
        record(timeline=U64, at=DEVICE_AT, direction=DIRECTION, guard=GUARD_KIND, promised=U64),
    ),
    "PointState": (0x800B, POINT_STATE),
    "Allocated": (
        0x800C,
        record(buffer=U64, layout=LAYOUT, sizes=sequence(U64), cpu_sync=BOOL),
    ),
    "Inhibited": (0x800D, U64),
    "Error": (0xFFFF, record(code=U16, errno=I32, object=U64, message=STRING)),
}
EVENTS = {
    "DeviceAdded": (0xC001, DEVICE_INFO),
    "DeviceLost": (
        0xC002,
        record(device=U64, cause=CAUSE, at_ns=U64, buffers=U32, imports=U32, fences=U32),
    ),
    "DeviceGone": (0xC003, U64),
    "DeviceWedged": (
        0xC004,
        record(device=U64, at_ns=U64, recovery=STRING, task=STRING, fences=U32),
    ),
    "RemovalRequested": (0xC005, record(device=U64, why=STRING)),
    "DeviceStays": (0xC006, U64),
}
MESSAGES = {**REQUESTS, **REPLIES, **EVENTS}
BY_NUMBER = {kind: (name, body) for name, (kind, body) in MESSAGES.items()}

Message = collections.namedtuple("Message", "name id body fds")


def encode(name, number, body, fds=0):
    kind, body_type = MESSAGES[name]
    return HEADER.pack(kind, fds, 0, number) + body_type.write(body)


def decode(data):
    """A datagram's name, id, number of fds and body."""
    if len(data) < HEADER.size:
        raise ProtocolError("shorter than a header")
    kind, fds, reserved, number = HEADER.unpack_from(data)
    if reserved:
        raise ProtocolError("reserved bytes are not 0")
    if kind not in BY_NUMBER:
        raise ProtocolError(f"no message has the number {kind:#06x}")
    name, body_type = BY_NUMBER[kind]
    reader = Reader(data[HEADER.size :])
    body = body_type.read(reader)
    reader.end()
    return name, number, fds, body


# --- the connection (sections 1, 6, 7) ---


def close_all(fds):
    for fd in fds:
        os.close(fd)


class Client:
    """One connection. Events that come while a reply is awaited are kept in `events`, replies to
    other requests in `replies`."""

    def __init__(self, sock):
        self.sock = sock
        self.next_id = 1
        self.events = collections.deque()
        self.awaited = set()
        self.replies = {}
        self.page = None
        self.welcome = None

    @classmethod
    def connect(cls, path):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        sock.connect(path)
        return cls(sock)

    def close(self):
        if self.page is not None:
            self.page.close()
        self.sock.close()

    def send_bytes(self, data, fds=()):
        rights = array.array("i", fds)
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if fds else []
        self.sock.sendmsg([data], control, socket.MSG_NOSIGNAL)

    def receive_bytes(self):
        """One datagram and its descriptors; b'' at the end of the connection."""
        space = socket.CMSG_SPACE(ROOM_FDS * 4)
        for attempt in range(2):
            try:
                data, control, flags, _ = self.sock.recvmsg(
                    MAX_MESSAGE, space, socket.MSG_CMSG_CLOEXEC
                )
                break
            except ConnectionResetError:
                if attempt:
                    return b"", []
        fds = []
        for level, kind, payload in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                rights = array.array("i")
                rights.frombytes(payload[: len(payload) - len(payload) % rights.itemsize])
                fds.extend(rights)
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            close_all(fds)
            raise ProtocolError("a datagram was cut")
        return data, fds

    def receive(self):
        """One message, or None at the end of the connection."""
        data, fds = self.receive_bytes()
        if not data:
            close_all(fds)
            return None
        try:
            name, number, count, body = decode(data)
            if name in REQUESTS:
                raise ProtocolError(f"{name} from the broker")
            if count != len(fds):
                raise ProtocolError(f"{count} descriptors said, {len(fds)} came")
        except ProtocolError:
            close_all(fds)
            raise
        return Message(name, number, body, fds)

    def begin(self, name, body=None, fds=()):
        """Sends a request; gives the number to `finish` it by."""
        number, self.next_id = self.next_id, self.next_id + 1
        self.send_bytes(encode(name, number, body, len(fds)), fds)
        self.awaited.add(number)
        return number

    def pump(self, timeout=None):
        """Waits for one message, and puts it where it belongs; False after `timeout` seconds."""
        if not select.select([self.sock], [], [], timeout)[0]:
            return False
        message = self.receive()
        if message is None:
            raise ConnectionError("the broker closed the connection")
        if message.name in EVENTS:
            self.events.append(message)
        elif message.name == "Error" and message.id == 0:
            raise Refused(message.body)
        elif message.id in self.awaited:
            self.awaited.remove(message.id)
            self.replies[message.id] = message
        else:
            close_all(message.fds)
            raise ProtocolError(f"{message.name} to {message.id}, which was not asked")
        return True

    def finish(self, number, timeout=None):
        """The reply's body and descriptors, or None where none came in time."""
        while number not in self.replies:
            if not self.pump(timeout):
                return None
        reply = self.replies.pop(number)
        if reply.name == "Error":
            raise Refused(reply.body)
        return reply.body, reply.fds

    def request(self, name, body=None, fds=()):
        """The reply's body and descriptors."""
        return self.finish(self.begin(name, body, fds))

    def hello(self, name="python", versions=(1, 1)):
        body = {
            "version_min": versions[0],
            "version_max": versions[1],
            "features": 0,
            "name": name,
        }
        self.welcome, fds = self.request("Hello", body)
        try:
            if len(fds) != 1:
                raise ProtocolError("Welcome comes with the state page")
            self.page = StatePage(fds[0])
        finally:
            close_all(fds)
        return self.welcome

    def next_event(self, timeout=None):
        """An event, or None after `timeout` seconds; raises ConnectionError at the end."""
        while not self.events:
            if not self.pump(timeout):
                return None
        return self.events.popleft()


class StatePage:
    """Section 8."""

    FUTEX_WAIT = 0
    SYS_FUTEX = {"x86_64": 202, "aarch64": 98, "riscv64": 98}

    def __init__(self, fd):
        self.map = mmap.mmap(fd, os.fstat(fd).st_size, mmap.MAP_SHARED, mmap.PROT_READ)
        magic, version, self.slots = struct.unpack_from("=8sII", self.map)
        if magic != b"dmashare" or version != 1:
            raise ProtocolError(f"no state page of layout 1: {magic!r}, {version}")

    def close(self):
        self.map.close()

    def offset(self, slot):
        if slot >= self.slots:
            raise ProtocolError(f"slot {slot} of {self.slots}")
        return 64 * (1 + slot)

    def word(self, slot):
        # One aligned load; Python offers no order, and the interpreter's own calls give it here.
        return memoryview(self.map).cast("I")[self.offset(slot) // 4]

    def device(self, slot):
        return memoryview(self.map).cast("Q")[self.offset(slot) // 8 + 1]

    @staticmethod
    def same(word, at):
        """Whether the device of `at` is usable, where its slot reads `word`."""
        return word >> 2 == at["word"] >> 2 and not word & 2

    def usable(self, at):
        return self.same(self.word(at["slot"]), at)

    def slot(self, slot):
        word = self.word(slot)
        return {
            "slot": slot,
            "device": self.device(slot),
            "generation": word >> 2,
            "state": DEVICE_STATES[word & 3],
        }

    def wait_for_loss(self, at, timeout):
        """Whether the device was lost within `timeout` seconds of no change."""
        libc = ctypes.CDLL(None, use_errno=True)
        address = _address_of(self.map) + self.offset(at["slot"])

        class Timespec(ctypes.Structure):
            _fields_ = [("sec", ctypes.c_long), ("nsec", ctypes.c_long)]

        limit = Timespec(int(timeout), int(timeout % 1 * 1e9))
        while True:
            word = self.word(at["slot"])
            if not self.same(word, at):
                return True
            result = libc.syscall(
                ctypes.c_long(self.SYS_FUTEX[os.uname().machine]),
                ctypes.c_void_p(address),
                ctypes.c_int(self.FUTEX_WAIT),
                ctypes.c_uint32(word),
                ctypes.byref(limit),
                None,
                0,
            )
            if result < 0 and ctypes.get_errno() == 110:  # ETIMEDOUT
                return not self.usable(at)


def _address_of(buffer):
    """Where a read-only buffer lies: from its Py_buffer, whose first field is the address."""
    view = (ctypes.c_void_p * 16)()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(buffer), view, 0)
    address = view[0]
    ctypes.pythonapi.PyBuffer_Release(view)
    return address


# --- the kernel's objects, for the commands ---


def _iowr(kind, number, size):
    return 3 << 30 | size << 16 | ord(kind) << 8 | number


def dumb_buffer(node, width, height):
    """A dma-buf of a dumb buffer of 32 bits a pixel: its fd and stride."""
    create = struct.Struct("=IIIIIIQ")
    data = bytearray(create.pack(height, width, 32, 0, 0, 0, 0))
    fcntl.ioctl(node, _iowr("d", 0xB2, create.size), data)
    *_, handle, stride, _size = create.unpack(data)
    prime = struct.Struct("=IIi")
    data = bytearray(prime.pack(handle, os.O_CLOEXEC | os.O_RDWR, -1))
    fcntl.ioctl(node, _iowr("d", 0x2D, prime.size), data)
    return prime.unpack(data)[2], stride


def sw_sync_fence(timeline):
    """A sync_file that is pending until the timeline is advanced by one, or closed."""
    create = struct.Struct("=I32si")
    data = bytearray(create.pack(1, b"python", -1))
    fcntl.ioctl(timeline, _iowr("W", 0, create.size), data)
    return create.unpack(data)[2]


def sync_file_status(fd):
    """1 signalled, 0 pending, negative an error; None where the fd is no sync_file."""
    info = struct.Struct("=32siIIIQ")
    fence = struct.Struct("=32s32siIQ")
    fences = (ctypes.c_char * (fence.size * 64))()
    data = bytearray(info.pack(b"", 0, 0, 64, 0, ctypes.addressof(fences)))
    try:
        fcntl.ioctl(fd, _iowr(">", 4, info.size), data)
    except OSError:
        return None
    return info.unpack(data)[1]


# --- commands ---


def say(**what):
    print(json.dumps(what), flush=True)


def say_event(client, event, extra=None):
    say(event=event.name, body=event.body, **(extra or {}))


def hold(client, on_event=None, commands=None, readable=None):
    """Tells events until standard input ends; a line on it can be a command with numbers. Each file
    in `readable` is told of once. Replies to what a command began are told when they come."""
    readable = dict(readable or {})
    while True:
        while client.events:
            event = client.events.popleft()
            (on_event or say_event)(client, event)
        while client.replies:
            number, reply = client.replies.popitem()
            say(reply=reply.name, id=number, body=reply.body)
        ready, _, _ = select.select([client.sock, sys.stdin, *readable], [], [])
        if client.sock in ready:
            client.pump()
        for file in readable.keys() & set(ready):
            readable.pop(file)()
        if sys.stdin in ready:
            line = sys.stdin.readline()
            if not line:
                return
            name, *numbers = line.split() or [""]
            action = (commands or {}).get(name)
            if action:
                action(*map(int, numbers))
            else:
                say(unknown=line.strip())


def grantee(args):
    return "Anyone" if args.uid is None else {"Uid": args.uid}


def grant(client, args, number):
    body = {"object": number, "to": grantee(args), "uses": args.uses, "ttl_ms": args.ttl_ms}
    return client.request("Grant", body)[0]


def command_hello(client, args):
    say(**client.welcome, slots=client.page.slots)


def command_devices(client, args):
    devices, _ = client.request("ListDevices")
    for device in devices:
        page = client.page.slot(device["at"]["slot"])
        say(**device, page=page, usable=client.page.usable(device["at"]))


def command_export(client, args):
    node = os.open(args.node, os.O_RDWR | os.O_CLOEXEC)
    planes = list(args.fd)
    strides = list(args.stride)
    if not planes:
        fd, stride = dumb_buffer(node, args.width, args.height)
        planes, strides = [fd], [stride]
        if args.fill is not None:
            size = os.lseek(fd, 0, os.SEEK_END)
            with mmap.mmap(fd, size) as memory:
                memory[:] = bytes([args.fill]) * size
    layout = {
        "width": args.width,
        "height": args.height,
        "fourcc": int.from_bytes(args.fourcc.encode(), "little"),
        "modifier": args.modifier,
        "planes": [{"offset": 0, "stride": stride} for stride in strides],
    }
    exported, _ = client.request("Export", {"layout": layout, "grant": None}, [node, *planes])
    say(**{**exported, "token": grant(client, args, exported["buffer"])})
    hold(client, commands={"release": lambda: release(client, exported["buffer"])})


def release(client, number):
    client.request("Release", number)
    say(released=number)


def command_import(client, args):
    fds = []
    if args.node:
        fds.append(os.open(args.node, os.O_RDWR | os.O_CLOEXEC))
    body = {"token": args.token, "by": "Device" if fds else "Cpu"}
    imported, planes = client.request("Import", body, fds)
    close_all(fds)
    held = list(planes)
    more = {}
    if args.read:
        with mmap.mmap(planes[0], imported["sizes"][0], prot=mmap.PROT_READ) as memory:
            more["bytes"] = memory[: args.read].hex()
    say(**imported, usable=client.page.usable(imported["at"]), **more)

    def on_event(client, event):
        say_event(client, event)
        if event.name == "DeviceLost" and event.body["device"] == imported["at"]["device"]:
            if event.body["imports"] and not args.no_acknowledge:
                close_all(held)
                held.clear()
                client.request("Acknowledge", event.body["device"])
                say(acknowledged=event.body["device"])

    hold(client, on_event, {"release": lambda: release(client, imported["import"])})


def command_share_fence(client, args):
    node = os.open(args.node, os.O_RDWR | os.O_CLOEXEC)
    commands = {}
    timeline = None
    source = args.fd
    if args.sw_sync:
        timeline = os.open(args.sw_sync, os.O_RDWR | os.O_CLOEXEC)
        source = sw_sync_fence(timeline)
        advance = 1 << 30 | 4 << 16 | ord("W") << 8 | 1
        commands["signal"] = lambda: fcntl.ioctl(timeline, advance, struct.pack("=I", 1))
    policy, deadline_ms = args.policy.capitalize(), args.deadline_ms
    body = {"policy": policy, "deadline_ms": deadline_ms, "grant": None}
    shared, _ = client.request("ShareFence", body, [node, source])
    say(**{**shared, "token": grant(client, args, shared["fence"])})
    commands["query"] = lambda: say(
        state=client.request("QueryFence", shared["fence"])[0],
        source_status=sync_file_status(source),
    )
    commands["release"] = lambda: release(client, shared["fence"])
    hold(client, commands=commands)


def command_import_fence(client, args):
    imported, fds = client.request("ImportFence", args.token)
    say(**imported)
    woke, status = True, None
    if fds:
        poll = select.poll()
        poll.register(fds[0], select.POLLIN)
        woke = bool(poll.poll(None if args.timeout is None else args.timeout * 1000))
        status = sync_file_status(fds[0])
    state, _ = client.request("QueryFence", imported["fence"])
    close_all(fds)
    client.request("Release", imported["fence"])
    say(woke=woke, state=state, status=status)


def command_create_timeline(client, args):
    node = os.open(args.node, os.O_RDWR | os.O_CLOEXEC)
    body = {"policy": args.policy.capitalize(), "direction": args.direction.capitalize()}
    timeline, fds = client.request("CreateTimeline", body, [node])
    say(**timeline, token=grant(client, args, timeline["timeline"]))
    hold_timeline(client, timeline["timeline"], fds, node)


def command_import_timeline(client, args):
    timeline, fds = client.request("ImportTimeline", args.token)
    say(**timeline)
    node = os.open(args.node, os.O_RDWR | os.O_CLOEXEC) if args.node else None
    hold_timeline(client, timeline["timeline"], fds, node)


def hold_timeline(client, timeline, fds, node):
    """`promise N`, `submit N FD` (a sync_file of this process's), `done N`, `query N`, `wait N`,
    `release`; a wait is answered when it is."""
    _syncobj, lost = fds

    def at(point):
        return {"timeline": timeline, "point": point}

    def submit(point, sync_file):
        if node is None:
            say(missing="--node")
            return
        client.request("SubmitPoint", {"to": at(point), "deadline_ms": 0}, [node, sync_file])
        say(submitted=point)

    def done(point):
        client.request("SubmitPoint", {"to": at(point), "deadline_ms": 0})
        say(submitted=point)

    def promise(point):
        client.request("PromisePoint", at(point))
        say(promised=point)

    commands = {
        "promise": promise,
        "submit": submit,
        "done": done,
        "query": lambda point: say(point=point, state=client.request("QueryPoint", at(point))[0]),
        "wait": lambda point: say(point=point, id=client.begin("WaitPoint", at(point))),
        "release": lambda: release(client, timeline),
    }
    hold(client, commands=commands, readable={lost: lambda: say(lost=hung_up(lost))})


def hung_up(fd):
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return any(what & select.POLLHUP for _, what in poll.poll(0))


def command_attach_fence(client, args):
    fence, fences = client.request("ImportFence", args.fence)
    buffer, planes = client.request("Import", {"token": args.buffer, "by": "Cpu"})
    body = {"fence": fence["fence"], "buffer": buffer["import"], "access": args.access.capitalize()}
    client.request("AttachFence", body)
    close_all(fences)
    close_all(planes)
    say(attached=fence["fence"], to=buffer["import"])
    hold(client)


def command_watch(client, args):
    devices, _ = client.request("ListDevices")
    say(devices=devices)
    seen = 0

    def on_event(client, event):
        nonlocal seen
        seen += 1
        pages = [client.page.slot(it["at"]["slot"]) for it in devices]
        say_event(client, event, {"pages": pages})
        if args.count and seen >= args.count:
            raise SystemExit(0)

    hold(client, on_event)


def command_raw(client, args):
    """Sends any bytes, and says what comes until the broker is silent or hangs up."""
    client.send_bytes(bytes.fromhex(args.hex), args.fd)
    while select.select([client.sock], [], [], args.timeout)[0]:
        message = client.receive()
        if message is None:
            say(closed=True)
            return
        say(message=message.name, id=message.id, body=message.body, fds=len(message.fds))
        close_all(message.fds)
    say(closed=False)


def arguments():
    parser = argparse.ArgumentParser(description="A client of the dmashare socket.")
    parser.add_argument("--socket", default=os.environ.get("DMASHARE_SOCKET", SOCKET))
    parser.add_argument("--socket-fd", type=int, help="a connected socket, as of Connect()")
    parser.add_argument("--name", default="python")
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name, run, **more):
        command = commands.add_parser(name, **more)
        command.set_defaults(run=run)
        return command

    def add_grant(command):
        command.add_argument("--uid", type=int, help="only this user may use the token")
        command.add_argument("--uses", type=int, default=1)
        command.add_argument("--ttl-ms", type=int, default=60000)

    add("hello", command_hello, help="shake hands")
    add("devices", command_devices, help="list the GPUs")

    export = add("export", command_export, help="share a buffer; prints its token")
    export.add_argument("--node", required=True, help="DRM node of the exporter")
    export.add_argument("--fd", type=int, action="append", default=[], help="a dma-buf; else a dumb buffer is made")
    export.add_argument("--stride", type=int, action="append", default=[], help="one for each --fd")
    export.add_argument("--width", type=int, default=64)
    export.add_argument("--height", type=int, default=64)
    export.add_argument("--fourcc", default="XR24")
    export.add_argument("--modifier", type=lambda text: int(text, 0), default=0)
    export.add_argument("--fill", type=lambda text: int(text, 0), help="a byte to fill a dumb buffer with")
    add_grant(export)

    take = add("import", command_import, help="use a token for a buffer; acknowledges its loss")
    take.add_argument("token")
    take.add_argument("--node", help="DRM node of the importing GPU")
    take.add_argument("--read", type=int, default=0, help="print so many bytes of the first plane")
    take.add_argument("--no-acknowledge", action="store_true")

    share = add("share-fence", command_share_fence, help="share a fence; prints its token")
    share.add_argument("--node", required=True)
    source = share.add_mutually_exclusive_group(required=True)
    source.add_argument("--fd", type=int, help="a sync_file")
    source.add_argument("--sw-sync", help="make one on a timeline of this sw_sync file")
    share.add_argument("--policy", choices=("auto", "guard", "pass"), default="auto")
    share.add_argument("--deadline-ms", type=int, default=0)
    add_grant(share)

    wait = add("import-fence", command_import_fence, help="use a token for a fence, and wait for it")
    wait.add_argument("token")
    wait.add_argument("--timeout", type=float, help="seconds; for ever without")

    timeline = add("create-timeline", command_create_timeline, help="make a timeline; prints its token")
    timeline.add_argument("--node", required=True, help="DRM node of the device whose loss ends it")
    timeline.add_argument("--policy", choices=("auto", "guard", "pass"), default="auto")
    timeline.add_argument("--direction", choices=("acquire", "release"), default="acquire")
    add_grant(timeline)

    take = add("import-timeline", command_import_timeline, help="use a token for a timeline")
    take.add_argument("token")
    take.add_argument("--node", help="DRM node of the device whose fences are submitted")

    attach = add("attach-fence", command_attach_fence, help="put a fence into a buffer, both by token")
    attach.add_argument("fence")
    attach.add_argument("buffer")
    attach.add_argument("--access", choices=("read", "write"), default="write")

    watch = add("watch", command_watch, help="print events")
    watch.add_argument("--count", type=int, default=0, help="stop after so many")

    raw = add("raw", command_raw, help="send any bytes (no Hello before), print what comes")
    raw.add_argument("hex")
    raw.add_argument("--fd", type=int, action="append", default=[])
    raw.add_argument("--timeout", type=float, default=1.0, help="seconds of silence")
    return parser.parse_args()


def main():
    args = arguments()
    try:
        if args.socket_fd is not None:
            client = Client(socket.socket(fileno=args.socket_fd))
        else:
            client = Client.connect(args.socket)
        with contextlib.closing(client):
            if args.command != "raw":
                client.hello(args.name)
            args.run(client, args)
    except Refused as error:
        say(error=error.body)
        return 1
    except (ProtocolError, ConnectionError, FileNotFoundError, PermissionError) as error:
        say(failed=f"{type(error).__name__}: {error}")
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
