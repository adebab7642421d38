"""A million connections: listed whole, or watched, while packets go on.

Times are compared with each other only: a round trip while the table is being listed against one while it is not.
"""
from __future__ import annotations

import json
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest

from firewall import BIN, Firewall
from pyfw.config.engine import engine_from_config
from pyfw.config.schema import load_config
from pyfw.edge.host.state_file import open_state_file
from pyfw.engine.engine import Engine
from pyfw.enums import Hook
from pyfw.lab import SERVER, Lab

pytestmark = pytest.mark.alone

MILLION = 1_000_000
ECHO_PORT = 7
PROBES = 400
ALLOWED_MS = 1.0                # that a listing may add to the median round trip

CONFIG = """
hooks: [FORWARD]
conntrack: {max_entries: 1048576, timeouts: {udp: 1h}}
rules: {filter: {FORWARD: {policy: ACCEPT, rules: []}}}
"""


def datagram(number: int) -> bytes:
    """UDP from one of a million ends, its checksum left out."""
    source = struct.pack("!I", 0x0A000000 + number // 50_000)
    return (struct.pack("!BBHHHBBH", 0x45, 0, 28, 0, 0, 64, 17, 0) + source + bytes((10, 9, 0, 1))
            + struct.pack("!HHHH", 1024 + number % 50_000, 53, 8, 0))


@pytest.fixture
def firewall(lab: Lab, tmp_path: Path):
    """A pyfw that takes over a million connections from a predecessor."""
    path = tmp_path / "pyfw.yaml"
    path.write_text(CONFIG)
    config = load_config(path)
    state = open_state_file(tmp_path / "state",
                            Engine.memory_size(config.conntrack.max_entries, config.conntrack.expect_max))
    engine = engine_from_config(config, memory=state.memory, boot_id=state.boot_id)
    now = time.monotonic_ns()
    for number in range(MILLION):
        engine.judge(datagram(number), Hook.FORWARD, now=now, trusted=True)
    del engine
    state.close()
    with Firewall(lab, path, tmp_path) as firewall:
        yield firewall


@pytest.fixture
def round_trip_ms(lab: Lab) -> Callable[[], float]:
    """Asks the server's echo through the gateway and says how long the answer took."""
    with lab.inside("server"):
        echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    echo.bind((SERVER.ipv4, ECHO_PORT))
    with lab.inside("client"):
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.connect((SERVER.ipv4, ECHO_PORT))
    client.settimeout(5)

    def answer() -> None:
        while True:
            data, sender = echo.recvfrom(64)
            echo.sendto(data, sender)

    threading.Thread(target=answer, daemon=True).start()

    def ask() -> float:
        start = time.perf_counter()
        client.send(b"probe")
        client.recv(64)
        return (time.perf_counter() - start) * 1000

    return ask


def report(idle: list[float], doing: str, busy: list[float]) -> None:
    for what, times in (("idle", idle), (doing, busy)):
        print(f"{what}: median {median(times):.3f} ms, p99 {times[len(times) * 99 // 100]:.3f} ms, worst {times[-1]:.3f} ms")


def test_a_listing_of_a_million_delays_no_packet(firewall: Firewall, round_trip_ms, tmp_path: Path) -> None:
    assert int(firewall.ctl("count").stdout) == MILLION
    idle = sorted(round_trip_ms() for _ in range(PROBES))
    with (tmp_path / "listing").open("wb") as out:
        lister = subprocess.Popen([BIN / "pyfwctl", "--socket", firewall.socket, "list-conntrack"], stdout=out)
        busy = []
        while lister.poll() is None:
            busy.append(round_trip_ms())
    busy.sort()
    report(idle, "while listing", busy)
    assert lister.returncode == 0
    assert (tmp_path / "listing").read_bytes().count(b"\n") == MILLION + 1     # and the probes' own connection
    assert median(busy) < median(idle) + ALLOWED_MS


def test_whoever_watches_a_million_delays_no_packet(firewall: Firewall, round_trip_ms) -> None:
    """Two of them; the probes' own connection is the busiest of all."""
    idle = sorted(round_trip_ms() for _ in range(PROBES))
    watching = [subprocess.Popen([BIN / "pyfwctl", "--socket", firewall.socket, "top", "-i", "3", "--json"], stdout=subprocess.PIPE)
                for _ in range(2)]
    busy = []
    while any(process.poll() is None for process in watching):
        busy.append(round_trip_ms())
    busy.sort()
    report(idle, "while watched", busy)
    for process in watching:
        sample = json.loads(process.communicate()[0])
        assert process.returncode == 0
        assert sample["matched"] == MILLION + 1
        assert sample["connections"][0]["original"]["dport"] == ECHO_PORT
        assert [connection["rate"]["packets"] for connection in sample["connections"][1:]] == [0] * 19
    assert median(busy) < median(idle) + ALLOWED_MS
