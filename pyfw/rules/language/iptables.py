"""The iptables language: what iptables-save prints and what people write in scripts -> Ruleset.  printing.py goes back."""
from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pyfw.rules.language.builder import RuleBuilder, checked_count
from pyfw.rules.language.check import check_ruleset
from pyfw.rules.language.long_options import take_apart
from pyfw.rules.language.matches import TARGETS
from pyfw.rules.language.skipping import left_out
from pyfw.rules.lexer import Place, Word, split_lines
from pyfw.rules.model import BUILTIN_CHAINS, Chain, Location, Rule, RulesError, Ruleset, Table, Unsupported
from pyfw.rules.values import CONTROL, suggestion

PROGRAMS = re.compile(r"(?:.*/)?(ip6?tables)(?:-legacy|-nft)?")
KERNEL_TABLES = {"nat": "translating addresses", "mangle": "changing packets", "security": "labelling packets",
                 "broute": "bridging"}
POLICIES = ("ACCEPT", "DROP")
MAX_CHAIN_NAME_LENGTH = 28
MAX_COUNT = 2 ** 64 - 1
NUMBER = re.compile("[0-9]+")

_COMMANDS = ("-A", "-I", "-N", "-P", "-F", "-X", "-Z")
_NO_COMMANDS = ("-D", "-R", "-C", "-L", "-S", "-E")
_DASHES = "‐‑‒–—―−"


def parse_save(text: str, *, source: str = "rules", family: int | None = None, table: str | None = None,
               variables: Mapping[str, str] | None = None, place: Place | None = None,
               skipped: list[str] | None = None) -> Ruleset:
    """The ruleset that iptables-save text, or a script's iptables lines, makes of an empty one.

    `family` binds every rule to 4 or 6; `table` is the only one the text may speak of, and the one that it speaks of
    where it does not say.  Lines that begin with ip6tables, or -6, are IPv6's; lines that begin with iptables
    are for both families, unless the text uses ip6tables too.  Counters in the text are not read.
    `variables` replaces $NAME; None leaves a `$` as it is.
    `skipped`: a list that takes a warning for each line that is Unsupported, which is left out; None: that is an error.
    """
    reader = _Reader(family, table, skipped)
    lines = list(split_lines(text, place or Place(source), variables))
    reader.families_apart = any(_program(words) == "ip6tables" for words in lines)
    for words in lines:
        reader.read(words)
    return check_ruleset(reader.ruleset())


def parse_rule(text: str, *, table: str = "filter", chain: str = "", family: int | None = None, source: str = "rule",
               variables: Mapping[str, str] | None = None, place: Place | None = None) -> tuple[Rule, ...]:
    """One rule, with or without `-A CHAIN` before it, as the rules of `chain` it makes: several if an address is a list."""
    lines = list(split_lines(text, place or Place(source), variables))
    if len(lines) != 1:
        raise RulesError("one rule is expected here", lines[1][0].location if lines else (place or Place(source)).at(1, 1))
    command = _Command(_without_program(lines[0]), lines[0][0].location)
    if command.name not in (None, "-A") or command.table not in (None, table):
        raise RulesError(f"a rule of chain {chain or 'a table'} is expected here, as -s 10.0.0.0/8 -j ACCEPT", command.location)
    if command.chain and chain and command.chain.text != chain:
        raise RulesError(f"this rule stands in chain {chain}, not {command.chain.text}", command.chain.location)
    return command.rules(table, chain or (command.chain.text if command.chain else ""), family)


@dataclass(slots=True)
class _Draft:
    """A chain that is being written."""

    name: str
    policy: str | None
    policy6: str | None = None          # IPv6's, if it is to be another
    family: int | None = None           # the only one that has it
    rules: list[Rule] = field(default_factory=list)

    def set_policy(self, policy: str, family: int | None) -> None:
        known = Chain(self.name, self.policy, (), self.policy6).with_policy(policy, family)
        self.policy, self.policy6 = known.policy, known.policy6


