"""Packets of random bytes, and good packets with random damage: no crash, and every one is counted."""
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.packets import (
    ACK,
    AH,
    CLIENT,
    CLIENT6,
    DSTOPTS,
    FRAGMENT,
    HOPOPTS,
    ROUTING,
    RST,
    SERVER,
    SERVER6,
    SYN,
    TCP,
    UDP,
    chunk,
    extended,
    gre,
    icmp,
    ip,
    pptp,
    sctp,
    tcp,
    tcp_segment,
    udp,
    udplite,
)
from kit.traffic import Watch
from pyfw.enums import Hook
from pyfw.helpers import Expectation, Finding, HelperBinding
from pyfw.observe.dump import expect_text
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.program.program import Program

PACKETS = 1_000_000
ENDS, ENDS6 = (CLIENT, SERVER), (CLIENT6, SERVER6)
RULES = Program(parse_save("""
*raw
-A PREROUTING -p udp --dport 514 -j NOTRACK
COMMIT
*filter
:FORWARD DROP
-A FORWARD -m state --state ESTABLISHED,RELATED,UNTRACKED -j ACCEPT
-A FORWARD -m state --state INVALID -j DROP
-A FORWARD -p tcp --tcp-flags SYN,RST,ACK SYN -j ACCEPT
-A FORWARD -p udp --dport 1024:65535 -j REJECT
-A FORWARD -p icmp --icmp-type 8 -j ACCEPT
-A FORWARD -p gre -j ACCEPT
COMMIT
"""))


class Talkative:
    """A helper that expects something of every segment."""
    name, protocol, max_expected, timeout_s = "talkative", TCP, 3, 1

    def inspect(self, segment, memory):
        memory[:4] = segment.seq.to_bytes(4, "big")
        return Finding(expectations=(Expectation(None, segment.sender, segment.seq % 65535 + 1),))


def seeds() -> list[bytes]:
    syn_options = b"\2\4\5\xb4\4\2\x08\x0a" + bytes(8) + b"\1\3\3\7"
    found = []
    for client, server in (ENDS, ENDS6):
        question = udp(client, server, 5000, 53, b"who?")
        found += [
            question, udp(server, client, 53, 5000, b"you"), udplite(client, server, 1, 2, b"voice", coverage=8),
            tcp(client, server, 1, 21, SYN, seq=100, options=syn_options),
            tcp(server, client, 21, 1, SYN | ACK, seq=900, ack=101, options=syn_options),
            tcp(client, server, 1, 21, ACK, seq=101, ack=901, payload=b"PORT 10,0,0,2,4,1\r\n"),
            tcp(server, client, 21, 1, ACK, seq=901, ack=120, options=b"\1\1\5\x12" + bytes(16), payload=b"200 done\r\n"),
            tcp(server, client, 21, 1, RST | ACK, seq=901, ack=120),
            icmp(client, server, 8 if client == CLIENT else 128, id=7),
            icmp(server, client, 0 if client == CLIENT else 129, id=7),
            icmp(server, client, 3 if client == CLIENT else 1, payload=question),
            sctp(client, server, 9, 9, 0, chunk(1, bytes(16))), sctp(server, client, 9, 9, 0, chunk(5), chunk(0, b"data")),
            gre(client, server), pptp(client, server, 77), ip(client, server, 103, b"anything"),
        ]
    segment = tcp_segment(*ENDS6, 1, 21, ACK, seq=101, ack=901, payload=b"x")
    return [*found, extended(*ENDS6, [HOPOPTS, ROUTING, FRAGMENT, AH, DSTOPTS], TCP, segment),
            ip(*ENDS, UDP, bytes(20), options=b"\1" * 12, fragment=0x2000)]


def damaged(random: Random, packet: bytes) -> bytes:
    """A few bytes differ, or the end is missing, or something follows."""
    data = bytearray(packet)
    for _ in range(random.choice((0, 1, 1, 2, 5))):
        data[random.randrange(len(data))] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))
    cut = random.random()
    if cut < 0.1:
        del data[random.randrange(len(data)):]
    elif cut < 0.2:
        data += random.randbytes(random.randrange(64))
    return bytes(data)


@pytest.fixture
def watch(watch_settings):
    return Watch(max_entries=256, expect_max=16, helpers=[HelperBinding(Talkative(), (21,))], **watch_settings)


@pytest.fixture(params=[{}, {"checksum": False}, {"tcp_loose": False, "tcp_liberal": True, "accounting": False}],
                ids=["default", "no checksums", "strict and liberal"])
def watch_settings(request):
    return request.param


def bombard(watch: Watch, random: Random, count: int) -> None:
    """Damaged packets, and one in ten of nothing but random bytes; the clock goes on, the rules come and go."""
    good, hooks = seeds(), list(Hook)
    for number in range(count):
        if number % 10:
            data = damaged(random, random.choice(good))
        else:
            version = random.choice((0x45, 0x4F, 0x60, random.randrange(256)))
            data = bytes([version]) + random.randbytes(random.randrange(100))
        watch.now_s += random.random() / 100
        watch.send(data, random.choice(hooks), mark=number % 3, trusted=number % 2 == 0,
                   length=random.choice((None, len(data) + 1000)))
        if number % 5000 == 0:
            watch.engine.load(random.choice((None, RULES)))
            watch.engine.sweep(watch.now_ns)
            watch.lines("nf")
            expect_text(watch.engine, watch.now_ns)


def totals_add_up(watch: Watch) -> None:
    counters = watch.engine.counters()
    assert counters["packets"] == watch.sent
    assert sum(counters["states"].values()) == watch.sent
    assert sum(counters["verdicts"].values()) == watch.sent
    assert sum(counters["drops"].values()) == counters["verdicts"]["DROP"], "each drop has one reason"
    for state, by_verdict in counters["judged"].items():
        assert sum(by_verdict.values()) == counters["states"][state]
    table = counters["table"]
    assert table["entries"] == table["created"] - table["destroyed"] <= table["max_entries"]
    assert 0 <= counters["expectations"]["entries"] <= 16


@pytest.mark.slow
def test_damaged_packets_by_the_hundred_thousand(watch):
    bombard(watch, Random(3), PACKETS // 3)
    totals_add_up(watch)
    counters = watch.engine.counters()
    assert all(counters["states"].values())
    assert len(counters["reasons"]) > 20, "the damage went deep"


@given(data=st.binary(max_size=200), trusted=st.booleans(), more=st.integers(0, 70_000))
def test_any_bytes_are_judged(data, trusted, more):
    watch = Watch(max_entries=8)
    watch.send(data, trusted=trusted)
    watch.send(data, trusted=trusted, length=len(data) + more)
    totals_add_up(watch)


@given(version=st.sampled_from([b"\x45", b"\x60"]), data=st.binary(min_size=39, max_size=200))
def test_any_bytes_that_begin_like_ip_are_judged(version, data):
    watch = Watch(max_entries=8)
    watch.send(version + data, trusted=True, length=70_000)
    totals_add_up(watch)
