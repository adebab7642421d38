# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Rings of events, one for each listener, filled by the table's changes.

May know: the fields of an entry, selections.  Must not know: the table, text, sockets, the clock.

Laws: telling allocates nothing and never waits: what finds a ring full is lost to its reader, and counted.  What stands
between tail and head is the reader's.  Without a listener, a connection that comes or goes pays one comparison.
"""
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from pyfw.lock cimport assert_locked


cdef class EventRing:
    """Keeps events of `kinds` (EventKind bits) about connections that `selection` takes."""

    def __cinit__(self, Selection selection not None, uint8_t kinds):
        self.selection = selection
        self.kinds = kinds
        self.events = <Event *> malloc(EVENTS_KEPT * sizeof(Event))
        if self.events == NULL:
            raise MemoryError("no memory for a listener")
        memset(self.events, 0xFF, EVENTS_KEPT * sizeof(Event))      # has the kernel lend the pages now, not while a packet waits

    def __dealloc__(self):
        free(self.events)

    cdef bint keep(self, EventKind kind, uint8_t changes, const Conn *conn, uint64_t now_ns) noexcept nogil:
        """False: it is wanted, and lost."""
        cdef Event *event
        if not self.kinds & kind or not self.selection.takes(conn):
            return True
        if self.head - self.tail == EVENTS_KEPT:
            self.lost += 1
            return False
        event = &self.events[self.head % EVENTS_KEPT]
        event.conn = conn[0]
        event.now_ns = now_ns
        event.lost = self.lost
        event.kind = kind
        event.changes = changes
        self.lost = 0
        self.head += 1
        return True

    cdef uint32_t before_gap(self, uint32_t count) noexcept nogil:
        """How many of the next `count` events (at least 1, all of them kept) come before others were lost."""
        cdef uint32_t i
        for i in range(1, count):
            if self.events[(self.tail + i) % EVENTS_KEPT].lost:
                return i
        return count


cdef class Events:
    """Who listens."""

    def __cinit__(self):
        self.listening = []

    cdef void tell(self, EventKind kind, uint8_t changes, const Conn *conn, uint64_t now_ns) noexcept nogil:
        cdef uint32_t i
        assert_locked()
        for i in range(self.count):
            self.lost += not (<EventRing> self.rings[i]).keep(kind, changes, conn, now_ns)

    cdef bint add(self, EventRing ring) noexcept nogil:
        """False: as many as can be listen already."""
        assert_locked()
        if self.count == LISTENERS:
            return False
        self.rings[self.count] = <void *> ring
        self.count += 1
        return True

    cdef void drop(self, EventRing ring) noexcept nogil:
        cdef uint32_t i, kept = 0
        assert_locked()
        for i in range(self.count):
            if self.rings[i] != <void *> ring:
                self.rings[kept] = self.rings[i]
                kept += 1
        self.count = kept
