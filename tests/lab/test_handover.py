"""Whatever takes too long, and whoever dies, while one daemon takes over from another: one of them judges, and one alone."""
from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from firewall import Firewall
from pyfw.lab import Lab, wait_until

Guard = Callable[..., Firewall]

SHORT_S = 0.5
IN_SHORT = """
import sys
from pyfw.cli.pyfw.main import main
from pyfw.edge.control import server as control, session
control.ControlServer.__init__.__kwdefaults__["request_s"] = float(sys.argv.pop(1))
session.HANDOVER_S = float(sys.argv.pop(1))
sys.exit(main())
"""


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What ip6tables-restore waits for to be gone, in processes that are started from now on."""
    directory, stop = tmp_path / "bin", tmp_path / "stop"
    directory.mkdir()
    program = directory / "ip6tables-restore"
    program.write_text(f"#!/bin/sh\n: >{tmp_path}/reached\nwhile [ -e {stop} ]; do sleep 0.05; done\nexec {shutil.which(program.name)} \"$@\"\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/usr/sbin:/usr/bin:/sbin:/bin")
    return stop


def impatient(firewall: Firewall, request_s: float, handover_s: float) -> None:
    """Start it anew, with other limits."""
    firewall.stop()
    firewall.argv = [sys.executable, "-c", IN_SHORT, str(request_s), str(handover_s), *firewall.argv[1:]]
    firewall.start()


def successor_of(firewall: Firewall) -> subprocess.Popen[str]:
    return subprocess.Popen([*firewall.argv, "--takeover"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def answers(firewall: Firewall) -> bool:
    return firewall.ctl("ping").returncode == 0


def test_a_slow_installation_is_waited_for(lab: Lab, guard: Guard, tmp_path: Path, slow: Path) -> None:
    firewall = guard(FORWARD=[])
    impatient(firewall, SHORT_S, 60)
    predecessor = firewall.process
    slow.touch()
    (tmp_path / "reached").unlink()
    successor = successor_of(firewall)
    wait_until((tmp_path / "reached").exists, "the installation")
    time.sleep(2 * SHORT_S)
    assert firewall.ctl("count").stderr.endswith("a successor is taking over: ask again\n"), "the predecessor stays away"
    slow.unlink()
    assert predecessor.wait(20) == 0
    wait_until(lambda: answers(firewall), "the successor to serve")
    assert successor.poll() is None
    firewall.process = successor


def test_a_successor_that_is_too_late_does_not_go_on(lab: Lab, guard: Guard, tmp_path: Path, slow: Path) -> None:
    firewall = guard(FORWARD=[])
    impatient(firewall, 30, SHORT_S)
    slow.touch()
    (tmp_path / "reached").unlink()
    with successor_of(firewall) as successor:
        wait_until((tmp_path / "reached").exists, "the installation")
        wait_until(lambda: answers(firewall), "the predecessor to go on")
        slow.unlink()
        assert successor.wait(20) != 0
    assert answers(firewall)
    assert firewall.process.poll() is None


def test_a_predecessor_that_is_told_to_end_ends_the_successor_too(lab: Lab, guard: Guard, tmp_path: Path, slow: Path) -> None:
    firewall = guard(FORWARD=[])
    slow.touch()
    (tmp_path / "reached").unlink()
    with successor_of(firewall) as successor:
        wait_until((tmp_path / "reached").exists, "the installation")
        (tmp_path / "reached").unlink()
        firewall.process.terminate()
        wait_until((tmp_path / "reached").exists, "the predecessor to remove the diversion")
        slow.unlink()
        assert successor.wait(20) == 1
        said = successor.stderr.read()
        # It was told so, or its rules were taken away while it put them in.
        assert "the predecessor goes on" in said or "ip6tables-restore failed" in said
    assert firewall.process.wait(20) == 0       # being told to end a second time, as it leaves, would kill it
    assert firewall.stop() == 0
    firewall.start()


def test_a_successor_goes_on_alone_when_the_predecessor_has_died(lab: Lab, guard: Guard, tmp_path: Path, slow: Path) -> None:
    firewall = guard(FORWARD=[])
    slow.touch()
    (tmp_path / "reached").unlink()
    successor = successor_of(firewall)
    wait_until((tmp_path / "reached").exists, "the installation")
    firewall.kill()
    slow.unlink()
    firewall.process = successor
    wait_until(lambda: answers(firewall), "the successor to serve")


def test_who_has_not_heard_the_answer_has_not_taken_over(lab: Lab, guard: Guard) -> None:
    """Both must not end, either."""
    firewall = guard(FORWARD=[])
    with socket.socket(socket.AF_UNIX) as successor:
        successor.connect(str(firewall.socket))
        successor.sendall(b'{"command": "hand-over"}\n')
        with successor.makefile("rb") as said:
            assert b"descriptors" in said.readline()
            assert b"done" in said.readline()
        firewall.process.send_signal(signal.SIGSTOP)
        successor.sendall(b'{"command": "hand-over-done"}\n')
    firewall.process.send_signal(signal.SIGCONT)
    wait_until(lambda: answers(firewall), "the predecessor to go on")


def test_only_who_was_given_it_may_say_that_it_has_it(lab: Lab, guard: Guard) -> None:
    firewall = guard(FORWARD=[])
    with socket.socket(socket.AF_UNIX) as successor, socket.socket(socket.AF_UNIX) as another:
        for peer in (successor, another):
            peer.connect(str(firewall.socket))
        successor.sendall(b'{"command": "hand-over"}\n')
        assert successor.recv(65536)
        another.sendall(b'{"command": "hand-over-done"}\n')
        assert b"nothing is being handed over to this connection" in another.recv(65536)
    wait_until(lambda: answers(firewall), "the predecessor to go on")


def test_a_repair_under_way_ends_before_the_offer(lab: Lab, guard: Guard, tmp_path: Path, slow: Path) -> None:
    """It would write over what the successor installs."""
    firewall = guard(FORWARD=[])
    slow.touch()
    (tmp_path / "reached").unlink()
    lab.run("gateway", ["ip6tables", "-t", "security", "-F"], check=True)
    wait_until((tmp_path / "reached").exists, "a repair")
    with socket.socket(socket.AF_UNIX) as successor:
        successor.connect(str(firewall.socket))
        successor.settimeout(SHORT_S)
        successor.sendall(b'{"command": "hand-over"}\n')
        with pytest.raises(TimeoutError):
            successor.recv(65536)
        assert firewall.ctl("count").returncode == 0, "it judges meanwhile"
        slow.unlink()
        successor.settimeout(10)
        assert b"descriptors" in successor.recv(65536)
    wait_until(lambda: answers(firewall), "the predecessor to go on")
