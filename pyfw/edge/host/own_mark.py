"""The mark of the packets that pyfw itself makes: 32 bits at random, which no routing rule takes for one of its own.

May know: rtnetlink.
"""
from __future__ import annotations

import os
import socket
from collections.abc import Iterable

from pyfw.edge.host.owner_lock import DiversionOwner

ALL_BITS = 0xFFFFFFFF
ATTEMPTS = 10_000               # where routing rules take nearly all marks


def own_mark(configured: int | None, owner: DiversionOwner | None) -> int:
    """The configured one, or the one that the installed rules exempt, or a new one."""
    mark = configured or (owner.mark if owner is not None else None)
    if mark is None:
        mark = draw_mark(marks_of_routing())
        if owner is not None:
            owner.remember_mark(mark)
    return mark


def draw_mark(taken: Iterable[tuple[int, int]]) -> int:
    """Not 0, and none that a (mark, mask) of `taken` fits, if such a one is found."""
    taken = list(taken)
    for _ in range(ATTEMPTS):
        mark = int.from_bytes(os.urandom(4)) or ALL_BITS
        if not any(mark & mask == value for value, mask in taken):
            break
    return mark


def marks_of_routing() -> list[tuple[int, int]]:
    """The (mark, mask) of each routing rule that asks for a mark (`ip rule add fwmark`), of both families."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError
    try:
        with IPRoute() as netlink:
            rules = [rule for family in (socket.AF_INET, socket.AF_INET6) for rule in netlink.get_rules(family=family)]
    except (OSError, NetlinkError):     # a kernel without such rules
        return []
    return [(mark, mask) for rule in rules
            if (mark := rule.get_attr("FRA_FWMARK")) is not None and (mask := rule.get_attr("FRA_FWMASK")) is not None]
