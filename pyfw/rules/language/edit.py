"""One command of iptables(8) on a ruleset: the ruleset it leaves, and what it prints.  Knows no daemon and no socket."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pyfw.rules.language.check import check_ruleset
from pyfw.rules.language.commands import ARGUMENT, RESOURCE, CommandFailed, Request
from pyfw.rules.language.draft import NO_SUCH_NAME, Draft, Place
from pyfw.rules.model import Chain, RulesError, Ruleset, Table, empty_table

LISTS = ("-L", "-S")


@dataclass(frozen=True)
class Edited:
    """What a command comes to: the ruleset, counters that are to be set, lines that -v prints."""

    ruleset: Ruleset
    counters: Mapping[Place, tuple[int, int]] = field(default_factory=dict)
    said: tuple[str, ...] = ()


def edit(ruleset: Ruleset, request: Request) -> Edited:
    """Carry out a command; one that only lists leaves everything.  Raises CommandFailed; then nothing is changed."""
    draft = Draft(ruleset.table(request.table) or empty_table(request.table), request.family)
    if request.command not in LISTS:
        draft.carry_out(request)
    elif "zero" in request.flags:
        draft.zero(request)
    table, counters = draft.merged()
    changed = ruleset.with_table(table) if counters or table != draft.table else ruleset
    return Edited(checked(changed), counters, tuple(draft.said))


def known_chain(table: Table, name: str, family: int) -> Chain:
    """Raises CommandFailed."""
    chain = table.chain(name)
    if chain is None or not chain.is_for(family):
        raise CommandFailed(NO_SUCH_NAME)
    return chain


def checked(ruleset: Ruleset) -> Ruleset:
    """What the kernel says of a whole ruleset, and not of a command, has its status for that."""
    try:
        return check_ruleset(ruleset)
    except RulesError as error:
        raise CommandFailed(complaint(error), RESOURCE) from None


def complaint(error: RulesError) -> str:
    """With its place in a text; in a command line, columns say nothing."""
    return error.message if error.location is not None and error.location.startswith(f"{ARGUMENT}:") else str(error)
