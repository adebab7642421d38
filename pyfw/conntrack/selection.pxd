from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from pyfw.conntrack.conn cimport Conn
from pyfw.packet cimport Address

cdef class Selection:
    cdef Address src, dst, src_mask, dst_mask
    cdef uint8_t family, src_family, dst_family, tcp_state
    cdef int protocol, sport, dport
    cdef uint32_t status_set, status_clear
    cdef bint takes(self, const Conn *conn) noexcept nogil
