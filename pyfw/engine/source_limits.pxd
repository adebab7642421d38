"""What one source may have and begin, and what becomes of one that wants more."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from pyfw.conntrack.conn cimport Conn
from pyfw.conntrack.sources cimport Sources
from pyfw.reasons cimport CReason
from pyfw.rules.program.program cimport Context, Program
from pyfw.rules.sets.lookup cimport SetSlot
from pyfw.wire.packet cimport Packet

cdef struct LimitCounters:
    uint64_t overloaded         # sources that were added to a set
    uint64_t not_listed         # additions for which the set had no room, or was not of the kind

cdef class SourceLimits:
    cdef readonly Sources sources
    cdef uint32_t max_states    # 0: any number
    cdef uint32_t max_new
    cdef bint flush
    cdef uint8_t[2] prefixes    # IPv4, IPv6
    cdef SetSlot *overload_slots[2]     # NULL: sources are not added to any set
    cdef tuple overload_sets    # keeps them alive
    cdef Program match          # None: the limits are about every connection
    cdef LimitCounters counters
    cdef object __weakref__

    # With the lock held, of a packet that begins the connection `fresh` and that the rules accept: whether to drop it, and why.
    cdef bint refuses(self, const Context *context, Conn *fresh, CReason *reason) noexcept nogil

    cdef void overload(self, uint32_t source, const Packet *packet, uint64_t now_ns) noexcept nogil
