"""What rules do to packets: for every match a packet that fits and one that does not, for every target what comes of it."""
from __future__ import annotations

import random

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from pyfw.enums import CtState, Hook, Reject, Verdict
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.model import RulesError
from pyfw.rules.parts import RuleEnvironment
from pyfw.rules.program.program import Program, Walk

V4 = IP(src="10.0.0.2", dst="192.0.2.80")
V6 = IPv6(src="2001:db8::2", dst="fd00::80")
SYN = V4 / TCP(sport=40000, dport=80, flags="S")


def program(*lines: str, **options: object) -> Program:
    return Program(parse_save("\n".join(lines)), **options)


def walk(rules: Program, packet: Packet, *, table: str = "filter", hook: Hook = Hook.FORWARD, indev: str = "eth0",
         outdev: str = "eth1", state: CtState = CtState.NEW) -> Walk:
    return rules.walk(table, bytes(packet), hook, indev, outdev, state)


def fits(rule: str, packet: Packet, **context: object) -> bool:
    """Whether a rule of FORWARD, by itself before a policy of DROP, accepts the packet."""
    result = walk(program("-P FORWARD DROP", f"-A FORWARD {rule} -j ACCEPT"), packet, **context)
    assert result.rule == ("filter:FORWARD:rule:1" if result.verdict == Verdict.ACCEPT else "filter:FORWARD:policy:2")
    return result.verdict == Verdict.ACCEPT


