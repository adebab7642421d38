"""The loop between the kernel's queue and the engine: nothing is lost, nothing ends it, everything is counted."""
from __future__ import annotations

import hashlib
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pyfw.edge.queue.loop import IN_HAND_BYTES, QueueLoop
from pyfw.edge.queue.socket import QueueError
from pyfw.engine.engine import Engine
from pyfw.lab import GATEWAY_INSIDE, SERVER, Lab, Port, wait_until

QUEUE = 30
MARK = 0xC0FFEE


def ping(lab: Lab, address: str, *options: str) -> int:
    """How many of the pings were answered."""
    done = lab.run("client", ["ping", "-W1", *options, address])
    return int(done.stdout.split(" received")[0].split()[-1])


def udp_socket(lab: Lab, role: str, address: str = "", port: int = 0) -> socket.socket:
    with lab.inside(role):
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.settimeout(5)
    opened.bind((address, port))
    return opened


@contextmanager
def unanswered(lab: Lab, count: int) -> Iterator[None]:
    """Datagrams for a server that takes them and says nothing, as long as this lasts."""
    with udp_socket(lab, "server", SERVER.ipv4, 5004) as silent, udp_socket(lab, "client") as sender:
        for _ in range(count):
            sender.sendto(b"x", silent.getsockname())
        yield


def troubles(loop: QueueLoop) -> dict[str, int]:
    """The counters that are not zero, but for those that are not of troubles."""
    usual = ("packets", "batches", "wakeups")
    return {name: count for name, count in loop.counters().items() if count and name not in usual}


@pytest.mark.parametrize("target", [GATEWAY_INSIDE, SERVER], ids=["INPUT and OUTPUT", "FORWARD"])
@pytest.mark.parametrize("family", [4, 6])
def test_each_packet_is_judged_once(lab: Lab, serve: Callable, target: Port, family: int, queued: Callable):
    loop = serve(hooks=["INPUT", "FORWARD", "OUTPUT"])
    assert ping(lab, target.address(family), "-c50", "-i0.002") == 50
    last = queued().id_sequence             # the gateway may have announced its IPv6 groups besides
    assert loop.counters()["packets"] == loop.last_id == last >= 100
    assert loop.drained(last)
    assert not loop.drained(last + 1)
    assert troubles(loop) == {}


def test_offloaded_segments_come_whole(lab: Lab, serve: Callable):
    """A TCP stream arrives as it was sent, and in fewer packets than an MTU would make of it."""
    loop = serve()
    data = os.urandom(1 << 20) * 24
    with lab.inside("server"):
        listener = socket.create_server((SERVER.ipv4, 5001))
    received = hashlib.sha256()

    def receive() -> None:
        connection, _ = listener.accept()
        with connection:
            while piece := connection.recv(1 << 16):
                received.update(piece)

    with listener:
        receiver = threading.Thread(target=receive)
        receiver.start()
        with lab.inside("client"):
            sender = socket.create_connection((SERVER.ipv4, 5001), timeout=10)
        with sender:
            sender.sendall(data)
        receiver.join(20)
    assert received.digest() == hashlib.sha256(data).digest()
    assert troubles(loop) == {}
    assert 0 < loop.counters()["packets"] < len(data) / 1448


@pytest.mark.parametrize("size", [65507, 65504, 65503, 4000, 0])
def test_datagrams_up_to_the_largest(lab: Lab, serve: Callable, size: int):
    """The kernel copies 65,531 bytes of a packet at most; the largest datagram is 65,535 bytes with its headers."""
    serve()
    data = os.urandom(size)
    with udp_socket(lab, "server", SERVER.ipv4, 5002) as receiver, udp_socket(lab, "client") as sender:
        sender.sendto(data, receiver.getsockname())
        assert receiver.recv(1 << 16) == data


def test_a_burst_fills_batches(lab: Lab, serve: Callable, queued: Callable, judge_all: Callable):
    loop = serve(judging=False)
    with unanswered(lab, 500):
        wait_until(lambda: queued().queued == 500, "500 packets in the queue")
        judge_all(loop)
    assert loop.counters()["packets"] == 500
    assert loop.counters()["batches"] == 8         # 64 packets each
    assert troubles(loop) == {}


