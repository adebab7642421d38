"""Metrics over HTTP: what a request gets, and that no client does harm to another."""
from __future__ import annotations

import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from kit.control import as_user, let_all_enter, wait_until
from pyfw.edge.control.loopback_address import LoopbackAddress
from pyfw.edge.control.metrics_server import REQUEST_BYTES, ROOM, MetricsServer
from pyfw.edge.control.unix_socket import SocketInUse

GET = b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n"
NOBODY, GROUP_ID = 65534, 4242
EVENT_LOOP = 4                  # descriptors: the listener's, epoll's, a socket pair


class Exposed:
    """Answers with `body`, and remembers what it was asked, and by whom."""

    def __init__(self) -> None:
        self.body = b"pyfw_up 1\n"
        self.accepts: list[str] = []
        self.threads: set[int] = set()
        self.error: Exception | None = None

    def __call__(self, accept: str) -> tuple[bytes, str]:
        self.accepts.append(accept)
        self.threads.add(threading.get_ident())
        if self.error is not None:
            raise self.error
        return self.body, "text/plain; version=0.0.4"


class Running:
    def __init__(self, server: MetricsServer, address: LoopbackAddress | Path, exposed: Exposed) -> None:
        self.server = server
        self.address = address
        self.exposed = exposed

    def connect(self) -> socket.socket:
        if isinstance(self.address, Path):
            client = socket.socket(socket.AF_UNIX)
            client.settimeout(10)
            client.connect(str(self.address))
            return client
        return socket.create_connection(self.address, timeout=10)

    def ask(self, request: bytes = GET) -> tuple[int, bytes]:
        """(status, body)"""
        with self.connect() as client:
            client.sendall(request)
            return answer(client)

    def refused(self, reason: str) -> int:
        return self.server.counters()["refusals"][reason]


def answer(client: socket.socket) -> tuple[int, bytes]:
    """What the server sends until it closes."""
    whole = b""
    with suppress(ConnectionResetError):        # where it did not read all that it was sent
        while piece := client.recv(1 << 16):
            whole += piece
    head, _, body = whole.partition(b"\r\n\r\n")
    first, *headers = head.decode("ascii").split("\r\n")
    assert "Connection: close" in headers
    return int(first.split(" ")[1]), body


def free_port(family: socket.AddressFamily) -> int:
    with socket.socket(family) as probe:
        probe.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running(address: LoopbackAddress | Path, group_id: int | None = None, **options) -> Iterator[Running]:
    exposed = Exposed()
    server = MetricsServer(address, group_id, exposed, **options)
    server.bind()
    server.start()
    try:
        yield Running(server, address, exposed)
    finally:
        server.stop()


@pytest.fixture(params=["unix", "IPv4", "IPv6"])
def anywhere(request, tmp_path) -> LoopbackAddress | Path:
    return {"unix": lambda: tmp_path / "metrics.sock",
            "IPv4": lambda: LoopbackAddress("127.0.0.1", free_port(socket.AF_INET)),
            "IPv6": lambda: LoopbackAddress("::1", free_port(socket.AF_INET6))}[request.param]()


@pytest.fixture
def metrics(tmp_path) -> Iterator[Running]:
    with running(tmp_path / "metrics.sock") as server:
        yield server


# -- requests ------------------------------------------------------------------------------------------------


@pytest.mark.root
def test_the_metrics_are_served_until_it_stops(anywhere):
    with running(anywhere) as server:
        assert server.ask() == (200, b"pyfw_up 1\n")
        assert server.ask() == (200, b"pyfw_up 1\n")
        assert server.server.counters()["answers"] == 2
    with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
        server.connect()
    assert not isinstance(anywhere, Path) or not anywhere.exists()


