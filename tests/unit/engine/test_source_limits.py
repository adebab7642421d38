"""Limits: who is refused and who is listed for it, timeouts that shrink, and what a full table does."""
from __future__ import annotations

from ipaddress import ip_address
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.packets import ACK, CLIENT, SERVER, SYN, tcp, udp
from kit.sources import counts_are_the_tables, rows
from kit.traffic import TcpConversation, Watch
from pyfw.conntrack.sources import Sources
from pyfw.engine.import_connections import Foreign, import_connections
from pyfw.engine.source_limits import SourceLimits
from pyfw.enums import Hook, Reason, Verdict
from pyfw.explain.dry_run import dry_run
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.program.packet_filter import connection_filter
from pyfw.rules.program.program import Program

OTHER = "10.0.0.77"
CLIENT6, SERVER6 = "2001:db8:0:1::5", "2001:db8:9::1"
SETS = """create blocked hash:ip timeout 60 counters
create networks hash:net family inet6
create half hash:ip netmask 24
create tiny hash:ip maxelem 1
create ports hash:ip,port
"""


def limited(sets: dict[str, str] | None = None, *, max_entries: int = 1000, window_s: int = 10, prefix4: int = 32,
            prefix6: int = 64, flush: bool = False, match: list[str] | None = None, **limits: int) -> Watch:
    """A gateway with limits.  sets: overload4 and overload6 by name."""
    watch = Watch(max_entries=max_entries)
    environment = watch.engine.environment
    environment.sets.restore(SETS.encode(), watch.now_ns)
    found = {family: environment.sets.find(name) for family, name in (sets or {}).items()}
    watch.engine.limit_sources(SourceLimits(
        Sources(max_entries, prefix4, prefix6, window_s * 10**9, bytes(16)), flush=flush, prefix4=prefix4, prefix6=prefix6,
        match=connection_filter(match, environment) if match else None, **found, **limits))
    return watch


def listed(watch: Watch, name: str = "blocked") -> list[str]:
    return [line.split()[2] for text in watch.engine.environment.sets.saved(name, watch.now_ns)
            for line in text.splitlines() if line.startswith("add")]


def limits(watch: Watch) -> dict[str, int]:
    return watch.engine.counters()["limits"]


def open_tcp(watch: Watch, count: int, client: str = CLIENT, server: str = SERVER) -> list[TcpConversation]:
    return [TcpConversation(watch, client, server, sport=1000 + number).open() for number in range(count)]


# -- refusing ------------------------------------------------------------------------------------------------------------


def test_one_more_than_may_be_is_refused_and_another_source_is_not():
    watch = limited(max_states=3)
    open_tcp(watch, 3)
    refused = watch.send(tcp(CLIENT, SERVER, 4, 80, SYN))
    assert (refused.verdict, refused.reason, refused.rule) == (Verdict.DROP, Reason.SOURCE_STATES, None)
    assert refused.reason_text == "source has 3 connections (max_states 3)"
    assert watch.send(tcp(OTHER, SERVER, 4, 80, SYN)).verdict is Verdict.ACCEPT
    assert watch.reasons() == {"SOURCE_STATES": 1}


def test_known_connections_of_a_source_at_its_limit_go_on():
    watch = limited(max_states=2)
    first, _ = open_tcp(watch, 2)
    watch.send(udp(CLIENT, SERVER, 1, 53))
    assert first.client.data(100).verdict is Verdict.ACCEPT
    assert first.server.ack().verdict is Verdict.ACCEPT


def test_a_place_is_free_when_a_connection_ends():
    watch = limited(max_states=1)
    watch.send(udp(CLIENT, SERVER, 1, 53))
    assert watch.send(udp(CLIENT, SERVER, 2, 53)).reason is Reason.SOURCE_STATES
    watch.wait(31)
    watch.engine.sweep(watch.now_ns)
    assert watch.send(udp(CLIENT, SERVER, 2, 53)).reason is Reason.NONE


def test_what_rules_drop_counts_for_nothing_and_is_refused_by_them():
    watch = limited(max_states=1)
    watch.engine.load(Program(parse_save("*filter\n:FORWARD DROP\n-A FORWARD -p udp -j ACCEPT\nCOMMIT\n")))
    for sport in (1, 2):
        assert watch.send(tcp(CLIENT, SERVER, sport, 80, SYN)).reason is Reason.POLICY
    assert watch.send(udp(CLIENT, SERVER, 1, 53)).reason is Reason.NONE
    assert watch.send(udp(CLIENT, SERVER, 2, 53)).reason is Reason.SOURCE_STATES
    assert watch.send(tcp(CLIENT, SERVER, 3, 80, SYN)).reason is Reason.POLICY


