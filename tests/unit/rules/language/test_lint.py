"""Warnings: each kind where it is due and not where it is not; a rule that is said to cover another one does."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP

from pyfw.cli.pyfw.main import main
from pyfw.enums import CtState, Hook
from pyfw.rules.language.covers import covers
from pyfw.rules.language.iptables import parse_rule, parse_save
from pyfw.rules.language.lint import lint
from pyfw.rules.model import Ruleset
from pyfw.rules.program.program import Program

ROOT = Path(__file__).resolve().parents[4]
ESTABLISHED = "-A FORWARD -m state --state ESTABLISHED -j ACCEPT"
NEW_RULES = [f"-A FORWARD -p tcp --dport {port} -m state --state NEW -j ACCEPT" for port in range(1, 11)]


def ruleset(*lines: str, policy: str = "DROP") -> Ruleset:
    return parse_save("\n".join(["*filter", f":FORWARD {policy}", f":INPUT {policy}", *lines, "COMMIT"]), source="r")


def warned(*lines: str, policy: str = "DROP") -> list[tuple[str, int]]:
    """(kind, line within `lines`)"""
    return [(warning.name, warning.location.line - 3) for warning in lint(ruleset(*lines, policy=policy))]


@pytest.mark.parametrize(("lines", "expected"), [
    (["-A FORWARD -p tcp -j ACCEPT", "-A FORWARD -p tcp --dport 22 -j DROP"], [("never-matches", 2)]),
    (["-A FORWARD -s 10.0.0.0/8 -j DROP", "-A FORWARD -s 10.1.0.0/16 -p udp -j ACCEPT"], [("never-matches", 2)]),
    (["-A FORWARD -s 10.1.2.3 -j DROP", "-A FORWARD -s 10.1.2.3 -j ACCEPT"], [("never-matches", 2)]),
    (["-A FORWARD -p tcp -m state --state NEW,ESTABLISHED -j DROP", "-A FORWARD -p tcp -m conntrack --ctstate NEW -j ACCEPT"],
     [("never-matches", 2)]),
    (["-A FORWARD -i eth+ -p udp -j DROP", "-A FORWARD -i eth1 -p udp -j ACCEPT"], [("never-matches", 2)]),
    (["-A FORWARD -p tcp --dport 1:100 -j DROP", "-A FORWARD -p tcp --dport 50:60 -j ACCEPT"], [("never-matches", 2)]),
    (["-A FORWARD -m state --state NEW -m state --state ESTABLISHED -j DROP"], [("never-matches", 1)]),
    (["-N all", "-A FORWARD -p tcp -j all", "-A FORWARD -p tcp --dport 5 -j DROP", "-A all -p tcp --dport 1 -j LOG", "-A all -j DROP"],
     [("never-matches", 3)]),
    (["-A FORWARD -s 10.0.0.1/8 -j DROP"], [("host-bits", 1)]),
    (["-A FORWARD -m state --state RELATED,ESTABLISHED -j ACCEPT"], [("bare-related", 1)]),
    (["-A FORWARD -m comment --comment all -j ACCEPT"], [("accepts-all", 1)]),
    (["-N lonely", "-A lonely -j DROP"], [("unreachable-chain", 2)]),
    ([*NEW_RULES, ESTABLISHED], [("late-established", 11)]),
])
def test_a_mistake_is_warned_of(lines: list[str], expected: list[tuple[str, int]]) -> None:
    assert warned(*lines) == expected


def test_a_policy_that_accepts_is_warned_of_unless_something_drops() -> None:
    assert warned("-A FORWARD -p tcp -j LOG", policy="ACCEPT") == [("accepts-all", 1)]
    assert warned("-A FORWARD -p tcp -j DROP", policy="ACCEPT") == []


@pytest.mark.parametrize("lines", [
    ["-A FORWARD -p tcp -j LOG", "-A FORWARD -p tcp --dport 22 -j DROP"],
    ["-A FORWARD -p tcp --dport 22 -j DROP", "-A FORWARD -p tcp -j ACCEPT"],
    ["-A FORWARD -m limit --limit 1/s -p tcp -j ACCEPT", "-A FORWARD -p tcp -j DROP", "-A FORWARD -p udp -m limit -j ACCEPT"],
    ["-A FORWARD -p tcp -m limit -j ACCEPT", "-A FORWARD -p tcp -m limit -j ACCEPT"],
    ["-A FORWARD -p tcp -m mark --mark 1 -j DROP", "-A FORWARD -j MARK --set-mark 1", "-A FORWARD -p tcp -m mark --mark 1 -j DROP"],
    ["-4 -A FORWARD -p tcp -j DROP", "-6 -A FORWARD -p tcp --dport 5 -j ACCEPT"],
    ["-A FORWARD -s 10.0.0.0/16 -j DROP", "-A FORWARD -s 10.0.0.0/8 -j ACCEPT"],
    ["-A FORWARD ! -i eth0 -j DROP", "-A FORWARD -i eth0 -p tcp -j ACCEPT"],
    ["-N some", "-A FORWARD -p tcp -j some", "-A FORWARD -p tcp --dport 5 -j DROP", "-A some -p tcp --dport 1 -j RETURN", "-A some -j DROP"],
    ["-A FORWARD -p icmp -m state --state RELATED -j ACCEPT", "-A FORWARD -p tcp -m helper --helper ftp -m state --state RELATED -j ACCEPT"],
    ["-A FORWARD -s 10.0.0.0/8 -j DROP"],
    [*NEW_RULES[:9], ESTABLISHED],
    ["-A FORWARD -m state --state INVALID -j DROP", ESTABLISHED],
])
def test_what_is_no_mistake_is_not_warned_of(lines: list[str]) -> None:
    assert warned(*lines) == []


@pytest.mark.parametrize("config", ["pyfw.yaml", "host.yaml"])
def test_the_shipped_configs_are_clean(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "-c", str(ROOT / "config" / config), "--strict"]) == 0
    assert capsys.readouterr().err == ""


def test_ten_thousand_addresses_are_compared() -> None:
    lines = [f"-A FORWARD -s 10.0.{number >> 8}.{number & 255} -j DROP" for number in range(10_000)]
    assert warned(*lines, lines[77]) == [("never-matches", 10_001)]


PARTS = ["", "-p tcp", "-p udp", "! -p tcp", "-p tcp --dport 80", "-p tcp --dport 1:100", "-p tcp ! --dport 80", "-p tcp --sport 5 --dport 80",
         "-p udp --dport 53", "-p icmp", "-p tcp --syn", "-p tcp ! --dport 1:100"]
ADDRESSES = ["", "-s 10.0.0.0/8", "-s 10.1.0.0/16", "-s 10.1.2.3", "! -s 10.0.0.0/8", "! -s 10.1.2.3", "-d 192.0.2.0/24", "-s 11.0.0.0/8"]
DEVICES = ["", "-i eth0", "-i eth+", "! -i eth0", "! -i eth+", "-i wlan0", "-i e+"]
STATES = ["", "-m state --state NEW", "-m state ! --state NEW", "-m conntrack --ctstate NEW,ESTABLISHED", "-m state --state ESTABLISHED"]
RULES = st.tuples(*map(st.sampled_from, (ADDRESSES, DEVICES, PARTS, STATES))).map(" ".join)
PACKETS = [(bytes(IP(src=src, dst="192.0.2.5") / transport), device, state)
           for src in ("10.1.2.3", "10.1.9.9", "10.9.9.9", "11.0.0.1")
           for transport in (TCP(sport=5, dport=80), TCP(dport=50, flags="A"), TCP(dport=443), UDP(dport=53), ICMP())
           for device in ("eth0", "eth1", "wlan0") for state in (CtState.NEW, CtState.ESTABLISHED, CtState.INVALID)]


def matched(rule: str) -> set[int]:
    """Which of the packets a rule matches."""
    program = Program(parse_save(f"-A FORWARD {rule} -j DROP", source="r"))
    return {number for number, (data, device, state) in enumerate(PACKETS)
            if program.walk("filter", data, Hook.FORWARD, device, "eth9", state).rule == "filter:FORWARD:rule:1"}


@settings(max_examples=150, deadline=None)
@given(RULES, RULES)
def test_what_covers_matches_whatever_is_covered(wider: str, narrower: str) -> None:
    (wide,), (narrow,) = parse_rule(f"-A FORWARD {wider}"), parse_rule(f"-A FORWARD {narrower}")
    if covers(wide, narrow):
        assert matched(narrower) <= matched(wider)


def test_statuses_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("rules: |\n  *filter\n  :FORWARD DROP\n  -A FORWARD -s 10.0.0.1/8 -j DROP\n  COMMIT\n")
    assert main(["check", "-c", str(config)]) == 0
    assert capsys.readouterr().err == (f"{config}:4:3: warning: 10.0.0.1/8 means the network 10.0.0.0/8; write that, or 10.0.0.1 "
                                       "for the one host [host-bits]\n")
    assert main(["check", "-c", str(config), "--strict"]) == 1
    capsys.readouterr()
    assert main(["check", "-c", str(config), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"severity": "warning", "name": "host-bits", "place": f"{config}:4:3", "message":
                                                   "10.0.0.1/8 means the network 10.0.0.0/8; write that, or 10.0.0.1 for the one host"}


def test_unsupported_rules_are_refused_or_left_out_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("rules: |\n  *nat\n  -A POSTROUTING -j MASQUERADE\n  COMMIT\n  *filter\n  :FORWARD DROP\n"
                      "  -A FORWARD -m bpf --bytecode x -j DROP\n  -A FORWARD -p tcp -j TCPMSS\n  -A FORWARD -p tcp -j ACCEPT\n  COMMIT\n")
    assert main(["check", "-c", str(config)]) == 2
    assert "table nat: translating addresses stays with the kernel" in capsys.readouterr().err
    assert main(["check", "-c", str(config), "--skip-unsupported"]) == 0
    printed = capsys.readouterr()
    assert [line.split(": ")[0] for line in printed.err.splitlines()] == [f"{config}:2:3", f"{config}:7:17", f"{config}:8:24"]
    assert "ok, 1 rules" in printed.out
