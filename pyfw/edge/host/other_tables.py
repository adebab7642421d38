"""Hands the tables that are not pyfw's to the kernel's own iptables-restore.

A table's new rules replace all that is in it but pyfw's diversion, in one transaction and chain by chain: base chains are never
taken away, since the kernel drops every queued packet of the namespace when one goes.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pyfw.edge.host.iptables import current_families, time_limit

HAND_OVER_S = 30.0
PREFIX = "PYFW-"
Tables = Mapping[int, Mapping[str, Sequence[str]]]
"""By family, 4 or 6, and name: the lines of `iptables-save -t NAME` without its first and its last."""


def hand_over(tables: Tables, keep: bool = False) -> None:
    """keep: what is in them stays.  Raises DivertError; then a table is as it was."""
    with time_limit(HAND_OVER_S):
        for family in {family.version: family for family in current_families()}.values() if tables else ():
            for name, lines in tables.get(family.version, {}).items():
                text = [f"*{name}", *lines, "COMMIT"] if keep else replacement(name, lines, family.printed(name).splitlines())
                family.restore("\n".join([*text, ""]))


def replacement(name: str, lines: Sequence[str], before: Sequence[str]) -> Iterable[str]:
    """What makes a table that is as `before` hold `lines`, for iptables-restore --noflush."""
    had = [line[1:].split()[:2] for line in before if line.startswith(":")]
    declared = {line[1:].split()[0] for line in lines if line.startswith(":")}
    yield f"*{name}"
    yield from (f":{chain} {policy if policy == '-' else 'ACCEPT'}" for chain, policy in had
                if chain not in declared and not chain.startswith(PREFIX))
    yield from (line for line in lines if line.startswith(":"))
    yield from (f"-F {chain}" for chain, policy in had if policy != "-")
    yield from (line for line in before if line.startswith("-A ") and f" -j {PREFIX}" in line and not line.startswith(f"-A {PREFIX}"))
    yield from (line for line in lines if not line.startswith(":"))
    yield from (f"-X {chain}" for chain, policy in had if policy == "-" and chain not in declared and not chain.startswith(PREFIX))
    yield "COMMIT"