def test_what_this_machine_begins_is_counted_and_never_refused():
    watch = limited(max_states=2)
    for sport in range(1, 6):
        assert watch.send(udp(CLIENT, SERVER, sport, 53), Hook.OUTPUT).reason is Reason.NONE
    assert rows(watch)[CLIENT]["states"] == 5
    assert watch.send(udp(CLIENT, SERVER, 9, 53)).reason is Reason.SOURCE_STATES       # the control


def test_the_question_foretells_it_and_changes_nothing():
    watch = limited({"overload4": "blocked"}, max_states=3)
    open_tcp(watch, 2)

    def foretold(source: str = CLIENT):
        return dry_run(watch.engine, tcp(source, SERVER, 9, 80, SYN), Hook.FORWARD, "eth0", "eth1", watch.now_ns).judgement

    for _ in range(3):
        assert foretold().verdict is Verdict.ACCEPT
    assert rows(watch)[CLIENT]["states"] == 2
    TcpConversation(watch, sport=5).open()
    before = watch.engine.counters()
    assert (foretold().reason, foretold().rule, foretold(OTHER).reason) == (Reason.SOURCE_STATES, None, Reason.NONE)
    assert watch.engine.counters() == before
    assert listed(watch) == []
    assert watch.send(tcp(CLIENT, SERVER, 9, 80, SYN)).reason is Reason.SOURCE_STATES
    assert listed(watch) == [CLIENT]


# -- the overload set ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [{"max_states": 4}, {"max_new": 4}])
def test_completed_handshakes_beyond_the_limit_list_their_source(limit):
    watch = limited({"overload4": "blocked"}, **limit)
    watch.engine.load(Program(parse_save("*filter\n-A FORWARD -m set --match-set blocked src -j DROP\nCOMMIT\n"),
                              watch.engine.environment))
    open_tcp(watch, 4)
    assert listed(watch) == []
    watch.send(tcp(CLIENT, SERVER, 9, 80, SYN))
    assert listed(watch) == [CLIENT]
    assert limits(watch)["overloaded"] == 1
    assert watch.send(tcp(CLIENT, SERVER, 9, 80, SYN)).reason is Reason.RULE
    assert watch.send(tcp(OTHER, SERVER, 9, 80, SYN)).reason is Reason.NONE
    watch.wait(61)
    assert listed(watch) == []                      # the set's own timeout


@pytest.mark.parametrize("limit", [{"max_states": 4}, {"max_new": 4}])
def test_forged_packets_list_nobody(limit):
    """Somebody else sends SYNs and datagrams in the client's name, who has three connections of its own."""
    watch = limited({"overload4": "blocked"}, flush=True, **limit)
    open_tcp(watch, 3)
    for sport in range(1, 100):
        watch.send(tcp(CLIENT, SERVER, sport, 80, SYN))
        watch.send(udp(CLIENT, SERVER, sport, 53))
        watch.send(tcp(CLIENT, SERVER, sport, 81, ACK, seq=1, ack=1))
    assert listed(watch) == []
    assert limits(watch)["overloaded"] == 0
    watch.engine.sweep(watch.now_ns)
    assert rows(watch)[CLIENT]["connections"] == 3
    assert watch.engine.counters()["verdicts"]["DROP"] > 200        # the control: they were too many


def test_handshakes_that_one_side_made_up_list_nobody():
    """SYN, SYN/ACK and ACK, all from the client's side: so anybody there could have it listed."""
    watch = limited({"overload4": "blocked"}, flush=True, max_states=3)
    for sport in range(1, 4):
        for packet in (tcp(CLIENT, SERVER, sport, 80, SYN, seq=1), tcp(SERVER, CLIENT, 80, sport, SYN | ACK, seq=9, ack=2),
                       tcp(CLIENT, SERVER, sport, 80, ACK, seq=2, ack=10)):
            watch.send(packet, links=("eth0", "eth1"))
    assert all(record["assured"] for record in watch.records())
    assert watch.send(tcp(CLIENT, SERVER, 4, 80, SYN)).reason is Reason.SOURCE_STATES
    assert listed(watch) == []
    assert limits(watch)["overloaded"] == 0


