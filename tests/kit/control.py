"""A control server in a thread of its own, and a client that speaks bytes."""
from __future__ import annotations

import asyncio
import grp
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path

from pyfw.config.schema import ConfigError
from pyfw.conntrack.settings import TrackingSettings
from pyfw.daemon.connection_review import ConnectionReview
from pyfw.edge.control.server import ControlServer
from pyfw.edge.control.table import Reload
from pyfw.edge.queue_counters import QueueCounters
from pyfw.engine.engine import Engine
from pyfw.enums import Hook

LATER_NS = 1_000_000_000


def udp_packet(flow: int) -> bytes:
    """10.x.y.z:5000 -> 192.0.2.1:53, another source address for each flow; no payload, no UDP checksum."""
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, socket.IPPROTO_UDP, 0,
                         (0x0A000000 + flow).to_bytes(4), bytes([192, 0, 2, 1]))
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    return header[:10] + checksum.to_bytes(2) + header[12:] + struct.pack("!HHHH", 5000, 53, 8, 0)


def engine_with(flows: int) -> Engine:
    """An engine whose table has so many unreplied UDP connections, all made at time 0."""
    engine = Engine(max_entries=max(flows, 1), tracking=TrackingSettings(timeouts={"udp": 3600}))
    for flow in range(flows):
        engine.judge(udp_packet(flow), Hook.FORWARD, "eth1", "eth0", now=0)
    return engine


class StillDaemon:
    """What the commands need of a daemon, with a clock that stands still and a queue that is set by hand."""

    handing_over = False
    diversion_fault: str | None = None
    other_tables = "refuse"
    config_path = Path("/nowhere/pyfw.yaml")

    def __init__(self, flows: int = 3) -> None:
        self.engine = engine_with(flows)
        self.degraded: dict[str, str] = {}
        self.queued = 0
        self.judged = 0
        self.waiting = 0
        self.bad_config: str | None = None
        self.kill_states = False

    def now_ns(self) -> int:
        return LATER_NS

    def keep_saved_rules(self) -> None:
        pass

    def in_background(self, work, *arguments):
        future = Future()
        try:
            future.set_result(work(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def confirm(self) -> bool:
        return False

    def connection_review(self) -> ConnectionReview:
        return ConnectionReview(self.engine, self.now_ns())

    def reload(self, confirm_s: int = 0) -> Reload:
        if self.bad_config:
            raise ConfigError("gw.yaml:3:1", self.bad_config)
        return Reload(12, ["queue.number"], self.kill_states, confirm_s)

    def statistics(self) -> dict:
        return {"packets": 7, "states": {"NEW": 3}, "reasons": {}}

    def queue_counters(self) -> QueueCounters:
        return QueueCounters(0, 1, self.waiting, 2, 65531, 0, 0, self.queued)

    def has_judged(self, packet_id: int) -> bool:
        return self.judged >= packet_id


class Client:
    """One connection; sends bytes, reads lines."""

    def __init__(self, path: Path, connection: socket.socket | None = None) -> None:
        self.socket = connection or socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        if connection is None:
            self.socket.connect(str(path))
        self.lines = self.socket.makefile("rb")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        self.lines.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> dict:
        """The next line; fails when there is none."""
        return json.loads(self.lines.readline())

    def ask(self, **request) -> list[dict]:
        """All answers to a request; also of a server that has closed before it could be sent."""
        with suppress(BrokenPipeError):
            self.send(json.dumps(request).encode() + b"\n")
        answers = [self.answer()]
        while not answers[-1].keys() & {"done", "error"}:
            answers.append(self.answer())
        return answers

    def is_closed_by_server(self) -> bool:
        try:
            return self.lines.readline() == b""
        except ConnectionResetError:
            return True


class RunningServer:
    def __init__(self, server: ControlServer, services: StillDaemon, path: Path) -> None:
        self.server = server
        self.services = services
        self.path = path

    def connect(self) -> Client:
        return Client(self.path)

    def refusals(self, reason: str) -> int:
        return self.server.counters()["refusals"].get(reason, 0)


@contextmanager
def running(path: Path, services: StillDaemon, **options):
    """A server on `path` whose loop runs in another thread."""
    server = ControlServer(path, options.pop("group", None), services, **options)
    server.bind()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(server.start(), loop).result()
    try:
        yield RunningServer(server, services, path)
    finally:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def wait_until(condition, timeout_s: float = 5.0) -> None:
    """Return when the condition holds; fail when it does not come to."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def clients_of(uid: int, gid: int, path: Path, count: int, groups: Iterable[int] = ()) -> list[Client]:
    """So many connections, at most 200, that a process of this user has opened and given to us."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        def connect() -> str:
            connections = [socket.socket(socket.AF_UNIX) for _ in range(count)]
            for connection in connections:
                connection.connect(str(path))
            socket.send_fds(theirs, [b"here"], [connection.fileno() for connection in connections])
            return "done"
        assert as_user(uid, gid, list(groups), connect) == "done"
        _, descriptors, _, _ = socket.recv_fds(ours, 16, count)
        return [Client(path, socket.socket(fileno=descriptor)) for descriptor in descriptors]


def as_user(uid: int, gid: int, groups: list[int], act) -> str:
    """What `act` returns, or the name of what it raises, in a child process of that user."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups(groups)
            os.setgid(gid)
            os.setuid(uid)
            outcome = act()
        except BaseException as error:
            outcome = type(error).__name__
        os.write(writer, outcome.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        outcome = pipe.read()
    os.waitpid(child, 0)
    return outcome


NOBODY = 65534


def open_to_all(path: Path) -> None:
    """Let anybody reach the server, so that it is the server that refuses."""
    path.chmod(0o666)
    let_all_enter(path.parent)


def let_all_enter(directory: Path) -> None:
    """This directory and those above it, however many pytest makes."""
    for above in [directory, *directory.parents]:
        if above.stat().st_uid == 0 and above != above.parent:
            above.chmod(above.stat().st_mode | 0o011)


GROUP = grp.getgrnam("games")
