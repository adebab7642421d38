"""Rules that only audit: they count and log what they match, nothing comes of it, and no text turns them into rules in force."""
from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from scapy.layers.inet import IP, TCP, UDP
from scapy.packet import Packet, Raw

from kit.control import StillDaemon
from pyfw.edge.control.handlers.rules import run_iptables
from pyfw.engine.engine import Engine
from pyfw.enums import Hook, Verdict
from pyfw.explain.packet_spec import packet_spec, read_spec
from pyfw.explain.text import answer_record
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.language.lint import lint
from pyfw.rules.language.printing import print_rules, print_ruleset
from pyfw.rules.language.table_view import list_chains
from pyfw.rules.language.yaml_rules import load_rules
from pyfw.rules.log.format import format_log
from pyfw.rules.model import RulesError, Ruleset
from pyfw.rules.program.program import Program, Walk

V4 = IP(src="10.0.0.2", dst="192.0.2.80")
WEB = V4 / TCP(sport=40000, dport=80, flags="S")
SSH = V4 / TCP(sport=40000, dport=22, flags="S")


def load(*rules: str, chains: str = "", policy: str = "ACCEPT") -> Ruleset:
    text = f"rules:\n  filter:\n    FORWARD:\n      policy: {policy}\n      rules:\n"
    text += "".join(f"        - {rule}\n" for rule in rules) + chains
    return load_rules(yaml.compose(text, yaml.SafeLoader).value[0][1], {}, Path("/nonexistent"), "c.yaml", Path.read_text)


def walk(program: Program, packet: Packet) -> Walk:
    return program.walk("filter", bytes(packet), Hook.FORWARD, "eth0", "eth1")


def counted(program: Program) -> list[int]:
    policy, rules = program.counters()["filter", "FORWARD"]
    return [packets for packets, _ in (*rules, policy)]


@pytest.mark.parametrize("target", ["jump: DROP", "jump: REJECT", "jump: ACCEPT", "jump: RETURN", "jump: own", "goto: own",
                                    "jump: MARK, set-mark: 5", "jump: LOG, log-prefix: x"])
@pytest.mark.parametrize("policy", ["ACCEPT", "DROP"])
def test_it_counts_and_the_walk_goes_on(target: str, policy: str) -> None:
    own = "    own: {rules: [{jump: DROP}, {jump: ACCEPT}]}\n"
    program = Program(load(f"{{proto: tcp, dport: 80, {target}, audit: true}}", chains=own, policy=policy))
    for packet in (WEB, SSH):
        found = walk(program, packet)
        assert (found.verdict.name, found.rule, found.mark, found.reject) == (policy, "filter:FORWARD:policy:2", 0, 0)
    assert counted(program) == [1, 2]
    assert [packets for packets, _ in program.counters()["filter", "own"][1]] == [0, 0]


def test_without_audit_the_same_rule_decides() -> None:
    program = Program(load("{proto: tcp, dport: 80, jump: DROP, audit: false}"))
    assert walk(program, WEB).verdict is Verdict.DROP


def test_each_packet_it_matches_is_logged_with_its_rule() -> None:
    program = Program(load("{proto: udp, jump: DROP, audit: true}", "{proto: tcp, jump: LOG, log-prefix: 'x: '}"), log_burst=2)
    for port in (1, 2, 3):
        walk(program, V4 / UDP(sport=port, dport=9))
    walk(program, WEB)
    lines = [format_log(record) for record in program.logs()]
    assert [line.split("IN=")[0] for line in lines] == ["x: ", "AUDIT: filter:FORWARD:rule:1 ", "AUDIT: filter:FORWARD:rule:1 "]
    assert [line.split("SPT=")[1].split()[0] for line in lines[1:]] == ["1", "2"]
    assert program.logs_suppressed == 1         # of its own allowance: LOG's line was not held back


def test_a_header_that_is_cut_off_does_not_drop_where_only_an_audit_asks_for_it() -> None:
    cut = IP(src="10.0.0.2", dst="192.0.2.80", proto=6) / Raw(bytes(TCP(dport=80))[:4])
    audits, enforced = (Program(load(f"{{proto: tcp, dport: 80, jump: ACCEPT, audit: {audit}}}")) for audit in ("true", "false"))
    assert walk(audits, cut).verdict is Verdict.ACCEPT
    assert walk(enforced, cut).verdict is Verdict.DROP


def test_what_its_tests_remember_moves_as_if_it_were_in_force() -> None:
    program = Program(load("{proto: tcp, limit: 1/hour, limit-burst: 2, jump: ACCEPT, audit: true}"))
    for _ in range(5):
        walk(program, WEB)
    assert counted(program) == [2, 5]


