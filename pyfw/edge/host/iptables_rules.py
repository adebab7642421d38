"""The text that iptables-save prints and iptables-restore reads, as far as the diversion needs it.  Runs no program.

pyfw's own chains are PYFW-INPUT, PYFW-FORWARD, PYFW-OUTPUT and PYFW-DEFRAG.
"""
from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

HOOKS = ("INPUT", "FORWARD", "OUTPUT")
DEFRAG_CHAIN = "PYFW-DEFRAG"
OWN_CHAINS = (DEFRAG_CHAIN, *(f"PYFW-{hook}" for hook in HOOKS))

# Targets that let no packet past the rules behind them: it goes on to the next rule, or nowhere.  A rule without a target
# is none of these: iptables-save prints verdict maps so, which nft has.
HARMLESS_TARGETS = frozenset((
    "AUDIT", "CHECKSUM", "CLASSIFY", "CONNMARK", "CONNSECMARK", "DROP", "DSCP", "ECN", "HL", "HMARK", "IDLETIMER", "LED",
    "LOG", "MARK", "NFLOG", "RATEEST", "SECMARK", "SET", "TCPMSS", "TCPOPTSTRIP", "TEE", "TOS", "TRACE", "TTL"))

_OPTION = re.compile(r"-[jg]")

Rules = Mapping[str, Sequence[str]]
"""By chain: what follows "-A CHAIN " in the line of each rule."""


class Reference(NamedTuple):
    """A rule that jumps to a chain: where it stands (from 1), and its text."""

    chain: str
    position: int
    rule: str


@dataclass(frozen=True)
class SavedTable:
    """What iptables-save has printed of one table.

    rules   of every chain that there is
    bases   the chains that the kernel itself calls
    """

    table: str
    rules: Rules
    bases: frozenset[str]

    @classmethod
    def parse(cls, table: str, text: str) -> SavedTable:
        rules: dict[str, list[str]] = {}
        bases: set[str] = set()
        current = ""
        for line in text.splitlines():
            if line.startswith("*"):
                current = line[1:]
            elif current == table and line.startswith(":"):
                chain, policy = line[1:].split()[:2]
                rules.setdefault(chain, [])
                (bases.discard if policy == "-" else bases.add)(chain)
            elif current == table and line.startswith("-A "):
                chain, _, rule = line[3:].partition(" ")
                rules.setdefault(chain, []).append(rule)
        return cls(table, rules, frozenset(bases))

    @classmethod
    def empty(cls, table: str) -> SavedTable:
        return cls(table, {}, frozenset())

    @property
    def own(self) -> Rules:
        return {chain: self.rules[chain] for chain in OWN_CHAINS if chain in self.rules}

    def references(self, target: str) -> Iterator[Reference]:
        """Those in chains that are not pyfw's."""
        for chain, rules in self.rules.items():
            for position, rule in enumerate(rules, 1):
                if target in rule and target in _targets(rule) and chain not in OWN_CHAINS:
                    yield Reference(chain, position, rule)

    def jump_fault(self, hook: str) -> str | None:
        """What is wrong with the jump that each packet of the hook must take.  None: nothing."""
        jump, rules = jump_of(hook), self.rules.get(hook, ())
        name = f"{hook}'s jump to {chain_of(hook)}"
        if hook not in self.bases:
            return f"{hook} was no chain of the kernel's"
        if jump not in rules:
            return f"{name} was missing"
        if rules.count(jump) > 1:
            return f"{name} was there {rules.count(jump)} times"
        before, behind = rules[:rules.index(jump)], rules[rules.index(jump) + 1:]
        if any(map(_may_pass, before)):
            return f"{name} was behind rules that let packets pass"
        if behind and not any(map(_may_pass, behind)):
            return f"{name} was before rules that its packets would not meet"
        return None

    def is_open(self, hook: str) -> bool:
        """Whether a packet could pass by a jump that stands last."""
        return any(_may_pass(rule) for rule in self.rules.get(hook, ()) if chain_of(hook) not in _targets(rule))

    def faults(self, installed: Rules, hooks: Sequence[str]) -> list[str]:
        """What differs from a diversion of these hooks, whose chains had these rules when they were installed."""
        faults = [fault for hook in hooks if chain_of(hook) in self.rules and (fault := self.jump_fault(hook))]
        faults += [f"{chain} was in {self.table}, too" for chain in self.own if chain not in installed]
        for chain, rules in installed.items():
            if chain not in self.rules:
                faults.append(f"{chain} was missing")
            elif list(self.rules[chain]) != list(rules):
                faults.append(f"{chain} had other rules")
        return faults


