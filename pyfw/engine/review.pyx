# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Connections that a ruleset would not have accepted leave the table.

May know: the engine, its tracker, programs.  Must not know: sockets, the clock.

A connection would not have been accepted if the rules drop its first packet, made anew:

    where       the hook and the interfaces at which the real one was met
    what        its tuple; TCP a SYN, SCTP an INIT, ICMP the request, no payload, TTL 64, not fragmented
    state       NEW, for a connection that a helper expected RELATED, with the mark it has; UNTRACKED where the raw table says so
    not known   the packet's mark before the rules, its sender's Ethernet address, the user who sent it: as a packet without
    the rest    lists of recent, address sets, the time of day as they are now; limit, hashlimit and connlimit have room, and
                statistic never matches

Law: one connection is judged, and taken out, with the lock held; nothing else is changed by that, no counter and no limit.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from cpython.bytes cimport PyBytes_FromStringAndSize

from pyfw.conntrack.conn cimport CONN_EXPECTED, Conn, Key
from pyfw.conntrack.first_seen cimport read_origin
from pyfw.conntrack.text.proc cimport LINE_MAX, STYLE_NF, write_conn
from pyfw.conntrack.tracker cimport Found, Tracker
from pyfw.engine.engine cimport Engine
from pyfw.engine.walk cimport SLICE_SLOTS, Walk
from pyfw.enums cimport DIR_NONE, STATE_INVALID, STATE_RELATED, STATE_UNTRACKED, VERDICT_ACCEPT
from pyfw.rules.parts cimport Context, Outcome
from pyfw.rules.program.flat cimport TABLE_FILTER, TABLE_RAW
from pyfw.rules.program.program cimport Program
from pyfw.wire.packet cimport (CHECKSUM_TRUSTED, FAMILY_IPV4, PROTO_GRE, PROTO_ICMP, PROTO_ICMPV6, PROTO_SCTP, PROTO_TCP,
                               PROTO_UDP, PROTO_UDPLITE, TH_SYN, Packet, parse)

from typing import NamedTuple

cdef enum:
    FIRST_SLOT = 1
    SLICE_RULES = 1 << 16       # met in one call, about, by connections that walk through all of them
    PACKET_BYTES = 128          # more than any packet made here has
    TTL = 64
    WINDOW = 0xFFFF
    INIT_BYTES = 20

cdef enum Fate:
    KEPT
    REFUSED
    UNKNOWN                     # its first packet cannot be made anew


class Slice(NamedTuple):
    """What came of a part of the table."""
    text: bytes                 # the connections taken out, as lines of /proc/net/nf_conntrack
    killed: int
    unknown: int                # connections whose first packet is not known: they stay
    cursor: int                 # where the next part begins; 0: this was the last