class _Reader:
    """Carries out one line after another, as iptables would, on chains of its own."""

    def __init__(self, family: int | None, only_table: str | None, skipped: list[str] | None) -> None:
        self.family = family
        self.skipped = skipped
        self.skips_table = False            # in a section of a table that stays with the kernel
        self.only_table = only_table
        self.section: str | None = None
        self.families_apart = False
        self.count = 0                      # of rules
        self.tables: dict[str, dict[str, _Draft]] = {}
        if only_table:
            self.table(only_table)

    def ruleset(self) -> Ruleset:
        """What the lines came to."""
        ruleset = Ruleset()
        for name, drafts in self.tables.items():
            own = sorted(draft.name for draft in drafts.values() if draft.policy is None)
            chains = tuple(Chain(draft.name, draft.policy, tuple(draft.rules), draft.policy6, draft.family)
                           for draft in (drafts[chain] for chain in (*BUILTIN_CHAINS[name], *own)))
            ruleset = ruleset.with_table(Table(name, chains))
        return ruleset

    def read(self, words: list[Word]) -> None:
        """Carry out a line, or with `skipped` note that it is left out."""
        if self.skips_table and not words[0].text.startswith("*"):
            return
        self.skips_table = False
        try:
            self.carry_out(words)
        except Unsupported as error:
            if self.skipped is None:
                raise
            self.skips_table = words[0].text.startswith("*")
            self.skipped.append(f"{error}; {'this table is left out' if self.skips_table else left_out(words)}")

    def carry_out(self, words: list[Word]) -> None:
        first = words[0]
        if _program(words):
            self.command(words)
        elif first.text.startswith("*"):
            self.begin_section(words)
        elif first.text.startswith(":"):
            self.declare_chain(words)
        elif first.text == "COMMIT":
            self.section = None
        elif first.text.startswith(("-", "[")) or first.text[:1] in _DASHES:
            self.command(words)
        else:
            raise RulesError(f"{first.text!r} is not a line of a ruleset; there are `*table`, `:CHAIN POLICY`, "
                             f"`-A CHAIN ...`, `iptables ...` and COMMIT", first.location)

    def begin_section(self, words: list[Word]) -> None:
        self.section = self.checked_table(words[0].text[1:], words[0].location)
        self.table(self.section)

    def checked_table(self, name: str, location: Location) -> str:
        if name in KERNEL_TABLES:
            raise Unsupported(f"table {name}: {KERNEL_TABLES[name]} stays with the kernel; "
                              f"load it with iptables-restore -T {name}, or set `other_tables: kernel`, which does that", location)
        if name not in BUILTIN_CHAINS:
            raise RulesError(f"there is no table {name!r}{suggestion(name, BUILTIN_CHAINS)}; there are "
                             f"{' and '.join(BUILTIN_CHAINS)}", location)
        if self.only_table and name != self.only_table:
            raise RulesError(f"table {name} in a text of table {self.only_table}", location)
        return name

    def table(self, name: str) -> dict[str, _Draft]:
        """The chains of a table, which exists from when it is first spoken of."""
        if name not in self.tables:
            self.tables[name] = {chain: _Draft(chain, "ACCEPT") for chain in BUILTIN_CHAINS[name]}
        return self.tables[name]

    def declare_chain(self, words: list[Word]) -> None:
        """`:CHAIN POLICY [packets:bytes]`"""
        location = words[0].location
        name = words[0].text[1:]
        policy = words[1].text if len(words) > 1 else ""
        table = self.section or self.only_table or "filter"
        if name in BUILTIN_CHAINS[table]:
            self.set_policy(table, words[0], name, words[1] if len(words) > 1 else None, self.family)
            if len(words) > 2:
                check_bracketed(words[2])
        elif policy != "-":
            raise RulesError(f"chain {name} is not built-in in table {table} and has no policy; write `:{name} - [0:0]`", location)
        else:
            self.new_chain(table, name, location, self.family)

    def set_policy(self, table: str, at: Word, name: str, policy: Word | None, family: int | None) -> None:
        if policy is None or policy.text not in POLICIES:
            given = f", not {policy.text}" if policy else ""
            raise RulesError(f"the policy of {name} is ACCEPT or DROP{given}", (policy or at).location)
        chain = self.known_chain(table, name, at.location)
        if chain.policy is None:
            raise RulesError(f"chain {name} is not built-in and has no policy", at.location)
        chain.set_policy(policy.text, family)

    def new_chain(self, table: str, name: str, location: Location, family: int | None) -> None:
        """Each family may make a chain of its own of the same name."""
        check_chain_name(name, table, location)
        known = self.table(table).get(name)
        if known is None:
            self.table(table)[name] = _Draft(name, None, family=family)
        elif family is None or known.family in (None, family):
            raise RulesError(f"duplicate chain {name}: table {table} has it already", location)
        else:
            known.family = None

    def known_chain(self, table: str, name: str, location: Location) -> _Draft:
        chain = self.table(table).get(name)
        if chain is None:
            raise RulesError(unknown_chain(table, name, list(self.table(table))), location)
        return chain

    # -- commands -----------------------------------------------------------------------------------------------------

    def command(self, words: list[Word]) -> None:
        program = _program(words)
        command = _Command(_without_program(words), words[0].location)
        if self.section and command.table and command.table != self.section:
            raise RulesError(f"-t {command.table} in section *{self.section}", command.table_location)
        table = self.section or self.only_table or "filter"
        if command.table:
            table = self.checked_table(command.table, command.table_location)
        family = self.family or (6 if program == "ip6tables" else 4 if program and self.families_apart else None)
        match command.name, command.taken:
            case "-A" | "-I", [chain, *_]:
                self.add_rules(table, chain, command, family)
            case "-P", [chain, policy]:
                self.set_policy(table, chain, chain.text, policy, command.family or family)
            case "-N", [chain]:
                self.new_chain(table, chain.text, chain.location, command.family or family)
            case "-F", _:
                for draft in self.chosen_chains(table, command):
                    draft.rules.clear()
            case "-X", _:
                self.delete_chains(table, command)
            case "-Z", _:
                self.chosen_chains(table, command)
            case _:
                raise RulesError("a command is missing; a rule begins with -A CHAIN", command.location)

    def add_rules(self, table: str, name: Word, command: _Command, family: int | None) -> None:
        """-A at the end; -I before rule N, each of several rules before the ones inserted before it, as iptables does."""
        chain = self.known_chain(table, name.text, name.location)
        rules = command.rules(table, chain.name, family)
        self.count = checked_count(self.count, len(rules), command.location)
        at = len(chain.rules)
        if command.name == "-I":
            rules, at = rules[::-1], command.insert_position(len(chain.rules))
        chain.rules[at:at] = rules

    def chosen_chains(self, table: str, command: _Command) -> list[_Draft]:
        if command.chain is None:
            return list(self.table(table).values())
        return [self.known_chain(table, command.chain.text, command.chain.location)]

    def delete_chains(self, table: str, command: _Command) -> None:
        for chain in self.chosen_chains(table, command):
            if chain.policy is None and not chain.rules:
                del self.table(table)[chain.name]
            elif command.chain:
                raise RulesError(f"-X deletes an empty chain of one's own, which {chain.name} is not", command.chain.location)


