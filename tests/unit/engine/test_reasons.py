"""Every Reason is provoked by a packet: its state, its verdict and its counter."""
import struct
from collections.abc import Callable
from typing import NamedTuple

import pytest

from kit.jumps import doubled_jumps
from kit.packets import (
    ACK,
    CLIENT,
    CLIENT6,
    FIN,
    HOPOPTS,
    NO_NEXT,
    PSH,
    RST,
    SCTP,
    SERVER,
    SERVER6,
    SYN,
    TCP,
    UDP,
    chunk,
    extended,
    icmp,
    ip,
    pptp,
    sctp,
    spoil,
    tcp,
    tcp_segment,
    udp,
    udp_datagram,
    udplite,
)
from kit.traffic import TcpConversation, Watch
from pyfw.conntrack.sources import Sources
from pyfw.engine.source_limits import SourceLimits
from pyfw.enums import CtState, Hook, Reason, Verdict
from pyfw.helpers import Expectation, Finding, HelperBinding
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.program.program import Program

ENDS = (CLIENT, SERVER)
ROUTER6 = "fe80::1"
INIT = chunk(1, struct.pack("!IIHHI", 77, 65535, 1, 1, 1))

NOT_FROM_A_PACKET = {
    Reason.NONE: "nothing is wrong",
    Reason.INTERNAL: "an impossible value: a defect of pyfw, which no packet may provoke",
    Reason.HELPER_BUSY: "takes hundreds of them (unit/helpers/test_budget.py)",
}


class Case(NamedTuple):
    reason: Reason
    packet: Callable[[Watch], bytes]        # it may send others before
    state: CtState = CtState.INVALID
    verdict: Verdict = Verdict.ACCEPT       # without rules even INVALID packets pass; rules drop them


def plain(data: bytes) -> Callable[[Watch], bytes]:
    return lambda watch: data


def opened(watch: Watch) -> TcpConversation:
    return TcpConversation(watch).open()


def ruled(text: str, data: bytes) -> Callable[[Watch], bytes]:
    def packet(watch: Watch) -> bytes:
        watch.engine.load(Program(parse_save(text)))
        return data
    return packet


def one_bucket(watch: Watch) -> bytes:
    """A hash table that has room for one source, which is another."""
    watch.engine.load(Program(parse_save("-A FORWARD -m hashlimit --hashlimit-upto 1/s --hashlimit-mode srcip --hashlimit-name one "
                                         "--hashlimit-htable-size 1 --hashlimit-htable-max 1 -j ACCEPT")))
    watch.send(udp("10.0.0.99", SERVER, 1, 2))
    return udp(*ENDS, 1, 2)


def flooded(watch: Watch) -> bytes:
    """A table full of connections that eviction spares."""
    for sport in range(watch.table()["max_entries"]):
        TcpConversation(watch, sport=sport + 1).open()
    return udp(*ENDS, 1, 53)


def second_connection(watch: Watch, window_s: int = 0, **limits: int) -> bytes:
    """Of a source that may have one."""
    watch.engine.limit_sources(SourceLimits(Sources(16, 32, 64, window_s * 10**9, bytes(16)), **limits))
    watch.send(udp(*ENDS, 1, 53))
    return udp(*ENDS, 2, 53)


def forged_rst(watch: Watch) -> bytes:
    conversation = opened(watch)
    return conversation.client.packet(RST, seq=conversation.client.seq - 1)


def foreign_quote(watch: Watch) -> bytes:
    watch.send(udp(*ENDS, 5000, 53))
    return icmp(SERVER, "10.0.0.99", 3, 3, payload=udp(*ENDS, 5000, 53))


def wrong_tag(watch: Watch) -> bytes:
    watch.send(sctp(*ENDS, 9, 9, 0, INIT))
    return sctp(SERVER, CLIENT, 9, 9, 78, chunk(2, struct.pack("!IIHHI", 88, 65535, 1, 1, 1)))


