# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""UDP, UDP-Lite, GRE and every protocol of which nothing but the number is known.

May know: the packet, whether a reply was seen, the settings.  Must not know: the table, rules, other protocols.
Behaviour and names: Linux nf_conntrack_proto_udp, _gre, _generic; RFC 768, 3828.
"""
from libc.stdint cimport uint32_t

from pyfw.conntrack.conn cimport CONN_ASSURED, CONN_SEEN_REPLY, Conn
from pyfw.conntrack.protocol cimport (ACTION_RENEW, TIMEOUT_GENERIC, TIMEOUT_GRE, TIMEOUT_GRE_STREAM, TIMEOUT_UDP,
                                      TIMEOUT_UDP_STREAM, Settings, TrackerAnswer)
from pyfw.enums cimport REASON_UDPLITE_COVERAGE, REASON_UDPLITE_NO_CHECKSUM, REASON_UDP_CHECKSUM, REASON_UDP_LENGTH
from pyfw.wire.packet cimport CHECKSUM_TRUSTED, PROTO_GRE, PROTO_UDP, PROTO_UDPLITE, Packet, be16, transport_checksum_ok

cdef enum:
    UDP_HEADER = 8

cdef uint64_t STREAM_AFTER_NS = 2000000000


cdef bint udp_datagram_ok(const Packet *packet, uint8_t *reason) noexcept nogil:
    """Whether length and checksum are those of a UDP or UDP-Lite datagram (udp_error(), udplite_error())."""
    cdef uint32_t covered = be16(packet.data + packet.transport + 4)
    cdef bint has_checksum = be16(packet.data + packet.transport + 6) != 0
    if packet.protocol == PROTO_UDP:
        if covered < UDP_HEADER or covered > packet.transport_length:
            reason[0] = REASON_UDP_LENGTH
            return False
        if not has_checksum:
            return True
        covered = packet.transport_length
    else:
        if covered == 0:
            covered = packet.transport_length
        elif covered < UDP_HEADER or covered > packet.transport_length:
            reason[0] = REASON_UDPLITE_COVERAGE
            return False
        if not has_checksum:
            reason[0] = REASON_UDPLITE_NO_CHECKSUM
            return False
    if packet.checksum != CHECKSUM_TRUSTED and not transport_checksum_ok(packet, covered):
        reason[0] = REASON_UDP_CHECKSUM
        return False
    return True


cdef void datagram_update(Conn *conn, uint8_t direction, const Packet *packet, uint64_t now_ns, const Settings *settings,
                          TrackerAnswer *answer) noexcept nogil:
    """Renew the entry; a conversation of both sides becomes a stream, which lives longer and is spared by eviction.

    UDP does so only when it still goes on two seconds after it began: question and answer are no stream.
    """
    cdef bint replied = conn.status & CONN_SEEN_REPLY != 0
    answer.action = ACTION_RENEW
    if packet.protocol == PROTO_UDP:
        if replied and now_ns > conn.created_ns + STREAM_AFTER_NS:
            conn.status |= CONN_ASSURED
            answer.timeout_ns = settings.timeout_ns[TIMEOUT_UDP_STREAM]
        else:
            answer.timeout_ns = settings.timeout_ns[TIMEOUT_UDP]
    elif packet.protocol == PROTO_UDPLITE:
        if replied:
            conn.status |= CONN_ASSURED
        answer.timeout_ns = settings.timeout_ns[TIMEOUT_UDP_STREAM if replied else TIMEOUT_UDP]
    elif packet.protocol == PROTO_GRE:
        if replied:
            conn.status |= CONN_ASSURED
        answer.timeout_ns = settings.timeout_ns[TIMEOUT_GRE_STREAM if replied else TIMEOUT_GRE]
    else:
        answer.timeout_ns = settings.timeout_ns[TIMEOUT_GENERIC]
