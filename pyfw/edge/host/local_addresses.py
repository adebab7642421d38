"""The machine's own addresses, and others that its local routing table has a type for, kept current.

May know: rtnetlink.  Must not know: who asks for types.
"""
from __future__ import annotations

import socket
from collections.abc import Iterator

from pyroute2 import IPRoute
from pyroute2.netlink.rtnl import RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE

from pyfw.rules.xt.addrtype import Route

LOCAL_TABLE = 255               # RT_TABLE_LOCAL
GROUPS = RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE
RECEIVE_BYTES = 1 << 16


class AddressAlarm:
    """A socket that becomes readable when an address or a route of the calling thread's network namespace changes."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.bind((0, GROUPS))
        self._socket.setblocking(False)

    def fileno(self) -> int:
        return self._socket.fileno()

    def clear(self) -> None:
        """Forget what has been announced so far."""
        while True:
            try:
                self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                return
            except OSError:             # announcements were lost: something changed, which is all that counts
                continue

    def close(self) -> None:
        self._socket.close()


def read_routes() -> list[Route]:
    """The local table's routes, of both families."""
    with IPRoute() as netlink:
        names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in netlink.get_links()}
        return list(_routes(netlink, names))


def _routes(netlink: IPRoute, names: dict[int, str]) -> Iterator[Route]:
    for family in (socket.AF_INET, socket.AF_INET6):
        for message in netlink.get_routes(family=family, table=LOCAL_TABLE):
            address = message.get_attr("RTA_DST")
            if address is not None:
                yield Route(socket.inet_pton(family, address), message["dst_len"], message["type"],
                            names.get(message.get_attr("RTA_OIF"), ""))
