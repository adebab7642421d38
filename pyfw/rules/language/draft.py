"""One family's view of a table while commands change it, line after line; merged() brings it back into the ruleset.

A Ruleset serves both families; `iptables` sees and changes IPv4's view of it, `ip6tables` IPv6's.  A rule of both that one of
them takes away stays for the other.  A chain of one's own belongs to the families that made it.  Rules that no command takes
away stay the same objects, by which a Program knows whose counters to keep.

Wording and exit statuses are those of iptables 1.8.
"""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from weakref import ref

from pyfw.rules.language.commands import OTHER_FAMILY, PARAMETER, RESOURCE, CommandFailed, Request
from pyfw.rules.language.iptables import POLICIES, check_chain_name
from pyfw.rules.language.matches import TARGETS, settled
from pyfw.rules.language.table_view import echoed
from pyfw.rules.model import BUILTIN_CHAINS, Chain, Rule, RulesError, Table

NO_SUCH_NAME = "No chain/target/match by that name."
NO_SUCH_RULE = "Bad rule (does a matching rule exist in that chain?)."
BUSY = "CHAIN_DEL failed (Device or resource busy): chain {}"

Counts = tuple[int, int] | None         # packets and bytes to go on from; None: those that the rule has
Place = tuple[str, str, int]            # table, chain, index; behind the last rule: the policy


@dataclass(slots=True)
class DraftChain:
    name: str
    policy: str | None
    rules: list[tuple[Rule, Counts]] = field(default_factory=list)
    counts: Counts = None               # the policy's


