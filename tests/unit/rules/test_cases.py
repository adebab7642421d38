"""Rulesets as textbooks and articles print them: each loads, and its rules say of packets what its text says."""
from __future__ import annotations

from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.packet import Packet

from pyfw.enums import CtState, Hook, Verdict
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.language.printing import print_ruleset
from pyfw.rules.model import RulesError
from pyfw.rules.program.program import Program

CASES = Path(__file__).parents[2] / "cases"
HOST, PEER = "10.0.0.2", "192.0.2.80"
VARIABLES = {"IPADDR": HOST, "NAME_SERVER": PEER, "REMOTE_SSH_SERVER": PEER, "UNPRIVPORTS": "1024:65535", "INTERFACE": "eth0"}
OUT, IN = IP(src=HOST, dst=PEER), IP(src=PEER, dst=HOST)
NEW, ESTABLISHED, RELATED, INVALID = CtState.NEW, CtState.ESTABLISHED, CtState.RELATED, CtState.INVALID

ACCEPTED = [
    ("dns_server", OUT / UDP(sport=53, dport=53), NEW), ("dns_server", IN / UDP(sport=53, dport=53), ESTABLISHED),
    ("dns_server", IN / ICMP(type=3), RELATED),
    ("ssh_client", OUT / TCP(sport=4000, dport=22, flags="S"), NEW), ("ssh_client", OUT / TCP(sport=4000, dport=22, flags="A"), INVALID),
    ("ssh_client", IN / TCP(sport=22, dport=4000, flags="A"), INVALID), ("ssh_client", IN / TCP(sport=22, dport=4000, flags="SA"), ESTABLISHED),
    ("client_only", OUT / UDP(sport=1, dport=2), NEW), ("client_only", IN / UDP(sport=1, dport=2), ESTABLISHED),
    ("ssh_server", IN / TCP(sport=4000, dport=22, flags="S"), NEW), ("ssh_server", OUT / TCP(sport=22, dport=4000, flags="SA"), ESTABLISHED),
    ("new_is_syn", IN / TCP(flags="S"), NEW), ("new_is_syn", IN / TCP(flags="A"), ESTABLISHED), ("new_is_syn", IN / UDP(), NEW),
    ("icmp", OUT / ICMP(type=8), NEW), ("icmp", IN / ICMP(type=0), ESTABLISHED), ("icmp", IN / ICMP(type=5), RELATED),
    ("ftp_client", OUT / TCP(sport=4000, dport=21), NEW), ("ftp_client", IN / TCP(sport=20, dport=4001), RELATED),
    ("ftp_client", OUT / TCP(sport=4001, dport=20), ESTABLISHED), ("ftp_client", OUT / TCP(sport=4002, dport=4003), RELATED),
    ("ftp_client", IN / TCP(sport=4003, dport=4002), ESTABLISHED),
]
DROPPED = [
    ("dns_server", OUT / UDP(sport=54, dport=53), NEW), ("dns_server", IN / UDP(sport=53, dport=53), NEW), ("dns_server", OUT / UDP(sport=53, dport=53), ESTABLISHED),
    ("ssh_client", OUT / TCP(sport=4000, dport=22, flags="S"), INVALID), ("ssh_client", IN / TCP(sport=22, dport=4000, flags="S"), NEW),
    ("ssh_client", OUT / TCP(sport=1000, dport=22, flags="S"), NEW),
    ("client_only", IN / UDP(), NEW), ("client_only", OUT / UDP(), RELATED),
    ("ssh_server", IN / TCP(sport=512, dport=22), NEW), ("ssh_server", OUT / TCP(sport=22, dport=4000), NEW), ("ssh_server", IN / TCP(sport=4000, dport=23), NEW),
    ("new_is_syn", IN / TCP(flags="A"), NEW),
    ("icmp", IN / ICMP(type=8), NEW), ("icmp", OUT / UDP(), NEW), ("icmp", IN / ICMP(type=0), INVALID),
    ("ftp_client", IN / TCP(sport=4003, dport=4002), RELATED), ("ftp_client", OUT / TCP(sport=4002, dport=4003), NEW), ("ftp_client", IN / TCP(sport=20, dport=4001), NEW),
]


def verdict(case: str, packet: Packet, state: CtState) -> Verdict:
    rules = Program(parse_save((CASES / f"{case}.rules").read_text(), source=case, variables=VARIABLES))
    hook, devices = (Hook.OUTPUT, ("", "eth0")) if packet.src == HOST else (Hook.INPUT, ("eth0", ""))
    return rules.walk("filter", bytes(packet), hook, *devices, state).verdict


@pytest.mark.parametrize(("case", "packet", "state"), ACCEPTED)
def test_accepted(case: str, packet: Packet, state: CtState) -> None:
    assert verdict(case, packet, state) == Verdict.ACCEPT


@pytest.mark.parametrize(("case", "packet", "state"), DROPPED)
def test_dropped(case: str, packet: Packet, state: CtState) -> None:
    assert verdict(case, packet, state) == Verdict.DROP


@pytest.mark.parametrize(("state", "expected"), [(ESTABLISHED, Verdict.ACCEPT), (RELATED, Verdict.ACCEPT), (NEW, Verdict.DROP), (INVALID, Verdict.DROP)])
def test_forward_established(state: CtState, expected: Verdict) -> None:
    rules = Program(parse_save((CASES / "forward_established.rules").read_text()))
    assert rules.walk("filter", bytes(OUT / UDP()), Hook.FORWARD, "eth0", "eth1", state).verdict == expected


@pytest.mark.parametrize("path", sorted(CASES.glob("*.rules")), ids=lambda path: path.stem)
def test_every_case_survives_printing(path: Path) -> None:
    ruleset = parse_save(path.read_text(), variables=VARIABLES)
    assert parse_save(print_ruleset(ruleset)) == ruleset


@pytest.mark.parametrize(("line", "complaint"), [
    ("iptables -A FORWARD -m state --state ESTABLISHED,RELATED -j ALLOW", "1:61: ALLOW is not a target; did you mean ACCEPT?"),
    ("iptables -A FORWARD -m state –state NEW -j ACCEPT", "1:30: '–state' begins with a typographic dash; write --state"),
    ("iptables -A INPUT -p tcp -s 0/0 --sport 513:65535 -d --dport 22", "1:51: -d needs a value, and --dport follows"),
    ("iptables -A OUTPUT --out-interface <interface> -p udp", "1:36: --out-interface: '<interface>' is not an interface's name"),
    ("iptables -A INPUT --in-interface $INTERFACES", "1:34: undefined variable $INTERFACES; did you mean INTERFACE?"),
    ("modprobe ip_conntrack", "1:1: 'modprobe' is not a line of a ruleset"),
])
def test_what_printing_did_to_a_ruleset_is_explained(line: str, complaint: str) -> None:
    with pytest.raises(RulesError) as caught:
        parse_save(line, source="article", variables=VARIABLES)
    assert str(caught.value).startswith(f"article:{complaint}")