def test_a_network_is_listed_whole():
    watch = limited({"overload6": "networks"}, max_states=2)
    open_tcp(watch, 2, CLIENT6, SERVER6)
    watch.send(tcp("2001:db8:0:1:ffff::1", SERVER6, 9, 80, SYN))
    assert listed(watch, "networks") == ["2001:db8:0:1::/64"]


def test_a_set_with_a_netmask_takes_the_network():
    watch = limited({"overload4": "half"}, max_states=2, prefix4=24)
    open_tcp(watch, 2)
    watch.send(tcp(CLIENT, SERVER, 9, 80, SYN))
    assert listed(watch, "half") == [CLIENT.rpartition(".")[0] + ".0"]


def test_a_family_without_a_set_is_refused_only():
    watch = limited({"overload4": "blocked"}, max_states=2)
    open_tcp(watch, 2, CLIENT6, SERVER6)
    assert watch.send(tcp(CLIENT6, SERVER6, 9, 80, SYN)).reason is Reason.SOURCE_STATES
    assert limits(watch)["overloaded"] == limits(watch)["not_listed"] == 0


def test_a_set_that_is_full_is_counted():
    watch = limited({"overload4": "tiny"}, max_states=1)
    for source in (CLIENT, OTHER):
        open_tcp(watch, 1, source)
        watch.send(tcp(source, SERVER, 9, 80, SYN))
    assert listed(watch, "tiny") == [CLIENT]
    assert (limits(watch)["overloaded"], limits(watch)["not_listed"]) == (1, 1)


def test_a_set_of_another_kind_that_took_the_name_is_counted_and_left_alone():
    watch = limited({"overload4": "blocked"}, max_states=1)
    sets = watch.engine.environment.sets
    sets.find("blocked").swap(sets.find("ports"))
    open_tcp(watch, 1)
    watch.send(tcp(CLIENT, SERVER, 9, 80, SYN))
    assert listed(watch) == []
    assert limits(watch)["not_listed"] == 1


def test_a_set_that_limits_refer_to_cannot_be_destroyed():
    watch = limited({"overload4": "blocked"}, max_states=1)
    with pytest.raises(ValueError, match="in use"):
        watch.engine.environment.sets.destroy("blocked")


# -- flush ---------------------------------------------------------------------------------------------------------------


def test_a_listed_source_loses_all_its_connections_and_no_other_does():
    watch = limited({"overload4": "blocked"}, max_states=700, flush=True)
    open_tcp(watch, 700)
    open_tcp(watch, 5, OTHER)
    watch.engine.sweep(watch.now_ns)
    assert watch.table()["entries"] == 705
    watch.send(tcp(CLIENT, SERVER, 1, 80, SYN))
    assert watch.engine.sweep(watch.now_ns) == 700
    assert limits(watch)["flushed"] == 700
    assert {record["original"]["src"] for record in watch.records()} == {OTHER}
    assert watch.table()["entries"] == 5
    counts_are_the_tables(watch)


@pytest.mark.parametrize("window_s", [0, 10**6])
def test_a_source_that_ends_by_itself_before_the_flush(window_s):
    """Its doom is over with its connections: it may begin others, and be doomed again."""
    watch = limited({"overload4": "blocked"}, max_states=2, flush=True, window_s=window_s)
    for source in (CLIENT, OTHER):
        for conversation in open_tcp(watch, 2, source):
            conversation.close()
        watch.send(tcp(source, SERVER, 9, 81, SYN))
    assert sorted(listed(watch)) == sorted([CLIENT, OTHER])
    watch.wait(121)                                 # TIME_WAIT
    assert watch.engine.sweep(watch.now_ns) == 4
    assert limits(watch) == {"sources": 2 if window_s else 0, "forgotten": 0, "overloaded": 2, "not_listed": 0, "flushed": 0}
    for source in (CLIENT, OTHER):
        open_tcp(watch, 2, source)
    watch.engine.sweep(watch.now_ns)
    assert (rows(watch)[CLIENT]["states"], rows(watch)[OTHER]["states"]) == (2, 2)
    watch.send(tcp(CLIENT, SERVER, 9, 81, SYN))
    assert watch.engine.sweep(watch.now_ns) == 2 == limits(watch)["flushed"]
    assert rows(watch)[OTHER]["states"] == 2
    counts_are_the_tables(watch)


def test_without_flush_they_stay():
    watch = limited({"overload4": "blocked"}, max_states=3)
    open_tcp(watch, 3)
    watch.send(tcp(CLIENT, SERVER, 9, 80, SYN))
    watch.engine.sweep(watch.now_ns)
    assert listed(watch) == [CLIENT]
    assert watch.table()["entries"] == 3


