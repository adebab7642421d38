from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from pyfw.conntrack.conn cimport Conn, Key
from pyfw.conntrack.table cimport Table
from pyfw.wire.packet cimport Address

cdef enum ExpectState:
    EXPECT_FREE = 0
    EXPECT_INACTIVE = 1         # announced, but not to be used before the helper says so
    EXPECT_ACTIVE = 2

cdef enum ExpectResult:
    EXPECT_ADDED
    EXPECT_CLASH                # another connection expects the same
    EXPECT_NO_ROOM

cdef struct Expect:             # one-shot permission for a connection that does not exist yet
    Address src
    Address dst
    uint64_t deadline_ns
    uint32_t master             # slot and id of the connection whose helper expects it
    uint32_t master_id
    uint32_t next
    uint32_t serial             # rises with age
    uint16_t dport
    uint8_t protocol
    uint8_t family
    uint8_t any_src
    uint8_t state               # ExpectState
    uint8_t helper
    uint8_t zero

cdef struct ExpectCounters:
    uint64_t created
    uint64_t used
    uint64_t expired
    uint64_t no_room            # that were refused because there were as many as there may be

cdef class Expectations:
    cdef Expect *slots          # by slot; slot 0 is never used
    cdef Table table            # to see whether a master lives
    cdef const Conn *conns      # of that table
    cdef uint64_t secret[2]
    cdef uint32_t limit
    cdef uint32_t used
    cdef uint32_t free
    cdef uint32_t count
    cdef uint32_t serial
    cdef uint32_t *buckets
    cdef uint32_t *master_buckets   # by master: what a connection expects, linked by `siblings`
    cdef uint32_t *siblings         # by slot
    cdef uint32_t mask              # of both
    cdef uint32_t swept             # slot that the sweep has come to
    cdef ExpectCounters counters
    cdef object memory          # keeps the buffer alive

    cdef uint32_t find(self, const Key *key, uint64_t now_ns) noexcept nogil
    cdef ExpectResult add(self, const Expect *wanted, uint32_t max_expected, uint64_t now_ns) noexcept nogil
    cdef void remove(self, uint32_t slot) noexcept nogil
    cdef void settle(self, uint32_t master, bint activate) noexcept nogil
    cdef void sweep(self, uint64_t now_ns, uint32_t slots) noexcept nogil
    cdef bint lives(self, const Expect *expect, uint64_t now_ns) noexcept nogil

    cdef void take_over(self) noexcept
    cdef void relink(self) noexcept
    cdef uint32_t *bucket(self, const Address *dst, uint16_t dport, uint8_t protocol) noexcept nogil
    cdef void link(self, uint32_t slot) noexcept nogil
    cdef void give_back(self, uint32_t slot) noexcept nogil
    cdef uint32_t *master_bucket(self, uint32_t master) noexcept nogil
    cdef uint32_t of_master(self, const Expect *wanted, uint32_t *oldest) noexcept nogil