def test_packets_of_an_interface_that_went_away(lab: Lab, serve: Callable, queued: Callable):
    """The kernel drops what waits of it, and says so when the verdicts come; the loop goes on."""
    loop = serve(judging=False)
    with unanswered(lab, 3):
        wait_until(lambda: queued().queued == 3, "3 packets in the queue")
    set_state(lab, "down")
    wait_until(lambda: queued().queued == 0, "the kernel to drop them")
    set_state(lab, "up")
    thread = threading.Thread(target=loop.run)
    thread.start()
    wait_until(lambda: loop.counters()["verdict_gone"] == 3, "3 verdicts for packets that are gone")
    loop.stop()
    thread.join(5)
    assert troubles(loop) == {"verdict_gone": 3}


def set_state(lab: Lab, state: str) -> None:
    lab.run("gateway", ["ip", "link", "set", "eth0", state], check=True)
    lab.run("gateway", ["ip", "neigh", "replace", SERVER.ipv4, "lladdr", SERVER.mac, "dev", "eth0"], check=True)


@pytest.mark.parametrize(("fail_open", "arrived"), [(False, 0), (True, 7)])
def test_a_full_queue(lab: Lab, serve: Callable, fail_open: bool, arrived: int, queued: Callable):
    serve(judging=False, length=3, fail_open=fail_open)
    with udp_socket(lab, "server", SERVER.ipv4, 5003) as receiver, udp_socket(lab, "client") as sender:
        for _ in range(10):
            sender.sendto(b"x", receiver.getsockname())
        wait_until(lambda: queued().queued == 3, "3 packets in the queue")
        receiver.settimeout(0.2)
        assert count_datagrams(receiver) == arrived
    assert queued().queue_dropped == 7 - arrived


def count_datagrams(receiver: socket.socket) -> int:
    count = 0
    while True:
        try:
            receiver.recv(1 << 16)
        except TimeoutError:
            return count
        count += 1


def test_names_of_interfaces_reach_the_rules(lab: Lab, serve: Callable):
    loop = serve(":FORWARD DROP [0:0]\n-A FORWARD -i eth1 -o eth0 -j ACCEPT\n-A FORWARD -i eth0 -o eth1 -j ACCEPT")
    assert ping(lab, SERVER.ipv4, "-c1") == 1
    with lab.inside("gateway"):
        renamed = {index: f"was-{name}" for index, name in socket.if_nameindex()}
    loop.set_links(renamed)
    assert ping(lab, SERVER.ipv4, "-c1") == 0
    loop.set_links({})              # then the kernel is asked
    assert ping(lab, SERVER.ipv4, "-c1") == 1
    assert troubles(loop) == {}


def test_names_are_replaced_while_packets_fly(lab: Lab, serve: Callable):
    loop = serve()
    done = threading.Event()

    def replace() -> None:
        while not done.is_set():
            loop.set_links({index: "name" for index in range(1, 200)})

    replacing = threading.Thread(target=replace)
    replacing.start()
    try:
        assert ping(lab, SERVER.ipv4, "-c300", "-i0.001") == 300
    finally:
        done.set()
        replacing.join()
    assert troubles(loop) == {}


def test_it_stays_alive_when_nothing_comes_and_stops_when_told(lab: Lab, serve: Callable):
    loop = serve(judging=False)
    thread = threading.Thread(target=loop.run)
    thread.start()
    before = loop.alive
    wait_until(lambda: loop.alive >= before + 3, "the loop to wake up", timeout_s=2)
    told_s = time.monotonic()
    loop.stop()
    thread.join(5)
    assert not thread.is_alive()
    assert time.monotonic() - told_s < 0.5
    assert loop.counters()["packets"] == 0


def test_a_second_daemon_on_the_queue(lab: Lab, serve: Callable):
    serve()
    with lab.inside("gateway"), pytest.raises(QueueError) as caught:
        QueueLoop(Engine(max_entries=16), number=QUEUE, mark=MARK)
    assert str(caught.value).startswith(f"NFQUEUE {QUEUE} belongs to another program (netlink port ")
    assert str(caught.value).endswith("): stop it, or choose another queue.number")
    assert ping(lab, SERVER.ipv4, "-c1") == 1


def test_a_queue_that_was_given_back_can_be_had_again(lab: Lab, queued: Callable):
    for _ in range(3):
        with lab.inside("gateway"):
            loop = QueueLoop(Engine(max_entries=16), number=QUEUE, mark=MARK)
        loop.close()
        with pytest.raises(QueueError, match=f"^NFQUEUE {QUEUE} is closed$"):
            loop.run()
        assert queued() is None