@pytest.mark.parametrize(("rule", "packet", "other"), [
    ("-s 10.0.0.0/8", V4 / UDP(), IP(src="11.0.0.2") / UDP()),
    ("! -s 10.0.0.0/8", IP(src="11.0.0.2") / UDP(), V4 / UDP()),
    ("-s 10.0.0.2/255.0.0.255", V4 / UDP(), IP(src="10.0.0.3") / UDP()),
    ("-d 192.0.2.80", V4 / UDP(), IP(dst="192.0.2.81") / UDP()),
    ("-s 10.0.0.2 -d 192.0.2.0/24", V4 / UDP(), IP(src="10.0.0.2", dst="192.0.3.1") / UDP()),
    ("-s 10.0.0.0/8", V4 / UDP(), V6 / UDP()),
    ("-s 0.0.0.0/0", V4 / UDP(), V6 / UDP()),
    ("-s 2001:db8::/32", V6 / UDP(), IPv6(src="2001:db9::2") / UDP()),
    ("! -s 2001:db8::/32", IPv6(src="2001:db9::2") / UDP(), V6 / UDP()),
    ("-d fd00::80", V6 / UDP(), IPv6(dst="fd00::81") / UDP()),
    ("-d ::/0", V6 / UDP(), V4 / UDP()),
    ("-p tcp", SYN, V4 / UDP()),
    ("! -p tcp", V4 / UDP(), SYN),
    ("-p 47", IP(proto=47) / Raw(b"12345678"), SYN),
    ("-p udp", V6 / UDP(), V6 / TCP()),
    ("-p udp", V6 / IPv6ExtHdrDestOpt() / UDP(), V6 / IPv6ExtHdrDestOpt() / TCP()),
    ("-f", IP(frag=100, proto=17) / Raw(b"x" * 8), V4 / UDP()),
    ("! -f", V4 / UDP(), IP(frag=100, proto=17) / Raw(b"x" * 8)),
    ("-p tcp --dport 80", SYN, V4 / TCP(dport=81)),
    ("-p tcp ! --dport 80", V4 / TCP(dport=81), SYN),
    ("-p tcp --dport 80:90", V4 / TCP(dport=90), V4 / TCP(dport=91)),
    ("-p tcp --sport 1024:", SYN, V4 / TCP(sport=1023)),
    ("-p tcp --sport :1023 --dport 80", V4 / TCP(sport=1023, dport=80), SYN),
    ("-p tcp ! --sport 1:9 ! --dport 80", V4 / TCP(sport=10, dport=81), V4 / TCP(sport=10, dport=80)),
    ("-p udp --dport 53", V4 / UDP(dport=53), V4 / UDP(dport=54)),
    ("-p udp --dport 53", V6 / UDP(dport=53), V6 / UDP(dport=54)),
    ("-p udplite --dport 53", IP(proto=136) / UDP(dport=53), IP(proto=136) / UDP(dport=54)),
    ("-p sctp --dport 53", V4 / SCTP(dport=53), V4 / SCTP(dport=54)),
    ("-p tcp --dport 1:99 -m tcp ! --dport 80", V4 / TCP(dport=81), SYN),
    ("-p tcp --syn", SYN, V4 / TCP(flags="SA")),
    ("-p tcp ! --syn", V4 / TCP(flags="A"), SYN),
    ("-p tcp --tcp-flags ALL NONE", V4 / TCP(flags=""), SYN),
    ("-p tcp --tcp-flags SYN,FIN SYN,FIN", V4 / TCP(flags="SF"), SYN),
    ("-p tcp --tcp-flags ALL SYN", V4 / TCP(flags="SEC"), V4 / TCP(flags="SP")),
    ("-p tcp --tcp-option 2", V4 / TCP(options=[("NOP", None), ("Timestamp", (1, 2)), ("MSS", 1460)]),
     V4 / TCP(options=[("Timestamp", (2, 2))])),
    ("-p tcp ! --tcp-option 8", V6 / TCP(options=[("MSS", 1460)]), V6 / TCP(options=[("MSS", 1460), ("Timestamp", (1, 2))])),
    ("-p tcp ! --tcp-option 2", SYN, V4 / TCP(options=[("MSS", 1460)])),
    ("-p tcp --tcp-option 1", V4 / TCP(options=[("NOP", None)]), V4 / TCP(options=[("WScale", 1)])),
    ("-p tcp --tcp-option 5", V4 / TCP(dataofs=6) / Raw(b"\x02\x00\x05\x00"), V4 / TCP(dataofs=6) / Raw(b"\x02\x04\x05\x05")),
    ("-p tcp --tcp-option 5", V4 / TCP(dataofs=6) / Raw(b"\x01\x01\x01\x05"), V4 / TCP(dataofs=6) / Raw(b"\x00\x00\x00\x06\x05")),
    ("-p icmp --icmp-type 8", V4 / ICMP(type=8, code=3), V4 / ICMP(type=0)),
    ("-p icmp --icmp-type 3/1", V4 / ICMP(type=3, code=1), V4 / ICMP(type=3, code=2)),
    ("-p icmp ! --icmp-type 3/1", V4 / ICMP(type=3, code=2), V4 / ICMP(type=3, code=1)),
    ("-p icmp --icmp-type any", V4 / ICMP(type=77), V4 / UDP()),
    ("-p icmpv6 --icmpv6-type 128", V6 / ICMPv6EchoRequest(), V6 / ICMPv6EchoReply()),
    ("-p icmpv6 ! --icmpv6-type 128", V6 / ICMPv6EchoReply(), V6 / ICMPv6EchoRequest()),
    ("-m comment --comment x -p tcp", SYN, V4 / UDP()),
])
def test_match(rule: str, packet: Packet, other: Packet) -> None:
    assert fits(rule, packet)
    assert not fits(rule, other)