def chain_of(hook: str) -> str:
    return f"PYFW-{hook}"


def jump_of(hook: str) -> str:
    return f"-j {chain_of(hook)}"


def installation(saved: SavedTable, wanted: Rules, hooks: Sequence[str]) -> str:
    """iptables-restore's input that leads from `saved` to these chains and the jumps of these hooks.

    NFQUEUE's accept leaves the chain: hence a jump is put last, or first where a packet could pass it by.  What is wanted
    no longer goes.
    """
    lines = [f":{chain} - [0:0]" for chain in wanted]
    lines += [f"-A {chain} {rule}" for chain, rules in wanted.items() for rule in rules]
    for hook in hooks:
        references = list(saved.references(chain_of(hook)))
        if len(references) != 1 or saved.jump_fault(hook):
            lines += [*map(_deletion, references), f"-{'I' if saved.is_open(hook) else 'A'} {hook} {jump_of(hook)}"]
    return _transaction(saved.table, lines + _removal(saved, [chain for chain in saved.own if chain not in wanted]))


def jump_put_first(table: str, hook: str, *, is_there: bool) -> str:
    """The input that does so in one step, whatever else there is; the jump that is there goes."""
    jump = f"{hook} {jump_of(hook)}"
    return _transaction(table, [*([f"-D {jump}"] if is_there else []), f"-I {jump}"])


def removal(saved: SavedTable) -> str:
    """The input that takes pyfw's chains out of `saved`; empty where there are none."""
    return _transaction(saved.table, _removal(saved, list(saved.own)))


def restoration(saved: SavedTable, before: SavedTable) -> str:
    """The input that leads from `saved` back to pyfw's chains and jumps as they were in `before`; the rest stays."""
    lines = [f":{chain} - [0:0]" for chain in before.own]
    lines += [_deletion(reference) for chain in saved.own for reference in saved.references(chain)]
    lines += [f"-A {chain} {rule}" for chain, rules in before.own.items() for rule in rules]
    leaving = [reference.chain for own in saved.own for reference in saved.references(own)]
    room = {chain: len(rules) - leaving.count(chain) + 1 for chain, rules in saved.rules.items()}
    for chain, position, rule in sorted(reference for own in before.own for reference in before.references(own)):
        lines.append(f"-I {chain} {min(position, room.get(chain, 1))} {rule}")
        room[chain] = room.get(chain, 1) + 1
    gone = [chain for chain in saved.own if chain not in before.own]
    return _transaction(saved.table, [*lines, *(f"-F {chain}" for chain in gone), *(f"-X {chain}" for chain in gone)])


def is_printed_form(printed: Rules, wanted: Rules) -> bool:
    """Whether `printed` can be how iptables-save words `wanted`: as many rules, with the same targets.

    It has words of its own for matches, and they differ between versions.
    """
    return {chain: [_tail(rule) for rule in rules] for chain, rules in printed.items()} \
        == {chain: [_tail(rule) for rule in rules] for chain, rules in wanted.items()}


def _removal(saved: SavedTable, chains: Sequence[str]) -> list[str]:
    """First nothing jumps there, then nothing is in it, then it goes."""
    return [*(_deletion(reference) for chain in chains for reference in saved.references(chain)),
            *(f"-F {chain}" for chain in chains), *(f"-X {chain}" for chain in chains)]


def _deletion(reference: Reference) -> str:
    return f"-D {reference.chain} {reference.rule}"


def _transaction(table: str, lines: Sequence[str]) -> str:
    return "\n".join([f"*{table}", *lines, "COMMIT", ""]) if lines else ""


def _targets(rule: str) -> set[str]:
    """Every word that may be the rule's target: a comment may look like one, too."""
    try:
        words = shlex.split(rule)
    except ValueError:          # quotes that iptables-save itself would not read
        words = rule.split()
    return {target for option, target in pairwise(words) if _OPTION.fullmatch(option)}


def _may_pass(rule: str) -> bool:
    targets = _targets(rule)
    return not targets or not targets <= HARMLESS_TARGETS


def _tail(rule: str) -> str:
    return rule[rule.rfind("-j "):]
