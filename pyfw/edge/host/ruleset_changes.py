"""Whether the kernel's packet rules may have changed, told without reading them.

nf_tables numbers the states of a network namespace's rules, and announces each change (group NFNLGRP_NFTABLES of
nfnetlink).  iptables-legacy's tables have neither: of them the kernel copies out the whole table.

May know: nfnetlink, and the socket options of ip_tables.  Must not know: what the rules are.
"""
from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable

from pyfw.edge.host.legacy_tables import table_digest

NETLINK_NETFILTER = 12
NFNLGRP_NFTABLES = 7                    # linux/netfilter/nfnetlink.h
NFNL_SUBSYS_NFTABLES = 10
NFT_MSG_NEWTABLE, NFT_MSG_GETTABLE = 0, 1     # linux/netfilter/nf_tables.h
NFT_MSG_NEWGEN, NFT_MSG_GETGEN = 15, 16
NFTA_GEN_ID = 1
NFTA_TABLE_NAME, NFTA_TABLE_FLAGS = 1, 2
NFT_TABLE_F_DORMANT = 1
NLM_F_REQUEST = 1
HEADERS = struct.Struct("=IHHIIBBH")    # nlmsghdr, nfgenmsg
ATTRIBUTE = struct.Struct("=HH")
RECEIVE_BYTES = 1 << 16
TIMEOUT_S = 1.0


class RulesetChanges:
    """Of the calling thread's network namespace.  Raises OSError without CAP_NET_ADMIN."""

    def __init__(self) -> None:
        self._events = _socket(1 << NFNLGRP_NFTABLES - 1)
        self._events.setblocking(False)
        self._questions = _socket(0)
        self._questions.settimeout(TIMEOUT_S)
        self._sequence = 0
        # If this kernel has no nf_tables, it is asked this once: each question would make it look for the module.
        self._has_nftables = self._generation() is not None

    def fileno(self) -> int:
        """Readable when nf_tables' rules have changed."""
        return self._events.fileno()

    def clear(self) -> None:
        """Forget what has been announced so far."""
        while True:
            try:
                self._events.recv(RECEIVE_BYTES)
            except BlockingIOError:
                return
            except OSError as error:    # announcements were lost: something changed, which is all that counts
                if error.errno != errno.ENOBUFS:
                    raise

    def state(self, legacy_tables: Iterable[tuple[int, str]]) -> tuple[object, ...]:
        """Equal to what was returned before as long as no rule has changed; of these legacy tables' IP versions, too."""
        generation = self._generation() if self._has_nftables else None
        return generation, *(table_digest(version, table.encode()) for version, table in legacy_tables)

    def is_dormant(self, version: int, table: str) -> bool:
        """Whether nf_tables' table is there and its hooks are off (`nft add table ip mangle { flags dormant; }`)."""
        if not self._has_nftables:
            return False
        name = table.encode() + b"\0"
        padding = bytes(-len(name) % 4)
        answer = self._ask(NFT_MSG_GETTABLE, NFT_MSG_NEWTABLE, socket.AF_INET6 if version == 6 else socket.AF_INET,
                           ATTRIBUTE.pack(ATTRIBUTE.size + len(name), NFTA_TABLE_NAME) + name + padding)
        return answer is not None and bool((_attribute(answer, NFTA_TABLE_FLAGS) or 0) & NFT_TABLE_F_DORMANT)

    def _generation(self) -> int | None:
        answer = self._ask(NFT_MSG_GETGEN, NFT_MSG_NEWGEN)
        return None if answer is None else _attribute(answer, NFTA_GEN_ID)

    def _ask(self, question: int, wanted: int, family: int = socket.AF_UNSPEC, attributes: bytes = b"") -> bytes | None:
        """The kernel's answer of the wanted kind; None: it has another."""
        self._sequence += 1
        self._questions.send(HEADERS.pack(HEADERS.size + len(attributes), NFNL_SUBSYS_NFTABLES << 8 | question, NLM_F_REQUEST,
                                          self._sequence, 0, family, 0, 0) + attributes)
        while True:
            answer = self._questions.recv(RECEIVE_BYTES)
            _, kind, _, sequence, *_ = HEADERS.unpack_from(answer)
            if sequence == self._sequence:
                return answer if kind == NFNL_SUBSYS_NFTABLES << 8 | wanted else None


def _attribute(message: bytes, wanted: int) -> int | None:
    offset = HEADERS.size
    while offset + ATTRIBUTE.size <= len(message):
        length, kind = ATTRIBUTE.unpack_from(message, offset)
        if kind == wanted:
            return int.from_bytes(message[offset + ATTRIBUTE.size:offset + length])
        offset += max(length + 3 & ~3, ATTRIBUTE.size)
    return None


def _socket(groups: int) -> socket.socket:
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
    netlink.bind((0, groups))
    return netlink
