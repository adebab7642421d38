"""Traffic during which a daemon is restarted: UDP echoes, a TCP transfer, and TCP connections that were there before."""
from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.programs import CFLAGS, SOURCES
from pyfw.edge.queue_counters import PATH, parse_queue_counters
from pyfw.lab import SERVER, Lab

CONFIG = """
hooks: [FORWARD]
queue: {length: 65535}      # a slow machine may need long to start a daemon; what overflows is no subject here
conntrack: {tcp: {loose: false}}
rules:
  filter:
    FORWARD:
      policy: DROP
      rules:
        - -m conntrack --ctstate ESTABLISHED -j ACCEPT
        - -p udp --dport 7 -m conntrack --ctstate NEW -j ACCEPT
        - -p tcp --syn -m conntrack --ctstate NEW -j ACCEPT
"""
RATE = 10_000                   # UDP packets a second, each echoed
SECONDS = 4
EVENTS = 3                      # restarts in that time
TALKS = 50                      # TCP connections that were there before
BATCH = 64                      # packets in hand at most (nfqueue.pxd)


def build_echo_load(directory: Path) -> Path:
    program = directory / "echo_load"
    subprocess.run(["gcc", *CFLAGS, "-o", program, SOURCES / "echo_load.c"], check=True)
    return program


@contextmanager
def talks(lab: Lab) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    """TCP connections through the gateway, (client's end, server's end), that are sound when the block ends."""
    with ExitStack() as stack:
        with lab.inside("server"):
            listener = stack.enter_context(socket.create_server((SERVER.ipv4, 5001), backlog=TALKS))
        pairs = []
        for _ in range(TALKS):
            with lab.inside("client"):
                client = stack.enter_context(socket.create_connection((SERVER.ipv4, 5001), timeout=10))
            server = stack.enter_context(listener.accept()[0])
            server.settimeout(10)
            pairs.append((client, server))
        yield pairs
        for number, (client, server) in enumerate(pairs):
            said = b"connection %d" % number
            client.sendall(said)
            assert server.recv(64) == said
            server.sendall(said[::-1])
            assert client.recv(64) == said[::-1]


def queued(lab: Lab) -> int:
    """Packets in the kernel's queue."""
    with lab.inside("gateway"):
        return parse_queue_counters(Path(PATH).read_text())[0].queued


def under_load(lab: Lab, echo_load: Path, event: Callable[[], object]) -> dict:
    """Have `event` happen while UDP echoes and a TCP transfer go on; what echo_load says, with "tcp_bytes"."""
    with ExitStack() as stack:
        iperf = lab.start("server", ["iperf3", "-s", "-1", "-p", "5201"], stdout=subprocess.DEVNULL)
        stack.callback(iperf.kill)
        lab.wait_listening("server", 5201)
        transfer = lab.start("client", ["iperf3", "-c", SERVER.ipv4, "-t", str(SECONDS), "-b", "50M", "-J"],
                             stdout=subprocess.PIPE, text=True)
        load = subprocess.Popen([echo_load, lab.namespace("client"), lab.namespace("server"), SERVER.ipv4, str(RATE), str(SECONDS)],
                                stdout=subprocess.PIPE, text=True)
        stack.callback(load.kill)
        stack.enter_context(talks(lab))
        for _ in range(EVENTS):
            time.sleep(SECONDS / (EVENTS + 2))
            event()
        said = json.loads(load.communicate(timeout=60)[0].splitlines()[-1])
        received = json.loads(transfer.communicate(timeout=60)[0])["end"]["sum_received"]
        return said | {"tcp_bytes": received["bytes"]}
