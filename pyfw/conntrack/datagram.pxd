from libc.stdint cimport uint8_t, uint64_t
from pyfw.conntrack.conn cimport Conn
from pyfw.conntrack.protocol cimport Settings, TrackerAnswer
from pyfw.wire.packet cimport Packet

cdef bint udp_datagram_ok(const Packet *packet, uint8_t *reason) noexcept nogil
cdef void datagram_update(Conn *conn, uint8_t direction, const Packet *packet, uint64_t now_ns, const Settings *settings,
                          TrackerAnswer *answer) noexcept nogil