@pytest.mark.parametrize(("rule", "states"), [
    ("-m state --state NEW", {CtState.NEW}),
    ("-m state ! --state NEW,INVALID", {CtState.ESTABLISHED, CtState.RELATED, CtState.UNTRACKED}),
    ("-m conntrack --ctstate ESTABLISHED,RELATED", {CtState.ESTABLISHED, CtState.RELATED}),
    ("-m conntrack ! --ctstate UNTRACKED", set(CtState) - {CtState.UNTRACKED}),
    ("-m conntrack --ctstate DNAT", set()),
    ("-m conntrack ! --ctstate DNAT,NEW", set(CtState) - {CtState.NEW}),
    ("-m state --state NEW,RELATED -m conntrack --ctstate RELATED,INVALID", {CtState.RELATED}),
    ("-p tcp --dport 80 -m state --state NEW,RELATED -m conntrack ! --ctstate RELATED", {CtState.NEW}),
])
def test_state(rule: str, states: set[CtState]) -> None:
    assert {state for state in CtState if fits(rule, SYN, state=state)} == states


@pytest.mark.parametrize(("rule", "devices", "fit"), [
    ("-i eth0", ("eth0", "eth1"), True), ("-i eth0", ("eth01", "eth1"), False), ("-i eth0", ("eth", "eth1"), False),
    ("-i eth+", ("eth", "x"), True), ("-i eth+", ("eth77", "x"), True), ("-i eth+", ("et", "x"), False),
    ("! -i eth+", ("wlan0", "x"), True), ("! -i eth+", ("eth3", "x"), False),
    ("-o eth1", ("eth0", "eth1"), True), ("-o eth0", ("eth0", "eth1"), False), ("! -o eth0", ("eth0", "eth1"), True),
    ("-i eth0 -o eth1", ("eth0", "eth1"), True), ("-i eth0 -o eth1", ("eth0", "eth2"), False),
    ("-i abcdefghijklmno", ("abcdefghijklmno", "x"), True), ("-i abcdefghijklmn+", ("abcdefghijklmnz", "x"), True),
    ("-i abcdefghijklmno", ("abcdefghijklmn", "x"), False),
])
def test_interfaces(rule: str, devices: tuple[str, str], fit: bool) -> None:
    assert fits(rule, SYN, indev=devices[0], outdev=devices[1]) == fit


def test_no_outgoing_interface_before_routing() -> None:
    rules = program("*raw", ":own - [0:0]", "-A PREROUTING -j own", "-A own -o eth1 -j DROP", "-A own ! -o eth1 -j NOTRACK")
    result = walk(rules, SYN, table="raw")
    assert (result.verdict, result.notrack) == (Verdict.ACCEPT, True)


# -- targets and the walk ---------------------------------------------------------------------------------------------------

def test_nothing_loaded_accepts_without_a_rule() -> None:
    for table in ("raw", "filter"):
        assert walk(program(), SYN, table=table) == Walk(Verdict.ACCEPT, None, Reject.NONE, False, 0, None)


@pytest.mark.parametrize(("hook", "table", "decided"), [
    (Hook.INPUT, "filter", "filter:INPUT:policy:1"), (Hook.FORWARD, "filter", "filter:FORWARD:policy:1"),
    (Hook.OUTPUT, "filter", "filter:OUTPUT:policy:1"), (Hook.PREROUTING, "filter", None), (Hook.POSTROUTING, "filter", None),
    (Hook.INPUT, "raw", "raw:PREROUTING:policy:1"), (Hook.FORWARD, "raw", "raw:PREROUTING:policy:1"),
    (Hook.PREROUTING, "raw", "raw:PREROUTING:policy:1"), (Hook.OUTPUT, "raw", "raw:OUTPUT:policy:1")])
def test_chain_of_a_hook(hook: Hook, table: str, decided: str | None) -> None:
    result = walk(program("*raw", "COMMIT", "*filter"), SYN, table=table, hook=hook)
    assert (result.verdict, result.rule) == (Verdict.ACCEPT, decided)


