"""What the connections do between two walks through the table."""
from libc.stdint cimport uint32_t, uint64_t
from pyfw.conntrack.conn cimport Conn
from pyfw.conntrack.selection cimport Selection
from pyfw.engine.engine cimport Engine
from pyfw.engine.walk cimport Walk

cdef enum SortKey:
    SORT_BYTES
    SORT_PACKETS
    SORT_AGE

cdef struct Rank:               # what decides who comes first
    double bytes_rate           # per second, since the walk before
    double packets_rate
    uint64_t created_ns
    uint32_t id

cdef struct Row:
    Rank rank
    uint64_t seen_ns
    Conn conn

cdef class Top(Walk):
    cdef uint32_t slots
    # Of the last walk, by slot: whose counters these are (0: no connection's), and what they were, both directions together.
    cdef uint32_t *ids
    cdef uint64_t *packets
    cdef uint64_t *bytes
    cdef uint64_t *chunk_seen_ns        # by chunk: when it was walked; 0: never
    # Of this walk.
    cdef uint64_t then_ns               # when its chunk was walked before
    cdef Selection selection
    cdef SortKey key
    cdef bint reverse
    cdef Row *rows
    cdef uint32_t *heap                 # positions in rows; the one that would be given up first is at the top
    cdef uint32_t most
    cdef uint32_t kept
    cdef readonly uint32_t matched      # connections that the selection takes

    cdef Row *place_for(self, const Rank *rank) noexcept nogil
    cdef bint precedes(self, const Rank *a, const Rank *b) noexcept nogil
    cdef bint row_precedes(self, uint32_t place, uint32_t other) noexcept nogil
    cdef void sift_down(self) noexcept nogil
    cdef void sift_up(self) noexcept nogil
