"""FTP's announcements, whose length the kernel's NAT helper changes behind pyfw's hook."""
from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import services
from pyfw.edge.queue import loop as loop_module
from pyfw.edge.queue.loop import QueueLoop
from pyfw.edge.queue.sequence_offsets import SequenceOffsets
from pyfw.engine.engine import Engine
from pyfw.helpers import bind
from pyfw.lab import CLIENT, GATEWAY_INSIDE, GATEWAY_OUTSIDE, SERVER, Lab

Serve = Callable[..., QueueLoop]
Gateway = Callable[["Case"], tuple[QueueLoop, Engine]]

RULES = ("-P FORWARD DROP\n-A FORWARD -m state --state ESTABLISHED,RELATED -j ACCEPT\n"
         "-A FORWARD -i eth1 -p tcp --dport 21 -m state --state NEW -j ACCEPT")
LONG4, LONG6 = "203.0.113.111", "2001:db8:2::cafe:1"        # longer than what the announcements name


@dataclass(frozen=True)
class Case:
    """FTP between the lab's client and server through rules of nat, to `host`, two files on one connection."""

    family: int
    nat: str
    host: str
    options: str


CASES = {
    "PORT behind masquerade": Case(4, "-A POSTROUTING -o eth0 -j MASQUERADE", SERVER.ipv4, "-P - --disable-eprt"),
    "EPRT behind SNAT": Case(6, f"-A POSTROUTING -o eth0 -j SNAT --to-source {LONG6}", f"[{SERVER.ipv6}]", "-P -"),
    "227 behind DNAT": Case(4, f"-A PREROUTING -d {LONG4} -p tcp --dport 21 -j DNAT --to-destination {SERVER.ipv4}",
                            LONG4, "--disable-epsv"),
}
SHORTER = Case(4, f"-A PREROUTING -d {GATEWAY_INSIDE.ipv4} -p tcp --dport 21 -j DNAT --to-destination {SERVER.ipv4}",
               GATEWAY_INSIDE.ipv4, "--disable-epsv")


@pytest.fixture
def gateway(lab: Lab, shared_directory: Path, serve: Serve) -> Callable[[Case], tuple[QueueLoop, Engine]]:
    """Starts an FTP server, the kernel's helper with these rules of nat, and pyfw."""
    services.start_ftp(lab, "server", shared_directory)

    def run(case: Case) -> tuple[QueueLoop, Engine]:
        program = {4: "iptables", 6: "ip6tables"}[case.family]
        lab.run("gateway", [program, "-t", "raw", "-A", "PREROUTING", "-p", "tcp", "--dport", "21", "-j", "CT", "--helper", "ftp"], check=True)
        if case.nat:
            lab.run("gateway", [program, "-t", "nat", *case.nat.split()], check=True)
        if case.family == 6:
            lab.run("gateway", ["ip", "addr", "add", f"{LONG6}/64", "dev", "eth0", "nodad"], check=True)
            lab.run("server", ["ip", "neigh", "add", LONG6, "lladdr", GATEWAY_OUTSIDE.mac, "dev", "eth0", "nud", "permanent"], check=True)
        engine = Engine(max_entries=64, helpers=[bind("ftp", (21,))])
        return serve(RULES, engine=engine), engine

    return run


def fetches(lab: Lab, case: Case) -> bool:
    url = f"ftp://{case.host}/{services.FILE_NAME}"
    return lab.run("client", ["curl", "-sS", "-m", "4", *case.options.split(), url, url]).stdout == services.FILE_TEXT * 2


@pytest.mark.parametrize("case", [*CASES.values(), SHORTER], ids=[*CASES, "a shorter 227"])
def test_it_is_followed(lab: Lab, gateway: Gateway, case: Case):
    loop, engine = gateway(case)
    assert fetches(lab, case)
    assert loop.counters()["offsets_learnt"] == 2
    assert engine.counters()["drops"] == {}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_control_whoever_does_not_ask_drops_the_rest(lab: Lab, gateway: Gateway, monkeypatch: pytest.MonkeyPatch, case: Case):
    kernel_says(monkeypatch, None)
    _, engine = gateway(case)
    assert not fetches(lab, case)
    assert engine.counters()["drops"]["TCP_ACK_OVER"] > 0


def kernel_says(monkeypatch: pytest.MonkeyPatch, offsets: tuple[int, int] | None) -> None:
    class Asked(SequenceOffsets):
        def ask(self, *_: object) -> tuple[int, int] | None:
            return offsets

    monkeypatch.setattr(loop_module, "SequenceOffsets", Asked)


def test_where_numbers_stay_nothing_is_learnt(lab: Lab, gateway: Gateway):
    case = Case(4, "", SERVER.ipv4, "")
    loop, engine = gateway(case)
    assert fetches(lab, case)
    assert loop.counters()["offsets_learnt"] == 0
    assert engine.counters()["drops"] == {}


def test_after_too_many_changes_windows_do_not_count(lab: Lab, gateway: Gateway, monkeypatch: pytest.MonkeyPatch):
    case = Case(4, "", SERVER.ipv4, "-P - --disable-eprt")
    kernel_says(monkeypatch, (1 << 15, 0))
    _, engine = gateway(case)
    assert fetches(lab, case)
    assert engine.counters()["drops"] == {}


def test_selective_acknowledgements_are_put_right_too(lab: Lab, gateway: Gateway):
    """The server misses a segment, and says so of the one behind it."""
    loop, engine = gateway(CASES["PORT behind masquerade"])
    lab.run("server", ["iptables", "-A", "INPUT", "-p", "tcp", "--dport", "21", "-m", "string", "--string", "missed", "--algo", "bm",
                       "-m", "limit", "--limit", "1/hour", "--limit-burst", "1", "-j", "DROP"], check=True)
    with lab.inside("client"):
        control = socket.create_connection((SERVER.ipv4, 21), 5)
    with control, control.makefile("r") as replies:
        control.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        replies.readline()
        for commands in (["USER anonymous"], ["PASS x"], [f"PORT {CLIENT.ipv4.replace('.', ',')},200,1"], ["NOOP missed", "NOOP"]):
            for command in commands:
                control.sendall(f"{command}\r\n".encode())
            assert [replies.readline()[:1] for _ in commands] in (["2"], ["3"], ["2", "2"])
    assert loop.counters()["offsets_learnt"] == 1
    assert engine.counters()["drops"] == {}
