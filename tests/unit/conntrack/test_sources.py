"""Counting by source: what is counted is what the table has, whatever befell it; and windows that nobody gets around."""
from __future__ import annotations

from ipaddress import ip_address
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.packets import ACK, RST, SERVER, SYN, icmp, tcp, udp
from kit.sources import counts_are_the_tables, rows
from kit.traffic import TcpConversation, Watch
from pyfw.conntrack.selection import Selection
from pyfw.conntrack.sources import Sources
from pyfw.engine.import_connections import Foreign, import_connections
from pyfw.engine.source_limits import SourceLimits
from pyfw.enums import Reason
from pyfw.observe.dump import dump_records
from pyfw.rules.parts import RuleEnvironment
from pyfw.rules.program.packet_filter import connection_filter

SECRET = bytes(range(16))
WINDOW_S = 8
PART_S = WINDOW_S / 8
HOSTS = [f"10.0.0.{number}" for number in range(1, 6)]


def limited(watch: Watch, *, window_s: float = WINDOW_S, prefix4: int = 32, prefix6: int = 64, **limits) -> Watch:
    sources = Sources(watch.table()["max_entries"], prefix4, prefix6, round(window_s * 1e9), SECRET)
    watch.engine.limit_sources(SourceLimits(sources, prefix4=prefix4, prefix6=prefix6, **limits))
    return watch


# -- counts are the table's ----------------------------------------------------------------------------------------------


class Gateway:
    """A small table under random traffic, with its memory, and a model of who began what when."""

    def __init__(self, max_entries: int, **limits) -> None:
        self.settings = {"max_entries": max_entries, "expect_max": 1, "boot_id": SECRET}
        self.limits = limits
        self.memory = bytearray(Watch(max_entries=max_entries, expect_max=1).engine.memory_size(max_entries, 1))
        self.watch = limited(Watch(memory=self.memory, **self.settings), **limits)
        self.begun: dict[str, list[int]] = {}

    def restart(self) -> None:
        """Another process takes the memory over; what happened within the window is forgotten."""
        now_s = self.watch.now_s
        self.watch = limited(Watch(memory=self.memory, **self.settings), **self.limits)
        self.watch.now_s = now_s
        self.begun.clear()

    def send(self, data: bytes) -> None:
        created = self.watch.table()["created"]
        judgement = self.watch.send(data)
        if self.watch.table()["created"] > created:
            source = str(ip_address(data[12:16]))
            self.begun.setdefault(source, []).append(int(self.watch.now_s / PART_S))
        assert judgement.reason not in (Reason.SOURCE_STATES, Reason.SOURCE_NEW)

    def delete(self, host: str) -> None:
        cursor = 1
        while cursor:
            _, cursor = dump_records(self.watch.engine, Selection(src=host), cursor, self.watch.now_ns, True)

    def begun_in_window(self, host: str) -> int:
        part = int(self.watch.now_s / PART_S)
        return sum(part - then <= 8 for then in self.begun.get(host, []))


host = st.sampled_from(HOSTS)
port = st.integers(1, 6)
OPERATIONS = st.lists(st.one_of(
    st.tuples(st.just("udp"), host, port), st.tuples(st.just("answer"), host, port), st.tuples(st.just("ping"), host, port),
    st.tuples(st.just("syn"), host, port), st.tuples(st.just("open"), host, port), st.tuples(st.just("close"), host, port),
    st.tuples(st.just("refused"), host, port), st.tuples(st.just("reset"), host, port),
    st.tuples(st.just("wait"), st.sampled_from([0.5, 1.0, 3.7, 9.0, 31.0, 130.0])),
    st.tuples(st.just("sweep")), st.tuples(st.just("delete"), host), st.tuples(st.just("restart"))), max_size=60)


