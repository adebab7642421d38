"""iptables-restore(8) on a ruleset: what a text leaves of one family's view of it.

The text is read as iptables-restore reads it, line after line, and each line is a command on the view.  All of it counts, or nothing.
"""
from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pyfw.bounded_text import RULES_BYTES
from pyfw.rules.language.builder import MAX_RULES
from pyfw.rules.language.commands import (
    OTHER,
    PARAMETER,
    RESOURCE,
    CommandFailed,
    OtherFamily,
    Request,
    count_of,
    request_of,
)
from pyfw.rules.language.draft import Draft, Place
from pyfw.rules.language.edit import LISTS, checked
from pyfw.rules.language.iptables import KERNEL_TABLES
from pyfw.rules.language.other_tables import OF_PYFW
from pyfw.rules.language.skipping import left_out
from pyfw.rules.lexer import MAX_LINE_WORDS, MAX_WORD, Word
from pyfw.rules.model import BUILTIN_CHAINS, Location, Ruleset, empty_table

SOURCE = "line"
COUNTERS = re.compile(r"\[([^\]:]*):([^\]]*)\]")
MAX_FAILURES = 20
MAX_LINES = 4 * MAX_RULES
READING, DOING, AT_COMMIT = range(3)
"""iptables-restore reads a section, does what it says, and then hears what the kernel says of that."""


@dataclass(frozen=True)
class Options:
    """keep: --noflush, what is there stays; counters: those in the text count; verbose: what is done is said.

    to_kernel: tables that are not pyfw's are collected.
    """

    keep: bool = False
    counters: bool = False
    verbose: bool = False
    only_table: str | None = None
    skip_unsupported: bool = False
    to_kernel: bool = False


@dataclass(frozen=True)
class Restored:
    ruleset: Ruleset
    counters: Mapping[Place, tuple[int, int]]
    skipped: tuple[str, ...]            # a warning for each line that was left out
    said: tuple[str, ...]
    others: Mapping[str, Sequence[str]]     # tables that are not pyfw's, line by line


def restore(ruleset: Ruleset, text: str, family: int, options: Options | None = None) -> Restored:
    """Raises CommandFailed; then nothing is to be changed."""
    restorer = Restorer(ruleset, family, options or Options())
    restorer.feed(text)
    return restorer.finish()


