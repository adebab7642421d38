"""Connections that new rules would not have accepted go, those that they would have accepted stay, and nothing else changes."""
from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.announcing import Announcer, Master, coming
from kit.packets import CLIENT, CLIENT6, SERVER, SERVER6, SYN, chunk, gre, icmp, ip, pptp, sctp, tcp, udp, udplite
from kit.traffic import TcpConversation, Watch
from pyfw.engine.engine import Engine
from pyfw.engine.review import review
from pyfw.enums import CtState, Hook, Verdict
from pyfw.explain.dry_run import dry_run
from pyfw.helpers import HelperBinding
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.program.program import Program

INIT = chunk(1, b"\0\0\0\1\0\0\xff\xff\0\1\0\1\0\0\0\1")


def program(watch: Watch, *lines: str) -> Program:
    return Program(parse_save("\n".join(["*filter", ":FORWARD DROP", ":INPUT DROP", ":OUTPUT DROP", *lines, "COMMIT"])),
                   watch.engine.environment)


def killed(watch: Watch, rules: Program) -> tuple[list[str], int]:
    """The lines of what went, and of how many nothing was known."""
    slices = list(review(watch.engine, rules, watch.now_ns))
    lines = b"".join(part.text for part in slices).decode().splitlines()
    assert len(lines) == sum(part.killed for part in slices)
    return lines, sum(part.unknown for part in slices)


def ports(lines: list[str]) -> list[int]:
    return sorted(int(line.split("sport=")[1].split()[0]) for line in lines)


def accepts(watch: Watch, *lines: str) -> bool:
    """Whether the only connection survives; it is not of unknown origin."""
    before = watch.lines("nf")
    lines_, unknown = killed(watch, program(watch, *lines))
    assert unknown == 0
    assert len(before) == 1
    assert lines_ in ([], before)
    return not lines_


# -- what goes and what stays ----------------------------------------------------------------------------------------------

def test_exactly_the_connections_of_a_rule_that_is_gone_go(watch):
    web, ssh = TcpConversation(watch, sport=1, dport=80).open(), TcpConversation(watch, sport=2, dport=22).open()
    rules = program(watch, "-A FORWARD -m state --state ESTABLISHED -j ACCEPT", "-A FORWARD -p tcp --dport 22 -j ACCEPT")
    watch.engine.load(rules)
    assert web.client.data(1).verdict is Verdict.ACCEPT         # the control: reloading alone ends nothing
    gone = [line for line in watch.lines("nf") if "dport=80 packets" in line]
    assert killed(watch, rules) == (gone, 0)
    assert ports(watch.lines("nf")) == [2]
    assert (web.client.data(1).verdict, ssh.client.data(1).verdict) == (Verdict.DROP, Verdict.ACCEPT)


def test_without_rules_all_stays(watch):
    watch.send(udp(CLIENT, SERVER, 1, 53))
    assert list(review(watch.engine, None, watch.now_ns)) == []


@pytest.mark.parametrize(("packet", "rule", "other"), [
    (tcp(CLIENT, SERVER, 1, 80, SYN), "-p tcp --dport 80 --syn -m state --state NEW", "-p tcp ! --syn"),
    (tcp(CLIENT6, SERVER6, 1, 80, SYN), f"-s {CLIENT6} -p tcp --sport 1", "-m state --state ESTABLISHED"),
    (udp(CLIENT, SERVER, 1, 53, bytes(500)), "-p udp --dport 53", "-m length --length 100:"),
    (udp(CLIENT6, SERVER6, 1, 53), "-p udp --sport 1 --dport 53", "-p udp --dport 1"),
    (udplite(CLIENT, SERVER, 1, 53), "-p udplite --dport 53", "-p udp"),
    (icmp(CLIENT, SERVER, 8, id=9), "-p icmp --icmp-type echo-request", "-p icmp --icmp-type echo-reply"),
    (icmp(CLIENT, SERVER, 13, id=9), "-p icmp --icmp-type timestamp-request", "-p icmp --icmp-type echo-request"),
    (icmp(CLIENT6, SERVER6, 128, id=9), "-p icmpv6 --icmpv6-type echo-request", "-p icmp"),
    (sctp(CLIENT, SERVER, 1, 9, 0, INIT), "-p sctp --dport 9", "-p sctp --dport 1"),
    (gre(CLIENT, SERVER), "-p gre", "-p tcp"),
    (pptp(CLIENT, SERVER, 77), "-p gre -m conntrack --ctorigdstport 77", "-m conntrack --ctorigdstport 78"),
    (ip(CLIENT, SERVER, 103, b"x" * 20), "-p 103", "-p 104"),
    (ip(CLIENT6, SERVER6, 50, b"x" * 20), f"-d {SERVER6}", f"-d {CLIENT6}"),
    (udp(CLIENT, SERVER, 1, 53), "-i eth0 -o eth1", "-i eth1"),
    (udp(CLIENT, SERVER, 1, 53), "-m conntrack --ctstate NEW --ctdir ORIGINAL ! --ctstatus SEEN_REPLY", "-m connmark --mark 1"),
    (udp(CLIENT, SERVER, 1, 53), "-m connbytes --connbytes 1:1 --connbytes-dir both --connbytes-mode packets",
     "-m connbytes --connbytes 2: --connbytes-dir both --connbytes-mode packets"),
    (udp(CLIENT, SERVER, 1, 53), "-m ttl --ttl-eq 64", "-m mark --mark 1"),
])
def test_the_first_packet_is_made_anew(watch, packet, rule, other):
    watch.send(packet)
    assert accepts(watch, f"-A FORWARD {rule} -j ACCEPT")
    assert not accepts(watch, f"-A FORWARD {other} -j ACCEPT")


