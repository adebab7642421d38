"""What the user meant: matches, rules, chains and rulesets as frozen values.

Knows no syntax and no packet.  Counters are not part of it: two rulesets are equal when they judge alike.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import ReferenceType

BUILTIN_CHAINS: dict[str, tuple[str, ...]] = {
    "raw": ("PREROUTING", "OUTPUT"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
}
"""Tables in the order a packet meets them, each with its built-in chains in the order they are printed."""


@dataclass(frozen=True, slots=True)
class Location:
    """A place in a text; line and column count from 1."""

    source: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}"


class RulesError(ValueError):
    """Rules that cannot be: one line saying what, and what would be right.

    `location` is `file:line:column`, or None where that is not known.
    """

    def __init__(self, message: str, location: Location | None = None) -> None:
        super().__init__(f"{location}: {message}" if location else message)
        self.message = message
        self.location = str(location) if location else None


class RefusedByKernel(RulesError):
    """Rules that iptables can read, and that the kernel refuses when it gets them."""


class Misfit(ValueError):
    """What makes a rule RefusedByKernel, in a check that knows no places."""


class Unsupported(RulesError):
    """Rules that iptables has and pyfw has not: one line saying what, and where it belongs."""


class NotInPyfw(ValueError):
    """A value that iptables takes: what makes a rule Unsupported, in a parser that knows no places."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One option with its value: `! --dport 22` is Setting("--dport", PortRange(22, 22), inverted=True)."""

    option: str
    value: Any = True            # what the option's parse returned: each option has a type of its own
    inverted: bool = False


@dataclass(frozen=True, slots=True)
class Match:
    """A match module with its settings, in canonical order.  Named as after `-m`; the IP header's own tests are "ip"."""

    name: str
    settings: tuple[Setting, ...] = ()

    def get(self, option: str) -> Setting | None:
        return next((setting for setting in self.settings if setting.option == option), None)

    def __getitem__(self, option: str) -> Setting:
        """As get(), where the kind's check() has seen to it that there is one."""
        return next(setting for setting in self.settings if setting.option == option)


@dataclass(frozen=True, slots=True)
class Target:
    """What happens to a packet that matches: a built-in verdict, a module with settings, or a chain of one's own."""

    name: str
    settings: tuple[Setting, ...] = ()
    goto: bool = False
    location: Location | None = field(default=None, compare=False, repr=False)

    def get(self, option: str) -> Setting | None:
        return next((setting for setting in self.settings if setting.option == option), None)

    def __getitem__(self, option: str) -> Setting:
        """As get(), where the kind's check() has seen to it that there is one."""
        return next(setting for setting in self.settings if setting.option == option)


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Rule:
    """Matches, all of which must hold, and the target; None only counts.  `family`: 4, 6, or None for both.

    `audit`: packets that match are counted and logged, and go on as if they had not.  `origin`: the rule that this one is a
    family's part of, whose counters and memory go on in it.
    """

    matches: tuple[Match, ...] = ()
    target: Target | None = None
    family: int | None = None
    location: Location | None = field(default=None, compare=False, repr=False)
    audit: bool = False
    origin: ReferenceType[Rule] | None = field(default=None, compare=False, repr=False)

    @property
    def enforced(self) -> Target | None:
        """The target, unless the rule only audits."""
        return None if self.audit else self.target

    @property
    def target_name(self) -> str | None:
        return self.target.name if self.target else None

    @property
    def came_from(self) -> Rule | None:
        """The origin, as long as there is one."""
        return self.origin() if self.origin else None

    def match(self, name: str) -> Match | None:
        return next((match for match in self.matches if match.name == name), None)


@dataclass(frozen=True, slots=True)
class Chain:
    """Rules in order.  A built-in chain ends in its policy, ACCEPT or DROP; one's own chain has none and returns.

    `policy6` is IPv6's policy where it is another than IPv4's, else None.  `family` is the only one that has this chain of one's
    own, None: both have it.
    """

    name: str
    policy: str | None = None
    rules: tuple[Rule, ...] = ()
    policy6: str | None = None
    family: int | None = None

    def is_for(self, family: int | None) -> bool:
        return family in (self.family, None) or self.family is None

    def policy_of(self, family: int) -> str | None:
        return self.policy6 or self.policy if family == 6 else self.policy

    def with_policy(self, policy: str, family: int | None) -> Chain:
        """The chain with another policy for IPv4 (4), IPv6 (6) or both."""
        policy4 = policy if family != 6 else self.policy
        policy6 = policy if family != 4 else self.policy_of(6)
        return replace(self, policy=policy4, policy6=policy6 if policy6 != policy4 else None)


@dataclass(frozen=True, slots=True)
class Table:
    """The chains of one table: the built-in ones first, then one's own by name."""

    name: str
    chains: tuple[Chain, ...]
    _by_name: dict[str, Chain] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {chain.name: chain for chain in self.chains})

    def chain(self, name: str) -> Chain | None:
        return self._by_name.get(name)

    def __getitem__(self, name: str) -> Chain:
        """As chain(), of one that the table has."""
        return self._by_name[name]

    def with_chain(self, chain: Chain) -> Table:
        """The table with `chain` added, or in the place of the one of its name."""
        return self.with_chains([chain])

    def with_chains(self, chains: Iterable[Chain]) -> Table:
        kept = self._by_name | {chain.name: chain for chain in chains}
        own = sorted(name for name, known in kept.items() if known.policy is None)
        return replace(self, chains=tuple(kept[name] for name in (*BUILTIN_CHAINS[self.name], *own)))


@dataclass(frozen=True, slots=True)
class Ruleset:
    """The tables that were given, raw before filter.  A table that was not given accepts everything."""

    tables: tuple[Table, ...] = ()

    def table(self, name: str) -> Table | None:
        return next((table for table in self.tables if table.name == name), None)

    def with_table(self, table: Table) -> Ruleset:
        """The ruleset with `table` in the place of the one of its name."""
        kept = {old.name: old for old in self.tables} | {table.name: table}
        return Ruleset(tuple(kept[name] for name in BUILTIN_CHAINS if name in kept))

    def chains(self) -> Iterator[tuple[Table, Chain]]:
        for table in self.tables:
            for chain in table.chains:
                yield table, chain


def empty_table(name: str) -> Table:
    """A table as a kernel shows it before anybody added a rule: built-in chains that accept."""
    return Table(name, tuple(Chain(chain, "ACCEPT") for chain in BUILTIN_CHAINS[name]))
