# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""Which connections a listing, a count or a deletion means.

May know: the fields of an entry.  Must not know: the table, output formats.
Filters are those of conntrack(8).  No address is translated here: what answers comes from where the first packet went.
"""
import ipaddress

from libc.string cimport memcpy, memset

from pyfw.conntrack.conn cimport CONN_ASSURED, CONN_CONFIRMED, CONN_EXPECTED, CONN_SEEN_REPLY, Conn
from pyfw.enums cimport TCP_SYN_SENT2
from pyfw.wire.packet cimport FAMILY_IPV4, FAMILY_IPV6, PROTO_ICMP, PROTO_ICMPV6, PROTO_SCTP, PROTO_TCP, PROTO_UDP, PROTO_UDPLITE, Address
from pyfw.enums import TcpState

# name: bits that must be set, bits that must not
STATUSES = {"ASSURED": (CONN_ASSURED, 0), "SEEN_REPLY": (CONN_SEEN_REPLY, 0), "EXPECTED": (CONN_EXPECTED, 0),
            "UNREPLIED": (0, CONN_SEEN_REPLY)}


cdef read_network(Network *network, object text, object mask, str what):
    """From `a`, `a/n` or `a/mask`, or from an address and its mask apart; None is any."""
    cdef bytes raw
    cdef int half
    memset(network, 0, sizeof(Network))
    if text is None:
        if mask is not None:
            raise ValueError(f"mask_{what} says nothing without {what}")
        return
    try:
        found = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{what}: {text!r} is not an address or a network; write 10.0.0.1, 10.0.0.0/8 or 2001:db8::/32") from None
    network.family = FAMILY_IPV4 if found.version == 4 else FAMILY_IPV6
    raw = found.network_address.packed
    memcpy(&network.address, <const char *> raw, len(raw))
    raw = found.netmask.packed if mask is None else packed_mask(mask, found, what)
    memcpy(&network.mask, <const char *> raw, len(raw))
    for half in range(2):
        network.address.halves[half] &= network.mask.halves[half]


cdef bytes packed_mask(object text, object network, str what):
    """Of any form: conntrack's masks need not be prefixes."""
    if network.prefixlen != network.max_prefixlen:
        raise ValueError(f"{what}: {network} has its mask already; leave mask_{what} out")
    try:
        mask = ipaddress.ip_address(text)
    except ValueError:
        mask = None
    if mask is None or mask.version != network.version:
        raise ValueError(f"mask_{what}: {text!r} is no mask of IPv{network.version}, such as "
                         f"{'255.255.0.0' if network.version == 4 else 'ffff:ffff::'}")
    return mask.packed


cdef uint8_t read_family(object value) except 255:
    if value is None:
        return 0
    if value == 4:
        return FAMILY_IPV4
    if value == 6:
        return FAMILY_IPV6
    raise ValueError(f"family must be 4 or 6, not {value!r}")


cdef int read_number(object value, str what, int limit) except -2:
    if value is None:
        return -1
    if not isinstance(value, int) or not 0 <= value <= limit:
        raise ValueError(f"{what} must be 0 to {limit}, not {value!r}")
    return value


cdef uint32_t read_id(object value) except? 0xFFFFFFFF:
    if value is None:
        return 0                                # which no connection has
    if not isinstance(value, int) or not 0 < value < 1 << 32:
        raise ValueError(f"id must be 1 to {(1 << 32) - 1}, not {value!r}")
    return value


cdef inline bint has_ports(uint8_t protocol) noexcept nogil:
    return (protocol == PROTO_TCP or protocol == PROTO_UDP or protocol == PROTO_UDPLITE or protocol == PROTO_SCTP)


cdef inline bint within(const Address *address, const Network *network) noexcept nogil:
    return ((address.halves[0] & network.mask.halves[0]) == network.address.halves[0]
            and (address.halves[1] & network.mask.halves[1]) == network.address.halves[1])


