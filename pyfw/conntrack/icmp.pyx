# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""ICMP and ICMPv6: requests and their replies; errors, which quote a packet of another connection.

May know: the packet and the quote in it.  Must not know: the table, rules, other protocols' tracks.
Behaviour: Linux nf_conntrack_proto_icmp, _icmpv6; RFC 792, 4443, 4884.
"""
from libc.stdint cimport uint16_t, uint32_t
from libc.string cimport memcpy, memset

from pyfw.conntrack.conn cimport Key
from pyfw.conntrack.protocol cimport ACTION_RENEW, TIMEOUT_ICMP, TIMEOUT_ICMPV6, Settings, TrackerAnswer
from pyfw.enums cimport (REASON_ICMPV6_CHECKSUM, REASON_ICMP_CHECKSUM, REASON_ICMP_REDIRECT, REASON_ICMP_REDIRECT_BARE,
                         REASON_ICMP_REDIRECT_SHORT, REASON_ICMP_TYPE, REASON_NONE)
from pyfw.wire.packet cimport (CHECKSUM_TRUSTED, FAMILY_IPV4, FAMILY_IPV6, PROTO_GRE, PROTO_ICMP, PROTO_ICMPV6, PROTO_SCTP,
                               PROTO_TCP, PROTO_UDP, PROTO_UDPLITE, Packet, be16, gre_keys, skip_extensions,
                               transport_checksum_ok)

cdef enum:
    ICMP_HEADER = 8
    ICMP_TYPE_MAX = 18          # NR_ICMP_TYPES
    REDIRECT = 137
    REDIRECT_HEADER = 40        # type to destination address
    OPTION_REDIRECTED = 4       # the redirected packet's start, after 8 bytes


cdef IcmpKind icmp_kind(const Packet *packet, uint8_t *reason) noexcept nogil:
    """What sort of message this is; ICMP_BAD sets reason."""
    if packet.checksum != CHECKSUM_TRUSTED and not transport_checksum_ok(packet, packet.transport_length):
        reason[0] = REASON_ICMP_CHECKSUM if packet.family == FAMILY_IPV4 else REASON_ICMPV6_CHECKSUM
        return ICMP_BAD
    if packet.family == FAMILY_IPV4:
        if packet.icmp_type > ICMP_TYPE_MAX:
            reason[0] = REASON_ICMP_TYPE
            return ICMP_BAD
        # unreachable, source quench, redirect, time exceeded, parameter problem
        if (packet.icmp_type == 3 or packet.icmp_type == 4 or packet.icmp_type == 5
                or packet.icmp_type == 11 or packet.icmp_type == 12):
            return ICMP_ERROR
    else:
        # listeners, routers, neighbours, multicast routers (RFC 2710, 4861, 3810, 4286)
        if (130 <= packet.icmp_type <= 136 or packet.icmp_type == 143
                or packet.icmp_type == 151 or packet.icmp_type == 152):
            return ICMP_DISCOVERY
        if packet.icmp_type < 128:
            return ICMP_ERROR
        if packet.icmp_type == REDIRECT and (packet.icmp_code == 0 or packet.transport_captured < REDIRECT_HEADER):
            return redirect_kind(packet, reason)
    return ICMP_REQUEST_OR_REPLY


cdef IcmpKind redirect_kind(const Packet *packet, uint8_t *reason) noexcept nogil:
    """A redirect comes from a router on the link (RFC 4861, 8.1) and quotes a packet in its first option, if at all."""
    cdef const uint8_t *option = packet.data + packet.transport + REDIRECT_HEADER
    reason[0] = REASON_ICMP_REDIRECT_SHORT
    if packet.transport_captured < REDIRECT_HEADER:
        return ICMP_BAD
    reason[0] = REASON_ICMP_REDIRECT
    if packet.ttl != 255 or packet.src.bytes[0] != 0xFE or packet.src.bytes[1] & 0xC0 != 0x80:
        return ICMP_BAD
    reason[0] = REASON_ICMP_REDIRECT_BARE
    if packet.transport_captured < REDIRECT_HEADER + 2 or option[1] == 0:
        return ICMP_BAD
    reason[0] = REASON_NONE
    return ICMP_ERROR if option[0] == OPTION_REDIRECTED else ICMP_REQUEST_OR_REPLY


cdef bint icmp_open(const Packet *packet) noexcept nogil:
    """Whether a connection may begin with this message: echo, timestamp, information, address mask; node information."""
    if packet.family == FAMILY_IPV4:
        return (packet.icmp_type == 8 or packet.icmp_type == 13 or packet.icmp_type == 15 or packet.icmp_type == 17)
    return packet.icmp_type == 128 or packet.icmp_type == 139


cdef void icmp_update(Conn *conn, uint8_t direction, const Packet *packet, uint64_t now_ns, const Settings *settings,
                      TrackerAnswer *answer) noexcept nogil:
    """Request or reply, the entry gets its whole time again: replies may come twice."""
    answer.action = ACTION_RENEW
    answer.timeout_ns = settings.timeout_ns[TIMEOUT_ICMP if packet.family == FAMILY_IPV4 else TIMEOUT_ICMPV6]


cdef bint icmp_quoted_key(const Packet *packet, Key *key) noexcept nogil:
    """The tuple of the packet that an error quotes; False where the quote does not hold one.

    A quote is as hostile as any packet and mostly cut: just as much is asked of it as makes a tuple.
    """
    cdef uint32_t start = ICMP_HEADER
    cdef uint32_t length, transport
    cdef uint16_t fragment = 0
    cdef const uint8_t *quote
    if packet.family == FAMILY_IPV6 and packet.icmp_type == REDIRECT:
        start = REDIRECT_HEADER + 8
    if packet.transport_captured < start:
        return False
    quote = packet.data + packet.transport + start
    length = packet.transport_captured - start
    memset(key, 0, sizeof(Key))
    key.family = packet.family
    if packet.family == FAMILY_IPV4:
        if length < 20 or be16(quote + 6) & 0x1FFF:
            return False
        transport = (quote[0] & 15) * 4
        if transport > length:
            return False
        key.protocol = quote[9]
        memcpy(&key.src, quote + 12, 4)
        memcpy(&key.dst, quote + 16, 4)
    else:
        if length < 40:
            return False
        transport = skip_extensions(quote, length, &key.protocol, &fragment)
        if transport == 0 or fragment & 0xFFF8:
            return False
        memcpy(&key.src, quote + 8, 16)
        memcpy(&key.dst, quote + 24, 16)
    transport = min(transport, length)          # of IPv6, a chain that leads out of the quote still names its protocol
    return quoted_ports(quote + transport, length - transport, key)


cdef bint quoted_ports(const uint8_t *p, uint32_t length, Key *key) noexcept nogil:
    """Read what tells connections of key.protocol apart."""
    if key.protocol == PROTO_ICMP or key.protocol == PROTO_ICMPV6:
        if length < ICMP_HEADER:
            return False
        key.sport = be16(p + 4)
        key.dport = be16(p)
    elif (key.protocol == PROTO_TCP or key.protocol == PROTO_UDP or key.protocol == PROTO_UDPLITE
          or key.protocol == PROTO_SCTP):
        if length < 4:
            return False
        key.sport = be16(p)
        key.dport = be16(p + 2)
    elif key.protocol == PROTO_GRE:
        return gre_keys(p, length, &key.sport, &key.dport)
    return True
