"""iptables-restore(8) on a ruleset: what a text leaves of one family's view of it."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pyfw.rules.language.check import check_ruleset
from pyfw.rules.language.edit import CommandFailed, edit, left_for_other, read_request
from pyfw.rules.language.iptables import read_lines
from pyfw.rules.language.printing import Counters
from pyfw.rules.lexer import Place, Word, split_lines
from pyfw.rules.model import BUILTIN_CHAINS, Chain, Rule, RulesError, Ruleset, Table, empty_table

SOURCE = "line"

Place3 = tuple[str, str, int]       # table, chain, index; behind the last rule: the policy


@dataclass(frozen=True)
class Restored:
    ruleset: Ruleset
    counters: dict[Place3, tuple[int, int]]     # that stand in the text
    skipped: tuple[str, ...] = ()               # a warning for each line that was left out


def restore(ruleset: Ruleset, text: str, family: int, *, keep: bool = False, only_table: str | None = None,
            skip_unsupported: bool = False, source: str = SOURCE) -> Restored:
    """keep: --noflush, what is there stays.  Raises RulesError or CommandFailed; then nothing is to be changed."""
    lines = [words for words in split_lines(text, Place(source), None) if not is_other_familys(words, family)]
    check_sections(lines)
    if keep:
        return Restored(add_lines(ruleset, lines, family, only_table), {})
    skipped: list[str] | None = [] if skip_unsupported else None
    given, counted = read_lines(lines, family=family, skipped=skipped)
    counters: dict[Place3, tuple[int, int]] = {}
    for table in given.tables:
        if only_table not in (None, table.name):
            continue
        merged = replaced_view(ruleset.table(table.name) or empty_table(table.name), table, family)
        ruleset = ruleset.with_table(merged)
        counters |= places_of(merged, table, counted)
    return Restored(check_ruleset(ruleset), counters, tuple(skipped or ()))


def is_other_familys(words: Sequence[Word], family: int) -> bool:
    """Whether a line of a text that serves both families, by -4 and -6 in its lines, is not meant here."""
    names = {4: ("-6", "--ipv6"), 6: ("-4", "--ipv4")}[family]
    return any(word.text in names and not word.quoted for word in words)


def check_sections(lines: Sequence[Sequence[Word]]) -> None:
    """A text that ends before its COMMIT, as one that was cut off does, is not to be trusted; nor are lines of no table."""
    table: str | None = None
    for words in lines:
        first = words[0]
        if table is None and not first.text.startswith("*"):
            raise RulesError(f"{first.text!r} stands in no table; a `*table` line is expected before it", first.location)
        if table is not None and first.text.startswith("*"):
            raise RulesError(f"COMMIT is expected before {first.text}: table {table} has not ended", first.location)
        table = first.text[1:] if first.text.startswith("*") else None if first.text == "COMMIT" else table
    if table is not None:
        raise RulesError(f"COMMIT is expected at the end of table {table}: the text seems to be cut off", lines[-1][0].location)


def replaced_view(table: Table, given: Table, family: int) -> Table:
    """`table`, in which `family` sees what `given` says; the other family sees what it saw."""
    others = {chain.name: tuple(left_for_other(rule, family) for rule in chain.rules if rule.family != family)
              for chain in table.chains}
    names = [*BUILTIN_CHAINS[table.name], *sorted({chain.name for known in (table, given) for chain in known.chains
                                                   if chain.policy is None})]
    chains = []
    for name in names:
        chain, new = table.chain(name) or Chain(name), given.chain(name)
        if new is None and chain.policy is None and not others[name] and not is_target(others, name):
            continue
        policy = new.policy_of(family) if new else None
        if policy is not None:
            chain = chain.with_policy(policy, family)
        chains.append(replace(chain, rules=(*others.get(name, ()), *(new.rules if new else ()))))
    return replace(table, chains=tuple(chains))


def is_target(others: Mapping[str, Sequence[Rule]], name: str) -> bool:
    return any(rule.target is not None and rule.target.name == name for rules in others.values() for rule in rules)


def places_of(merged: Table, given: Table, counted: Counters) -> dict[Place3, tuple[int, int]]:
    """Where the rules of a text have come to stand: behind those of the other family."""
    places = {}
    for chain in given.chains:
        policy, rules = counted[given.name, chain.name]
        size = len(merged[chain.name].rules)
        for offset, counts in enumerate(rules):
            places[given.name, chain.name, size - len(rules) + offset] = counts
        if policy is not None:
            places[given.name, chain.name, size] = policy
    return places


def add_lines(ruleset: Ruleset, lines: Sequence[Sequence[Word]], family: int, only_table: str | None) -> Ruleset:
    """--noflush: each line is a command of its own; `:CHAIN` makes a chain, or empties the one there is."""
    table = "filter"
    for words in lines:
        first = words[0].text
        if first.startswith("*"):
            table = first[1:]
            continue
        if first == "COMMIT" or only_table not in (None, table):
            continue
        arguments = [word.text for word in words if not (word.text.startswith("[") and not word.quoted)]
        try:
            if first.startswith(":"):
                ruleset = declare(ruleset, table, arguments, family)
            else:
                ruleset = edit(ruleset, read_request(["-t", table, *arguments], family)).ruleset
        except CommandFailed as error:
            raise CommandFailed(f"{words[0].location}: {error}", error.status) from None
    return ruleset


def declare(ruleset: Ruleset, table: str, words: list[str], family: int) -> Ruleset:
    name, policy = words[0][1:], words[1] if len(words) > 1 else "-"
    known = (ruleset.table(table) or empty_table(table) if table in BUILTIN_CHAINS else empty_table("filter")).chain(name)
    if policy != "-":
        command = ["-P", name, policy]
    else:
        command = ["-N", name] if known is None else ["-F", name]
    return edit(ruleset, read_request(["-t", table, *command], family)).ruleset
