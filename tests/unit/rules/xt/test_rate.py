"""Matches with a memory or a clock, beside models of the kernel's code that were written from it and not from pyfw's.

The models count in jiffies of a millisecond (HZ=1000), as the made-up clock does.  Rates are those whose period is a whole number
of them: of others the kernel drops a fraction that pyfw keeps.
"""
from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import ClassVar

import pytest

from kit.packets import ACK, RST, SYN, UDP, ip, tcp, udp, udp_datagram
from kit.traffic import Watch
from pyfw.enums import Hook, Verdict
from pyfw.explain.packet_spec import packet_spec, read_spec
from pyfw.helpers import bind
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.program.program import Program

HZ = 1000
SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
START_J = 5_000_000
MATCHED = "-j DROP"             # a packet that fits is dropped, one that does not is accepted


def packet(src: str = "10.0.0.2", *, dst: str = "192.0.2.9", dport: int = 53, ttl: int = 64) -> bytes:
    return ip(src, dst, UDP, udp_datagram(src, dst, 40000, dport), ttl=ttl)


class Gate:
    """Rules of FORWARD by themselves, asked at a jiffy."""

    def __init__(self, *rules: str) -> None:
        self.program = Program(parse_save("\n".join(f"-A FORWARD {rule} {MATCHED}" for rule in rules)))

    def fits(self, data: bytes, now_j: int) -> bool:
        return self.program.walk("filter", data, Hook.FORWARD, now_ns=now_j * (10 ** 9 // HZ)).verdict == Verdict.DROP


def gaps_around(chance: random.Random, period_j: int, count: int = 1500) -> list[int]:
    """Times between packets: mostly none or a jiffy, less and more than a period, now and then a long pause."""
    kinds = {0: 40, 1: 20, period_j // 3: 20, period_j - 1: 2, period_j: 2, period_j + 1: 2, 3 * period_j: 2, 50 * period_j: 1}
    return chance.choices(list(kinds), list(kinds.values()), k=count)


# -- limit: net/netfilter/xt_limit.c -------------------------------------------------------------------------------------------

class KernelLimit:
    CREDITS_PER_JIFFY = 32      # POW2_BELOW32(0xFFFFFFFF / (HZ * 60 * 60 * 24))
    SCALE = 10_000

    def __init__(self, number: int, unit: str, burst: int) -> None:
        average = self.SCALE * SECONDS[unit] // number
        self.cost = average * HZ * self.CREDITS_PER_JIFFY // self.SCALE
        self.cap = self.credit = average * burst * HZ * self.CREDITS_PER_JIFFY // self.SCALE
        self.previous = START_J

    def fits(self, now_j: int) -> bool:
        self.credit = min(self.cap, self.credit + (now_j - self.previous) * self.CREDITS_PER_JIFFY)
        self.previous = now_j
        if self.credit < self.cost:
            return False
        self.credit -= self.cost
        return True


RATES = [(1, "second", 1), (1, "second", 5), (10, "second", 3), (8, "second", 20), (1000, "second", 2), (6, "minute", 5), (3, "hour", 4),
         (1, "day", 2)]


@pytest.mark.parametrize(("number", "unit", "burst"), RATES)
def test_limit(number: int, unit: str, burst: int) -> None:
    gate, model, now_j = Gate(f"-m limit --limit {number}/{unit} --limit-burst {burst}"), KernelLimit(number, unit, burst), START_J
    said = []
    for gap in gaps_around(random.Random(number * burst), HZ * SECONDS[unit] // number):
        now_j += gap
        said.append(gate.fits(packet(), now_j))
        assert said[-1] == model.fits(now_j), f"packet {len(said)}, {gap} ms after the one before"
    assert 50 < sum(said) < len(said) - 50


def test_a_limit_is_one_for_all_packets() -> None:
    gate = Gate("-m limit --limit 1/day --limit-burst 2")
    assert [gate.fits(packet(f"10.0.0.{n}"), START_J) for n in range(4)] == [True, True, False, False]


# -- hashlimit: net/netfilter/xt_hashlimit.c ------------------------------------------------------------------------------------

@dataclass
class Bucket:
    credit: int
    previous: int
    expires: int


class KernelHashLimit:
    """`None` for a packet that is dropped whatever the rule says: there is no room for its bucket."""

    CREDITS_PER_JIFFY = 1 << 37     # of 64 bits; any power of two does

    def __init__(self, number: int, unit: str, burst: int, *, expire_ms: int = 0, above: bool = False, most: int = 8 * 8192) -> None:
        self.cost = HZ * SECONDS[unit] // number * self.CREDITS_PER_JIFFY
        self.cap = self.cost * burst
        self.expire_j = expire_ms or SECONDS[unit] * 1000
        self.above, self.most = above, most
        self.buckets: dict[object, Bucket] = {}

    def fits(self, key: object, now_j: int) -> bool | None:
        self.collect(now_j)
        bucket = self.buckets.get(key)
        if bucket is None:
            if len(self.buckets) >= self.most:
                return None
            bucket = self.buckets[key] = Bucket(self.cap, now_j, 0)
        bucket.expires = now_j + self.expire_j
        bucket.credit = min(self.cap, bucket.credit + (now_j - bucket.previous) * self.CREDITS_PER_JIFFY)
        bucket.previous = now_j
        within = bucket.credit >= self.cost
        if within:
            bucket.credit -= self.cost
        return within != self.above

    def collect(self, now_j: int) -> None:
        """htable_gc(), which the kernel runs every --hashlimit-htable-gcinterval only."""
        self.buckets = {key: bucket for key, bucket in self.buckets.items() if bucket.expires > now_j}


HASH_RULES = {
    "--hashlimit-upto 1/second --hashlimit-mode srcip": (KernelHashLimit(1, "second", 5), lambda src, dst, dport: src),
    "--hashlimit-above 1/second --hashlimit-burst 2 --hashlimit-mode dstip":
        (KernelHashLimit(1, "second", 2, above=True), lambda src, dst, dport: dst),
    "--hashlimit-upto 6/minute --hashlimit-burst 3 --hashlimit-mode srcip,dstport":
        (KernelHashLimit(6, "minute", 3), lambda src, dst, dport: (src, dport)),
    "--hashlimit-upto 10/second --hashlimit-burst 1 --hashlimit-mode srcip,dstip --hashlimit-srcmask 24 --hashlimit-dstmask 30":
        (KernelHashLimit(10, "second", 1), lambda src, dst, dport: (src.rpartition(".")[0], int(dst.rpartition(".")[2]) // 4)),
    "--hashlimit-upto 2/second --hashlimit-burst 10 --hashlimit-htable-expire 1500":
        (KernelHashLimit(2, "second", 10, expire_ms=1500), lambda *_: 0),
    "--hashlimit-upto 3/hour --hashlimit-burst 2 --hashlimit-mode srcport,dstport --hashlimit-htable-expire 700":
        (KernelHashLimit(3, "hour", 2, expire_ms=700), lambda src, dst, dport: dport),
}


@pytest.mark.parametrize("options", list(HASH_RULES))
def test_hashlimit(options: str) -> None:
    model, key_of = HASH_RULES[options]
    gate, chance, now_j, said = Gate(f"-m hashlimit --hashlimit-name one {options}"), random.Random(options), START_J, []
    for gap in gaps_around(chance, model.cost // model.CREDITS_PER_JIFFY // 4, 4000):
        now_j += gap
        src, dst = f"10.0.{chance.randrange(2)}.{chance.randrange(1, 4)}", f"192.0.2.{chance.randrange(1, 9)}"
        dport = chance.choice((53, 54))
        said.append(gate.fits(packet(src, dst=dst, dport=dport), now_j))
        assert said[-1] == model.fits(key_of(src, dst, dport), now_j), f"packet {len(said)}, {gap} ms after the one before"
    assert 50 < sum(said) < len(said) - 50


class SmallTable:
    """Policy DROP and a rule that accepts: a packet without a bucket is dropped by the rule itself."""

    OUTCOMES: ClassVar = {(Verdict.ACCEPT, "filter:FORWARD:rule:1"): True, (Verdict.DROP, "filter:FORWARD:policy:2"): False,
                          (Verdict.DROP, "filter:FORWARD:rule:1"): None}

    def __init__(self, most: int) -> None:
        self.rules = Program(parse_save(
            f"-P FORWARD DROP\n-A FORWARD -m hashlimit --hashlimit-upto 1/second --hashlimit-burst 2 --hashlimit-mode srcip "
            f"--hashlimit-name full --hashlimit-htable-size 1 --hashlimit-htable-max {most} -j ACCEPT"))

    def fits(self, host: int, now_j: int) -> bool | None:
        source = f"10.{host // 40_000}.{host // 200 % 200}.{host % 200 + 1}"
        walk = self.rules.walk("filter", packet(source), Hook.FORWARD, now_ns=now_j * (10 ** 9 // HZ))
        return self.OUTCOMES[walk.verdict, walk.rule]


@pytest.mark.parametrize("most", [1, 8, 30])
def test_a_full_hash_table_drops_until_what_is_in_it_expires(most: int) -> None:
    table, model = SmallTable(most), KernelHashLimit(1, "second", 2, most=most)
    chance, now_j, said = random.Random(most), START_J, []
    for _ in range(6000):
        now_j += 1500 if chance.random() < 0.01 else chance.randrange(1 + 800 // most)
        host = chance.randrange(most * 2)
        said.append(table.fits(host, now_j))
        assert said[-1] == model.fits(host, now_j), f"packet {len(said)}"
    assert {True, False, None} == set(said)


# -- recent: net/netfilter/xt_recent.c --------------------------------------------------------------------------------------------

@dataclass
class Entry:
    ttl: int
    stamps: list[int] = field(default_factory=list)


class KernelRecent:
    """A list; a dict keeps the order in which its entries were updated: t->lru_list."""

    ENTRIES = 100               # ip_list_tot

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}

    def fits(self, address: str, ttl: int, now_j: int, command: str, *, seconds: int = 0, hits: int = 0, rttl: bool = False,
             reap: bool = False, inverted: bool = False) -> bool:
        fits = inverted
        entry = self.entries.get(address)
        if entry is not None and rttl and entry.ttl != ttl:
            entry = None
        if entry is None:
            if command == "set":
                self.add(address, ttl, now_j)
                fits = not fits
            return fits
        oldest_j = now_j - seconds * HZ
        if command == "set":
            fits = not fits
        elif command == "remove":
            del self.entries[address]
            fits = not fits
        else:
            if sum(not seconds or stamp >= oldest_j for stamp in entry.stamps) >= max(hits, 1):
                fits = not fits
            if reap:
                self.reap(oldest_j)
        if command == "set" or (command == "update" and fits):
            self.update(address, entry, now_j)
            entry.ttl = ttl
        return fits

    def add(self, address: str, ttl: int, now_j: int) -> None:
        if len(self.entries) >= self.ENTRIES:
            del self.entries[next(iter(self.entries))]
        self.update(address, Entry(ttl), now_j)

    def update(self, address: str, entry: Entry, now_j: int) -> None:
        entry.stamps.append(now_j)
        self.entries.pop(address, None)
        self.entries[address] = entry

    def reap(self, oldest_j: int) -> None:
        """recent_entry_reap(): the entry that was not seen for longest, if that is long enough."""
        address, entry = next(iter(self.entries.items()))
        if entry.stamps[-1] < oldest_j:
            del self.entries[address]


RECENT_RULES = {                # by the destination port that chooses the rule
    1: ("--set", {"command": "set"}),
    2: ("--rcheck", {"command": "rcheck"}),
    3: ("--rcheck --seconds 5 --hitcount 3", {"command": "rcheck", "seconds": 5, "hits": 3}),
    4: ("--update --seconds 5 --hitcount 2", {"command": "update", "seconds": 5, "hits": 2}),
    5: ("--update --hitcount 4", {"command": "update", "hits": 4}),
    6: ("! --rcheck --seconds 3", {"command": "rcheck", "seconds": 3, "inverted": True}),
    7: ("! --update", {"command": "update", "inverted": True}),
    8: ("--rcheck --rttl", {"command": "rcheck", "rttl": True}),
    9: ("--update --seconds 9 --rttl", {"command": "update", "seconds": 9, "rttl": True}),
    10: ("--remove", {"command": "remove"}),
    11: ("--rcheck --seconds 6 --reap", {"command": "rcheck", "seconds": 6, "reap": True}),
    12: ("--update --seconds 8 --reap --hitcount 2", {"command": "update", "seconds": 8, "reap": True, "hits": 2}),
    13: ("! --set", {"command": "set", "inverted": True}),
}


@pytest.mark.parametrize("hosts", [4, 130])
def test_recent(hosts: int) -> None:
    gate = Gate(*(f"-p udp --dport {dport} -m recent --name seen {options}" for dport, (options, _) in RECENT_RULES.items()))
    model, chance, now_j = KernelRecent(), random.Random(hosts), START_J
    said: dict[int, list[bool]] = {dport: [] for dport in RECENT_RULES}
    ports = list(RECENT_RULES) + [1] * (3 if hosts < 100 else 20)
    for number in range(12_000):
        now_j += chance.choice((1, 10, 300, 1000, 2000, 3000)) if hosts < 100 else chance.choice((1, 20, 50))
        dport, address, ttl = chance.choice(ports), f"10.0.0.{chance.randrange(1, hosts)}", chance.choice((64, 63))
        fits = gate.fits(packet(address, dport=dport, ttl=ttl), now_j)
        assert fits == model.fits(address, ttl, now_j, **RECENT_RULES[dport][1]), f"packet {number}: {RECENT_RULES[dport][0]} of {address}"
        said[dport].append(fits)
    constant = {1, 13}
    assert all(len(set(answers)) == 2 for dport, answers in said.items() if dport not in constant)


# -- connlimit: net/netfilter/nf_conncount.c --------------------------------------------------------------------------------------

def watch_with(*rules: str) -> Watch:
    watch = Watch()
    watch.engine.load(Program(parse_save("\n".join(f"-A FORWARD {rule} -j DROP" for rule in rules)), watch.engine.environment))
    return watch


def accepted(watch: Watch, data: bytes) -> bool:
    return watch.send(data).verdict == Verdict.ACCEPT


def syn(src: str, sport: int, dst: str = "10.0.1.2") -> bytes:
    return tcp(src, dst, sport, 80, SYN, seq=100)


def reset(watch: Watch, src: str, sport: int) -> None:
    """The server accepts and then resets the connection, which is CLOSE from then on and stays in the table for some seconds."""
    watch.send(tcp("10.0.1.2", src, 80, sport, SYN | ACK, seq=500, ack=101))
    watch.send(tcp("10.0.1.2", src, 80, sport, RST | ACK, seq=501, ack=101))
    assert [record for record in watch.records() if record["state"] == "CLOSE"]


def test_connlimit_counts_what_is_open() -> None:
    watch = watch_with("-p tcp -m connlimit --connlimit-above 2")
    assert [accepted(watch, syn("10.0.0.2", sport)) for sport in (1, 2, 3)] == [True, True, False]
    assert accepted(watch, syn("10.0.0.3", 1)), "another address has its own count"
    assert accepted(watch, syn("10.0.0.2", 2)), "a connection does not count twice"
    reset(watch, "10.0.0.2", 1)
    assert [accepted(watch, syn("10.0.0.2", sport)) for sport in (4, 5)] == [True, False]
    watch.wait(200)             # SYN_SENT is over after 120 s
    assert [accepted(watch, syn("10.0.0.2", sport)) for sport in (6, 7, 8)] == [True, True, False]


@pytest.mark.parametrize(("options", "groups"), [
    ("--connlimit-above 1 --connlimit-mask 24", [("10.0.0.2", "10.0.1.2"), ("10.0.0.99", "10.0.1.3")]),
    ("--connlimit-above 1 --connlimit-daddr", [("10.0.0.2", "10.0.1.2"), ("10.7.0.9", "10.0.1.2")]),
    ("--connlimit-above 1 --connlimit-mask 0", [("10.0.0.2", "10.0.1.2"), ("172.16.0.9", "10.0.1.3")]),
])
def test_connlimit_counts_by_address_and_mask(options: str, groups: list[tuple[str, str]]) -> None:
    watch = watch_with(f"-p tcp -m connlimit {options}")
    assert [accepted(watch, syn(src, 1, dst)) for src, dst in groups] == [True, False]


def test_connlimit_upto_is_the_opposite_of_above() -> None:
    watch = watch_with("-p tcp -m connlimit --connlimit-upto 1")
    assert [accepted(watch, syn("10.0.0.2", sport)) for sport in (1, 2)] == [False, False], "the dropped one is never in the table"


def test_connlimit_lets_closed_connections_go_whoever_asks() -> None:
    """Whether a counted connection is over is told by its own protocol, not by that of the packet that asks (already_closed())."""
    watch = watch_with("-m connlimit --connlimit-above 2")
    assert accepted(watch, syn("10.0.0.2", 1))
    assert accepted(watch, syn("10.0.0.2", 2))
    assert not accepted(watch, udp("10.0.0.2", "10.0.1.2", 5, 53))
    reset(watch, "10.0.0.2", 1)
    assert accepted(watch, udp("10.0.0.2", "10.0.1.2", 5, 53))


# -- connections ------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("rule", "fits"), [
    ("-m connbytes --connbytes 2:2 --connbytes-dir both --connbytes-mode packets", True),
    ("-m conntrack --ctstatus CONFIRMED", True), ("-m conntrack --ctstatus SEEN_REPLY", True), ("-m conntrack --ctstatus ASSURED", False),
    ("-m conntrack --ctexpire 110:120", True), ("-m conntrack --ctdir REPLY --ctstate ESTABLISHED", True),
])
def test_the_reset_that_ends_a_connection_still_belongs_to_it(rule: str, fits: bool) -> None:
    """The entry has gone from the table when the rules are asked (nf_ct_kill_acct()), and what it says has not."""
    watch = watch_with(f"-p tcp --tcp-flags RST RST {rule}")
    assert accepted(watch, syn("10.0.0.2", 1))
    assert accepted(watch, tcp("10.0.1.2", "10.0.0.2", 80, 1, RST | ACK, seq=0, ack=101)) != fits
    assert watch.records() == []


@pytest.mark.parametrize(("question", "helper"), [
    ("tcp 10.0.0.2:4000 10.0.1.2:2121", "ftp"), ("udp 10.0.0.2:4000 10.0.1.2:2121", None), ("icmp 10.0.0.2 10.0.1.2", None)])
def test_a_helper_is_given_its_own_protocol_only(question: str, helper: str | None) -> None:
    """The kernel refuses CT --helper without -p; here such a rule means the connections that the helper can read."""
    engine = Watch(helpers=[bind("ftp", [])]).engine
    engine.load(Program(parse_save("*raw\n-A PREROUTING -j CT --helper ftp\nCOMMIT"), engine.environment))
    assert packet_spec(read_spec(question.split()), engine, 0).put(engine, 1).packet_trace.helper == helper


# -- statistic: net/netfilter/xt_statistic.c ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("sign", ["", "! "])
@pytest.mark.parametrize(("every", "first"), [(1, 0), (2, 0), (2, 1), (3, 1), (7, 6), (10, 0)])
def test_every_nth(every: int, first: int, sign: str) -> None:
    gate = Gate(f"-m statistic --mode nth {sign}--every {every} --packet {first}")
    assert [gate.fits(packet(), START_J) for _ in range(50)] == [(number % every == first) == (not sign) for number in range(50)]


@pytest.mark.parametrize("probability", [0.0, 0.01, 0.25, 0.9, 1.0])
def test_at_random(probability: float) -> None:
    """Within five standard deviations, and not in a pattern."""
    gate, sent = Gate(f"-m statistic --mode random --probability {probability}"), 20_000
    said = [gate.fits(packet(), START_J) for _ in range(sent)]
    assert abs(sum(said) - sent * probability) <= 5 * (sent * probability * (1 - probability)) ** 0.5
    pairs = sum(one and other for one, other in pairwise(said))
    assert abs(pairs - sent * probability ** 2) <= 10 * (sent * probability ** 2 * (1 - probability ** 2)) ** 0.5 + 1


# -- time: net/netfilter/xt_time.c ----------------------------------------------------------------------------------------------------

@dataclass
class KernelTime:
    begins: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    ends: datetime = datetime(2038, 1, 19, 3, 14, 7, tzinfo=UTC)
    start_s: int = 0
    stop_s: int = 86399
    week_days: frozenset[int] = frozenset(range(1, 8))
    month_days: frozenset[int] = frozenset(range(1, 32))
    contiguous: bool = False

    def fits(self, moment: datetime) -> bool:
        if not self.begins <= moment <= self.ends:
            return False
        second = moment.hour * 3600 + moment.minute * 60 + moment.second
        if self.start_s < self.stop_s:
            if not self.start_s <= second <= self.stop_s:
                return False
        else:
            if second < self.start_s and second > self.stop_s:
                return False
            if self.contiguous and second <= self.stop_s:
                moment -= timedelta(days=1)
        return moment.isoweekday() in self.week_days and moment.day in self.month_days


def clock(second: int) -> str:
    return f"{second // 3600}:{second // 60 % 60:02}:{second % 60:02}"


def random_span(chance: random.Random) -> tuple[str, KernelTime]:
    """A rule's options, and the same for the model."""
    words, model = [], KernelTime()
    if chance.random() < 0.6:
        model.start_s, model.stop_s = (chance.choice((0, 1, 3600, 43200, 86398, 86399, chance.randrange(86400))) for _ in range(2))
        words.append(f"--timestart {clock(model.start_s)} --timestop {clock(model.stop_s)}")
        if model.start_s > model.stop_s and chance.random() < 0.6:
            model.contiguous = True
            words.append("--contiguous")
    for option, name, largest in (("--weekdays", "week_days", 7), ("--monthdays", "month_days", 31)):
        if chance.random() < 0.4:
            days = frozenset(chance.sample(range(1, largest + 1), chance.randrange(1, largest)))
            inverted = chance.random() < 0.3
            words.append(f"{'! ' if inverted else ''}{option} {','.join(map(str, days))}")
            setattr(model, name, frozenset(range(1, largest + 1)) - days if inverted else days)
    if chance.random() < 0.3:
        model.begins, model.ends = sorted(moment_of(chance) for _ in range(2))
        words.append(f"--datestart {model.begins:%Y-%m-%dT%H:%M:%S} --datestop {model.ends:%Y-%m-%dT%H:%M:%S}")
    return " ".join(words), model


def moment_of(chance: random.Random) -> datetime:
    """A second from 1971 to 2037, often at the edge of a day or a month."""
    moment = datetime(1971, 1, 2, tzinfo=UTC) + timedelta(days=chance.randrange(24_400))
    edges: tuple[Callable[[], timedelta], ...] = (
        lambda: timedelta(0), lambda: timedelta(seconds=-1), lambda: timedelta(seconds=chance.randrange(86400)))
    return chance.choice((moment, moment.replace(day=1))) + chance.choice(edges)()


def test_time() -> None:
    chance, said = random.Random(5), []
    for _ in range(400):
        options, model = random_span(chance)
        rules = Program(parse_save(f"-A FORWARD -m time {options} -j DROP"))
        near = [model.begins, model.ends, model.ends + timedelta(seconds=1), model.begins - timedelta(seconds=1)]
        for moment in [*(moment_of(chance) for _ in range(40)), *(at for at in near if at.year in range(1971, 2038))]:
            walk = rules.walk("filter", packet(), Hook.FORWARD, wall_ns=int(moment.timestamp()) * 10 ** 9 + chance.randrange(10 ** 9))
            said.append(walk.verdict == Verdict.DROP)
            assert said[-1] == model.fits(moment), f"{options}: {moment}"
    assert 2000 < sum(said) < len(said) - 2000
