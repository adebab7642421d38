"""What listeners hear of connections: which events, when, in which words; and that judging goes on as if nobody listened.

That the kernel tells the same of the same packets is proven in tests/differential/test_events.py.
"""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kit.association import Association
from kit.packets import ACK, CLIENT, CLIENT6, FIN, SERVER, SERVER6, gre, icmp, ip, udp
from kit.traffic import TcpConversation, Watch
from pyfw.conntrack.selection import Selection
from pyfw.engine.engine import Engine
from pyfw.helpers import HelperBinding
from pyfw.helpers.ftp import FtpHelper
from pyfw.observe.dump import dump_text
from pyfw.observe.events import KEPT, MOST, Kind, Listener, TooMany
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.program.program import Program

ALL = ~Kind(0)
TCP = "src=10.0.0.2 dst=10.0.1.2 sport=40000 dport=80 {}src=10.0.1.2 dst=10.0.0.2 sport=80 dport=40000"
UDP = "src=10.0.0.2 dst=10.0.1.2 sport=5000 dport=53 {}src=10.0.1.2 dst=10.0.0.2 sport=53 dport=5000"
QUESTION, ANSWER = udp(CLIENT, SERVER, 5000, 53), udp(SERVER, CLIENT, 53, 5000)


@contextmanager
def listening(watch: Watch, kinds: Kind = ALL, selection: Selection | None = None, **look: bool) -> Iterator[Listener]:
    listener = Listener(selection or Selection(), kinds, **look)
    listener.arm(watch.engine)
    try:
        yield listener
    finally:
        listener.disarm()


def lines(listener: Listener) -> list[str]:
    """All that was heard since the last call; nothing of it may be lost."""
    heard, text = listener.take(), b""
    while heard.shown:
        assert heard.lost == 0
        text += heard.shown
        heard = listener.take()
    assert heard.lost == 0
    return text.decode().splitlines()


def kinds_of(told: list[str]) -> list[str]:
    return [line.split()[0].strip("[]") for line in told]


def delete(watch: Watch) -> None:
    dump_text(watch.engine, Selection(), "nf", 1, watch.now_ns, True)


# -- words -----------------------------------------------------------------------------------------------------------------


def test_the_life_of_a_tcp_connection(watch: Watch, tcp: TcpConversation) -> None:
    with listening(watch) as listener:
        tcp.open()
        tcp.client.data(100)
        tcp.server.ack()
        tcp.close()
        assert lines(listener) == [
            "    [NEW] tcp      6 120 SYN_SENT " + TCP.format("[UNREPLIED] "),
            " [UPDATE] tcp      6 60 SYN_RECV " + TCP.format(""),
            " [UPDATE] tcp      6 432000 ESTABLISHED " + TCP.format("") + " [ASSURED]",
            " [UPDATE] tcp      6 120 FIN_WAIT " + TCP.format("") + " [ASSURED]",
            " [UPDATE] tcp      6 60 CLOSE_WAIT " + TCP.format("") + " [ASSURED]",
            " [UPDATE] tcp      6 30 LAST_ACK " + TCP.format("") + " [ASSURED]",
            " [UPDATE] tcp      6 120 TIME_WAIT " + TCP.format("") + " [ASSURED]",
        ]
        watch.wait(20.5)
        delete(watch)
        assert lines(listener) == ["[DESTROY] tcp      6 99 TIME_WAIT " + TCP.format("packets=5 bytes=300 ").replace(
            "dport=40000", "dport=40000 packets=4 bytes=160 [ASSURED]")]


