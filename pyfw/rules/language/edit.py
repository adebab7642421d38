"""One command of iptables(8) on a ruleset: the ruleset it leaves, and what it prints.

A Ruleset serves both families; `iptables` sees and changes IPv4's view of it, `ip6tables` IPv6's.  A rule of both that one of
them takes away stays for the other.  Chains are common to both.  Rules that a command leaves alone stay the same objects, by
which a Program knows whose counters to keep.

Knows no daemon and no socket.  Wording and exit statuses are those of iptables 1.8.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pyfw.rules.language.builder import RuleBuilder
from pyfw.rules.language.check import check_ruleset
from pyfw.rules.language.iptables import KERNEL_TABLES, POLICIES, check_chain_name, read_rule
from pyfw.rules.language.matches import OPTIONS, TARGETS, settled
from pyfw.rules.lexer import Word
from pyfw.rules.model import BUILTIN_CHAINS, Chain, Location, Rule, RulesError, Ruleset, Table, empty_table

OTHER, PARAMETER, NO_TABLE, RESOURCE = 1, 2, 3, 4       # exit statuses
OTHER_FAMILY = {4: 6, 6: 4}
NO_SUCH_NAME = "No chain/target/match by that name."
NO_SUCH_RULE = "Bad rule (does a matching rule exist in that chain?)."

# command: how many words it takes at least and at most, before the rule's own
COMMANDS = {
    "-A": ("--append", 1, 1), "-C": ("--check", 1, 1), "-D": ("--delete", 1, 2), "-I": ("--insert", 1, 2),
    "-R": ("--replace", 2, 2), "-L": ("--list", 0, 2), "-S": ("--list-rules", 0, 2), "-F": ("--flush", 0, 1),
    "-Z": ("--zero", 0, 2), "-N": ("--new-chain", 1, 1), "-X": ("--delete-chain", 0, 1), "-E": ("--rename-chain", 2, 2),
    "-P": ("--policy", 2, 2),
}
WITH_RULE = {"-A", "-C", "-D", "-I", "-R"}
FLAGS = {"-v": "--verbose", "-n": "--numeric", "-x": "--exact", "--line-numbers": "--line-numbers"}
WITH_VALUE = {"-t": "--table"}
IGNORED = {"-w": "--wait", "-W": "--wait-interval", "-4": "--ipv4", "-6": "--ipv6"}
WITH_NUMBER = {"-w", "-W"}
ARGUMENT = "argument"           # the source in the places of words
PROGRAMS = {4: "pyfw-iptables", 6: "pyfw-ip6tables"}


class CommandFailed(Exception):
    """A command that changes nothing; `status` is iptables' exit status for it."""

    def __init__(self, message: str, status: int = OTHER) -> None:
        super().__init__(message)
        self.status = status

    @property
    def is_usage(self) -> bool:
        """Whether iptables prints its version before the message, and a hint after it."""
        return self.status != OTHER


@dataclass
class Request:
    """A command line, taken apart."""

    family: int
    command: str = ""
    taken: list[str] = field(default_factory=list)      # a chain, then a number, a name or a policy
    table: str = "filter"
    flags: set[str] = field(default_factory=set)
    counters: tuple[int, int] = (0, 0)
    words: list[Word] = field(default_factory=list)     # of the rule

    @property
    def chain(self) -> str | None:
        return self.taken[0] if self.taken else None

    @property
    def number(self) -> int | None:
        return int(self.taken[1]) if len(self.taken) > 1 and self.command not in ("-E", "-P") else None


@dataclass(frozen=True)
class Edited:
    """What a command comes to.  `zeroed`, `counted`: (table, chain, index) of rules whose counters it sets; the index behind the
    last rule is the policy's."""

    ruleset: Ruleset
    zeroed: tuple[tuple[str, str, int], ...] = ()
    counted: tuple[tuple[str, str, int], ...] = ()


# -- the command line -------------------------------------------------------------------------------------------------