cdef class Reviewer(Walk):
    """Judges the connections of `engine` by `program`."""
    cdef Program program
    cdef Tracker tracker        # in which no connection is ever entered: every packet is a first one
    cdef uint32_t slots         # looked at in one call, which must be short: its caller waits
    cdef uint8_t bytes[PACKET_BYTES]
    cdef Conn *killed           # in this call, at most SLICE_SLOTS
    cdef uint32_t refused
    cdef uint32_t unknown

    def __cinit__(self):
        self.killed = <Conn *> malloc(SLICE_SLOTS * sizeof(Conn))
        if self.killed == NULL:
            raise MemoryError("no memory to review connections")

    def __dealloc__(self):
        free(self.killed)

    def __init__(self, Engine engine not None, Program program not None):
        super().__init__(engine)
        self.program = program
        self.slots = max(1, min(SLICE_SLOTS, SLICE_RULES // (1 + len(program.numbering))))
        self.tracker = Tracker(1, 1, bytearray(Tracker.space(1, 1)), bytes(16), bytes(16))
        self.tracker.settings = engine.tracker.settings
        memcpy(self.tracker.helper_rows, engine.tracker.helper_rows, sizeof(engine.tracker.helper_rows))

    def review(self, uint32_t cursor, uint64_t now_ns) -> Slice:
        """Take out of the next part of the table what would not have been accepted; begin with cursor 1."""
        cdef char *text = <char *> malloc(SLICE_SLOTS * LINE_MAX)
        cdef char *end = text
        cdef uint32_t stop = cursor + self.slots, i
        if text == NULL:
            raise MemoryError("no memory to tell of connections")
        self.now_ns = now_ns
        self.refused = self.unknown = 0
        with nogil:
            while cursor and cursor < stop:
                cursor = self.go(cursor, 1)
            for i in range(self.refused):
                end = write_conn(end, &self.killed[i], now_ns, STYLE_NF, &self.engine.tracker.settings)
        try:
            return Slice(PyBytes_FromStringAndSize(text, end - text), self.refused, self.unknown, cursor)
        finally:
            free(text)

    cdef void meet(self, uint32_t slot, Conn *conn) noexcept nogil:
        cdef Fate fate = self.fate_of(conn, self.now_ns)
        if fate == REFUSED:
            self.killed[self.refused] = conn[0]
            self.refused += 1
            self.table.remove(slot, self.now_ns)
        self.unknown += fate == UNKNOWN

    cdef Fate fate_of(self, const Conn *conn, uint64_t now_ns) noexcept nogil:
        cdef Packet packet
        cdef Context context
        cdef Outcome outcome
        cdef Found found
        memset(&packet, 0, sizeof(Packet))
        packet.hook = read_origin(&self.engine.tracker.table.header, conn.origin, &packet.indev, &packet.outdev)
        if packet.hook == 0:
            return UNKNOWN
        packet.data = self.bytes
        packet.captured = write_first_packet(conn, self.bytes)
        packet.checksum = CHECKSUM_TRUSTED
        if parse(&packet):
            return UNKNOWN
        memset(&context, 0, sizeof(Context))
        context.packet = &packet
        context.state = STATE_INVALID           # what rules see before tracking
        context.direction = DIR_NONE
        context.now_ns = now_ns
        context.wall_ns = now_ns + self.engine.wall_offset_ns
        context.zone_offset_s = self.engine.zone_offset_s
        context.dry = True
        context.unlimited = True
        self.program.run(TABLE_RAW, &context, &outcome)
        if outcome.verdict != VERDICT_ACCEPT:
            return REFUSED
        if outcome.notrack:
            context.state = STATE_UNTRACKED
        else:
            memset(&found, 0, sizeof(Found))
            self.tracker.track(&packet, outcome.helper, now_ns, &found)
            if found.conn == NULL:
                return UNKNOWN
            context.state = found.state
            context.direction = found.direction
            context.conn = found.conn
            if conn.status & CONN_EXPECTED:
                self.expect(conn, &context)
        self.program.run(TABLE_FILTER, &context, &outcome)
        return KEPT if outcome.verdict == VERDICT_ACCEPT else REFUSED

    cdef void expect(self, const Conn *conn, Context *context) noexcept nogil:
        """What sets a connection that a helper expected apart from any other."""
        context.state = STATE_RELATED
        context.conn.status |= CONN_EXPECTED
        context.conn.helper = conn.helper
        context.conn.master_id = conn.master_id
        context.conn.master_helper = conn.master_helper
        context.conn.mark = conn.mark


# -- a first packet -----------------------------------------------------------------------------------------------------

cdef inline void put16(uint8_t *p, uint16_t value) noexcept nogil:
    p[0], p[1] = <uint8_t> (value >> 8), <uint8_t> value


cdef uint32_t write_first_packet(const Conn *conn, uint8_t *out) noexcept nogil:
    """An IP packet that begins this connection; returns its length.  Checksums are left out."""
    cdef const Key *key = &conn.key
    cdef uint32_t start = 20 if key.family == FAMILY_IPV4 else 40
    cdef uint32_t size
    memset(out, 0, PACKET_BYTES)
    size = write_transport(key, out + start)
    if key.family == FAMILY_IPV4:
        out[0] = 0x45
        put16(out + 2, <uint16_t> (start + size))
        out[8], out[9] = TTL, key.protocol
        memcpy(out + 12, key.src.bytes, 4)
        memcpy(out + 16, key.dst.bytes, 4)
    else:
        out[0] = 0x60
        put16(out + 4, <uint16_t> size)
        out[6], out[7] = key.protocol, TTL
        memcpy(out + 8, key.src.bytes, 16)
        memcpy(out + 24, key.dst.bytes, 16)
    return start + size


cdef uint32_t write_transport(const Key *key, uint8_t *p) noexcept nogil:
    """Its length; `p` has room for it and holds zeros."""
    if key.protocol == PROTO_ICMP or key.protocol == PROTO_ICMPV6:
        put16(p, key.dport)                     # type and code
        put16(p + 4, key.sport)
        return 8
    if key.protocol == PROTO_GRE:
        if key.dport == 0:
            return 4
        put16(p, 0x2001)                        # version 1 with a key, as PPTP sends it (RFC 2637)
        put16(p + 2, 0x880B)
        put16(p + 6, key.dport)
        return 8
    if (key.protocol != PROTO_TCP and key.protocol != PROTO_UDP and key.protocol != PROTO_UDPLITE
            and key.protocol != PROTO_SCTP):
        return 0
    put16(p, key.sport)
    put16(p + 2, key.dport)
    if key.protocol == PROTO_TCP:
        p[12], p[13] = 5 << 4, TH_SYN
        put16(p + 14, WINDOW)
        return 20
    if key.protocol == PROTO_SCTP:
        p[12] = 1                               # INIT (RFC 9260, 3.3.2): its tag must not be 0
        put16(p + 14, INIT_BYTES)
        p[19] = 1
        put16(p + 20, WINDOW)
        put16(p + 24, 1)
        put16(p + 26, 1)
        return 12 + INIT_BYTES
    put16(p + 4, 8)
    put16(p + 6, key.protocol == PROTO_UDPLITE)     # whose checksum must not be missing
    return 8


def review(Engine engine not None, program, now_ns):
    """Take out all that `program` would not have accepted, part by part: yields a Slice for each.  None accepts everything."""
    reviewer = None if program is None else Reviewer(engine, program)
    cursor = FIRST_SLOT if reviewer else 0
    while cursor:
        part = reviewer.review(cursor, now_ns)
        cursor = part.cursor
        yield part
