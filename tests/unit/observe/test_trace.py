"""Tracing live packets: which are shown, how many, and that judging goes on as if nobody looked."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kit.packets import ACK, CLIENT, CLIENT6, PSH, SERVER, SERVER6, SYN, icmp, ip, tcp, udp
from kit.traffic import TcpConversation, Watch
from pyfw.engine.engine import Engine
from pyfw.enums import CtState, Hook, Verdict
from pyfw.explain.text import explanation_text, packet_trace_record
from pyfw.observe.trace import MOST, TooMany, Tracer
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.model import RulesError
from pyfw.rules.program.packet_filter import packet_filter
from pyfw.rules.program.program import Program

RULES = "-P FORWARD DROP\n-A FORWARD -m state --state ESTABLISHED -j ACCEPT\n-A FORWARD -p tcp -j ACCEPT\n"
SECOND_NS = 10**9


@contextmanager
def tracing(watch: Watch, words: str = "", limit: int = 1000, rate: int = 100) -> Iterator[Tracer]:
    tracer = Tracer(packet_filter(words.split(), watch.engine.environment), limit, rate)
    tracer.arm(watch.engine)
    try:
        yield tracer
    finally:
        tracer.disarm()


@pytest.fixture
def guarded(watch: Watch) -> Watch:
    watch.engine.load(Program(parse_save(RULES), watch.engine.environment))
    return watch


PACKETS = {
    "tcp": tcp(CLIENT, SERVER, 40000, 80, SYN), "udp": udp(CLIENT, SERVER, 5000, 53), "icmp": icmp(CLIENT, SERVER, 8),
    "v6": udp(CLIENT6, SERVER6, 5000, 53), "gre": ip(CLIENT, SERVER, 47, bytes(8)),
}


@pytest.mark.parametrize(("words", "shown"), [
    ("", "tcp udp icmp v6 gre"), ("-p tcp", "tcp"), ("-p udp", "udp v6"), ("! -p udp", "tcp icmp gre"), ("-4 -p udp", "udp"),
    ("-6", "v6"), ("-s 10.0.0.0/8", "tcp udp icmp gre"), ("-s 10.0.0.0/8 -p tcp --dport 80", "tcp"), ("-p tcp --dport 81", ""),
    ("-s 10.9.0.1,10.0.0.2 -p icmp", "icmp"), ("-i eth0", "tcp udp icmp v6 gre"), ("-i eth1", ""), ("-o eth1 -p tcp", "tcp"),
    ("-o eth0", ""), ("-m state --state NEW -p udp", "udp v6"), ("-m state --state ESTABLISHED", ""),
    ("-m conntrack --ctstate NEW -o eth1 -p udp -d 10.0.0.0/8", "udp"), ("-p icmp -m icmp --icmp-type echo-request", "icmp"),
])
def test_filters(guarded: Watch, words: str, shown: str) -> None:
    with tracing(guarded, words) as tracer:
        for data in PACKETS.values():
            guarded.send(data)
        seen = [packet_trace.data for packet_trace in tracer.take()]
    assert seen == [PACKETS[name][:128] for name in shown.split()]


def test_a_filter_by_state_sees_the_state_of_the_packet_itself(guarded: Watch) -> None:
    conversation = TcpConversation(guarded)
    with tracing(guarded, "-m state --state ESTABLISHED") as tracer:
        conversation.open()
        passages = tracer.take()
    assert [packet_trace.judgement.state for packet_trace in passages] == [CtState.ESTABLISHED] * 2
    assert [packet_trace.facts.sport for packet_trace in passages] == [80, 40000]


@pytest.mark.parametrize(("words", "complaint"), [
    ("-p tcp -j DROP", "leave -j and -g out"), ("-p tpc", "unknown protocol"), ("--dport 1", "--dport"), ("tcp", "an option is expected"),
    ("-A FORWARD", "-A"), ("-p tcp --dport", "needs a value"), ("-m nosuch", "there is no match 'nosuch'"),
])
def test_filters_that_are_none(watch: Watch, words: str, complaint: str) -> None:
    with pytest.raises(RulesError) as error:
        packet_filter(words.split(), watch.engine.environment)
    assert complaint in error.value.message


def test_what_is_seen_is_the_way_through_the_rules(guarded: Watch) -> None:
    with tracing(guarded, "-p udp") as tracer:
        judgement = guarded.send(PACKETS["udp"])
        (packet_trace,) = tracer.take()
    assert packet_trace.judgement == judgement
    assert packet_trace.hook == Hook.FORWARD
    assert packet_trace.begins
    record = packet_trace_record(packet_trace)
    assert [(visit["rule"], visit["outcome"], visit["why"]) for visit in record["filter"]] == [
        ("filter:FORWARD:rule:1", "no", "state is NEW"), ("filter:FORWARD:rule:2", "no", "-p tcp: packet has udp"),
        ("filter:FORWARD:policy:3", "end", "")]
    assert explanation_text(record).splitlines()[-1] == "verdict   DROP by filter:FORWARD:policy:3"


def test_judging_goes_on_as_if_nobody_looked(guarded: Watch) -> None:
    alone = Watch()
    alone.engine.load(Program(parse_save(RULES), alone.engine.environment))
    with tracing(guarded) as tracer, tracing(guarded, "-m state --state NEW"):
        for _ in range(3):
            for data in PACKETS.values():
                assert guarded.send(data) == alone.send(data)
        assert len(tracer.take()) == 15
    assert guarded.engine.counters() == alone.engine.counters()
    assert guarded.engine.program.counters() == alone.engine.program.counters()
    assert guarded.lines() == alone.lines()


def test_no_more_than_the_limit(guarded: Watch) -> None:
    with tracing(guarded, limit=3) as tracer:
        for _ in range(5):
            guarded.send(PACKETS["tcp"])
        assert not tracer.is_over
        assert len(tracer.take()) == 3
        assert tracer.is_over
        assert tracer.suppressed == 0


def test_no_more_than_so_many_a_second(guarded: Watch) -> None:
    with tracing(guarded, rate=10) as tracer:
        for _ in range(25):
            guarded.send(PACKETS["tcp"])
        assert len(tracer.take()) == 10
        assert tracer.suppressed == 15
        guarded.wait(0.5)
        for _ in range(25):
            guarded.send(PACKETS["tcp"])
        assert len(tracer.take()) == 5
        guarded.wait(3600)
        for _ in range(25):
            guarded.send(PACKETS["tcp"])
        assert len(tracer.take()) == 10


def test_nobody_reads(guarded: Watch) -> None:
    """The ring is full, later packets are counted, and those kept are whole."""
    with tracing(guarded, rate=1000) as tracer:
        for sport in range(100):
            guarded.send(udp(CLIENT, SERVER, sport, 53))
        assert [packet_trace.facts.sport for packet_trace in tracer.take()] == list(range(64))
        assert tracer.suppressed == 36
        guarded.send(udp(CLIENT, SERVER, 777, 53))
        assert [packet_trace.facts.sport for packet_trace in tracer.take()] == [777]


def test_several_at_once_and_no_more(guarded: Watch) -> None:
    tracers = [Tracer(packet_filter(words.split(), guarded.engine.environment), 100, 100)
               for words in ("", "-p tcp", "-p udp", "-p icmp")]
    for tracer in tracers:
        tracer.arm(guarded.engine)
    assert len(tracers) == MOST
    with pytest.raises(TooMany, match="4 traces are under way"), tracing(guarded):
        pass
    for data in PACKETS.values():
        guarded.send(data)
    assert [len(tracer.take()) for tracer in tracers] == [5, 1, 2, 1]
    tracers[1].disarm()
    tracers[1].disarm()                     # nothing more happens
    guarded.send(PACKETS["icmp"])
    assert [len(tracers[position].take()) for position in (0, 2, 3)] == [1, 0, 1]
    for tracer in tracers:
        tracer.disarm()
    with tracing(guarded) as tracer:
        guarded.send(PACKETS["icmp"])
        assert len(tracer.take()) == 1


def test_rules_replaced_meanwhile(guarded: Watch) -> None:
    """A packet's rules are named by the program that judged it; of one that came and went between two looks only numbers are left."""
    with tracing(guarded) as tracer:
        guarded.send(PACKETS["udp"])
        for policy in ("ACCEPT", "DROP"):
            guarded.engine.load(Program(parse_save(f"-P FORWARD {policy}\n-A FORWARD -p sctp\n"), guarded.engine.environment))
            guarded.send(PACKETS["udp"])
        first, second, third = tracer.take()
    assert first.judgement.rule == "filter:FORWARD:policy:3"
    assert third.judgement.rule == "filter:FORWARD:policy:2"
    assert second.program is None
    assert second.judgement.rule is None
    assert second.judgement.verdict == Verdict.ACCEPT
    assert packet_trace_record(second)["filter"] == []