def do(gateway: Gateway, name: str, *arguments) -> None:
    watch = gateway.watch
    if name == "wait":
        watch.wait(*arguments)
    elif name == "sweep":
        watch.engine.sweep(watch.now_ns)
    elif name in ("delete", "restart"):
        getattr(gateway, name)(*arguments)
    elif name == "ping":
        gateway.send(icmp(arguments[0], SERVER, 8, id=arguments[1]))
    elif name == "udp":
        gateway.send(udp(arguments[0], SERVER, arguments[1], 53))
    elif name == "answer":
        gateway.send(udp(SERVER, arguments[0], 53, arguments[1]))
    else:
        client, sport = arguments
        forth, back = (client, SERVER, sport, 80), (SERVER, client, 80, sport)
        segments = {"syn": [(forth, SYN, 1000, 0)],
                    "refused": [(forth, SYN, 1000, 0), (back, RST | ACK, 0, 1001)],
                    "reset": [(forth, RST, 1001, 0), (back, RST, 5001, 0)],
                    "open": [(forth, SYN, 1000, 0), (back, SYN | ACK, 5000, 1001), (forth, ACK, 1001, 5001)],
                    "close": [(forth, ACK | 1, 1001, 5001), (back, ACK | 1, 5001, 1002), (forth, ACK, 1002, 5002)]}[name]
        for ends, flags, seq, ack in segments:
            gateway.send(tcp(*ends, flags, seq=seq, ack=ack))


@settings(max_examples=400, deadline=None)
@given(operations=OPERATIONS, max_entries=st.sampled_from([1, 3, 8, 100]))
def test_counts_are_the_tables_whatever_happens(operations, max_entries):
    """Timeouts, deletions, RSTs, reopened ports, evictions, takeovers: counted is what a count of the table gives."""
    gateway = Gateway(max_entries, max_states=1000)
    for operation in operations:
        do(gateway, *operation)
        counts_are_the_tables(gateway.watch)


@settings(max_examples=300, deadline=None)
@given(operations=OPERATIONS)
def test_windows_count_what_began_in_them(operations):
    gateway = Gateway(1000, max_new=60000)
    for operation in operations:
        do(gateway, *operation)
        assert {name: row["new"] for name, row in rows(gateway.watch).items() if row["new"]} == {
            name: count for name in [*HOSTS, SERVER] if (count := gateway.begun_in_window(name))}
    assert gateway.watch.engine.counters()["limits"]["forgotten"] == 0


def test_counts_are_the_tables_after_a_successor_has_been_at_it():
    """It removed and entered connections in the same memory, and is gone."""
    gateway = Gateway(100, max_states=1000, window_s=1000)
    for number, name in enumerate(HOSTS):
        for sport in range(1, number + 2):
            do(gateway, "open" if sport % 2 else "udp", name, sport)
    successor = Watch(memory=gateway.memory, **gateway.settings)
    successor.now_s = gateway.watch.now_s
    for record in dump_records(successor.engine, Selection(src=HOSTS[3]), 1, successor.now_ns, True)[0]:
        assert record["original"]["src"] == HOSTS[3]
    for sport in range(1, 20):
        successor.send(udp("10.0.0.9", SERVER, sport, 53))
    gateway.watch.engine.relink()
    counts_are_the_tables(gateway.watch)
    assert rows(gateway.watch)["10.0.0.9"] == {"states": 19, "connections": 0, "new": 0}
    assert HOSTS[3] not in rows(gateway.watch)
    gateway.watch.wait(10**6)
    gateway.watch.engine.sweep(gateway.watch.now_ns)
    assert gateway.watch.engine.counters()["limits"]["sources"] == 0 == gateway.watch.table()["entries"]


def test_what_the_kernel_tracked_is_counted_and_has_not_just_begun():
    watch = limited(Watch(), max_states=3, max_new=2)
    import_connections(watch.engine, [Foreign(ip_address(HOSTS[0]).packed, ip_address(SERVER).packed, 17, sport, 53, timeout_s=60)
                         for sport in range(1, 4)], watch.now_ns)
    assert rows(watch)[HOSTS[0]] == {"states": 3, "connections": 0, "new": 0}
    counts_are_the_tables(watch)
    assert watch.send(udp(HOSTS[0], SERVER, 9, 53)).reason is Reason.SOURCE_STATES


