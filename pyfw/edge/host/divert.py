"""Kernel rules that divert packets to the queue, in chains of pyfw's own.

In iptables and in ip6tables:

    INPUT, FORWARD, OUTPUT -> PYFW-INPUT, PYFW-FORWARD, PYFW-OUTPUT     one jump each, for the configured hooks
    PYFW-*      RETURN what crosses an exempt interface, and in OUTPUT two kinds of answers; the rest to NFQUEUE
                    those that pyfw itself makes for REJECT: they bear its mark, all 32 bits of it, and are RSTs or ICMP errors
                    ICMP errors that the kernel makes: no user owns their socket
    PYFW-DEFRAG has the kernel put fragments together before the hooks see them

NFQUEUE's accept leaves the table's chain: rules of the same hook and table behind the jump never meet the packet.  So
FORWARD and OUTPUT jump from the table `security`, behind mangle, filter and OUTPUT's DNAT, and else from the end of mangle.
Connections that OUTPUT's DNAT has led elsewhere are seen as they are on the wire, both ways.

A kernel with nat rules drops a queued packet that shares an unconfirmed connection with another.  Its own errors about a
first packet do, so no error of its own is queued.  Every socket that a user can have has an owner.

To lead a hook from one table into the other, the new jump is made before the old one goes: for these milliseconds a packet
is judged twice, and none passes by.

The `socket` match turns defragmentation on in the namespace for as long as a rule with it exists.  No packet need
ever meet that rule: nothing jumps to PYFW-DEFRAG.

All of a family's rules change in one transaction of iptables-restore.  Base chains are never taken away: the kernel
drops every queued packet of the namespace when one goes.  A change that fails leaves what was there before: without
a daemon that is closed, and with one it works on.
"""
from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pyfw.edge.host.iptables import (
    ATTEMPTS,
    EARLY,
    DivertError,
    Family,
    current_families,
    ip_versions,
    other_families,
    time_limit,
)
from pyfw.edge.host.iptables_rules import (
    DEFRAG_CHAIN,
    HOOKS,
    Rules,
    SavedTable,
    chain_of,
    installation,
    is_printed_form,
    jump_put_first,
    removal,
    restoration,
)

INSTALL_S = 30.0                # that it may take, and as long again to undo what has failed
DEFRAG_RULE = "-p 253 -m socket -j RETURN"      # a protocol number for experiments (RFC 3692)
LOOPBACK = "lo"
TO_ITSELF = {4: ("LOCAL,BROADCAST,MULTICAST",), 6: ("LOCAL,ANYCAST", "MULTICAST")}      # of what leaves on lo; DNAT may have changed it
ANSWERS = {4: ("-p tcp -m tcp --tcp-flags RST RST", "-p icmp -m icmp --icmp-type 3"),       # as REJECT sends them
           6: ("-p tcp -m tcp --tcp-flags RST RST", "-p ipv6-icmp -m icmp6 --icmpv6-type 1")}

ERRORS = {4: [f"-p icmp -m icmp --icmp-type {kind}" for kind in (3, 5, 11, 12)],
          6: [f"-p ipv6-icmp -m icmp6 --icmpv6-type {kind}" for kind in (1, 2, 3, 4)]}


