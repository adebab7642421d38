"""A helper sees payload after the rules accepted it, and before the packet goes on."""
from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import closing, suppress

import pytest

from pyfw.engine.engine import Engine
from pyfw.enums import Verdict
from pyfw.helpers import Finding, HelperBinding, Segment
from pyfw.lab import SERVER, Lab, wait_until

PORT = 5005


class Censor:
    """Drops segments that hold a word."""

    name = "censor"
    protocol = socket.IPPROTO_TCP
    max_expected = 1
    timeout_s = 1

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    def inspect(self, segment: Segment, memory: memoryview) -> Finding | None:
        self.seen.append(segment.payload)
        return Finding(verdict=Verdict.DROP) if b"evil" in segment.payload else None


def echo(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection, suppress(ConnectionResetError):
        while data := connection.recv(100):
            connection.sendall(data)


def test_a_helper_decides_on_each_segment(lab: Lab, serve: Callable):
    censor = Censor()
    loop = serve(helpers=[HelperBinding(censor, (PORT,))])
    with lab.inside("server"):
        listener = socket.create_server((SERVER.ipv4, PORT))
    with listener:
        server = threading.Thread(target=echo, args=(listener,))
        server.start()
        with lab.inside("client"):
            client = socket.create_connection((SERVER.ipv4, PORT), timeout=5)
        with client:
            client.sendall(b"good")
            assert client.recv(100) == b"good"
            assert censor.seen == [b"good", b"good"]        # to the server, and back
            client.sendall(b"evil")
            client.settimeout(0.5)
            with pytest.raises(TimeoutError):
                client.recv(100)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")    # an RST, not retransmissions
        server.join(5)
    assert set(censor.seen[2:]) == {b"evil"}
    assert loop.counters()["helper_inspections"] == len(censor.seen)


def swallow(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection, suppress(OSError):
        while connection.recv(65536):
            pass


def flood(client: socket.socket, over: threading.Event) -> None:
    with suppress(OSError):
        while not over.is_set():
            client.send(b"x")


def test_two_hostile_ends_do_not_keep_the_helper_from_an_honest_one(lab: Lab, serve: Callable):
    """They send as fast as they can, in segments of one byte; who is slow is seen to the last word."""
    censor = Censor()
    engine = Engine(max_entries=4096, helpers=[HelperBinding(censor, (PORT, PORT + 1))])
    loop = serve(engine=engine)
    over = threading.Event()
    threads, clients = [], []
    with lab.inside("server"):
        listeners = [socket.create_server((SERVER.ipv4, port)) for port in (PORT, PORT + 1)]
        echoes = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        echoes.bind((SERVER.ipv4, PORT))
    with closing(listeners[0]), closing(listeners[1]), closing(echoes):
        with lab.inside("client"):
            for listener in (listeners[0], listeners[0], listeners[1]):
                threads.append(threading.Thread(target=swallow if listener is listeners[0] else echo, args=(listener,)))
                threads[-1].start()
                clients.append(socket.create_connection(listener.getsockname(), timeout=30))
                clients[-1].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            other.connect((SERVER.ipv4, PORT))
        with closing(other):
            threads += [threading.Thread(target=flood, args=(client, over)) for client in clients[:2]]
            for thread in threads[3:]:
                thread.start()
            try:
                wait_until(lambda: engine.helpers.budget.refused == 2, "both to be without a helper", timeout_s=60)
                for word in (b"one", b"two", b"three"):
                    clients[2].sendall(word)
                    assert clients[2].recv(100) == word
                    other.send(word)
                    assert echoes.recv(100) == word     # which no helper is to see
                inspected, packets = len(censor.seen), loop.counters()["packets"]
                wait_until(lambda: loop.counters()["packets"] > packets + 1000, "the flood to go on")
            finally:
                over.set()
                for client in clients:
                    client.close()
                for thread in threads:
                    thread.join(30)
    assert [payload for payload in censor.seen if payload.strip(b"x")] == [b"one", b"one", b"two", b"two", b"three", b"three"]
    assert engine.counters()["reasons"]["HELPER_BUSY"] == 2
    assert len(censor.seen) == inspected