def test_many_sources_come_and_go():
    """Each finds its own count among thousands that share its part of the hash."""
    random, watch = Random(4), limited(Watch(max_entries=4096), max_states=10**6, window_s=0)
    for sent in range(20000):
        number = random.randrange(3000)
        watch.send(udp(f"10.1.{number >> 8}.{number & 255}", SERVER, random.randrange(1, 4), 53))
        if sent % 1000 == 0:
            watch.wait(10)
            watch.engine.sweep(watch.now_ns)
    counts_are_the_tables(watch)
    assert watch.engine.counters()["limits"]["sources"] == len(rows(watch)) > 1000
    watch.wait(1000)
    watch.engine.sweep(watch.now_ns)
    assert watch.engine.counters()["limits"]["sources"] == 0 == len(rows(watch))


# -- windows -------------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(pauses=st.lists(st.floats(0, 3), min_size=5, max_size=60), most=st.integers(1, 6))
def test_no_window_has_more_wherever_it_is_laid(pauses, most):
    watch = limited(Watch(max_entries=1000), max_new=most)
    accepted = []
    for number, pause in enumerate(pauses):
        watch.wait(pause)
        judgement = watch.send(udp(HOSTS[0], SERVER, number + 1, 53))
        if judgement.reason is Reason.NONE:
            accepted.append(watch.now_s)
        else:
            assert judgement.reason is Reason.SOURCE_NEW
            recent = [then for then in accepted if watch.now_s - then < WINDOW_S + PART_S]
            assert len(recent) >= most, "refused though there was room for it"
    for index in range(len(accepted) - most):
        assert accepted[index + most] - accepted[index] >= WINDOW_S - 1e-6


def test_what_is_refused_does_not_count():
    watch = limited(Watch(), max_new=2)
    for number in range(100):
        watch.send(udp(HOSTS[0], SERVER, number + 1, 53))
    assert rows(watch)[HOSTS[0]] == {"states": 2, "connections": 0, "new": 2}
    assert watch.reasons() == {"SOURCE_NEW": 98}
    watch.wait(WINDOW_S + PART_S)
    assert watch.send(udp(HOSTS[0], SERVER, 200, 53)).reason is Reason.NONE


def test_a_source_is_known_until_its_window_is_over():
    watch = limited(Watch(), max_new=2, window_s=1000)
    watch.send(udp(HOSTS[0], SERVER, 1, 53))
    for seconds, known in ((31, 1), (960, 1), (140, 0)):
        watch.wait(seconds)
        watch.engine.sweep(watch.now_ns)
        assert (watch.table()["entries"], watch.engine.counters()["limits"]["sources"]) == (0, known)
    assert watch.engine.counters()["limits"]["forgotten"] == 0


# -- room ----------------------------------------------------------------------------------------------------------------


def test_of_sources_without_connections_the_oldest_is_forgotten_first_and_counted():
    watch = limited(Watch(max_entries=4), max_new=1, window_s=1000)
    for number in range(1, 5):
        watch.send(udp(f"10.0.0.{number}", SERVER, 1, 53))
    watch.wait(31)
    watch.engine.sweep(watch.now_ns)
    assert watch.table()["entries"] == 0
    assert len(rows(watch)) == 4
    assert watch.send(udp("10.0.0.1", SERVER, 2, 53)).reason is Reason.SOURCE_NEW       # the window is a long one
    watch.send(udp("10.0.0.9", SERVER, 1, 53))
    assert watch.engine.counters()["limits"]["forgotten"] == 1
    assert len(rows(watch)) == 4
    forgotten = ({f"10.0.0.{number}" for number in range(1, 5)} - rows(watch).keys()).pop()
    assert watch.send(udp(forgotten, SERVER, 2, 53)).reason is Reason.NONE


