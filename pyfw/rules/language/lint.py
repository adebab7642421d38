"""What is likely a mistake in rules that are valid: warnings, each true.

A warning says where, what, and what to do.  Knows rules, no packet.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pyfw.rules.language.check import MAX_STEPS, chain_targets, longest_way
from pyfw.rules.language.covers import contradicts, covers, states_of
from pyfw.rules.model import Chain, Location, Match, Rule, Ruleset, Table
from pyfw.rules.names import STATES
from pyfw.rules.values import Network

FINAL = {"ACCEPT", "DROP", "REJECT", "RETURN"}      # targets behind which a chain does not go on
RELATED, ESTABLISHED, NEW = (STATES[name] for name in ("RELATED", "ESTABLISHED", "NEW"))
LONG_LIST = 10                  # rules that every packet of an established connection may walk before it is too long
WIDE = 200                      # of a chain's rules that cover more than one address and port: compared with all after them
GUARDED = ("INPUT", "FORWARD")


@dataclass(frozen=True)
class Warning:
    """`name` is what the kind of warning is called."""

    name: str
    message: str
    location: Location | None

    def __str__(self) -> str:
        place = f"{self.location}: " if self.location else ""
        return f"{place}warning: {self.message} [{self.name}]"


def lint(ruleset: Ruleset) -> list[Warning]:
    """In the order of the tables, chains and rules."""
    found: list[Warning] = []
    for table in ruleset.tables:
        reachable = reachable_chains(table)
        for chain in table.chains:
            if chain.name not in reachable:
                location = chain.rules[0].location if chain.rules else None
                found.append(Warning("unreachable-chain", f"no rule leads to chain {chain.name} of table {table.name}; "
                                     f"jump to it with -j {chain.name}, or take it away", location))
            found += lint_chain(table, chain)
        found += too_long_ways(table)
    return found


def too_long_ways(table: Table) -> Iterator[Warning]:
    known: dict[str, int] = {}
    for chain in table.chains:
        if chain.policy is not None and (steps := longest_way(table, chain, known)) > MAX_STEPS and (jumps := chain_targets(chain)):
            yield Warning("rule-steps", f"a packet may meet {steps} rules on its way through {chain.name}, and is dropped (RULE_STEPS) "
                          f"behind the first {MAX_STEPS}; have fewer jumps lead to the same chain", jumps[0].location)


def reachable_chains(table: Table) -> set[str]:
    """The built-in chains, and those that jumps lead to from there."""
    waiting = [chain.name for chain in table.chains if chain.policy is not None]
    reached = set(waiting)
    while waiting:
        for rule in table[waiting.pop()].rules:
            name = rule.enforced.name if rule.enforced else ""
            if table.chain(name) is not None and name not in reached:
                reached.add(name)
                waiting.append(name)
    return reached


def lint_chain(table: Table, chain: Chain) -> Iterator[Warning]:
    yield from never_matching(table, chain)
    for rule in chain.rules:
        yield from address_slips(rule)
        yield from bare_related(table, chain, rule)
    if table.name == "filter" and chain.name in GUARDED:
        yield from accepting_everything(table, chain)
        yield from late_established(chain)


# -- rules that never match ---------------------------------------------------------------------------------------------

def never_matching(table: Table, chain: Chain) -> Iterator[Warning]:
    """Rules behind one that takes all their packets, and rules that contradict themselves.

    A rule is compared with the wide ones before it, and with those that demand exactly what it does: a list of ten thousand
    addresses is looked through in one go.
    """
    deciding: dict[str, bool] = {}
    wide: list[tuple[int, Rule]] = []
    same: dict[object, tuple[int, Rule]] = {}
    for number, rule in enumerate(chain.rules, 1):
        if why := contradicts(rule):
            yield Warning("never-matches", f"rule {number} of {chain.name} never matches: {why}", rule.location)
            continue
        key = (rule.family, frozenset(demands(rule)))
        known = next(((at, earlier) for at, earlier in wide if covers(earlier, rule)), None) or same.get(key)
        if known and covers(known[1], rule):
            yield Warning("never-matches", f"rule {number} of {chain.name} never matches: rule {known[0]} takes all its packets; "
                          f"move it up, or take it away", rule.location)
        elif is_final(table, rule, deciding):
            same.setdefault(key, (number, rule))
            if not is_narrow(rule) and len(wide) < WIDE:
                wide.append((number, rule))


def demands(rule: Rule) -> Iterator[object]:
    return (match for match in rule.matches if match.name != "comment")


def is_narrow(rule: Rule) -> bool:
    """Whether it is about one address: then only a rule about the same one can be behind it."""
    header = rule.match("ip") or Match("ip")
    return any(setting.value.mask.bit_count() == setting.value.bits for setting in header.settings
               if isinstance(setting.value, Network) and not setting.inverted)


def is_final(table: Table, rule: Rule, deciding: dict[str, bool]) -> bool:
    """Whether no packet that the rule matches goes on to the next one; `deciding` keeps decides_all() of chains."""
    if rule.enforced is None:
        return False
    if rule.enforced.name in FINAL or rule.enforced.goto:
        return True
    chain = table.chain(rule.enforced.name)
    if chain is not None and chain.name not in deciding:
        deciding[chain.name] = decides_all(chain)
    return chain is not None and deciding[chain.name]


def decides_all(chain: Chain) -> bool:
    """Whether the chain decides every packet that enters it: it has no RETURN, and a rule that decides all."""
    if any(rule.enforced is not None and rule.enforced.name == "RETURN" for rule in chain.rules):
        return False
    return any(rule.enforced is not None and not any(True for _ in demands(rule)) and rule.family is None
               and rule.enforced.name in FINAL - {"RETURN"} for rule in chain.rules)


# -- addresses ------------------------------------------------------------------------------------------------------------

def address_slips(rule: Rule) -> Iterator[Warning]:
    for match in rule.matches:
        for setting in match.settings:
            if isinstance(setting.value, Network) and setting.value.written:
                network, written = setting.value, setting.value.written
                host = written.partition("/")[0]
                yield Warning("host-bits", f"{written} means the network {network}; write that, or {host} for the one host",
                              rule.location)


# -- what lets too much through -------------------------------------------------------------------------------------------

def bare_related(table: Table, chain: Chain, rule: Rule) -> Iterator[Warning]:
    """ACCEPT for RELATED and neither a protocol nor a helper."""
    if chain.name != "FORWARD" or rule.enforced is None or rule.enforced.name != "ACCEPT" or rule.match("helper"):
        return
    states = [found for match in rule.matches if (found := states_of(match)) is not None]
    header = rule.match("ip")
    if states and states[0] & RELATED and not states[0] & NEW and not (header and header.get("-p")):
        yield Warning("bare-related", "RELATED without -p or -m helper lets in whatever any helper expects, on every port; say "
                      "-p icmp for errors, and -p tcp --dport 1024: -m helper --helper ftp for FTP's data", rule.location)


def accepting_everything(table: Table, chain: Chain) -> Iterator[Warning]:
    for number, rule in enumerate(chain.rules, 1):
        if rule.enforced is not None and rule.enforced.name == "ACCEPT" and not any(True for _ in demands(rule)) and rule.family is None:
            yield Warning("accepts-all", f"rule {number} of {chain.name} accepts everything that comes to it; "
                          f"say which packets it is for", rule.location)
    if chain.policy == "ACCEPT" and chain.rules and not drops_some(table, chain):
        yield Warning("accepts-all", f"chain {chain.name} accepts everything: its policy is ACCEPT and none of its rules drops; "
                      f"write -P {chain.name} DROP", chain.rules[0].location)


def drops_some(table: Table, chain: Chain) -> bool:
    """Whether a rule drops, of the chain or of one that it leads to."""
    seen, waiting = {chain.name}, [chain]
    while waiting:
        for rule in waiting.pop().rules:
            name = rule.enforced.name if rule.enforced else ""
            if name in ("DROP", "REJECT"):
                return True
            if (inner := table.chain(name)) and name not in seen:
                seen.add(name)
                waiting.append(inner)
    return False


def late_established(chain: Chain) -> Iterator[Warning]:
    """Each packet of every connection walks what stands before the rule that accepts ESTABLISHED."""
    for number, rule in enumerate(chain.rules):
        states = [found for match in rule.matches if (found := states_of(match)) is not None]
        if rule.enforced is not None and rule.enforced.name == "ACCEPT" and states and states[0] & ESTABLISHED:
            before = [earlier for earlier in chain.rules[:number] if not concerns_established(earlier)]
            if len(before) >= LONG_LIST:
                yield Warning("late-established", f"{len(before)} rules about other packets stand before the one that accepts "
                              f"ESTABLISHED in {chain.name}, and every packet walks them; move it up", rule.location)
            return


def concerns_established(rule: Rule) -> bool:
    """Whether moving the ESTABLISHED rule before this one would change anything for such packets: it drops or logs them."""
    states = [found for match in rule.matches if (found := states_of(match)) is not None]
    about = not states or bool(states[0] & ESTABLISHED)
    return about and (rule.enforced is None or rule.enforced.name != "ACCEPT")
