"""Packets chosen with iptables' match words: `-p tcp --dport 443 -s 10.0.0.0/8`.

The filter is a ruleset of its own.  Its raw chains hold what can be told before a packet is judged, its filter chains, if
there is need of them, what is known afterwards: the packet's state and connection, the interface it leaves by.
"""
from __future__ import annotations

from collections.abc import Sequence

from pyfw.rules.language.builder import RuleBuilder
from pyfw.rules.language.extensions.header import IP
from pyfw.rules.language.iptables import read_rule
from pyfw.rules.lexer import Word
from pyfw.rules.model import BUILTIN_CHAINS, Chain, Location, Match, Rule, RulesError, Ruleset, Table, Target
from pyfw.rules.parts import RuleEnvironment
from pyfw.rules.program.program import Program

ABOUT_CONNECTIONS = {"state", "conntrack", "connmark", "connbytes", "connlimit", "helper"}
KNOWN_LATE = {"-o"}
_FAMILIES = {"-4": 4, "--ipv4": 4, "-6": 6, "--ipv6": 6}


def packet_filter(words: Sequence[str], environment: RuleEnvironment) -> Program:
    """Accepts the packets that match; no words: all.  Raises RulesError."""
    rules = filter_rules(words)
    early = tuple(Rule(_kept(rule, early=True), Target("ACCEPT"), rule.family) for rule in rules)
    late = tuple(dict.fromkeys(Rule(_kept(rule, early=False), Target("ACCEPT"), rule.family) for rule in rules))
    tables = {"raw": early} | ({"filter": late} if any(rule.matches for rule in late) else {})
    return Program(Ruleset(tuple(Table(name, tuple(Chain(chain, "DROP", held) for chain in BUILTIN_CHAINS[name]))
                                 for name, held in tables.items())), environment)


def connection_filter(words: Sequence[str], environment: RuleEnvironment) -> Program:
    """As packet_filter(), but asked at one time only, when all is known of a packet: it has no raw chains."""
    rules = tuple(Rule(rule.matches, Target("ACCEPT"), rule.family) for rule in filter_rules(words))
    chains = tuple(Chain(chain, "DROP", rules) for chain in BUILTIN_CHAINS["filter"])
    return Program(Ruleset((Table("filter", chains),)), environment)


def filter_rules(words: Sequence[str]) -> tuple[Rule, ...]:
    family, rest = None, []
    for column, text in enumerate(words, 1):
        if text in _FAMILIES:
            family = _FAMILIES[text]
        else:
            # What holds a blank was quoted in the shell, and can be no option.
            rest.append(Word(text, Location("word", 1, column), quoted=any(letter.isspace() for letter in text)))
    builder = RuleBuilder("filter", "", family, None)
    read_rule(rest, builder)
    rules = builder.rules()
    if rules[0].target is not None:
        raise RulesError("a filter chooses packets and does nothing with them: leave -j and -g out")
    return rules


def _kept(rule: Rule, *, early: bool) -> tuple[Match, ...]:
    """Those of the rule's matches that are asked before, or after, a packet is judged."""
    kept = []
    for match in rule.matches:
        if match.name == IP.name:
            settings = tuple(setting for setting in match.settings if (setting.option in KNOWN_LATE) != early)
            if settings:
                kept.append(Match(match.name, settings))
        elif (match.name in ABOUT_CONNECTIONS) != early:
            kept.append(match)
    return tuple(kept)
