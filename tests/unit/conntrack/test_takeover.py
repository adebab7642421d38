"""A successor takes over what a predecessor left in the mapped file: all of it, the sane part of it, or nothing."""
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.memory import (
    ANNOUNCER,
    BOOT,
    ENTRIES,
    ENTRY_BYTES,
    EXPECTATIONS,
    HEADER_BYTES,
    OTHER_BOOT,
    TABLE_BYTES,
    Announcer,
    busy,
    entry,
    watch_over,
)
from kit.packets import CLIENT, SERVER, SYN, chunk, icmp, sctp, tcp, udp
from kit.traffic import TcpConversation, Watch
from pyfw.engine.engine import Engine
from pyfw.enums import CtState
from pyfw.helpers import HelperBinding
from pyfw.observe.dump import expect_text


def test_a_successor_has_the_same_table():
    first, memory = busy()
    second = watch_over(memory)
    assert second.engine.adopted == 11
    assert second.lines("nf") == first.lines("nf")
    assert second.records() == first.records()
    assert expect_text(second.engine, second.now_ns) == expect_text(first.engine, first.now_ns)


def test_connections_go_on_where_they_were():
    first, memory = busy()
    talking = TcpConversation(first, sport=8).open()
    second = watch_over(memory)
    talking.client.watch = talking.server.watch = second
    assert talking.client.data(100).state is CtState.ESTABLISHED
    assert talking.server.ack().state is CtState.ESTABLISHED
    assert second.reasons() == {}


def test_expectations_are_kept_with_their_masters():
    _, memory = busy()
    second = watch_over(memory)
    assert second.send(tcp(CLIENT, SERVER, 33, 7004, SYN)).state is CtState.RELATED
    assert second.send(tcp(CLIENT, SERVER, 34, 7004, SYN)).state is CtState.NEW, "it was used"


def test_a_new_id_is_none_that_the_predecessor_gave():
    _, memory = busy()
    second = watch_over(memory)
    second.send(udp(CLIENT, SERVER, 1111, 53))
    assert len({record["id"] for record in second.records()}) == 12


def test_the_time_that_passed_counts():
    _, memory = busy()
    second = watch_over(memory)
    second.wait(1000)
    assert [record["state"] for record in second.records()] == ["ESTABLISHED"] * 2


def test_a_used_table_is_taken_over_again_and_again():
    first, memory = busy()
    for _ in range(3):
        assert watch_over(memory).lines() == first.lines()


def test_a_successor_has_a_hash_of_its_own():
    """Whoever has seen the file, or damaged it, does not know where entries stand."""
    _, memory = busy()
    before = bytes(memory[32:48])
    watch_over(memory)
    assert before != bytes(memory[32:48])


@pytest.mark.parametrize("change", [
    {"boot_id": OTHER_BOOT}, {"max_entries": ENTRIES - 1}, {"expect_max": EXPECTATIONS - 1},
], ids=lambda change: next(iter(change)))
def test_the_file_of_another_boot_or_layout_is_not_taken_over(change):
    _, memory = busy()
    second = watch_over(memory, **change)
    assert second.engine.adopted == 0
    assert second.records() == []
    assert expect_text(second.engine, second.now_ns) == ""
    assert second.send(udp(SERVER, CLIENT, 53, 5)).state is CtState.NEW


@pytest.mark.parametrize("position", [0, 7, 8, 12, 16, 31])
def test_a_damaged_header_is_not_believed(position):
    _, memory = busy()
    memory[position] ^= 0x40
    assert watch_over(memory).records() == []


def test_more_slots_in_use_than_there_are_is_not_believed():
    _, memory = busy()
    used = memory.index((11).to_bytes(4, "little"), 48, 96)
    memory[used:used + 4] = (ENTRIES + 1).to_bytes(4, "little")
    assert watch_over(memory).records() == []


def test_memory_that_never_was_a_table():
    memory = bytearray(Random(1).randbytes(Engine.memory_size(ENTRIES, EXPECTATIONS)))
    watch = watch_over(memory)
    assert watch.engine.adopted == 0
    assert watch.records() == []


@pytest.mark.parametrize("slot", range(1, 12))
def test_one_damaged_entry_is_left_out_and_the_others_survive(slot):
    first, memory = busy()
    before = first.lines("nf")
    family = entry(slot) + 37               # Key.family
    assert memory[family] in (2, 10)
    memory[family] = 99
    assert watch_over(memory).lines("nf") == before[:slot - 1] + before[slot:]