def read_request(arguments: Sequence[str], family: int) -> Request:
    """Raises CommandFailed."""
    request = Request(family)
    queue = take_apart(arguments)
    while queue:
        word = queue.pop(0)
        short = "" if word.quoted else short_option(word.text)
        if (short == "-L" and request.command == "-Z") or (short == "-Z" and request.command in ("-L", "-S")):
            request.flags.add("zero")
            if short == "-L":
                request.command = "-L"
                request.taken += take_words(queue, 1)
        elif short in COMMANDS:
            take_command(request, short, queue)
        elif short in FLAGS:
            request.flags.add(FLAGS[short].removeprefix("--"))
        elif short == "-t":
            request.table = take_table(queue)
        elif short == "-c":
            request.counters = take_counters(queue)
        elif short in ("-4", "-6") and int(short[1]) != family:
            raise CommandFailed(f"{short}: {PROGRAMS[family]} has the rules of IPv{family}; use {PROGRAMS[OTHER_FAMILY[family]]}",
                                PARAMETER)
        elif short in IGNORED:
            if short in WITH_NUMBER and queue and is_number(queue[0].text):
                queue.pop(0)
        else:
            request.words.append(word)
    if not request.command:
        raise CommandFailed("no command specified", PARAMETER)
    if request.words and request.command not in WITH_RULE:
        raise CommandFailed(f'unknown option "{request.words[0].text}"' if request.words[0].text.startswith("-")
                            else f"Bad argument `{request.words[0].text}'", PARAMETER)
    return request


LONG = {short: entry[0] for short, entry in COMMANDS.items()} | FLAGS | WITH_VALUE | IGNORED | {"-c": "--set-counters"}
OF_RULES = {spelling for option in OPTIONS for spelling in (option.name, *option.aliases)} | {"--match", "--jump", "--goto"}
FREE_TEXT = {spelling for option in OPTIONS if option.free_text for spelling in (option.name, *option.aliases)}
WITHOUT_ARGUMENT, WITH_ARGUMENT = "nvx46", "ACDIRLSFZNXEPtcwW"         # short options that may be joined


def take_apart(arguments: Sequence[str]) -> list[Word]:
    """The words as getopt_long() has them: `-nvL` is three, `-w5` and `--wait=5` are two.

    What follows an option that takes free text is quoted: it is no option, whatever it looks like.
    """
    words: list[Word] = []
    for position, text in enumerate(arguments, 1):
        is_text = bool(words) and words[-1].text in FREE_TEXT and not words[-1].quoted
        words += [Word(part, Location(ARGUMENT, 1, position), quoted=is_text) for part in ([text] if is_text else parts_of(text))]
    return words


def parts_of(text: str) -> list[str]:
    name, equals, value = text.partition("=")
    if name.startswith("--") and equals and short_option(name) in LONG:
        return [name, value]
    for at, letter in enumerate(text[1:], 1):
        if text[0] != "-" or letter not in WITHOUT_ARGUMENT + WITH_ARGUMENT:
            break
        if letter in WITH_ARGUMENT or at == len(text) - 1:
            value = text[at + 1:]
            return [*(f"-{flag}" for flag in text[1:at + 1]), *([value] if value else [])]
    return [text]


def short_option(text: str) -> str:
    """The short form of a command or an option of iptables' own, by its name or an unambiguous abbreviation; else the text itself."""
    aliases = {"--new": "-N", "--delete-chains": "-X", "--list-rule": "-S"}
    if text in LONG or text in OF_RULES:
        return text
    if text in aliases:
        return aliases[text]
    exact = [short for short, long in LONG.items() if long == text]
    fitting = exact or [short for short, long in LONG.items() if len(text) > 3 and long.startswith(text)]
    return fitting[0] if len(fitting) == 1 else text


def is_number(text: str) -> bool:
    """Whether it is one that a rule, a chain's length or a time to wait can have."""
    return text.isascii() and text.isdigit() and len(text) < 10


def take_command(request: Request, short: str, queue: list[Word]) -> None:
    if request.command:
        raise CommandFailed(f"Cannot use {short} with {request.command}", PARAMETER)
    _, least, most = COMMANDS[short]
    request.command = short
    request.taken = take_words(queue, most if short not in ("-D", "-I", "-L", "-S", "-Z") else 1)
    if short in ("-D", "-I", "-L", "-S", "-Z") and request.taken and queue and is_number(queue[0].text):
        request.taken.append(queue.pop(0).text)
    if len(request.taken) < least:
        what = "a chain" if not request.taken else {"-R": "a rule number", "-P": "a policy", "-E": "a new name"}[short]
        raise CommandFailed(f"{short} requires {what}", PARAMETER)
    if short in ("-R", "-D", "-I") and len(request.taken) > 1 and (not is_number(request.taken[1]) or int(request.taken[1]) == 0):
        raise CommandFailed(f"Invalid rule number `{request.taken[1]}'", PARAMETER)


def take_words(queue: list[Word], most: int) -> list[str]:
    taken: list[str] = []
    while queue and len(taken) < most and not queue[0].text.startswith(("-", "!")):
        taken.append(queue.pop(0).text)
    return taken


