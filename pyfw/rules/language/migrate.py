"""What iptables-save prints of running rules -> what pyfw takes of it, and what it does not.

A rule is taken as it is, or not at all.  Tables that pyfw has not stay with the kernel, and go on there.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pyfw.rules.language.commands import CommandFailed
from pyfw.rules.language.iptables import parse_rule
from pyfw.rules.language.restore import restore
from pyfw.rules.lexer import Place, Word, split_lines
from pyfw.rules.model import BUILTIN_CHAINS, RulesError, Ruleset

SILENT_TARGETS = ("", "LOG", "NFLOG", "ULOG", "AUDIT", "LED", "RATEEST")
UFWS = ("ufw-", "ufw6-")            # what the names of ufw's chains begin with


@dataclass(frozen=True)
class LeftOut:
    """A rule that was not taken."""

    place: str                      # file:line
    rule: str
    reason: str
    effect: str                     # of its absence: what happens to a packet that it matched


@dataclass(frozen=True)
class Taken:
    ruleset: Ruleset
    left_out: tuple[LeftOut, ...]
    kept_by_kernel: dict[str, int]  # table -> its rules


def take(ruleset: Ruleset, text: str, family: int, source: str, owners: tuple[str, ...] = ("",)) -> Taken:
    """`ruleset`, in which `family` sees what the text says.

    owners      of the rules in chains of one's own and of the jumps to them, those whose names begin with one of these

    Raises RulesError for a text that is no whole one.
    """
    lines: list[str] = []
    left_out: list[LeftOut] = []
    kernels: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        table = line[1:] if line.startswith("*") else table
        kept = table in BUILTIN_CHAINS
        if line.startswith("-A ") and not kept:
            kernels[table] = kernels.get(table, 0) + 1
        elif line.startswith("-A "):
            place = Place(source, number)
            [words] = split_lines(line, place)
            chain, target = words[1].text, value_of(words, "-j") or value_of(words, "-g")
            of_builtin = chain in BUILTIN_CHAINS[table]
            if (target if of_builtin else chain).startswith(owners):
                reason = refusal(line, words, table, family, place)
            else:
                reason = "it is another program's" if of_builtin else ""
                kept = False
            if reason:
                left_out.append(LeftOut(f"{source}:{number}", line, reason, effect(table, target)))
                kept = False
        elif line.startswith(":") and kept:
            name = line[1:].split()[0]
            kept = name in BUILTIN_CHAINS[table] or name.startswith(owners)
        lines.append(line if kept else "")
    try:
        taken = restore(ruleset, "\n".join(lines), family).ruleset
    except CommandFailed as error:
        raise RulesError(f"{source}: {error}") from None
    return Taken(taken, tuple(left_out), kernels)


def value_of(words: Sequence[Word], option: str) -> str:
    return next((value.text for word, value in pairwise(words) if word.text == option and not word.quoted), "")


def refusal(line: str, words: Sequence[Word], table: str, family: int, place: Place) -> str:
    """Why pyfw cannot have this rule; empty: it can."""
    is_los = "lo" in (value_of(words, "-i"), value_of(words, "-o")) and not any(word.text == "!" for word in words)
    if is_los and value_of(words, "-j") != "ACCEPT":
        return "packets of lo are not diverted"
    try:
        parse_rule(line, table=table, family=family, place=place)
    except RulesError as error:
        return error.message.partition(";")[0]
    return ""


def effect(table: str, target: str) -> str:
    if target in SILENT_TARGETS:
        return "changes no verdict"
    if table == "filter" and target == "ACCEPT":
        return "tightens: the rules after it decide about what it accepted"
    if target in ("DROP", "REJECT"):
        return "loosens: the rules after it decide about what it refused"
    return "may loosen or tighten"
