# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""REJECT's answers, as Linux's nf_reject_ipv4 and nf_reject_ipv6 give them.

May know: the wire formats of IP, TCP and ICMP errors, and raw sockets.  Must not know: rules, connections, clocks.

No answer (RFC 1122 3.2.2, RFC 4443 2.4 e) goes to an RST, an ICMP error, a fragment, a packet whose checksum is
wrong, or one to or from an address that is not one host's.  An ICMP error about a packet to this machine comes from
the address it was sent to.  The kernel refuses that where the address is not this machine's own, so a directed
broadcast causes none.  About any other packet it comes from the address that routing chooses.  An RST always comes
from the far end's address.

ICMP errors are limited to 1,000 a second after a burst of 50, the defaults of net.ipv4.icmp_msgs_per_sec and
icmp_msgs_burst (the kernel's limit per peer, icmp_ratelimit, has no counterpart); RSTs are not limited, as in the
kernel.  Answers carry pyfw's own mark, so that they are not diverted to the queue again.
"""
import socket
import sys

from libc.stdint cimport uint16_t
from libc.string cimport memcpy, memset

from pyfw.enums cimport (HOOK_INPUT, REJECT_ICMP6_ADDR_UNREACHABLE, REJECT_ICMP6_ADM_PROHIBITED, REJECT_ICMP6_NO_ROUTE,
                         REJECT_ICMP6_POLICY_FAIL, REJECT_ICMP6_PORT_UNREACHABLE, REJECT_ICMP6_REJECT_ROUTE,
                         REJECT_ICMP_ADMIN_PROHIBITED, REJECT_ICMP_HOST_PROHIBITED, REJECT_ICMP_HOST_UNREACHABLE,
                         REJECT_ICMP_NET_PROHIBITED, REJECT_ICMP_NET_UNREACHABLE, REJECT_ICMP_PORT_UNREACHABLE,
                         REJECT_ICMP_PROTO_UNREACHABLE, REJECT_TCP_RESET)
from pyfw.token_bucket cimport TokenRate, take_token
from pyfw.wire.packet cimport (CHECKSUM_TRUSTED, CHECKSUM_VERIFY, FAMILY_IPV4, FAMILY_IPV6, IFNAMSIZ, PROTO_ICMP, PROTO_ICMPV6,
                               PROTO_TCP, PROTO_UDP, TH_ACK, TH_FIN, TH_RST, TH_SYN, Packet, add_words, be16, be32, fold, parse,
                               transport_checksum_ok)

cdef extern from "<arpa/inet.h>" nogil:
    uint16_t htons(uint16_t)
    uint32_t htonl(uint32_t)

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "<netinet/in.h>" nogil:
    ctypedef uint32_t socklen_t
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        uint8_t s6_addr[16]
    struct sockaddr_in:
        uint16_t sin_family
        in_addr sin_addr
    struct sockaddr_in6:
        uint16_t sin6_family
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    struct in_pktinfo:
        in_addr ipi_spec_dst
    struct in6_pktinfo:
        in6_addr ipi6_addr
        unsigned int ipi6_ifindex
    int IPPROTO_IP, IPPROTO_IPV6, IP_PKTINFO, IP_TOS, IPV6_PKTINFO

cdef extern from "<sys/socket.h>" nogil:
    struct msghdr:
        void *msg_name
        socklen_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    cmsghdr *CMSG_FIRSTHDR(msghdr *)
    uint8_t *CMSG_DATA(cmsghdr *)
    size_t CMSG_LEN(size_t)
    size_t CMSG_SPACE(size_t)
    ssize_t sendmsg(int, const msghdr *, int)
    int setsockopt(int, int, int, const void *, socklen_t)
    int MSG_DONTWAIT

cdef enum:
    IPV4_HEADER = 20
    IPV6_HEADER = 40
    TCP_HEADER = 20
    ICMP_HEADER = 8
    HOP_LIMIT = 64                      # net.ipv4.ip_default_ttl, net.ipv6.conf.*.hop_limit: their defaults
    TOS_INTERNETCONTROL = 0xC0          # precedence of ICMP errors (RFC 1812, 4.3.2.5)
    TOS_MASK = 0x1E
    ICMP_MAX_BYTES = 576                # RFC 1812, 4.3.2.3
    ICMP_DEST_UNREACH = 3
    ICMP_SOURCE_QUENCH = 4
    ICMP_REDIRECT = 5
    ICMP_TIME_EXCEEDED = 11
    ICMP_PARAMETER_PROBLEM = 12
    ICMP_LAST_TYPE = 18
    ICMP6_DEST_UNREACH = 1
    ICMP6_INFORMATIONAL = 128
    ICMP_INTERVAL_NS = 1000000
    ICMP_BURST = 50

SOL_RAW = 255
ICMP_FILTER = 1
ICMPV6_FILTER = 1
IP_MTU_DISCOVER = 10
IP_PMTUDISC_DONT = 0

ICMP_CODES = {                          # RFC 792, 1122, 1812 and 4443
    REJECT_ICMP_NET_UNREACHABLE: 0,
    REJECT_ICMP_HOST_UNREACHABLE: 1,
    REJECT_ICMP_PROTO_UNREACHABLE: 2,
    REJECT_ICMP_PORT_UNREACHABLE: 3,
    REJECT_ICMP_NET_PROHIBITED: 9,
    REJECT_ICMP_HOST_PROHIBITED: 10,
    REJECT_ICMP_ADMIN_PROHIBITED: 13,
    REJECT_ICMP6_NO_ROUTE: 0,
    REJECT_ICMP6_ADM_PROHIBITED: 1,
    REJECT_ICMP6_ADDR_UNREACHABLE: 3,
    REJECT_ICMP6_PORT_UNREACHABLE: 4,
    REJECT_ICMP6_POLICY_FAIL: 5,
    REJECT_ICMP6_REJECT_ROUTE: 6,
}

cdef uint8_t[REJECT_ICMP6_REJECT_ROUTE + 1] ICMP_CODE
for _kind, _code in ICMP_CODES.items():
    ICMP_CODE[<int>_kind] = _code


# -- building -----------------------------------------------------------------------------------------------------

cdef uint32_t build_answer(const Packet *packet, uint8_t kind, uint8_t *out) noexcept nogil:
    """Write the IP packet that answers a parsed packet into out[REJECT_MAX_BYTES]; returns its length, 0: no answer.

    It goes from the packet's destination to its source.
    """
    if not may_be_answered(packet):
        return 0
    if kind == REJECT_TCP_RESET:
        return build_reset(packet, out)
    if REJECT_ICMP_NET_UNREACHABLE <= kind <= REJECT_ICMP_ADMIN_PROHIBITED and packet.family == FAMILY_IPV4:
        return build_icmp4(packet, ICMP_CODE[kind], out)
    if REJECT_ICMP6_NO_ROUTE <= kind <= REJECT_ICMP6_REJECT_ROUTE and packet.family == FAMILY_IPV6:
        return build_icmp6(packet, ICMP_CODE[kind], out)
    return 0


cdef bint may_be_answered(const Packet *packet) noexcept nogil:
    if packet.fragment:
        return False
    if packet.family == FAMILY_IPV4:
        if not is_host4(packet.src.bytes) or not is_host4(packet.dst.bytes):
            return False
    elif packet.dst.bytes[0] == 0xFF or packet.src.bytes[0] == 0xFF or not (packet.src.halves[0] | packet.src.halves[1]):
        return False
    if packet.checksum == CHECKSUM_VERIFY and not checksum_ok(packet):
        return False
    return not is_icmp_error(packet)


cdef inline bint is_host4(const uint8_t *address) noexcept nogil:
    """Neither "this host", nor multicast, nor class E, which ends with the limited broadcast address."""
    return 0 < address[0] < 224


cdef bint checksum_ok(const Packet *packet) noexcept nogil:
    if packet.protocol == PROTO_UDP:
        if packet.transport_captured < 8:
            return False
        if packet.family == FAMILY_IPV4 and be16(packet.data + packet.transport + 6) == 0:
            return True         # the sender computed none
    elif packet.protocol not in (PROTO_TCP, PROTO_ICMP, PROTO_ICMPV6):
        return True
    return transport_checksum_ok(packet, packet.transport_length)


cdef bint is_icmp_error(const Packet *packet) noexcept nogil:
    cdef uint8_t kind
    if packet.protocol != PROTO_ICMP and packet.protocol != PROTO_ICMPV6:
        return False
    if packet.transport_captured < ICMP_HEADER:
        return True             # its type is not known
    kind = packet.data[packet.transport]
    if packet.protocol == PROTO_ICMPV6:
        return kind < ICMP6_INFORMATIONAL
    return kind > ICMP_LAST_TYPE or kind in (ICMP_DEST_UNREACH, ICMP_SOURCE_QUENCH, ICMP_REDIRECT,
                                             ICMP_TIME_EXCEEDED, ICMP_PARAMETER_PROBLEM)


cdef uint32_t build_reset(const Packet *packet, uint8_t *out) noexcept nogil:
    """RFC 9293 3.10.7.1: an RST that the packet's sender will take for its peer's."""
    cdef const uint8_t *segment = packet.data + packet.transport
    cdef uint32_t header, acknowledged
    cdef uint8_t flags
    cdef uint8_t *tcp
    if packet.protocol != PROTO_TCP or packet.transport_captured < TCP_HEADER:
        return 0
    header = (segment[12] >> 4) * 4
    flags = segment[13]
    if flags & TH_RST or header < TCP_HEADER or header > packet.transport_length:
        return 0
    tcp = put_ip_header(packet, PROTO_TCP, TCP_HEADER, out)
    memset(tcp, 0, TCP_HEADER)
    memcpy(tcp, segment + 2, 2)
    memcpy(tcp + 2, segment, 2)
    tcp[12] = (TCP_HEADER // 4) << 4
    if flags & TH_ACK:
        memcpy(tcp + 4, segment + 8, 4)
        tcp[13] = TH_RST
    else:
        acknowledged = be32(segment + 4) + packet.transport_length - header
        acknowledged += (1 if flags & TH_SYN else 0) + (1 if flags & TH_FIN else 0)
        put32(tcp + 8, acknowledged)
        tcp[13] = TH_RST | TH_ACK
    put_checksum(tcp + 16, pseudo_header_sum(packet, PROTO_TCP, TCP_HEADER), tcp, TCP_HEADER)
    return <uint32_t>(tcp - out) + TCP_HEADER


cdef uint32_t build_icmp4(const Packet *packet, uint8_t code, uint8_t *out) noexcept nogil:
    cdef uint32_t quoted = min(packet.captured, <uint32_t>(ICMP_MAX_BYTES - IPV4_HEADER - ICMP_HEADER))
    cdef uint8_t *icmp = put_ip_header(packet, PROTO_ICMP, ICMP_HEADER + quoted, out)
    put_icmp(packet, ICMP_DEST_UNREACH, code, quoted, icmp)
    put_checksum(icmp + 2, 0, icmp, ICMP_HEADER + quoted)
    return IPV4_HEADER + ICMP_HEADER + quoted


cdef uint32_t build_icmp6(const Packet *packet, uint8_t code, uint8_t *out) noexcept nogil:
    cdef uint32_t quoted = min(packet.captured, <uint32_t>(REJECT_MAX_BYTES - IPV6_HEADER - ICMP_HEADER))
    cdef uint8_t *icmp = put_ip_header(packet, PROTO_ICMPV6, ICMP_HEADER + quoted, out)
    put_icmp(packet, ICMP6_DEST_UNREACH, code, quoted, icmp)
    put_checksum(icmp + 2, pseudo_header_sum(packet, PROTO_ICMPV6, ICMP_HEADER + quoted), icmp, ICMP_HEADER + quoted)
    return IPV6_HEADER + ICMP_HEADER + quoted


cdef void put_icmp(const Packet *packet, uint8_t kind, uint8_t code, uint32_t quoted, uint8_t *icmp) noexcept nogil:
    memset(icmp, 0, ICMP_HEADER)
    icmp[0] = kind
    icmp[1] = code
    memcpy(icmp + ICMP_HEADER, packet.data, quoted)


cdef uint8_t *put_ip_header(const Packet *packet, uint8_t protocol, uint32_t payload, uint8_t *out) noexcept nogil:
    """Write the IP header back to the packet's sender; returns where its payload begins."""
    if packet.family == FAMILY_IPV6:
        memset(out, 0, IPV6_HEADER)
        out[0] = 6 << 4
        put16(out + 4, <uint16_t>payload)
        out[6] = protocol
        out[7] = HOP_LIMIT
        memcpy(out + 8, packet.dst.bytes, 16)
        memcpy(out + 24, packet.src.bytes, 16)
        return out + IPV6_HEADER
    memset(out, 0, IPV4_HEADER)
    out[0] = 4 << 4 | IPV4_HEADER // 4
    put16(out + 2, <uint16_t>(IPV4_HEADER + payload))
    if protocol == PROTO_TCP:
        out[6] = 0x40                           # don't fragment
    else:
        out[1] = (packet.tos & TOS_MASK) | TOS_INTERNETCONTROL
    out[8] = HOP_LIMIT
    out[9] = protocol
    memcpy(out + 12, packet.dst.bytes, 4)
    memcpy(out + 16, packet.src.bytes, 4)
    put_checksum(out + 10, 0, out, IPV4_HEADER)
    return out + IPV4_HEADER


cdef inline void put16(uint8_t *at, uint16_t value) noexcept nogil:
    value = htons(value)
    memcpy(at, &value, 2)


cdef inline void put32(uint8_t *at, uint32_t value) noexcept nogil:
    value = htonl(value)
    memcpy(at, &value, 4)


cdef uint64_t pseudo_header_sum(const Packet *packet, uint8_t protocol, uint32_t length) noexcept nogil:
    cdef uint8_t tail[4]
    put16(tail, protocol)
    put16(tail + 2, <uint16_t>length)
    return add_words(add_words(add_words(0, packet.src.bytes, 16), packet.dst.bytes, 16), tail, 4)


cdef void put_checksum(uint8_t *at, uint64_t total, const uint8_t *data, uint32_t length) noexcept nogil:
    """Write the Internet checksum of data, on top of `total`, to where `at` holds zeros (RFC 1071)."""
    cdef uint16_t checksum = ~fold(add_words(total, data, length))
    memcpy(at, &checksum, 2)


# -- sending ------------------------------------------------------------------------------------------------------

cdef class Rejecter:
    """Raw sockets of the calling thread's network namespace, and the counters of what went through them.

    sent; suppressed: no answer is due, or the limit of ICMP errors was reached; failed: the kernel refused.
    Raises OSError without CAP_NET_RAW and CAP_NET_ADMIN.
    """
    def __init__(self, mark: int):
        raw4 = marked_socket(socket.AF_INET, socket.IPPROTO_RAW, mark)
        icmp4 = marked_socket(socket.AF_INET, socket.IPPROTO_ICMP, mark)
        icmp4.setsockopt(SOL_RAW, ICMP_FILTER, receive_nothing(4))
        icmp4.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
        self.sockets = (raw4, icmp4)
        self.raw4, self.icmp4, self.raw6, self.icmp6 = raw4.fileno(), icmp4.fileno(), -1, -1
        if ipv6_available():
            raw6 = marked_socket(socket.AF_INET6, socket.IPPROTO_RAW, mark)
            icmp6 = marked_socket(socket.AF_INET6, socket.IPPROTO_ICMPV6, mark)
            icmp6.setsockopt(socket.IPPROTO_ICMPV6, ICMPV6_FILTER, receive_nothing(32))
            self.sockets = (raw4, icmp4, raw6, icmp6)
            self.raw6, self.icmp6 = raw6.fileno(), icmp6.fileno()
        self.icmp_rate = TokenRate(ICMP_INTERVAL_NS, ICMP_BURST * ICMP_INTERVAL_NS)
        self.icmp_bucket.credit_ns = self.icmp_rate.full_ns

    def close(self) -> None:
        for each in self.sockets:
            each.close()

    cdef void answer(self, const Packet *packet, uint8_t kind, uint32_t indev, uint64_t now_ns) noexcept nogil:
        """Answer a parsed packet that REJECT dropped.  `indev`: index of the interface it came in by; 0: none."""
        cdef uint8_t out[REJECT_MAX_BYTES]
        cdef uint32_t length = build_answer(packet, kind, out)
        cdef bint delivered
        if length == 0 or (kind != REJECT_TCP_RESET and not take_token(&self.icmp_bucket, &self.icmp_rate, now_ns)):
            self.suppressed += 1
            return
        if packet.family == FAMILY_IPV4:
            if kind == REJECT_TCP_RESET:
                delivered = send4(self.raw4, out, length, packet)
            else:
                self.set_tos(out[1])
                delivered = send4(self.icmp4, out + IPV4_HEADER, length - IPV4_HEADER, packet)
        elif kind == REJECT_TCP_RESET:
            delivered = send6(self.raw6, out, length, packet, indev)
        else:
            delivered = send6(self.icmp6, out + IPV6_HEADER, length - IPV6_HEADER, packet, indev)
        if delivered:
            self.sent += 1
        else:
            self.failed += 1

    cdef void set_tos(self, uint8_t tos) noexcept nogil:
        cdef int value = tos
        if tos != self.icmp_tos and setsockopt(self.icmp4, IPPROTO_IP, IP_TOS, &value, sizeof(value)) == 0:
            self.icmp_tos = tos


def ipv6_available() -> bool:
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()
    except OSError:
        return False
    return True


def receive_nothing(size: int) -> bytes:
    """The filter of a raw ICMP socket that lets no type through: else it gets a copy of all ICMP there is."""
    return b"\xff" * size


def marked_socket(family: int, protocol: int, mark: int) -> socket.socket:
    raw = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark.to_bytes(4, sys.byteorder))      # a mark is unsigned
    return raw


