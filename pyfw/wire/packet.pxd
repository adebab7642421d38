"""One IP packet, parsed.  `parse` is the only place where lengths from the wire are checked;
what it has filled in is safe to read unchecked.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    FAMILY_IPV4 = 2             # AF_INET
    FAMILY_IPV6 = 10            # AF_INET6
    IFNAMSIZ = 16

cdef enum ChecksumTrust:
    CHECKSUM_VERIFY = 0         # the transport checksum was not checked yet
    CHECKSUM_TRUSTED = 1        # verified by the kernel, or left to hardware

cdef enum IpProtocol:           # IPPROTO_*
    PROTO_HOPOPTS = 0
    PROTO_ICMP = 1
    PROTO_TCP = 6
    PROTO_UDP = 17
    PROTO_ROUTING = 43
    PROTO_FRAGMENT = 44
    PROTO_GRE = 47
    PROTO_AUTH = 51
    PROTO_ICMPV6 = 58
    PROTO_NONE = 59
    PROTO_DSTOPTS = 60
    PROTO_SCTP = 132
    PROTO_UDPLITE = 136

cdef enum TcpFlag:
    TH_FIN = 0x01
    TH_SYN = 0x02
    TH_RST = 0x04
    TH_PSH = 0x08
    TH_ACK = 0x10
    TH_URG = 0x20
    TH_ECE = 0x40
    TH_CWR = 0x80

cdef union Address:             # network byte order; IPv4 in the first word, the rest zero
    uint8_t bytes[16]
    uint32_t words[4]
    uint64_t halves[2]

cdef struct Packet:
    # -- filled in by the caller of parse() --------------------------------------------------
    const uint8_t *data         # first byte of the IP header
    uint32_t captured           # bytes readable at data
    uint32_t on_wire            # bytes there were on the wire; 0: as many as captured
    uint32_t mark
    uint8_t hook                # HookNumber
    uint8_t checksum            # ChecksumTrust
    uint8_t untouched           # fresh from a wire: no IP stack has verified its header or counted down its TTL
    const uint8_t *hardware     # the sender's 6-byte Ethernet address; NULL: not known
    uint32_t uid                # of the socket that sent it, if has_owner
    uint32_t gid
    uint8_t has_owner
    const char *indev           # interface names: IFNAMSIZ bytes, padded with zeros; never NULL
    const char *outdev
    # -- filled in by parse() -----------------------------------------------------------------
    uint32_t length             # bytes of the whole packet, from the IP header (>= captured when cut)
    uint8_t family              # FAMILY_IPV4, FAMILY_IPV6
    uint8_t protocol            # IPPROTO_* of the transport header
    uint8_t ttl                 # or hop limit
    uint8_t tos                 # or traffic class
    uint8_t fragment            # 0 whole; 1 first fragment; 2 a later one (no transport header)
    uint8_t has_tuple           # the ports or the id, by which connections are told apart, were readable
    uint8_t has_transport       # the header fields of its protocol, below, were readable
    uint8_t reason              # ReasonNumber: why tracking calls it INVALID; 0: nothing wrong so far
    Address src
    Address dst
    uint32_t transport          # offset of the transport header
    uint32_t transport_captured  # bytes readable from there
    uint32_t transport_length   # bytes there are from there, by the IP length
    uint16_t sport              # host byte order; 0 where the protocol has no ports
    uint16_t dport
    uint8_t icmp_type
    uint8_t icmp_code
    uint16_t icmp_id            # host byte order
    uint8_t tcp_flags           # TcpFlag bits
    uint16_t tcp_window
    uint32_t tcp_seq
    uint32_t tcp_ack
    uint32_t payload            # offset of what follows the TCP or UDP header
    uint32_t payload_captured
    uint32_t payload_length     # by the IP length

cdef str device_name(const char *name)
cdef uint8_t parse(Packet *packet) noexcept nogil
cdef uint32_t skip_extensions(const uint8_t *data, uint32_t length, uint8_t *protocol, uint16_t *fragment) noexcept nogil
cdef bint gre_keys(const uint8_t *p, uint32_t there, uint16_t *sender, uint16_t *receiver) noexcept nogil
cdef uint64_t add_words(uint64_t total, const uint8_t *p, uint32_t length) noexcept nogil
cdef bint transport_checksum_ok(const Packet *packet, uint32_t coverage) noexcept nogil

cdef inline uint16_t be16(const uint8_t *p) noexcept nogil:
    return <uint16_t> ((p[0] << 8) | p[1])

cdef inline uint32_t be32(const uint8_t *p) noexcept nogil:
    return (<uint32_t> p[0] << 24) | (<uint32_t> p[1] << 16) | (<uint32_t> p[2] << 8) | p[3]

cdef inline uint16_t fold(uint64_t total) noexcept nogil:
    """A sum of 16-bit words as one's complement sum; 0xFFFF: checksum right (RFC 1071)."""
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return <uint16_t> total
