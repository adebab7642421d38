from libc.stdint cimport uint8_t, uint64_t
from pyfw.conntrack.conn cimport Conn, Key
from pyfw.conntrack.protocol cimport Settings, TrackerAnswer
from pyfw.wire.packet cimport Packet

cdef enum IcmpKind:
    ICMP_REQUEST_OR_REPLY = 0
    ICMP_ERROR
    ICMP_DISCOVERY              # IPv6 neighbours, routers, multicast listeners: UNTRACKED
    ICMP_BAD                    # the reason is set

cdef IcmpKind icmp_kind(const Packet *packet, uint8_t *reason) noexcept nogil
cdef bint icmp_quoted_key(const Packet *packet, Key *key) noexcept nogil
cdef bint icmp_open(const Packet *packet) noexcept nogil
cdef void icmp_update(Conn *conn, uint8_t direction, const Packet *packet, uint64_t now_ns, const Settings *settings,
                      TrackerAnswer *answer) noexcept nogil
