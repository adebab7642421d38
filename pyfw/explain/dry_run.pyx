# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What would become of a packet: the engine's own judgement, in a copy, so that nothing changes.

May know: the engine, its tracker, what a packet can meet there.  Must not know: text, sockets, the clock.

Law: a dry run holds the lock for as long as one packet takes.  What the packet would find is copied from the
live tables first (its connection, an expectation, that one's master); then it is judged by the live rules, run dry.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from pyfw.conntrack.conn cimport CONN_ASSURED, CONN_CONFIRMED, Conn, Key, TcpPeer
from pyfw.conntrack.expect cimport Expect
from pyfw.conntrack.icmp cimport ICMP_ERROR, icmp_kind, icmp_quoted_key
from pyfw.conntrack.table cimport Table, invert
from pyfw.conntrack.tracker cimport Tracker, key_of
from pyfw.engine.engine cimport Engine, copy_name, present
from pyfw.engine.judgement cimport CJudgement, judgement_of
from pyfw.engine.observer cimport Observer, connection_line, keep_passed, packet_trace_of
from pyfw.enums cimport DIR_ORIGINAL, DIR_REPLY, HOOK_FORWARD
from pyfw.rules.parts cimport Context, RuleStep
from pyfw.wire.packet cimport CHECKSUM_TRUSTED, IFNAMSIZ, PROTO_ICMP, PROTO_ICMPV6, PROTO_SCTP, PROTO_TCP, Packet, parse

from typing import NamedTuple

from pyfw.enums import TcpState

cdef enum:
    STEPS = 65536               # of which an answer can tell
    COPIED = 4                  # connections and expectations that one packet can find, at most


class Known(NamedTuple):
    """What the table says of a packet's connection before the packet."""
    line: str                   # of /proc/net/nf_conntrack
    direction: int              # Direction of the packet
    tcp_state: TcpState | None
    next_seq: int               # TCP: what its sender says next, and has been told so far
    next_ack: int
    tag: int                    # SCTP: the verification tag that the packet must bear


class Answer(NamedTuple):
    packet_trace: object        # observer.PacketTrace; None: nothing that any stack would take for a packet
    judgement: object           # judgement.Judgement
    known: Known | None         # None: no connection is known to which it belongs
    master: str | None          # whose helper expected it, a line as Known.line
    full: bool                  # the table has no room for another connection


cdef class DryRun(Observer):
    """Sees the one packet that is asked about, and keeps it from changing anything."""

    def __cinit__(self):
        self.trace.steps = <RuleStep *> calloc(STEPS, sizeof(RuleStep))
        if self.trace.steps == NULL:
            raise MemoryError("no memory for an answer")
        self.trace.room = STEPS

    def __dealloc__(self):
        free(self.trace.steps)

    cdef void begin(self, Context *context) noexcept nogil:
        context.dry = True
        context.trace = &self.trace

    cdef void end(self, const Context *context, const CJudgement *judgement, uint64_t program) noexcept nogil:
        keep_passed(&self.passed, context, judgement, program)
        self.seen = True


cdef struct Findings:              # copies of what the packet meets
    Conn conn
    uint8_t has_conn
    uint8_t direction
    Conn master
    uint8_t expected
    uint8_t full


def dry_run(Engine engine not None, bytes data not None, int hook, str indev="", str outdev="", uint64_t now_ns=0, *,
        uint32_t mark=0, length=None, bint trusted=False, bytes hardware=None, owner=None) -> Answer:
    """What Engine.judge() would say of this packet now, and how it would come to that.

    hardware: the sender's Ethernet address, 6 bytes.  owner: (uid, gid) of the socket that sends it.
    Raises ValueError as judge() does.
    """
    cdef DryRun asking = DryRun()
    cdef Engine copy = Engine(max_entries=COPIED, expect_max=COPIED)
    cdef object program = engine.program
    cdef Packet packet, probe
    cdef CJudgement judgement
    cdef Findings found
    cdef char[IFNAMSIZ] names_in
    cdef char[IFNAMSIZ] names_out
    present(&packet, data, hook, length, trusted)
    copy_name(names_in, indev)
    copy_name(names_out, outdev)
    packet.indev = names_in
    packet.outdev = names_out
    packet.mark = mark
    if hardware is not None:
        packet.hardware = <const uint8_t *> <const char *> hardware
    if owner is not None:
        packet.has_owner = True
        packet.uid, packet.gid = owner
    copy.load(program)
    copy_limits(engine, copy)
    copy.observer = asking
    copy.observing = True
    probe = packet
    memset(&found, 0, sizeof(Findings))
    with nogil:
        engine.lock_background()
        copy_settings(engine, copy)
        if parse(&probe) == 0:
            copy_what_it_finds(engine.tracker, copy.tracker, &probe, now_ns, &found)
        copy.tracker.table.elsewhere = engine.tracker.table.count - copy.tracker.table.count
        copy.judge_packet(&packet, now_ns, &judgement)
        engine.unlock()
    return Answer(
        packet_trace_of(&asking.passed, asking.trace.steps, STEPS, data, program, engine.environment.helpers,
                   &engine.tracker.settings) if asking.seen else None,
        judgement_of(&judgement, program), known_of(&found, now_ns, engine.tracker) if found.has_conn else None,
        connection_line(&found.master, now_ns, &engine.tracker.settings) if found.expected else None, bool(found.full))


def find_known(Engine engine not None, bytes data not None, uint64_t now_ns) -> Known | None:
    """What the table says of the connection of a packet that begins with these bytes; None: it knows none."""
    cdef Packet packet
    cdef Key key
    cdef Findings found
    cdef char[IFNAMSIZ] no_name
    memset(no_name, 0, IFNAMSIZ)
    present(&packet, data, HOOK_FORWARD, None, True)
    packet.indev = packet.outdev = no_name
    memset(&found, 0, sizeof(Findings))
    if parse(&packet) or not packet.has_tuple:
        return None
    key_of(&packet, &key)
    with nogil:
        engine.lock_background()
        find_conn(engine.tracker.table, &key, &found)
        engine.unlock()
    return known_of(&found, now_ns, engine.tracker) if found.has_conn and found.conn.expires_ns > now_ns else None


cdef object known_of(const Findings *found, uint64_t now_ns, Tracker tracker):
    cdef const Conn *conn = &found.conn
    cdef const TcpPeer *sender = &conn.track.tcp.peer[found.direction]
    cdef const TcpPeer *receiver = &conn.track.tcp.peer[1 - found.direction]
    tcp = conn.key.protocol == PROTO_TCP
    return Known(connection_line(conn, now_ns, &tracker.settings), found.direction,
                 TcpState(conn.track.tcp.state) if tcp else None, sender.end if tcp else 0, receiver.end if tcp else 0,
                 conn.track.sctp.vtag[found.direction] if conn.key.protocol == PROTO_SCTP else 0)


# -- the copy ---------------------------------------------------------------------------------------------------------

cdef int copy_limits(Engine engine, Engine copy) except -1:
    """The limits per source themselves: what is only asked, they do not count.  Timeouts shrink as those of the live table."""
    cdef Table live = engine.tracker.table
    copy.limits = engine.limits
    copy.tracker.table.configure(
        evicts=live.evicts, adaptive=(live.adaptive_start, live.adaptive_end) if live.timers != NULL else None)
    return 0


cdef void copy_settings(Engine engine, Engine copy) noexcept nogil:
    copy.wall_offset_ns = engine.wall_offset_ns
    copy.zone_offset_s = engine.zone_offset_s
    copy.tracker.settings = engine.tracker.settings
    memcpy(copy.tracker.helper_rows, engine.tracker.helper_rows, sizeof(engine.tracker.helper_rows))


cdef void copy_what_it_finds(Tracker live, Tracker copy, Packet *packet, uint64_t now_ns, Findings *found) noexcept nogil:
    """The connection of a packet, or of the one that an ICMP error quotes, and the expectation that it would fulfil."""
    cdef Key key, quoted
    cdef uint32_t expected
    cdef uint8_t reason
    if not packet.has_tuple:
        return
    packet.checksum = CHECKSUM_TRUSTED          # judging will look at that
    if ((packet.protocol == PROTO_ICMP or packet.protocol == PROTO_ICMPV6)
            and icmp_kind(packet, &reason) == ICMP_ERROR):
        if icmp_quoted_key(packet, &quoted):
            invert(&quoted, &key)
            find_conn(live.table, &key, found)
    else:
        key_of(packet, &key)
        find_conn(live.table, &key, found)
        found.full = not live.table.has_room(&key, now_ns)
        expected = live.expectations.find(&key, now_ns)
        if expected:
            copy_expectation(live, copy, expected, found, now_ns)
    if found.has_conn:
        copy_conn(copy.table, &found.conn)
        found.has_conn = found.conn.expires_ns > now_ns
    copy.table.header.next_id = live.table.header.next_id
    if found.full:
        copy.table.header.max_entries = copy.table.header.used


cdef void copy_expectation(Tracker live, Tracker copy, uint32_t slot, Findings *found, uint64_t now_ns) noexcept nogil:
    """With its master, which is never evicted from the copy: the live table alone tells whether an entry would be."""
    cdef Expect expect = live.expectations.slots[slot]
    cdef Conn master
    if found.has_conn and found.conn.id == expect.master_id:
        return                                  # reopening this connection ends it, and what it expects
    found.expected = True
    found.master = live.table.conns[expect.master]
    master = found.master
    master.status |= CONN_ASSURED
    expect.master = copy_conn(copy.table, &master)
    copy.expectations.add(&expect, COPIED, now_ns)


cdef uint32_t copy_conn(Table table, const Conn *conn) noexcept nogil:
    """Enter a copy that has the same id; returns its slot."""
    cdef Conn same = conn[0]
    same.status &= ~<uint32_t> CONN_CONFIRMED
    table.header.next_id = conn.id
    return table.insert(&same, 0)


cdef void find_conn(Table table, const Key *key, Findings *found) noexcept nogil:
    """As Table.find(), which removes what has expired, and this does not."""
    cdef Key inverse
    cdef const Conn *conn
    cdef uint32_t slot = table.bucket(key)[0]
    invert(key, &inverse)
    while slot:
        conn = &table.conns[slot]
        if memcmp(&conn.key, &inverse, sizeof(Key)) == 0 or memcmp(&conn.key, key, sizeof(Key)) == 0:
            found.direction = DIR_REPLY if memcmp(&conn.key, &inverse, sizeof(Key)) == 0 else DIR_ORIGINAL
            found.conn = conn[0]
            found.has_conn = True
            return
        slot = conn.next
