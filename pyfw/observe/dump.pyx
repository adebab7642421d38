# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Looking into the table, and removing from it, while packets go on.

May know: the engine's lock, entries, their formats.  Must not know: sockets, the clock.

Law: text is made without the lock.  A listing is no snapshot, but a walk (walk.pyx).
"""
from libc.stdlib cimport free, malloc
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from pyfw.conntrack.conn cimport CONN_ASSURED, CONN_EXPECTED, CONN_SEEN_REPLY, Conn, Key
from pyfw.conntrack.expect cimport EXPECT_FREE, Expect
from pyfw.conntrack.selection cimport Selection
from pyfw.conntrack.sources cimport Source, Sources
from pyfw.conntrack.table cimport invert
from pyfw.conntrack.text.proc cimport LINE_MAX, STYLE_NF, STYLE_PROC, Style, write_conn, write_expect
from pyfw.engine.engine cimport Engine
from pyfw.engine.source_limits cimport SourceLimits
from pyfw.engine.walk cimport SLICE_SLOTS, Walk
from pyfw.enums cimport DIR_ORIGINAL, DIR_REPLY
from pyfw.wire.packet cimport FAMILY_IPV4, PROTO_GRE, PROTO_ICMP, PROTO_ICMPV6, PROTO_SCTP, PROTO_TCP, Address

from cpython.bytes cimport PyBytes_FromStringAndSize

import ipaddress

from pyfw.conntrack import sctp_states
from pyfw.enums import TcpState

cdef enum:
    DELETED_SLOTS = 128         # of a slice, where what is found is taken out
    CHUNK = 128 * 1024          # text per call


cdef class Listing(Walk):
    """Copies the selected connections; delete: removes them."""
    cdef Selection selection
    cdef bint delete
    cdef Conn *found            # of a slice
    cdef uint32_t count

    def __cinit__(self, Engine engine not None, Selection selection not None, uint64_t now_ns, bint delete):
        self.found = <Conn *> malloc(SLICE_SLOTS * sizeof(Conn))
        if self.found == NULL:
            raise MemoryError("no memory for a piece of the listing")

    def __init__(self, Engine engine not None, Selection selection not None, uint64_t now_ns, bint delete):
        super().__init__(engine)
        self.selection, self.now_ns, self.delete = selection, now_ns, delete

    def __dealloc__(self):
        free(self.found)

    cdef uint32_t collect(self, uint32_t cursor) noexcept nogil:
        """The next slice; returns the next cursor, 0 at the end."""
        self.count = 0
        return self.go(cursor, DELETED_SLOTS if self.delete else SLICE_SLOTS)

    cdef void meet(self, uint32_t slot, Conn *conn) noexcept nogil:
        if self.selection.takes(conn):
            self.found[self.count] = conn[0]
            self.count += 1
            if self.delete:
                self.table.remove(slot, self.now_ns)


def dump_text(Engine engine not None, Selection selection not None, str style, uint32_t cursor, uint64_t now_ns,
               bint delete=False) -> tuple[bytes, int, int]:
    """The next piece of the table as lines of text; style "proc" or "nf"; begin with cursor 1.

    Returns (text, next cursor or 0 at the end, number of lines).  delete: removes what it lists.
    """
    cdef Style look = STYLE_NF if style == "nf" else STYLE_PROC
    cdef Listing listing = Listing(engine, selection, now_ns, delete)
    cdef char *text = <char *> malloc(CHUNK + SLICE_SLOTS * LINE_MAX)
    cdef char *end = text
    cdef uint32_t i, lines = 0
    if text == NULL:
        raise MemoryError("no memory for a piece of the listing")
    with nogil:
        while cursor and end - text < CHUNK:
            cursor = listing.collect(cursor)
            for i in range(listing.count):
                end = write_conn(end, &listing.found[i], now_ns, look, &engine.tracker.settings)
            lines += listing.count
    try:
        return PyBytes_FromStringAndSize(text, end - text), cursor, lines
    finally:
        free(text)


def dump_records(Engine engine not None, Selection selection not None, uint32_t cursor, uint64_t now_ns,
                  bint delete=False) -> tuple[list, int]:
    """The next slice of the table as dictionaries; begin with cursor 1.  Returns (records, next cursor or 0)."""
    cdef Listing listing = Listing(engine, selection, now_ns, delete)
    cdef uint32_t i
    with nogil:
        cursor = listing.collect(cursor)
    return [record(&listing.found[i], now_ns) for i in range(listing.count)], cursor


cdef class Counting(Walk):
    cdef Selection selection
    cdef uint32_t total

    cdef void meet(self, uint32_t slot, Conn *conn) noexcept nogil:
        self.total += self.selection.takes(conn)


def count_entries(Engine engine not None, uint64_t now_ns, Selection selection=None) -> int:
    """Connections in the table, or the selected ones of them; those that expired and were not swept yet are not counted."""
    cdef Counting counting = Counting(engine)
    cdef uint32_t cursor = 1
    counting.selection, counting.now_ns = selection or Selection(), now_ns
    with nogil:
        while cursor:
            cursor = counting.go(cursor, SLICE_SLOTS)
    return counting.total


cdef str address_text(const Address *address, uint8_t family):
    return str(ipaddress.ip_address((<const char *> address.bytes)[:4 if family == FAMILY_IPV4 else 16]))


cdef dict side(const Conn *conn, const Key *key, uint8_t direction):
    result = {"src": address_text(&key.src, key.family), "dst": address_text(&key.dst, key.family)}
    if key.protocol == PROTO_ICMP or key.protocol == PROTO_ICMPV6:
        result.update(type=key.dport >> 8, code=key.dport & 0xFF, id=key.sport)
    elif key.protocol == PROTO_GRE:
        result.update(srckey=key.sport, dstkey=key.dport)
    elif key.sport or key.dport:
        result.update(sport=key.sport, dport=key.dport)
    result.update(packets=conn.packets[direction], bytes=conn.bytes[direction])
    return result


cdef str state_name(const Conn *conn):
    if conn.key.protocol == PROTO_TCP:
        return TcpState(conn.track.tcp.state).name
    return sctp_states.NAMES[conn.track.sctp.state] if conn.key.protocol == PROTO_SCTP else None


cdef dict record(const Conn *conn, uint64_t now_ns):
    cdef Key reply
    invert(&conn.key, &reply)
    return {
        "id": conn.id,
        "family": "ipv4" if conn.key.family == FAMILY_IPV4 else "ipv6",
        "protocol": conn.key.protocol,
        "state": state_name(conn),
        "timeout": (conn.expires_ns - now_ns) / 1e9 if conn.expires_ns > now_ns else 0.0,
        "age": (now_ns - conn.created_ns) / 1e9 if now_ns > conn.created_ns else 0.0,
        "original": side(conn, &conn.key, DIR_ORIGINAL),
        "reply": side(conn, &reply, DIR_REPLY),
        "seen_reply": bool(conn.status & CONN_SEEN_REPLY),
        "assured": bool(conn.status & CONN_ASSURED),
        "expected": bool(conn.status & CONN_EXPECTED),
        "mark": conn.mark,
    }


cdef struct SourceRow:
    Source source
    uint32_t begun


cdef uint32_t collect_sources(Engine engine, Sources sources, uint32_t *cursor, uint64_t now_ns,
                              SourceRow *found) noexcept nogil:
    """Copy the sources of the next slice that count for something; cursor becomes 0 at the end."""
    cdef uint32_t number, count = 0, end
    cdef SourceRow *row
    engine.lock_background()
    end = min(cursor[0] + SLICE_SLOTS, sources.used + 1)
    for number in range(cursor[0], end):
        row = &found[count]
        row.source = sources.sources[number]
        row.begun = sources.begun(number, now_ns)
        if row.source.family and (row.source.states or row.begun):
            count += 1
    cursor[0] = end if end <= sources.used else 0
    engine.unlock()
    return count


def source_records(Engine engine not None, uint32_t cursor, uint64_t now_ns) -> tuple[list, int]:
    """The next slice of the sources that the limits per source know, as dictionaries; begin with cursor 1.

    source: an address, or the network that counts as one; states: its connections; connections: of these, those whose TCP
    handshake was completed; new: begun within the window.  Returns (records, next cursor or 0 at the end).
    """
    cdef SourceLimits limits = engine.limits
    cdef SourceRow *found = <SourceRow *> malloc(SLICE_SLOTS * sizeof(SourceRow))
    cdef uint32_t count, i
    if found == NULL:
        raise MemoryError("no memory for a piece of the listing")
    with nogil:
        count = collect_sources(engine, limits.sources, &cursor, now_ns, found)
    try:
        return [{"source": network_text(&found[i].source, limits.prefixes), "states": found[i].source.states,
                 "connections": found[i].source.established, "new": found[i].begun} for i in range(count)], cursor
    finally:
        free(found)


cdef str network_text(const Source *source, const uint8_t *prefixes):
    cdef uint8_t prefix = prefixes[source.family != FAMILY_IPV4]
    text = address_text(&source.network, source.family)
    return text if prefix == (32 if source.family == FAMILY_IPV4 else 128) else f"{text}/{prefix}"


def expect_text(Engine engine not None, uint64_t now_ns) -> str:
    """The expectations as lines of /proc/net/nf_conntrack_expect."""
    cdef char[LINE_MAX] line
    cdef Expect expect
    cdef char *end
    cdef uint32_t slot = 0
    cdef bint listed
    cdef tuple helpers = engine.environment.helpers
    lines = []
    while slot < engine.tracker.expectations.used:
        slot += 1
        with nogil:
            engine.lock_background()
            expect = engine.tracker.expectations.slots[slot]
            listed = expect.state != EXPECT_FREE and engine.tracker.expectations.lives(&expect, now_ns)
            engine.unlock()
        if listed:
            name = helpers[expect.helper - 1].encode() if 0 < expect.helper <= len(helpers) else b"-"
            end = write_expect(line, &expect, name, now_ns)
            lines.append((<const char *> line)[:end - line].decode())
    return "".join(lines)