@pytest.mark.parametrize(("request_bytes", "status", "body"), [
    (b"GET /metrics?name[]=x HTTP/1.0\r\n\r\n", 200, b"pyfw_up 1\n"),
    (b"HEAD /metrics HTTP/1.1\r\n\r\n", 200, b""),
    (b"GET / HTTP/1.1\r\n\r\n", 404, b"the metrics are at /metrics\n"),
    (b"GET /metrics/../etc HTTP/1.1\r\n\r\n", 404, b"the metrics are at /metrics\n"),
    (b"POST /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\n", 405, b"only GET and HEAD\n"),
    (b"GET /metrics\r\n\r\n", 400, b"this is no request of HTTP/1.1\n"),
    (b"PRI * HTTP/2.0\r\n\r\n", 400, b"this is no request of HTTP/1.1\n"),
    (b"\r\n\r\n", 400, b"this is no request of HTTP/1.1\n"),
    (bytes(range(256)) + b"\r\n\r\n", 400, b"this is no request of HTTP/1.1\n"),
    (b"GET /metrics HTTP/1.1\r\n" + b":\r\n" * 500 + b"\r\n", 200, b"pyfw_up 1\n"),
    (b"GET /" + b"x" * REQUEST_BYTES + b" HTTP/1.1\r\n\r\n", 431, b"a request may have 8192 bytes\n"),
])
def test_what_a_request_gets(metrics, request_bytes, status, body):
    assert metrics.ask(request_bytes) == (status, body)
    assert metrics.ask() == (200, b"pyfw_up 1\n")
    counters = metrics.server.counters()
    assert counters["answers"] + sum(counters["refusals"].values()) == 2
    assert (counters["answers"] == 2) == (status == 200)


@pytest.mark.parametrize(("headers", "accept"), [
    (b"", ""), (b"Accept: a/b;q=1\r\n", "a/b;q=1"), (b"aCCEPT:a/b\r\nAccept: c/d\r\n", "a/b,c/d"),
    (b"Accept-Encoding: gzip\r\nX: Accept: y\r\n", ""), (b"Accept: \xff\r\n", "\xff"),
])
def test_what_the_client_accepts_is_handed_on(metrics, headers, accept):
    assert metrics.ask(b"GET /metrics HTTP/1.1\r\n" + headers + b"\r\n")[0] == 200
    assert metrics.exposed.accepts == [accept]


def test_one_thread_answers_and_it_is_prepared_first(tmp_path):
    prepared: list[int] = []
    with running(tmp_path / "metrics.sock", prepare_thread=lambda: prepared.append(threading.get_ident())) as server:
        for _ in range(3):
            server.ask()
        assert {*prepared} == server.exposed.threads != {threading.get_ident()}
        assert len(prepared) == 1


def test_a_defect_ends_nothing(metrics, capsys):
    metrics.exposed.error = ZeroDivisionError("a defect")
    assert metrics.ask() == (500, b"internal error: ZeroDivisionError('a defect')\n")
    assert "ZeroDivisionError: a defect" in capsys.readouterr().err
    metrics.exposed.error = None
    assert metrics.ask()[0] == 200
    assert metrics.refused("internal_error") == 1


# -- hostile clients -----------------------------------------------------------------------------------------


def test_a_client_that_says_nothing_is_let_go(tmp_path):
    with running(tmp_path / "m", request_s=0.1) as server, server.connect() as silent:
        assert answer(silent) == (408, b"no whole request within 0.1 s\n")
        assert server.refused("idle") == 1


def test_a_client_that_dribbles_is_let_go(tmp_path):
    with running(tmp_path / "m", request_s=0.2) as server, server.connect() as slow:
        with suppress(BrokenPipeError):
            for _ in range(1000):
                slow.sendall(b"G")
                time.sleep(0.005)
                if server.refused("idle"):
                    break
        assert server.refused("idle") == 1


def test_a_client_that_does_not_read_is_let_go_and_holds_up_nobody(anywhere):
    with running(anywhere, read_s=0.3) as server:
        server.exposed.body = b"x" * (32 << 20)
        with server.connect() as deaf:
            deaf.sendall(GET)
            wait_until(lambda: server.server.counters()["answers"] == 1)
            server.exposed.body = b"short"
            assert server.refused("slow_reader") == 0
            assert server.ask() == (200, b"short")
            wait_until(lambda: server.refused("slow_reader") == 1)
            wait_until(lambda: server.server.counters()["connections"] == 0)


@pytest.mark.parametrize("last_words", [b"", b"GET /metr", GET])
def test_clients_that_leave_are_forgotten(metrics, last_words):
    for _ in range(ROOM.root * 3):
        with metrics.connect() as client:
            client.sendall(last_words)
    wait_until(lambda: metrics.server.counters()["connections"] == 0)
    assert metrics.ask()[0] == 200


def test_the_oldest_of_too_many_makes_room(metrics):
    clients = [metrics.connect() for _ in range(ROOM.root)]
    wait_until(lambda: metrics.server.counters()["connections"] == ROOM.root)
    assert metrics.refused("too_many") == 0
    assert metrics.ask()[0] == 200
    assert metrics.refused("too_many") == 1
    assert clients[0].recv(1) == b""
    clients[1].sendall(GET)
    assert answer(clients[1])[0] == 200
    for client in clients:
        client.close()


