"""Names of users, groups and services are looked up in the background: their database may be elsewhere, and slow."""
from __future__ import annotations

import grp
import pwd
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kit.control import GROUP, NOBODY, RunningServer, StillDaemon, clients_of, open_to_all, running
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.program.program import Program

WORKER = "worker"
MEMBER = pwd.getpwnam(GROUP.gr_name).pw_uid       # the group is that user's primary one
RULES = "-A OUTPUT -p udp --dport 53 -m owner --uid-owner 0 --gid-owner 0 -j ACCEPT\n"
PARSED = ["-C", "OUTPUT", "-p", "udp", "--dport", "domain", "-m", "owner", "--uid-owner", "root", "--gid-owner", "root", "-j", "ACCEPT"]


class Daemon(StillDaemon):
    """With a thread for the background."""

    def __init__(self, worker: ThreadPoolExecutor) -> None:
        super().__init__()
        self.worker = worker

    def in_background(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        return self.worker.submit(work, *arguments)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with ThreadPoolExecutor(1, WORKER) as worker, running(tmp_path / "c", Daemon(worker)) as server:
        engine = server.services.engine
        engine.load(Program(parse_save(RULES), engine.environment))
        yield server


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(what is asked, the thread that asks)"""
    asked = []

    def watch(module: Any, name: str) -> None:
        function = getattr(module, name)

        def watched(*arguments: Any) -> Any:
            asked.append((name, threading.current_thread().name.partition("_")[0]))
            return function(*arguments)
        monkeypatch.setattr(module, name, watched)

    for module, names in ((pwd, ("getpwuid", "getpwnam")), (grp, ("getgrgid", "getgrnam")),
                          (socket, ("getservbyport", "getservbyname"))):
        for name in names:
            watch(module, name)
    return asked


@pytest.mark.parametrize(("request_", "expected"), [
    ({"command": "iptables", "words": ["-L", "OUTPUT"], "family": 4}, {"getpwuid", "getgrgid", "getservbyport"}),
    ({"command": "iptables", "words": PARSED, "family": 4}, {"getpwnam", "getgrnam", "getservbyname"}),
    ({"command": "explain", "words": ["udp", "10.0.0.1:5000", "192.0.2.1:domain"]}, {"getservbyname"}),
    ({"command": "list-rules", "chain": "OUTPUT"}, set()),
])
def test_names_are_looked_up_by_the_worker(server: RunningServer, lookups: list[tuple[str, str]], request_: dict[str, Any],
                                           expected: set[str]) -> None:
    with server.connect() as client:
        assert client.ask(**request_)[-1].get("done")
    assert set(lookups) == {(name, WORKER) for name in expected}


def test_a_service_without_a_number_is_an_error(server: RunningServer) -> None:
    with server.connect() as client:
        error = client.ask(command="explain", words=["udp", "10.0.0.1:5000", "192.0.2.1:no-such"])[-1]
    assert error == {"error": "'no-such' is neither a port from 0 to 65535 nor a service's name", "status": 2}


@pytest.mark.root
def test_a_user_of_very_many_groups_is_looked_up_by_the_worker_while_others_are_served(
        tmp_path: Path, lookups: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()
    getpwuid = pwd.getpwuid

    def slow(uid: int) -> pwd.struct_passwd:
        assert answers.wait(10)
        return getpwuid(uid)

    monkeypatch.setattr(pwd, "getpwuid", slow)
    with ThreadPoolExecutor(1, WORKER) as worker, running(tmp_path / "c", Daemon(worker), group=GROUP.gr_name) as server:
        open_to_all(server.path)
        many, = clients_of(MEMBER, NOBODY, server.path, 1, range(5000, 5400))
        other, = clients_of(NOBODY, GROUP.gr_gid, server.path, 1)
        with many, other:
            assert other.ask(command="count")[-1]["done"]
            assert server.server.counters()["others"] == 2
            answers.set()
            assert many.ask(command="count")[-1]["done"]
    assert [thread for name, thread in lookups if name == "getpwuid"] == [WORKER]