def take_table(queue: list[Word]) -> str:
    if not queue:
        raise CommandFailed("option \"-t\" requires an argument", PARAMETER)
    name = queue.pop(0).text
    if name in KERNEL_TABLES:
        raise CommandFailed(f"table {name}: {KERNEL_TABLES[name]} stays with the kernel; use the system's own iptables -t {name}",
                            NO_TABLE)
    if name not in BUILTIN_CHAINS:
        raise CommandFailed(f"can't initialize table `{name}': Table does not exist", NO_TABLE)
    return name


def take_counters(queue: list[Word]) -> tuple[int, int]:
    numbers = queue.pop(0).text.split(",") if queue else []
    if len(numbers) == 1 and queue:
        numbers.append(queue.pop(0).text)
    if len(numbers) != 2 or not all(number.isascii() and number.isdigit() and len(number) < 20 for number in numbers):
        raise CommandFailed("-c packet and byte counters are two numbers", PARAMETER)
    return int(numbers[0]), int(numbers[1])


# -- what it changes ----------------------------------------------------------------------------------------------------

def edit(ruleset: Ruleset, request: Request) -> Edited:
    """Carry out a command; one that only lists leaves everything.  Raises CommandFailed; then nothing is changed."""
    table = ruleset.table(request.table) or empty_table(request.table)
    if request.command in ("-L", "-S", "-Z"):
        return list_or_zero(ruleset, table, request)
    changes = {"-N": new_chain, "-X": delete_chains, "-E": rename_chain, "-F": flush, "-P": set_policy}
    if request.command in changes:
        return Edited(checked(ruleset, changes[request.command](table, request)))
    return edit_rules(ruleset, table, request)


def checked(ruleset: Ruleset, table: Table) -> Ruleset:
    try:
        return check_ruleset(ruleset.with_table(table))
    except RulesError as error:
        raise CommandFailed(error.message, PARAMETER) from None


def known_chain(table: Table, name: str) -> Chain:
    chain = table.chain(name)
    if chain is None:
        raise CommandFailed(NO_SUCH_NAME)
    return chain


def list_or_zero(ruleset: Ruleset, table: Table, request: Request) -> Edited:
    chains = [known_chain(table, request.chain)] if request.chain else list(table.chains)
    if request.number is not None and chains[0].policy is None and request.command == "-Z" \
            and not visible(chains[0], request.family)[request.number - 1:]:
        raise CommandFailed(NO_SUCH_RULE)
    if request.command != "-Z" and "zero" not in request.flags:
        return Edited(ruleset)
    if request.number is not None:
        shown = visible(chains[0], request.family)
        if request.number > len(shown):
            raise CommandFailed(NO_SUCH_RULE)
        return Edited(ruleset, ((table.name, chains[0].name, shown[request.number - 1][0]),))
    return Edited(ruleset, tuple((table.name, chain.name, index) for chain in chains for index in range(len(chain.rules) + 1)))


def visible(chain: Chain, family: int) -> list[tuple[int, Rule]]:
    """The rules that a family sees, with their places in the chain."""
    return [(index, rule) for index, rule in enumerate(chain.rules) if rule.family in (family, None)]


def new_chain(table: Table, request: Request) -> Table:
    name = request.taken[0]
    if table.chain(name):
        raise CommandFailed("Chain already exists.")
    try:
        check_chain_name(name, table.name, None)
    except RulesError as error:
        raise CommandFailed(error.message, PARAMETER) from None
    return table.with_chain(Chain(name))


def delete_chains(table: Table, request: Request) -> Table:
    referred = {rule.target.name for chain in table.chains for rule in chain.rules if rule.target}
    chains = [known_chain(table, request.chain)] if request.chain else [c for c in table.chains if c.policy is None]
    for chain in chains:
        if chain.policy is not None or chain.rules or chain.name in referred - {c.name for c in chains if not c.rules and c is not chain}:
            raise CommandFailed(f"CHAIN_DEL failed (Device or resource busy): chain {chain.name}", RESOURCE)
    return replace(table, chains=tuple(chain for chain in table.chains if chain not in chains))


def rename_chain(table: Table, request: Request) -> Table:
    old, new = known_chain(table, request.taken[0]), request.taken[1]
    if old.policy is not None:
        raise CommandFailed(f"CHAIN_USER_RENAME failed (Operation not supported): chain {old.name}", RESOURCE)
    new_chain(table, replace(request, taken=[new]))
    renamed = replace(table, chains=tuple(chain for chain in table.chains if chain is not old)).with_chain(replace(old, name=new))
    chains = tuple(replace(chain, rules=tuple(retargeted(rule, old.name, new) for rule in chain.rules)) for chain in renamed.chains)
    return replace(renamed, chains=chains)


