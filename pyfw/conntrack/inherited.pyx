# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What a predecessor's memory holds, checked before anything else reads it.

May know: what a field of an entry, or of the table's header, can say.  Must not know: chains, slots, who takes over and when.

Law: a predecessor may have died at any instruction, and its memory may be damaged.  What passes here is safe to read.
"""
from libc.string cimport memset

from pyfw.conntrack.conn cimport CONN_CONFIRMED, CONN_MEANINGFUL, SCTP_STATE_MAX, WINDOW_SCALE_MAX
from pyfw.conntrack.first_seen cimport is_origin
from pyfw.conntrack.table cimport LINK_NUMBERS
from pyfw.enums cimport DIR_REPLY, TCP_STATES
from pyfw.wire.packet cimport FAMILY_IPV4, FAMILY_IPV6, IFNAMSIZ, PROTO_SCTP, PROTO_TCP

cdef extern from "<string.h>" nogil:
    size_t strnlen(const char *, size_t)


cdef bint make_sound(const Header *header, Conn *conn) noexcept nogil:
    """Whether an entry from a predecessor's memory can stay; of one that can, what means nothing goes."""
    if not conn.status & CONN_CONFIRMED or not is_sane(conn):
        return False
    conn.status &= CONN_MEANINGFUL
    if not is_origin(header, conn.origin):
        conn.origin = 0
    return True


cdef bint is_sane(const Conn *conn) noexcept nogil:
    """Whether an entry from a predecessor's memory can be read by everything that reads entries."""
    if conn.key.family != FAMILY_IPV4 and conn.key.family != FAMILY_IPV6:
        return False
    if conn.key.zero or conn.id == 0 or conn.expires_ns == 0:
        return False
    if conn.key.protocol == PROTO_SCTP:
        return conn.track.sctp.state <= SCTP_STATE_MAX and conn.track.sctp.last_dir <= DIR_REPLY
    if conn.key.protocol != PROTO_TCP:
        return True
    return (0 < conn.track.tcp.state < TCP_STATES and conn.track.tcp.last_dir <= DIR_REPLY
            and conn.track.tcp.last_wscale <= WINDOW_SCALE_MAX
            and conn.track.tcp.peer[0].scale <= WINDOW_SCALE_MAX and conn.track.tcp.peer[1].scale <= WINDOW_SCALE_MAX)


cdef void end_names(Header *header) noexcept nogil:
    """Interfaces have names of 15 bytes, with zeros behind them."""
    cdef int number
    cdef size_t length
    for number in range(LINK_NUMBERS):
        length = strnlen(header.link_names[number], IFNAMSIZ - 1)
        memset(header.link_names[number] + length, 0, IFNAMSIZ - length)