@pytest.mark.parametrize(("target", "packet", "reject"), [
    ("DROP", SYN, Reject.NONE),
    ("REJECT", SYN, Reject.ICMP_PORT_UNREACHABLE),
    ("REJECT", V6 / UDP(), Reject.ICMP6_PORT_UNREACHABLE),
    ("REJECT --reject-with icmp-net-unreachable", SYN, Reject.ICMP_NET_UNREACHABLE),
    ("REJECT --reject-with host-unreach", SYN, Reject.ICMP_HOST_UNREACHABLE),
    ("REJECT --reject-with proto-unreach", SYN, Reject.ICMP_PROTO_UNREACHABLE),
    ("REJECT --reject-with net-prohib", SYN, Reject.ICMP_NET_PROHIBITED),
    ("REJECT --reject-with host-prohib", SYN, Reject.ICMP_HOST_PROHIBITED),
    ("REJECT --reject-with admin-prohib", SYN, Reject.ICMP_ADMIN_PROHIBITED),
    ("REJECT --reject-with no-route", V6 / UDP(), Reject.ICMP6_NO_ROUTE),
    ("REJECT --reject-with adm-prohibited", V6 / UDP(), Reject.ICMP6_ADM_PROHIBITED),
    ("REJECT --reject-with addr-unreach", V6 / UDP(), Reject.ICMP6_ADDR_UNREACHABLE),
    ("REJECT --reject-with policy-fail", V6 / UDP(), Reject.ICMP6_POLICY_FAIL),
    ("REJECT --reject-with reject-route", V6 / UDP(), Reject.ICMP6_REJECT_ROUTE),
])
def test_refusals(target: str, packet: Packet, reject: Reject) -> None:
    result = walk(program(f"-A FORWARD -j {target}"), packet)
    assert (result.verdict, result.reject, result.rule) == (Verdict.DROP, reject, "filter:FORWARD:rule:1")


def test_tcp_reset_in_either_family() -> None:
    rules = program("-A FORWARD -p tcp -j REJECT --reject-with tcp-reset")
    assert [walk(rules, packet).reject for packet in (SYN, V6 / TCP(), V4 / UDP())] == [Reject.TCP_RESET, Reject.TCP_RESET, Reject.NONE]


CHAINS = program(
    ":FORWARD DROP [0:0]", ":one - [0:0]", ":two - [0:0]", ":side - [0:0]",
    "-A FORWARD -p tcp --dport 1 -j one",
    "-A FORWARD -p tcp --dport 2 -g one",
    "-A FORWARD -p tcp --dport 9 -j RETURN",
    "-A FORWARD -p tcp -j ACCEPT",
    "-A one -p tcp --sport 1 -j two",
    "-A one -p tcp --sport 2 -j RETURN",
    "-A one -p tcp --sport 3 -g side",
    "-A one -p tcp --sport 4 -j DROP",
    "-A two -g side",
    "-A side -p udp -j DROP")


@pytest.mark.parametrize(("dport", "sport", "verdict", "rule"), [
    (1, 1, Verdict.ACCEPT, "filter:FORWARD:rule:4"),        # one -> two => side, back into one, back into FORWARD
    (1, 2, Verdict.ACCEPT, "filter:FORWARD:rule:4"),        # RETURN
    (1, 3, Verdict.ACCEPT, "filter:FORWARD:rule:4"),        # goto within a jump returns past the chain that went
    (1, 4, Verdict.DROP, "filter:one:rule:4"),
    (2, 2, Verdict.DROP, "filter:FORWARD:policy:5"),        # nothing jumped: back at the base chain's policy
    (2, 9, Verdict.DROP, "filter:FORWARD:policy:5"),
    (9, 9, Verdict.DROP, "filter:FORWARD:policy:5"),        # RETURN from a base chain is its policy
    (8, 8, Verdict.ACCEPT, "filter:FORWARD:rule:4"),
])
def test_jump_goto_return(dport: int, sport: int, verdict: Verdict, rule: str) -> None:
    result = walk(CHAINS, V4 / TCP(sport=sport, dport=dport))
    assert (result.verdict, result.rule) == (verdict, rule)


