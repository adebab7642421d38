"""Ruleset -> one straight run of rules per family, with the jumps resolved.

Every rule, and the end of every chain, has a number that is the same in both families: it names the
rule and counts its packets.  Knows no packet.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pyfw.rules.code import Action, RuleCode
from pyfw.rules.language.matches import MATCHES, TARGETS
from pyfw.rules.model import Chain, Rule, Ruleset, Target


@dataclass(frozen=True, slots=True)
class LinkedRule:
    """A rule in its place; `target` is the position where the chain of a jump or goto begins."""

    code: RuleCode
    number: int
    target: int = 0


@dataclass(frozen=True, slots=True)
class ChainSpan:
    """Positions of a chain's first rule and of its end: the policy, or the return of one's own chain."""

    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Linked:
    rules: tuple[LinkedRule, ...]
    chains: dict[tuple[str, str], ChainSpan]


class Numbering:
    """Numbers for all rules of a ruleset: table by table, chain by chain, each chain's end after its last rule."""

    def __init__(self, ruleset: Ruleset) -> None:
        self.places: list[tuple[str, Chain, int]] = [
            (table.name, chain, index) for table, chain in ruleset.chains() for index in range(len(chain.rules) + 1)]
        self.first = {(table, chain.name): number for number, (table, chain, index) in enumerate(self.places) if index == 0}

    def __len__(self) -> int:
        return len(self.places)

    def name(self, number: int) -> str:
        """As the kernel's TRACE target names a rule: `filter:FORWARD:rule:3`, `filter:FORWARD:policy:7`."""
        table, chain, index = self.places[number]
        kind = "rule" if index < len(chain.rules) else "policy" if chain.policy else "return"
        return f"{table}:{chain.name}:{kind}:{index + 1}"

    def traced_name(self, number: int) -> str:
        """As the kernel's TRACE lines have it, to which a bare verdict for all packets looks like the end of its chain.

        (get_chainname_rulenum() in ip_tables.c)
        """
        table, chain, index = self.places[number]
        if index == len(chain.rules) or chain.rules[index].matches or not is_verdict(chain.rules[index].enforced):
            return self.name(number)
        return f"{table}:{chain.name}:{'policy' if chain.policy else 'return'}:{index + 1}"


def is_verdict(target: Target | None) -> bool:
    return target is not None and target.name in ("ACCEPT", "DROP", "RETURN")


def link(ruleset: Ruleset, numbering: Numbering, family: int, code_of: Callable[[Rule, int], RuleCode]) -> Linked:
    """What a packet of `family` walks through: rules bound to the other one are left out."""
    spans: dict[tuple[str, str], ChainSpan] = {}
    position = 0
    for table, chain in ruleset.chains():
        size = sum(1 for _ in rules_of(chain, family))
        spans[table.name, chain.name] = ChainSpan(position, position + size)
        position += size + 1
    linked = []
    for table, chain in ruleset.chains():
        number = numbering.first[table.name, chain.name]
        for index, rule in rules_of(chain, family):
            code = code_of(rule, family)
            target = spans[table.name, code.chain].first if code.chain else 0
            linked.append(LinkedRule(code, number + index, target))
        linked.append(LinkedRule(chain_end(chain, family), number + len(chain.rules)))
    return Linked(tuple(linked), spans)


def rules_of(chain: Chain, family: int) -> Iterator[tuple[int, Rule]]:
    return ((index, rule) for index, rule in enumerate(chain.rules) if rule.family in (None, family))


def chain_end(chain: Chain, family: int) -> RuleCode:
    """The rule that matches everything which reached the end of the chain."""
    actions = {"ACCEPT": Action.ACCEPT, "DROP": Action.DROP, None: Action.RETURN}
    return RuleCode(action=actions[chain.policy_of(family)])


def compile_rule(rule: Rule, family: int) -> RuleCode:
    code = compile_parts(rule, family)
    if rule.audit:
        code.action, code.chain = Action.AUDIT, ""      # whatever its target would do
    return code


def compile_parts(rule: Rule, family: int) -> RuleCode:
    code = RuleCode()
    for match in rule.matches:
        MATCHES[match.name].compile(match, code)
        code.origins += [match] * (len(code.tests) - len(code.origins))
    if rule.target is None:
        return code
    kind = TARGETS.get(rule.target.name)
    if kind:
        kind.compile(kind.settle(rule.target, family), code)
    else:
        code.action = Action.GOTO if rule.target.goto else Action.JUMP
        code.chain = rule.target.name
    return code
