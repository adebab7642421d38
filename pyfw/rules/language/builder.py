"""One rule out of its options, whatever syntax they were written in.

Knows the order of things in a rule and the laws of chains and tables; the options themselves stand in
`matches.py`.  Every error carries the place of the word that is wrong.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from math import prod
from typing import Any, Generic, TypeAlias, TypeVar

from pyfw.rules import names
from pyfw.rules.language.extensions.header import IP
from pyfw.rules.language.kinds import MatchKind, Option, TargetKind, option_named
from pyfw.rules.language.matches import MATCHES, OPTIONS, TARGETS, implied_families, match_for_protocol, match_kind, settled
from pyfw.rules.model import (
    BUILTIN_CHAINS,
    Location,
    Match,
    Misfit,
    NotInPyfw,
    RefusedByKernel,
    Rule,
    RulesError,
    Setting,
    Target,
    Unsupported,
)
from pyfw.rules.values import Network, suggestion

MAX_RULES = 500_000
MAX_RULES_OF_ONE = 16384        # lists of addresses multiply
WITHOUT_OUTDEV = {"PREROUTING", "INPUT"}
WITHOUT_INDEV = {"OUTPUT", "POSTROUTING"}
MEANT = {"ALLOW": "ACCEPT", "PERMIT": "ACCEPT", "PASS": "ACCEPT", "DENY": "DROP", "BLOCK": "DROP", "IGNORE": "DROP"}
"""Words of other firewalls' languages."""


Kind = TypeVar("Kind", MatchKind, TargetKind)


@dataclass(slots=True)
class _Given(Generic[Kind]):
    """What was written for one match or target, before families are known."""

    kind: Kind
    location: Location | None
    choices: dict[str, tuple[Any, ...]] = field(default_factory=dict)    # option -> values, each its own rule
    inverted: set[str] = field(default_factory=set)
    places: dict[str, Location | None] = field(default_factory=dict)

    def settings(self, chosen: dict[str, Any]) -> tuple[Setting, ...]:
        """In canonical order, without those that say nothing."""
        found = []
        for option in self.kind.options:
            if option.name not in self.choices or option.trivial(value := chosen[option.name]):
                continue
            if option.name in self.inverted or not option.says_nothing_plain:
                found.append(Setting(option.name, value, option.name in self.inverted))
        return tuple(found)


_AnyGiven: TypeAlias = _Given[MatchKind] | _Given[TargetKind]


