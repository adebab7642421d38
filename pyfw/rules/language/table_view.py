"""`iptables -L`: a ruleset as a table for people, column by column as iptables 1.8 prints it."""
from __future__ import annotations

from collections.abc import Iterator

from pyfw.rules import names
from pyfw.rules.language.matches import MATCHES, TARGETS, settled
from pyfw.rules.language.printing import Counters
from pyfw.rules.model import Chain, Match, Rule, Table, empty_table
from pyfw.rules.values import Network

UNITS = "KMGT"
ECHOED_PROTOCOLS = {number: names.PROTOCOL_NAMES[number] for number in (1, 6, 17, 50, 51, 58, 132, 135, 136)}
"""Those that libxtables knows without looking them up."""


def list_chains(table: Table, family: int, chain: str | None = None, number: int | None = None, *, verbose: bool = False,
                numeric: bool = False, exact: bool = False, line_numbers: bool = False,
                counters: Counters | None = None) -> Iterator[str]:
    """The lines of `iptables -L [CHAIN [NUMBER]]`; `verbose` needs counters, those of the family."""
    view = _View(table, family, verbose, numeric, exact, line_numbers, counters or {})
    chosen = [known for known in table.chains if chain in (None, known.name) and known.is_for(family)]
    for position, known in enumerate(chosen):
        if number is None:
            yield from ([""] if position else [])
            yield view.heading(known)
            yield view.columns()
        rows = view.rows(known)
        yield from rows if number is None else rows[number - 1:number]


def count_text(number: int, exact: bool = False) -> str:
    """A counter in five digits at most: 99999, then thousands (K), millions (M) and so on; `exact`: all of them."""
    if exact or number <= 99999:
        return str(number)
    unit = ""
    for unit in UNITS:
        number = (number + 500) // 1000
        if number <= 9999:
            break
    return f"{number}{unit}"


class _View:

    def __init__(self, table: Table, family: int, verbose: bool, numeric: bool, exact: bool, line_numbers: bool,
                 counters: Counters) -> None:
        self.table, self.family = table, family
        self.verbose, self.numeric, self.exact, self.line_numbers = verbose, numeric, exact, line_numbers
        self.counters = counters
        self.width = 8 if exact else 5

    def heading(self, chain: Chain) -> str:
        if chain.policy is None:
            references = sum(rule.target is not None and rule.target.name == chain.name and rule.family in (None, self.family)
                             for known in self.table.chains for rule in known.rules)
            return f"Chain {chain.name} ({references} references)"
        counted = ""
        if self.verbose:
            packets, size = self.counters.get((self.table.name, chain.name), (None, []))[0] or (0, 0)
            counted = f" {count_text(packets, self.exact)} packets, {count_text(size, self.exact)} bytes"
        return f"Chain {chain.name} (policy {chain.policy_of(self.family)}{counted})"

    def columns(self) -> str:
        number = "num  " if self.line_numbers else ""
        if not self.verbose:
            return f"{number}target     prot opt source               destination         "
        return (f"{number}{'pkts':>{self.width}} {'bytes':>{10 if self.exact else 5}} "
                "target     prot opt in     out     source               destination         ")

    def rows(self, chain: Chain) -> list[str]:
        counted = self.counters.get((self.table.name, chain.name), (None, [(0, 0)] * len(chain.rules)))[1]
        seen = [(rule, count) for rule, count in zip(chain.rules, counted, strict=True) if rule.family in (None, self.family)]
        return [self.row(number, rule, count) for number, (rule, count) in enumerate(seen, 1)]

    def row(self, number: int, rule: Rule, counted: tuple[int, int]) -> str:
        header = rule.match("ip") or Match("ip")
        parts = [f"{number:<4} " if self.line_numbers else ""]
        if self.verbose:
            parts += [f"{self.counter(count):>{self.width}} " for count in counted]
        parts.append(f"{target_name(rule):<9} ")
        parts += [self.protocol(header), self.fragment(header)]
        if self.verbose:
            parts += [f" {self.interface(header, '-i'):<6} ", f"{self.interface(header, '-o'):<6} "]
        parts += [self.address(header, "-s"), self.address(header, "-d")]
        return "".join(parts) + self.extras(rule)

    def counter(self, number: int) -> str:
        return count_text(number, self.exact)

    def protocol(self, header: Match) -> str:
        setting = header.get("-p")
        number = setting.value if setting else 0
        name = str(number) if self.numeric else names.PROTOCOL_NAMES.get(number, str(number)) if number else "all"
        return f"{'!' if setting and setting.inverted else ' '}{name:<4} "

    def fragment(self, header: Match) -> str:
        setting = header.get("-f")
        return "-- " if setting is None else "!f " if setting.inverted else "-f "

    def interface(self, header: Match, option: str) -> str:
        setting = header.get(option)
        if setting is None:
            return "*" if self.numeric else "any"
        return f"{'!' if setting.inverted else ''}{setting.value}"

    def address(self, header: Match, option: str) -> str:
        setting = header.get(option)
        if setting is None:
            shown = "anywhere" if not self.numeric else "0.0.0.0/0" if self.family == 4 else "::/0"
            return f" {shown:<19} "
        return f"{'!' if setting.inverted else ' '}{network_text(setting.value):<19} "

    def extras(self, rule: Rule) -> str:
        words = ["[audit] "] if rule.audit else []
        rule = settled(rule, self.family)
        if rule.target and rule.target.goto:
            words.append("[goto] ")
        words += [f" {shown}" for match in rule.matches if (shown := MATCHES[match.name].show(match, self.numeric))]
        if rule.target and rule.target.name in TARGETS and (shown := TARGETS[rule.target.name].show(rule.target, self.numeric)):
            words.append(f" {shown}")
        return "".join(words)


def echoed(rule: Rule, family: int) -> str:
    """The line by which `iptables -v` repeats a rule that it adds, finds or deletes."""
    view = _View(empty_table("filter"), family, verbose=True, numeric=True, exact=False, line_numbers=False, counters={})
    header = rule.match("ip") or Match("ip")
    setting = header.get("-p")
    protocol = ECHOED_PROTOCOLS.get(setting.value, str(setting.value)) if setting else "all"
    signs = ["!" if (given := header.get(option)) and given.inverted else " " for option in ("-p", "-s", "-d")]
    source, destination = (view.address(header, option)[1:].rstrip() for option in ("-s", "-d"))
    return (f"{target_name(rule)} {signs[0]}{protocol} opt {view.fragment(header)}in {view.interface(header, '-i')} "
            f"out {view.interface(header, '-o')} {signs[1]}{source} {signs[2]}-> {destination}  {view.extras(rule)}")


def target_name(rule: Rule) -> str:
    if rule.target is None:
        return ""
    kind = TARGETS.get(rule.target.name)
    return kind.listed_as or kind.name if kind else rule.target.name


def network_text(network: Network) -> str:
    """As iptables -L: without the prefix of a single host."""
    text = str(network)
    host, _, prefix = text.partition("/")
    return host if prefix == str(network.bits) else text
