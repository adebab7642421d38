# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Tests of a packet's connection: the kernel's xt_conntrack, xt_helper, xt_connbytes.

May know: the connection that the context holds.  Must not know: how it is tracked, syntax.
"""
from libc.string cimport memcpy
from pyfw.conntrack.conn cimport CONN_ASSURED, CONN_CONFIRMED, CONN_EXPECTED, CONN_SEEN_REPLY, Conn, Key
from pyfw.conntrack.table cimport invert
from pyfw.rules.parts cimport FITS, FITS_NOT
from pyfw.wire.packet cimport Address

cdef enum Field:
    FIELD_PROTOCOL, FIELD_SPORT, FIELD_DPORT, FIELD_REPLY_SPORT, FIELD_REPLY_DPORT, FIELD_STATUS, FIELD_EXPIRES, FIELD_DIRECTION

FIELDS = {"protocol": FIELD_PROTOCOL, "sport": FIELD_SPORT, "dport": FIELD_DPORT, "reply_sport": FIELD_REPLY_SPORT,
          "reply_dport": FIELD_REPLY_DPORT, "status": FIELD_STATUS, "expires": FIELD_EXPIRES, "direction": FIELD_DIRECTION}
STATUSES = {"EXPECTED": CONN_EXPECTED, "SEEN_REPLY": CONN_SEEN_REPLY, "ASSURED": CONN_ASSURED, "CONFIRMED": CONN_CONFIRMED}

cdef enum Mode:
    MODE_PACKETS, MODE_BYTES, MODE_AVERAGE

MODES = {"packets": MODE_PACKETS, "bytes": MODE_BYTES, "avgpkt": MODE_AVERAGE}


cdef class ConnTest(PacketMatch):
    """Whether a number of the connection lies from `low` to `high`; "status": whether it has a bit of `low`.

    ICMP has its id for a source port, its type and code for a destination port, as in the kernel's tuples.
    `without`: what fits packets that have no connection.
    """

    def __init__(self, str field, uint64_t low, uint64_t high, bint inverted, bint without):
        self.field, self.low, self.high = FIELDS[field], low, high
        self.inverted, self.without = inverted, without

    cdef Fit fits(self, Context *context) noexcept nogil:
        cdef const Conn *conn = context.conn
        cdef Key reply
        cdef uint64_t value = 0
        if conn == NULL:
            return FITS if self.without else FITS_NOT
        if self.field == FIELD_STATUS:
            return FITS if (conn.status & self.low != 0) != self.inverted else FITS_NOT
        if self.field == FIELD_PROTOCOL:
            value = conn.key.protocol
        elif self.field == FIELD_SPORT:
            value = conn.key.sport
        elif self.field == FIELD_DPORT:
            value = conn.key.dport
        elif self.field == FIELD_REPLY_SPORT or self.field == FIELD_REPLY_DPORT:
            invert(&conn.key, &reply)
            value = reply.sport if self.field == FIELD_REPLY_SPORT else reply.dport
        elif self.field == FIELD_DIRECTION:
            value = context.direction
        elif conn.status & CONN_CONFIRMED and conn.expires_ns > context.now_ns:     # else it is not in the table yet
            value = (conn.expires_ns - context.now_ns) // 1000000000
        return FITS if (self.low <= value <= self.high) != self.inverted else FITS_NOT


cdef class ConnAddressTest(PacketMatch):
    """Whether the connection's original source (or destination) is in a network, given as packed address and mask."""

    def __init__(self, bint source, bytes address, bytes mask, bint inverted, bint without):
        self.source, self.inverted, self.without = source, inverted, without
        memcpy(self.address, <const char *> address, len(address))
        memcpy(self.mask, <const char *> mask, len(mask))

    cdef Fit fits(self, Context *context) noexcept nogil:
        cdef const Address *address
        cdef bint inside
        if context.conn == NULL:
            return FITS if self.without else FITS_NOT
        address = &context.conn.key.src if self.source else &context.conn.key.dst
        inside = address.halves[0] & self.mask[0] == self.address[0] and address.halves[1] & self.mask[1] == self.address[1]
        return FITS if inside != self.inverted else FITS_NOT


cdef class HelperTest(PacketMatch):
    """Whether the packet's connection was expected by a helper that `name` is, or begins with: ftp-2121 is ftp's; "": by any
    (helper_mt())."""

    def __init__(self, str name, bint inverted):
        self.name, self.inverted = name, inverted

    def bind(self, environment) -> None:
        self.numbers = sum(1 << number for number, helper in enumerate(environment.helpers, 1)
                           if not self.name or self.name.startswith(helper))

    cdef Fit fits(self, Context *context) noexcept nogil:
        cdef bint named
        cdef bint expected = context.conn != NULL and context.conn.master_helper != 0
        if not expected:
            return FITS if self.inverted else FITS_NOT
        named = self.numbers >> context.conn.master_helper & 1
        return FITS if named != self.inverted else FITS_NOT


cdef class ConnBytesTest(PacketMatch):
    """Whether what the connection has carried so far, this packet included, lies from `low` to `high`."""

    def __init__(self, uint64_t low, uint64_t high, str mode, bint original, bint reply, bint inverted):
        self.low, self.high, self.mode = low, high, MODES[mode]
        self.original, self.reply, self.inverted = original, reply, inverted

    cdef Fit fits(self, Context *context) noexcept nogil:
        cdef const Conn *conn = context.conn
        cdef uint64_t packets, size, value
        if conn == NULL:
            return FITS_NOT
        packets = self.original * conn.packets[0] + self.reply * conn.packets[1]
        size = self.original * conn.bytes[0] + self.reply * conn.bytes[1]
        if self.mode == MODE_PACKETS:
            value = packets
        elif self.mode == MODE_BYTES:
            value = size
        else:
            value = size // packets if packets else 0
        return FITS if (self.low <= value <= self.high) != self.inverted else FITS_NOT
