"""A command line of iptables(8), taken apart.  Wording and exit statuses are those of iptables 1.8."""
from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from pyfw.rules.language.builder import RuleBuilder
from pyfw.rules.language.iptables import KERNEL_TABLES, MAX_CHAIN_NAME_LENGTH, read_rule
from pyfw.rules.language.long_options import take_apart
from pyfw.rules.lexer import Word
from pyfw.rules.model import BUILTIN_CHAINS, Location, Rule, RulesError, Unsupported

OTHER, PARAMETER, NO_TABLE, RESOURCE = 1, 2, 3, 4       # exit statuses
OTHER_FAMILY = {4: 6, 6: 4}
ARGUMENT = "argument"           # the source in the places of words
PROGRAMS = {4: "pyfw-iptables", 6: "pyfw-ip6tables"}
MAX_COUNT = 2 ** 64 - 1

COMMANDS = ("-A", "-C", "-D", "-I", "-R", "-L", "-S", "-F", "-Z", "-N", "-X", "-E", "-P")
WITH_RULE = ("-A", "-C", "-D", "-I", "-R")
ONCE = {"-n": "numeric", "-x": "exact", "--line-numbers": "line-numbers", "-c": "counters"}
"""Flags that may be given once, and not with every command."""
ALLOWED = {"-n": ("-L",), "-x": ("-L",), "--line-numbers": ("-L",), "-c": ("-A", "-I", "-R", "-P")}
IGNORED = ("-w", "-W", "-M", "-4", "-6")


class CommandFailed(Exception):
    """A command that changes nothing; `status` is iptables' exit status for it.  `unsupported`: iptables can do it, and pyfw not."""

    def __init__(self, message: str, status: int = OTHER, unsupported: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.unsupported = unsupported


class OtherFamily(Exception):
    """A line of a text that serves both families, which is not meant here."""


@dataclass
class Request:
    """A command line, taken apart."""

    family: int
    command: str = ""
    taken: list[str] = field(default_factory=list)      # a chain, then a name or a policy
    number: int | None = None
    table: str = "filter"
    flags: set[str] = field(default_factory=set)
    counters: tuple[int, int] = (0, 0)
    words: list[Word] = field(default_factory=list)     # of the rule
    rules: tuple[Rule, ...] = ()                        # that they describe
    refused: CommandFailed | None = None                # what the kernel says of them

    @property
    def chain(self) -> str | None:
        return self.taken[0] if self.taken else None


def read_request(arguments: Sequence[str], family: int) -> Request:
    """Raises CommandFailed."""
    return request_of([Word(text, Location(ARGUMENT, 1, position)) for position, text in enumerate(arguments, 1)], family)


def request_of(words: Sequence[Word], family: int, table: str | None = None) -> Request:
    """As read_request(); `table`: of the section of a text that the words stand in.  Raises OtherFamily there, too."""
    request = Request(family, table=table or "filter")
    queue = take_apart(words)
    waits = interval = False
    while queue:
        word = queue.pop(0)
        option = "" if word.quoted else word.text
        if option in COMMANDS:
            take_command(request, option, queue)
        elif option in ONCE:
            if ONCE[option] in request.flags:
                raise CommandFailed(f"multiple {option} flags not allowed", PARAMETER)
            request.flags.add(ONCE[option])
            if option == "-c":
                request.counters = take_counters(queue)
        elif option == "-v":
            request.flags.add("verbose")
        elif option == "-t":
            if table:
                raise CommandFailed("The -t option cannot be used in iptables-restore.", PARAMETER)
            request.table = take_table(queue)
        elif option in IGNORED:
            waits, interval = waits or option == "-w", interval or option == "-W"
            if table and option in ("-4", "-6") and int(option[1]) != family:
                raise OtherFamily
            if table and option == "-w":
                raise CommandFailed("You cannot use `-w' from iptables-restore", PARAMETER)
            take_ignored(option, queue, family)
        else:
            request.words.append(word)
    if interval and not waits:
        raise CommandFailed("--wait-interval only makes sense with --wait", PARAMETER)
    check_request(request)
    if request.command in WITH_RULE and (request.command, request.number is None) != ("-D", False):
        read_words(request)
    return request


def read_words(request: Request) -> None:
    """The rules.  Raises CommandFailed for what iptables itself says of them."""
    builder = RuleBuilder(request.table, request.taken[0], request.family, request.words[0].location if request.words else None)
    try:
        read_rule(request.words, builder)
        request.rules = builder.built()
        request.refused = CommandFailed(builder.refused.message, RESOURCE) if builder.refused else None
    except RulesError as error:
        raise CommandFailed(error.message, PARAMETER, isinstance(error, Unsupported)) from None
    if not request.rules:
        raise CommandFailed(f"the rule has no address of IPv{request.family}", PARAMETER)


def check_request(request: Request) -> None:
    if request.words and not request.words[0].text.startswith(("-", "!")):
        raise CommandFailed(f"Bad argument `{request.words[0].text}'", PARAMETER)
    if not request.command:
        raise CommandFailed("no command specified", PARAMETER)
    for option, flag in ONCE.items():
        if flag in request.flags and request.command not in ALLOWED[option]:
            raise CommandFailed(f"Illegal option `{option}' with this command", PARAMETER)
    if request.words and (request.command not in WITH_RULE or (request.command == "-D" and request.number is not None)):
        raise CommandFailed(f'unknown option "{request.words[0].text}"', PARAMETER)
    name = request.table
    if name in KERNEL_TABLES:
        raise CommandFailed(f"table {name}: {KERNEL_TABLES[name]} stays with the kernel; use the system's own iptables -t {name}",
                            NO_TABLE)
    if name not in BUILTIN_CHAINS:
        raise CommandFailed(f"can't initialize table `{name}': Table does not exist", NO_TABLE)


def take_command(request: Request, option: str, queue: list[Word]) -> None:
    if {request.command, option} in ({"-L", "-Z"}, {"-S", "-Z"}):
        request.flags.add("zero")
        if option == "-Z":
            return
        request.command = ""
    if request.command:
        raise CommandFailed(f"Cannot use {option} with {request.command}", PARAMETER)
    request.command = option
    if queue and (queue[0].quoted or (option in ("-L", "-S", "-F", "-Z", "-X") and is_argument(queue))):
        request.taken = [queue.pop(0).text]
        if len(request.taken[0].encode(errors="replace")) > MAX_CHAIN_NAME_LENGTH:
            raise CommandFailed(f"chain name `{request.taken[0]}' too long (must be under {MAX_CHAIN_NAME_LENGTH + 1} chars)", PARAMETER)
    elif option in ("-A", "-C", "-D", "-I", "-R", "-N", "-E", "-P"):
        raise CommandFailed(f'option "{option}" requires an argument', PARAMETER)
    if option in ("-E", "-P"):
        if not is_argument(queue):
            raise CommandFailed(f"{option} requires {'a policy' if option == '-P' else 'a new name'}", PARAMETER)
        request.taken.append(queue.pop(0).text)
    if option == "-R" and not is_argument(queue):
        raise CommandFailed("-R requires a rule number", PARAMETER)
    if option == "-R" or (option in ("-D", "-I", "-L", "-S", "-Z") and queue and re.match("[0-9]", queue[0].text)):
        request.number = rule_number(queue.pop(0).text)


def is_argument(queue: list[Word]) -> bool:
    return bool(queue) and not queue[0].text.startswith(("-", "!"))


def rule_number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 11 and 0 < int(text) < 2 ** 32):
        raise CommandFailed(f"Invalid rule number `{text}'", PARAMETER)
    return int(text)


