"""Whose socket is at the other end of a TCP connection within this machine: NETLINK_SOCK_DIAG, linux/inet_diag.h."""
from __future__ import annotations

import socket
import struct

NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST = 4, 20, 1
HEADER = struct.Struct("=IHHII")                # struct nlmsghdr
REQUEST = struct.Struct("=BBBxI")               # struct inet_diag_req_v2, up to its id
SOCKET_ID = struct.Struct("!HH16s16s12s")       # struct inet_diag_sockid; its interface is any, its cookie not known
ANY_SOCKET = bytes(4) + b"\xff" * 8
ANSWER = struct.Struct("=BBBB48sIIIII")         # struct inet_diag_msg
ALL_STATES = 0xFFFFFFFF
TIMEOUT_S = 1.0
RECEIVE_BYTES = 4096


class SocketOwners:
    """Asks the network namespace of the thread that made it.  Raises OSError where the kernel cannot be asked."""

    def __init__(self) -> None:
        self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG)
        self._netlink.settimeout(TIMEOUT_S)
        self._asked = 0

    def owner(self, connection: socket.socket) -> int | None:
        """The user id of the peer's socket; None: it is closed already, or the kernel does not tell.  Raises OSError."""
        (host, port, *_), (peer, peer_port, *_) = connection.getsockname(), connection.getpeername()
        family = connection.family
        ends = (socket.inet_pton(family, address) for address in (peer, host))
        body = REQUEST.pack(family, socket.IPPROTO_TCP, 0, ALL_STATES) + SOCKET_ID.pack(peer_port, port, *ends, ANY_SOCKET)
        self._asked += 1
        self._netlink.send(HEADER.pack(HEADER.size + len(body), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, self._asked, 0) + body)
        data = self._netlink.recv(RECEIVE_BYTES)
        while HEADER.unpack_from(data)[3] != self._asked:       # the answer to a question that was given up
            data = self._netlink.recv(RECEIVE_BYTES)
        if HEADER.unpack_from(data)[1] != SOCK_DIAG_BY_FAMILY or len(data) < HEADER.size + ANSWER.size:
            return None
        *_, uid, inode = ANSWER.unpack_from(data, HEADER.size)
        return uid if inode else None           # without an inode no process has it any more, and the kernel says root

    def close(self) -> None:
        self._netlink.close()