@pytest.mark.parametrize(("packets", "told"), [
    ([QUESTION], ["    [NEW] udp      17 30 " + UDP.format("[UNREPLIED] ")]),
    ([QUESTION, ANSWER, QUESTION, ANSWER],
     ["    [NEW] udp      17 30 " + UDP.format("[UNREPLIED] "), " [UPDATE] udp      17 30 " + UDP.format("")]),
    ([icmp(CLIENT, SERVER, 8, id=7), icmp(SERVER, CLIENT, 0, id=7)],
     ["    [NEW] icmp     1 30 src=10.0.0.2 dst=10.0.1.2 type=8 code=0 id=7 [UNREPLIED] src=10.0.1.2 dst=10.0.0.2 type=0 code=0 id=7",
      " [UPDATE] icmp     1 30 src=10.0.0.2 dst=10.0.1.2 type=8 code=0 id=7 src=10.0.1.2 dst=10.0.0.2 type=0 code=0 id=7"]),
    ([udp(CLIENT6, SERVER6, 5000, 53)],
     ["    [NEW] udp      17 30 src=fd00::2 dst=fd00:1::2 sport=5000 dport=53 [UNREPLIED] src=fd00:1::2 dst=fd00::2 sport=53 dport=5000"]),
    ([gre(CLIENT, SERVER)],
     ["    [NEW] gre      47 30 src=10.0.0.2 dst=10.0.1.2 srckey=0x0 dstkey=0x0 [UNREPLIED] "
      "src=10.0.1.2 dst=10.0.0.2 srckey=0x0 dstkey=0x0"]),
    ([ip(CLIENT, SERVER, 46, b"")], ["    [NEW] unknown  46 600 src=10.0.0.2 dst=10.0.1.2 [UNREPLIED] src=10.0.1.2 dst=10.0.0.2"]),
])
def test_other_protocols(watch: Watch, packets: list[bytes], told: list[str]) -> None:
    with listening(watch) as listener:
        for packet in packets:
            watch.send(packet)
        assert lines(listener) == told


def test_an_sctp_association_has_states(watch: Watch) -> None:
    with listening(watch) as listener:
        Association(watch).open()
        told = lines(listener)
    assert kinds_of(told) == ["NEW", "UPDATE", "UPDATE", "UPDATE"]
    assert [line.split()[4] for line in told] == ["CLOSED", "COOKIE_WAIT", "COOKIE_ECHOED", "ESTABLISHED"]
    assert told[-1].endswith(" [ASSURED]")


def test_more_in_a_line(watch: Watch) -> None:
    watch.engine.wall_offset_ns = 1_700_000_000 * 10**9 + 42_000
    with listening(watch, timestamp=True, family=True, id=True) as listener:
        watch.send(QUESTION)
        watch.send(udp(CLIENT6, SERVER6, 5000, 53))
        first, second = lines(listener)
    assert first == "[1700001000.000042]\t    [NEW] ipv4     2 udp      17 30 " + UDP.format("[UNREPLIED] ") + " id=1"
    assert second.startswith("[1700001000.000042]\t    [NEW] ipv6     10 udp      17 30 src=fd00::2 ")


def test_a_helper_is_named_until_the_connection_goes() -> None:
    watch = Watch(helpers=[HelperBinding(FtpHelper(), (21,))])
    with listening(watch) as listener:
        TcpConversation(watch, dport=21).client.syn()
        delete(watch)
        new, destroy = lines(listener)
    assert new.endswith(" dport=40000 helper=ftp")
    assert destroy.endswith(" dport=40000 packets=0 bytes=0")


def test_without_accounting_nothing_is_counted() -> None:
    watch = Watch(accounting=False)
    with listening(watch, Kind.DESTROY) as listener:
        watch.send(QUESTION)
        delete(watch)
        assert lines(listener) == ["[DESTROY] udp      17 30 " + UDP.format("[UNREPLIED] ")]


def test_records(watch: Watch, tcp: TcpConversation) -> None:
    watch.engine.wall_offset_ns = 10**9
    with listening(watch, records=True) as listener:
        tcp.client.syn()
        tcp.server.synack()
        watch.wait(60)
        watch.engine.sweep(watch.now_ns)
        new, update, destroy = listener.take().shown
    assert new == {
        "event": "NEW", "time": 1001.0, "changed": [], "id": 1, "family": "ipv4", "protocol": 6, "state": "SYN_SENT", "timeout": 120.0,
        "age": 0.0, "original": {"src": CLIENT, "dst": SERVER, "sport": 40000, "dport": 80, "packets": 1, "bytes": 40},
        "reply": {"src": SERVER, "dst": CLIENT, "sport": 80, "dport": 40000, "packets": 0, "bytes": 0},
        "seen_reply": False, "assured": False, "expected": False, "mark": 0, "helper": None}
    assert (update["event"], update["changed"], update["state"]) == ("UPDATE", ["state", "seen_reply"], "SYN_RECV")
    assert (destroy["event"], destroy["time"], destroy["timeout"], destroy["age"]) == ("DESTROY", 1061.0, 0.0, 60.0)
    assert destroy["reply"]["packets"] == 1


# -- which, and when -------------------------------------------------------------------------------------------------------


def ruled(rules: str) -> Watch:
    watch = Watch()
    watch.engine.load(Program(parse_save(rules), watch.engine.environment))
    return watch