def answer_to_a_heartbeat(watch: Watch) -> bytes:
    watch.send(sctp(*ENDS, 9, 9, 88, chunk(4)))
    return sctp(SERVER, CLIENT, 9, 9, 0, INIT)


def late_syn(watch: Watch) -> bytes:
    return opened(watch).client.packet(SYN, seq=99999)


def challenge_ack(watch: Watch) -> bytes:
    """LAST_ACK: the client comes again with a SYN, which the server challenges (RFC 5961, 4)."""
    conversation = opened(watch)
    conversation.client.fin()
    conversation.server.fin()
    conversation.client.syn(seq=99999)
    return conversation.server.packet(ACK)


def under_the_window(watch: Watch) -> bytes:
    conversation = opened(watch)
    return conversation.client.packet(ACK, bytes(1), seq=conversation.client.seq - 70000)


class Announcer:
    """A helper that finds whatever it is told to."""
    name, protocol, max_expected, timeout_s = "announcer", TCP, 1, 300

    def __init__(self):
        self.finding: Finding | Exception | None = None

    def inspect(self, segment, memory):
        if isinstance(self.finding, Exception):
            raise self.finding
        return self.finding


ANNOUNCER = Announcer()


def helped(finding: Finding | Exception) -> Callable[[Watch], bytes]:
    def packet(watch: Watch) -> bytes:
        conversation = TcpConversation(watch, dport=6100).open()
        ANNOUNCER.finding = finding
        return conversation.client.packet(ACK | PSH, b"call me at 7000")
    return packet


def clash(watch: Watch) -> bytes:
    """Two connections to one server announce the same place."""
    first, second = (TcpConversation(watch, sport=sport, dport=6100).open() for sport in (1, 2))
    ANNOUNCER.finding = Finding(expectations=(Expectation(None, bytes([10, 0, 0, 2]), 7000),))
    first.client.data(10)
    return second.client.packet(ACK | PSH, b"mine!")


