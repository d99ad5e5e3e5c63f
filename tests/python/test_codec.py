#!/usr/bin/env python3
"""Checks the independent client against PROTOCOL.md: its examples, and the client's own manners
against a stand-in of a broker. Prints `ok NAME`, or `FAILED NAME: why`; exit status 0 or 1."""

import json
import mmap
import os
import pathlib
import re
import socket
import struct
import sys
import threading
import time
import traceback

import dmashare_client as dmashare

PROTOCOL = pathlib.Path(__file__).resolve().parents[2] / "proto" / "PROTOCOL.md"


def examples():
    text = PROTOCOL.read_text()
    blocks = {"json": {}, "hex": {}}
    for kind, name, body in re.findall(r"^```(json|hex) (\S+)\n(.*?)^```", text, re.M | re.S):
        blocks[kind][name] = body
    assert blocks["json"].keys() == blocks["hex"].keys(), "an example lacks a half"
    for name, body in blocks["hex"].items():
        yield name, bytes.fromhex(body), json.loads(blocks["json"][name])


def check_example(data, said):
    name, number, fds, body = dmashare.decode(data)
    assert {"message": name, "id": number, "fds": fds, "body": body} == said, (name, body)
    assert dmashare.encode(name, number, body, fds) == data, "encoded differently"
    for length in range(len(data)):
        refuses(data[:length])
    refuses(data + b"\0")


def breaks_protocol(call, *args):
    try:
        result = call(*args)
    except dmashare.ProtocolError:
        return
    raise AssertionError(f"{args} passed for good: {result}")


def refuses(data):
    breaks_protocol(dmashare.decode, data)


def every_message_has_an_example():
    there = {said["message"] for _, _, said in examples()}
    assert there == set(dmashare.MESSAGES), there ^ set(dmashare.MESSAGES)


def tables_have_the_same_numbers():
    text = PROTOCOL.read_text()
    rows = dict(re.findall(r"^\| (0x[0-9a-f]{4}|\d+) \| `([A-Z]\w+)` \|", text, re.M))
    assert {int(number, 0): name for number, name in rows.items()} == {
        kind: name for name, (kind, _) in dmashare.MESSAGES.items()
    }


def limits_are_the_tables():
    rows = dict(re.findall(r"^\| ([^|]+) \| (\d+) \|$", PROTOCOL.read_text(), re.M))
    assert dmashare.MAX_MESSAGE == int(rows["datagram, bytes"])
    assert dmashare.MAX_FDS == int(rows["fds beside a datagram"])
    assert dmashare.MAX_POINT == int(rows["highest point of a timeline"])


def numbers_at_their_bounds():
    for kind, values in (
        (dmashare.U16, (0, 127, 128, 0xFFFF)),
        (dmashare.U32, (0, 0xFFFFFFFF)),
        (dmashare.U64, (0, 1 << 63, (1 << 64) - 1)),
        (dmashare.I32, (0, -1, 1, -(1 << 31), (1 << 31) - 1)),
    ):
        for value in values:
            reader = dmashare.Reader(kind.write(value))
            assert kind.read(reader) == value
            reader.end()
    assert dmashare.I32.write(-1) == b"\1"
    for too_much in (b"\xff\xff\x04", b"\x80\x80\x80\x00"):
        breaks_protocol(dmashare.U16.read, dmashare.Reader(too_much))


class Stub:
    """Answers with what it is told to, on the other end of a pair."""

    def __init__(self):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.client = dmashare.Client(ours)
        self.peer = dmashare.Client(theirs)
        self.memfd = os.memfd_create("page")
        os.ftruncate(self.memfd, 4096)
        self.page = mmap.mmap(self.memfd, 4096)
        struct.pack_into("=8sII", self.page, 0, b"dmashare", 1, 63)
        struct.pack_into("=IIQ", self.page, 128, 2 << 2, 0, 3)

    def send(self, name, number, body, fds=()):
        self.peer.send_bytes(dmashare.encode(name, number, body, len(fds)), fds)

    def welcome(self):
        body = {"version": 1, "features": 0, "instance": "00" * 16, "backend": "Vgem"}
        self.send("Welcome", 1, body, [self.memfd])
        self.client.hello("test")
        assert dmashare.decode(self.peer.receive_bytes()[0])[0] == "Hello"

    def close(self):
        self.client.close()
        self.peer.close()
        self.page.close()
        os.close(self.memfd)


AT = {"device": 3, "slot": 1, "word": 2 << 2}