class RuleBuilder:
    """Collects one rule of `chain` in `table`; `rules()` gives what it came to.

    Several rules, if an address was a list; rules of one family, if `family` says so or a part of them exists in one only.
    """

    def __init__(self, table: str, chain: str, family: int | None = None, location: Location | None = None) -> None:
        self.table = table
        self.chain = chain
        self.family = family
        self.location = location
        self._matches = [_Given(IP, location)]
        self._target: _Given[TargetKind] | None = None
        self._target_name = ""
        self._goto = False
        self.refused: RefusedByKernel | None = None     # comes after all that iptables says of a rule itself

    # -- what was written ---------------------------------------------------------------------------------------------

    def add_match(self, name: str, location: Location | None) -> None:
        """-m NAME."""
        kind = match_kind(name)
        if kind is None:
            known = [known for known in MATCHES if match_kind(known)]
            raise Unsupported(f"there is no match {name!r} in pyfw{suggestion(name, known)}; there are {', '.join(known)}; "
                              f"a rule that needs it belongs in the kernel's tables", location)
        self._matches.append(_Given(kind, location))

    def set_target(self, name: str, goto: bool, location: Location | None) -> None:
        """-j NAME, -g NAME."""
        if self._target_name:
            raise RulesError(f"a rule has one target, and this one has {self._target_name} already", location)
        if goto and (name in TARGETS or name in BUILTIN_CHAINS[self.table]):
            complaint = f"-g goes to a chain of one's own, which {name} is not; write -j {name}"
            if name in TARGETS:
                raise RulesError(complaint, location)
            self._refuse(complaint, location)
        if name in names.KERNEL_TARGETS:
            raise Unsupported(f"target {name}: {names.KERNEL_TARGETS[name]}", location)
        if self.table not in (tables := TARGETS[name].tables if name in TARGETS else (self.table,)):
            self._refuse(f"target {name} belongs in table {tables[0]}, not in {self.table}", location)
        self._target_name, self._goto = name, goto
        self._target = _Given(TARGETS.get(name, TargetKind(name, lambda target, code: None)), location)

    def bring_match(self, option: str, location: Location | None) -> None:
        """-m for the match that has `option`, unless something that was given has it or -p will bring it."""
        kinds = [kind for kind in MATCHES.values() if option_named(kind.options, option)]
        target_has_it = self._target is not None and option_named(self._target.kind.options, option)
        if kinds and not target_has_it and IP not in kinds and not any(kind.protocol for kind in kinds):
            self.add_match(kinds[0].name, location)

    def find(self, name: str, location: Location | None) -> Option:
        """The option called `name` of what was given so far; -p brings its protocol's match along."""
        return self._find(name, location)[1]

    def set_option(self, name: str, words: Sequence[str], inverted: bool, location: Location | None,
                   word_locations: Sequence[Location | None] = ()) -> None:
        """Give an option its value.  `location` is the option's place, `word_locations` its values'."""
        owner, option = self._find(name, location)
        if option.stored in owner.choices:
            raise RulesError(f"{option.stored} is given twice", location)
        if inverted and not option.negatable:
            raise RulesError(f"{name} cannot be negated", location)
        try:
            value = option.parse(*words)
        except ValueError as error:
            refusal = Unsupported if isinstance(error, NotInPyfw) else RulesError
            raise refusal(f"{name}: {error}", word_locations[0] if word_locations else location) from None
        choices = value if option.several else (value,)
        if inverted and len(choices) > 1:
            raise RulesError(f"! {name} takes one address, not a list", location)
        if inverted and option.trivial(choices[0]):
            complaint = f"! {name} {' '.join(words)} would never match"
            if not option.several:
                raise RulesError(complaint, location)
            self._refuse(complaint, location)
        owner.choices[option.stored] = choices
        owner.places[option.stored] = location
        if inverted:
            owner.inverted.add(option.stored)

    def _find(self, name: str, location: Location | None) -> tuple[_AnyGiven, Option]:
        owners: list[_AnyGiven] = [self._matches[0], *([self._target] if self._target else []), *reversed(self._matches[1:])]
        for owner in owners:
            option = option_named(owner.kind.options, name)
            if option and (option.stored not in owner.choices or owner in (self._matches[0], self._target)):
                return owner, option
        implied = match_for_protocol(self._protocol())
        if implied and not self._has(implied) and (option := option_named(implied.options, name)):
            self._matches.append(_Given(implied, location))
            return self._matches[-1], option
        for owner in owners:
            if option := option_named(owner.kind.options, name):
                return owner, option
        kinds = (self._target_name, names.PROTOCOL_NAMES.get(self._protocol(), ""), *(given.kind.name for given in self._matches))
        if kind := next((kind for kind in kinds if name in names.KERNEL_OPTIONS.get(kind, ())), None):
            raise Unsupported(f"pyfw does not do {kind}'s {name}; a rule that needs it belongs in the kernel's tables", location)
        raise RulesError(self._unknown_option(name), location)

    def _has(self, kind: MatchKind) -> bool:
        return any(given.kind is kind for given in self._matches)

    def _protocol(self) -> int:
        header = self._matches[0]
        return 0 if "-p" in header.inverted else header.choices.get("-p", (0,))[0]

    def _unknown_option(self, name: str) -> str:
        matches = [kind for kind in MATCHES.values() if option_named(kind.options, name)]
        if by_protocol := [kind.name for kind in matches if kind.protocol]:
            return f"{name} needs its protocol before it: -p {' or -p '.join(by_protocol)}"
        if matches:
            return f"{name} needs its match before it: -m {' or -m '.join(kind.name for kind in matches)}"
        if targets := [kind.name for kind in TARGETS.values() if option_named(kind.options, name)]:
            return f"{name} is an option of target {' and '.join(targets)}, to be named before it"
        known = [spelling for option in OPTIONS for spelling in (option.name, *option.aliases)]
        return f"unknown option {name!r}{suggestion(name, [*known, '--jump', '--goto', '--match'])}"

    # -- what it comes to -----------------------------------------------------------------------------------------------

    def rules(self) -> tuple[Rule, ...]:
        """The rules, checked against each other's parts, the table and the chain."""
        rules = self.built()
        if self.refused:
            raise self.refused
        return rules

    def built(self) -> tuple[Rule, ...]:
        """As rules(); what the kernel would refuse is left in `refused`."""
        self._check_interfaces()
        for given in self._matches:
            self._check_match(given)
        if self._target and self._target.kind.needs_option and not self._target.choices:
            raise RulesError(f"{self._target_name} needs an option", self._target.location)
        header = self._matches[0].choices
        if (count := prod(map(len, header.values()))) > MAX_RULES_OF_ONE:
            raise RulesError(f"its lists of addresses make {count} rules of this one, where {MAX_RULES_OF_ONE} may be", self.location)
        combinations = [dict(zip(header, chosen, strict=True)) for chosen in product(*header.values())]
        mixed = [chosen for chosen in combinations if len(address_families(chosen)) > 1]
        if len(mixed) == len(combinations):
            raise RulesError("-s and -d are of different families: no packet has both", self._matches[0].places["-d"])
        return tuple(self._rule(chosen) for chosen in combinations if chosen not in mixed)

    def _rule(self, chosen: dict[str, Any]) -> Rule:
        matches = []
        for given in self._matches:
            own = chosen if given.kind is IP else {option: value[0] for option, value in given.choices.items()}
            settings = given.settings(own)
            if settings or given.kind is not IP:
                matches.append(match := Match(given.kind.name, settings))
                self._checked(partial(given.kind.check, match), given.location)
        rule = Rule(tuple(matches), self._plain_target(), location=self.location)
        family = self._one_family(implied_families(rule) | address_families(chosen))
        if self._target and rule.target:
            self._checked(partial(self._target.kind.check, rule.target, rule), self._target.location)
        return settled(replace(rule, family=family), family)

    def _plain_target(self) -> Target | None:
        if self._target is None:
            return None
        chosen = {option: value[0] for option, value in self._target.choices.items()}
        return Target(self._target_name, self._target.settings(chosen), self._goto, self._target.location)

    def _one_family(self, implied: set[int]) -> int | None:
        families = implied | ({self.family} if self.family else set())
        if len(families) > 1:
            raise RulesError(f"parts of this rule are IPv4 only, others IPv6 only"
                             f"{f' (the rule is bound to IPv{self.family})' if self.family else ''}: "
                             f"it would never match", self.location)
        return families.pop() if families else None

    def _check_interfaces(self) -> None:
        places = self._matches[0].places
        for option, chains in (("-o", WITHOUT_OUTDEV), ("-i", WITHOUT_INDEV)):
            if option in places and self.chain in chains:
                raise RulesError(f"{option} cannot be used in {self.chain}: the interface is not known there", places[option])

    def _check_match(self, given: _Given[MatchKind]) -> None:
        kind = given.kind
        if kind.needs_option and not given.choices:
            raise RulesError(f"-m {kind.name} needs its option {kind.options[0].name}", given.location)
        if kind.protocol and kind.protocol != self._protocol():
            raise RulesError(f"match {kind.name} needs -p {kind.name if kind.name != 'icmp6' else 'ipv6-icmp'}", given.location)
        if kind.protocols and self._protocol() not in kind.protocols:
            known = ", ".join(names.PROTOCOL_NAMES[number] for number in kind.protocols)
            raise RulesError(f"match {kind.name} needs -p with one of {known}", given.location)
        if kind.chains and self.chain in BUILTIN_CHAINS[self.table] and self.chain not in kind.chains:
            self._refuse(f"match {kind.name} cannot be used in {self.chain}, only in {', '.join(kind.chains)}", given.location)
        for option in kind.options:
            if self.chain in option.not_in and option.name in given.choices:
                self._refuse(f"{option.name} cannot be used in {self.chain}: the interface is not known there",
                             given.places[option.name])

    def _refuse(self, complaint: str, location: Location | None) -> None:
        self.refused = self.refused or RefusedByKernel(complaint, location)

    def _checked(self, check: Callable[[], None], location: Location | None) -> None:
        try:
            check()
        except Misfit as error:
            self._refuse(str(error), location)
        except ValueError as error:
            raise RulesError(str(error), location) from None


def checked_count(rules: int, more: int, location: Location | None) -> int:
    """How many rules there are with `more` of them; RulesError: too many."""
    if rules + more > MAX_RULES:
        raise RulesError(f"these are more than {MAX_RULES} rules", location)
    return rules + more


def address_families(chosen: dict[str, Any]) -> set[int]:
    return {value.family for value in chosen.values() if isinstance(value, Network)}


def unknown_target(name: str, chains: Sequence[str]) -> str:
    """The complaint about a -j or -g that leads nowhere."""
    if name.upper() in MEANT:
        return f"{name} is not a target; did you mean {MEANT[name.upper()]}?"
    hint = suggestion(name, [*TARGETS, *chains]) or f"; chains of one's own are made with -N {name} or `:{name} - [0:0]`"
    return f"there is no target or chain {name!r}{hint}"
