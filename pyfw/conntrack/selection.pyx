# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Which connections a listing or a deletion means.

May know: the fields of an entry.  Must not know: the table, output formats.
Filters are those of conntrack(8) and speak of the original direction.
"""
import ipaddress

from libc.string cimport memcpy, memset

from pyfw.conntrack.conn cimport *
from pyfw.enums cimport TCP_SYN_SENT2
from pyfw.enums import TcpState
from pyfw.packet cimport *


cdef uint8_t read_network(object text, str what, Address *address, Address *mask) except 255:
    """Fill address and mask from `a`, `a/n` or `a/mask`; returns the family."""
    cdef bytes raw
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{what}: {text!r} is not an address or a network; write 10.0.0.1, 10.0.0.0/8 or 2001:db8::/32") from None
    raw = network.network_address.packed
    memcpy(address, <const char *> raw, len(raw))
    raw = network.netmask.packed
    memcpy(mask, <const char *> raw, len(raw))
    return FAMILY_IPV4 if network.version == 4 else FAMILY_IPV6


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


cdef inline bint has_ports(uint8_t protocol) noexcept nogil:
    return (protocol == PROTO_TCP or protocol == PROTO_UDP or protocol == PROTO_UDPLITE or protocol == PROTO_SCTP)


cdef inline bint within(const Address *address, const Address *network, const Address *mask) noexcept nogil:
    return ((address.halves[0] & mask.halves[0]) == network.halves[0]
            and (address.halves[1] & mask.halves[1]) == network.halves[1])


cdef class Selection:
    """Connections that meet all the conditions given.

    family: 4 or 6; protocol: its number; src, dst: address or network; sport, dport: port; state: a TCP state's name;
    unreplied: no reply was seen; assured: eviction spares it.  Raises ValueError that says what is wrong.
    """

    def __init__(self, family=None, protocol=None, src=None, dst=None, sport=None, dport=None, state=None,
                 unreplied=False, assured=False):
        self.family = read_family(family)
        self.protocol = read_number(protocol, "protocol", 255)
        self.sport = read_number(sport, "sport", 65535)
        self.dport = read_number(dport, "dport", 65535)
        memset(&self.src, 0, sizeof(Address))
        memset(&self.dst, 0, sizeof(Address))
        memset(&self.src_mask, 0, sizeof(Address))
        memset(&self.dst_mask, 0, sizeof(Address))
        self.src_family = 0 if src is None else read_network(src, "src", &self.src, &self.src_mask)
        self.dst_family = 0 if dst is None else read_network(dst, "dst", &self.dst, &self.dst_mask)
        self.tcp_state = 0
        if state is not None:
            names = [member.name for member in TcpState if 0 < member <= TCP_SYN_SENT2]
            if str(state).upper() not in names:
                raise ValueError(f"state: {state!r} is not a TCP state; choose one of {', '.join(names)}")
            self.tcp_state = TcpState[str(state).upper()]
        self.status_set = CONN_CONFIRMED | (CONN_ASSURED if assured else 0)
        self.status_clear = CONN_SEEN_REPLY if unreplied else 0

    cdef bint takes(self, const Conn *conn) noexcept nogil:
        if conn.status & self.status_set != self.status_set or conn.status & self.status_clear:
            return False
        if self.family and conn.key.family != self.family:
            return False
        if self.protocol >= 0 and conn.key.protocol != self.protocol:
            return False
        if self.sport >= 0 and (conn.key.sport != self.sport or not has_ports(conn.key.protocol)):
            return False
        if self.dport >= 0 and (conn.key.dport != self.dport or not has_ports(conn.key.protocol)):
            return False
        if self.tcp_state and (conn.key.protocol != PROTO_TCP or conn.track.tcp.state != self.tcp_state):
            return False
        if self.src_family and (conn.key.family != self.src_family
                                or not within(&conn.key.src, &self.src, &self.src_mask)):
            return False
        return not self.dst_family or (conn.key.family == self.dst_family
                                       and within(&conn.key.dst, &self.dst, &self.dst_mask))