class Restorer:
    """Takes a text piece after piece, each of whole lines."""

    def __init__(self, ruleset: Ruleset, family: int, options: Options) -> None:
        self.ruleset = ruleset
        self.family = family
        self.options = options
        self.line = 0
        self.rules = 0                      # that the text adds
        self.failures: list[tuple[int, int, CommandFailed]] = []     # in which section, at which step of it
        self.sections = 0
        self.doing = False
        self.drafts: dict[str, Draft] = {}
        self.draft: Draft | None = None     # of the section
        self.section: str | None = None
        self.last: str | None = options.only_table          # section that began
        self.skipped: list[str] = []
        self.said: list[str] = []
        self.others: dict[str, list[str]] = {}
        self.kept = 0                       # characters of the three above

    def feed(self, text: str) -> None:
        """Raises CommandFailed; then the text is not to be finished."""
        for line in text.removesuffix("\n").split("\n") if text else ():
            self.line += 1
            if self.line > MAX_LINES:
                raise CommandFailed(f"the text has more than {MAX_LINES} lines", RESOURCE)
            if line and not line.startswith("#"):
                self.read(line)

    def finish(self) -> Restored:
        if self.failures:
            self.fail()
        if self.section is not None:
            raise CommandFailed(f"COMMIT expected at line {self.line + 1}", OTHER)
        ruleset = self.ruleset
        counters: dict[Place, tuple[int, int]] = {}
        for draft in self.drafts.values():
            table, counted = draft.merged()
            ruleset = ruleset.with_table(table)
            counters |= counted
        return Restored(checked(ruleset), counters, tuple(self.skipped), tuple(self.said), self.others)

    def read(self, line: str) -> None:
        self.doing = False
        try:
            if self.section is None:
                self.begin(line)
            elif line == "COMMIT":
                self.section = None
            elif self.draft is None:
                self.collect(line)
            elif line.startswith(":"):
                self.declare(self.draft, line[1:].split())
            else:
                self.command(self.draft, line)
            if self.draft:
                self.keep(self.said, *self.draft.said)
                self.draft.said.clear()
        except OtherFamily:
            return
        except CommandFailed as error:
            if error.unsupported and self.options.skip_unsupported:
                what = left_out(list(split(line, 0, self.line))) if self.draft else "this table is left out"
                self.keep(self.skipped, f"line {self.line}: {error}; {what}")
                return
            place = f"line {self.line} failed: {error}" if error.status == OTHER else f"{error}\nError occurred at line: {self.line}"
            step = (READING, DOING, AT_COMMIT)[self.doing + (self.doing and error.status == RESOURCE)]
            self.failures.append((self.sections, step, CommandFailed(place, error.status)))
            if self.draft is None or len(self.failures) == MAX_FAILURES:
                self.fail()

    def fail(self) -> None:
        """All mistakes at once, with the status of the one that iptables-restore meets first."""
        first = min(self.failures, key=lambda failure: failure[:2])[-1]
        raise CommandFailed("\n".join(str(error) for *_, error in self.failures), first.status)

    def begin(self, line: str) -> None:
        name = line[1:].partition(" ")[0]
        if not line.startswith("*") and self.options.only_table not in (None, self.last):
            return                          # behind a section that is not asked for
        if not line.startswith("*"):
            raise CommandFailed(f"{(line.split() or [line])[0]!r} stands in no table; a `*table` line is expected before it", OTHER)
        if name not in BUILTIN_CHAINS and name not in KERNEL_TABLES:
            raise CommandFailed(f"table name '{name}' invalid", PARAMETER)
        self.section, self.last, self.draft = name, name, None
        self.sections += 1
        if self.options.only_table not in (None, name):
            return
        if name in KERNEL_TABLES and self.options.to_kernel:
            self.others[name] = []
            return
        if name in KERNEL_TABLES:
            raise CommandFailed(f"table {name}: {KERNEL_TABLES[name]} stays with the kernel; "
                                f"load it with iptables-restore -T {name}, or set `other_tables: kernel`", PARAMETER, unsupported=True)
        if name not in self.drafts:
            self.drafts[name] = Draft(self.ruleset.table(name) or empty_table(name), self.family)
        self.draft = self.drafts[name]
        if not self.options.keep:
            self.clear(self.draft)

    def collect(self, line: str) -> None:
        """A line of a section that is not pyfw's, or not asked for."""
        if self.section in self.others and not OF_PYFW.match(line):
            self.keep(self.others[self.section], line)

    def keep(self, kept: list[str], *lines: str) -> None:
        """Raises CommandFailed: a text may have any size, but what is kept of it besides rules may not."""
        self.kept += sum(map(len, lines))
        if self.kept > RULES_BYTES:
            raise CommandFailed(f"the kernel's tables, warnings and output come to more than {RULES_BYTES} characters", RESOURCE)
        kept += lines

    def clear(self, draft: Draft) -> None:
        if self.options.verbose:
            draft.chosen(Request(self.family, flags={"verbose"}), "Flushing")
            self.keep(self.said, *draft.said, *(f"Deleting chain `{chain.name}'" for chain in draft.ordered() if chain.policy is None))
            draft.said.clear()
        draft.clear()

    def declare(self, draft: Draft, words: list[str]) -> None:
        """`:CHAIN POLICY [packets:bytes]`"""
        if len(words) < 2:
            raise CommandFailed("policy invalid" if words else "chain name invalid", PARAMETER)
        counts = (0, 0)
        if self.options.counters and words[0] in BUILTIN_CHAINS[draft.table.name]:
            found = COUNTERS.fullmatch(words[2]) if len(words) > 2 else None
            if found is None:
                raise CommandFailed(f"invalid policy counters for chain '{words[0]}'; they are written [packets:bytes]", PARAMETER)
            counts = count_of(found[1], "packet"), count_of(found[2], "byte")
        draft.declare(words[0], words[1], counts)

    def command(self, draft: Draft, line: str) -> None:
        counters = None
        if line.startswith("["):
            counters = COUNTERS.match(line)
            if counters is None:
                raise CommandFailed("Bad line: need ]; counters are written [packets:bytes], as [0:0]", PARAMETER)
        words = list(split(line, counters.end() if counters else 0, self.line))
        if counters and self.options.counters:
            at = Location(SOURCE, self.line, 1)
            words[:0] = [Word("-c", at), Word(counters[1], at), Word(counters[2], at)]
        request = request_of(words, self.family, draft.table.name)
        if request.command in LISTS:
            raise CommandFailed(f"{request.command} has no place in a text that changes rules", PARAMETER)
        if self.options.verbose and not self.options.keep:
            request.flags.add("verbose")
        chain = draft.chains.get(request.chain or "")
        before = len(chain.rules) if chain else 0
        self.doing = True
        draft.carry_out(request)
        self.rules += max(len(chain.rules) - before, 0) if chain else 0
        if self.rules > MAX_RULES:
            raise CommandFailed(f"these are more than {MAX_RULES} rules", RESOURCE)


def split(line: str, begin: int, number: int) -> Iterator[Word]:
    """Words as iptables-restore has them: a quote ends a word, and a backslash counts between quotes alone.  Raises CommandFailed."""
    at, end = begin, len(line)
    count = 0
    while at < end:
        if line[at] in " \t":
            at += 1
            continue
        start, text = at, []
        while at < end and line[at] not in ' \t"':
            at += 1
        text.append(line[start:at])
        if line[at:at + 1] == '"':
            at += 1
            while at < end and line[at] != '"':
                at += line[at] == "\\"
                text.append(line[at:at + 1])
                at += 1
            if at >= end:
                raise CommandFailed('the quote " is not closed on this line', PARAMETER)
            at += 1
        count += 1
        if at - start > MAX_WORD or count > MAX_LINE_WORDS:
            raise CommandFailed(f"a line has at most {MAX_LINE_WORDS} words, and a word {MAX_WORD} characters", PARAMETER)
        yield Word("".join(text), Location(SOURCE, number, start + 1))