def test_the_deepest_nesting() -> None:
    chains = [f":c{n} - [0:0]" for n in range(64)]
    jumps = [f"-A c{n} -j c{n + 1}" for n in range(63)]
    rules = program(*chains, *jumps, "-A c63 -p udp -j DROP", "-A FORWARD -j c0", "-A FORWARD -p tcp -j DROP")
    assert walk(rules, V4 / UDP()).rule == "filter:c63:rule:1"
    assert walk(rules, SYN).rule == "filter:FORWARD:rule:2"
    assert walk(rules, V6 / UDP()).rule == "filter:c63:rule:1"


@pytest.mark.parametrize(("lines", "notrack", "helper"), [
    (["-p tcp -j NOTRACK"], True, None),
    (["-p tcp -j CT --notrack"], True, None),
    (["-p tcp -j CT --helper tftp"], False, "tftp"),
    (["-j CT --helper ftp", "-j NOTRACK", "-j CT --helper tftp"], False, "ftp"),
    (["-j NOTRACK", "-j CT --helper ftp"], True, None),
    (["-p udp -j NOTRACK"], False, None),
])
def test_notrack_and_helper_go_on_and_the_first_one_counts(lines: list[str], notrack: bool, helper: str | None) -> None:
    rules = program("*raw", *(f"-A PREROUTING {line}" for line in lines), environment=RuleEnvironment(["ftp", "tftp"]))
    result = walk(rules, SYN, table="raw")
    assert (result.verdict, result.notrack, result.helper) == (Verdict.ACCEPT, notrack, helper)
    assert result.rule == f"raw:PREROUTING:policy:{len(lines) + 1}"