cdef union Ancillary:
    cmsghdr header              # for its alignment
    uint8_t room[64]


cdef bint send4(int descriptor, uint8_t *data, uint32_t length, const Packet *packet) noexcept nogil:
    cdef sockaddr_in target
    cdef in_pktinfo source
    memset(&target, 0, sizeof(target))
    target.sin_family = FAMILY_IPV4
    target.sin_addr.s_addr = packet.src.words[0]
    memset(&source, 0, sizeof(source))
    source.ipi_spec_dst.s_addr = packet.dst.words[0]
    return send_from(descriptor, data, length, &target, sizeof(target),
                     IPPROTO_IP, IP_PKTINFO, &source, sizeof(source) if packet.hook == HOOK_INPUT else 0)


cdef bint send6(int descriptor, uint8_t *data, uint32_t length, const Packet *packet, uint32_t indev) noexcept nogil:
    cdef sockaddr_in6 target
    cdef in6_pktinfo source
    cdef bint link_local = packet.src.bytes[0] == 0xFE and packet.src.bytes[1] & 0xC0 == 0x80
    memset(&target, 0, sizeof(target))
    target.sin6_family = FAMILY_IPV6
    memcpy(target.sin6_addr.s6_addr, packet.src.bytes, 16)
    memset(&source, 0, sizeof(source))
    memcpy(source.ipi6_addr.s6_addr, packet.dst.bytes, 16)
    if link_local:
        target.sin6_scope_id = indev
        source.ipi6_ifindex = indev
    return send_from(descriptor, data, length, &target, sizeof(target),
                     IPPROTO_IPV6, IPV6_PKTINFO, &source, sizeof(source) if packet.hook == HOOK_INPUT else 0)


