"""Parser and printer are inverse, and no text at all brings anything but rules or a complaint.

Rules come from the table of matches and targets (spellings.py): an entry that is new there is in these tests.
"""
from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable
from itertools import chain, combinations, product
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.spellings import (
    MATCH_KINDS,
    TARGET_KINDS,
    TEXT,
    VALUES,
    Kind,
    beginnings,
    environment,
    options_of,
    reads,
    spelled_rule,
    tables_of,
    values_of,
    written,
)
from pyfw.rules import names
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.language.kinds import Option
from pyfw.rules.language.printing import print_ruleset
from pyfw.rules.language.yaml_rules import load_rules
from pyfw.rules.lexer import Place, split_lines
from pyfw.rules.model import RulesError
from pyfw.rules.program.program import Program
from pyfw.rules.values import quote

NOT = st.sampled_from(["", "", "! "])
PORT = st.integers(0, 65535)
STATES = st.sets(st.sampled_from(list(names.STATES)), min_size=1).map(",".join)
FLAGS = st.sets(st.sampled_from(list(names.TCP_FLAGS)), min_size=1).map(",".join)
DEVICE = st.from_regex(r"[a-z][a-z0-9.]{0,10}\+?", fullmatch=True)


@st.composite
def ports(draw: Callable) -> str:
    low, high = sorted((draw(PORT), draw(PORT)))
    return draw(st.sampled_from([str(low), f"{low}:{high}", f"{max(low, 1)}:", f":{min(high, 65534)}"]).filter(lambda text: text != "0:65535"))


@st.composite
def network(draw: Callable, family: int) -> str:
    bits = 32 if family == 4 else 128
    address = draw(st.integers(0, 2**bits - 1))
    show = ipaddress.IPv4Address if family == 4 else ipaddress.IPv6Address
    return f"{show(address)}/{draw(st.one_of(st.integers(1, bits), st.integers(1, 2**bits - 1).map(show)))}"


@st.composite
def rule(draw: Callable) -> str:
    """One rule of filter FORWARD, in any of the ways to write it."""
    family = draw(st.sampled_from([4, 6, None]))
    protocol = draw(st.sampled_from([None, "tcp", "udp", "udplite", "sctp", "47", "icmp" if family == 4 else "icmpv6"]))
    parts = []
    if family:
        for option in ("-s", "-d"):
            if draw(st.booleans()):
                parts.append(f"{draw(NOT)}{option} {draw(network(family))}")
    for option in ("-i", "-o"):
        if draw(st.booleans()):
            parts.append(f"{draw(NOT)}{option} {draw(DEVICE)}")
    if protocol:
        parts.append(f"-p {protocol}")
    if protocol in ("tcp", "udp", "udplite", "sctp"):
        parts += [f"{draw(NOT)}{option} {draw(ports())}" for option in ("--sport", "--dport") if draw(st.booleans())]
    if protocol == "tcp" and draw(st.booleans()):
        parts.append(f"{draw(NOT)}--tcp-flags {draw(FLAGS)} {draw(FLAGS)}")
    if protocol == "icmp":
        parts.append(f"{draw(NOT)}--icmp-type {draw(st.integers(0, 254))}/{draw(st.integers(0, 255))}")
    if protocol == "icmpv6" and family != 4:
        parts.append(f"{draw(NOT)}--icmpv6-type {draw(st.sampled_from(list(names.ICMPV6_TYPES)))}")
    if draw(st.booleans()):
        parts.append(f"-m conntrack {draw(NOT)}--ctstate {draw(STATES)}")
    if draw(st.booleans()):
        parts.append(f"-m comment --comment {quote(draw(TEXT))}")
    parts.append(draw(st.sampled_from(["", "-j ACCEPT", "-j DROP", "-j REJECT", "-j own", "-g own", "-j LOG --log-prefix 'a b' --log-level 6"])))
    return " ".join(["-A FORWARD", *parts])


@given(st.lists(rule(), max_size=6))
def test_what_is_printed_is_read_as_it_was(lines: list[str]) -> None:
    ruleset = parse_save("\n".join([":own - [0:0]", *lines]))
    printed = print_ruleset(ruleset)
    assert parse_save(printed) == ruleset
    assert print_ruleset(parse_save(printed)) == printed
    Program(ruleset)


@pytest.mark.parametrize("kind", [*MATCH_KINDS, *TARGET_KINDS], ids=lambda kind: kind.name)
def test_every_option_can_be_written(kind: Kind) -> None:
    """Else spellings.py has no value for a new one."""
    def has_a_line(option: Option) -> bool:
        """At the beginning of one, or behind one and up to two more options."""
        if any(option in options for options, _ in beginnings(kind)):
            return True
        others = [known for known in options_of(kind) if known is not option]
        return any(reads([*line, *chain(*further), *written(option.name, words)], tables_of(kind)[0])
                   for _, line in beginnings(kind) for words in values_of(kind, option.name)
                   for size in range(3) for with_them in combinations(others, size)
                   for further in product(*([written(known.name, value) for value in values_of(kind, known.name)[:2]]
                                            for known in with_them)))
    assert [option.name for option in options_of(kind) if not has_a_line(option)] == []
    assert beginnings(kind)


