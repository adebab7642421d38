# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""SCTP: chunk by chunk through the transition table, with the verification tags of both sides.

May know: its own track in the Conn, the packet, the settings.  Must not know: the table, rules, other protocols.
Facts: RFC 9260 (sections 8.4, 8.5 for the tags); behaviour of Linux nf_conntrack_proto_sctp.
"""
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memset

from pyfw.conntrack import sctp_states
from pyfw.conntrack.conn cimport CONN_ASSURED, CONN_CONFIRMED, Conn, SctpTrack
from pyfw.conntrack.protocol cimport ACTION_INVALID, ACTION_PASS, ACTION_RENEW, TIMEOUT_SCTP, Settings, TrackerAnswer
from pyfw.enums cimport (DIR_ORIGINAL, DIR_REPLY, REASON_NONE, REASON_SCTP_CHECKSUM, REASON_SCTP_CHUNK, REASON_SCTP_EMPTY,
                         REASON_SCTP_NEW, REASON_SCTP_STATE, REASON_SCTP_VTAG)
from pyfw.wire.packet cimport CHECKSUM_TRUSTED, Packet, be16, be32

cdef extern from "<arpa/inet.h>" nogil:
    uint32_t htonl(uint32_t)

cdef enum:
    SCTP_NONE = 0
    SCTP_ESTABLISHED = 4
    SCTP_STATES = 9
    SCTP_INVALID = 255
    SCTP_HEADER = 12
    CHUNK_HEADER = 4
    CHUNK_DATA = 0
    CHUNK_INIT = 1
    CHUNK_INIT_ACK = 2
    CHUNK_HEARTBEAT = 4
    CHUNK_HEARTBEAT_ACK = 5
    CHUNK_ABORT = 6
    CHUNK_SHUTDOWN_ACK = 8
    CHUNK_COOKIE_ECHO = 10
    CHUNK_COOKIE_ACK = 11
    CHUNK_SHUTDOWN_COMPLETE = 14
    MOVING_CHUNKS = 15          # types below this may move the state
    CHUNK_FLAG_T = 1            # the tag is the other side's: the sender has no association
    HEARTBEAT_TAG_FAILED = 1    # SctpTrack.flags

cdef uint8_t[2][MOVING_CHUNKS][SCTP_STATES] TRANSITION
cdef uint32_t[256] CRC32C

cdef void load_transitions():
    cdef int d, c, s
    for d in range(2):
        for c in range(MOVING_CHUNKS):
            for s in range(SCTP_STATES):
                TRANSITION[d][c][s] = <uint8_t> s
        for name, row in (sctp_states.REPLY if d else sctp_states.ORIGINAL).items():
            c = sctp_states.CHUNKS[name]
            for s, result in enumerate(row.split()):
                TRANSITION[d][c][s] = SCTP_INVALID if result == "IV" else sctp_states.STATES.index(result)

cdef void load_crc():
    """The table of CRC32c (RFC 9260, appendix A), reflected polynomial 0x82f63b78."""
    cdef uint32_t value
    cdef int i, bit
    for i in range(256):
        value = i
        for bit in range(8):
            value = (value >> 1) ^ (0x82f63b78 if value & 1 else 0)
        CRC32C[i] = value

load_transitions()
load_crc()

cdef struct Chunk:              # a chunk of the packet in hand
    const uint8_t *data
    uint8_t type
    uint8_t flags


cdef bint next_chunk(const Packet *packet, uint32_t *offset, Chunk *chunk) noexcept nogil:
    """Step to the chunk at `offset` (from the packet's start); False at the end.

    A chunk of length 0 would be met again for ever: chunks_fit() has seen to it that there is none.
    """
    cdef uint32_t length
    if offset[0] + CHUNK_HEADER > packet.captured:
        return False
    chunk.data = packet.data + offset[0]
    length = be16(chunk.data + 2)
    chunk.type = chunk.data[0]
    chunk.flags = chunk.data[1]
    offset[0] += (length + 3) & ~<uint32_t> 3
    return True


cdef inline bint init_tag(const Packet *packet, const Chunk *chunk, uint32_t *tag) noexcept nogil:
    """The tag that an INIT or INIT ACK chooses; False where its fixed part (16 bytes) is not all there."""
    if chunk.data + CHUNK_HEADER + 16 > packet.data + packet.captured:
        return False
    tag[0] = be32(chunk.data + CHUNK_HEADER)
    return True


cdef inline uint32_t packet_tag(const Packet *packet) noexcept nogil:
    return be32(packet.data + packet.transport + 4)


cdef bint sctp_packet_ok(const Packet *packet, uint8_t *reason) noexcept nogil:
    """Whether the CRC32c is right, where it can and must be checked."""
    cdef const uint8_t *p = packet.data + packet.transport
    cdef uint32_t crc = 0xFFFFFFFF
    cdef uint32_t i
    if packet.checksum == CHECKSUM_TRUSTED or packet.captured < packet.length:
        return True
    for i in range(packet.transport_length):
        crc = CRC32C[(crc ^ (0 if 8 <= i < 12 else p[i])) & 0xFF] ^ (crc >> 8)
    crc = ~crc
    if p[8] | (<uint32_t> p[9] << 8) | (<uint32_t> p[10] << 16) | (<uint32_t> p[11] << 24) != crc:
        reason[0] = REASON_SCTP_CHECKSUM
        return False
    return True


cdef bint chunks_fit(const Packet *packet, uint32_t *present, TrackerAnswer *answer) noexcept nogil:
    """Whether the chunks may stand together; sets a bit in `present` for each type below 32, or the reason in answer."""
    cdef uint32_t offset = packet.transport + SCTP_HEADER
    cdef uint32_t count = 0
    cdef bint alone = False
    cdef Chunk chunk
    present[0] = 0
    while next_chunk(packet, &offset, &chunk):
        if chunk.type == CHUNK_INIT or chunk.type == CHUNK_INIT_ACK or chunk.type == CHUNK_SHUTDOWN_COMPLETE:
            alone = True
        if be16(chunk.data + 2) == 0 or count and (alone or chunk.type == CHUNK_COOKIE_ACK
                                                   or chunk.type == CHUNK_COOKIE_ECHO):
            answer.reason.number = REASON_SCTP_CHUNK
            answer.reason.argument[0] = count
            answer.reason.argument[1] = chunk.type
            answer.reason.argument[2] = be16(chunk.data + 2)
            answer.reason.argument[3] = alone
            return False
        if chunk.type < 32:
            present[0] |= <uint32_t> 1 << chunk.type
        count += 1
    if count == 0:
        answer.reason.number = REASON_SCTP_EMPTY
    return count != 0


cdef inline bint has(uint32_t present, int type) noexcept nogil:
    return (present >> type) & 1 != 0


cdef bint sctp_open(Conn *conn, const Packet *packet, const Settings *settings, TrackerAnswer *answer) noexcept nogil:
    """Prepare the track of an association that begins with this packet; False (and answer.reason) if none may."""
    cdef SctpTrack *track = &conn.track.sctp
    cdef uint32_t offset = packet.transport + SCTP_HEADER
    cdef uint32_t present
    cdef Chunk chunk
    memset(track, 0, sizeof(SctpTrack))
    if not chunks_fit(packet, &present, answer):
        return False
    answer.reason.number = REASON_SCTP_NEW
    if has(present, CHUNK_ABORT) or has(present, CHUNK_SHUTDOWN_COMPLETE) or has(present, CHUNK_COOKIE_ACK):
        return False
    while next_chunk(packet, &offset, &chunk):
        if chunk.type >= MOVING_CHUNKS or TRANSITION[DIR_ORIGINAL][chunk.type][SCTP_NONE] == SCTP_NONE:
            return False
        if chunk.type == CHUNK_INIT:
            if packet_tag(packet) != 0 or not init_tag(packet, &chunk, &track.vtag[DIR_REPLY]):
                return False
        elif chunk.type == CHUNK_HEARTBEAT or chunk.type == CHUNK_HEARTBEAT_ACK:
            track.vtag[DIR_ORIGINAL] = packet_tag(packet)
        else:
            track.vtag[DIR_REPLY] = packet_tag(packet)
    answer.reason.number = REASON_NONE
    return True


cdef void sctp_update(Conn *conn, uint8_t direction, const Packet *packet, uint64_t now_ns, const Settings *settings,
                      TrackerAnswer *answer) noexcept nogil:
    """Move the track by every chunk of a packet and say in `step` what it means for the entry."""
    cdef SctpTrack *track = &conn.track.sctp
    cdef uint32_t offset = packet.transport + SCTP_HEADER
    cdef uint32_t present
    cdef uint8_t old, new
    cdef bint silent = False                    # passes without renewing the timer
    cdef Chunk chunk
    answer.action = ACTION_INVALID
    if not chunks_fit(packet, &present, answer):
        return
    answer.reason.number = REASON_SCTP_VTAG
    answer.reason.argument[0] = htonl(packet_tag(packet))  # as the kernel logs them: the bytes of the wire as a number
    answer.reason.argument[1] = htonl(track.vtag[direction])
    answer.reason.argument[2] = direction
    if not chooses_own_tag(present) and packet_tag(packet) != track.vtag[direction]:
        return
    new = track.state
    while next_chunk(packet, &offset, &chunk):
        if chunk.type == CHUNK_HEARTBEAT or chunk.type == CHUNK_HEARTBEAT_ACK:
            if not heartbeat_tag_ok(track, direction, packet, &chunk, has(present, CHUNK_DATA), &silent):
                return
            if silent:
                continue
        elif not tag_ok(track, direction, packet, &chunk):
            return
        old = track.state
        new = TRANSITION[direction][chunk.type][old] if chunk.type < MOVING_CHUNKS else old
        if new == SCTP_INVALID:
            answer.reason.number = REASON_SCTP_STATE
            answer.reason.argument[0] = old
            answer.reason.argument[1] = direction
            answer.reason.argument[2] = chunk.type
            return
        if chunk.type == CHUNK_INIT or chunk.type == CHUNK_INIT_ACK:
            if not note_init(track, direction, packet, &chunk, conn.status & CONN_CONFIRMED == 0):
                return
            silent = (chunk.type == CHUNK_INIT and old == SCTP_CLOSED and new == SCTP_CLOSED
                      and conn.status & CONN_CONFIRMED != 0)    # else reuse of the port keeps the entry for ever
        track.state = new
        answer.state_changed |= old != new
        if new == SCTP_ESTABLISHED and old != new:
            conn.status |= CONN_ASSURED
    answer.reason.number = REASON_NONE
    answer.action = ACTION_PASS if silent else ACTION_RENEW
    answer.timeout_ns = settings.timeout_ns[TIMEOUT_SCTP + new - 1]


cdef inline bint chooses_own_tag(uint32_t present) noexcept nogil:
    """Whether a chunk is there that has rules of its own for the tag (RFC 9260, 8.5.1)."""
    return present & (1 << CHUNK_INIT | 1 << CHUNK_SHUTDOWN_COMPLETE | 1 << CHUNK_COOKIE_ECHO | 1 << CHUNK_ABORT
                      | 1 << CHUNK_SHUTDOWN_ACK | 1 << CHUNK_HEARTBEAT | 1 << CHUNK_HEARTBEAT_ACK) != 0


cdef bint tag_ok(SctpTrack *track, uint8_t direction, const Packet *packet, const Chunk *chunk) noexcept nogil:
    """The tag rules of single chunk types; a COOKIE ACK ends the time in which both sides may still have opened."""
    cdef uint32_t tag = packet_tag(packet)
    if chunk.type == CHUNK_INIT:
        return tag == 0
    if chunk.type == CHUNK_ABORT or chunk.type == CHUNK_SHUTDOWN_COMPLETE:
        return tag == track.vtag[1 - direction if chunk.flags & CHUNK_FLAG_T else direction]
    if chunk.type == CHUNK_COOKIE_ECHO:
        return tag == track.vtag[direction]
    if chunk.type == CHUNK_COOKIE_ACK:
        track.init[0] = track.init[1] = 0
    return True


cdef bint heartbeat_tag_ok(SctpTrack *track, uint8_t direction, const Packet *packet, const Chunk *chunk,
                           bint with_data, bint *silent) noexcept nogil:
    """A heartbeat teaches the tag of a path we know nothing of.

    One with a foreign tag may come from a host that restarted: it passes silently, and is believed when the other
    side acknowledges that tag.
    """
    cdef uint32_t tag = packet_tag(packet)
    if track.vtag[direction] == 0:
        track.vtag[direction] = tag
        return True
    if tag == track.vtag[direction]:
        track.flags &= ~<uint8_t> HEARTBEAT_TAG_FAILED
        return True
    if with_data or silent[0]:
        return False
    if chunk.type == CHUNK_HEARTBEAT:
        track.flags |= HEARTBEAT_TAG_FAILED
        track.last_dir = direction
        silent[0] = True
        return True
    if not track.flags & HEARTBEAT_TAG_FAILED or track.last_dir == direction:
        return False
    track.flags &= ~<uint8_t> HEARTBEAT_TAG_FAILED
    track.vtag[direction] = tag
    track.vtag[1 - direction] = 0
    return True


cdef bint note_init(SctpTrack *track, uint8_t direction, const Packet *packet, const Chunk *chunk, bint first) noexcept nogil:
    """Take down the tag that the other side must use from now on."""
    cdef uint32_t chosen
    cdef uint32_t known = track.vtag[1 - direction]
    if not init_tag(packet, chunk, &chosen):
        return False
    if chunk.type == CHUNK_INIT:
        if track.init[direction] and track.init[1 - direction]:
            track.init[1 - direction] = 0
        if known != chosen or first:            # else a repetition, or what a heartbeat had taught already
            track.init[direction] = 1
    else:
        if not track.init[1 - direction] and known and known != chosen:
            return False
        if track.init[direction] and track.init[1 - direction] and known != chosen:
            return False                        # both sides opened at once, and this is not the answer to either
    track.vtag[1 - direction] = chosen
    return True