cdef bint send_from(int descriptor, uint8_t *data, uint32_t length, void *target, uint32_t target_size,
                    int level, int option, const void *source, size_t source_size) noexcept nogil:
    """sendmsg() that never waits; source_size 0: the kernel chooses, or the packet's own header says."""
    cdef iovec part
    cdef msghdr message
    cdef cmsghdr *header
    cdef Ancillary ancillary
    memset(&message, 0, sizeof(message))
    part.iov_base = data
    part.iov_len = length
    message.msg_name = target
    message.msg_namelen = target_size
    message.msg_iov = &part
    message.msg_iovlen = 1
    if source_size:
        message.msg_control = &ancillary
        message.msg_controllen = CMSG_SPACE(source_size)
        header = CMSG_FIRSTHDR(&message)
        header.cmsg_level = level
        header.cmsg_type = option
        header.cmsg_len = CMSG_LEN(source_size)
        memcpy(CMSG_DATA(header), source, source_size)
    return sendmsg(descriptor, &message, MSG_DONTWAIT) >= 0


# -- for Python ---------------------------------------------------------------------------------------------------

def build_reject(bytes data not None, kind: int, *, trusted: bool = False) -> bytes | None:
    """The IP packet with which REJECT of this kind (Reject) answers the IP packet `data`; None: it must not be answered.

    trusted: take the transport checksum for right.
    """
    cdef Packet packet
    cdef uint8_t out[REJECT_MAX_BYTES]
    cdef char nameless[IFNAMSIZ]
    cdef uint32_t length
    memset(&packet, 0, sizeof(packet))
    memset(nameless, 0, IFNAMSIZ)
    packet.data = data
    packet.captured = <uint32_t>len(data)
    packet.checksum = CHECKSUM_TRUSTED if trusted else CHECKSUM_VERIFY
    packet.indev = packet.outdev = nameless
    if parse(&packet):
        return None
    length = build_answer(&packet, kind, out)
    return <bytes>out[:length] if length else None
