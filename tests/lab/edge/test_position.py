"""Where the kernel's hooks hand over: beside rules of mangle and nat, which see the same packets."""
from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from firewall import Firewall
from pyfw.lab import GATEWAY_INSIDE, SERVER, Lab
from services import FILE_NAME, FILE_TEXT, start_http

Guard = Callable[..., Firewall]

PROGRAM = {4: "iptables", 6: "ip6tables"}
OPEN = ["-m state --state NEW,ESTABLISHED,RELATED -j ACCEPT"]
FIRST_IN_MANGLE = "*mangle\n:FIRST - [0:0]\n-A FIRST -j NFQUEUE --queue-num 0\n-I {hook} -j FIRST\nCOMMIT\n"
MSS = ["-p", "tcp", "-m", "tcp", "--tcp-flags", "SYN,RST", "SYN"]


class Kernel:
    """The gateway's rules of one family that others have made, and what these do to a connection."""

    def __init__(self, lab: Lab, family: int, directory: Path) -> None:
        self._lab, self._family = lab, family
        start_http(lab, "server", directory)

    def run(self, role: str, *words: str, **options) -> str:
        return self._lab.run(role, [PROGRAM[self._family], *words], check=True, **options).stdout

    def clamp_and_mark(self) -> None:
        self.run("gateway", "-t", "mangle", "-A", "FORWARD", *MSS, "-j", "TCPMSS", "--set-mss", "1000")
        self.run("gateway", "-t", "mangle", "-A", "FORWARD", "-j", "MARK", "--set-mark", "7")
        self.run("gateway", "-t", "mangle", "-A", "POSTROUTING", *MSS, "-m", "tcpmss", "--mss", "1000", "-m", "mark", "--mark", "7")

    def clamps_and_marks(self) -> bool:
        """Whether a connection's two SYNs left the gateway so."""
        assert fetches(self._lab, "client", SERVER.address(self._family))
        counted = self.run("gateway", "-t", "mangle", "-nvxL", "POSTROUTING").splitlines()[-1].split()[0]
        return int(counted) == 2

    def divert_first_in_mangle(self, *hooks: str) -> None:
        for hook in hooks:
            self._lab.run("gateway", [f"{PROGRAM[self._family]}-restore", "-n"], check=True, input=FIRST_IN_MANGLE.format(hook=hook))


def fetches(lab: Lab, role: str, host: str, port: int = 80) -> bool:
    url = f"http://[{host}]:{port}/{FILE_NAME}" if ":" in host else f"http://{host}:{port}/{FILE_NAME}"
    return lab.run(role, ["curl", "-sS", "-m", "3", url]).stdout == FILE_TEXT