cdef class Selection:
    """Connections that meet all the conditions given.

    family: 4 or 6; protocol: its number; src, dst, reply_src, reply_dst: address or network, mask_src and mask_dst: addresses;
    sport, dport, reply_sport, reply_dport: port; state: a TCP state's name; status: names of STATUSES, all of which must hold;
    mark: (value, mask): what the mark is under the mask; icmp_type, icmp_code, icmp_id: of the request; id: the entry's.
    Raises ValueError that says what is wrong.
    """

    def __init__(self, family=None, protocol=None, src=None, dst=None, sport=None, dport=None, state=None, *,
                 reply_src=None, reply_dst=None, mask_src=None, mask_dst=None, reply_sport=None, reply_dport=None,
                 status=(), mark=None, icmp_type=None, icmp_code=None, icmp_id=None, id=None):
        self.family = read_family(family)
        self.protocol = read_number(protocol, "protocol", 255)
        for end, name, text, mask in ((0, "src", src, mask_src), (1, "dst", dst, mask_dst), (2, "reply_src", reply_src, None),
                                      (3, "reply_dst", reply_dst, None)):
            read_network(&self.networks[<int> end], text, mask, name)
        for end, name, port in ((0, "sport", sport), (1, "dport", dport), (2, "reply_sport", reply_sport),
                                (3, "reply_dport", reply_dport)):
            self.ports[<int> end] = read_number(port, name, 65535)
        self.icmp_type = read_number(icmp_type, "icmp_type", 255)
        self.icmp_code = read_number(icmp_code, "icmp_code", 255)
        self.icmp_id = read_number(icmp_id, "icmp_id", 65535)
        self.tcp_state = 0
        if state is not None:
            names = [member.name for member in TcpState if 0 < member <= TCP_SYN_SENT2]
            if str(state).upper() not in names:
                raise ValueError(f"state: {state!r} is not a TCP state; choose one of {', '.join(names)}")
            self.tcp_state = TcpState[str(state).upper()]
        self.status_set, self.status_clear = CONN_CONFIRMED, 0
        for name in status:
            if str(name).upper() not in STATUSES:
                raise ValueError(f"status: {name!r} is not a status; there are {', '.join(STATUSES)}")
            bits = STATUSES[str(name).upper()]
            self.status_set |= <uint32_t> bits[0]
            self.status_clear |= <uint32_t> bits[1]
        self.mark, self.mark_mask = (0, 0) if mark is None else mark
        self.id = read_id(id)

    cdef bint takes(self, const Conn *conn) noexcept nogil:
        """The reply's ends are the original's, the other way round."""
        cdef int end
        cdef bint is_source
        if conn.status & self.status_set != self.status_set or conn.status & self.status_clear:
            return False
        if self.family and conn.key.family != self.family:
            return False
        if self.protocol >= 0 and conn.key.protocol != self.protocol:
            return False
        if self.tcp_state and (conn.key.protocol != PROTO_TCP or conn.track.tcp.state != self.tcp_state):
            return False
        if conn.mark & self.mark_mask != self.mark or (self.id and conn.id != self.id):
            return False
        for end in range(ENDS):
            is_source = end == 0 or end == 3
            if self.ports[end] >= 0 and (not has_ports(conn.key.protocol)
                                         or self.ports[end] != (conn.key.sport if is_source else conn.key.dport)):
                return False
            if self.networks[end].family and (
                    self.networks[end].family != conn.key.family
                    or not within(&conn.key.src if is_source else &conn.key.dst, &self.networks[end])):
                return False
        return (self.icmp_type & self.icmp_code & self.icmp_id) == -1 or self.takes_icmp(conn)

    cdef bint takes_icmp(self, const Conn *conn) noexcept nogil:
        if conn.key.protocol != PROTO_ICMP and conn.key.protocol != PROTO_ICMPV6:
            return False
        return ((self.icmp_type < 0 or conn.key.dport >> 8 == self.icmp_type)
                and (self.icmp_code < 0 or (conn.key.dport & 0xFF) == self.icmp_code)
                and (self.icmp_id < 0 or conn.key.sport == self.icmp_id))