@pytest.mark.parametrize(("hook", "indev", "outdev", "rule"), [
    (Hook.INPUT, "eth7", "", "-A INPUT -i eth7 -j ACCEPT"),
    (Hook.OUTPUT, "", "wan0", "-A OUTPUT -o wan0 -j ACCEPT"),
    (Hook.FORWARD, "a" * 15, "b" * 15, f"-A FORWARD -i {'a' * 15} -o {'b' * 15} -j ACCEPT"),
])
def test_it_is_met_where_the_real_one_was(watch, hook, indev, outdev, rule):
    watch.engine.judge(udp(CLIENT, SERVER, 1, 53), hook, indev, outdev, watch.now_ns)
    assert accepts(watch, rule)
    assert not accepts(watch, *(f"-A {chain} -i lo -j ACCEPT" for chain in ("INPUT", "FORWARD")), "-A OUTPUT -o lo -j ACCEPT")


def test_the_reply_has_no_say(watch):
    """It may come in by another interface and go to a port that no rule knows."""
    watch.send(udp(CLIENT, SERVER, 1, 53))
    watch.engine.judge(udp(SERVER, CLIENT, 53, 1), Hook.FORWARD, "eth1", "eth0", watch.now_ns)
    assert accepts(watch, "-A FORWARD -i eth0 -p udp --dport 53 -m state --state NEW -j ACCEPT")


def test_the_raw_table_has_its_say(watch):
    for port in (1, 2, 3):
        watch.send(udp(CLIENT, SERVER, port, 53))
    rules = program(watch, "-A FORWARD -m state --state NEW -j ACCEPT", "COMMIT", "*raw", "-A PREROUTING -p udp --sport 1 -j DROP",
                    "-A PREROUTING -p udp --sport 2 -j NOTRACK")
    assert ports(killed(watch, rules)[0]) == [1, 2]


def test_marks_are_those_that_the_rules_set_on_the_way(watch):
    watch.send(udp(CLIENT, SERVER, 1, 53))
    assert accepts(watch, "-A FORWARD -p udp -j CONNMARK --set-mark 5", "-A FORWARD -j CONNMARK --restore-mark",
                   "-A FORWARD -m connmark --mark 5 -m mark --mark 5 -j ACCEPT")
    assert watch.only()["mark"] == 0


# -- connections that helpers expected ----------------------------------------------------------------------------------------

@pytest.fixture
def expecting() -> Watch:
    helper = Announcer()
    watch = Watch(helpers=[HelperBinding(helper, (6100,))])
    master = Master(watch, helper)
    master.announce(7000)
    assert watch.send(coming(7000)).state is CtState.RELATED
    return watch


def test_an_expected_connection_is_judged_as_related(expecting):
    data = "-A FORWARD -m state --state RELATED -m helper --helper announcer -p tcp --dport 7000 -j ACCEPT"
    assert ports(killed(expecting, program(expecting, data, "-A FORWARD -m state --state NEW -j ACCEPT"))[0]) == []
    assert ports(killed(expecting, program(expecting, data))[0]) == [40000]
    assert ports(killed(expecting, program(expecting, "-A FORWARD -m state --state NEW -j ACCEPT"))[0]) == [20]


# -- what is not known --------------------------------------------------------------------------------------------------------