@pytest.fixture
def without_late_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """iptables-legacy on a kernel without the module of the table `security`."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for program in PROGRAM.values():
        for end in ("", "-restore"):
            (directory / f"{program}{end}").symlink_to("/usr/sbin/xtables-legacy-multi")
        script = directory / f"{program}-save"
        script.write_text('#!/bin/sh\ncase "$*" in *security*) echo "Table does not exist" >&2; exit 1;; esac\n'
                          f'exec {program}-legacy-save "$@"\n')
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/usr/sbin:/usr/bin:/sbin:/bin")


@pytest.mark.parametrize("family", [4, 6])
def test_rules_of_mangle_act_on_what_is_judged(lab: Lab, guard: Guard, shared_directory: Path, family: int):
    kernel = Kernel(lab, family, shared_directory)
    firewall = guard(FORWARD=OPEN)
    assert "packets of FORWARD (security) on queue" in firewall.log.read_text()
    kernel.clamp_and_mark()
    assert kernel.clamps_and_marks()
    assert any("dport=80 " in line for line in firewall.connections("-f", f"ipv{family}"))


@pytest.mark.parametrize("family", [4, 6])
def test_the_control_behind_a_jump_in_mangle_they_do_not(lab: Lab, guard: Guard, shared_directory: Path, family: int):
    kernel = Kernel(lab, family, shared_directory)
    firewall = guard(FORWARD=OPEN)
    firewall.stop()
    firewall.argv.append("--no-divert")
    firewall.start()
    kernel.divert_first_in_mangle("FORWARD")
    kernel.clamp_and_mark()
    assert not kernel.clamps_and_marks()


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("when", ["before", "after"])
def test_without_the_late_table_it_is_the_end_of_mangle(lab: Lab, guard: Guard, shared_directory: Path, without_late_table,
                                                        family: int, when: str):
    kernel = Kernel(lab, family, shared_directory)
    if when == "before":
        kernel.clamp_and_mark()
    firewall = guard(FORWARD=OPEN)
    assert "packets of FORWARD (mangle) on queue" in firewall.log.read_text()
    if when == "after":
        kernel.clamp_and_mark()
        firewall.ctl("reload", check=True)          # looks anew
    assert kernel.clamps_and_marks()
    assert any("dport=80 " in line for line in firewall.connections("-f", f"ipv{family}"))


@pytest.mark.parametrize("family", [4, 6])
def test_the_gateways_own_connection_to_a_published_port(lab: Lab, guard: Guard, shared_directory: Path, family: int):
    """It leaves on lo until OUTPUT's DNAT sends it elsewhere; the answers come in on another interface."""
    kernel = Kernel(lab, family, shared_directory)
    here, there = GATEWAY_INSIDE.address(family), SERVER.address(family)
    kernel.run("gateway", "-t", "nat", "-A", "OUTPUT", "-d", here, "-p", "tcp", "--dport", "8080",
               "-j", "DNAT", "--to-destination", f"[{there}]:80" if family == 6 else f"{there}:80")
    firewall = guard(INPUT=["-m state --state ESTABLISHED -j ACCEPT"], OUTPUT=OPEN)
    assert fetches(lab, "gateway", here, 8080)
    assert any("dport=80 " in line for line in firewall.connections("-f", f"ipv{family}")), "as it is after DNAT"
    # The control: it is seen before DNAT.
    firewall.stop()
    firewall.argv.append("--no-divert")
    firewall.start()
    kernel.divert_first_in_mangle("INPUT")
    assert not fetches(lab, "gateway", here, 8080)


@pytest.mark.parametrize("family", [4, 6])
def test_what_stays_in_the_machine_is_exempt(lab: Lab, guard: Guard, family: int):
    guard(INPUT=[], OUTPUT=[])
    for host in ({4: "127.0.0.1", 6: "::1"}[family], GATEWAY_INSIDE.address(family)):
        assert lab.run("gateway", ["ping", "-c1", "-W1", host]).returncode == 0
    multicast = {4: ("224.0.0.1", "-I", "lo"), 6: ("ff02::1%lo",)}[family]
    assert lab.run("gateway", ["ping", "-c1", "-W1", "-L", *multicast]).returncode in (0, 1)
    assert lab.run("gateway", ["ping", "-c1", "-W1", SERVER.address(family)]).returncode != 0


def test_the_place_of_an_older_daemon_is_left_without_a_gap(lab: Lab, guard: Guard, tmp_path: Path):
    """Its jumps were first in mangle."""
    for program in PROGRAM.values():
        lab.run("gateway", [f"{program}-restore", "-n"], check=True, input=(
            "*mangle\n:PYFW-FORWARD - [0:0]\n-A PYFW-FORWARD -j NFQUEUE --queue-num 0\n-I FORWARD -j PYFW-FORWARD\nCOMMIT\n"))
    with lab.inside("server"):
        receivers = [socket.socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_INET6)]
    for receiver, host in zip(receivers, (SERVER.ipv4, SERVER.ipv6), strict=True):
        receiver.bind((host, 9))
        receiver.setblocking(False)
    flood = lab.start("client", ["python3", "-c", (
        "import socket, time\nsenders = [(socket.socket(f, socket.SOCK_DGRAM), h) for f, h in "
        f"((socket.AF_INET, '{SERVER.ipv4}'), (socket.AF_INET6, '{SERVER.ipv6}'))]\n"
        "print(flush=True)\nwhile True:\n for s, h in senders: s.sendto(b'x', (h, 9))\n time.sleep(0.0002)")], stdout=subprocess.PIPE)
    with flood.stdout as began:
        assert began.readline() == "\n"
    firewall = guard(FORWARD=["-p udp --dport 10 -j ACCEPT"])
    lab.stop(flood)
    for receiver in receivers:
        with receiver, pytest.raises(BlockingIOError):
            receiver.recv(1)
    for program in PROGRAM.values():
        saved = lab.run("gateway", [f"{program}-save", "-t", "mangle"], check=True).stdout
        assert "PYFW-FORWARD" not in saved
        assert "PYFW-DEFRAG" in saved
    assert firewall.rule_packets()["-P FORWARD DROP"] > 0
