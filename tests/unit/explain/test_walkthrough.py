"""Why a rule did not match, in words: each kind of test with what the packet has instead."""
from __future__ import annotations

import pytest

from kit.packets import CLIENT, SERVER, ip
from kit.vocabulary import RULES as VOCABULARY
from pyfw.engine.engine import Engine
from pyfw.explain.packet_spec import packet_spec, read_spec
from pyfw.explain.walkthrough import Visit, visits
from pyfw.helpers import bind
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.model import Ruleset
from pyfw.rules.program.program import Program

TCP, UDP, ICMP = "tcp 10.0.0.5:40000 203.0.113.7:443", "udp 10.0.0.5:40000 203.0.113.7:53", "icmp 10.0.0.5 203.0.113.7"


def way(rules: str | Ruleset, question: str, table: str = "filter", family: int | None = None) -> list[Visit]:
    engine = Engine(max_entries=8, helpers=[bind("ftp", [21])])
    engine.environment.sets.change("create", ["known", "hash:ip"], 0)
    ruleset = rules if isinstance(rules, Ruleset) else parse_save(rules, table=table, family=family)
    engine.load(Program(ruleset, engine.environment))
    answer = packet_spec(read_spec(question.split()), engine, 0).put(engine, 1)
    return list(visits(answer.packet_trace))


@pytest.mark.parametrize(("rule", "question", "why"), [
    ("-s 192.0.2.0/24", TCP, "-s 192.0.2.0/24: packet has 10.0.0.5"),
    ("! -s 10.0.0.0/8", TCP, "! -s 10.0.0.0/8: packet has 10.0.0.5"),
    ("-d 192.0.2.1", TCP, "-d 192.0.2.1/32: packet has 203.0.113.7"),
    ("-i eth2", f"{TCP} --in eth1 --out eth0", "-i eth2: packet has eth1"),
    ("-o ppp+", f"{TCP} --in eth1 --out eth0", "-o ppp+: packet has eth0"),
    ("-i eth2", TCP, "-i eth2: packet has none"),
    ("-p udp", TCP, "-p udp: packet has tcp"),
    ("! -p tcp", TCP, "! -p tcp: packet has tcp"),
    ("-f", TCP, "-f: packet has no later fragment"),
    ("-s 192.0.2.1 -p udp", TCP, "-s 192.0.2.1/32: packet has 10.0.0.5; -p udp: packet has tcp"),
    ("-m state --state ESTABLISHED,RELATED", TCP, "state is NEW"),
    ("-m conntrack ! --ctstate NEW", TCP, "state is NEW"),
    ("-p tcp --dport 22 -m state --state INVALID", TCP, "--dport 22: packet has 443"),
    ("-p tcp --dport 443 -m state --state INVALID", TCP, "state is NEW"),
    ("-p tcp --dport 22", TCP, "--dport 22: packet has 443"),
    ("-p tcp ! --sport 1024:", TCP, "! --sport 1024:65535: packet has 40000"),
    ("-p tcp --sport 22 --dport 23", TCP, "--sport 22: packet has 40000; --dport 23: packet has 443"),
    ("-p tcp --syn", f"{TCP} --flags ACK", "--tcp-flags FIN,SYN,RST,ACK SYN: packet has ACK"),
    ("-p tcp --dport 443 --tcp-option 2", TCP, "--tcp-option 2"),
    ("-p tcp --dport 22 --tcp-option 2", TCP, "--dport 22: packet has 443"),
    ("-p icmp --icmp-type echo-reply", ICMP, "-m icmp --icmp-type 0: packet has 8/0"),
    ("-m length --length 100:200", TCP, "-m length --length 100:200: packet has 40 bytes"),
    ("-m ttl --ttl-eq 1", TCP, "-m ttl --ttl-eq 1: packet has 64"),
    ("-p tcp -m multiport --dports 80,8080", TCP, "-m multiport --dports 80,8080: packet has ports 40000 and 443"),
    ("-m set --match-set known src", TCP, "-m set --match-set known src"),
    ("-p tcp --dport 443 -m length --length 99 -m set --match-set known src", TCP, "-m length --length 99: packet has 40 bytes"),
])
def test_why_not(rule: str, question: str, why: str) -> None:
    first, end = way(f"-A FORWARD {rule} -j ACCEPT", question)
    assert (first.outcome, first.why) == ("no", why)
    assert (end.rule, end.text, end.outcome) == ("filter:FORWARD:policy:2", "-P FORWARD ACCEPT", "end")


def test_the_raw_table_knows_neither_state_nor_way_out() -> None:
    state, device, _ = way("-A PREROUTING -m state --state NEW\n-A PREROUTING -p udp -j NOTRACK", TCP, "raw")
    assert state.why == "no state is known yet"
    assert device.why == "-p udp: packet has tcp"


def test_a_broken_header_is_dropped_where_it_is_asked_for() -> None:
    short = ip(CLIENT, SERVER, 6, b"123").hex()
    (dropped,) = way("-A FORWARD -p tcp --dport 22", f"hex {short}")
    assert dropped.outcome == "dropped"
    assert "missing or broken" in dropped.why


def test_jumps_and_returns_are_told_with_their_depth() -> None:
    met = way("-N a\n-N b\n-N c\n-A FORWARD -j a\n-A FORWARD -p tcp -j RETURN\n-A a -j b\n-A a -g c\n-A b -p tcp -j RETURN\n-A c -p udp\n",
              TCP)
    assert [(visit.rule.removeprefix("filter:"), visit.depth, visit.outcome, visit.why) for visit in met] == [
        ("FORWARD:rule:1", 0, "matched", "to a"),
        ("a:rule:1", 1, "matched", "to b"),
        ("b:rule:1", 2, "matched", "back to a"),
        ("a:rule:2", 1, "matched", "on to c, not to come back"),
        ("c:rule:1", 1, "no", "-p udp: packet has tcp"),
        ("c:return:2", 1, "end", "back to FORWARD"),
        ("FORWARD:rule:2", 0, "matched", "to the policy"),
        ("FORWARD:policy:3", 0, "end", "")]


def test_policies_by_family() -> None:
    table = parse_save("-P FORWARD DROP").table("filter")
    ruleset = Ruleset((table.with_chain(table.chain("FORWARD").with_policy("ACCEPT", 6)),))
    assert way(ruleset, TCP)[-1].text == "-P FORWARD DROP"
    assert way(ruleset, "icmpv6 ::1 ::2")[-1].text == "-P FORWARD ACCEPT"


@pytest.mark.parametrize("question", [TCP, UDP, ICMP, "tcp [2001:db8::1]:40000 [2001:db8::2]:443", "icmpv6 ::1 ::2", "gre ::1 ::2",
                                      "hex 450000180000200040060000 0a0000020a000102 00000000 --trusted", "sctp 10.0.0.5:1 10.0.0.6:2"])
@pytest.mark.parametrize(("family", "table", "chain"), list(VOCABULARY))
def test_the_whole_vocabulary_has_words(family: int, table: str, chain: str, question: str) -> None:
    rules = VOCABULARY[family, table, chain]
    hook = {"INPUT": "--in eth0", "OUTPUT": "--out eth0"}.get(chain, "" if table == "filter" else "--in eth0 --out eth1")
    if table == "raw" and chain == "OUTPUT":
        hook = "--out eth0"
    for rule in rules:
        met = [visit for visit in way(f"-A {chain} {rule}", f"{question} {hook}", table, family) if visit.table == table]
        assert met, rule
        assert all(visit.why for visit in met if visit.outcome in ("no", "dropped")), rule
