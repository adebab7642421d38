"""The walk over the connection table while packets go on."""
from libc.stdint cimport uint32_t, uint64_t
from pyfw.conntrack.conn cimport Conn
from pyfw.conntrack.table cimport Table
from pyfw.engine.engine cimport Engine

cdef enum:
    SLICE_SLOTS = 512           # below 100 microseconds even where every entry is a cache miss

cdef class Walk:
    cdef Engine engine
    cdef Table table            # the engine's
    cdef uint64_t now_ns

    # Meets the connections in the next `slots` slots, from `slot` (at first 1) on; returns where to go on, 0 at the end.
    cdef uint32_t go(self, uint32_t slot, uint32_t slots) noexcept nogil
    # With the lock held, of a connection that has not expired by now_ns; it may be removed.
    cdef void meet(self, uint32_t slot, Conn *conn) noexcept nogil