class _Command:
    """One line taken apart: the command with what belongs to it, and the words of the rule that are left."""

    def __init__(self, words: list[Word], location: Location) -> None:
        self.location = location
        self.name: str | None = None
        self.table: str | None = None
        self.table_location = location
        self.family: int | None = None
        self.taken: list[Word] = []         # what follows the command: a chain, then a policy or a number
        self.rest: list[Word] = []
        self.words = take_apart(words)
        while self.words:
            self.take(self.words.pop(0))
        if self.name in ("-N", "-P", "-F", "-X", "-Z") and self.rest:
            raise RulesError(f"unexpected {self.rest[0].text!r} after {self.name}", self.rest[0].location)

    @property
    def chain(self) -> Word | None:
        return self.taken[0] if self.taken else None

    def take(self, word: Word) -> None:
        option = word.text if not word.quoted else ""
        if option in _NO_COMMANDS:
            raise RulesError(f"{option} has no place in a ruleset's text, which begins from nothing", word.location)
        if option in _COMMANDS:
            self.take_command(option, word)
        elif option == "-t":
            self.table_location, self.table = (value := self.value(word)).location, value.text
        elif option in ("-4", "-6"):
            self.family = int(option[1])
        elif option == "-c":
            for value in self.value(word), self.value(word):
                check_count(value.text, value)
        elif option == "-M":
            self.value(word)
        elif option in ("-w", "-W"):
            if self.words and NUMBER.fullmatch(self.words[0].text):
                self.words.pop(0)
        elif not self.rest and self.name is None and option.startswith("["):
            check_bracketed(word)
        elif option not in ("-v", "-n", "--line-numbers"):
            self.rest.append(word)

    def take_command(self, name: str, word: Word) -> None:
        if self.name:
            raise RulesError(f"{word.text} after {self.name}: a line has one command", word.location)
        self.name = name
        optional = name in ("-F", "-X", "-Z")
        if not optional or (self.words and (self.words[0].quoted or not self.words[0].text.startswith("-"))):
            self.taken.append(self.value(word))
        if name == "-P":
            self.taken.append(self.value(word))
        if name == "-I" and self.words and NUMBER.fullmatch(self.words[0].text):
            self.taken.append(self.words.pop(0))

    def value(self, option: Word) -> Word:
        if not self.words or (self.words[0].text.startswith("-") and not self.words[0].quoted):
            raise RulesError(f"{option.text} needs a value", option.location)
        return self.words.pop(0)

    def insert_position(self, length: int) -> int:
        number = self.taken[1].text if len(self.taken) > 1 else "1"
        if len(number) > 9 or not 1 <= int(number) <= length + 1:
            raise RulesError(f"the chain has {length} rules: a rule can be inserted at 1 to {length + 1}", self.taken[1].location)
        return int(number) - 1

    def rules(self, table: str, chain: str, family: int | None) -> tuple[Rule, ...]:
        """The rules that the remaining words describe."""
        if self.family and family and self.family != family:
            raise RulesError(f"a rule for IPv{self.family} in a text for IPv{family}", self.location)
        builder = RuleBuilder(table, chain, self.family or family, self.location)
        read_rule(self.rest, builder)
        return builder.rules()