def test_a_flood_of_forged_sources_does_not_touch_the_counts_of_those_who_have_connections():
    watch = limited(Watch(max_entries=64), max_states=3, max_new=1000)
    for sport in range(1, 4):
        TcpConversation(watch, HOSTS[0], SERVER, sport=sport).open()
    random = Random(1)
    for _ in range(5000):
        watch.send(tcp(str(ip_address(0x0B000000 + random.randrange(2**24))), SERVER, 1, 80, SYN))
    assert rows(watch)[HOSTS[0]]["states"] == 3 == rows(watch)[HOSTS[0]]["connections"]
    assert watch.send(udp(HOSTS[0], SERVER, 1, 53)).reason is Reason.SOURCE_STATES
    limits = watch.engine.counters()["limits"]
    assert limits["sources"] <= 64
    assert limits["forgotten"] > 1000
    counts_are_the_tables(watch)


# -- what is one source --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prefix4", "prefix6", "one", "another", "stranger"), [
    (32, 64, "10.0.0.1", "10.0.0.1", "10.0.0.2"), (24, 64, "10.0.0.1", "10.0.0.250", "10.0.1.1"),
    (25, 64, "10.0.0.1", "10.0.0.127", "10.0.0.128"), (1, 64, "10.0.0.1", "127.0.0.1", "128.0.0.1"),
    (32, 64, "2001:db8:0:1::1", "2001:db8:0:1:ffff::9", "2001:db8:0:2::1"),
    (32, 128, "2001:db8::1", "2001:db8::1", "2001:db8::2"), (32, 57, "2001:db8::1", "2001:db8:0:7f::1", "2001:db8:0:80::1"),
])
def test_networks_count_as_one(prefix4, prefix6, one, another, stranger):
    watch = limited(Watch(), prefix4=prefix4, prefix6=prefix6, max_states=1)
    server = SERVER if "." in one else "2001:db8:9::1"
    assert watch.send(udp(one, server, 1, 53)).reason is Reason.NONE
    assert watch.send(udp(another, server, 2, 53)).reason is Reason.SOURCE_STATES
    assert watch.send(udp(stranger, server, 3, 53)).reason is Reason.NONE
    assert len(rows(watch)) == 2


def test_the_filter_says_which_connections_are_meant():
    only_ssh = connection_filter(["-p", "tcp", "--dport", "22"], RuleEnvironment())
    watch = limited(Watch(), max_states=1, match=only_ssh)
    for number in range(5):
        assert watch.send(tcp(HOSTS[0], SERVER, number + 1, 80, SYN)).reason is Reason.NONE
    assert rows(watch) == {}
    assert watch.send(tcp(HOSTS[0], SERVER, 6, 22, SYN)).reason is Reason.NONE
    assert watch.send(tcp(HOSTS[0], SERVER, 7, 22, SYN)).reason is Reason.SOURCE_STATES
    assert watch.send(tcp(HOSTS[0], SERVER, 8, 80, SYN)).reason is Reason.NONE
    assert rows(watch)[HOSTS[0]]["states"] == 1


def test_what_the_filter_meant_is_meant_after_a_takeover():
    memory = bytearray(Watch().engine.memory_size(100, 1))
    only_ssh = connection_filter(["-p", "tcp", "--dport", "22"], RuleEnvironment())
    first = limited(Watch(memory=memory, max_entries=100, expect_max=1), max_states=9, match=only_ssh)
    for sport, dport in enumerate((22, 22, 80, 80, 80), 1):
        first.send(tcp(HOSTS[0], SERVER, sport, dport, SYN))
    second = limited(Watch(memory=memory, max_entries=100, expect_max=1), max_states=9, match=only_ssh)
    assert rows(second)[HOSTS[0]]["states"] == 2
    third = limited(Watch(memory=memory, max_entries=100, expect_max=1), max_states=9)
    assert rows(third)[HOSTS[0]]["states"] == 5