def test_a_half_written_entry_is_none():
    """What a process leaves that died between entering a connection and marking it CONFIRMED."""
    first, memory = busy()
    before = first.lines()
    status = entry(3) + 44
    assert memory[status] & 1
    memory[status] &= 0xFE
    assert watch_over(memory).lines() == before[:2] + before[3:]


def test_two_entries_of_one_tuple_are_one():
    _, memory = busy()
    memory[entry(2):entry(3)] = memory[entry(1):entry(2)]
    second = watch_over(memory)
    assert second.engine.adopted == 10 == len(second.records())


def test_freed_slots_are_used_again():
    first, memory = busy()
    first.wait(1000)
    first.engine.sweep(first.now_ns)
    second = watch_over(memory)
    second.now_s = first.now_s
    for number in range(ENTRIES - 2):
        second.send(udp(CLIENT, SERVER, number + 1, 53))
    assert (second.table()["entries"], second.table()["early_drop"]) == (ENTRIES, 0)


@pytest.mark.parametrize("entries", [ENTRIES, ENTRIES + 36])
def test_of_a_clock_that_went_back_nothing_lives_for_ever(entries):
    """As of a predecessor in another time namespace, or of damage: each lives as long as if it were renewed now, at most."""
    first, memory = busy()
    ahead_s = first.now_s
    second = watch_over(memory) if entries == ENTRIES else watch_after(memory, entries)
    second.now_s = 10.0
    assert all(record["timeout"] > ahead_s - 20 for record in second.records()), "the control"
    second.engine.bound_lives(second.now_ns)
    assert len(second.records()) == 11
    left = {(record["protocol"], record["state"]): record["timeout"] for record in second.records()}
    assert left.pop((6, "ESTABLISHED")) < 432000
    assert left == {(6, "TIME_WAIT"): 120, (6, "SYN_SENT"): 120, (17, None): 120, (1, None): 30, (58, None): 30,
                    (47, None): 180, (103, None): 600, (132, "HEARTBEAT_SENT"): 30}
    TcpConversation(second, CLIENT, SERVER, sport=77).open()
    second.wait(601)
    assert expect_text(second.engine, second.now_ns) == ""
    assert [record["state"] for record in second.records()] == ["ESTABLISHED"] * 4


def test_of_a_clock_that_went_on_nothing_lives_longer():
    first, memory = busy()
    before = [(record["timeout"], record["original"]) for record in first.records()]
    second = watch_over(memory)
    second.engine.bound_lives(second.now_ns)
    assert [(record["timeout"], record["original"]) for record in second.records()] == before


# -- the table has another size now --------------------------------------------------------------------------------

def watch_after(previous: bytes, entries: int, boot_id: bytes = BOOT) -> Watch:
    """A gateway of `entries` connections, whose predecessor left `previous`."""
    memory = bytearray(Engine.memory_size(entries, EXPECTATIONS))
    return watch_over(memory, boot_id, max_entries=entries, previous=previous)


@pytest.mark.parametrize("entries", [11, 12, 100, 5000])
def test_a_table_of_another_size_is_copied(entries):
    first, memory = busy()
    second = watch_after(memory, entries)
    assert second.engine.adopted == 11
    assert sorted(second.lines("nf")) == sorted(first.lines("nf"))
    assert {record["id"] for record in second.records()} == {record["id"] for record in first.records()}
    if entries > 11:                    # else which entry gives way, if any, is up to the hash's random key
        second.send(udp(CLIENT, SERVER, 1111, 53))
        assert max(record["id"] for record in second.records()) == 12


@pytest.mark.parametrize("entry_bytes", [ENTRY_BYTES - 2, ENTRY_BYTES + 64])
def test_a_table_whose_entries_have_fewer_or_more_fields_is_copied(entry_bytes):
    """Fields are appended, never moved: the table of an older version is read, and that of a newer one."""
    first, memory = busy()
    other = bytearray(memory[:HEADER_BYTES])
    other[12:16] = entry_bytes.to_bytes(4, "little")
    for slot in range(ENTRIES + 1):
        other += memory[entry(slot):entry(slot + 1)][:entry_bytes].ljust(entry_bytes, b"\xFF")
    second = watch_after(other, ENTRIES)
    assert sorted(second.lines("nf")) == sorted(first.lines("nf"))


def test_of_a_table_that_is_too_large_the_assured_connections_are_copied():
    first, memory = busy()
    assured = [line for line in first.lines("nf") if "[ASSURED]" in line]
    assert sorted(watch_after(memory, len(assured)).lines("nf")) == sorted(assured)