def check_bracketed(word: Word) -> None:
    """Counters as iptables-save prints them, `[packets:bytes]`."""
    numbers = re.fullmatch(r"\[([0-9]+):([0-9]+)\]", word.text)
    if numbers is None:
        raise RulesError(f"counters are written [packets:bytes], as [0:0], not {word.text!r}", word.location)
    for number in numbers.groups():
        check_count(number, word)


def check_count(text: str, word: Word) -> None:
    if not NUMBER.fullmatch(text) or len(text) > 20 or int(text) > MAX_COUNT:
        raise RulesError(f"counters are packets and bytes, numbers up to {MAX_COUNT}, not {text!r}", word.location)


def read_rule(words: Sequence[Word], builder: RuleBuilder) -> None:
    """Feed the words of a rule, without its chain, to `builder`."""
    queue = [part for word in words for part in _split_assignment(word)]
    negation: Word | None = None
    while queue:
        word = queue.pop(0)
        if word.text == "!" and not word.quoted:
            if negation:
                raise RulesError("one `!` is enough", word.location)
            negation = word
        elif word.quoted or not word.text.startswith("-"):
            raise RulesError(_not_an_option(word.text), word.location)
        elif word.text in ("-m", "--match", "-j", "--jump", "-g", "--goto"):
            if negation:
                raise RulesError(f"`!` cannot stand before {word.text}", negation.location)
            _read_module(word, queue, builder)
        else:
            _read_option(word, queue, builder, negation is not None)
            negation = None
    if negation:
        raise RulesError("`!` stands before the option it negates", negation.location)


