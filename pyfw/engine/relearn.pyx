# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""TCP connections learn their windows anew, after packets may have passed that nobody judged.

May know: the engine, its table, TCP.  Must not know: why packets passed, sockets, the clock.

Without that a connection in use ends there: each side acknowledges what tracking has not seen, and so neither is believed.
Law: the lock is held for a slice of SLICE_SLOTS entries at a time.
"""
from libc.stdint cimport uint32_t

from pyfw.conntrack.conn cimport CONN_CONFIRMED, Conn
from pyfw.conntrack.tcp cimport tcp_relearn
from pyfw.engine.engine cimport Engine
from pyfw.wire.packet cimport PROTO_TCP

cdef enum:
    SLICE_SLOTS = 512           # below 100 microseconds even where every entry is a cache miss


def relearn_windows(Engine engine not None) -> int:
    """Returns the number of connections that learn anew.  One whose packet comes before is as it was until then."""
    cdef uint32_t slot = 1, count = 0
    with nogil:
        while slot:
            count += relearn_slice(engine, &slot)
    return count


cdef uint32_t relearn_slice(Engine engine, uint32_t *cursor) noexcept nogil:
    """Returns how many of the next slice learn anew; cursor becomes 0 at the end."""
    cdef uint32_t slot = cursor[0], count = 0, end
    cdef Conn *conn
    engine.lock_background()
    end = min(slot + SLICE_SLOTS, engine.tracker.table.header.used + 1)
    while slot < end:
        conn = &engine.tracker.table.conns[slot]
        if conn.status & CONN_CONFIRMED and conn.key.protocol == PROTO_TCP:
            count += tcp_relearn(conn)
        slot += 1
    cursor[0] = slot if slot <= engine.tracker.table.header.used else 0
    engine.unlock()
    return count
