"""What is said to the service manager, and what it says: as sd_notify(3) and sd_listen_fds(3) have it."""
from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from pyfw.edge.host.systemd import NativeJournal, ServiceManager


@pytest.fixture
def channel(tmp_path: Path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        channel.settimeout(5)
        yield channel


def heard(channel: socket.socket) -> tuple[list[str], int]:
    """Assignments, and how many descriptors came along."""
    data, descriptors, _, _ = socket.recv_fds(channel, 4096, 8)
    for descriptor in descriptors:
        os.close(descriptor)
    return data.decode().split("\n"), len(descriptors)


def test_without_a_manager_nothing_is_said():
    manager = ServiceManager({})
    manager.tell("READY=1")
    manager.store({"queue": 0})
    assert (bool(manager), manager.inherited, manager.watchdog_s, manager.is_restarting()) == (False, {}, None, False)


def test_assignments_are_lines_of_one_datagram(channel):
    manager = ServiceManager({"NOTIFY_SOCKET": channel.getsockname()})
    manager.tell("READY=1", "STATUS=fine")
    assert heard(channel) == (["READY=1", "STATUS=fine"], 0)


def test_a_value_is_one_line_whatever_it_quotes(channel):
    """Who could add a line could have descriptors stored, or the service called ready; and half of UTF-16 must not end the telling."""
    manager = ServiceManager({"NOTIFY_SOCKET": channel.getsockname()})
    manager.tell("STATUS=rules: \udcff\x1b]0;x\x07\nREADY=1")
    assert heard(channel) == ([r"STATUS=rules: \udcff\x1b]0;x\x07\x0aREADY=1"], 0)


def test_an_address_may_be_abstract():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(f"\0pyfw-test-{os.getpid()}")
        channel.settimeout(5)
        ServiceManager({"NOTIFY_SOCKET": f"@pyfw-test-{os.getpid()}"}).tell("READY=1")
        assert heard(channel) == (["READY=1"], 0)


def test_a_manager_that_has_gone_does_no_harm(tmp_path):
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).tell("READY=1")


def test_a_manager_that_does_not_read_holds_up_nobody(channel):
    manager = ServiceManager({"NOTIFY_SOCKET": channel.getsockname()})
    for _ in range(100):                    # more than the kernel keeps for it
        manager.tell("WATCHDOG=1", waits=False)
    assert heard(channel) == (["WATCHDOG=1"], 0)


def test_descriptors_are_stored_unpolled_and_replace_others_of_their_name(channel, monkeypatch):
    manager = ServiceManager({"NOTIFY_SOCKET": channel.getsockname()})
    former = os.dup(channel.fileno())
    manager.inherited = {"queue": former, "table": channel.fileno()}
    manager.store({"queue": channel.fileno(), "table": channel.fileno(), "batch": channel.fileno()})
    assert heard(channel) == (["FDSTOREREMOVE=1", "FDNAME=queue"], 0)
    assert heard(channel) == (["FDSTORE=1", "FDNAME=queue", "FDPOLL=0"], 1)
    assert heard(channel) == (["FDSTORE=1", "FDNAME=batch", "FDPOLL=0"], 1)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(former)


@pytest.mark.parametrize(("environment", "inherited"), [
    ({"LISTEN_PID": "{pid}", "LISTEN_FDS": "0", "LISTEN_FDNAMES": ""}, {}),
    ({"LISTEN_PID": "1", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "queue:table"}, {}),
    ({"LISTEN_PID": "{pid}", "LISTEN_FDS": "many", "LISTEN_FDNAMES": "queue"}, {}),
    ({"LISTEN_FDS": "1"}, {}),
])
def test_what_is_not_for_us_is_not_inherited(environment, inherited):
    environment = {name: value.format(pid=os.getpid()) for name, value in environment.items()}
    assert ServiceManager(environment).inherited == inherited
    assert environment == {}


@pytest.mark.parametrize(("pid", "seconds"), [("{pid}", 10.0), ("", 10.0), ("1", None)])
def test_the_watchdog_is_ours_or_another_processs(pid, seconds):
    environment = {"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": pid.format(pid=os.getpid())}
    assert ServiceManager(environment).watchdog_s == seconds


def test_a_line_in_the_journal_has_its_fields(channel):
    journal = NativeJournal(channel.getsockname())
    journal.write([("guarding", {}), ("two\nlines", {"level": "3", "rule": "filter:INPUT:rule:3", "in": "eth1", "out": ""})])
    assert channel.recv(4096) == b"MESSAGE=guarding\nPRIORITY=6\nSYSLOG_IDENTIFIER=pyfw\n"
    assert channel.recv(4096) == (b"MESSAGE\n\x09\0\0\0\0\0\0\0two\nlines\nPRIORITY=3\nSYSLOG_IDENTIFIER=pyfw\n"
                                  b"PYFW_RULE=filter:INPUT:rule:3\nPYFW_IN=eth1\n")
    channel.close()
    journal.write([("nobody listens", {})])


@pytest.mark.parametrize("stream", ["", "1:2", "nonsense"])
def test_standard_error_that_is_not_the_journals_stays_standard_error(stream):
    environment = {"JOURNAL_STREAM": stream} if stream else {}
    assert NativeJournal.if_ours(environment) is None
    assert environment == {}