def _read_module(option: Word, queue: list[Word], builder: RuleBuilder) -> None:
    name = _value(option, queue, free_text=False)
    if option.text in ("-m", "--match"):
        builder.add_match(name.text, name.location)
    else:
        builder.set_target(name.text, option.text in ("-g", "--goto"), name.location)


def _read_option(word: Word, queue: list[Word], builder: RuleBuilder, inverted: bool) -> None:
    option = builder.find(word.text, word.location)
    if option.words and queue and queue[0].text == "!" and not queue[0].quoted:
        if inverted:
            raise RulesError("one `!` is enough", queue[0].location)
        queue.pop(0)
        inverted = True
    given = [_value(word, queue, option.free_text) for _ in range(option.words)]
    builder.set_option(word.text, [value.text for value in given], inverted, word.location, [value.location for value in given])


def _value(option: Word, queue: list[Word], free_text: bool) -> Word:
    if not queue:
        raise RulesError(f"{option.text} needs a value", option.location)
    value = queue[0]
    if not free_text and value.text and (value.text[:1] in _DASHES or re.match(r"--?[A-Za-z]", value.text)):
        raise RulesError(f"{option.text} needs a value, and {value.text} follows", option.location)
    return queue.pop(0)


def _split_assignment(word: Word) -> list[Word]:
    """`--option=value` as two words."""
    name, equals, value = word.text.partition("=")
    if word.quoted or not equals or not name.startswith("--"):
        return [word]
    at = word.location
    return [Word(name, at), Word(value, replace(at, column=at.column + len(name) + 1), quoted=True)]


def _not_an_option(text: str) -> str:
    if bare := text.lstrip(_DASHES):
        if bare != text:
            return f"{text!r} begins with a typographic dash; write {'-' if len(bare) == 1 else '--'}{bare}"
    return f"unexpected {text!r}: an option is expected here, as -p tcp or -j ACCEPT"


def _program(words: Sequence[Word]) -> str | None:
    """iptables or ip6tables, if that is what the line runs."""
    name = words[1] if words[0].text == "sudo" and len(words) > 1 else words[0]
    found = PROGRAMS.fullmatch(name.text)
    return found[1] if found else None


def _without_program(words: Sequence[Word]) -> list[Word]:
    if not _program(words):
        return list(words)
    return list(words[2 if words[0].text == "sudo" else 1:])


def check_chain_name(name: str, table: str, location: Location | None) -> None:
    """Whether a chain of one's own may have this name."""
    if not re.fullmatch(r"[^\s\-!\[\]:*#\"'\\$][^\s\"'\\]*", name) or CONTROL.search(name):
        raise RulesError(f"{name!r} cannot be a chain's name; it is one word that begins with a letter or digit", location)
    if len(name.encode(errors="replace")) > MAX_CHAIN_NAME_LENGTH:
        raise RulesError(f"the name of chain {name} is longer than {MAX_CHAIN_NAME_LENGTH} bytes", location)
    if name in TARGETS or name in ("QUEUE",):
        raise RulesError(f"{name} is a target and cannot be a chain's name", location)
    builtin = {chain: owner for owner, chains in BUILTIN_CHAINS.items() for chain in chains}
    if name in builtin or name == "POSTROUTING":
        owner = f"; it belongs to table {builtin[name]}" if name in builtin and builtin[name] != table else ""
        raise RulesError(f"table {table} has no built-in chain {name}{owner}", location)


def unknown_chain(table: str, name: str, known: Sequence[str]) -> str:
    """The complaint about a chain that `table`, whose chains are `known`, has not."""
    elsewhere = [owner for owner, chains in BUILTIN_CHAINS.items() if name in chains and owner != table]
    hint = f"; it belongs to table {elsewhere[0]}" if elsewhere else suggestion(name, known)
    return f"unknown chain {name} in table {table}{hint}; there are {', '.join(known)}"