DROP, NEW, ESTABLISHED = Verdict.DROP, CtState.NEW, CtState.ESTABLISHED
CASES = [
    Case(Reason.RULE, ruled("*filter\n-A FORWARD -p udp -j DROP\nCOMMIT\n", udp(*ENDS, 1, 2)), NEW, DROP),
    Case(Reason.POLICY, ruled("*filter\n:FORWARD DROP\nCOMMIT\n", udp(*ENDS, 1, 2)), NEW, DROP),
    Case(Reason.RULE_STEPS, ruled(doubled_jumps(30), udp(*ENDS, 1, 2)), NEW, DROP),
    Case(Reason.RULE_MEMORY, one_bucket, NEW, DROP),
    Case(Reason.NOT_IP, plain(b"\x50" + bytes(39)), verdict=DROP),
    Case(Reason.IP_TRUNCATED, plain(udp(*ENDS, 1, 2)[:27]), verdict=DROP),
    Case(Reason.IP_HEADER, plain(spoil(udp(*ENDS, 1, 2), 10)), verdict=DROP),
    Case(Reason.FRAGMENT, plain(ip(*ENDS, UDP, bytes(16), fragment=185))),
    Case(Reason.NO_TRANSPORT, plain(extended(CLIENT6, SERVER6, [HOPOPTS], NO_NEXT, b""))),
    Case(Reason.TCP_TRUNCATED, plain(ip(*ENDS, TCP, tcp_segment(*ENDS, 1, 2, SYN)[:19]))),
    Case(Reason.TCP_CHECKSUM, plain(spoil(tcp(*ENDS, 1, 2, SYN, payload=b"x")))),
    Case(Reason.TCP_FLAGS, plain(tcp(*ENDS, 1, 2, SYN | FIN))),
    Case(Reason.TCP_NEW, plain(tcp(*ENDS, 1, 2, SYN | ACK))),
    Case(Reason.TCP_STATE, lambda watch: opened(watch).server.packet(SYN)),
    Case(Reason.TCP_RST, forged_rst),
    Case(Reason.TCP_SEQ_OVER, lambda watch: opened(watch).client.packet(ACK, bytes(1), seq=10**6)),
    Case(Reason.TCP_ACK_OVER, lambda watch: opened(watch).client.packet(ACK, ack=10**6)),
    Case(Reason.UDP_TRUNCATED, plain(ip(*ENDS, UDP, bytes(7)))),
    Case(Reason.UDP_LENGTH, plain(udp(*ENDS, 1, 2, b"12", length=11))),
    Case(Reason.UDP_CHECKSUM, plain(spoil(udp(*ENDS, 1, 2, b"12")))),
    Case(Reason.UDPLITE_COVERAGE, plain(udplite(*ENDS, 1, 2, b"12", coverage=7))),
    Case(Reason.UDPLITE_NO_CHECKSUM, plain(udplite(*ENDS, 1, 2, b"12", checksum=0))),
    Case(Reason.ICMP_TRUNCATED, plain(ip(*ENDS, 1, bytes(7)))),
    Case(Reason.ICMP_CHECKSUM, plain(spoil(icmp(*ENDS, 8)))),
    Case(Reason.ICMPV6_CHECKSUM, plain(spoil(icmp(CLIENT6, SERVER6, 128)))),
    Case(Reason.ICMP_REDIRECT, plain(icmp(SERVER6, CLIENT6, 137, payload=bytes(48), ttl=255))),
    Case(Reason.ICMP_REDIRECT_SHORT, plain(icmp(ROUTER6, CLIENT6, 137, payload=bytes(31), ttl=255))),
    Case(Reason.ICMP_REDIRECT_BARE, plain(icmp(ROUTER6, CLIENT6, 137, payload=bytes(32), ttl=255))),
    Case(Reason.ICMP_TYPE, plain(icmp(*ENDS, 19))),
    Case(Reason.ICMP_NO_REQUEST, plain(icmp(*ENDS, 0, id=1))),
    Case(Reason.ICMP_QUOTE, plain(icmp(*ENDS, 3, payload=udp(*ENDS, 1, 2)[:22]))),
    Case(Reason.ICMP_UNKNOWN, plain(icmp(*ENDS, 3, payload=udp(SERVER, CLIENT, 1, 2)))),
    Case(Reason.ICMP_OUTER, foreign_quote),
    Case(Reason.SCTP_TRUNCATED, plain(ip(*ENDS, SCTP, bytes(11)))),
    Case(Reason.SCTP_CHECKSUM, plain(spoil(sctp(*ENDS, 9, 9, 0, INIT)))),
    Case(Reason.SCTP_CHUNK, plain(sctp(*ENDS, 9, 9, 0, INIT, INIT))),
    Case(Reason.SCTP_EMPTY, plain(sctp(*ENDS, 9, 9, 0))),
    Case(Reason.SCTP_NEW, plain(sctp(*ENDS, 9, 9, 5, chunk(0)))),
    Case(Reason.SCTP_VTAG, wrong_tag),
    Case(Reason.SCTP_STATE, answer_to_a_heartbeat),
    Case(Reason.GRE_PROTOCOL, plain(pptp(*ENDS, 7, protocol=0x0800))),
    Case(Reason.TO_ITSELF, plain(udp(CLIENT, CLIENT, 5000, 53))),
    Case(Reason.TABLE_FULL, flooded, verdict=DROP),
    Case(Reason.SOURCE_STATES, lambda watch: second_connection(watch, max_states=1), NEW, DROP),
    Case(Reason.SOURCE_NEW, lambda watch: second_connection(watch, 10, max_new=1), NEW, DROP),
    Case(Reason.HELPER_PARTIAL, helped(Finding(Verdict.DROP, Reason.HELPER_PARTIAL)), ESTABLISHED, DROP),
    Case(Reason.HELPER_CLASH, clash, ESTABLISHED, DROP),
    Case(Reason.HELPER_ERROR, helped(RuntimeError("a defect of the helper")), ESTABLISHED, DROP),
    Case(Reason.HELPER_REFUSED, helped(Finding(remark="not your address")), ESTABLISHED),
    Case(Reason.TTL, plain(ip(*ENDS, UDP, udp_datagram(*ENDS, 1, 2), ttl=1)), NEW, DROP),
    Case(Reason.TCP_IGNORED, late_syn, ESTABLISHED),
    Case(Reason.TCP_CHALLENGE_ACK, challenge_ack, ESTABLISHED),
    Case(Reason.TCP_OVERSHOT, lambda watch: opened(watch).client.packet(ACK, bytes(10), seq=1001 + 65536),
         ESTABLISHED),
    Case(Reason.TCP_SEQ_UNDER, under_the_window, ESTABLISHED),
    Case(Reason.TCP_ACK_UNDER, lambda watch: opened(watch).client.packet(ACK, ack=5001 - 66001), ESTABLISHED),
]


