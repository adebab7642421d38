"""What rules remember has an end, and one more thing to remember costs a packet nothing: each kind is filled, waits, is asked anew."""
from __future__ import annotations

import gc
import random
import struct
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from kit.jumps import doubled_jumps
from kit.packets import ACK, FIN, RST, SYN, tcp, udp
from kit.traffic import Watch
from pyfw.cli.pyfw.main import main
from pyfw.engine.review import review
from pyfw.enums import Hook, Verdict
from pyfw.rules.language.check import check_ruleset
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.language.lint import lint
from pyfw.rules.model import Chain, RulesError, Ruleset, empty_table
from pyfw.rules.program.program import Program
from pyfw.rules.xt import packet as packet_tests

MANY = 70_000
FEW_THINGS, MANY_THINGS = 10, 100_000
TIMES_SLOWER = 5                # what the caches cost, at most


def watch_with(rules: str, **settings) -> Watch:
    watch = Watch(max_entries=1 << 17, **settings)
    watch.engine.load(Program(parse_save(rules), watch.engine.environment))
    return watch


def syns(first: int = 0) -> Iterator[bytes]:
    """SYNs to one server, each from another address.  Their checksums are wrong: they are sent as trusted."""
    packet = bytearray(tcp("10.0.0.2", "192.0.2.9", 1024, 80, SYN))
    number = first
    while True:
        struct.pack_into("!I", packet, 12, 0x0B000000 + number)
        yield bytes(packet)
        number += 1


def verdicts(watch: Watch, packets: Iterator[bytes], count: int) -> list[Verdict]:
    judge, now_ns = watch.engine.judge, watch.now_ns
    return [judge(next(packets), Hook.FORWARD, "eth0", "eth1", now_ns, trusted=True).verdict for _ in range(count)]


def fastest_ns(watch: Watch, packets: Iterator[bytes]) -> float:
    """What one of them costs, in the best of many rounds."""
    judge, now_ns, best = watch.engine.judge, watch.now_ns, float("inf")
    for _ in range(40):
        asked = [next(packets) for _ in range(50)]
        began_ns = time.thread_time_ns()
        for packet in asked:
            judge(packet, Hook.FORWARD, "eth0", "eth1", now_ns, trusted=True)
        best = min(best, (time.thread_time_ns() - began_ns) / len(asked))
    return best


# -- rulesets ------------------------------------------------------------------------------------------------------------------------

