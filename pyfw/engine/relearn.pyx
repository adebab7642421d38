# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""TCP connections learn their windows anew, after packets may have passed unjudged.

May know: the engine, its table, TCP.  Must not know: why packets passed, sockets, the clock.

Without that a connection in use ends there: each side acknowledges what tracking has not seen, so tracking accepts neither's segments.
"""
from libc.stdint cimport uint32_t

from pyfw.conntrack.conn cimport Conn
from pyfw.conntrack.tcp cimport tcp_relearn
from pyfw.engine.engine cimport Engine
from pyfw.engine.walk cimport SLICE_SLOTS, Walk
from pyfw.wire.packet cimport PROTO_TCP


cdef class Relearning(Walk):
    cdef uint32_t count

    cdef void meet(self, uint32_t slot, Conn *conn) noexcept nogil:
        if conn.key.protocol == PROTO_TCP:
            self.count += tcp_relearn(conn)


def relearn_windows(Engine engine not None) -> int:
    """Returns the number of connections that learn anew.  One whose packet comes before is as it was until then."""
    cdef Relearning walk = Relearning(engine)
    cdef uint32_t slot = 1
    with nogil:
        while slot:
            slot = walk.go(slot, SLICE_SLOTS)
    return walk.count
