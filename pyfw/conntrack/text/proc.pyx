# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Connections and expectations as lines of /proc/net/ip_conntrack, nf_conntrack and nf_conntrack_expect.

May know: the fields of an entry.  Must not know: where the text goes.  A million lines are asked for at once, so it is
written without the GIL and without printf.  The bytes are those of the kernel's ct_seq_show() and exp_seq_show().
"""
from pyfw.conntrack.conn cimport CONN_ASSURED, CONN_SEEN_REPLY, Conn, Key
from pyfw.conntrack.expect cimport EXPECT_INACTIVE
from pyfw.conntrack.protocol cimport TIMEOUT_GRE, TIMEOUT_GRE_STREAM, Settings
from pyfw.conntrack.table cimport invert
from pyfw.conntrack.text.put cimport hex_digit, put, put_field, put_hex_field, put_number, put_padded
from pyfw.enums cimport DIR_ORIGINAL, DIR_REPLY
from pyfw.wire.packet cimport FAMILY_IPV4, PROTO_GRE, PROTO_ICMP, PROTO_ICMPV6, PROTO_SCTP, PROTO_TCP, PROTO_UDP, PROTO_UDPLITE, Address

cdef const char **TCP_NAMES = ["NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK",
                               "TIME_WAIT", "CLOSE", "SYN_SENT2"]
cdef const char **SCTP_NAMES = ["NONE", "CLOSED", "COOKIE_WAIT", "COOKIE_ECHOED", "ESTABLISHED", "SHUTDOWN_SENT",
                                "SHUTDOWN_RECD", "SHUTDOWN_ACK_SENT", "HEARTBEAT_SENT"]


cdef char *put_address(char *out, const Address *address, uint8_t family) noexcept nogil:
    """IPv4 dotted; IPv6 in eight full groups, as `%pI6` writes it."""
    cdef int i
    for i in range(4 if family == FAMILY_IPV4 else 16):
        if family == FAMILY_IPV4:
            if i:
                out[0] = 46
                out += 1
            out = put_number(out, address.bytes[i])
        else:
            if i and i % 2 == 0:
                out[0] = 58
                out += 1
            out[0] = hex_digit(address.bytes[i] >> 4)
            out[1] = hex_digit(address.bytes[i])
            out += 2
    return out


cdef char *put_tuple(char *out, const Key *key) noexcept nogil:
    out = put_address(put(out, "src="), &key.src, key.family)
    out = put_address(put(out, " dst="), &key.dst, key.family)
    out[0] = 32
    return put_ports(out + 1, key)


cdef char *put_ports(char *out, const Key *key) noexcept nogil:
    """What tells connections of one protocol between two addresses apart."""
    if key.protocol == PROTO_ICMP or key.protocol == PROTO_ICMPV6:
        out = put_field(out, "type=", key.dport >> 8)
        out = put_field(out, "code=", key.dport & 0xFF)
        return put_field(out, "id=", key.sport)
    if (key.protocol == PROTO_TCP or key.protocol == PROTO_UDP or key.protocol == PROTO_UDPLITE
            or key.protocol == PROTO_SCTP):
        return put_field(put_field(out, "sport=", key.sport), "dport=", key.dport)
    if key.protocol == PROTO_GRE:
        return put_hex_field(put_hex_field(out, "srckey=0x", key.sport), "dstkey=0x", key.dport)
    return out


cdef char *put_counters(char *out, const Conn *conn, uint8_t direction, bint accounting) noexcept nogil:
    if accounting:
        out = put_field(out, "packets=", conn.packets[direction])
        out = put_field(out, "bytes=", conn.bytes[direction])
    return out


cdef const char *protocol_name(uint8_t protocol) noexcept nogil:
    if protocol == PROTO_TCP:
        return "tcp"
    if protocol == PROTO_UDP:
        return "udp"
    if protocol == PROTO_ICMP:
        return "icmp"
    if protocol == PROTO_ICMPV6:
        return "icmpv6"
    if protocol == PROTO_UDPLITE:
        return "udplite"
    if protocol == PROTO_SCTP:
        return "sctp"
    if protocol == PROTO_GRE:
        return "gre"
    return "unknown"


cdef const char *protocol_state_name(const Conn *conn) noexcept nogil:
    """NULL: its protocol has no states."""
    if conn.key.protocol == PROTO_TCP:
        return TCP_NAMES[conn.track.tcp.state]
    return SCTP_NAMES[conn.track.sctp.state] if conn.key.protocol == PROTO_SCTP else NULL


cdef uint64_t seconds_left(uint64_t deadline_ns, uint64_t now_ns) noexcept nogil:
    return (deadline_ns - now_ns) // 1000000000ULL if deadline_ns > now_ns else 0


cdef char *write_conn(char *out, const Conn *conn, uint64_t now_ns, Style style, const Settings *settings) noexcept nogil:
    """Write one line, at most LINE_MAX bytes; returns its end."""
    cdef const char *state = protocol_state_name(conn)
    cdef Key reply
    invert(&conn.key, &reply)
    if style == STYLE_NF:
        out = put_padded(out, "ipv4" if conn.key.family == FAMILY_IPV4 else "ipv6")
        out = put_field(out, "", conn.key.family)
    out = put_padded(out, protocol_name(conn.key.protocol))
    out = put_field(out, "", conn.key.protocol)
    out = put_field(out, "", seconds_left(conn.expires_ns, now_ns))
    if state != NULL:
        out = put(put(out, state), " ")
    elif conn.key.protocol == PROTO_GRE:
        out = put_number(put(out, "timeout="), settings.timeout_ns[TIMEOUT_GRE] // 1000000000)
        out = put_field(out, ", stream_timeout=", settings.timeout_ns[TIMEOUT_GRE_STREAM] // 1000000000)
    out = put_tuple(out, &conn.key)
    out = put_counters(out, conn, DIR_ORIGINAL, settings.accounting)
    if not conn.status & CONN_SEEN_REPLY:
        out = put(out, "[UNREPLIED] ")
    out = put_tuple(out, &reply)
    out = put_counters(out, conn, DIR_REPLY, settings.accounting)
    if conn.status & CONN_ASSURED:
        out = put(out, "[ASSURED] ")
    out = put_field(out, "mark=", conn.mark)
    return put(out, "use=1\n")


cdef char *write_expect(char *out, const Expect *expect, const char *helper, uint64_t now_ns) noexcept nogil:
    """Write one line of nf_conntrack_expect, at most LINE_MAX bytes; returns its end."""
    cdef Key key
    key.src = expect.src
    key.dst = expect.dst
    key.sport = 0
    key.dport = expect.dport
    key.protocol = expect.protocol
    key.family = expect.family
    key.zero = 0
    out = put_field(out, "", seconds_left(expect.deadline_ns, now_ns))
    out = put_field(out, "l3proto = ", expect.family)
    out = put_field(out, "proto=", expect.protocol)
    out = put_tuple(out, &key)
    if expect.state == EXPECT_INACTIVE:
        out = put(out, "INACTIVE ")
    return put(put(out, helper), "\n")