def accept_message(packet_id: int) -> bytes:
    """NFQNL_MSG_VERDICT with NFQA_VERDICT_HDR."""
    body = struct.pack("!BBH", 0, 0, QUEUE) + struct.pack("=HH", 12, 2) + struct.pack("!II", 1, packet_id)
    return struct.pack("=IHHII", 16 + len(body), 3 << 8 | 1, 1, 0, 0) + body


@pytest.mark.parametrize("waiting", [5, 0])
def test_what_a_predecessor_had_in_hand_is_settled(lab: Lab, serve: Callable, queued: Callable, judge_all: Callable, waiting: int):
    """Of four packets that it had received it had written one verdict; `waiting` others it had not received."""
    memory = bytearray(IN_HAND_BYTES)
    former = serve(judging=False, memory=memory)
    with udp_socket(lab, "server", SERVER.ipv4, 5004) as taker, udp_socket(lab, "client") as sender:
        for number in range(4 + waiting):
            sender.sendto(b"%d" % number, taker.getsockname())
        wait_until(lambda: queued().queued == 4 + waiting, "the packets in the queue")
        for _ in range(4):
            os.read(former.fileno(), 65536)
        written = accept_message(2)
        memory[12:16] = len(written).to_bytes(4, "little")
        memory[16:16 + len(written)] = written
        with lab.inside("gateway"), socket.socket(fileno=os.dup(former.fileno())) as kept:
            former.hand_on()
            successor = QueueLoop(Engine(max_entries=16), number=QUEUE, mark=MARK, memory=memory, descriptor=kept.fileno())
        judge_all(successor)
        arrived = [taker.recv(10) for _ in range(1 + waiting)]
        assert arrived == [b"1", *(b"%d" % number for number in range(4, 4 + waiting))]
        taker.settimeout(0.2)
        with pytest.raises(TimeoutError):
            taker.recv(10)
        counters = successor.counters()
        assert (counters["verdicts_resent"], counters["orphans_dropped"], counters["packets"]) == (1, 4, waiting)
        assert queued().queued == 0
        successor.close()


@pytest.mark.parametrize("garbage", [bytes(IN_HAND_BYTES), b"\xFF" * IN_HAND_BYTES])
def test_what_is_no_record_of_a_batch_settles_nothing(lab: Lab, serve: Callable, garbage: bytes):
    former = serve(judging=False)
    with lab.inside("gateway"), socket.socket(fileno=os.dup(former.fileno())) as kept:
        former.hand_on()
        successor = QueueLoop(Engine(max_entries=16), number=QUEUE, mark=MARK, memory=bytearray(garbage),
                              descriptor=kept.fileno())
    thread = threading.Thread(target=successor.run)
    thread.start()
    assert ping(lab, SERVER.ipv4, "-c3", "-i0.01") == 3
    successor.stop()
    thread.join(5)
    assert troubles(successor) == {}
    successor.close()


def test_a_socket_that_owns_another_queue_is_refused(lab: Lab, serve: Callable):
    former = serve(judging=False)
    with lab.inside("gateway"), pytest.raises(QueueError, match="does not own NFQUEUE 31"):
        QueueLoop(Engine(max_entries=16), number=31, mark=MARK, descriptor=former.fileno())


OPEN = """
from pyfw.edge.queue.loop import QueueLoop
from pyfw.edge.queue.socket import QueueError
from pyfw.engine.engine import Engine
try:
    QueueLoop(Engine(max_entries=16), number=30, mark=1)
    print("opened")
except QueueError as error:
    print(error)
"""


@pytest.mark.parametrize(("missing", "said"), [
    ("-chown", "opened"),
    ("-net_raw", "raw sockets cannot be opened: run as root (CAP_NET_ADMIN and CAP_NET_RAW)"),
    ("-net_admin", "NFQUEUE cannot be opened: run as root (CAP_NET_ADMIN)"),
])
def test_without_the_right(lab: Lab, missing: str, said: str):
    done = lab.run("gateway", ["setpriv", f"--bounding-set={missing}", sys.executable, "-c", OPEN])
    assert (done.stdout, done.stderr) == (said + "\n", "")
