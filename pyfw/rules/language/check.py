"""What must hold of a ruleset as a whole: every jump has a target, no jumps loop or nest too deep;
there is room to count connlimit's connections during a reload.

Each chain is looked at once, however many jumps lead to it.
"""
from __future__ import annotations

from pyfw.rules.language.builder import unknown_target
from pyfw.rules.language.matches import TARGETS
from pyfw.rules.model import Chain, RulesError, Ruleset, Table, Target

MAX_DEPTH = 64
"""How deep jumps may nest; `program.pyx` has a stack of this size."""

MAX_STEPS = 1 << 17
"""How many rules a packet may meet on its way through chains that jump (RULE_STEPS): about a millisecond."""

MAX_CONN_COUNTERS = 2048
"""Of connlimit's rules, a rule for both families has two; a table has room for eight times as many (conncount.pxd)."""


def check_ruleset(ruleset: Ruleset) -> Ruleset:
    """The ruleset itself, or RulesError at the first target or match that cannot be."""
    check_conn_counters(ruleset)
    for table in ruleset.tables:
        for chain in table.chains:
            for rule in chain.rules:
                if rule.target and rule.target.name not in TARGETS:
                    check_target(table, rule.target, rule.family or chain.family)
        depths: dict[str, int] = {}
        for chain in table.chains:
            check_descent(table, chain, (), depths)
    return ruleset


def check_conn_counters(ruleset: Ruleset) -> None:
    counters = 0
    for rule in (rule for _, chain in ruleset.chains() for rule in chain.rules):
        for match in rule.matches:
            if match.name != "connlimit":
                continue
            counters += 1 if rule.family else 2
            if counters > MAX_CONN_COUNTERS:
                raise RulesError(f"these are more than {MAX_CONN_COUNTERS} rules of connlimit; one for IPv4 and IPv6 counts as two",
                                 rule.location)


def chain_targets(chain: Chain) -> list[Target]:
    """The targets of a chain's rules that are not verdicts or modules."""
    return [rule.target for rule in chain.rules if rule.target and rule.target.name not in TARGETS]


def check_target(table: Table, target: Target, family: int | None) -> None:
    chain = table.chain(target.name)
    if chain is None:
        raise RulesError(unknown_target(target.name, [known.name for known in table.chains]), target.location)
    if chain.family not in (None, family):
        raise RulesError(f"chain {target.name} is IPv{chain.family}'s alone, and this rule is not", target.location)
    if chain.policy is not None:
        raise RulesError(f"{target.name} is a built-in chain; rules jump to chains of one's own only", target.location)


def check_descent(table: Table, chain: Chain, path: tuple[str, ...], depths: dict[str, int]) -> int:
    """How deep jumps nest below `chain`; `path` are the chains above it, `depths` what is known already."""
    if chain.name in depths:
        return depths[chain.name]
    path = (*path, chain.name)
    deepest = 0
    for target in chain_targets(chain):
        if target.name in path:
            loop = " -> ".join((*path[path.index(target.name):], target.name))
            raise RulesError(f"chains jump in a loop: {loop}", target.location)
        below = MAX_DEPTH if len(path) > MAX_DEPTH else check_descent(table, table[target.name], path, depths)
        deepest = max(deepest, 1 + below)
        if deepest > MAX_DEPTH:
            raise RulesError(f"jumps nest deeper than {MAX_DEPTH} chains", target.location)
    depths[chain.name] = deepest
    return deepest


def longest_way(table: Table, chain: Chain, known: dict[str, int]) -> int:
    """How many rules a packet meets in `chain` if all its jumps are taken and lead back; `known` is of other chains of the table.

    For a table that check_ruleset() has passed.
    """
    if chain.name not in known:
        below = (longest_way(table, inner, known) for rule in chain.rules
                 if rule.enforced and (inner := table.chain(rule.enforced.name)))
        known[chain.name] = len(chain.rules) + 1 + sum(below)
    return known[chain.name]
