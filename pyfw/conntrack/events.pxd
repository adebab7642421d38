"""What listeners are told of connections: that one began, changed, or is gone."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from pyfw.conntrack.conn cimport Conn
from pyfw.conntrack.selection cimport Selection

cdef enum EventKind:
    EVENT_NEW = 1 << 0          # an accepted packet began it
    EVENT_UPDATE = 1 << 1       # it changed, and a packet of its was accepted then or later
    EVENT_DESTROY = 1 << 2      # it leaves the table: expired, evicted, deleted, ended or begun anew by a packet

cdef enum Change:               # what the kernel's IPCT_ events are for
    CHANGED_STATE = 1 << 0      # PROTOINFO: of TCP or SCTP
    CHANGED_REPLY = 1 << 1      # REPLY: the first one was seen
    CHANGED_ASSURED = 1 << 2    # ASSURED
    CHANGED_MARK = 1 << 3       # MARK

cdef enum:
    LISTENERS = 4               # at once
    EVENTS_KEPT = 16384         # that wait to be read, for each

cdef struct Event:
    Conn conn                   # as the event left it; before it goes, where it goes
    uint64_t now_ns
    uint32_t lost               # events that came after the one before it, and did not fit
    uint8_t kind                # EventKind
    uint8_t changes             # Change bits

cdef class EventRing:
    cdef Selection selection
    cdef uint8_t kinds          # EventKind bits that are wanted
    cdef Event *events
    cdef uint32_t head          # events ever kept, and ever read: both change with the engine's lock held
    cdef uint32_t tail
    cdef uint32_t lost          # since the last one that was kept

    cdef bint keep(self, EventKind kind, uint8_t changes, const Conn *conn, uint64_t now_ns) noexcept nogil
    cdef uint32_t before_gap(self, uint32_t count) noexcept nogil   # for the reader, without the lock

cdef class Events:
    cdef uint32_t count         # listeners
    cdef uint64_t lost          # events, by all of them
    cdef void *rings[LISTENERS]
    cdef list listening         # keeps them alive

    # With the engine's lock held; without a listener (count == 0) it need not be called.
    cdef void tell(self, EventKind kind, uint8_t changes, const Conn *conn, uint64_t now_ns) noexcept nogil
    cdef bint add(self, EventRing ring) noexcept nogil
    cdef void drop(self, EventRing ring) noexcept nogil