class Draft:
    """`said` are the lines that -v prints."""

    def __init__(self, table: Table, family: int) -> None:
        self.table = table
        self.family = family
        self.said: list[str] = []
        self.chains = {chain.name: DraftChain(chain.name, chain.policy_of(family), [
            (rule, None) for rule in chain.rules if rule.family in (family, None)])
            for chain in table.chains if chain.is_for(family)}

    # -- back ------------------------------------------------------------------------------------------------------------

    def merged(self) -> tuple[Table, dict[Place, tuple[int, int]]]:
        """The table with this view in it, and the counters that are to be set."""
        other = OTHER_FAMILY[self.family]
        own = {name for name, chain in self.chains.items() if chain.policy is None}
        own |= {chain.name for chain in self.table.chains if chain.policy is None and chain.is_for(other)}
        chains: list[Chain] = []
        counters: dict[Place, tuple[int, int]] = {}
        for name in (*BUILTIN_CHAINS[self.table.name], *sorted(own)):
            chain, counts = self.merged_chain(name)
            chains.append(chain)
            counters |= {(self.table.name, name, index): count for index, count in enumerate(counts) if count is not None}
        return replace(self.table, chains=tuple(chains)), counters

    def merged_chain(self, name: str) -> tuple[Chain, list[Counts]]:
        old, mine = self.table.chain(name), self.chains.get(name)
        rules = list(interleaved(old.rules if old else (), mine.rules if mine else (), self.family))
        counts = [count for _, count in rules] + [mine.counts if mine else None]
        theirs = old is not None and old.is_for(OTHER_FAMILY[self.family])
        family = None if mine and theirs else self.family if mine else OTHER_FAMILY[self.family]
        merged = replace(old or Chain(name), rules=tuple(rule for rule, _ in rules))
        if mine and mine.policy:
            return merged.with_policy(mine.policy, self.family), counts
        return replace(merged, family=family), counts

    # -- commands --------------------------------------------------------------------------------------------------------

    def carry_out(self, request: Request) -> None:
        """A command that is no list.  Raises CommandFailed; then nothing is changed."""
        {"-N": self.new, "-X": self.delete_chains, "-E": self.rename, "-F": self.flush, "-P": self.set_policy, "-Z": self.zero,
         "-A": self.add, "-I": self.add, "-R": self.add, "-D": self.delete, "-C": self.check}[request.command](request)

    def clear(self) -> None:
        """As a table that nobody has touched."""
        self.chains = {name: DraftChain(name, "ACCEPT", counts=(0, 0)) for name in BUILTIN_CHAINS[self.table.name]}

    def ordered(self) -> list[DraftChain]:
        """As they are printed."""
        builtin = BUILTIN_CHAINS[self.table.name]
        return [self.chains[name] for name in (*builtin, *sorted(set(self.chains) - set(builtin)))]

    def known(self, name: str) -> DraftChain:
        chain = self.chains.get(name)
        if chain is None:
            raise CommandFailed(NO_SUCH_NAME)
        return chain

    def chosen(self, request: Request, doing: str) -> list[DraftChain]:
        chains = self.ordered() if request.chain is None else [self.known(request.chain)]
        if "verbose" in request.flags:
            self.said += [f"{doing} chain `{chain.name}'" for chain in chains]
        return chains

    def new(self, request: Request) -> None:
        self.check_new(request.taken[0])
        self.chains[request.taken[0]] = DraftChain(request.taken[0], None)

    def check_new(self, name: str) -> None:
        if name in self.chains:
            raise CommandFailed("Chain already exists.")
        try:
            check_chain_name(name, self.table.name, None)
        except RulesError as error:
            raise CommandFailed(error.message, PARAMETER) from None

    def declare(self, name: str, policy: str, counts: tuple[int, int]) -> None:
        """iptables-restore's `:NAME POLICY`: sets a policy, makes a chain, or empties the one there is."""
        if name in BUILTIN_CHAINS[self.table.name]:
            if policy != "-":
                self.set_policy(Request(self.family, "-P", [name, policy]))
            self.chains[name].counts = counts
        elif name in self.chains:
            self.chains[name].rules.clear()
        else:
            self.new(Request(self.family, "-N", [name]))

    def delete_chains(self, request: Request) -> None:
        targets = {rule.target.name for chain in self.chains.values() for rule, _ in chain.rules if rule.target}
        chosen = self.ordered() if request.chain is None else [self.known(request.chain)]
        chains = [chain for chain in chosen if chain.policy is None or request.chain is not None]
        for chain in chains:
            if chain.policy is not None or chain.rules or chain.name in targets:
                raise CommandFailed(BUSY.format(chain.name), RESOURCE)
        for chain in chains:
            del self.chains[chain.name]
            if "verbose" in request.flags:
                self.said.append(f"Deleting chain `{chain.name}'")

    def rename(self, request: Request) -> None:
        old, new = self.known(request.taken[0]), request.taken[1]
        if old.policy is not None:
            raise CommandFailed(f"CHAIN_USER_RENAME failed (Operation not supported): chain {old.name}", RESOURCE)
        if new in self.chains:
            raise CommandFailed("File exists.")
        self.check_new(new)
        del self.chains[old.name]
        self.chains[new] = replace(old, name=new)
        for chain in self.chains.values():
            chain.rules = [(retargeted(rule, old.name, new, self.family), counts) for rule, counts in chain.rules]

    def flush(self, request: Request) -> None:
        for chain in self.chosen(request, "Flushing"):
            chain.rules.clear()

    def set_policy(self, request: Request) -> None:
        chain, policy = self.known(request.taken[0]), request.taken[1]
        if chain.policy is None:
            raise CommandFailed("Bad built-in chain name.")
        if policy not in POLICIES:
            raise CommandFailed("Bad policy name. A policy is ACCEPT or DROP.")
        chain.policy, chain.counts = policy, (0, 0)

    def zero(self, request: Request) -> None:
        if request.number is not None:
            chain = self.known(request.taken[0])
            if request.number <= len(chain.rules):
                chain.rules[request.number - 1] = chain.rules[request.number - 1][0], (0, 0)
            return
        for chain in self.chosen(request, "Zeroing"):
            chain.rules = [(rule, (0, 0)) for rule, _ in chain.rules]
            chain.counts = (0, 0)

    # -- rules -----------------------------------------------------------------------------------------------------------

    def add(self, request: Request) -> None:
        """-A, -I and -R."""
        if request.command == "-R" and len(request.rules) > 1:
            raise CommandFailed("Replacement rule does not specify a unique address", PARAMETER)
        given = self.checked(request)
        chain, number = self.known(request.taken[0]), request.number
        at = len(chain.rules)
        if request.command == "-I":
            at = (number or 1) - 1
            given = given[::-1]         # each before the ones that were inserted before it
        elif number:
            at = number - 1
        if at > len(chain.rules) - (request.command == "-R"):
            raise CommandFailed(f"Index of {'replacement' if request.command == '-R' else 'insertion'} too big.")
        self.accepted(request)
        chain.rules[at:at + (request.command == "-R")] = [(rule, request.counters) for rule in given]

    def delete(self, request: Request) -> None:
        if request.number is not None:
            chain = self.known(request.taken[0])
            if request.number > len(chain.rules):
                raise CommandFailed("Index of deletion too big.")
            del chain.rules[request.number - 1]
            return
        given = self.checked(request)
        chain = self.known(request.taken[0])
        kept = list(chain.rules)
        for rule in given:
            del kept[self.find(kept, rule)]
        chain.rules = kept

    def check(self, request: Request) -> None:
        given = self.checked(request)
        for rule in given:
            self.find(self.known(request.taken[0]).rules, rule)

    def find(self, rules: Sequence[tuple[Rule, Counts]], rule: Rule) -> int:
        """The place of the first rule that is alike in the family's eyes."""
        wanted = bound(rule, self.family)
        place = next((index for index, (known, _) in enumerate(rules)
                      if known.target_name == rule.target_name and bound(known, self.family) == wanted), None)
        if place is None:
            raise CommandFailed(NO_SUCH_RULE)
        return place

    def checked(self, request: Request) -> tuple[Rule, ...]:
        """The request's rules, whose targets are there.  Raises CommandFailed."""
        for target in (rule.target for rule in request.rules if rule.target and rule.target.name not in TARGETS):
            if target.name not in self.chains:
                raise CommandFailed(f"Chain '{target.name}' does not exist", PARAMETER)
        self.known(request.taken[0])
        if "verbose" in request.flags:
            self.said += [echoed(rule, self.family) for rule in request.rules]
        return request.rules

    def accepted(self, request: Request) -> None:
        """Raises CommandFailed for rules that the kernel refuses to take."""
        if request.refused:
            raise request.refused
        for target in (rule.target for rule in request.rules if rule.target and rule.target.name in self.chains):
            if self.chains[target.name].policy is not None:
                raise CommandFailed(f"RULE_APPEND failed (Operation not supported): rule in chain {request.chain}; {target.name} is a "
                                    "built-in chain, and rules jump to chains of one's own only", RESOURCE)


def interleaved(old: Sequence[Rule], mine: Sequence[tuple[Rule, Counts]], family: int) -> Iterable[tuple[Rule, Counts]]:
    """A chain's rules, of which `family` has `mine`, and the other one what it had; each in its order."""
    places = {id(rule): place for place, (rule, _) in enumerate(mine)}
    given = 0
    for rule in old:
        place = places.get(id(rule), -1)
        if place >= given:
            yield from mine[given:place + 1]
            given = place + 1
        elif rule.family != family:
            yield left_for_other(rule, family), None
    yield from mine[given:]


def retargeted(rule: Rule, old: str, new: str, family: int) -> Rule:
    if rule.target is None or rule.target.name != old:
        return rule
    return replace(bound(rule, family), target=replace(rule.target, name=new), origin=ref(rule))


def left_for_other(rule: Rule, family: int) -> Rule:
    """What remains of a rule when `family` no longer has it."""
    return rule if rule.family else bound(rule, OTHER_FAMILY[family])


def bound(rule: Rule, family: int) -> Rule:
    """The rule for one family only."""
    return settled(replace(rule, family=family, origin=ref(rule)), family)
