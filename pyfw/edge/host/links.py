"""Interface names by index, kept current by the kernel's own announcements.

May know: rtnetlink.  Must not know: who wants the names.
"""
from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pyroute2.netlink import NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR
from pyroute2.netlink.rtnl import RTM_DELLINK, RTM_GETLINK, RTM_NEWLINK, RTMGRP_LINK
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

AF_BRIDGE = 7               # these tell of bridge ports: a port that leaves its bridge is not an interface that goes
RECEIVE_BYTES = 1 << 16     # the kernel's largest piece of a dump is 32 KiB
TIMEOUT_S = 5.0

LinkNames = Mapping[int, str]


class Links:
    """{index: name} of the network namespace of the thread that made it.

    For an event loop: call read() whenever fileno() is readable.  `on_change` is called with the new names, from
    within read(), when one was added, renamed or removed.
    """

    def __init__(self, on_change: Callable[[LinkNames], None] | None = None) -> None:
        self._on_change = on_change
        self._marshal = MarshalRtnl()
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.bind((0, RTMGRP_LINK))
        self._names: dict[int, str] = {}
        self._dump()

    @property
    def names(self) -> LinkNames:
        return dict(self._names)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Links:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def read(self) -> None:
        """Take in all announcements that are waiting.  Where some were lost, ask for everything anew."""
        before = dict(self._names)
        try:
            for message in self._receive_waiting():
                self._apply(message)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            self._dump()
        if self._on_change is not None and self._names != before:
            self._on_change(self.names)

    def _receive_waiting(self) -> Iterator[Any]:
        while True:
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                return
            yield from self._marshal.parse(data)

    def _dump(self) -> None:
        """Replace all names by what the kernel lists, again if an interface changed meanwhile."""
        self._socket.settimeout(TIMEOUT_S)
        while not self._dump_once():
            pass
        self._socket.setblocking(False)

    def _dump_once(self) -> bool:
        request = struct.pack("=IHHII B15x", 32, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 1, 0, socket.AF_UNSPEC)
        self._socket.send(request)
        self._names.clear()
        consistent = True
        while True:
            for message in self._marshal.parse(self._socket.recv(RECEIVE_BYTES)):
                header = message["header"]
                if header["type"] == NLMSG_ERROR:
                    raise OSError(errno.EIO, f"the kernel does not list its interfaces: {os.strerror(header['error'].code)}")
                consistent &= not header["flags"] & NLM_F_DUMP_INTR
                if header["type"] == NLMSG_DONE:
                    return consistent
                self._apply(message)

    def _apply(self, message: Any) -> None:
        kind = message["header"]["type"]
        if kind not in (RTM_NEWLINK, RTM_DELLINK) or message["family"] == AF_BRIDGE:
            return
        if kind == RTM_DELLINK:
            self._names.pop(message["index"], None)
        elif (name := message.get_attr("IFLA_IFNAME")) is not None:
            self._names[message["index"]] = name if isinstance(name, str) else os.fsdecode(name)     # bytes: not UTF-8