def test_a_connection_whose_origin_is_not_known_stays_and_is_counted(watch):
    watch.engine.judge(udp(CLIENT, SERVER, 1, 53), Hook.PREROUTING, "eth0", "", watch.now_ns)
    watch.send(udp(CLIENT, SERVER, 2, 53))
    lines, unknown = killed(watch, program(watch))
    assert (ports(lines), unknown) == ([2], 1)
    assert ports(watch.lines("nf")) == [1]


def test_so_many_interfaces_are_known(watch):
    for number in range(1, 131):
        watch.engine.judge(udp(CLIENT, SERVER, number, 53), Hook.INPUT, f"ppp{number}", "", watch.now_ns)
    lines, unknown = killed(watch, program(watch, "-A INPUT -i ppp5 -j ACCEPT"))
    assert (len(lines), unknown) == (126, 3)


def test_a_successor_knows_where_its_predecessors_connections_came_from():
    memory = bytearray(Engine.memory_size(64, 8))
    first = Watch(memory=memory, max_entries=64, expect_max=8)
    for number in range(3):
        first.engine.judge(udp(CLIENT, SERVER, 10 + number, 53), Hook.INPUT, f"eth{number}", "", first.now_ns)
    successors = (Watch(memory=memory, max_entries=64, expect_max=8), Watch(previous=memory, max_entries=32, expect_max=8))
    for second in successors:
        assert second.engine.adopted == 3
        lines, unknown = killed(second, program(second, "-A INPUT -i eth1 -j ACCEPT"))
        assert (ports(lines), unknown) == ([10, 12], 0)


# -- what does not count, and what does not change ------------------------------------------------------------------------------

@pytest.mark.parametrize("rule", ["-m limit --limit 1/hour --limit-burst 1", "-m connlimit --connlimit-upto 1",
                                  "-m hashlimit --hashlimit-upto 1/hour --hashlimit-burst 1 --hashlimit-name x"])
def test_limits_have_room_for_all(watch, rule):
    for port in range(1, 6):
        watch.send(udp(CLIENT, SERVER, port, 53))
    rules = program(watch, f"-A FORWARD {rule} -j ACCEPT")
    above = program(watch, f"-A FORWARD {rule.replace('upto', 'above')} -j DROP", "-A FORWARD -j ACCEPT")
    watch.engine.load(rules)
    assert [watch.send(udp(CLIENT, SERVER, 9, port)).verdict.name for port in (1, 2)] == ["ACCEPT", "DROP"]    # it is used up
    assert killed(watch, rules) == ([], 0)
    watch.engine.load(above)
    watch.send(udp(CLIENT, SERVER, 9, 3))
    assert len(killed(watch, above)[0]) == (6 if "-m limit" in rule else 0)


def test_no_one_is_drawn_by_lot(watch):
    for port in range(1, 20):
        watch.send(udp(CLIENT, SERVER, port, 53))
    lot = "-m statistic --mode random --probability 0.99999"
    assert killed(watch, program(watch, f"-A FORWARD {lot} -j DROP", "-A FORWARD -j ACCEPT")) == ([], 0)


def test_nothing_else_changes(watch):
    sets = watch.engine.environment.sets
    sets.change("create", ["seen", "hash:ip", "counters"], 0)
    watch.send(udp(CLIENT, SERVER, 1, 53))
    rules = program(watch, "-A FORWARD -m recent --name knocked --set", "-A FORWARD -j SET --add-set seen src", "-A FORWARD -j LOG",
                    "-A FORWARD -m set --match-set seen src -j ACCEPT", "-A FORWARD -m recent --name knocked --rcheck -j ACCEPT",
                    "-A FORWARD -m limit --limit 1/hour --limit-burst 1 -p udp -j ACCEPT")
    watch.engine.load(rules)
    before = watch.lines("nf"), watch.engine.counters(), list(sets.saved(None, watch.now_ns, True))
    for _ in range(3):
        assert killed(watch, rules) == ([], 0)
    assert (watch.lines("nf"), watch.engine.counters(), list(sets.saved(None, watch.now_ns, True))) == before
    assert all(packets == 0 for policy, counted in rules.counters().values() for packets, _ in [*counted, policy])
    assert rules.logs() == []
    sets.change("flush", ["seen"], 0)
    assert watch.send(udp(CLIENT, SERVER, 2, 53)).rule == "filter:FORWARD:rule:4"      # the first that SET lets in