@pytest.mark.parametrize("previous", [b"", bytes(100), bytes(HEADER_BYTES), bytes(10**5)])
def test_what_is_no_table_is_not_copied(previous):
    assert watch_after(previous, 100).records() == []


def test_the_table_of_another_boot_is_not_copied():
    assert watch_after(busy()[1], 100, OTHER_BOOT).records() == []


def test_a_table_cut_short_is_not_copied():
    assert watch_after(bytes(busy()[1][:entry(5)]), 100).records() == []


# -- damage --------------------------------------------------------------------------------------------------------

PREDECESSOR, MEMORY = busy()


@settings(max_examples=300)
@given(damage=st.lists(st.tuples(st.integers(0, len(MEMORY) - 1), st.integers(1, 255)), max_size=40),
       entries=st.integers(1, 20))
def test_copying_from_damaged_memory_never_crashes(damage, entries):
    memory = bytearray(MEMORY)
    for position, bits in damage:
        memory[position] ^= bits
    survives_everything(watch_after(bytes(memory), entries))


@settings(max_examples=300)
@given(damage=st.lists(st.tuples(st.integers(HEADER_BYTES, len(MEMORY) - 1), st.integers(1, 255)), max_size=40))
def test_damage_anywhere_behind_the_header_never_crashes(damage):
    memory = bytearray(MEMORY)
    for position, bits in damage:
        memory[position] ^= bits
    survives_everything(watch_over(memory))


@settings(max_examples=300)
@given(where=st.integers(32, 600), what=st.binary(min_size=1, max_size=64))
def test_damage_to_the_rest_of_the_header_never_crashes(where, what):
    memory = bytearray(MEMORY)
    memory[where:where + len(what)] = what
    survives_everything(watch_over(memory))


@settings(max_examples=200)
@given(what=st.binary(min_size=48, max_size=48 * (EXPECTATIONS + 1)))
def test_expectations_of_any_bytes_never_crash(what):
    memory = bytearray(MEMORY)
    memory[TABLE_BYTES:TABLE_BYTES + len(what)] = what
    survives_everything(watch_over(memory))


def survives_everything(watch: Watch) -> None:
    """Each way to read what was adopted."""
    for now_s in (0.0, watch.now_s, 1e9):
        watch.now_s = now_s
        watch.records()
        watch.lines("nf")
        expect_text(watch.engine, watch.now_ns)
    watch.now_s = PREDECESSOR.now_s
    for packet in (tcp(CLIENT, SERVER, 33, 7004, SYN), udp(SERVER, CLIENT, 53, 5), icmp(SERVER, CLIENT, 0, id=9),
                   sctp(SERVER, CLIENT, 9, 9, 1, chunk(5)), tcp(CLIENT, SERVER, 6, 80, 16, seq=1001, ack=5001)):
        watch.send(packet)
    for _ in range(3):
        watch.engine.sweep(watch.now_ns + 10**15)


def test_damage_to_one_entry_leaves_the_others():
    random = Random(2)
    before = PREDECESSOR.lines("nf")
    for _ in range(300):
        memory, slot = bytearray(MEMORY), random.randrange(1, 12)
        memory[entry(slot):entry(slot + 1)] = random.randbytes(ENTRY_BYTES)
        others = before[:slot - 1] + before[slot:]
        assert [line for line in watch_over(memory).lines("nf") if line in others] == others


# -- helpers have other numbers now --------------------------------------------------------------------------------

def test_connections_keep_their_helper_though_its_number_changed():
    first, memory = busy()
    talking = TcpConversation(first, sport=44, dport=6100).open()
    second = watch_over(memory, helpers=(HelperBinding(Announcer("another"), (6200,)), ANNOUNCER))
    talking.client.watch = talking.server.watch = second
    talking.client.data(10)
    assert second.engine.counters()["expectations"]["created"] == 1
    assert all(line.endswith(" announcer") for line in expect_text(second.engine, second.now_ns).splitlines())


def test_a_helper_that_is_gone_leaves_its_connections_without():
    first, memory = busy()
    talking = TcpConversation(first, sport=44, dport=6100).open()
    second = watch_over(memory, helpers=())
    talking.client.watch = talking.server.watch = second
    assert talking.client.data(10).state is CtState.ESTABLISHED
    assert second.engine.counters()["expectations"]["created"] == 0
