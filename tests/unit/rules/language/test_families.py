"""What one family's commands leave of the other's rules, chains and counters."""
from __future__ import annotations

import pytest

from pyfw.engine.engine import Engine
from pyfw.rules.language.commands import CommandFailed, read_request
from pyfw.rules.language.edit import edit
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.language.printing import print_ruleset
from pyfw.rules.language.restore import restore
from pyfw.rules.model import RulesError, Ruleset
from pyfw.rules.program.program import Program

SHARED = parse_save("-A INPUT -p tcp -j ACCEPT\n-A INPUT -p udp -j ACCEPT")


def edited(ruleset: Ruleset, *lines: str) -> Ruleset:
    """`6:` begins a line of ip6tables."""
    for line in lines:
        family = 6 if line.startswith("6:") else 4
        ruleset = edit(ruleset, read_request(line.removeprefix("6:").split(), family)).ruleset
    return ruleset


def lines(ruleset: Ruleset, family: int | None = None) -> list[str]:
    return [line for line in print_ruleset(ruleset, family=family).splitlines() if line.startswith(("-", ":f2b"))]


def test_each_family_has_chains_of_its_own() -> None:
    both = edited(Ruleset(), "-N f2b", "6:-N f2b", "-A f2b -j RETURN", "6:-A f2b -j DROP")
    assert lines(both, 4) == [":f2b - [0:0]", "-A f2b -j RETURN"]
    assert lines(both, 6) == [":f2b - [0:0]", "-A f2b -j DROP"]
    rest = edited(both, "-F f2b", "-X f2b")
    assert (lines(rest, 4), lines(rest, 6)) == ([], [":f2b - [0:0]", "-A f2b -j DROP"])
    assert lines(edited(rest, "6:-F", "6:-X")) == []


@pytest.mark.parametrize(("command", "message"), [
    ("-N f2b", "Chain already exists."), ("6:-A INPUT -j f2b", "Chain 'f2b' does not exist"), ("6:-X f2b", "No chain/target/match"),
    ("6:-F f2b", "No chain/target/match"),
])
def test_a_chain_is_only_its_familys(command: str, message: str) -> None:
    with pytest.raises(CommandFailed, match=message):
        edited(edited(Ruleset(), "-N f2b"), command)


def test_a_chain_of_one_family_is_read_as_it_was_printed() -> None:
    ruleset = edited(Ruleset(), "6:-N f2b", "6:-A INPUT -j f2b", "-N other", "6:-N other")
    assert parse_save(print_ruleset(ruleset)) == ruleset
    assert "-6 -N f2b\n" in print_ruleset(ruleset)
    with pytest.raises(RulesError, match="chain f2b is IPv6's alone"):
        parse_save("-6 -N f2b\n-A INPUT -j f2b")


def test_renaming_and_restoring_leave_the_other_familys() -> None:
    both = edited(Ruleset(), "-N a", "6:-N a", "6:-A INPUT -j a", "-A INPUT -j a", "-E a b")
    assert lines(both, 4) == ["-A INPUT -j b"]
    assert lines(both, 6) == ["-A INPUT -j a"]
    restored = restore(both, "*filter\nCOMMIT", 4).ruleset
    assert lines(restored, 4) == []
    assert lines(restored, 6) == ["-A INPUT -j a"]


@pytest.mark.parametrize("command", ["-D INPUT 1", "-F INPUT", "-R INPUT 1 -p icmp"])
def test_a_rule_that_one_family_gives_up_counts_on_for_the_other(command: str) -> None:
    engine = Engine(max_entries=1)
    engine.load(Program(SHARED, engine.environment))
    engine.program.set_counter("filter", "INPUT", 0, 6, 5, 50)
    after = Program(edited(SHARED, command), engine.environment, previous=engine.program)
    engine.load(after)
    counted = dict(zip(lines(after.ruleset), after.counters(6)["filter", "INPUT"][1], strict=True))
    assert counted["-6 -A INPUT -p tcp -j ACCEPT"] == (5, 50)
