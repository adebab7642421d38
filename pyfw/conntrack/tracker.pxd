"""From a parsed packet to its connection and state: the order in which tables and protocols are asked."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from pyfw.conntrack.conn cimport Conn, Key
from pyfw.conntrack.expect cimport Expect, ExpectResult, Expectations
from pyfw.conntrack.protocol cimport Settings, TrackerAnswer
from pyfw.conntrack.table cimport Table
from pyfw.reasons cimport CReason
from pyfw.wire.packet cimport Packet

cdef enum:
    HELPERS_MAX = 8
    HELPER_PORTS_MAX = 16

cdef struct HelperRow:          # what tracking must know of a helper
    uint64_t timeout_ns
    uint32_t max_expected
    uint8_t protocol
    uint8_t ports
    uint16_t port[HELPER_PORTS_MAX]

cdef struct Found:              # what tracking has to say of a packet
    uint8_t state               # CtStateNumber
    uint8_t direction           # DirectionNumber
    CReason reason
    uint32_t slot               # of its connection in the table; 0: it is not there
    Conn *conn                  # its connection: in the table, &Tracker.fresh or &Tracker.ended; NULL: none

cdef class Tracker:
    cdef readonly Table table
    cdef Expectations expectations
    cdef Settings settings
    cdef HelperRow helper_rows[HELPERS_MAX]
    cdef Conn fresh             # the connection that the packet in hand may begin
    cdef Conn ended             # the connection that the packet in hand has ended at once

    cdef void track(self, Packet *packet, uint8_t helper, uint64_t now_ns, Found *found) noexcept nogil
    cdef bint commit(self, uint64_t now_ns, Found *found) noexcept nogil
    cdef void tell(self, uint64_t now_ns, const Found *found) noexcept nogil
    cdef ExpectResult expect(self, Expect *wanted, uint32_t slot, uint32_t id, uint64_t now_ns) noexcept nogil
    cdef void bound_lives(self, uint32_t first, uint32_t end, uint64_t now_ns) noexcept nogil

    # The steps of track(), each for the one before it.
    cdef void relate(self, Packet *packet, uint64_t now_ns, Found *found) noexcept nogil
    cdef void follow(self, uint32_t slot, const Key *key, Packet *packet, uint8_t helper, uint8_t direction,
                     uint64_t now_ns, Found *found) noexcept nogil
    cdef bint begin(self, const Key *key, const Packet *packet, uint8_t helper, uint64_t now_ns,
                    Found *found) noexcept nogil
    cdef uint8_t helper_for(self, const Packet *packet) noexcept nogil
    cdef void account(self, Conn *conn, uint8_t direction, const Packet *packet) noexcept nogil
    cdef void weigh_answer(self, Conn *conn, uint32_t status, uint8_t direction, const Packet *packet,
                           const TrackerAnswer *answer) noexcept nogil
    cdef void note_changes(self, uint32_t slot, uint32_t status, uint64_t expires_ns, uint64_t now_ns) noexcept nogil

cdef void key_of(const Packet *packet, Key *key) noexcept nogil
