"""A helper sees payload after the rules accepted it, and before the packet goes on."""
from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest

from pyfw.enums import Verdict
from pyfw.helpers import Finding, HelperBinding, Segment
from pyfw.lab import SERVER, Lab

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