@dataclass(frozen=True)
class Diversion:
    """What is diverted, in the calling thread's network namespace.

    hooks       of INPUT, FORWARD, OUTPUT
    exempt      interfaces whose packets are left alone
    bypass      without a daemon packets pass (when_down: accept); else the kernel drops them
    mark        fwmark of pyfw's own answers; None: it sends none
    """

    queue: int
    hooks: Sequence[str] = HOOKS
    exempt: Sequence[str] = ("lo",)
    bypass: bool = False
    mark: int | None = None

    def __post_init__(self) -> None:
        unknown = [hook for hook in self.hooks if hook not in HOOKS]
        if unknown:
            raise ValueError(f"hook {unknown[0]!r} cannot be diverted: choose from {', '.join(HOOKS)}")
        for name in self.exempt:
            if not re.fullmatch(r"[^\s/]{1,15}", name):
                raise ValueError(f"{name!r} cannot be an interface's name")

    def install(self) -> Installed:
        """Install the rules, whatever a predecessor left; changes nothing else.

        Raises DivertError; then the rules are as they were before, unless it says otherwise.
        """
        with time_limit(INSTALL_S):
            before = _tables()
            try:
                return self._put_in_place(before)
            except DivertError as error:
                try:
                    _put_back(before)       # which has a time of its own
                except DivertError as second:
                    raise DivertError(f"{error}; what was there before could not be put back: {second}") from error
                raise

    def repair(self) -> Installed:
        """As install(), but whatever could be put right stays so.  Nothing is tried twice."""
        return self._put_in_place(_tables(attempts=1))

    def install_unseen(self) -> None:
        """Put the jumps first and fill the chains, whatever is there: for when that cannot be read.  Raises DivertError.

        However often this is done, it adds one jump at most.
        """
        _try_all(current_families(1), self._install_unseen)

    @staticmethod
    def remove() -> None:
        """Remove the rules, as far as they are there, from iptables' both backends.  Raises DivertError."""
        families = current_families()
        _change_all((*families, *_stale(families)), lambda family: removal(family.saved()))

    def chains(self, family: Family) -> dict[str, list[str]]:
        """pyfw's chains in that table, as they are to be."""
        defrag = {DEFRAG_CHAIN: [DEFRAG_RULE]} if family.table == EARLY else {}
        return defrag | {chain_of(hook): self._rules(hook, family.version) for hook in self._hooks(family)}

    def _hooks(self, family: Family) -> list[str]:
        return [hook for hook in family.hooks if hook in self.hooks]

    def _rules(self, hook: str, version: int) -> list[str]:
        rules = []
        if hook == "OUTPUT":
            rules = [f"{error} -m owner ! --uid-owner {_all_users()} -j RETURN" for error in ERRORS[version]]
        if hook == "OUTPUT" and self.mark is not None:
            rules += [f"{answer} -m mark --mark {self.mark:#x} -j RETURN" for answer in ANSWERS[version]]
        for interface in self.exempt:
            if hook == "INPUT" or (hook == "FORWARD" and interface != LOOPBACK):
                rules.append(f"-i {interface} -j RETURN")
            if hook == "OUTPUT" and interface == LOOPBACK:
                rules += [f"-o {interface} -m addrtype --dst-type {types} -j RETURN" for types in TO_ITSELF[version]]
            elif hook in ("OUTPUT", "FORWARD") and interface != LOOPBACK:
                rules.append(f"-o {interface} -j RETURN")
        bypass = " --queue-bypass" if self.bypass else ""
        return [*rules, f"-j NFQUEUE --queue-num {self.queue}{bypass}"]

    def _put_in_place(self, before: Mapping[Family, SavedTable]) -> Installed:
        """Where one IP version's rules cannot be installed, the other's are.  Another backend's go last."""
        rules: dict[Family, Rules] = {}
        failures = []
        for family, saved in before.items():
            if family.is_chosen:
                try:
                    rules[family] = self._install(family, saved)
                except DivertError as error:
                    failures.append(error)
        if failures:
            raise failures[0]
        for family, saved in before.items():
            if not family.is_chosen:
                family.restore(removal(saved))
        return Installed(self.hooks, rules, before)

    def _install_unseen(self, family: Family) -> None:
        family.restore(installation(SavedTable.empty(family.table), self.chains(family), ()))
        for hook in self._hooks(family):
            try:
                family.restore(jump_put_first(family.table, hook, is_there=True))
            except DivertError:
                family.restore(jump_put_first(family.table, hook, is_there=False))

    def _install(self, family: Family, saved: SavedTable) -> Rules:
        """Returns the chains as iptables-save prints them."""
        wanted, hooks = self.chains(family), self._hooks(family)
        for _ in range(family.attempts):        # another program may change the rules in the very same moment
            family.restore(installation(saved, wanted, hooks))
            saved = family.saved()
            faults = saved.faults(saved.own, hooks)
            if not faults and is_printed_form(saved.own, wanted):
                return saved.own
        raise DivertError(f"{family.restore_program} did not fail, but {', '.join(faults) or 'other rules are there'}")


