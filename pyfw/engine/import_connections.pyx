# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Enters connections into the table that another tracker, such as the kernel, has tracked until now.

May know: the engine, its table.  Must not know: where they come from, sockets, the clock.

Their windows are unknown, and learnt from the first packets of each direction.  Until such a connection ends, only an
RST can be out of its window, as for what the kernel picks up in mid-stream (IP_CT_TCP_FLAG_BE_LIBERAL).
"""
from collections.abc import Iterable
from typing import NamedTuple

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy, memset

from pyfw.conntrack.conn cimport CONN_ASSURED, CONN_EXPECTED, CONN_SEEN_REPLY, HELPER_MEMORY, SCTP_STATE_MAX, WINDOW_SCALE_MAX, Conn
from pyfw.conntrack.tcp_segment cimport PEER_LIBERAL
from pyfw.engine.engine cimport Engine
from pyfw.enums cimport TCP_NONE, TCP_STATES
from pyfw.wire.packet cimport FAMILY_IPV4, FAMILY_IPV6, PROTO_SCTP, PROTO_TCP, Address


class Foreign(NamedTuple):
    """One connection.  `src` opened it; addresses are packed; for ICMP sport is the id, dport type << 8 | code."""

    src: bytes
    dst: bytes
    protocol: int
    sport: int = 0
    dport: int = 0
    seen_reply: bool = False
    assured: bool = False
    expected: bool = False              # it was RELATED
    timeout_s: int = 0                  # until it ends if no packet comes
    mark: int = 0
    helper: str | None = None
    packets: tuple[int, int] = (0, 0)   # sent by who opened it, by the other side
    bytes: tuple[int, int] = (0, 0)
    state: int = 0                      # TCP: enum tcp_conntrack; SCTP: enum sctp_conntrack
    flags: tuple[int, int] = (0, 0)     # TCP: IP_CT_TCP_FLAG_*
    scale: tuple[int, int] = (0, 0)     # TCP: window scale
    tags: tuple[int, int] = (0, 0)      # SCTP: verification tags


def import_connections(Engine engine, connections: Iterable[Foreign], uint64_t now_ns) -> int:
    """Enter those that are not known, as far as there is room; returns how many.  ValueError for what cannot be one."""
    cdef Conn conn
    cdef uint8_t direction
    cdef int adopted = 0
    cdef bint entered
    helpers = list(engine.environment.helpers)
    for foreign in connections:
        fill(&conn, foreign, helpers, now_ns)
        with nogil:
            engine.lock_background()
            entered = (engine.tracker.table.count < engine.tracker.table.header.max_entries
                       and engine.tracker.table.find(&conn.key, now_ns, &direction) == 0
                       and engine.tracker.table.insert(&conn, now_ns) != 0)
            engine.unlock()
        adopted += entered
    return adopted


cdef fill(Conn *conn, foreign, list helpers, uint64_t now_ns):
    cdef int side
    memset(conn, 0, sizeof(Conn))
    if len(foreign.src) != len(foreign.dst) or len(foreign.src) not in (4, 16):
        raise ValueError(f"{len(foreign.src)} and {len(foreign.dst)} bytes are no pair of addresses")
    set_address(&conn.key.src, foreign.src)
    set_address(&conn.key.dst, foreign.dst)
    conn.key.family = FAMILY_IPV4 if len(foreign.src) == 4 else FAMILY_IPV6
    conn.key.protocol = foreign.protocol
    conn.key.sport, conn.key.dport = foreign.sport, foreign.dport
    conn.status = (CONN_SEEN_REPLY * foreign.seen_reply | CONN_ASSURED * foreign.assured | CONN_EXPECTED * foreign.expected)
    conn.mark = foreign.mark
    conn.created_ns = now_ns
    conn.expires_ns = now_ns + <uint64_t> foreign.timeout_s * 1000000000
    if foreign.helper in helpers:
        conn.helper = helpers.index(foreign.helper) + 1
        memset(conn.helper_memory, 0xFF, HELPER_MEMORY)     # it did not hear the beginning
    for side in range(2):
        conn.packets[side] = foreign.packets[side]
        conn.bytes[side] = foreign.bytes[side]
        if foreign.protocol == PROTO_TCP:
            conn.track.tcp.peer[side].flags = foreign.flags[side] | PEER_LIBERAL
            conn.track.tcp.peer[side].scale = min(foreign.scale[side], WINDOW_SCALE_MAX)
        elif foreign.protocol == PROTO_SCTP:
            conn.track.sctp.vtag[side] = foreign.tags[side]
    if foreign.protocol == PROTO_TCP:
        conn.track.tcp.state = foreign.state if foreign.state < TCP_STATES else TCP_NONE
    elif foreign.protocol == PROTO_SCTP:
        conn.track.sctp.state = foreign.state if foreign.state <= SCTP_STATE_MAX else 0


cdef void set_address(Address *out, bytes raw):
    memcpy(out, <const char *> raw, len(raw))
