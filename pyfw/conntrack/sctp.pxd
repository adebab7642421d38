from libc.stdint cimport uint8_t, uint32_t, uint64_t
from pyfw.conntrack.conn cimport Conn
from pyfw.conntrack.protocol cimport Settings, TrackerAnswer
from pyfw.wire.packet cimport Packet

cdef enum:
    SCTP_CLOSED = 1

cdef bint sctp_packet_ok(const Packet *packet, uint8_t *reason) noexcept nogil
cdef bint sctp_open(Conn *conn, const Packet *packet, const Settings *settings, TrackerAnswer *answer) noexcept nogil
cdef void sctp_update(Conn *conn, uint8_t direction, const Packet *packet, uint64_t now_ns, const Settings *settings,
                      TrackerAnswer *answer) noexcept nogil