@dataclass(frozen=True)
class Installed:
    """A diversion that was installed, and what had been there before."""

    hooks: Sequence[str]
    rules: Mapping[Family, Rules]
    before: Mapping[Family, SavedTable]

    @property
    def legacy_tables(self) -> list[tuple[int, str]]:
        """IP version and table of the rules that are iptables-legacy's."""
        return self._tables("legacy")

    @property
    def nft_tables(self) -> list[tuple[int, str]]:
        """The same of nf_tables' rules."""
        return self._tables("nft")

    def _tables(self, backend: str) -> list[tuple[int, str]]:
        return [(family.version, family.table) for family in self.rules if family.backend == backend]

    def __str__(self) -> str:
        """The hooks, each with its table; with both where the IP versions differ."""
        tables = {hook: dict.fromkeys(family.table for family in self.rules if hook in family.hooks) for hook in self.hooks}
        return ", ".join(f"{hook} ({'/'.join(tables[hook])})" for hook in self.hooks)

    def faults_before(self) -> bool:
        """Whether something was not in place, so that packets may have passed by."""
        return any(family not in self.before or self.before[family].faults(rules, family.hooks) for family, rules in self.rules.items())

    def faults(self) -> list[str]:
        """What differs now, in words.  Raises DivertError when that cannot be seen."""
        if {family.version for family in self.rules} != set(ip_versions()):
            return ["there was no diversion of IPv6"]
        versions: dict[str, list[str]] = {}
        for family, rules in self.rules.items():
            for fault in family.saved().faults(rules, family.hooks):
                versions.setdefault(fault, []).append(f"IPv{family.version}")
        return [f"{fault} ({' and '.join(where)})" for fault, where in versions.items()]

    def roll_back(self) -> None:
        """Let everything be as it was before.  Raises DivertError."""
        _put_back(self.before)


def _all_users() -> str:
    """The ids of all users that there can be here: a user namespace may have fewer."""
    ranges = [(int(first), int(count)) for first, _, count in map(str.split, Path("/proc/self/uid_map").read_text().splitlines())]
    return f"{min(first for first, _ in ranges)}-{max(first + count for first, count in ranges) - 1}"


def _tables(attempts: int = ATTEMPTS) -> dict[Family, SavedTable]:
    """What there is, of the chosen backend; then, of the other, where pyfw's chains are in it."""
    families = current_families(attempts)
    return {family: family.saved() for family in families} | _stale(families)


def _stale(families: Sequence[Family]) -> dict[Family, SavedTable]:
    """Where rules of pyfw's are in the backend that is not chosen: each packet would be judged twice."""
    found = {}
    for family in other_families(families):
        with suppress(DivertError):     # what cannot be read there was not made by iptables
            if (saved := family.saved()).own:
                found[family] = saved
    return found


def _put_back(before: Mapping[Family, SavedTable]) -> None:
    """What another backend had comes first: so nothing is open in between."""
    with time_limit(INSTALL_S):
        _change_all(reversed(list(before)), lambda family: restoration(family.saved(), before[family]))


def _change_all(families: Iterable[Family], transaction: Callable[[Family], str]) -> None:
    """Raises the first DivertError, after having tried all."""
    _try_all(families, lambda family: family.restore(transaction(family)))


def _try_all(families: Iterable[Family], change: Callable[[Family], None]) -> None:
    """As _change_all()."""
    failures = []
    for family in families:
        try:
            change(family)
        except DivertError as error:
            failures.append(error)
    if failures:
        raise failures[0]
