# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The walk over the connection table while packets go on: what reads all connections extends Walk.

May know: the engine's lock, its table.  Must not know: what is done with a connection.

Law: the lock is held for one slice at a time, however large the table.  A walk is no snapshot: a connection that comes or goes
meanwhile is met or not, but none is met torn or twice.
"""
from pyfw.conntrack.conn cimport CONN_CONFIRMED, Conn


cdef class Walk:

    def __init__(self, Engine engine not None):
        self.engine = engine
        self.table = engine.tracker.table

    cdef uint32_t go(self, uint32_t slot, uint32_t slots) noexcept nogil:
        cdef uint32_t end
        cdef Conn *conn
        self.engine.lock_background()
        end = min(slot + slots, self.table.header.used + 1)
        while slot < end:
            conn = &self.table.conns[slot]
            if conn.status & CONN_CONFIRMED and conn.expires_ns > self.now_ns:
                self.meet(slot, conn)
            slot += 1
        if slot > self.table.header.used:
            slot = 0
        self.engine.unlock()
        return slot

    cdef void meet(self, uint32_t slot, Conn *conn) noexcept nogil:
        pass