@pytest.mark.parametrize(("helpers", "complaint"), [((), "none is configured"), (("ftp",), "did you mean ftp")])
def test_unknown_helper(helpers: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(RulesError, match=f"^rules:2:18: no helper 'fpt'.*{complaint}"):
        program("*raw", "-A PREROUTING -j CT --helper fpt", environment=RuleEnvironment(helpers))


def test_rules_of_one_family_keep_their_numbers() -> None:
    rules = program("-6 -A FORWARD -j DROP", "-4 -A FORWARD -j DROP", "-A FORWARD -j ACCEPT")
    assert [walk(rules, packet).rule for packet in (SYN, V6 / UDP())] == ["filter:FORWARD:rule:2", "filter:FORWARD:rule:1"]


# -- counters ---------------------------------------------------------------------------------------------------------------

def test_counters_of_rules_and_policies() -> None:
    rules = program(":FORWARD DROP [0:0]", ":own - [0:0]", "-A FORWARD -p tcp -j own", "-A FORWARD -p 47", "-A own -p tcp --dport 80", "-A own -j RETURN")
    for packet in (SYN, SYN / Raw(b"x" * 60), IP(proto=47) / Raw(b"x" * 30)):
        walk(rules, packet)
    forward, own = rules.counters()["filter", "FORWARD"], rules.counters()["filter", "own"]
    assert forward == ((3, 190), [(2, 140), (1, 50)])
    assert own == (None, [(2, 140), (2, 140)])
    rules.zero()
    walk(rules, SYN)
    assert rules.counters()["filter", "FORWARD"] == ((1, 40), [(1, 40), (0, 0)])


def test_names_and_texts_of_rules() -> None:
    rules = program("-A FORWARD -p tcp -j DROP", "-N own", "-A own")
    numbers = {rules.rule_name(number): rules.rule_text(number) for number in range(6)}
    assert numbers == {
        "filter:INPUT:policy:1": "-P INPUT ACCEPT", "filter:FORWARD:rule:1": "-A FORWARD -p tcp -j DROP",
        "filter:FORWARD:policy:2": "-P FORWARD ACCEPT", "filter:OUTPUT:policy:1": "-P OUTPUT ACCEPT",
        "filter:own:rule:1": "-A own", "filter:own:return:2": "-N own"}
    assert rules.rule_name(0xFFFFFFFF) is None


# -- packets that are not what they say ---------------------------------------------------------------------------------------

DROPPED = (Verdict.DROP, "filter:FORWARD:rule:1", (0, 0))
PASSED_BY = (Verdict.ACCEPT, "filter:FORWARD:policy:2", (0, 0))


@pytest.mark.parametrize(("rule", "packet", "outcome"), [
    ("-p tcp --dport 80", IP(proto=6) / Raw(b"x" * 19), DROPPED),           # header cut off
    ("-p tcp -m tcp", IP(proto=6), DROPPED),
    ("-p tcp --tcp-option 2", V4 / TCP(dataofs=7) / Raw(b"\x02\x04"), DROPPED),
    ("-p tcp --tcp-option 2", IP(proto=6, frag=2) / Raw(b"x" * 40), PASSED_BY),
    ("-p udp --dport 80", IP(proto=17) / Raw(b"x" * 7), DROPPED),
    ("-p sctp --dport 80", IP(proto=132) / Raw(b"x" * 11), DROPPED),
    ("-p icmp --icmp-type any", IP(proto=1) / Raw(b"x" * 7), DROPPED),
    ("-p icmpv6 --icmpv6-type 1", IPv6(nh=58) / Raw(b"x" * 7), DROPPED),
    ("-p tcp --dport 80", IP(proto=6, frag=1) / Raw(b"x" * 40), DROPPED),   # hides the flags (RFC 1858)
    ("-p tcp --dport 80", IP(proto=6, frag=2) / Raw(b"x" * 40), PASSED_BY),
    ("-p udp ! --dport 80", IP(proto=17, frag=1) / Raw(b"x" * 40), PASSED_BY),
    ("-p icmp --icmp-type any", IP(proto=1, frag=9) / Raw(b"x" * 40), PASSED_BY),
    ("-p udp ! --dport 80", V6 / IPv6ExtHdrFragment(offset=9, nh=17) / Raw(b"x" * 40), PASSED_BY),
    ("-m state --state RELATED -p tcp --dport 80", IP(proto=6), PASSED_BY),     # the state is asked first: it says no
])
def test_no_transport_header(rule: str, packet: Packet, outcome: tuple) -> None:
    rules = program(f"-A FORWARD {rule} -j ACCEPT")
    result = walk(rules, packet)
    counted = rules.counters()["filter", "FORWARD"][1][0]
    assert (result.verdict, result.rule, counted) == outcome


def test_a_fragment_still_fits_what_its_ip_header_says() -> None:
    assert fits("-p udp -s 10.0.0.0/8", IP(src="10.0.0.2", proto=17, frag=9) / Raw(b"x" * 8))


def test_random_bytes_always_come_to_a_verdict() -> None:
    chance = random.Random(4)
    rules = program(":FORWARD DROP [0:0]", ":own - [0:0]", "-A FORWARD -p tcp --syn -j own", "-A FORWARD -p udp ! --dport 53 -j own",
                    "-A FORWARD -p icmp --icmp-type 8 -j LOG", "-A FORWARD -p icmpv6 --icmpv6-type 1 -j LOG", "-A FORWARD ! -p sctp -j own",
                    "-A own -s fd00::/8 -j DROP", "-A own -f -j DROP")
    judged = 0
    for _ in range(20_000):
        data = bytearray(chance.randbytes(chance.randrange(120)))
        if data:
            data[0] = chance.choice((0x45, 0x46, 0x4F, 0x60))
        if len(data) > 4 and data[0] >> 4 == 4:
            data[2:4] = len(data).to_bytes(2, "big")
        elif len(data) > 40:
            data[4:6] = (len(data) - 40).to_bytes(2, "big")
        result = rules.walk("filter", bytes(data), Hook.FORWARD)
        if result is not None:
            judged += 1
            assert result.rule is not None
    assert judged > 10_000
