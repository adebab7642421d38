"""The table of matches and targets: everything the rule language knows stands here once.

A new match is one entry in a group of `extensions/`: its options with their parsers and printers, and the function that
compiles it.  The readers (iptables.py, yaml_rules.py), the printer and the compiler know no option by name.
"""
from __future__ import annotations

from dataclasses import replace

from pyfw.rules.language.extensions import clock, connection, header, marks, packet, rate, sets, tracking, verdicts
from pyfw.rules.language.extensions.header import IP
from pyfw.rules.language.extensions.verdicts import reject_family, reject_kind
from pyfw.rules.language.kinds import MatchKind, Option, TargetKind
from pyfw.rules.model import Match, Rule

MATCHES: dict[str, MatchKind] = {
    kind.name: kind for group in (header, connection, packet, rate, clock, sets) for kind in group.MATCHES}
TARGETS: dict[str, TargetKind] = {
    kind.name: kind for group in (verdicts, tracking, marks, sets) for kind in group.TARGETS}
OPTIONS: list[Option] = [*(option for match in MATCHES.values() for option in match.options),
                         *(option for target in TARGETS.values() for option in target.options)]


def settled(rule: Rule, family: int | None) -> Rule:
    """The rule as it is canonical in a family, None for both."""
    matches = tuple(MATCHES[match.name].settle(match, family) for match in rule.matches)
    target = rule.target
    if target is not None and target.name in TARGETS:
        target = TARGETS[target.name].settle(target, family)
    return replace(rule, matches=matches, target=target)


def match_kind(name: str) -> MatchKind | None:
    """The kind that `-m name` loads; the IP header's tests need no -m and have none."""
    return next((kind for kind in MATCHES.values() if kind is not IP and name in (kind.name, *kind.aliases)), None)


def match_for_protocol(number: int) -> MatchKind | None:
    """The match that `-p` brings along when one of its options is met."""
    return next((kind for kind in MATCHES.values() if kind.protocol == number), None)


def implied_families(rule: Rule) -> set[int]:
    """The families that the parts of a rule exist in, where they do not exist in both."""
    found = {match_family(match) for match in rule.matches}
    found |= {getattr(setting.value, "family", None) for match in rule.matches for setting in match.settings}
    if rule.target and rule.target.name == "REJECT":
        found.add(reject_family(reject_kind(rule.target)))
    return {family for family in found if family is not None}


def match_family(match: Match) -> int | None:
    if match.name == "ip" and match.get("-f"):
        return 4
    return MATCHES[match.name].family
