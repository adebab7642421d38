"""The ICMP errors that the gateway's kernel makes itself, about a first packet and with nat rules beside pyfw."""
from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from firewall import Firewall
from pyfw.lab import GATEWAY_INSIDE, SERVER, Lab

Guard = Callable[..., Firewall]

KNOWN = "-m state --state ESTABLISHED,RELATED -j ACCEPT"
PROGRAM = {4: "iptables", 6: "ip6tables"}
NOWHERE = {4: "203.0.113.1", 6: "2001:db8:dead::1"}
SMALL_MTU = 1280


def masquerade(lab: Lab, family: int) -> None:
    lab.run("gateway", [PROGRAM[family], "-t", "nat", "-A", "POSTROUTING", "-o", "eth0", "-j", "MASQUERADE"], check=True)


def first_hop(lab: Lab, family: int) -> bool:
    """Whether the gateway tells that a packet's time is over."""
    done = lab.run("client", ["traceroute", f"-{family}", "-n", "-q1", "-m1", "-w1", SERVER.address(family)], check=True)
    return GATEWAY_INSIDE.address(family) in done.stdout.splitlines()[1]


def unreachable(lab: Lab, family: int) -> bool:
    lab.run("gateway", ["ip", f"-{family}", "route", "replace", "unreachable", NOWHERE[family]], check=True)
    return "nreachable" in lab.run("client", ["ping", "-c1", "-W1", NOWHERE[family]]).stdout


def too_large(lab: Lab, family: int) -> bool:
    lab.run("gateway", ["ip", "link", "set", "eth0", "mtu", str(SMALL_MTU)], check=True)
    done = lab.run("client", ["ping", "-c1", "-W1", "-M", "do", "-s", "1400", SERVER.address(family)])
    return str(SMALL_MTU) in done.stdout + done.stderr


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("told", [first_hop, unreachable, too_large])
def test_they_leave(lab: Lab, guard: Guard, told: Callable[[Lab, int], bool], family: int):
    masquerade(lab, family)
    guard(FORWARD=["-j ACCEPT"], OUTPUT=[])
    assert told(lab, family)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("told", [first_hop, unreachable, too_large])
def test_the_control_the_kernel_drops_those_that_are_queued(lab: Lab, guard: Guard, told: Callable[[Lab, int], bool], family: int):
    masquerade(lab, family)
    firewall = guard(FORWARD=["-j ACCEPT"], OUTPUT=["-j ACCEPT"])
    lab.run("gateway", [PROGRAM[family], "-t", "mangle", "-A", "OUTPUT", "-j", "NFQUEUE", "--queue-num", "0"], check=True)
    assert not told(lab, family)
    assert firewall.ctl("ping").returncode == 0


def test_a_user_namespace_has_fewer_users():
    """Where the kernel takes no rule that names others."""
    def in_namespace(*argv: str) -> int:
        return subprocess.run(["unshare", "--user", "--map-root-user", "--net", *argv], stdin=subprocess.DEVNULL, capture_output=True).returncode

    assert in_namespace(sys.executable, "-c", "from pyfw.edge.host.divert import Diversion; Diversion(0).install()") == 0
    assert in_namespace("iptables", "-A", "OUTPUT", "-m", "owner", "!", "--uid-owner", "0") == 0
    assert in_namespace("iptables", "-A", "OUTPUT", "-m", "owner", "!", "--uid-owner", "0-4294967294") != 0
