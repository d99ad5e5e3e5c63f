#!/usr/bin/env python3
"""test_broker.py [DMASHARED [NAME...]]: holds a broker (built with the feature `simulate`) against PROTOCOL.md,
with the independent client. Without an argument the program is $DMASHARED. Prints `ok NAME`, or `FAILED NAME: why`; exit status 0 or 1."""

import ctypes
import fcntl
import os
import pathlib
import select
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback

import dmashare_client as dmashare
from dmashare_client import Client, Refused

# What takes longer than this has failed: far more than anything takes on a busy machine.
SECONDS = 50
XR24 = int.from_bytes(b"XR24", "little")
LAYOUT = {
    "width": 16,
    "height": 16,
    "fourcc": XR24,
    "modifier": 0,
    "planes": [{"offset": 0, "stride": 64}],
}
EXPORT = {"layout": LAYOUT, "grant": None}


class Machine:
    """A broker on a folder of simulated devices."""

    def __init__(self, binary):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="dmashare-test-"))
        self.path = str(self.dir / "broker.sock")
        self.plug("igpu", "0000:00:02.0", removable=False, tell=False)
        self.plug("egpu", "0000:06:00.0", removable=True, tell=False)
        self.log = open(self.dir / "log", "w+b")
        self.daemon = subprocess.Popen(
            [binary, "--bus", f"unix:path={self.dir}/no-bus", "--socket", self.path]
            + ["--state-dir", str(self.dir), "--simulate", str(self.dir)],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
        )
        deadline = time.monotonic() + SECONDS
        while True:
            if self.daemon.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the broker does not start:\n" + self.told())
            try:
                Client.connect(self.path).close()
                return
            except (FileNotFoundError, ConnectionRefusedError):
                select.select([], [], [], 0.01)

    def told(self):
        return (self.dir / "log").read_text()

    def plug(self, name, pci, removable, tell=True):
        folder = self.dir / "devices" / name
        folder.mkdir(parents=True)
        (folder / "device.toml").write_text(
            f'driver = "sim"\npci = "{pci}"\nremovable = {str(removable).lower()}\n'
        )
        for node in ("card0", "renderD128"):
            (folder / node).touch()
        if tell:
            self.datagram("udev.sock", b"add")

    def unplug(self, name):
        shutil.rmtree(self.dir / "devices" / name)
        for node in ("card0", "renderD128"):
            path = f"/devices/sim/{name}/drm/{node}"
            lines = [f"remove@{path}", "ACTION=remove", f"DEVPATH={path}", "SUBSYSTEM=drm"]
            lines += ["DEVTYPE=drm_minor", f"DEVNAME=dri/{node}", "SEQNUM=1"]
            self.datagram("uevent.sock", "".join(line + "\0" for line in lines).encode())

    def datagram(self, name, data):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(data, str(self.dir / name))

    def node(self, name="egpu"):
        return os.open(self.dir / "devices" / name / "renderD128", os.O_RDWR | os.O_CLOEXEC)

    def open_fds(self):
        return len(os.listdir(f"/proc/{self.daemon.pid}/fd"))

    def client(self, name="test"):
        client = Client.connect(self.path)
        client.hello(name)
        return client

    def close(self):
        self.daemon.terminate()
        code = self.daemon.wait(SECONDS)
        self.log.close()
        shutil.rmtree(self.dir)
        assert code == 0, f"the broker ended with {code}"