def test_what_has_expired_is_neither_killed_nor_listed(watch):
    watch.send(udp(CLIENT, SERVER, 1, 53))
    watch.wait(31)
    assert killed(watch, program(watch)) == ([], 0)
    assert watch.table()["destroyed"] == 0


def test_a_large_table_is_gone_through_in_parts():
    watch = Watch(max_entries=3000)
    for number in range(3000):
        watch.send(udp(f"10.1.{number >> 8}.{number & 255}", SERVER, 5000 + number % 2, 53))
    slices = list(review(watch.engine, program(watch, "-A FORWARD -p udp --sport 5000 -j ACCEPT"), watch.now_ns))
    assert len(slices) > 3
    assert sum(part.killed for part in slices) == 1500
    assert watch.table()["entries"] == 1500


# -- the law ----------------------------------------------------------------------------------------------------------------------

ADDRESSES = [f"10.0.{number}.1" for number in range(4)]
FLOW = st.tuples(st.sampled_from(["tcp", "udp", "icmp"]), st.sampled_from(ADDRESSES), st.sampled_from(ADDRESSES),
                 st.integers(1, 6), st.integers(1, 6), st.sampled_from([Hook.INPUT, Hook.FORWARD, Hook.OUTPUT]),
                 st.sampled_from(["eth0", "eth1"]), st.sampled_from(["eth0", "eth1"]))
TESTS = st.lists(st.one_of(
    st.sampled_from(["-m state --state NEW", "-m state --state ESTABLISHED,RELATED", "-m conntrack --ctstate NEW,INVALID", "-f",
                     "-m ttl --ttl-lt 65", "-m mark --mark 1", "-m connmark --mark 0", "-m pkttype"][:-1]),
    st.builds(" ".join, st.tuples(st.sampled_from(["-s", "-d", "! -s"]), st.sampled_from([f"{a}/24" for a in ADDRESSES])))),
    max_size=2, unique_by=lambda text: text.removeprefix("! ").split()[0])
PROTOCOL = st.sampled_from(["", "-p udp", "-p icmp --icmp-type 8", "-p tcp --syn", "-p tcp --dport 1:3", "-p udp ! --dport 2",
                            "-p tcp --sport 4:", "! -p udp"])
RULE = st.tuples(st.sampled_from(["INPUT", "FORWARD", "OUTPUT", "mine"]), PROTOCOL, TESTS,
                 st.sampled_from(["ACCEPT", "DROP", "REJECT", "mine", "RETURN", "LOG", "CONNMARK --set-mark 1"]))


def packet_of(flow: tuple) -> bytes:
    kind, src, dst, sport, dport, *_ = flow
    if kind == "icmp":
        return icmp(src, dst, 8, id=sport)
    return tcp(src, dst, sport, dport, SYN) if kind == "tcp" else udp(src, dst, sport, dport)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(flows=st.lists(FLOW, min_size=1, max_size=20, unique_by=lambda flow: flow[:5]), rules=st.lists(RULE, max_size=12),
       policy=st.sampled_from(["ACCEPT", "DROP"]))
def test_killed_is_exactly_what_explain_says_would_be_dropped(flows, rules, policy):
    lines = [f"-A {chain} {protocol} {' '.join(tests)} -j {target}" for chain, protocol, tests, target in rules
             if (chain, target) != ("mine", "mine")]
    text = "\n".join(["*filter", *(f":{chain} {policy}" for chain in ("INPUT", "FORWARD", "OUTPUT")), ":mine -", *lines, "COMMIT"])
    watch, empty = Watch(), Watch()
    expected = []
    empty.engine.load(Program(parse_save(text), empty.engine.environment))
    for flow in flows:
        packet, (hook, indev, outdev) = packet_of(flow), flow[5:]
        indev, outdev = "" if hook is Hook.OUTPUT else indev, "" if hook is Hook.INPUT else outdev
        if watch.engine.judge(packet, hook, indev, outdev, watch.now_ns).state is not CtState.NEW or len(watch.lines("nf")) \
                == len(expected):
            continue                    # another flow's reply
        answer = dry_run(empty.engine, packet, hook, indev, outdev, watch.now_ns)
        assert answer.judgement.state is CtState.NEW
        expected.append(answer.judgement.verdict)
    before = [line for _, line in sorted((record["id"], line) for record, line in
                                         zip(watch.records(), watch.lines("nf"), strict=True))]
    gone, unknown = killed(watch, Program(parse_save(text), watch.engine.environment))
    assert unknown == 0
    assert sorted(gone) == sorted(line for line, verdict in zip(before, expected, strict=True) if verdict is Verdict.DROP)