@pytest.mark.slow
@pytest.mark.parametrize("table", ["filter", "raw"])
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_the_whole_vocabulary_is_read_as_it_was_printed(table: str, data: st.DataObject) -> None:
    lines = [" ".join(tokens) for tokens in data.draw(st.lists(spelled_rule(table), min_size=1, max_size=4))]
    ruleset = parse_save("\n".join([f"*{table}", ":own - [0:0]", *lines, "COMMIT"]))
    printed = print_ruleset(ruleset)
    assert parse_save(printed) == ruleset
    assert print_ruleset(parse_save(printed)) == printed
    Program(ruleset, environment())
    for family in (4, 6):
        view = print_ruleset(ruleset, family=family)
        assert print_ruleset(parse_save(view, family=family), family=family) == view


@given(TEXT)
def test_a_quoted_word_is_one_word(text: str) -> None:
    words, = split_lines(f"--comment {quote(text)}", Place("t"))
    assert [word.text for word in words] == ["--comment", text]


WORDS = ("-A", "-I", "-N", "-P", "-F", "-X", "-t", "-s", "-d", "-i", "-o", "-p", "-m", "-j", "-g", "-c", "-4", "-6", "-f", "!", "--dport", "--sport", "--syn",
         "--tcp-flags", "--icmp-type", "--state", "--ctstate", "--comment", "--reject-with", "--log-prefix", "--helper", "--notrack", "INPUT",
         "FORWARD", "PREROUTING", "own", "ACCEPT", "REJECT", "LOG", "CT", "tcp", "udp", "icmp", "icmpv6", "sctp", "comment", "state", "22", "1:2", "10.0.0.0/8",
         "::1/64", "10.0.0.1,::1", "NEW", "*filter", "*raw", "*nat", "COMMIT", ":own", "-", "[0:0]", "[", "iptables", "ip6tables", "sudo", "\\", "\n", "\"", "'",
         "$X", "${X}", "#", "–dport", "--dport=5", "=", "99999999999999999999", "0x", "08", "/", "a/b", "٣", "\x00", "é", "-1")


OPTIONS = [spelling for kind in (*MATCH_KINDS, *TARGET_KINDS) for option in kind.options for spelling in (option.name, *option.aliases)]
ALL_WORDS = [*WORDS, *OPTIONS, *VALUES, *(word for kind in MATCH_KINDS for word in ("-m", kind.name)),
             *(word for kind in TARGET_KINDS for word in ("-j", kind.name))]


@settings(max_examples=1500)
@given(st.lists(st.sampled_from(ALL_WORDS), max_size=14).map(" ".join))
def test_any_words_make_rules_or_one_complaint(text: str) -> None:
    judge_text(text)


@pytest.mark.slow
@pytest.mark.parametrize("table", ["filter", "raw"])
@settings(max_examples=500, deadline=None)
@given(data=st.data())
def test_a_rule_with_words_changed_makes_rules_or_one_complaint(table: str, data: st.DataObject) -> None:
    tokens = data.draw(spelled_rule(table))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(tokens)))
        removed, inserted = data.draw(st.integers(0, 2)), data.draw(st.lists(st.sampled_from(ALL_WORDS), max_size=2))
        tokens[at:at + removed] = inserted
    judge_text(f"*{table}\n:own - [0:0]\n{' '.join(tokens)}")


@settings(max_examples=500)
@given(st.text(max_size=60))
def test_any_text_makes_rules_or_one_complaint(text: str) -> None:
    judge_text(text)
    judge_text(f"-A INPUT {text}")


def judge_text(text: str) -> None:
    for variables in (None, {"X": "10.0.0.0/8"}):
        try:
            ruleset = parse_save(text, variables=variables)
        except RulesError as error:
            assert error.location is not None
            assert "\n" not in str(error)
        else:
            assert parse_save(print_ruleset(ruleset)) == ruleset


DOCUMENT = """\
rules:
  raw: |
    -A PREROUTING -i $LAN -p udp --dport 514 -j NOTRACK
  filter:
    INPUT:
      policy: DROP
      rules:
        - -m state --state ESTABLISHED,RELATED -j ACCEPT
        - {state: NEW, in: $LAN, proto: tcp, dport: "! 22", src: [10.0.0.0/8, fd00::/8], jump: ACCEPT}
        - {proto: tcp, syn: ! true, jump: REJECT, reject-with: tcp-reset}
    guests: {rules: [{family: 6, goto: more}]}
    more: {rules: []}
"""


@pytest.mark.slow
def test_a_yaml_text_changed_anywhere_makes_rules_or_one_complaint() -> None:
    chance = random.Random(7)
    outcomes = {"rules": 0, "complaint": 0}
    for _ in range(4000):
        text = list(DOCUMENT)
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len("rules:\n"), len(text))
            text[at:at + chance.randrange(3)] = chance.choice(["", " ", ":", "!", "x", "$", "[", "]", "{", "}", "null", "7", "'", "&a ", "*a ", "\n  ", "- ", "~", "|"])
        try:
            document = yaml.compose("".join(text), yaml.SafeLoader)
        except yaml.YAMLError:
            continue
        try:
            load_rules(document.value[0][1], {"LAN": "eth1"}, Path("/nonexistent"), "c.yaml", Path.read_text)
            outcomes["rules"] += 1
        except RulesError as error:
            assert error.location is not None
            assert "\n" not in str(error)
            outcomes["complaint"] += 1
    assert min(outcomes.values()) > 100
