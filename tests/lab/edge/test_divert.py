"""The diversion in the kernel: what it does without a daemon, what it repairs, that it goes without a trace."""
from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pyfw.edge.host.divert import Diversion
from pyfw.edge.host.iptables import DivertError
from pyfw.edge.host.owner_lock import DiversionOwner
from pyfw.lab import CLIENT, GATEWAY_INSIDE, SERVER, Lab

QUEUE = 31


@contextmanager
def installed(lab: Lab, diversion: Diversion) -> Iterator[None]:
    with lab.inside("gateway"):
        diversion.install()
    yield
    with lab.inside("gateway"):
        diversion.remove()


def rules(lab: Lab, family: int = 4) -> list[str]:
    """Of all tables."""
    done = lab.run("gateway", [{4: "iptables-save", 6: "ip6tables-save"}[family]], check=True)
    return [line.split(" [")[0] for line in done.stdout.splitlines() if line[0] in ":-" and " ACCEPT " not in line]


def iptables(lab: Lab, *arguments: str) -> None:
    lab.run("gateway", ["iptables", "-t", "mangle" if any("INPUT" in word for word in arguments) else "security", *arguments], check=True)


def answers(lab: Lab, role: str, address: str, size: int = 56) -> bool:
    return lab.run(role, ["ping", "-c1", "-W1", "-s", str(size), address]).returncode == 0


PATHS = {"INPUT": ("client", GATEWAY_INSIDE), "FORWARD": ("client", SERVER), "OUTPUT": ("gateway", CLIENT)}


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("hook", PATHS)
def test_nobody_listens(lab: Lab, hook: str, family: int):
    """The kernel drops what is diverted, and only that."""
    reachable = {name: answers(lab, role, port.address(family)) for name, (role, port) in PATHS.items()}
    assert reachable == dict.fromkeys(PATHS, True)
    with installed(lab, Diversion(QUEUE, hooks=[hook], exempt=[])):
        role, port = PATHS[hook]
        assert not answers(lab, role, port.address(family))
    assert answers(lab, role, port.address(family))


@pytest.mark.parametrize("hook", PATHS)
@pytest.mark.parametrize("options", [{"bypass": True}, {"exempt": ["eth1"]}], ids=["when_down: accept", "exempt"])
def test_nobody_listens_and_packets_pass(lab: Lab, hook: str, options: dict):
    with installed(lab, Diversion(QUEUE, hooks=[hook], **options)):
        role, port = PATHS[hook]
        assert answers(lab, role, port.ipv4)


@pytest.mark.parametrize("family", [4, 6])
def test_a_killed_predecessor_s_rules_are_repaired(lab: Lab, family: int):
    with installed(lab, Diversion(QUEUE)):
        expected = rules(lab, family)
    with installed(lab, Diversion(QUEUE + 1, exempt=["eth7"], bypass=True)):
        for arguments in (["-A", "INPUT", "-j", "PYFW-INPUT"], ["-I", "FORWARD", "-j", "PYFW-FORWARD"],
                          ["-A", "PYFW-OUTPUT", "-j", "DROP"], ["-D", "OUTPUT", "-j", "PYFW-OUTPUT"]):
            iptables(lab, *arguments)
        with installed(lab, Diversion(QUEUE)):
            assert sorted(rules(lab, family)) == sorted(expected)


@pytest.mark.parametrize("family", [4, 6])
def test_it_goes_and_leaves_the_rest(lab: Lab, family: int):
    iptables(lab, "-N", "MINE")
    iptables(lab, "-A", "FORWARD", "-j", "MINE")
    try:
        before = rules(lab, family)
        with installed(lab, Diversion(QUEUE)):
            assert len(rules(lab, family)) > len(before)
        assert rules(lab, family) == before
        with lab.inside("gateway"):
            Diversion(QUEUE).remove()
        assert rules(lab, family) == before
    finally:
        iptables(lab, "-D", "FORWARD", "-j", "MINE")
        iptables(lab, "-X", "MINE")


@contextmanager
def counted_in_postrouting(lab: Lab, family: int) -> Iterator[Callable[[], int]]:
    """Yields what tells how many packets have left the gateway; what was put together is fragmented again only then."""
    command = [{4: "iptables", 6: "ip6tables"}[family], "-t", "mangle"]
    lab.run("gateway", [*command, "-A", "POSTROUTING"], check=True)
    try:
        yield lambda: int(lab.run("gateway", [*command, "-nvxL", "POSTROUTING"]).stdout.splitlines()[-1].split()[0])
    finally:
        lab.run("gateway", [*command, "-D", "POSTROUTING"], check=True)


@pytest.mark.parametrize("family", [4, 6])
def test_the_kernel_puts_fragments_together(lab: Lab, family: int):
    with counted_in_postrouting(lab, family) as seen:
        assert answers(lab, "client", SERVER.address(family), size=4000)
        assert seen() == 6          # three fragments each way
        with installed(lab, Diversion(QUEUE, bypass=True)):
            assert answers(lab, "client", SERVER.address(family), size=4000)
            assert seen() == 6 + 2
        assert answers(lab, "client", SERVER.address(family), size=4000)
        assert seen() == 6 + 2 + 6


def test_one_diversion_in_a_namespace(lab: Lab):
    with lab.inside("gateway"):
        first = DiversionOwner()
        with pytest.raises(DivertError, match=r"^another pyfw diverts the packets of this network namespace: stop it"):
            DiversionOwner()
        with lab.inside("server"):
            DiversionOwner().close()
        first.close()
        DiversionOwner().close()


def test_without_the_right(lab: Lab):
    code = "from pyfw.edge.host.divert import *\ntry: Diversion(0).install()\nexcept DivertError as error: print(error)"
    done = lab.run("gateway", ["setpriv", "--bounding-set=-net_admin,-sys_admin", sys.executable, "-c", code])
    assert done.stdout.startswith("iptables-save failed: ")
    assert done.stdout.endswith("run as root (CAP_NET_ADMIN)\n")
    assert done.stdout.count("\n") == 1