def test_chains_that_double_their_jumps_are_warned_of_at_once(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """2^60 ways, each looked at once; live a packet walks MAX_STEPS of them (test_reasons.py)."""
    (tmp_path / "rules").write_text(doubled_jumps(60))
    (tmp_path / "config").write_text("rules: {file: rules}\n")
    assert main(["check", "--strict", "-c", str(tmp_path / "config")]) == 1
    said = capsys.readouterr().err
    assert said.count("[rule-steps]") == 1
    assert "RULE_STEPS" in said


def test_only_the_longest_way_counts() -> None:
    """Ten thousand rules in one chain are no way too long, nor are chains that each packet walks once."""
    rules = parse_save(doubled_jumps(8) + "*raw\n" + "-A PREROUTING -s 10.0.0.1 -j DROP\n" * 2000)
    assert "rule-steps" not in {warning.name for warning in lint(rules)}


def test_forty_thousand_chains_are_checked_in_one_go() -> None:
    rule = parse_save("-N one\n-A FORWARD -j one\n").table("filter").chain("FORWARD").rules[0]
    chains = [Chain(f"chain{number}", None, (replace(rule, target=replace(rule.target, name=f"chain{number + 20_000}")),))
              for number in range(20_000)]
    chains += [Chain(f"chain{number}", None, ()) for number in range(20_000, 40_000)]
    ruleset = check_ruleset(Ruleset((empty_table("filter").with_chains(chains),)))
    assert {warning.name for warning in lint(ruleset)} == {"unreachable-chain"}
    with pytest.raises(RulesError, match="there is no target or chain 'elsewhere'"):
        check_ruleset(Ruleset((ruleset.tables[0].with_chain(
            Chain("FORWARD", "DROP", (replace(rule, target=replace(rule.target, name="elsewhere")),))),)))


# -- text ------------------------------------------------------------------------------------------------------------------------

def folded(text: bytes, ignores_case: bool) -> bytes:
    """By the kernel's toupper(): Latin-1."""
    lower = [*range(97, 123), *(byte for byte in range(223, 256) if byte != 247)]
    return bytes(byte - 32 if ignores_case and byte in lower else byte for byte in text)


@pytest.mark.parametrize("option", ["", " --icase"])
@pytest.mark.parametrize("algorithm", ["bm", "kmp"])
def test_a_text_is_found_wherever_it_stands(algorithm: str, option: str) -> None:
    """Patterns and packets of few different bytes: many beginnings that lead to nothing."""
    chance, said = random.Random(algorithm + option), []
    for _ in range(150):
        letters = chance.choice((b"ab", b"aAbB", bytes((0xE0, 0xC0, 0xF7, 0xD7)), b"a"))
        pattern = bytes(chance.choices(letters, k=chance.randrange(1, 9)))
        words = " ".join(f"{byte:02x}" for byte in pattern)
        start, end = chance.choice(((28, 65535), (30, 60), (28, 40)))
        program = Program(parse_save(f"-A FORWARD -m string --algo {algorithm} --hex-string '|{words}|' --from {start} --to {end}{option} -j DROP"))
        for _ in range(20):
            data = udp("10.0.0.2", "10.0.1.2", 1, 2, bytes(chance.choices(letters, k=chance.randrange(40))))
            found = folded(pattern, bool(option)) in folded(data[start:end], bool(option))
            assert (program.walk("filter", data, Hook.FORWARD).verdict == Verdict.DROP) == found, (pattern, data)
            said.append(found)
    assert len(said) // 10 < sum(said) < len(said) * 9 // 10


def text_cost_ns(pattern_length: int) -> float:
    """Of a packet that begins like the pattern at every byte."""
    program = Program(parse_save(f"-A FORWARD -m string --algo bm --icase --string {'a' * (pattern_length - 1)}b -j DROP"))
    data, best = udp("10.0.0.2", "10.0.1.2", 1, 2, b"A" * 30_000), float("inf")
    for _ in range(10):
        began_ns = time.thread_time_ns()
        program.walk("filter", data, Hook.FORWARD)
        best = min(best, time.thread_time_ns() - began_ns)
    return best


@pytest.mark.alone
def test_a_longer_text_costs_no_more() -> None:
    assert text_cost_ns(128) < TIMES_SLOWER * text_cost_ns(2)


# -- time ------------------------------------------------------------------------------------------------------------------------

def test_local_time_is_what_the_engine_was_told() -> None:
    program = Program(parse_save("-A FORWARD -m time --kerneltz --timestart 12:00 --timestop 13:00 -j DROP"))
    noon_ns, data = 43_200 * 10**9, udp("10.0.0.2", "10.0.1.2", 1, 2)
    for zone_offset_s, hour in ((0, 0), (-3600, 1), (5 * 3600 + 1800, -5.5)):
        walk = program.walk("filter", data, Hook.FORWARD, wall_ns=noon_ns + int(hour * 3600) * 10**9 + 1, zone_offset_s=zone_offset_s)
        assert walk.verdict == Verdict.DROP
    assert program.walk("filter", data, Hook.FORWARD, wall_ns=noon_ns, zone_offset_s=-3600).verdict == Verdict.ACCEPT


def test_judging_asks_the_machine_for_no_time_zone() -> None:
    """localtime_r() takes a lock of the C library's and may read a file."""
    assert b"localtime" not in Path(packet_tests.__file__).read_bytes()


# -- connlimit ----------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("policy", ["ACCEPT", "DROP"])
def test_made_up_sources_do_not_close_a_port_that_connlimit_guards(policy: str) -> None:
    """Those that a later rule drops leave nothing behind; those that are let in are forgotten with their connections."""
    watch = watch_with(f"-P FORWARD {policy}\n-A FORWARD -p tcp -m connlimit --connlimit-above 1 -j DROP\n-A FORWARD -s 10.9.9.9 -j ACCEPT")
    assert set(verdicts(watch, syns(), MANY)) == {Verdict[policy]}
    if policy == "ACCEPT":
        watch.wait(200)             # SYN_SENT is over after 120 s
    assert watch.send(tcp("10.9.9.9", "192.0.2.9", 1024, 80, SYN)).verdict == Verdict.ACCEPT
    assert watch.send(tcp("10.9.9.9", "192.0.2.9", 1025, 80, SYN)).verdict == Verdict.DROP


class KernelConnLimit:
    """nf_conncount.c's walk: tuples that were asked about, of which those count that the table has and that are not over.

    One that a SYN opens anew while it is over counts again: the kernel forgets some of those.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.asked: dict[str, set[int]] = {}

    def above(self, source: str, sport: int, known: dict[tuple[str, int], str]) -> bool:
        asked = self.asked.setdefault(source, set())
        asked &= {port for address, port in known if address == source}
        asked.add(sport)
        return sum(port == sport or known[source, port] not in ("CLOSE", "TIME_WAIT") for port in asked) > self.limit


@pytest.mark.parametrize("seed", range(6))
def test_connlimit_counts_as_the_kernel_does(seed: int) -> None:
    """SYNs, handshakes, resets, ends, pauses and sweeps, beside a model that looks at the table."""
    chance = random.Random(seed)
    watch = watch_with("-A FORWARD -p tcp --syn -m connlimit --connlimit-above 3 -j DROP\n-A FORWARD -m state --state INVALID -j DROP",
                       tcp_loose=False)
    model, said = KernelConnLimit(3), []
    for number in range(2000):
        source, sport = f"10.0.0.{chance.randrange(1, 5)}", chance.randrange(1, 9)
        event = chance.choices(["syn", "answer", "reset", "end", "wait", "sweep"], [50, 10, 10, 5, 3, 3])[0]
        known = {(record["original"]["src"], record["original"]["sport"]): record["state"] for record in watch.records()}
        if event == "syn":
            above = watch.send(tcp(source, "192.0.2.9", sport, 80, SYN, seq=100)).verdict == Verdict.DROP
            assert above == model.above(source, sport, known), f"packet {number}"
            said.append(above)
        elif event == "answer":
            watch.send(tcp("192.0.2.9", source, 80, sport, SYN | ACK, seq=500, ack=101))
            watch.send(tcp(source, "192.0.2.9", sport, 80, ACK, seq=101, ack=501))
        elif event == "reset":
            watch.send(tcp("192.0.2.9", source, 80, sport, RST | ACK, seq=501, ack=101))
        elif event == "end":
            watch.send(tcp(source, "192.0.2.9", sport, 80, FIN | ACK, seq=101, ack=501))
            watch.send(tcp("192.0.2.9", source, 80, sport, FIN | ACK, seq=501, ack=102))
            watch.send(tcp(source, "192.0.2.9", sport, 80, ACK, seq=102, ack=502))
        elif event == "wait":
            watch.wait(chance.choice((1, 30, 130)))
        else:
            watch.engine.sweep(watch.now_ns)
    assert 100 < sum(said) < len(said) - 100


def test_connlimit_counts_both_ends_of_a_connection_if_both_are_asked_about() -> None:
    """Without --syn answers ask, too, about the address that sends them, as in the kernel."""
    watch = watch_with("-A FORWARD -p tcp -m connlimit --connlimit-above 1 -j DROP")
    assert watch.send(tcp("10.0.0.2", "192.0.2.9", 1, 80, SYN, seq=100)).verdict == Verdict.ACCEPT
    assert watch.send(tcp("192.0.2.9", "10.0.0.2", 80, 1, SYN | ACK, seq=500, ack=101)).verdict == Verdict.ACCEPT
    assert watch.send(tcp("10.0.0.3", "192.0.2.9", 1, 80, SYN, seq=100)).verdict == Verdict.ACCEPT
    assert watch.send(tcp("192.0.2.9", "10.0.0.3", 80, 1, SYN | ACK, seq=500, ack=101)).verdict == Verdict.DROP


def test_rules_of_connlimit_that_have_gone_leave_nothing() -> None:
    """More reloads than there can be counters, with connections that every ruleset counts."""
    watch = Watch()
    for _ in range(2100):
        watch.engine.load(Program(parse_save("-A FORWARD -p tcp -m connlimit --connlimit-above 1 -j DROP"), watch.engine.environment))
        watch.send(tcp("10.0.0.2", "192.0.2.9", 1, 80, SYN))
        watch.engine.sweep(watch.now_ns)
    assert watch.send(tcp("10.0.0.2", "192.0.2.9", 2, 80, SYN)).verdict == Verdict.DROP


def test_a_reload_while_connections_are_counted_counts_from_nothing() -> None:
    watch = watch_with("-A FORWARD -p tcp -m connlimit --connlimit-above 1 -j DROP")
    assert watch.send(tcp("10.0.0.2", "192.0.2.9", 1, 80, SYN)).verdict == Verdict.ACCEPT
    watch.engine.load(Program(parse_save("-A FORWARD -p tcp -m connlimit --connlimit-above 1 -j DROP"), watch.engine.environment))
    assert watch.send(tcp("10.0.0.2", "192.0.2.9", 2, 80, SYN)).verdict == Verdict.ACCEPT, "iptables-restore does the same"
    assert watch.send(tcp("10.0.0.2", "192.0.2.9", 3, 80, SYN)).verdict == Verdict.DROP


# -- the others -------------------------------------------------------------------------------------------------------------------------

def full(watch: Watch) -> dict[str, int]:
    return {memory: times for memory, times in watch.engine.counters()["full"].items() if times}


HASHLIMIT = "-A FORWARD -m hashlimit --hashlimit-upto 1/s --hashlimit-burst 1 --hashlimit-mode srcip --hashlimit-name one"


def test_a_full_hashlimit_says_so_and_serves_again() -> None:
    watch, packets = watch_with(f"-P FORWARD DROP\n{HASHLIMIT} --hashlimit-htable-max 65536 -j ACCEPT"), syns()
    said = verdicts(watch, packets, MANY)
    assert said == [Verdict.ACCEPT] * 65536 + [Verdict.DROP] * (MANY - 65536)
    assert watch.reasons() == {"RULE_MEMORY": MANY - 65536}
    assert full(watch) == {"hashlimit": MANY - 65536}
    watch.wait(2)
    assert set(verdicts(watch, packets, 1000)) == {Verdict.ACCEPT}


def test_a_full_list_of_recent_forgets_the_oldest() -> None:
    watch = watch_with("-A FORWARD -p udp -m recent --name one --rcheck -j DROP\n-A FORWARD -p tcp -m recent --name one --set")
    assert set(verdicts(watch, syns(), MANY)) == {Verdict.ACCEPT}
    assert full(watch) == {"recent": MANY - 100}
    known = [watch.send(udp(str(IPv4Address(0x0B000000 + number)), "192.0.2.9", 1, 2)).verdict == Verdict.DROP
             for number in range(MANY - 200, MANY)]
    assert known == [False] * 100 + [True] * 100


def test_a_full_set_says_so_and_takes_others_again() -> None:
    watch = Watch(max_entries=1 << 17)
    watch.engine.environment.sets.restore(b"create one hash:ip timeout 60 maxelem 5000", watch.now_ns)
    watch.engine.load(Program(parse_save("-A FORWARD -p udp -m set --match-set one src -j DROP\n-A FORWARD -p tcp -j SET --add-set one src"),
                              watch.engine.environment))
    packets = syns()
    verdicts(watch, packets, 6000)
    assert full(watch) == {"sets": 1000}
    watch.wait(61)
    watch.engine.environment.sets.sweep(watch.now_ns)
    verdicts(watch, packets, 1)
    assert watch.send(udp(str(IPv4Address(0x0B000000 + 6000)), "192.0.2.9", 1, 2)).verdict == Verdict.DROP


def test_what_rules_shared_by_name_ends_with_them() -> None:
    watch = Watch()
    for number in range(20):
        watch.engine.load(Program(parse_save(f"-A FORWARD -m recent --name list{number} --set\n{HASHLIMIT}{number}"),
                                  watch.engine.environment))
        gc.collect()
        assert len(watch.engine.environment.named) == 2


def test_interfaces_that_have_gone_give_their_numbers_back() -> None:
    """Containers come and go, each with an interface of its own; where a connection was met stays known all the while."""
    watch = Watch()
    for number in range(1000):
        judgement = watch.engine.judge(udp("10.0.0.2", "192.0.2.9", number + 1, 53), Hook.FORWARD, f"veth{number}", "eth0", watch.now_ns)
        assert judgement.verdict == Verdict.ACCEPT
        watch.wait(1)               # an unanswered datagram is remembered for 30 s: some thirty numbers are in use
        watch.engine.sweep(watch.now_ns)
    assert full(watch) == {}
    refusing = Program(parse_save("-A FORWARD -i veth999 -j DROP"), watch.engine.environment)
    parts = list(review(watch.engine, refusing, watch.now_ns))
    assert (sum(part.killed for part in parts), sum(part.unknown for part in parts)) == (1, 0)


def test_more_interfaces_than_there_are_numbers_are_counted() -> None:
    watch = Watch()
    for number in range(200):
        watch.engine.judge(udp("10.0.0.2", "192.0.2.9", number + 1, 53), Hook.FORWARD, f"veth{number}", "", watch.now_ns)
    assert full(watch) == {"interfaces": 200 - 127}
    watch.wait(60)
    watch.engine.judge(udp("10.0.0.2", "192.0.2.9", 1, 54), Hook.FORWARD, "veth500", "veth501", watch.now_ns)
    assert full(watch) == {"interfaces": 200 - 127 + 1}, "those that have expired bear their numbers until they are swept"
    watch.engine.sweep(watch.now_ns)
    watch.engine.judge(udp("10.0.0.2", "192.0.2.9", 2, 54), Hook.FORWARD, "veth500", "veth501", watch.now_ns)
    assert full(watch) == {"interfaces": 200 - 127 + 1}


# -- costs --------------------------------------------------------------------------------------------------------------------------

def cost_ns(rules: str, things: int) -> float:
    watch = Watch(max_entries=1 << 17)
    watch.engine.environment.sets.restore(b"create one hash:ip timeout 60 maxelem 200000", watch.now_ns)
    watch.engine.load(Program(parse_save(rules), watch.engine.environment))
    packets = syns()
    for _ in range(0, things, 1000):
        verdicts(watch, packets, min(things, 1000))
        watch.engine.environment.sets.sweep(watch.now_ns)       # which makes room for more
    return fastest_ns(watch, packets)


@pytest.mark.alone
@pytest.mark.parametrize("rules", [
    "-A FORWARD -p tcp --syn -m connlimit --connlimit-above 1000000 --connlimit-mask 0 -j DROP",
    f"{HASHLIMIT} --hashlimit-htable-max 200000 -j ACCEPT", "-A FORWARD -m recent --name one --set",
    "-A FORWARD -j SET --add-set one src",
], ids=["connlimit", "hashlimit", "recent", "set"])
def test_what_a_packet_costs_does_not_grow(rules: str) -> None:
    assert cost_ns(rules, MANY_THINGS) < TIMES_SLOWER * cost_ns(rules, FEW_THINGS)