def retargeted(rule: Rule, old: str, new: str) -> Rule:
    if rule.target is None or rule.target.name != old:
        return rule
    return replace(rule, target=replace(rule.target, name=new))


def flush(table: Table, request: Request) -> Table:
    chains = [known_chain(table, request.chain)] if request.chain else table.chains
    for chain in chains:
        left = tuple(left_for_other(rule, request.family) for rule in chain.rules if rule.family != request.family)
        table = table.with_chain(replace(chain, rules=left))
    return table


def left_for_other(rule: Rule, family: int) -> Rule:
    """What remains of a rule when `family` no longer has it."""
    return rule if rule.family else bound(rule, OTHER_FAMILY[family])


def bound(rule: Rule, family: int) -> Rule:
    """The rule for one family only."""
    return settled(replace(rule, family=family), family)


def set_policy(table: Table, request: Request) -> Table:
    chain, policy = known_chain(table, request.taken[0]), request.taken[1]
    if chain.policy is None:
        raise CommandFailed("Bad built-in chain name.")
    if policy not in POLICIES:
        raise CommandFailed("Bad policy name. A policy is ACCEPT or DROP.")
    return table.with_chain(chain.with_policy(policy, request.family))


# -- rules ----------------------------------------------------------------------------------------------------------------

def edit_rules(ruleset: Ruleset, table: Table, request: Request) -> Edited:
    chain = known_chain(table, request.taken[0])
    shown = visible(chain, request.family)
    if request.command == "-D" and request.number is not None:
        if request.words:
            raise CommandFailed("Cannot use a rule's number and its words at once", PARAMETER)
        if request.number > len(shown):
            raise CommandFailed("Index of deletion too big.")
        rules = without(chain, shown[request.number - 1][0], request.family)
        return Edited(checked(ruleset, table.with_chain(replace(chain, rules=rules))))
    given = parse_words(request, table, chain)
    if request.command == "-C":
        for rule in given:
            find(chain, rule, request.family)
        return Edited(checked(ruleset, table))
    if request.command == "-D":
        for rule in given:
            chain = replace(chain, rules=without(chain, find(chain, rule, request.family), request.family))
        return Edited(checked(ruleset, table.with_chain(chain)))
    return place_rules(ruleset, table, chain, request, given)


def place_rules(ruleset: Ruleset, table: Table, chain: Chain, request: Request, given: tuple[Rule, ...]) -> Edited:
    """-A, -I and -R."""
    shown = visible(chain, request.family)
    at, kept = len(chain.rules), list(chain.rules)
    number = request.number or 1
    if request.command == "-I":
        if number > len(shown) + 1:
            raise CommandFailed("Index of insertion too big.")
        at = shown[number - 1][0] if number <= len(shown) else len(chain.rules)
        given = given[::-1]             # each before the ones that were inserted before it
    elif request.command == "-R":
        if number > len(shown):
            raise CommandFailed("Index of replacement too big.")
        if len(given) != 1:
            raise CommandFailed("Replacement rule does not specify a unique address", PARAMETER)
        at = shown[number - 1][0]
        kept = list(without(chain, at, request.family))
    kept[at:at] = given
    changed = checked(ruleset, table.with_chain(replace(chain, rules=tuple(kept))))
    return Edited(changed, counted=tuple((table.name, chain.name, at + offset) for offset in range(len(given))))


def parse_words(request: Request, table: Table, chain: Chain) -> tuple[Rule, ...]:
    builder = RuleBuilder(table.name, chain.name, request.family)
    try:
        read_rule(request.words, builder)
        rules = builder.rules()
    except RulesError as error:
        raise CommandFailed(error.message, PARAMETER) from None
    if not rules:
        raise CommandFailed(f"the rule has no address of IPv{request.family}", PARAMETER)
    for target in (rule.target for rule in rules if rule.target and rule.target.name not in TARGETS):
        if table.chain(target.name) is None:
            raise CommandFailed(f"Chain '{target.name}' does not exist", PARAMETER)
    return rules


def find(chain: Chain, rule: Rule, family: int) -> int:
    """The place of the first rule that is alike in the family's eyes.  Raises CommandFailed: there is none."""
    wanted = bound(rule, family)
    for index, known in visible(chain, family):
        if bound(known, family) == wanted:
            return index
    raise CommandFailed(NO_SUCH_RULE)


def without(chain: Chain, index: int, family: int) -> tuple[Rule, ...]:
    """The chain's rules, of which `family` has the one at `index` no more."""
    rule = chain.rules[index]
    left = () if rule.family else (bound(rule, OTHER_FAMILY[family]),)
    return (*chain.rules[:index], *left, *chain.rules[index + 1:])