@pytest.fixture
def watch():
    ANNOUNCER.finding = None
    return Watch(max_entries=16, helpers=[HelperBinding(ANNOUNCER, (6100,))])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.reason.name)
def test_a_packet_for_every_reason(case, watch):
    shown = []
    watch.engine.helpers.on_error = shown.append
    packet = case.packet(watch)
    before = watch.engine.counters()
    assert case.reason.name not in before["reasons"]

    judgement = watch.send(packet)

    assert (judgement.reason, judgement.state, judgement.verdict) == (case.reason, case.state, case.verdict)
    assert judgement.reason_text
    after = watch.engine.counters()
    assert after["reasons"][case.reason.name] == 1
    assert after["states"][case.state.name] == before["states"][case.state.name] + 1
    assert after["verdicts"][case.verdict.name] == before["verdicts"][case.verdict.name] + 1
    assert after["verdict_bytes"][case.verdict.name] == before["verdict_bytes"][case.verdict.name] + len(packet)
    assert (after["judged"][case.state.name][case.verdict.name]
            == before["judged"][case.state.name][case.verdict.name] + 1)
    assert after["drops"].get(case.reason.name, 0) == (case.verdict is Verdict.DROP)
    assert sum(after["drops"].values()) == after["verdicts"]["DROP"]
    assert [str(error) for error in shown] == ["a defect of the helper"] * (case.reason is Reason.HELPER_ERROR)


def test_no_reason_is_left_out():
    assert sorted([case.reason for case in CASES] + list(NOT_FROM_A_PACKET)) == sorted(Reason)


@pytest.mark.parametrize("case", [case for case in CASES if case.state is CtState.INVALID and case.verdict],
                         ids=lambda case: case.reason.name)
def test_an_invalid_packet_leaves_no_trace_and_is_what_a_rule_for_invalid_drops(case, watch):
    packet = case.packet(watch)
    entries, lines = watch.table()["entries"], watch.lines()
    watch.engine.load(Program(parse_save("*filter\n-A FORWARD -m state --state INVALID -j DROP\nCOMMIT\n")))

    judgement = watch.send(packet)

    assert (judgement.verdict, judgement.rule) == (Verdict.DROP, "filter:FORWARD:rule:1")
    assert judgement.reason is case.reason          # what is wrong with it says more than which rule dropped it
    assert watch.table()["entries"] == entries
    assert watch.lines() == lines


def test_ttl_counts_where_packets_are_forwarded_only(watch):
    last_hop = ip(*ENDS, UDP, udp_datagram(*ENDS, 1, 2), ttl=1)
    assert watch.send(last_hop, Hook.INPUT).verdict is Verdict.ACCEPT
    assert watch.send(last_hop, Hook.FORWARD).reason is Reason.TTL