def take_table(queue: list[Word]) -> str:
    if not (queue and queue[0].quoted):
        raise CommandFailed("option \"-t\" requires an argument", PARAMETER)
    return queue.pop(0).text


def take_ignored(option: str, queue: list[Word], family: int) -> None:
    """What changes nothing here: the time to wait for a lock, the command that loads modules, the program's own family."""
    if option in ("-4", "-6") and int(option[1]) != family:
        raise CommandFailed(f"{option}: {PROGRAMS[family]} has the rules of IPv{family}; use {PROGRAMS[OTHER_FAMILY[family]]}",
                            PARAMETER)
    if option == "-M" or (option in ("-w", "-W") and queue and (queue[0].quoted or is_argument(queue))):
        value = queue.pop(0).text if queue else ""
        if option != "-M" and not re.match(r"[+-]?[0-9]", value):
            raise CommandFailed("wait seconds not numeric", PARAMETER)
    elif option == "-W":
        raise CommandFailed("wait interval value required", PARAMETER)


def take_counters(queue: list[Word]) -> tuple[int, int]:
    numbers = queue.pop(0).text.split(",", 1) if queue and queue[0].quoted else []
    if len(numbers) == 1 and is_argument(queue):
        numbers.append(queue.pop(0).text)
    if len(numbers) != 2:
        raise CommandFailed("-c requires packet and byte counter", PARAMETER)
    return count_of(numbers[0], "packet"), count_of(numbers[1], "byte")


def count_of(text: str, what: str) -> int:
    if not re.fullmatch("[0-9]{1,20}", text) or int(text) > MAX_COUNT:
        raise CommandFailed(f"-c {what} counter not numeric", PARAMETER)
    return int(text)