def test_of_what_is_dropped_nothing_is_told() -> None:
    watch = ruled("-A FORWARD -p udp -j DROP\n")
    with listening(watch) as listener:
        watch.send(QUESTION)
        watch.send(icmp(CLIENT, SERVER, 8, id=7))
        assert kinds_of(lines(listener)) == ["NEW"]


def test_what_a_dropped_packet_changed_is_told_with_the_next() -> None:
    watch = ruled("-A FORWARD -s 10.0.1.2 -p tcp -m tcp --tcp-flags SYN,ACK SYN,ACK -j DROP\n")
    conversation = TcpConversation(watch)
    with listening(watch) as listener:
        conversation.client.syn()
        conversation.server.synack()
        assert kinds_of(lines(listener)) == ["NEW"]
        conversation.client.syn(seq=1000)
        (update,) = lines(listener)
    assert update == " [UPDATE] tcp      6 60 SYN_RECV " + TCP.format("")


def test_a_mark() -> None:
    watch = ruled("-A FORWARD -p udp -m length --length 29 -j CONNMARK --set-mark 7\n"
                  "-A FORWARD -p udp -m length --length 30 -j CONNMARK --set-mark 0\n")
    with listening(watch) as listener:
        for length in (0, 1, 1, 0, 2):
            watch.send(udp(CLIENT, SERVER, 5000, 53, bytes(length)))
        assert lines(listener)[1:] == [f" [UPDATE] udp      17 30 {UDP.format('[UNREPLIED] ')} mark={mark}" for mark in (7, 0)]
        watch.send(udp(CLIENT, SERVER, 5001, 53, bytes(1)))
        (new,) = lines(listener)
        assert kinds_of([new]) == ["NEW"]
        assert new.endswith(" mark=7")


def test_a_refused_connection_counts_its_refusal(watch: Watch, tcp: TcpConversation) -> None:
    with listening(watch, Kind.DESTROY) as listener:
        tcp.client.syn()
        tcp.server.rst(ack=tcp.client.seq)
        tcp.server.say(FIN | ACK)
        assert lines(listener) == [
            "[DESTROY] tcp      6 120 CLOSE " + TCP.format("packets=1 bytes=40 [UNREPLIED] ") + " packets=1 bytes=40"]


def test_a_connection_that_begins_anew(watch: Watch, tcp: TcpConversation) -> None:
    tcp.open().close()
    with listening(watch) as listener:
        TcpConversation(watch, client_seq=900_000).client.syn()
        destroy, new = lines(listener)
    assert " TIME_WAIT " in destroy
    assert "[DESTROY]" in destroy
    assert "[NEW]" in new
    assert " SYN_SENT " in new


def test_expired_and_found_or_swept(watch: Watch) -> None:
    with listening(watch) as listener:
        watch.send(QUESTION)
        watch.wait(30)
        watch.send(QUESTION)
        watch.wait(30)
        assert watch.engine.sweep(watch.now_ns) == 1
        assert lines(listener) == ["    [NEW] udp      17 30 " + UDP.format("[UNREPLIED] "),
                                   "[DESTROY] udp      17 " + UDP.format("packets=1 bytes=28 [UNREPLIED] ") + " packets=0 bytes=0"] * 2


def test_evicted() -> None:
    watch = Watch(max_entries=4)
    with listening(watch, Kind.DESTROY) as listener:
        for sport in range(6):
            watch.send(udp(CLIENT, SERVER, sport, 53))
        assert len(lines(listener)) == 2


@pytest.mark.parametrize("kinds", [Kind.NEW, Kind.UPDATE, Kind.DESTROY, Kind.NEW | Kind.DESTROY, ALL, Kind(0)])
def test_kinds(watch: Watch, kinds: Kind) -> None:
    with listening(watch, kinds) as listener:
        watch.send(QUESTION)
        watch.send(ANSWER)
        delete(watch)
        assert kinds_of(lines(listener)) == [kind.name for kind in Kind if kind & kinds]


@pytest.mark.parametrize(("conditions", "number"), [
    ({}, 6), ({"dport": 53}, 2), ({"dport": 54}, 0), ({"protocol": 6}, 3), ({"family": 6}, 1), ({"state": "ESTABLISHED"}, 1),
    ({"status": ["UNREPLIED"]}, 3), ({"status": ["ASSURED"]}, 1), ({"src": CLIENT}, 5), ({"src": SERVER}, 0), ({"dst": "fd00:1::/64"}, 1),
])
def test_selections(watch: Watch, tcp: TcpConversation, conditions: dict, number: int) -> None:
    """By what the connection is at the event, in its original direction."""
    with listening(watch, selection=Selection(**conditions)) as listener:
        tcp.open()
        watch.send(QUESTION)
        watch.send(ANSWER)
        watch.send(icmp(CLIENT6, SERVER6, 128, id=7))
        assert len(lines(listener)) == number


