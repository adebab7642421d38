"""Rules as text: what `iptables -S` and iptables-save print of them."""
from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from pyfw.rules.language.extensions.header import IP
from pyfw.rules.language.kinds import Option
from pyfw.rules.language.matches import MATCHES, TARGETS, implied_families, settled
from pyfw.rules.model import Chain, Rule, Ruleset, Setting, Target, empty_table
from pyfw.rules.values import quote

Counters = Mapping[tuple[str, str], tuple[tuple[int, int] | None, Sequence[tuple[int, int]]]]
"""(table, chain) -> (packets, bytes) of the policy, None for one's own chain, and of each rule."""

AUDIT = "# audit: "
"""Before a rule that only audits, for which iptables has no words: to whatever reads the text back it is a comment, so that
the rule is left out there, and never enforced."""


def print_rule(rule: Rule, family: int | None = None, counters: tuple[int, int] | None = None) -> str:
    """A rule without its chain, as `iptables -S` prints it; with counters as `iptables -v -S`.

    `family`: the family it is printed for, where a rule for both would be written differently.
    """
    parts = []
    rule = settled(rule, family or rule.family)
    for match in rule.matches:
        if match.name != IP.name:
            parts.append(f"-m {match.name}")
        parts += [_print_setting(MATCHES[match.name].options, setting) for setting in match.settings]
    if counters:
        parts.append(f"-c {counters[0]} {counters[1]}")
    if rule.target:
        parts.append(_print_target(rule.target))
    return " ".join(parts)


def _print_target(target: Target) -> str:
    kind = TARGETS.get(target.name)
    if kind is None:
        return f"{'-g' if target.goto else '-j'} {quote_chain(target.name)}"
    return " ".join([f"-j {target.name}", *(_print_setting(kind.options, setting) for setting in target.settings)])


def _print_setting(options: Sequence[Option], setting: Setting) -> str:
    option = next(option for option in options if option.name == setting.option)
    name = option.printed_as(setting.value) if option.printed_as else option.name
    return " ".join(part for part in ("!" if setting.inverted else "", name, option.print(setting.value)) if part)


def quote_chain(name: str) -> str:
    return name if re.fullmatch(r"[^\s\"'\\#$]+", name) else quote(name)


def print_rules(ruleset: Ruleset, table: str, chain: str | None = None, *, family: int | None = None,
                counters: Counters | None = None) -> list[str]:
    """The lines of `iptables -t TABLE -S [CHAIN]`, with counters those of `iptables -v -S`; KeyError for a chain it has not."""
    return list(rule_lines(ruleset, table, chain, family=family, counters=counters))


def rule_lines(ruleset: Ruleset, table: str, chain: str | None = None, *, family: int | None = None,
               counters: Counters | None = None) -> Iterator[str]:
    """As print_rules(), line by line: a caller may do other work between them."""
    shown = ruleset.table(table) or empty_table(table)
    chains = [known for known in shown.chains if chain in (None, known.name) and known.is_for(family)]
    if not chains:
        raise KeyError(chain)
    return _table_lines(table, chains, family, counters)


def _table_lines(table: str, chains: Sequence[Chain], family: int | None, counters: Counters | None) -> Iterator[str]:
    for known in chains:
        policy = counters[table, known.name][0] if counters and known.policy else None
        counted = f" -c {policy[0]} {policy[1]}" if policy else ""
        bound = f"-{known.family} " if known.family and not family else ""
        yield f"-P {known.name} {known.policy_of(family or 4)}{counted}" if known.policy else f"{bound}-N {known.name}"
        if known.policy6 and not family:
            yield f"-6 -P {known.name} {known.policy6}"
    for known in chains:
        yield from _chain_lines(known, family, counters[table, known.name][1] if counters else None)


def _chain_lines(chain: Chain, family: int | None, counters: Sequence[tuple[int, int]] | None) -> Iterator[str]:
    for index, rule in enumerate(chain.rules):
        if family in (None, rule.family) or rule.family is None:
            printed = print_rule(rule, family, counters[index] if counters else None)
            bound = f"-{rule.family} " if rule.family and not family and rule.family not in implied_families(rule) else ""
            yield f"{AUDIT if rule.audit else ''}{bound}-A {chain.name} {printed}".rstrip()


def print_ruleset(ruleset: Ruleset, *, family: int | None = None, counters: Counters | None = None) -> str:
    """The whole ruleset as iptables-save prints it, without its dated comments; with counters as iptables-save -c.

    For one family it is what that family's iptables-restore takes; for both, rules that are bound to one and
    do not show it begin with -4 or -6, which either iptables-restore understands.
    """
    return "".join(f"{line}\n" for line in ruleset_lines(ruleset, family=family, counters=counters))


def ruleset_lines(ruleset: Ruleset, *, family: int | None = None, counters: Counters | None = None) -> Iterator[str]:
    """As print_ruleset(), line by line: a caller may do other work between them."""
    for table in ruleset.tables:
        yield f"*{table.name}"
        chains = [chain for chain in table.chains if chain.is_for(family)]
        for chain in chains:
            if chain.family and not family:
                yield f"-{chain.family} -N {chain.name}"
                continue
            policy = counters[table.name, chain.name][0] if counters else None
            packets, size = policy or (0, 0)
            yield f":{chain.name} {chain.policy_of(family or 4) or '-'} [{packets}:{size}]"
        if not family:
            yield from (f"-6 -P {chain.name} {chain.policy6}" for chain in chains if chain.policy6)
        for chain in chains:
            rules = _chain_lines(chain, family, None)
            if counters:
                shown = (count for rule, count in zip(chain.rules, counters[table.name, chain.name][1], strict=True)
                         if not family or rule.family in (None, family))
                rules = (line if line.startswith(AUDIT) else f"[{packets}:{size}] {line}"
                         for (packets, size), line in zip(shown, rules, strict=True))
            yield from rules
        yield "COMMIT"
