# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Bytes -> Packet.

May know: the layouts of IPv4, IPv6 and the transport headers.  Must not know: connections, rules, sockets, clocks.

Law: no offset, length or count from a packet is used before it was compared with the bytes that are there.
Sources: RFC 791, 8200, 9293, 768, 3828, 792, 4443, 1071; the order of the checks is that of ip_rcv_core(),
ipv6_rcv() and ipv6_skip_exthdr().
"""
from libc.string cimport memcpy, memset

from pyfw.enums cimport (REASON_FRAGMENT, REASON_GRE_PROTOCOL, REASON_ICMP_TRUNCATED, REASON_IP_HEADER, REASON_IP_TRUNCATED,
                         REASON_NOT_IP, REASON_NO_TRANSPORT, REASON_SCTP_TRUNCATED, REASON_TCP_TRUNCATED, REASON_UDP_TRUNCATED)

cdef enum:
    IPV4_HEADER = 20
    IPV6_HEADER = 40
    TCP_HEADER = 20
    UDP_HEADER = 8
    ICMP_HEADER = 8
    SCTP_HEADER = 12
    PORTS = 4                   # the part of a transport header that tells connections apart


cdef uint8_t parse(Packet *packet) noexcept nogil:
    """Fill `packet` from its bytes.

    Returns 0, or the reason why this is no packet that an IP stack would take: such a packet is dropped
    without a look at the rules.  A packet whose IP header is sound and whose transport header is not returns 0
    with `packet.reason` set: connection tracking calls it INVALID and the rules decide.
    """
    cdef uint8_t refused
    if packet.captured < 1:
        return REASON_IP_TRUNCATED
    packet.reason = 0
    packet.fragment = 0
    packet.has_tuple = 0
    packet.has_transport = 0
    packet.sport = packet.dport = 0
    packet.payload = packet.payload_captured = packet.payload_length = 0
    if packet.data[0] >> 4 == 4:
        refused = parse_ipv4(packet)
    elif packet.data[0] >> 4 == 6:
        refused = parse_ipv6(packet)
    else:
        return REASON_NOT_IP
    if refused:
        return refused
    packet.transport_captured = packet.captured - packet.transport
    packet.transport_length = packet.length - packet.transport
    if packet.reason == 0:
        parse_transport(packet)
    elif packet.fragment == 1 and packet.family == FAMILY_IPV4:     # rules may look at its header; tracking cannot use it
        parse_transport(packet)
        packet.reason = REASON_FRAGMENT
        packet.has_tuple = 0
    return 0


cdef inline uint8_t settle_length(Packet *packet) noexcept nogil:
    """The IP length may be shorter than what was captured (padding), never longer than what was on the wire."""
    if packet.length > (packet.on_wire if packet.on_wire > packet.captured else packet.captured):
        return REASON_IP_TRUNCATED
    if packet.captured > packet.length:
        packet.captured = packet.length
    return 0


cdef uint8_t parse_ipv4(Packet *packet) noexcept nogil:
    cdef const uint8_t *p = packet.data
    cdef uint32_t header, fragment
    if packet.captured < IPV4_HEADER:
        return REASON_IP_TRUNCATED
    header = (p[0] & 15) * 4
    packet.length = be16(p + 2)
    if header < IPV4_HEADER or packet.length < header:
        return REASON_IP_HEADER
    if packet.captured < header:
        return REASON_IP_TRUNCATED
    if packet.untouched and fold(add_words(0, p, header)) != 0xFFFF:
        return REASON_IP_HEADER
    packet.family = FAMILY_IPV4
    packet.tos = p[1]
    packet.ttl = p[8]
    packet.protocol = p[9]
    memset(&packet.src, 0, sizeof(Address))
    memset(&packet.dst, 0, sizeof(Address))
    memcpy(&packet.src, p + 12, 4)
    memcpy(&packet.dst, p + 16, 4)
    packet.transport = header
    fragment = be16(p + 6)
    if fragment & 0x1FFF:
        packet.fragment = 2
        packet.reason = REASON_FRAGMENT
    elif fragment & 0x2000:
        packet.fragment = 1
        packet.reason = REASON_FRAGMENT
    return settle_length(packet)


cdef uint8_t parse_ipv6(Packet *packet) noexcept nogil:
    cdef const uint8_t *p = packet.data
    cdef uint16_t fragment = 0
    cdef uint8_t refused
    if packet.captured < IPV6_HEADER:
        return REASON_IP_TRUNCATED
    packet.length = IPV6_HEADER + be16(p + 4)
    if packet.length == IPV6_HEADER and p[6] == PROTO_HOPOPTS:      # all there is, be it a jumbogram or not (ipv6_rcv())
        packet.length = max(packet.on_wire, packet.captured)
    refused = settle_length(packet)
    if refused:
        return refused
    packet.family = FAMILY_IPV6
    packet.tos = <uint8_t> ((p[0] << 4) | (p[1] >> 4))
    packet.ttl = p[7]
    memcpy(&packet.src, p + 8, 16)
    memcpy(&packet.dst, p + 24, 16)
    packet.transport = skip_extensions(p, packet.captured, &packet.protocol, &fragment)
    if fragment & 0xFFF8:
        packet.fragment = 2
        packet.reason = REASON_FRAGMENT
    elif fragment & 1:                          # one that reassembly has left as it is: tracked by what is there
        packet.fragment = 1
    if packet.transport == 0:
        packet.transport = packet.captured
        packet.reason = REASON_NO_TRANSPORT
    elif packet.transport > packet.captured:
        packet.transport = packet.captured
    return 0


cdef uint32_t skip_extensions(const uint8_t *data, uint32_t length, uint8_t *protocol, uint16_t *fragment) noexcept nogil:
    """Walk from an IPv6 header (40 readable bytes) over its extension headers, as ipv6_skip_exthdr() does.

    Returns the offset of the transport header and sets its protocol; or 0 and the last header's number, where the chain
    leads nowhere.  The
    offset may lie behind `length`.  `fragment` becomes the offset-and-flags field of a fragment header, and
    the walk ends there if the packet is a later fragment.
    """
    cdef uint32_t offset = IPV6_HEADER, size
    cdef uint8_t header = data[6]
    while (header == PROTO_HOPOPTS or header == PROTO_ROUTING or header == PROTO_FRAGMENT
           or header == PROTO_AUTH or header == PROTO_DSTOPTS or header == PROTO_NONE):
        if header == PROTO_NONE or offset + (4 if header == PROTO_FRAGMENT else 2) > length:
            protocol[0] = header
            return 0
        if header == PROTO_FRAGMENT:
            fragment[0] = be16(data + offset + 2)
            size = 8
        elif header == PROTO_AUTH:
            size = (data[offset + 1] + 2) * 4
        else:
            size = (data[offset + 1] + 1) * 8
        header = data[offset]
        offset += size
        if fragment[0] & 0xFFF8:
            break
    protocol[0] = header
    return offset


cdef void parse_transport(Packet *packet) noexcept nogil:
    cdef const uint8_t *p = packet.data + packet.transport
    cdef uint32_t there = packet.transport_captured
    if packet.protocol == PROTO_TCP:
        parse_tcp(packet, p, there)
    elif packet.protocol == PROTO_UDP or packet.protocol == PROTO_UDPLITE:
        parse_udp(packet, p, there)
    elif packet.protocol == PROTO_ICMP or packet.protocol == PROTO_ICMPV6:
        if there < ICMP_HEADER:
            packet.reason = REASON_ICMP_TRUNCATED
            return
        packet.icmp_type = p[0]
        packet.icmp_code = p[1]
        packet.icmp_id = be16(p + 4)
        packet.has_tuple = packet.has_transport = 1
    elif packet.protocol == PROTO_SCTP:
        read_ports(packet, p, there)
        if there < SCTP_HEADER:
            packet.reason = REASON_SCTP_TRUNCATED
        else:
            packet.has_transport = 1
    elif packet.protocol == PROTO_GRE:
        packet.has_tuple = packet.has_transport = gre_keys(p, there, &packet.sport, &packet.dport)
        if not packet.has_tuple:
            packet.reason = REASON_GRE_PROTOCOL
    else:
        packet.has_tuple = packet.has_transport = 1


cdef bint gre_keys(const uint8_t *p, uint32_t there, uint16_t *sender, uint16_t *receiver) noexcept nogil:
    """The keys of a PPTP data packet (GRE version 1, RFC 2637): it bears its receiver's only.  Version 0 has none.

    False for a version 1 packet that carries anything but PPP.
    """
    sender[0] = receiver[0] = 0
    if there < 8 or p[1] & 7 != 1:
        return True
    receiver[0] = be16(p + 6)
    return be16(p + 2) == 0x880B


cdef inline void read_ports(Packet *packet, const uint8_t *p, uint32_t there) noexcept nogil:
    if there >= PORTS:
        packet.sport = be16(p)
        packet.dport = be16(p + 2)
        packet.has_tuple = 1


cdef void parse_tcp(Packet *packet, const uint8_t *p, uint32_t there) noexcept nogil:
    cdef uint32_t header
    read_ports(packet, p, there)
    if there < TCP_HEADER:
        packet.reason = REASON_TCP_TRUNCATED
        return
    packet.tcp_seq = be32(p + 4)
    packet.tcp_ack = be32(p + 8)
    packet.tcp_flags = p[13]
    packet.tcp_window = be16(p + 14)
    packet.has_transport = 1
    header = (p[12] >> 4) * 4
    if header < TCP_HEADER or packet.transport_length < header:
        packet.reason = REASON_TCP_TRUNCATED
        return
    set_payload(packet, header)


cdef void parse_udp(Packet *packet, const uint8_t *p, uint32_t there) noexcept nogil:
    read_ports(packet, p, there)
    if there < UDP_HEADER:
        packet.reason = REASON_UDP_TRUNCATED
        return
    packet.has_transport = 1
    set_payload(packet, UDP_HEADER)


cdef inline void set_payload(Packet *packet, uint32_t header) noexcept nogil:
    packet.payload = packet.transport + header
    packet.payload_length = packet.transport_length - header
    packet.payload_captured = packet.transport_captured - header if packet.transport_captured > header else 0


# -- checksums (RFC 1071) ---------------------------------------------------------------------------------------

cdef uint64_t add_words(uint64_t total, const uint8_t *p, uint32_t length) noexcept nogil:
    """Add the 16-bit words at p to total, in the machine's byte order: the sum's order does not matter (RFC 1071, 2.B)."""
    cdef uint32_t word
    cdef uint16_t half
    while length >= 4:
        memcpy(&word, p, 4)
        total += word
        p += 4
        length -= 4
    if length >= 2:
        memcpy(&half, p, 2)
        total += half
        p += 2
        length -= 2
    if length:
        half = 0
        memcpy(&half, p, 1)
        total += half
    return total


cdef bint transport_checksum_ok(const Packet *packet, uint32_t coverage) noexcept nogil:
    """Whether the transport checksum over the first `coverage` bytes (UDP-Lite; else all) and the pseudo header is right.

    A packet that was not captured whole cannot be judged and passes.  ICMP over IPv4 has no pseudo header.  UDP-Lite is
    summed up with UDP's protocol number, not its own (RFC 3828, 3.1): so does the kernel's tracking.
    """
    cdef uint64_t total = 0
    cdef uint8_t tail[8]
    if packet.captured < packet.length:
        return True
    if packet.protocol != PROTO_ICMP:
        tail[0] = <uint8_t> (packet.transport_length >> 24)
        tail[1] = <uint8_t> (packet.transport_length >> 16)
        tail[2] = <uint8_t> (packet.transport_length >> 8)
        tail[3] = <uint8_t> packet.transport_length
        tail[4] = tail[5] = tail[6] = 0
        tail[7] = PROTO_UDP if packet.protocol == PROTO_UDPLITE else packet.protocol
        total = add_words(0, packet.src.bytes, 16)
        total = add_words(total, packet.dst.bytes, 16)
        total = add_words(total, tail, 8)
    return fold(add_words(total, packet.data + packet.transport, coverage)) == 0xFFFF


cdef str device_name(const char *name):
    """Of IFNAMSIZ bytes, with zeros behind it."""
    return (<bytes> name[:IFNAMSIZ]).split(b"\0", 1)[0].decode(errors="replace")