def stub_events_and_replies_are_told_apart(stub):
    stub.welcome()
    stub.send("DeviceGone", 0, 7)
    stub.send("Devices", 2, [])
    assert stub.client.request("ListDevices") == ([], [])
    assert stub.client.next_event(0).body == 7
    assert stub.client.next_event(0) is None


def stub_a_late_answer_finds_who_asked(stub):
    stub.welcome()
    wait = stub.client.begin("WaitPoint", {"timeline": 40, "point": 5})
    stub.send("Devices", 3, [])
    assert stub.client.request("ListDevices") == ([], [])
    assert stub.client.finish(wait, 0) is None
    stub.send("DeviceGone", 0, 7)
    stub.send("PointState", wait, "Forgotten")
    assert stub.client.finish(wait) == ("Forgotten", [])
    assert stub.client.next_event(0).body == 7
    stub.send("PointState", wait, "Forgotten")
    breaks_protocol(stub.client.next_event, 0)


def stub_an_error_is_raised(stub):
    body = {"code": 103, "errno": 0, "object": 0, "message": "no"}
    stub.send("Error", 1, body)
    try:
        stub.client.hello("test")
    except dmashare.Refused as error:
        assert error.body == body
        return
    raise AssertionError("no error")


def stub_last_words_after_a_reset(stub):
    stub.client.send_bytes(dmashare.encode("ListDevices", 1, None))
    stub.send("Error", 0, {"code": 105, "errno": 0, "object": 0, "message": "too large"})
    stub.peer.sock.close()
    assert stub.client.receive().body["code"] == 105
    assert stub.client.receive() is None


def stub_no_descriptor_leaks(stub):
    stub.welcome()
    before = len(os.listdir("/proc/self/fd"))
    unasked = {"fence": 1, "at": AT, "guard": "Vgem", "state": "Pending"}
    stub.send("FenceImported", 99, unasked, [stub.memfd])
    breaks_protocol(stub.client.request, "ListDevices")
    stub.peer.send_bytes(b"short", [stub.memfd, stub.memfd])
    breaks_protocol(stub.client.receive)
    assert len(os.listdir("/proc/self/fd")) == before


def stub_the_state_page_tells_a_loss(stub):
    stub.welcome()
    page = stub.client.page
    assert page.slot(1) == {"slot": 1, "device": 3, "generation": 2, "state": "Present"}
    assert page.usable(AT)
    for word, usable in ((2 << 2 | 1, True), (2 << 2 | 2, False), (2 << 2 | 3, False), (3 << 2, False)):
        struct.pack_into("=I", stub.page, 128, word)
        assert page.usable(AT) is usable, word


def stub_a_futex_waits_for_it(stub):
    stub.welcome()
    page = stub.client.page
    assert page.wait_for_loss(AT, 0.01) is False
    waits = threading.Thread(target=lambda: results.append(page.wait_for_loss(AT, 100)))
    results = []
    waits.start()
    libc = dmashare.ctypes.CDLL(None)
    number = page.SYS_FUTEX[os.uname().machine]
    struct.pack_into("=I", stub.page, 128, 2 << 2 | 2)
    address = dmashare._address_of(stub.page) + 128
    deadline = time.monotonic() + 50
    while waits.is_alive() and time.monotonic() < deadline:
        # Until it has gone to sleep or has seen the word; FUTEX_WAKE, everyone.
        libc.syscall(number, dmashare.ctypes.c_void_p(address), 1, 1 << 30, None, None, 0)
    waits.join(0)
    assert results == [True]


def main():
    checks = [
        (f"example {name}", lambda data=data, said=said: check_example(data, said))
        for name, data, said in examples()
    ]
    for check in (
        every_message_has_an_example,
        tables_have_the_same_numbers,
        limits_are_the_tables,
        numbers_at_their_bounds,
    ):
        checks.append((check.__name__.replace("_", " "), check))
    for name, check in list(globals().items()):
        if name.startswith("stub_"):
            checks.append((name.replace("_", " "), lambda check=check: with_stub(check)))
    failed = 0
    for name, check in checks:
        try:
            check()
            print(f"ok {name}")
        except Exception as error:  # one check is not to hide the others
            failed += 1
            print(f"FAILED {name}: {error!r}")
            traceback.print_exc()
    return 1 if failed else 0


def with_stub(check):
    stub = Stub()
    try:
        check(stub)
    finally:
        stub.close()


if __name__ == "__main__":
    sys.exit(main())
