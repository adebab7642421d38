"""What the loop cannot send it keeps: no verdict is lost, none is written where there is no room, and no stranger is heard.

A send fails for as long as the queue's socket is connected to a port that nobody has: ECONNREFUSED, from the real kernel.
"""
from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pyfw.edge.queue.loop import IN_HAND_BYTES, QueueLoop
from pyfw.edge.queue.socket import port_of
from pyfw.engine.engine import Engine
from pyfw.lab import SERVER, Lab, wait_until

QUEUE = 30
NOBODY = 0x7FFFFFF0
VERDICT = struct.Struct("!BBH")


@contextmanager
def failing_sends(loop: QueueLoop) -> Iterator[None]:
    """As long as this lasts, what was received can be read, and nothing can be sent."""
    with socket.socket(fileno=os.dup(loop.fileno())) as netlink:
        netlink.connect((NOBODY, 0))
        yield
        netlink.connect((0, 0))


@contextmanager
def datagrams(lab: Lab, count: int, queued: Callable) -> Iterator[socket.socket]:
    """That many wait in the queue; the server's socket, where those arrive that are let through."""
    with lab.inside("server"):
        taker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with lab.inside("client"):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with taker, sender:
        taker.bind((SERVER.ipv4, 5004))
        taker.settimeout(5)
        for number in range(count):
            sender.sendto(b"%d" % number, taker.getsockname())
        wait_until(lambda: queued().queued == count, f"{count} packets in the queue")
        yield taker


def run_until(loop: QueueLoop, condition: Callable[[], bool], what: str) -> None:
    thread = threading.Thread(target=loop.run)
    thread.start()
    wait_until(condition, what)
    loop.stop()
    thread.join(5)
    assert not thread.is_alive()
    loop.resume()


def test_verdicts_that_cannot_be_sent_are_kept_and_no_more_are_made(lab: Lab, serve: Callable, queued: Callable):
    """However often the loop is stopped and begins again meanwhile: the record has room for one batch."""
    loop = serve(judging=False)
    with datagrams(lab, 256, queued) as taker:
        with failing_sends(loop):
            for _ in range(5):
                before = loop.counters()["send_errors"]
                run_until(loop, lambda before=before: loop.counters()["send_errors"] > before + 2, "sends that fail")
            assert loop.counters()["packets"] == 64
            assert queued().queued == 256
        run_until(loop, lambda: queued().queued == 0, "an empty queue")
        assert [taker.recv(10) for _ in range(256)] == [b"%d" % number for number in range(256)]
    counters = loop.counters()
    assert (counters["packets"], counters["internal"], counters["verdict_gone"]) == (256, 0, 0)


def test_orphans_whose_verdicts_cannot_be_sent_are_dropped_later(lab: Lab, serve: Callable, queued: Callable, judge_all: Callable):
    """Of 300 packets a predecessor had received 200; who takes over is stopped again while nothing can be sent."""
    memory = bytearray(IN_HAND_BYTES)
    former = serve(judging=False, memory=memory)
    with datagrams(lab, 300, queued) as taker:
        for _ in range(200):
            os.read(former.fileno(), 65536)
        with lab.inside("gateway"), socket.socket(fileno=os.dup(former.fileno())) as kept:
            former.hand_on()
            loop = QueueLoop(Engine(max_entries=16), number=QUEUE, mark=0x40000000, memory=memory, descriptor=kept.fileno())
        with failing_sends(loop):
            for _ in range(3):
                before = loop.counters()["send_errors"]
                run_until(loop, lambda before=before: loop.counters()["send_errors"] > before + 2, "sends that fail")
        run_until(loop, lambda: queued().queued == 0, "an empty queue")
        counters = loop.counters()
        assert counters["orphans_dropped"] + counters["packets"] == 300
        assert counters["internal"] == 0
        assert counters["orphans_dropped"] == 200 + 64, "the batch that was received when sending failed is one of orphans, too"
        assert [taker.recv(10) for _ in range(36)] == [b"%d" % number for number in range(264, 300)]
        loop.close()


def test_what_a_successor_left_in_hand_is_settled_by_who_takes_the_queue_back(lab: Lab, serve: Callable, queued: Callable):
    """The successor has judged two packets, received two more, and died."""
    memory = bytearray(IN_HAND_BYTES)
    loop = serve(judging=False, memory=memory)
    with datagrams(lab, 5, queued) as taker:
        with failing_sends(loop), lab.inside("gateway"):
            for _ in range(4):
                os.read(loop.fileno(), 65536)
        written = verdict(1, 1) + verdict(0, 2)
        memory[8:16] = struct.pack("=II", 2, len(written))
        memory[16:16 + len(written)] = written
        with lab.inside("gateway"):
            loop.take_back()
        run_until(loop, lambda: queued().queued == 0, "an empty queue")
        assert [taker.recv(10) for _ in range(2)] == [b"0", b"4"]
    counters = loop.counters()
    assert (counters["verdicts_resent"], counters["orphans_dropped"], counters["packets"]) == (2, 2, 1)
    assert counters["verdict_gone"] == 0


def verdict(decision: int, packet_id: int, queue: int = QUEUE, kind: int = 3 << 8 | 1) -> bytes:
    """NFQNL_MSG_VERDICT with NFQA_VERDICT_HDR."""
    body = VERDICT.pack(0, 0, queue) + struct.pack("=HH", 12, 2) + struct.pack("!II", decision, packet_id)
    return struct.pack("=IHHII", 16 + len(body), kind, 1, 0, 0) + body


STRANGER = """
import socket, sys
with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as netlink:
    netlink.sendto(bytes.fromhex(sys.argv[2]), (int(sys.argv[1]), 0))
"""


@pytest.mark.parametrize(("user", "error"), [(65534, errno.EPERM), (0, errno.ECONNREFUSED)])
def test_strangers_cannot_put_packets_into_the_queue_s_socket(lab: Lab, serve: Callable, user: int, error: int):
    """A user without rights is told so by netlink itself; another program of root's finds a socket that hears the kernel alone."""
    loop = serve(judging=False)
    message = struct.pack("=IHHII", 20, 3 << 8, 0, 0, 0) + VERDICT.pack(2, 0, QUEUE)
    done = lab.run("gateway", ["setpriv", f"--reuid={user}", "--clear-groups", "/usr/bin/python3", "-c", STRANGER, str(port_of(loop.fileno())),
                               message.hex()])
    assert f"[Errno {error}]" in done.stderr
    thread = threading.Thread(target=loop.run)
    thread.start()
    alive = loop.alive
    wait_until(lambda: loop.alive >= alive + 3, "the loop to wake up")
    loop.stop()
    thread.join(5)
    assert loop.counters()["malformed"] == loop.counters()["packets"] == 0
