"""The state table: finding from both sides, confirming, expiry, sweeping, eviction, and its hash."""
import struct
from random import Random

import pytest

from kit.packets import CLIENT, SERVER, SYN, ip, tcp, udp
from kit.traffic import TcpConversation, Watch
from pyfw.conntrack.table import siphash_words
from pyfw.engine.engine import Engine
from pyfw.enums import CtState, Direction, Hook, Reason, Verdict
from pyfw.observe.dump import count_entries
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.program.program import Program

NEW, ESTABLISHED, RELATED = CtState.NEW, CtState.ESTABLISHED, CtState.RELATED


def question(number: int, dport: int = 53) -> bytes:
    """Datagrams of as many connections as there are numbers."""
    return udp(f"10.{1 + (number >> 16)}.{number >> 8 & 255}.{number & 255}", SERVER, 5000, dport)


def full_of_assured(entries: int) -> Watch:
    watch = Watch(max_entries=entries)
    for sport in range(entries):
        TcpConversation(watch, sport=sport + 1).open()
    return watch


# -- size ----------------------------------------------------------------------------------------------------------

def test_a_connection_takes_three_cache_lines():
    assert Engine.memory_size(1001, 1) - Engine.memory_size(1000, 1) == 192


@pytest.mark.parametrize("entries", [1, 2, 1000, 1024, 1025, 65537, 1_000_000])
def test_a_connection_with_its_share_of_the_index_takes_at_most_200_bytes(entries):
    buckets = 1
    while buckets < entries:
        buckets *= 2
    assert 192 + 4 * buckets / entries <= 200


# -- both directions are one entry ---------------------------------------------------------------------------------

@pytest.mark.parametrize("family", [4, 6])
def test_a_tuple_and_its_inverse_are_found_in_one_place(family):
    random, watch = Random(family), Watch()
    for _ in range(200):
        ends = [f"{random.randrange(1, 224)}.0.{random.randrange(256)}.{random.randrange(256)}" if family == 4 else
                f"{random.randrange(2**16):x}::{random.randrange(2**16):x}" for _ in range(2)]
        ports = random.randrange(2**16), random.randrange(2**16)
        there = watch.send(udp(*ends, *ports))
        back = watch.send(udp(*ends[::-1], *ports[::-1]))
        assert (there.state, there.direction) == (NEW, Direction.ORIGINAL)
        assert (back.state, back.direction) == (ESTABLISHED, Direction.REPLY)
    assert watch.table()["entries"] == 200


@pytest.mark.parametrize("other", [
    udp(CLIENT, "10.0.1.3", 5000, 53), udp("10.0.0.3", SERVER, 5000, 53), udp(CLIENT, SERVER, 5001, 53),
    udp(CLIENT, SERVER, 5000, 54), udp(CLIENT, SERVER, 53, 5000), udp(SERVER, CLIENT, 5000, 53),
    ip(CLIENT, SERVER, 33, struct.pack("!HH", 5000, 53)), tcp(CLIENT, SERVER, 5000, 53, SYN),
])
def test_every_field_tells_connections_apart(watch, other):
    watch.send(udp(CLIENT, SERVER, 5000, 53))
    assert watch.send(other).state is NEW
    assert watch.table()["entries"] == 2


def test_a_packet_to_itself_answers_itself(watch):
    """The land attack: one tuple is both directions, and its second packet goes in the reply's, as in the kernel."""
    land = udp(CLIENT, CLIENT, 7, 7)
    assert watch.send(land, Hook.OUTPUT, ("", "lo")).direction is Direction.ORIGINAL
    assert watch.send(land, Hook.INPUT, ("lo", "")).direction is Direction.REPLY
    assert watch.table()["entries"] == 1


def test_a_land_syn_is_a_simultaneous_open(watch):
    land = tcp(CLIENT, CLIENT, 7, 7, SYN, seq=1)
    watch.send(land, links=("", ""))
    watch.send(land, links=("", ""))
    assert watch.only()["state"] == "SYN_SENT2"


# -- confirm after accept ------------------------------------------------------------------------------------------

def test_a_packet_that_rules_drop_leaves_no_trace(watch):
    watch.engine.load(Program(parse_save("*filter\n:FORWARD DROP\n-A FORWARD -p udp --dport 53 -j ACCEPT\nCOMMIT\n")))
    assert watch.send(question(1, dport=54)).verdict is Verdict.DROP
    assert watch.records() == []
    assert watch.table()["created"] == 0
    assert watch.send(question(1, dport=53)).verdict is Verdict.ACCEPT
    assert watch.table()["created"] == 1


def test_a_dropped_first_packet_evicts_nobody():
    watch = Watch(max_entries=4)
    for number in range(4):
        watch.send(question(number))
    watch.engine.load(Program(parse_save("*filter\n:FORWARD DROP\nCOMMIT\n")))
    assert watch.send(question(9)).reason is Reason.POLICY
    assert watch.table()["entries"] == 4
    assert watch.table()["early_drop"] == 0


def test_what_a_packet_does_to_a_known_connection_stays_though_rules_drop_it(tcp):
    """As in the kernel, whose tracking comes before its rules."""
    tcp.client.syn()
    tcp.watch.engine.load(Program(parse_save("*filter\n:FORWARD DROP\nCOMMIT\n")))
    assert tcp.server.synack().verdict is Verdict.DROP
    assert tcp.state == "SYN_RECV"


def test_notrack_leaves_no_trace(watch):
    watch.engine.load(Program(parse_save("*raw\n-A PREROUTING -p udp -j CT --notrack\nCOMMIT\n")))
    judgement = watch.send(question(1))
    assert (judgement.state, judgement.verdict) == (CtState.UNTRACKED, Verdict.ACCEPT)
    assert watch.records() == []