# -- adaptive timeouts ---------------------------------------------------------------------------------------------------


def scaled(timeout_s: float, entries: int, start: int, end: int) -> float:
    return timeout_s if entries <= start else timeout_s * max(0, end - entries) / (end - start)


def adaptive_counters(watch: Watch) -> dict:
    return watch.engine.counters()["adaptive"]


def question(number: int) -> bytes:
    return udp(f"10.9.{number >> 8}.{number & 255}", SERVER, 5000, 53)


def test_timeouts_shrink_from_the_start_on():
    watch = Watch(max_entries=100, adaptive=(10, 30))
    for number in range(28):
        watch.send(question(number))
        newest = max(watch.records(), key=lambda record: record["id"])
        assert newest["timeout"] == pytest.approx(scaled(30, number, 10, 30), abs=1e-6)
        assert adaptive_counters(watch)["active"] == (number + 1 > 10)


def test_the_sweep_shortens_what_was_set_before_and_the_listing_shows_it():
    watch = Watch(max_entries=100, adaptive=(2, 12))
    conversation = TcpConversation(watch).open()
    assert conversation.timeout_s == pytest.approx(432000)
    for number in range(6):
        watch.send(question(number))
    watch.engine.sweep(watch.now_ns)
    assert conversation.timeout_s == pytest.approx(432000 * 5 / 10)
    line = next(line for line in watch.lines() if line.startswith("tcp"))
    assert line.split()[2] == "216000"


def test_connections_that_end_early_are_counted():
    watch = Watch(max_entries=100, adaptive=(5, 20))
    for number in range(15):
        watch.send(question(number))
    watch.wait(10.5)                                # 30 s * 5 / 15
    freed = watch.engine.sweep(watch.now_ns)
    assert 0 < freed < 15
    assert (adaptive_counters(watch)["ended_early"], watch.table()["expired"]) == (freed, freed)
    watch.wait(30)
    watch.engine.sweep(watch.now_ns)
    assert watch.table()["entries"] == 0
    assert adaptive_counters(watch)["ended_early"] < 15


def test_at_the_end_nothing_lives():
    watch = Watch(max_entries=100, adaptive=(0, 10))
    for number in range(10):
        watch.send(question(number))
    assert watch.send(question(10)).verdict is Verdict.ACCEPT
    watch.engine.sweep(watch.now_ns)
    assert adaptive_counters(watch)["ended_early"] > 0


def test_what_windows_shorten_stays_short():
    """FINs out of the window from both sides bring an ASSURED connection down to 300 s; the sweep does not lift that."""
    watch = Watch(max_entries=100, adaptive=(50, 100))
    conversation = TcpConversation(watch).open()
    assert conversation.timeout_s == pytest.approx(432000)
    for end in (conversation.client, conversation.server):
        end.fin(seq=end.seq + 10**6, ack=end.ack_number)
    assert conversation.timeout_s == pytest.approx(300)
    for number in range(60):
        watch.send(question(number))
    watch.engine.sweep(watch.now_ns)
    assert conversation.timeout_s == pytest.approx(300 * 39 / 50)


def test_the_question_knows_the_timeout():
    watch = Watch(max_entries=100, adaptive=(5, 25))
    for number in range(15):
        watch.send(question(number))
    for packet in (question(15), question(3)):
        answer = dry_run(watch.engine, packet, Hook.FORWARD, "eth0", "eth1", watch.now_ns)
        watch.wait(0.001)
        watch.send(packet)
        shown = next(line for line in watch.lines("nf") if line.split()[5] == answer.packet_trace.connection.split()[5])
        assert int(shown.split()[4]) in (seconds := int(answer.packet_trace.connection.split()[4]), seconds - 1)
        assert seconds < 30


def test_connections_that_were_taken_over_are_left_until_their_next_packet():
    memory = bytearray(Watch().engine.memory_size(100, 1))
    first = Watch(memory=memory, max_entries=100, expect_max=1)
    conversation = TcpConversation(first).open()
    for number in range(9):
        first.send(question(number))
    second = Watch(memory=memory, max_entries=100, expect_max=1, adaptive=(5, 15))
    second.engine.sweep(second.now_ns)
    assert max(record["timeout"] for record in second.records()) == pytest.approx(432000)
    conversation.client.watch = second
    conversation.client.data(5)                     # nobody has acknowledged it: 300 s
    assert max(record["timeout"] for record in second.records()) == pytest.approx(300 * 5 / 10)


