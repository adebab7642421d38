"""What a daemon's end costs: under load, no connection, and no packet but those in a dead daemon's hands."""
from __future__ import annotations

import json
import mmap
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from firewall import Firewall
from kit.keeper import KeptFirewall
from kit.restart_load import BATCH, CONFIG, EVENTS, TALKS, build_echo_load, queued, talks, under_load
from pyfw.edge.host.state_file import read_boot_id
from pyfw.engine.engine import Engine
from pyfw.helpers import bind
from pyfw.lab import SERVER, Lab, wait_until

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def echo_load(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_echo_load(tmp_path_factory.mktemp("bin"))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "pyfw.yaml"
    path.write_text(CONFIG)
    return path


def be_a_successor(handed: dict[str, int]) -> None:
    """Take the table into use, as `pyfw run --takeover` does, and fail then."""
    size = os.fstat(handed["table"]).st_size
    with mmap.mmap(handed["table"], size) as memory:
        helpers = [bind(name, (port,)) for name, port in (("ftp", 2121),)]
        engine = Engine(max_entries=64, memory=memory, boot_id=read_boot_id(), helpers=helpers)
        assert engine.adopted == TALKS
        del engine
    for descriptor in handed.values():
        os.close(descriptor)


def test_a_killed_daemon_loses_what_it_had_in_hand(lab: Lab, config: Path, tmp_path: Path, echo_load: Path) -> None:
    with KeptFirewall(lab, config, tmp_path) as firewall:
        def killed() -> None:
            firewall.kill()
            firewall.start()

        seen = under_load(lab, echo_load, killed)
        firewall.settle()
        counters = json.loads(firewall.ctl("stats", "--json").stdout)["queue"]
        assert seen["lost"] <= EVENTS * BATCH
        assert seen["tcp_bytes"] > 1_000_000
        assert "connections taken over" in firewall.log.read_text()
        assert queued(lab) == 0
        assert counters["orphans_dropped"] <= BATCH
        assert firewall.said.count("READY=1") == EVENTS + 1
        print(f"killed: {seen}")


def test_without_the_descriptors_a_kill_loses_the_queue(lab: Lab, config: Path, tmp_path: Path, echo_load: Path) -> None:
    """The control: what is kept is what makes the difference."""
    with KeptFirewall(lab, config, tmp_path) as firewall:
        def killed() -> None:
            firewall.kill()
            firewall.forget()
            firewall.start()

        assert under_load(lab, echo_load, killed)["lost"] > EVENTS * BATCH


def test_a_batch_that_was_in_hand_gets_its_verdicts(lab: Lab, config: Path, tmp_path: Path) -> None:
    """A daemon that is stopped in the middle of anything, killed then: none of its packets stays in the kernel's queue."""
    with KeptFirewall(lab, config, tmp_path) as firewall, lab.inside("client"):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sender.connect((SERVER.ipv4, 7))
        for _ in range(10):
            for _ in range(300):
                sender.send(b"x")
            firewall.kill()
            firewall.start()
            firewall.settle()
            assert queued(lab) == 0
        sender.close()


def test_a_table_whose_size_was_changed_is_the_one_that_is_kept(lab: Lab, config: Path, tmp_path: Path) -> None:
    with KeptFirewall(lab, config, tmp_path) as firewall:
        with talks(lab):
            for size in (1000, 2000, 2000):
                firewall.argv += ["--set", f"conntrack.max_entries={size}"]
                firewall.kill()
                firewall.start()
                assert os.fstat(firewall.kept["table"]).st_size == (tmp_path / "state" / "table").stat().st_size


def test_a_takeover_loses_nothing(lab: Lab, config: Path, tmp_path: Path, echo_load: Path) -> None:
    with Firewall(lab, config, tmp_path) as firewall:
        def taken_over() -> None:
            before = firewall.process
            firewall.argv = [*firewall.argv[:2], "--takeover", *[word for word in firewall.argv[2:] if word != "--takeover"]]
            with firewall.log.open("ab") as log:
                firewall.process = subprocess.Popen(firewall.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            assert before.wait(20) == 0

        seen = under_load(lab, echo_load, taken_over)
        firewall.settle()
        assert (seen["lost"], queued(lab)) == (0, 0)
        assert firewall.log.read_text().count("guarding") == EVENTS + 1
        print(f"takeover: {seen}")


LATE = "--set control.group=games"
FAILURES = {            # what a successor is told, or "kill"; its exit status
    "--set nonsense=1": 2, "--set conntrack.max_entries=0": 2, "kill": 0,
    LATE: 1,            # the shared socket's path, which is to be the group's, is gone: everything is in its hands by then
}


@pytest.mark.parametrize("how", FAILURES)
def test_a_successor_that_fails_leaves_the_predecessor_at_work(lab: Lab, config: Path, tmp_path: Path, how: str) -> None:
    # A table so small that connections share hash chains.
    with Firewall(lab, config, tmp_path, settings=["conntrack.max_entries=64"]) as firewall, talks(lab):
        if how == "kill":
            with socket.socket(socket.AF_UNIX) as successor:
                successor.connect(str(firewall.socket))
                successor.sendall(b'{"command": "hand-over"}\n')
                line, descriptors, _, _ = socket.recv_fds(successor, 65536, 16)
                assert set(json.loads(line)["descriptors"]) == {"queue", "table", "batch", "lock", "control", "control-root",
                                                                "diversion"}
                assert "a successor is taking over" in firewall.ctl("flush").stderr
                be_a_successor(dict(zip(json.loads(line)["descriptors"], descriptors, strict=True)))
        else:
            if how == LATE:
                firewall.socket.unlink()
            done = subprocess.run([*firewall.argv, "--takeover", *how.split()], capture_output=True, text=True, timeout=20)
            assert done.returncode == FAILURES[how], done.stderr
        firewall.wait_for("the predecessor to go on", lambda lines: len(lines) >= TALKS)
        assert firewall.process.poll() is None


def test_a_handover_that_is_taken_back_while_nothing_can_be_sent(lab: Lab, config: Path, tmp_path: Path) -> None:
    """Again and again: each time the daemon has a batch in hand, whose verdicts it cannot send, and 256 packets wait."""
    def errors() -> int:
        return json.loads(firewall.ctl("stats", "--json").stdout)["queue"]["send_errors"]

    with Firewall(lab, config, tmp_path) as firewall:
        with lab.inside("server"):
            taker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with lab.inside("client"):
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with taker, sender:
            taker.bind((SERVER.ipv4, 7))
            taker.settimeout(10)
            with successor_of(firewall) as netlink:
                for number in range(256):
                    sender.sendto(b"%d" % number, taker.getsockname())
                wait_until(lambda: queued(lab) == 256, "256 packets in the queue")
                netlink.connect((NOBODY, 0))
            for _ in range(4):
                before = errors()
                wait_until(lambda before=before: errors() > before, "sends that fail")
                with successor_of(firewall) as netlink:
                    kept = netlink.dup()
            with kept:
                kept.connect((0, 0))
            assert [taker.recv(10) for _ in range(256)] == [b"%d" % number for number in range(256)]
            wait_until(lambda: queued(lab) == 0, "an empty queue")
            counters = json.loads(firewall.ctl("stats", "--json").stdout)["queue"]
            assert (counters["internal"], counters["orphans_dropped"], counters["verdict_gone"]) == (0, 0, 0)


NOBODY = 0x7FFFFFF0


@contextmanager
def successor_of(firewall: Firewall) -> Iterator[socket.socket]:
    """The queue's socket in the hands of somebody who leaves without having taken over."""
    with socket.socket(socket.AF_UNIX) as successor:
        successor.connect(str(firewall.socket))
        successor.sendall(b'{"command": "hand-over"}\n')
        line, descriptors, _, _ = socket.recv_fds(successor, 65536, 16)
        handed = dict(zip(json.loads(line)["descriptors"], descriptors, strict=True))
        with socket.socket(fileno=handed.pop("queue")) as netlink:
            for descriptor in handed.values():
                os.close(descriptor)
            yield netlink
    wait_until(lambda: firewall.ctl("count").returncode == 0, "the predecessor to go on")


def test_there_must_be_somebody_to_take_over_from(lab: Lab, config: Path, tmp_path: Path) -> None:
    firewall = Firewall(lab, config, tmp_path)
    done = subprocess.run([*firewall.argv, "--takeover"], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (
        1, f"pyfw: no daemon at {firewall.socket} hands over: [Errno 2] No such file or directory\n")


def test_of_two_successors_one_is_refused(lab: Lab, config: Path, tmp_path: Path) -> None:
    with Firewall(lab, config, tmp_path) as firewall, socket.socket(socket.AF_UNIX) as first:
        first.connect(str(firewall.socket))
        first.sendall(b'{"command": "hand-over"}\n')
        assert first.recv(65536)
        done = subprocess.run([*firewall.argv, "--takeover"], capture_output=True, text=True, timeout=20)
        assert (done.returncode, done.stderr) == (
            1, f"pyfw: no daemon at {firewall.socket} hands over: a successor is taking over: ask again\n")


def test_a_stop_takes_the_diversion_down_and_what_is_kept_does_not_hinder_the_next(lab: Lab, config: Path, tmp_path: Path) -> None:
    firewall = KeptFirewall(lab, config, tmp_path)
    firewall.start()
    assert set(firewall.kept) == {"queue", "table", "batch"}
    assert firewall.stop() == 0
    assert "PYFW" not in lab.run("gateway", ["iptables-save"]).stdout
    with Firewall(lab, config, tmp_path) as next_one:
        assert next_one.ctl("ping").returncode == 0
