"""Who is at the other end of a connection, and what users other than root may take of a server.

    connections     as many as there is Room for: root's, those of others together, and of each of them
    time            others have one step of work at a time, each user in turn, and together at most half of the thread

One more connection, and one makes room: of root's, if root comes; else of the user's own, if that has too many; else of the
user's that has most.  It is the one whose peer has let us wait longest.
"""
from __future__ import annotations

import asyncio
import os
import pwd
import socket
import struct
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import NamedTuple, Protocol, TypeVar

REST_S = 0.005                  # others' steps take so long before a rest as long as they
PEER_CREDENTIALS = struct.Struct("3i")      # struct ucred: pid, uid, gid
SO_PEERGROUPS = 59
MAX_GROUPS_BYTES = 1024         # that socket.getsockopt() takes


class Room(NamedTuple):
    """How many connections there may be: root's, those of others together, those of one of these."""

    root: int
    others: int
    user: int


class Peer(NamedTuple):
    """Who is at the other end, as the kernel says; uid -1: it does not say; groups None: they are too many for it to say."""

    uid: int
    gid: int = -1
    groups: frozenset[int] | None = frozenset()

    @classmethod
    def of(cls, connection: socket.socket) -> Peer:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER_CREDENTIALS.size)
        _, uid, gid = PEER_CREDENTIALS.unpack(credentials)
        return cls(uid, gid, frozenset() if _is_root(uid) else _groups(connection))

    @property
    def is_root(self) -> bool:
        """Root, or the user that the daemon runs as."""
        return _is_root(self.uid)

    def belongs_to(self, group_id: int | None) -> bool | None:
        """None: the user database must be asked, by groups_of()."""
        if group_id is None or self.gid == group_id:
            return group_id is not None
        return None if self.groups is None else group_id in self.groups


def _is_root(uid: int) -> bool:
    return uid in (0, os.geteuid())


def _groups(connection: socket.socket) -> frozenset[int] | None:
    """Those that the peer's process had."""
    try:
        data = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, MAX_GROUPS_BYTES)
        return frozenset(struct.unpack(f"{len(data) // 4}I", data))
    except OSError:
        return None


def groups_of(uid: int) -> frozenset[int]:
    """As the user database has them, which may be elsewhere and slow.  Not in the main thread."""
    try:
        user = pwd.getpwuid(uid)
        return frozenset(os.getgrouplist(user.pw_name, user.pw_gid))
    except (KeyError, OSError):
        return frozenset()


class Connected(Protocol):
    """What is known of a connection when one must make room."""

    peer: Peer
    waiting_since: float        # when we last began to wait for the peer


C = TypeVar("C", bound=Connected)


def who_makes_room(connections: Iterable[C], newcomer: Peer, room: Room) -> C | None:
    """The connection that must go before the newcomer's is served; None: there is room."""
    ours: list[C] = []
    others: list[C] = []
    for connection in connections:
        (ours if connection.peer.is_root else others).append(connection)
    if newcomer.is_root:
        return _idlest(ours) if len(ours) >= room.root else None
    own = [connection for connection in others if connection.peer.uid == newcomer.uid]
    if len(own) >= room.user:
        return _idlest(own)
    return whose_is_least_missed(others) if len(others) >= room.others else None


def whose_is_least_missed(connections: Iterable[C]) -> C | None:
    """Of the connections of others than root, one of the user's that has most; None: there are none."""
    by_user: dict[int, list[C]] = {}
    for connection in connections:
        if not connection.peer.is_root:
            by_user.setdefault(connection.peer.uid, []).append(connection)
    if not by_user:
        return None
    most = max(by_user.values(), key=len)
    return _idlest(most)


def _idlest(connections: Iterable[C]) -> C:
    return min(connections, key=lambda connection: connection.waiting_since)


class Turns:
    """When a step of a command may be done.  Root's are not held up."""

    def __init__(self) -> None:
        self._step = asyncio.Lock()
        self._users: dict[int, asyncio.Lock] = {}
        self._owed_s = 0.0

    @asynccontextmanager
    async def step(self, peer: Peer) -> AsyncIterator[None]:
        if peer.is_root:
            yield
            return
        async with self._users.setdefault(peer.uid, asyncio.Lock()), self._step:
            began_s = time.monotonic()
            try:
                yield
            finally:
                self._owed_s += time.monotonic() - began_s
            if self._owed_s >= REST_S:
                rest_s, self._owed_s = self._owed_s, 0.0
                await asyncio.sleep(rest_s)

    def forget(self, uid: int) -> None:
        """The user's last connection has gone."""
        self._users.pop(uid, None)
