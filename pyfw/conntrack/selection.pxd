from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from pyfw.conntrack.conn cimport Conn
from pyfw.wire.packet cimport Address

cdef enum:
    ENDS = 4                    # original source, original destination, reply source, reply destination

cdef struct Network:            # what one end of a connection must be in
    Address address
    Address mask
    uint8_t family              # 0: nothing is asked of this end

cdef class Selection:
    cdef Network networks[ENDS]
    cdef int ports[ENDS]        # -1: nothing is asked
    cdef uint8_t family, tcp_state
    cdef int protocol, icmp_type, icmp_code, icmp_id
    cdef uint32_t status_set, status_clear, mark, mark_mask, id
    cdef bint takes(self, const Conn *conn) noexcept nogil
    cdef bint takes_icmp(self, const Conn *conn) noexcept nogil