def buffer(fill=b"", size=4096):
    """What stands for a dma-buf: a memfd of this name, and of a size that stays."""
    fd = os.memfd_create("dmashare-sim-dmabuf", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    os.pwrite(fd, fill, 0)
    # The mode by which the service knows it.
    os.fchmod(fd, 0o1600)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd


def fence():
    """What stands for a sync_file."""
    return ctypes.CDLL(None).eventfd(0, os.O_CLOEXEC | os.O_NONBLOCK)


def end_fence(fd, errno=0):
    os.write(fd, struct.pack("=Q", (1 << 64) - 0x10000 + 1 + errno))


def refused(code, call, *args):
    try:
        result = call(*args)
    except Refused as error:
        assert error.body["code"] == code, (code, error.body)
        assert error.body["message"], "an error says what happened"
        return error.body
    raise AssertionError(f"not refused with {code}: {result}")


def export(machine, client, fill=b"", layout=LAYOUT, device="egpu"):
    fds = [machine.node(device), buffer(fill)]
    try:
        return client.request("Export", {"layout": layout, "grant": None}, fds)[0]
    finally:
        dmashare.close_all(fds)


def grant(client, number, to="Anyone", uses=1, ttl_ms=60000):
    body = {"object": number, "to": to, "uses": uses, "ttl_ms": ttl_ms}
    return client.request("Grant", body)[0]


def take(client, token, by="Cpu", fds=()):
    return client.request("Import", {"token": token, "by": by}, fds)


def share(machine, client, source, policy="Auto", deadline_ms=0, device="egpu"):
    node = machine.node(device)
    try:
        body = {"policy": policy, "deadline_ms": deadline_ms, "grant": None}
        return client.request("ShareFence", body, [node, source])[0]
    finally:
        os.close(node)


def wait(fd):
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(SECONDS * 1000), "nobody woke"


def event(client, name):
    """The next event, which is to be of this name."""
    got = client.next_event(SECONDS)
    assert got and got.name == name, f"{name} awaited, {got} came"
    return got.body


def raw(machine, data, fds=(), greeted=True):
    """What comes for these bytes: the reply, and whether the connection went on."""
    client = machine.client() if greeted else Client.connect(machine.path)
    client.send_bytes(data, fds)
    answer = client.receive()
    if answer is None:
        return None, None, False
    try:
        client.send_bytes(dmashare.encode("ListDevices", 77, None))
        more = client.receive()
    except (BrokenPipeError, ConnectionResetError):
        more = None
    client.close()
    return answer.body and answer.body["code"], answer.id, more is not None


# --- the checks: each gets a machine of its own ---


def a_buffer_goes_from_one_to_the_other(machine):
    one, two = machine.client("one"), machine.client("two")
    exported = export(machine, one, b"hello")
    token = grant(one, exported["buffer"], uses=2)
    imported, fds = take(two, token)
    assert imported["layout"] == LAYOUT and imported["sizes"] == [4096]
    assert imported["buffer"] == exported["buffer"] and imported["at"] == exported["at"]
    assert os.pread(fds[0], 5, 0) == b"hello"
    assert two.page.usable(imported["at"])
    node = machine.node("igpu")
    again, more = take(two, token, "Device", [node])
    assert again["import"] != imported["import"]
    refused(205, take, two, token)  # used up
    one.close()
    os.pwrite(fds[0], b"still", 0)
    assert os.pread(more[0], 5, 0) == b"still"
    for number in (imported["import"], again["import"]):
        assert two.request("Release", number) == (None, [])
        refused(203, two.request, "Release", number)


def a_token_comes_with_what_it_is_for(machine):
    one, two = machine.client("one"), machine.client("two")
    terms = {"to": "Anyone", "uses": 1, "ttl_ms": 60000}
    node, source = machine.node("egpu"), fence()

    def wanted(terms):
        to_share = {"policy": "Auto", "deadline_ms": 0, "grant": terms}
        return {"layout": LAYOUT, "grant": terms}, to_share

    to_export, to_share = wanted(terms)
    exported, _ = one.request("Export", to_export, [node, buffer(b"hello")])
    imported, fds = take(two, exported["token"])
    assert imported["buffer"] == exported["buffer"] and os.pread(fds[0], 5, 0) == b"hello"
    refused(205, take, two, exported["token"])  # used up
    shared, _ = one.request("ShareFence", to_share, [node, source])
    got, (guard,) = two.request("ImportFence", shared["token"])
    assert got["state"] == "Pending"
    end_fence(source)
    wait(guard)
    # Of terms that nobody may have comes neither: the next id is the next object's.
    for uses, ttl_ms in ((0, 60000), (1, 0), (1, 86400001)):
        to_export, to_share = wanted({"to": "Anyone", "uses": uses, "ttl_ms": ttl_ms})
        refused(207, one.request, "Export", to_export, [node, buffer()])
        refused(207, one.request, "ShareFence", to_share, [node, fence()])
    assert export(machine, one)["buffer"] == got["fence"] + 1
    assert export(machine, one)["token"] is None


def a_guard_ends_as_its_source_does(machine):
    one, two = machine.client("one"), machine.client("two")
    for errno, state in ((0, "Ok"), (5, "Failed")):
        source = fence()
        shared = share(machine, one, source)
        assert shared["guard"] == "Simulated"
        imported, (guard,) = two.request("ImportFence", grant(one, shared["fence"]))
        assert imported["state"] == "Pending" and imported["fence"] != shared["fence"]
        assert os.fstat(guard).st_ino and not select.select([guard], [], [], 0)[0]
        end_fence(source, errno)
        wait(guard)
        got, _ = two.request("QueryFence", imported["fence"])
        assert list(got) == [state], got
        assert errno == 0 or got["Failed"]["cause"] == {"Exporter": 5}
        late, none = two.request("ImportFence", grant(one, shared["fence"]))
        assert late["state"] == got and none == []


def a_deadline_ends_a_guard(machine):
    client = machine.client()
    # Long enough for it to be pending when it is imported.
    shared = share(machine, client, fence(), deadline_ms=1000)
    _, (guard,) = client.request("ImportFence", grant(client, shared["fence"]))
    wait(guard)
    state, _ = client.request("QueryFence", shared["fence"])
    assert state["Failed"]["cause"] == "TimedOut", state
    refused(207, share, machine, client, fence(), "Auto", 1 << 31)


def a_fence_of_a_fixed_device_is_passed(machine):
    client = machine.client()
    assert share(machine, client, fence(), device="igpu")["guard"] == "Source"
    assert share(machine, client, fence(), "Pass")["guard"] == "Source"
    assert share(machine, client, fence(), "Guard", device="igpu")["guard"] == "Simulated"


def an_unplug_is_told_once_and_in_order(machine):
    one, two, other = machine.client("one"), machine.client("two"), machine.client("other")
    exported = export(machine, one)
    lost_token = grant(one, exported["buffer"], uses=5)
    imported, fds = take(two, lost_token)
    source = fence()
    shared = share(machine, one, source)
    fence_token = grant(one, shared["fence"], uses=5)
    held, (guard,) = two.request("ImportFence", fence_token)
    machine.unplug("egpu")
    wait(guard)
    assert not select.select([source], [], [], 0)[0], "the source is still pending"
    assert not two.page.usable(imported["at"])
    device = exported["at"]["device"]
    for client, had in ((one, (1, 0, 1)), (two, (0, 1, 1)), (other, (0, 0, 0))):
        lost = event(client, "DeviceLost")
        assert lost["device"] == device and lost["cause"] == "Unplugged", lost
        assert (lost["buffers"], lost["imports"], lost["fences"]) == had, lost
    for client, number in ((one, shared["fence"]), (two, held["fence"])):
        state, _ = client.request("QueryFence", number)
        assert state["Failed"]["cause"] == "Unplugged", state
    assert refused(400, take, other, lost_token)["object"] == device
    refused(400, other.request, "ImportFence", fence_token)
    refused(400, grant, one, exported["buffer"])
    dmashare.close_all(fds)
    assert other.next_event(0) is None, "not gone while an import is held"
    assert two.request("Acknowledge", device) == (None, [])
    for client in (one, two, other):
        assert event(client, "DeviceGone") == device
    assert two.request("Acknowledge", device) == (None, [])
    assert two.page.slot(imported["at"]["slot"])["state"] == "Gone"
    for client, number in ((one, exported["buffer"]), (two, imported["import"])):
        assert client.request("Release", number) == (None, [])
        refused(203, client.request, "Release", number)
    assert {it["pci"] for it in other.request("ListDevices")[0]} == {"0000:00:02.0"}
    machine.plug("egpu", "0000:06:00.0", removable=True)
    added = event(other, "DeviceAdded")
    assert added["at"]["device"] > device and added["removable"]
    assert other.page.usable(added["at"]) and not other.page.usable(imported["at"])
    export(machine, other)


def an_overdue_client_is_disconnected(machine):
    one, two = machine.client("one"), machine.client("two")
    take(two, grant(one, export(machine, one)["buffer"]))
    machine.unplug("egpu")
    event(two, "DeviceLost")
    try:
        two.next_event(SECONDS)
    except ConnectionError:
        event(one, "DeviceLost")
        event(one, "DeviceGone")
        return
    raise AssertionError("still connected")


def wrong_values_are_refused(machine):
    client = machine.client()
    exported = export(machine, client)
    number = exported["buffer"]
    refused(207, grant, client, number, "Anyone", 0)
    refused(207, grant, client, number, "Anyone", 1, 0)
    refused(207, grant, client, number, "Anyone", 1, 86400001)
    refused(203, grant, client, 999999)
    refused(203, machine.client().request, "Release", number)
    refused(204, client.request, "QueryFence", number)
    refused(205, take, client, "00" * 16)
    refused(205, client.request, "ImportFence", "00" * 16)
    refused(205, take, client, grant(client, number, {"Uid": os.getuid() + 1}))
    refused(204, client.request, "ImportFence", grant(client, number))
    shared = share(machine, client, fence())
    refused(204, take, client, grant(client, shared["fence"]))
    imported, _ = take(client, grant(client, number))
    refused(204, grant, client, imported["import"])
    refused(207, client.request, "Acknowledge", exported["at"]["device"])
    refused(206, client.request, "Acknowledge", 999999)
    token = grant(client, number)
    client.request("Release", number)
    refused(205, take, client, token)  # its maker released the buffer


def points_are_asked_for_by_an_id_of_ones_own(machine):
    maker, other = machine.client("maker"), machine.client("other")
    node = machine.node()
    options = {"policy": "Auto", "direction": "Acquire"}
    made, fds = maker.request("CreateTimeline", options, [node])
    imported, more = other.request("ImportTimeline", grant(maker, made["timeline"]))
    exported, shared = export(machine, maker), share(machine, maker, fence())
    # Each side has an id of its own, and to the other it is nobody's.
    for client, timeline, code in (
        (other, made["timeline"], 203),
        (maker, imported["timeline"], 203),
        (other, exported["buffer"], 203),
        (maker, 999999, 203),
        (maker, exported["buffer"], 204),
        (maker, shared["fence"], 204),
    ):
        at = {"timeline": timeline, "point": 1}
        submit = {"to": at, "deadline_ms": 0}
        refused(code, client.request, "PromisePoint", at)
        refused(code, client.request, "SubmitPoint", submit)
        refused(code, client.request, "SubmitPoint", submit, [node, fence()])
        refused(code, client.request, "QueryPoint", at)
        refused(code, client.request, "WaitPoint", at)
    # Nothing was promised or submitted by it.
    for client, timeline in ((maker, made["timeline"]), (other, imported["timeline"])):
        at = {"timeline": timeline, "point": 1}
        assert client.request("QueryPoint", at)[0] == "Unknown"
    maker.request("PromisePoint", {"timeline": made["timeline"], "point": 1})
    assert other.request("QueryPoint", at)[0] == "Promised"
    dmashare.close_all([*fds, *more, node])


def impossible_layouts_are_refused(machine):
    client = machine.client()
    for wrong in (
        {"width": 0},
        {"height": 65537},
        {"fourcc": 0x12345678},
        {"planes": []},
        {"planes": [{"offset": 0, "stride": 64}] * 2},
        {"planes": [{"offset": 4000, "stride": 64}]},
        {"planes": [{"offset": 0xFFFFFFFF, "stride": 0xFFFFFFFF}]},
    ):
        refused(202, export, machine, client, b"", {**LAYOUT, **wrong})


def wrong_descriptors_are_refused_and_closed(machine):
    client = machine.client()
    node = machine.node()
    pipe = os.pipe()
    other = os.memfd_create("other")
    path = os.open(machine.dir / "log", os.O_PATH)
    _witness, before = settled(machine)
    for wrong in (*pipe, other, path, node):
        refused(200, client.request, "Export", EXPORT, [node, wrong])
        body = {"policy": "Auto", "deadline_ms": 0, "grant": None}
        refused(200, client.request, "ShareFence", body, [node, wrong])
    for wrong in (*pipe, path):
        refused(200, client.request, "Export", EXPORT, [wrong, buffer()])
    # A file that stands for no device.
    stranger = os.open(machine.dir / "log", os.O_RDONLY)
    refused(206, client.request, "Export", EXPORT, [stranger, buffer()])
    for count in (0, 1, 6, 8, 9, 253):
        refused(104, client.request, "Export", EXPORT, [node] * count)
    refused(104, client.request, "ListDevices", None, [node])
    # What was refused is closed by a thread of its connection, not before the answer.
    wait_for(lambda: machine.open_fds() <= before, "descriptors leak")


def bad_datagrams_are_answered_as_the_table_says(machine):
    good = dmashare.encode("ListDevices", 5, None)
    _witness, before = settled(machine)
    fd = os.open("/dev/null", os.O_RDONLY)
    for name, data, fds, expected in (
        ("a byte left over", good + b"\0", (), (100, 5, True)),
        ("a body cut short", dmashare.encode("Release", 5, 300)[:-1], (), (100, 5, True)),
        ("an id of 0", dmashare.encode("ListDevices", 0, None), (), (100, 0, True)),
        ("an unknown kind", struct.pack("<HHIQ", 0x7FFF, 0, 0, 5), (), (101, 5, True)),
        ("a reply", dmashare.encode("Done", 5, None), (), (101, 5, True)),
        ("an event", dmashare.encode("DeviceGone", 5, 1), (), (101, 5, True)),
        ("fewer fds than said", dmashare.encode("ListDevices", 5, None, 1), (), (104, 5, True)),
        ("more fds than said", good, (fd,), (104, 5, True)),
        ("reserved bytes", struct.pack("<HHIQ", 2, 0, 1, 5), (fd,), (100, 5, False)),
        ("Hello again", hello(5), (), (102, 5, False)),
        ("no header", good[:15], (fd,), (100, 0, False)),
        ("no header at all, but an fd", b"", (fd,), (100, 0, False)),
        ("too long", good + bytes(16384), (fd,), (105, 0, False)),
        ("nothing", b"", (), (None, None, False)),
    ):
        got = raw(machine, data, fds)
        assert got == expected, (name, got, expected)
    wait_for(lambda: machine.open_fds() <= before, "descriptors leak")


def hello(number, low=1, high=1, name="x"):
    body = {"version_min": low, "version_max": high, "features": 0, "name": name}
    return dmashare.encode("Hello", number, body)


def what_is_refused_before_welcome_is_closed(machine):
    for name, data, expected in (
        ("no Hello", dmashare.encode("ListDevices", 5, None), (102, 5, False)),
        ("a later version", hello(5, 2, 9), (103, 5, False)),
        ("an empty range", hello(5, 1, 0), (103, 5, False)),
        ("a name with a control character", hello(5, name="a\n"), (207, 5, False)),
        ("a name that is too long", hello(5, name="x" * 65), (207, 5, False)),
        ("a cut Hello", hello(5)[:-1], (100, 5, False)),
        ("an unknown kind", struct.pack("<HHIQ", 99, 0, 0, 5), (101, 5, False)),
    ):
        got = raw(machine, data, greeted=False)
        assert got == expected, (name, got, expected)
    assert machine.client().welcome["version"] == 1


def versions_and_features_are_agreed(machine):
    client = Client.connect(machine.path)
    body = {"version_min": 0, "version_max": 65535, "features": (1 << 64) - 1, "name": "ö" * 32}
    welcome, fds = client.request("Hello", body)
    assert (welcome["version"], welcome["features"]) == (1, 0)
    assert len(fds) == 1
    try:
        dmashare.mmap.mmap(fds[0], 4096)  # shared, to write
    except PermissionError:
        return
    raise AssertionError("a client can write the state page")


def a_client_that_does_not_read_is_disconnected(machine):
    silent, other = machine.client("silent"), machine.client("other")
    data = dmashare.encode("ListDevices", 5, None)
    silent.sock.setblocking(False)
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        try:
            silent.send_bytes(data)
        except BlockingIOError:
            select.select([], [silent.sock], [], 1)
        except (BrokenPipeError, ConnectionResetError):
            assert other.request("ListDevices")[0], "nobody else notices"
            return
    raise AssertionError("it costs the broker without a bound")


def a_killed_client_leaves_nothing(machine):
    _witness, before = settled(machine)
    watcher = machine.client("watcher")
    clients = [machine.client(f"c{i}") for i in range(20)]
    for client in clients:
        number = export(machine, client)["buffer"]
        take(watcher, grant(client, number))
        client.send_bytes(dmashare.encode("Export", 9, EXPORT, 3))
        client.close()
    watcher.close()
    wait_for(lambda: machine.open_fds() <= before, "descriptors leak")


def settled(machine):
    """A client that stays, and the broker's open files once it has answered: then the broker is in
    its loop, and what came before is over."""
    client = machine.client("witness")
    client.request("ListDevices")
    return client, machine.open_fds()


def a_neutral_buffer_outlives_the_unplug(machine):
    maker, user = machine.client("maker"), machine.client("user")
    device = [it for it in maker.request("ListDevices")[0] if it["removable"]][0]
    user.request("ListDevices")
    wanted = {"width": 33, "height": 20, "fourcc": XR24}
    made, fds = maker.request("Allocate", wanted)
    (plane,) = made["layout"]["planes"]
    assert plane["stride"] % 256 == 0 and plane["offset"] % 4096 == 0, plane
    assert made["layout"]["modifier"] == 0 and made["sizes"][0] >= plane["stride"] * 20
    assert len(fds) == 1 and os.pread(fds[0], 4096, 0) == bytes(4096), "new memory is not zero"
    os.pwrite(fds[0], b"kept", 0)
    right = {"object": made["buffer"], "to": "Anyone", "uses": 1, "ttl_ms": 60000}
    token, _ = maker.request("Grant", right)
    imported, theirs = user.request("Import", {"token": token, "by": "Cpu"})
    assert imported["at"] is None and imported["layout"] == made["layout"]
    machine.unplug("egpu")
    lost = user.next_event(SECONDS)
    assert lost.name == "DeviceLost" and lost.body["device"] == device["at"]["device"]
    assert lost.body["imports"] == 0, lost.body
    assert os.pread(theirs[0], 4, 0) == b"kept"
    user.request("Release", imported["import"])
    maker.request("Release", made["buffer"])
    refused(203, maker.request, "Release", made["buffer"])
    refused(202, maker.request, "Allocate", {**wanted, "width": 0})
    refused(202, maker.request, "Allocate", {**wanted, "fourcc": 1})
    refused(300, maker.request, "Allocate", {**wanted, "width": 65536, "height": 65536})
    refused(104, maker.request, "Allocate", wanted, fds)
    dmashare.close_all(fds + theirs)


def a_client_speaks_of_itself(machine):
    client, other = machine.client(), machine.client("other")
    (device,) = [it for it in client.request("ListDevices")[0] if it["removable"]]
    for on_loss in ("Relaunch", "Kill", "Ignore", "Wait"):
        client.request("Declare", {"on_loss": on_loss, "survives": on_loss == "Wait"})
    ask = {"device": device["at"]["device"], "mode": "Block", "why": "a recording"}
    held, _ = client.request("Inhibit", ask)
    refused(203, other.request, "Release", held)
    refused(204, client.request, "QueryFence", held)
    right = {"object": held, "to": "Anyone", "uses": 1, "ttl_ms": 1000}
    refused(204, client.request, "Grant", right)
    for why in ("", " ", "x" * 129, "two\nlines"):
        refused(207, client.request, "Inhibit", {**ask, "why": why})
    refused(206, client.request, "Inhibit", {**ask, "device": 1 << 60})
    client.request("Release", held)
    machine.unplug("egpu")
    assert client.next_event(SECONDS).name == "DeviceLost"
    refused(400, client.request, "Inhibit", ask)
    every, _ = client.request("Inhibit", {**ask, "device": None, "mode": "Delay"})
    client.request("Release", every)


def wait_for(condition, why):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, why
        select.select([], [], [], 0.01)


CHECKS = [
    a_buffer_goes_from_one_to_the_other,
    a_token_comes_with_what_it_is_for,
    a_guard_ends_as_its_source_does,
    a_deadline_ends_a_guard,
    a_fence_of_a_fixed_device_is_passed,
    an_unplug_is_told_once_and_in_order,
    an_overdue_client_is_disconnected,
    wrong_values_are_refused,
    points_are_asked_for_by_an_id_of_ones_own,
    impossible_layouts_are_refused,
    wrong_descriptors_are_refused_and_closed,
    bad_datagrams_are_answered_as_the_table_says,
    what_is_refused_before_welcome_is_closed,
    versions_and_features_are_agreed,
    a_client_that_does_not_read_is_disconnected,
    a_killed_client_leaves_nothing,
    a_neutral_buffer_outlives_the_unplug,
    a_client_speaks_of_itself,
]


def main():
    binary = sys.argv[1] if sys.argv[1:] else os.environ.get("DMASHARED")
    if not binary:
        print(__doc__, file=sys.stderr)
        return 2
    failed = 0
    for check in CHECKS:
        name = check.__name__.replace("_", " ")
        if sys.argv[2:] and name not in sys.argv[2:]:
            continue
        start = time.monotonic()
        try:
            machine = Machine(binary)
            try:
                check(machine)
            except BaseException:
                sys.stderr.write(machine.told()[-4000:])
                raise
            finally:
                machine.close()
            print(f"ok {name} {time.monotonic() - start:.2f} s", flush=True)
        except Exception as error:  # one check is not to hide the others
            failed += 1
            print(f"FAILED {name}: {error!r}", flush=True)
            traceback.print_exc()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