def test_a_thousand_connections_that_stay_do_no_harm(anywhere):
    before = len(os.listdir("/proc/self/fd"))
    with running(anywhere) as server:
        clients = []
        for number in range(1000):
            client = server.connect()       # waits where the backlog is full: the server must go on accepting
            with suppress(ConnectionError):             # those before it may have thrown it out already
                client.sendall((b"", b"GET /", b"\0\xff" * 100, GET[:-2])[number % 4])
            clients.append(client)
            if number % 200 == 0:
                assert server.ask()[0] == 200
                ours = len(os.listdir("/proc/self/fd")) - before - len(clients)
                assert ours <= ROOM.root + 2 + EVENT_LOOP
        wait_until(lambda: server.refused("too_many") >= 1000 - ROOM.root)
        assert server.server.counters()["connections"] <= ROOM.root
        assert server.ask()[0] == 200
        for client in clients:
            client.close()


def crowd(uid: int, server: Running, count: int, last_words: bytes) -> list[socket.socket]:
    """So many connections of this user's, which have said this."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        def connect() -> str:
            connections = []
            for _ in range(count):
                connections.append(server.connect())
                with suppress(OSError):
                    connections[-1].sendall(last_words)
            socket.send_fds(theirs, [b"here"], [connection.fileno() for connection in connections])
            return "done"
        assert as_user(uid, GROUP_ID, [GROUP_ID], connect) == "done"
        return [socket.socket(fileno=descriptor) for descriptor in socket.recv_fds(ours, 16, count)[1]]


@pytest.mark.root
@pytest.mark.parametrize("last_words", [b"", b"GET /metr", GET])
def test_a_users_connections_make_room_for_its_own_alone(anywhere, last_words):
    if isinstance(anywhere, Path):
        let_all_enter(anywhere.parent)
    with running(anywhere, GROUP_ID) as server:
        server.exposed.body = b"x" * (16 << 20)         # which no buffer takes whole
        honest = crowd(4001, server, 1, b"GET /metr")
        wait_until(lambda: server.server.counters()["connections"] == 1)
        clients = crowd(NOBODY, server, 150, last_words)
        wait_until(lambda: server.refused("too_many") >= 5)
        assert server.server.counters()["connections"] <= 1 + ROOM.user
        server.exposed.body = b"short"
        honest[0].settimeout(10)
        honest[0].sendall(GET.removeprefix(b"GET /metr"))
        assert answer(honest[0]) == (200, b"short")
        for client in clients + honest:
            client.close()


# -- the address ---------------------------------------------------------------------------------------------


def by(uid: int, gid: int, server: Running) -> str:
    return as_user(uid, gid, [gid], lambda: str(server.ask()[0]))


@pytest.mark.root
def test_a_unix_socket_is_roots_and_the_groups(tmp_path):
    let_all_enter(tmp_path)
    with running(tmp_path / "m", GROUP_ID) as server:
        status = server.address.stat()
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o660, 0, GROUP_ID)
        assert by(NOBODY, GROUP_ID, server) == "200"
        assert by(NOBODY, NOBODY, server) == "PermissionError"


def test_without_a_group_it_is_roots_alone(tmp_path):
    with running(tmp_path / "m") as server:
        assert stat.S_IMODE(server.address.stat().st_mode) == 0o600


def test_a_dead_daemons_socket_is_replaced_and_a_living_ones_left_alone(tmp_path):
    path = tmp_path / "m"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with running(path) as server:
        with pytest.raises(OSError, match="a running daemon listens here") as caught:
            MetricsServer(path, None, Exposed()).bind()
        assert isinstance(caught.value.__cause__, SocketInUse)
        assert caught.value.filename == f"metrics.listen {path}"
        assert server.ask()[0] == 200


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_an_address_that_is_taken_is_named(family, host):
    with running(LoopbackAddress(host, free_port(family))) as server:
        with pytest.raises(OSError, match="Address already in use") as caught:
            MetricsServer(server.address, None, Exposed()).bind()
        assert caught.value.filename == f"metrics.listen {server.address}"


def test_an_address_is_free_again_at_once(anywhere):
    for _ in range(3):
        with running(anywhere) as server:
            assert server.ask()[0] == 200
