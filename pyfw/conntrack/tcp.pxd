from libc.stdint cimport int32_t, uint8_t, uint64_t
from pyfw.conntrack.conn cimport Conn
from pyfw.conntrack.protocol cimport Settings, TrackerAnswer
from pyfw.wire.packet cimport Packet

cdef bint tcp_open(Conn *conn, const Packet *packet, const Settings *settings, TrackerAnswer *answer) noexcept nogil
cdef void tcp_update(Conn *conn, uint8_t direction, const Packet *packet, uint64_t now_ns,
                     const Settings *settings, TrackerAnswer *answer) noexcept nogil
cdef bint tcp_relearn(Conn *conn) noexcept nogil
cdef void tcp_translate(Conn *conn, uint8_t side, int32_t offset) noexcept nogil