def test_a_slot_that_a_successor_gave_away_has_its_new_owners_timeout():
    """The successor is gone again: what the first one knew of the slots is of the past."""
    memory = bytearray(Watch().engine.memory_size(100, 1))
    settings = {"memory": memory, "max_entries": 100, "expect_max": 1}
    first = Watch(**settings, adaptive=(2, 12))
    for number in range(4):
        first.send(question(number))
    second = Watch(**settings)
    second.wait(29)
    while second.engine.sweep(second.now_ns + 10**9):
        pass
    for number in range(10, 14):
        second.send(question(number))
    first.now_s = second.now_s
    first.engine.relink()
    first.wait(5)
    first.engine.sweep(first.now_ns)
    assert [record["timeout"] for record in first.records()] == pytest.approx([25.0] * 4)


def test_connections_that_the_kernel_tracked_keep_the_timeout_they_came_with():
    watch = Watch(max_entries=100, adaptive=(2, 12))
    for number in range(3):
        watch.send(question(number))
    import_connections(watch.engine, [Foreign(ip_address(OTHER).packed, ip_address(SERVER).packed, 17, 1, 53, timeout_s=500)], watch.now_ns)
    watch.engine.sweep(watch.now_ns)
    assert max(record["timeout"] for record in watch.records()) == pytest.approx(500)


def test_nothing_is_scaled_unless_it_is_asked_for():
    watch = Watch(max_entries=10)
    for number in range(10):
        watch.send(question(number))
    watch.engine.sweep(watch.now_ns)
    assert {record["timeout"] for record in watch.records()} == {30.0}
    assert adaptive_counters(watch) == {} == limits(watch)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), start=st.integers(0, 20), span=st.integers(1, 40))
def test_a_sweep_leaves_those_whose_time_is_not_over(seed, start, span):
    """Against a model of since when each runs: what is gone had to go, what is left may stay, and the early are counted."""
    random, end = Random(seed), start + span
    watch = Watch(max_entries=64, adaptive=(start, end))
    since: dict[str, float] = {}
    most: dict[str, int] = {}                       # entries there have been since
    early = 0
    for _ in range(40):
        for _ in range(random.randrange(6)):
            number = random.randrange(40)
            name, expired = f"10.9.0.{number}", watch.table()["expired"]
            watch.send(question(number))
            if watch.table()["expired"] > expired:          # it was found, and its time was over
                early += since[name] + 30 > watch.now_s
            since[name], most[name] = watch.now_s, watch.table()["entries"]
        watch.wait(random.choice((0.1, 1, 5, 20)))
        entries = watch.table()["entries"]
        watch.engine.sweep(watch.now_ns)
        left = {record["original"]["src"]: record["timeout"] for record in watch.records()}
        assert len(left) == watch.table()["entries"]
        for name in since.keys() - left.keys():
            begun = since.pop(name)
            early += begun + 30 > watch.now_s
            assert begun + scaled(30, max(entries, most[name]), start, end) <= watch.now_s + 1e-6
        for name, timeout_s in left.items():
            most[name] = max(entries, most[name])
            assert timeout_s <= since[name] - watch.now_s + scaled(30, len(left), start, end) + 1e-6
        assert adaptive_counters(watch)["ended_early"] == early


# -- a full table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("evict", [True, False])
def test_a_full_table_evicts_or_drops(evict):
    watch = Watch(max_entries=4, evict=evict)
    for number in range(4):
        watch.send(question(number))
    judgement = watch.send(question(4))
    assert judgement.reason is (Reason.NONE if evict else Reason.TABLE_FULL)
    table = watch.table()
    assert (table["early_drop"], table["table_full"]) == ((1, 0) if evict else (0, 1))
    full = dry_run(watch.engine, question(5), Hook.FORWARD, "eth0", "eth1", watch.now_ns)
    assert (full.full, full.judgement.reason) == ((False, Reason.NONE) if evict else (True, Reason.TABLE_FULL))


def test_an_expired_entry_gives_way_in_any_case_and_is_no_eviction():
    watch = Watch(max_entries=4, evict=False)
    for number in range(4):
        watch.send(question(number))
    watch.wait(31)
    assert watch.send(question(4)).reason is Reason.NONE
    assert (watch.table()["early_drop"], watch.table()["expired"]) == (0, 1)