def test_ids_are_never_used_twice(watch):
    seen = set()
    for number in range(50):
        watch.send(question(number))
        seen.add(watch.only()["id"])
        watch.wait(31)
        watch.engine.sweep(watch.now_ns)
    assert len(seen) == 50


# -- expiry --------------------------------------------------------------------------------------------------------

def test_an_expired_entry_is_invisible_before_it_is_swept(watch):
    watch.send(question(1))
    watch.wait(29.999)
    assert len(watch.records()) == len(watch.lines()) == count_entries(watch.engine, watch.now_ns) == 1
    watch.wait(0.001)
    assert watch.table()["entries"] == 1
    assert watch.records() == watch.lines() == []
    assert count_entries(watch.engine, watch.now_ns) == 0


@pytest.mark.parametrize(("again", "direction"), [
    (question(1), Direction.ORIGINAL), (udp(SERVER, "10.1.0.1", 53, 5000), Direction.ORIGINAL),
], ids=["the same side", "the other side"])
def test_a_packet_that_comes_too_late_begins_anew(watch, again, direction):
    watch.send(question(1))
    former = watch.only()["id"]
    watch.wait(30)
    judgement = watch.send(again)
    assert (judgement.state, judgement.direction) == (NEW, direction)
    assert watch.only()["id"] != former
    assert (watch.table()["expired"], watch.table()["entries"]) == (1, 1)


def test_the_sweep_goes_through_the_table_in_slices():
    watch = Watch(max_entries=10000)
    for number in range(10000):
        watch.send(question(number))
    watch.wait(31)
    freed = [watch.engine.sweep(watch.now_ns) for _ in range(3)]
    assert sum(freed) == 10000
    assert max(freed) <= 8 * 512
    assert watch.engine.sweep(watch.now_ns) == 0
    assert watch.table()["entries"] == 0
    assert watch.table()["expired"] == 10000


def test_the_sweep_leaves_the_living(watch):
    for number in range(10):
        watch.send(question(number))
        watch.wait(5)
    assert watch.engine.sweep(watch.now_ns) == 5
    assert len(watch.records()) == 5


def test_an_empty_table_is_swept(watch):
    assert watch.engine.sweep(watch.now_ns) == 0


# -- eviction ------------------------------------------------------------------------------------------------------

def test_a_full_table_gives_up_an_entry_that_is_not_assured():
    watch = Watch(max_entries=4)
    for number in range(5):
        assert watch.send(question(number)).verdict is Verdict.ACCEPT
    table = watch.table()
    assert (table["entries"], table["early_drop"], table["table_full"]) == (4, 1, 0)
    assert (table["created"], table["destroyed"]) == (5, 1)


def test_assured_connections_are_spared():
    watch = full_of_assured(8)
    judgement = watch.send(question(1))
    assert (judgement.verdict, judgement.state) == (Verdict.DROP, CtState.INVALID)
    assert judgement.reason is Reason.TABLE_FULL
    assert (watch.table()["entries"], watch.table()["early_drop"], watch.table()["table_full"]) == (8, 0, 1)
    assert all(record["assured"] for record in watch.records())


def test_those_that_are_in_a_full_table_go_on():
    watch = full_of_assured(8)
    watch.send(question(1))
    assert watch.send(tcp(SERVER, CLIENT, 80, 1, 16, seq=5001, ack=1001)).state is ESTABLISHED


def test_an_expired_entry_gives_way_though_it_was_assured():
    watch = full_of_assured(8)
    watch.wait(432000)
    assert watch.send(question(1)).verdict is Verdict.ACCEPT


def test_a_table_of_one():
    watch = Watch(max_entries=1)
    for number in range(3):
        assert watch.send(question(number)).state is NEW
    assert watch.table()["entries"] == 1


# -- SipHash -------------------------------------------------------------------------------------------------------

KEY = (0x0706050403020100, 0x0F0E0D0C0B0A0908)
BYTES = [int.from_bytes(bytes(range(8 * i, 8 * i + 8)), "little") for i in range(16)]


def siphash_of_bytes(key: tuple[int, int], data: bytes) -> int:
    """SipHash-2-4 as its paper has it, byte by byte (Aumasson, Bernstein 2012)."""
    limit = 2**64 - 1
    v = [key[0] ^ 0x736F6D6570736575, key[1] ^ 0x646F72616E646F6D, key[0] ^ 0x6C7967656E657261,
         key[1] ^ 0x7465646279746573]

    def rounds(count: int) -> None:
        def half(a: int, b: int, c: int, d: int, s: int, t: int) -> None:
            for x, y, turn in ((a, b, s), (c, d, t)):
                v[x] = v[x] + v[y] & limit
                v[y] = (v[y] << turn | v[y] >> 64 - turn) & limit ^ v[x]
            v[a] = (v[a] << 32 | v[a] >> 32) & limit
        for _ in range(count):
            half(0, 1, 2, 3, 13, 16)
            half(2, 1, 0, 3, 17, 21)

    padded = data + bytes(-(len(data) + 1) % 8) + bytes([len(data) % 256])
    for (word,) in struct.iter_unpack("<Q", padded):
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    v[2] ^= 0xFF
    rounds(4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def test_the_vectors_of_the_paper():
    assert siphash_words(KEY, []) == siphash_of_bytes(KEY, b"") == 0x726FDB47DD0E0E31
    assert siphash_of_bytes(KEY, bytes(range(15))) == 0xA129CA6149BE45E5


@pytest.mark.parametrize("words", range(17))
def test_whole_words_hash_as_their_bytes_do(words):
    assert siphash_words(KEY, BYTES[:words]) == siphash_of_bytes(KEY, bytes(range(8 * words)))