# -- texts --------------------------------------------------------------------------------------------------------------

MIXED = ("{proto: tcp, dport: 22, jump: ACCEPT}", "{proto: tcp, dport: 80, jump: DROP, audit: true}",
         "{src: 10.0.0.0/8, proto: udp, jump: DROP}")


def test_in_iptables_text_it_is_a_comment_so_that_no_reader_enforces_it() -> None:
    ruleset = load(*MIXED)
    assert print_rules(ruleset, "filter", "FORWARD") == [
        "-P FORWARD ACCEPT", "-A FORWARD -p tcp -m tcp --dport 22 -j ACCEPT",
        "# audit: -A FORWARD -p tcp -m tcp --dport 80 -j DROP", "-A FORWARD -s 10.0.0.0/8 -p udp -j DROP"]
    counters = Program(ruleset).counters()
    for text in (print_ruleset(ruleset), print_ruleset(ruleset, counters=counters)):
        assert "# audit: -A FORWARD -p tcp -m tcp --dport 80 -j DROP\n" in text
        assert parse_save(text) == load(MIXED[0], MIXED[2])


def test_counters_stand_with_their_rules() -> None:
    program = Program(load(*MIXED))
    for packet in (SSH, WEB, WEB, V4 / UDP()):
        walk(program, packet)
    lines = print_rules(program.ruleset, "filter", "FORWARD", counters=program.counters())
    assert [line.split(" -c ")[1].split()[0] for line in lines] == ["2", "1", "2", "1"]
    assert "[1:28] -A FORWARD -s 10.0.0.0/8" in print_ruleset(program.ruleset, counters=program.counters())


def test_iptables_lists_it_in_its_place() -> None:
    daemon = StillDaemon()
    daemon.engine.load(Program(load(*MIXED), daemon.engine.environment))
    *_, answer = run_iptables(daemon, {"words": ["-S", "FORWARD", "2"], "family": 4})
    assert answer["text"] == "# audit: -A FORWARD -p tcp -m tcp --dport 80 -j DROP\n"
    table = daemon.engine.program.ruleset.table("filter")
    row = list(list_chains(table, 4, "FORWARD", 2, numeric=True))
    assert row == ["DROP       6    --  0.0.0.0/0            0.0.0.0/0           [audit]  tcp dpt:80"]


@pytest.mark.parametrize(("rule", "message"), [
    ("{proto: tcp, jump: DROP, audit: maybe}", "c.yaml:6:43: audit has no value: write audit: true"),
    ("{proto: tcp, jump: DROP, audits: true}", "c.yaml:6:36: unknown key 'audits' in a rule; did you mean audit?"),
    ("{proto: tcp, jump: nowhere, audit: true}", "there is no target or chain 'nowhere'"),
])
def test_mistakes(rule: str, message: str) -> None:
    with pytest.raises(RulesError) as caught:
        load(rule)
    assert message in str(caught.value)


def test_no_warning_takes_it_for_a_rule_that_decides() -> None:
    rules = ("{proto: tcp, jump: DROP, audit: true}", "{proto: tcp, dport: 22, jump: ACCEPT}")
    assert lint(load(*rules, policy="DROP")) == []
    assert [warning.name for warning in lint(load(rules[0].replace("true", "false"), rules[1], policy="DROP"))] == ["never-matches"]
    assert [warning.name for warning in lint(load(rules[0]))] == ["accepts-all"]


def test_explain_says_that_it_only_audits() -> None:
    engine = Engine()
    engine.load(Program(load(*MIXED[1:], "{jump: own, audit: true}", chains="    own: {rules: [{jump: DROP}]}\n"), engine.environment))
    asked = packet_spec(read_spec("tcp 10.0.0.2:1 192.0.2.80:80 --in eth1 --out eth0".split()), engine, 1)
    record = answer_record(asked.put(engine, 1), asked)
    assert [(step["rule"], step["outcome"], step["why"], step["depth"]) for step in record["filter"]] == [
        ("filter:FORWARD:rule:1", "matched", "it only audits: on as if it had not matched", 0),
        ("filter:FORWARD:rule:2", "no", "-p udp: packet has tcp", 0),
        ("filter:FORWARD:rule:3", "matched", "it only audits: on as if it had not matched", 0),
        ("filter:FORWARD:policy:4", "end", "", 0)]
    assert record["filter"][0]["text"] == "# audit: -A FORWARD -p tcp -m tcp --dport 80 -j DROP"
    assert record["verdict"]["verdict"] == "ACCEPT"