def test_what_happens_while_nobody_listens_is_never_told(watch: Watch, tcp: TcpConversation) -> None:
    tcp.client.syn()
    tcp.server.synack()
    with listening(watch) as listener:
        tcp.server.synack(seq=5000, ack=1001)
        assert lines(listener) == []
        tcp.client.ack()
        assert len(lines(listener)) == 1
    tcp.close()
    assert watch.engine.counters()["events"] == {"listeners": 0, "lost": 0}


# -- the ring --------------------------------------------------------------------------------------------------------------


def flows(watch: Watch, first: int, count: int) -> None:
    for number in range(first, first + count):
        watch.send(udp(f"10.1.{number >> 8}.{number & 255}", SERVER, 5000, 53))


def source(number: int) -> str:
    return f" src=10.1.{number >> 8}.{number & 255} "


def test_a_full_ring_loses_what_comes_and_says_where() -> None:
    watch = Watch(max_entries=32768)
    with listening(watch, Kind.NEW) as listener:
        flows(watch, 0, KEPT + 5)
        heard = listener.take()
        count = heard.shown.count(b"\n")
        assert heard.lost == 0
        assert 0 < count < KEPT
        flows(watch, KEPT + 5, 3)
        told = []
        while True:
            heard = listener.take()
            if heard.lost:
                break
            told += heard.shown.decode().splitlines()
        assert len(told) == KEPT - count
        assert source(KEPT - 1) in told[-1]
        assert heard.lost == 5
        assert [source(KEPT + 5 + i) in line for i, line in enumerate(heard.shown.decode().splitlines())] == [True] * 3
        assert listener.take() == (0, b"")
        assert watch.engine.counters()["events"] == {"listeners": 1, "lost": 5}


def test_what_is_lost_at_the_end_is_told_too() -> None:
    watch = Watch(max_entries=32768)
    with listening(watch, Kind.NEW) as listener:
        flows(watch, 0, KEPT + 7)
        shown = 0
        while (heard := listener.take()).shown:
            assert heard.lost == 0
            shown += heard.shown.count(b"\n")
        assert (shown, heard.lost) == (KEPT, 7)
        assert listener.take() == (0, b"")


def test_a_ring_that_is_read_goes_round() -> None:
    watch = Watch(max_entries=65536)
    with listening(watch, Kind.NEW) as listener:
        for first in range(0, 3 * KEPT, KEPT // 2):
            flows(watch, first, KEPT // 2)
            told = lines(listener)
            assert len(told) == KEPT // 2
            assert source(first) in told[0]
            assert source(first + KEPT // 2 - 1) in told[-1]


def test_judging_goes_on_as_if_nobody_listened(watch: Watch) -> None:
    alone = Watch()
    with listening(watch), listening(watch, Kind.NEW):
        for one in (watch, alone):
            TcpConversation(one).open().close()
            flows(one, 0, 900)
            flows(one, 400, 400)
            one.wait(31)
            one.engine.sweep(one.now_ns)
        assert watch.lines() == alone.lines()
        ours, others = (one.engine.counters() for one in (watch, alone))
        assert ours.pop("events") != others.pop("events")
        assert ours == others


def test_several_at_once_and_no_more(watch: Watch) -> None:
    listeners = [Listener(Selection(dport=port), ALL) for port in range(MOST)]
    for listener in listeners:
        listener.arm(watch.engine)
    with pytest.raises(TooMany, match="4 listen to events already"), listening(watch):
        pass
    listeners[1].disarm()
    listeners[1].disarm()                   # nothing more happens
    for port in range(MOST):
        watch.send(udp(CLIENT, SERVER, 5000, port))
    assert [len(lines(listeners[position])) for position in (0, 2, 3)] == [1, 1, 1]
    with listening(watch) as listener:
        watch.send(QUESTION)
        assert len(lines(listener)) == 1
    for listener in listeners:
        listener.disarm()


def test_an_engine_that_is_gone_takes_its_listeners_along() -> None:
    engine = Engine(max_entries=8)
    listener = Listener(Selection(), ALL)
    listener.arm(engine)
    del engine
    listener.disarm()
