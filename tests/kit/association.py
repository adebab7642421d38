"""An SCTP association, spoken chunk by chunk."""
from __future__ import annotations

import struct

from kit.packets import CLIENT, SERVER, chunk, sctp
from kit.traffic import Watch

DATA, INIT, INIT_ACK, HEARTBEAT, HEARTBEAT_ACK, ABORT, SHUTDOWN, SHUTDOWN_ACK, ERROR, COOKIE_ECHO, COOKIE_ACK = (
    0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11)
SHUTDOWN_COMPLETE = 14
T_FLAG = 1                      # the tag is reflected: the sender has no association
OF_CLIENT, OF_SERVER = 0xC11E, 0x5E17


def init(type: int, tag: int) -> bytes:
    return chunk(type, struct.pack("!IIHHI", tag, 65535, 1, 1, 1))


class Association:
    """Both ends of an association; a chunk type, or the whole chunk, may be said."""

    def __init__(self, watch: Watch):
        self.watch = watch

    def client(self, *chunks: int | bytes, tag: int = OF_SERVER):
        return self.watch.send(sctp(CLIENT, SERVER, 3868, 3868, tag, *map(whole, chunks)))

    def server(self, *chunks: int | bytes, tag: int = OF_CLIENT):
        return self.watch.send(sctp(SERVER, CLIENT, 3868, 3868, tag, *map(whole, chunks)))

    def open(self) -> Association:
        self.client(init(INIT, OF_CLIENT), tag=0)
        self.server(init(INIT_ACK, OF_SERVER))
        self.client(COOKIE_ECHO)
        self.server(COOKIE_ACK)
        return self

    @property
    def entry(self) -> tuple[str, float, bool]:
        record = self.watch.only()
        return record["state"], record["timeout"], record["assured"]


def whole(said: int | bytes) -> bytes:
    return said if isinstance(said, bytes) else chunk(said)