def test_a_long_way_is_cut(guarded: Watch) -> None:
    guarded.engine.load(Program(parse_save("-A FORWARD -s 192.0.2.1\n" * 2000), guarded.engine.environment))
    with tracing(guarded) as tracer:
        guarded.send(PACKETS["udp"])
        (packet_trace,) = tracer.take()
    record = packet_trace_record(packet_trace)
    assert len(record["filter"]) == 1024
    assert record["cut"] == 2001 - 1024


def test_packets_that_are_none_are_not_shown(guarded: Watch) -> None:
    with tracing(guarded) as tracer:
        guarded.send(b"\x45")
        guarded.send(PACKETS["udp"] + bytes(1000))
        (packet_trace,) = tracer.take()
    assert packet_trace.data == PACKETS["udp"]


def test_without_rules(watch: Watch) -> None:
    with tracing(watch) as tracer:
        watch.send(tcp(CLIENT, SERVER, 1, 2, ACK | PSH, payload=bytes(500)))
        (packet_trace,) = tracer.take()
    assert packet_trace.steps == []
    assert packet_trace.program is None
    assert len(packet_trace.data) == 128
    assert packet_trace.facts.length == 540


def test_an_engine_that_is_gone_takes_its_tracers_along() -> None:
    engine = Engine(max_entries=8)
    tracer = Tracer(packet_filter([], engine.environment), 10, 10)
    tracer.arm(engine)
    del engine
    tracer.disarm()
