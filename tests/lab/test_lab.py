"""The lab itself: usable at once, one beside another, gone without a trace."""
from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pyfw.lab import CLIENT, GATEWAY_INSIDE, GATEWAY_OUTSIDE, ROLES, SERVER, Lab, LabError, wait_until

PYFW = Path(sys.executable).parent / "pyfw"
NAME = f"pyfw-test-{os.getpid()}-own"


def reaches(lab: Lab, role: str, address: str) -> bool:
    return lab.run(role, ["ping", "-c", "1", "-W", "1", address]).returncode == 0


@pytest.mark.parametrize(("role", "address"), [
    ("client", GATEWAY_INSIDE.ipv4), ("client", GATEWAY_INSIDE.ipv6),
    ("client", GATEWAY_OUTSIDE.ipv4), ("client", SERVER.ipv4), ("client", SERVER.ipv6),
    ("server", CLIENT.ipv4), ("server", CLIENT.ipv6), ("gateway", CLIENT.ipv4), ("gateway", SERVER.ipv6),
])
def test_everyone_reaches_everyone(lab: Lab, role: str, address: str) -> None:
    assert reaches(lab, role, address)


def test_the_first_packet_after_up_arrives_and_no_other_is_there() -> None:
    """No discovery, no address detection, no multicast reports: nothing but what was sent."""
    with Lab(NAME) as lab:
        assert reaches(lab, "client", SERVER.ipv6)
        messages = {role: icmpv6_messages(lab, role) for role in ROLES}
        assert messages == {"client": {"OutEchos": 1, "InEchoReplies": 1}, "gateway": {},
                            "server": {"InEchos": 1, "OutEchoReplies": 1}}


def icmpv6_messages(lab: Lab, role: str) -> dict[str, int]:
    """What the host has sent and received, by kind."""
    lines = lab.run(role, ["cat", "/proc/net/snmp6"]).stdout
    return {kind: int(count) for kind, count in re.findall(r"^Icmp6(\S+)\s+(\d+)$", lines, re.MULTILINE)
            if int(count) and not kind.endswith("Msgs") and "Type" not in kind}


def test_the_gateway_is_what_connects_them(lab: Lab) -> None:
    def set_forwarding(value: str) -> None:
        with lab.inside("gateway"):
            Path("/proc/sys/net/ipv4/ip_forward").write_text(value)

    set_forwarding("0")
    try:
        assert not reaches(lab, "client", SERVER.ipv4)
    finally:
        set_forwarding("1")
    assert reaches(lab, "client", SERVER.ipv4)


def test_labs_of_different_names_do_not_meet(lab: Lab) -> None:
    with Lab(NAME) as other:
        other.run("gateway", ["ip", "link", "set", "eth0", "down"])
        assert not reaches(other, "client", SERVER.ipv4)
        assert reaches(lab, "client", SERVER.ipv4)
    assert reaches(lab, "client", SERVER.ipv4)


def test_up_refuses_what_stands_and_leaves_it_alone(lab: Lab) -> None:
    with pytest.raises(LabError, match=f"pyfw lab down --name {lab.name}"):
        Lab(lab.name).up()
    assert reaches(lab, "client", SERVER.ipv4)


def test_down_ends_what_runs_inside_and_nothing_else() -> None:
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        lab = Lab(NAME)
        lab.up()
        polite = lab.start("server", ["sleep", "60"])
        stubborn = lab.start("client", ["bash", "-c", "trap '' TERM; echo ready; while :; do sleep 60 & wait; done"],
                             stdout=subprocess.PIPE)
        assert stubborn.stdout.readline() == "ready\n"
        lab.down()
        assert (polite.returncode, stubborn.returncode) == (-15, -9)
        assert not any(map(lab.exists, ROLES))
        assert bystander.poll() is None
        stubborn.stdout.close()
    finally:
        bystander.kill()
        bystander.wait()


def test_inside_puts_a_socket_on_a_host_and_comes_back(lab: Lab) -> None:
    before = os.stat("/proc/thread-self/ns/net").st_ino
    with lab.inside("server"):
        assert os.stat("/proc/thread-self/ns/net").st_ino != before
    with pytest.raises(RuntimeError), lab.inside("server"):
        raise RuntimeError
    assert os.stat("/proc/thread-self/ns/net").st_ino == before


def test_waiting_ends_with_the_condition_or_with_its_name() -> None:
    wait_until(lambda: True, "nothing")
    with pytest.raises(LabError, match="the moon"):
        wait_until(lambda: False, "the moon", timeout_s=0.02)


@pytest.mark.parametrize("name", ["", "a/b", "x" * 33])
def test_impossible_names(name: str) -> None:
    with pytest.raises(LabError, match="cannot name a lab"):
        Lab(name)


def pyfw_lab(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([PYFW, "lab", *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=30)


def test_the_command_line() -> None:
    name = ("--name", NAME)
    try:
        assert pyfw_lab("status", *name).returncode == 1
        up = pyfw_lab("up", *name)
        assert (up.returncode, up.stderr) == (0, "")
        assert f"{NAME}-gateway" in up.stdout
        assert GATEWAY_INSIDE.ipv4 in up.stdout
        assert pyfw_lab("up", *name).returncode == 1
        assert pyfw_lab("exec", *name, "client", "--", "ping", "-c1", "-W1", SERVER.ipv4).returncode == 0
        assert pyfw_lab("exec", *name, "client", "--", "false").returncode == 1
        assert pyfw_lab("exec", *name, "nobody", "--", "true").returncode == 2
    finally:
        assert pyfw_lab("down", *name).returncode == 0
    gone = pyfw_lab("exec", *name, "client", "--", "true")
    assert gone.returncode == 1
    assert gone.stderr == f"pyfw lab: {NAME}-client is not up: pyfw lab up --name {NAME}\n"
