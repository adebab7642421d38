"""A table's memory in every state of damage: it costs the entries that it hit, and never a crash, a hang or another entry.

Real tables are damaged by bits, words, blocks, splices and cuts, taken over at the same size and at another, and then lived
with.  By hand, millions of them: `cd tests && python -X faulthandler -m unit.conntrack.test_damaged_tables IMAGES [SEED]`.
"""
from __future__ import annotations

import sys
from collections.abc import Callable
from random import Random

import pytest

from kit.memory import ANNOUNCER, BOOT, ENTRIES, ENTRY_BYTES, EXPECTATIONS, HEADER_BYTES, TABLE_BYTES, Watch, busy, entry, watch_over
from kit.packets import ACK, CLIENT, CLIENT6, FIN, RST, SERVER, SERVER6, SYN, chunk, gre, icmp, ip, sctp, tcp, udp
from pyfw.conntrack.selection import Selection
from pyfw.conntrack.sources import Sources
from pyfw.engine.engine import Engine
from pyfw.engine.review import review
from pyfw.engine.source_limits import SourceLimits
from pyfw.enums import CtState
from pyfw.observe.dump import expect_text
from pyfw.observe.events import Kind, Listener
from pyfw.observe.top import Top
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.program.program import Program

SEED, IMAGES = 1, 2500
IDENTITY_BYTES = 64             # of the header: whose table it is, how large, how much of it is in use
NUMBERS = [0, 1, 2, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
RULES = Program(parse_save("*filter\n:FORWARD DROP [0:0]\n-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n"
                           "-A FORWARD -i eth0 -p tcp -j ACCEPT\n-A FORWARD -p udp -m helper --helper announcer -j ACCEPT\nCOMMIT\n"))


def full() -> bytes:
    """A table without a free slot, of which some were used more than once."""
    memory = bytearray(Engine.memory_size(ENTRIES, EXPECTATIONS))
    watch = watch_over(memory)
    for port in range(ENTRIES + 20):
        watch.send(udp(CLIENT, SERVER, port + 1, 53) if port % 2 else udp(CLIENT6, SERVER6, port + 1, 53))
        watch.wait(0.1)
    return bytes(memory)


PREDECESSORS = (bytes(busy()[1]), full())
PACKETS = [
    tcp(CLIENT, SERVER, 33, 7004, SYN), udp(SERVER, CLIENT, 53, 5), udp(CLIENT, SERVER, 5, 53), icmp(SERVER, CLIENT, 0, id=9),
    icmp(CLIENT6, SERVER6, 128, id=9), sctp(SERVER, CLIENT, 9, 9, 1, chunk(5)), sctp(CLIENT, SERVER, 9, 9, 1, chunk(6)),
    tcp(CLIENT, SERVER, 6, 80, ACK, seq=1001, ack=5001), tcp(SERVER, CLIENT, 80, 6, ACK | FIN, seq=5001, ack=1001),
    tcp(CLIENT, SERVER, 3, 80, SYN, seq=1), tcp(SERVER, CLIENT, 80, 3, SYN | ACK, seq=7, ack=1001), tcp(SERVER, CLIENT, 80, 6, RST, seq=5001),
    tcp(CLIENT, SERVER, 4, 6100, ACK, seq=1011, ack=5011, payload=b"x" * 9), tcp(CLIENT, SERVER, 5, 80, SYN, seq=9), gre(CLIENT, SERVER),
    ip(CLIENT6, SERVER6, 103, b""), icmp(SERVER, CLIENT, 3, payload=udp(CLIENT, SERVER, 5, 53)), udp(CLIENT, SERVER, 4000, 4000),
    udp(SERVER6, CLIENT6, 53, 1), udp(CLIENT, SERVER, 2, 53),
]


# -- damage --------------------------------------------------------------------------------------------------------

def place(random: Random, memory: bytearray) -> int:
    """Anywhere; as often in the header's first bytes, in an entry, among the expectations."""
    kind = random.randrange(4)
    if kind == 0:
        return random.randrange(600)
    if kind == 1:
        return entry(random.randrange(1, 13)) + random.randrange(ENTRY_BYTES)
    return random.randrange(TABLE_BYTES if kind == 2 else 0, len(memory))


def flip_bits(random: Random, memory: bytearray) -> None:
    for _ in range(random.randrange(1, 20)):
        memory[place(random, memory)] ^= 1 << random.randrange(8)


def set_words(random: Random, memory: bytearray) -> None:
    for _ in range(random.randrange(1, 8)):
        size = random.choice((1, 2, 4, 8))
        at = place(random, memory) // size * size
        number = random.choice(NUMBERS) if random.randrange(3) else random.getrandbits(64)
        memory[at:at + size] = (number % (1 << 8 * size)).to_bytes(size, "little")


def set_block(random: Random, memory: bytearray) -> None:
    at, size = place(random, memory), random.randrange(1, 400)
    size = min(size, len(memory) - at)
    memory[at:at + size] = random.randbytes(size) if random.randrange(2) else bytes([random.choice((0, 1, 0xFF))]) * size


def splice(random: Random, memory: bytearray) -> None:
    """A part of this table or another one, to where it belongs or elsewhere."""
    other = random.choice((memory, *PREDECESSORS))
    start = place(random, memory)
    size = min(random.choice((ENTRY_BYTES, 48, random.randrange(1, 3000))), len(memory) - start)
    at = random.choice((start, entry(random.randrange(1, 13)), place(random, memory)))
    at = min(at, len(memory) - size)
    memory[at:at + size] = other[start:start + size]


def swap_entries(random: Random, memory: bytearray) -> None:
    one, other = (entry(random.randrange(1, 13)) for _ in range(2))
    memory[one:one + ENTRY_BYTES], memory[other:other + ENTRY_BYTES] = (
        memory[other:other + ENTRY_BYTES], memory[one:one + ENTRY_BYTES])


DAMAGES: tuple[Callable[[Random, bytearray], None], ...] = (flip_bits, set_words, set_block, splice, swap_entries)


# -- what is left, and life with it --------------------------------------------------------------------------------

def untouched(before: bytes, after: bytearray) -> set[int]:
    """Slots whose entries are as they were, in a table that still says whose it is."""
    if before[:IDENTITY_BYTES] != after[:IDENTITY_BYTES]:
        return set()
    return {slot for slot in range(1, ENTRIES + 1) if before[entry(slot):entry(slot + 1)] == after[entry(slot):entry(slot + 1)]}


def ends(record: dict) -> tuple:
    """What both directions of a connection have in common."""
    original = record["original"]
    if record["protocol"] in (1, 58):
        return record["protocol"], frozenset((original["src"], original["dst"])), original["id"]
    return record["protocol"], frozenset(((original["src"], original.get("sport")), (original["dst"], original.get("dport"))))


def successor(random: Random, memory: bytearray, previous: bool) -> Watch:
    options = {"adaptive": (5, 50)} if random.randrange(4) == 0 else {}
    if previous:
        entries = random.choice((1, 5, 11, 12, 63, 65, 100))
        watch = watch_over(bytearray(Engine.memory_size(entries, EXPECTATIONS)), max_entries=entries, previous=bytes(memory), **options)
    else:
        watch = watch_over(memory, helpers=random.choice(((), (ANNOUNCER,), (ANNOUNCER,))), **options)
    if random.randrange(4) == 0:
        entries = watch.table()["max_entries"]
        watch.engine.limit_sources(SourceLimits(Sources(entries, 24, 64, 10**9, bytes(16)), max_states=3))
    return watch


def live(random: Random, watch: Watch) -> None:
    """Every way in which entries are read, and moved."""
    engine = watch.engine
    listener = Listener(Selection(), Kind.NEW | Kind.UPDATE | Kind.DESTROY, records=random.randrange(2) == 1, id=True)
    listener.arm(engine)
    if random.randrange(2):
        engine.load(RULES)
    for packet in random.choices(PACKETS, k=12):
        assert watch.send(packet).state in CtState
        watch.wait(random.choice((0, 0.5, 40, 130)))
    watch.records()
    watch.lines(random.choice(("proc", "nf")))
    expect_text(engine, watch.now_ns)
    activity = Top(engine)
    cursor = activity.begin(Selection(), "age", 5)
    while cursor:
        cursor = activity.walk(cursor, watch.now_ns)
    activity.first()
    if random.randrange(4) == 0:
        list(review(engine, RULES, watch.now_ns))
    engine.sweep(watch.now_ns + random.choice((0, 10**10, 10**15)))
    listener.take()
    listener.disarm()
    table = watch.table()
    assert len(watch.records()) <= table["entries"] <= table["max_entries"]


def run(images: int, seed: int) -> None:
    for number in range(seed, seed + images):
        random = Random(number)
        before = random.choice(PREDECESSORS)
        memory, previous = bytearray(before), random.randrange(3) == 0
        for _ in range(random.choice((1, 1, 2, 4))):
            random.choice(DAMAGES)(random, memory)
        whole = untouched(before, memory)
        if previous and random.randrange(3) == 0:
            del memory[random.randrange(len(memory)):]
            whole = set()
        try:
            watch = successor(random, memory, previous)
            if not previous or watch.table()["max_entries"] >= ENTRIES:
                there = {ends(record) for record in watch.records()}
                assert {LEFT[before][slot] for slot in whole & LEFT[before].keys()} <= there, "an entry was lost that was not damaged"
            live(random, watch)
            if not previous:
                for _ in range(random.randrange(2)):
                    random.choice(DAMAGES)(random, memory)      # what a successor that failed has left
                watch.engine.relink()
                live(random, watch)
        except BaseException:
            print(f"seed {number}", file=sys.stderr, flush=True)
            raise


def left_by(before: bytes) -> dict[int, tuple]:
    """What the entry in each slot has in common in both directions: it is looked at alone."""
    found = {}
    for slot in range(1, ENTRIES + 1):
        alone = bytearray(before[:HEADER_BYTES]) + bytes(len(before) - HEADER_BYTES)
        alone[entry(slot):entry(slot + 1)] = before[entry(slot):entry(slot + 1)]
        for record in watch_over(alone, BOOT).records():
            found[slot] = ends(record)
    return found


LEFT = {before: left_by(before) for before in PREDECESSORS}


@pytest.mark.slow
def test_damage_costs_the_entries_that_it_hit():
    run(IMAGES, SEED)


if __name__ == "__main__":
    images, seed = (int(word) for word in [*sys.argv[1:], "1"][:2])
    for start in range(seed, seed + images, 10_000):
        run(min(10_000, seed + images - start), start)
        print(f"{start - seed + 10_000} images, the last one of seed {start + 9_999}", flush=True)
