# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""TCP segments: which can be, and what their options say.

May know: the packet.  Must not know: connections.  RFC 9293, 7323 (window scale), 2018 (SACK).
"""
from libc.stdint cimport uint8_t, uint32_t

from pyfw.enums cimport REASON_TCP_CHECKSUM, REASON_TCP_FLAGS
from pyfw.wire.packet cimport CHECKSUM_TRUSTED, TH_ACK, TH_FIN, TH_RST, TH_SYN, TH_URG, Packet, be32, transport_checksum_ok

cdef enum:
    OPTION_END = 0
    OPTION_NOP = 1
    OPTION_SCALE = 3
    OPTION_SACK_PERMITTED = 4
    OPTION_SACK = 5
    SCALE_MAX = 14              # RFC 7323, 2.3


cdef bint flags_valid(uint8_t flags) noexcept nogil:
    """Whether any stack sends this combination; PSH, ECE and CWR may go with each."""
    flags &= TH_FIN | TH_SYN | TH_RST | TH_ACK | TH_URG
    return (flags == TH_SYN or flags == (TH_SYN | TH_URG) or flags == (TH_SYN | TH_ACK)
            or flags == TH_RST or flags == (TH_RST | TH_ACK)
            or flags == (TH_FIN | TH_ACK) or flags == (TH_FIN | TH_ACK | TH_URG)
            or flags == TH_ACK or flags == (TH_ACK | TH_URG))


cdef bint tcp_segment_ok(const Packet *packet, uint8_t *reason) noexcept nogil:
    """Whether this can be a segment of any connection (tcp_error() after the length checks)."""
    if packet.checksum != CHECKSUM_TRUSTED and not transport_checksum_ok(packet, packet.transport_length):
        reason[0] = REASON_TCP_CHECKSUM
        return False
    if not flags_valid(packet.tcp_flags):
        reason[0] = REASON_TCP_FLAGS
        return False
    return True


cdef uint8_t *next_option(const uint8_t **cursor, const uint8_t *limit) noexcept nogil:
    """The next option with a length, or NULL at the end or before one that is malformed or runs beyond the header."""
    cdef const uint8_t *option = cursor[0]
    while option < limit and option[0] == OPTION_NOP:
        option += 1
    if option + 2 > limit or option[0] == OPTION_END or option[1] < 2 or option + option[1] > limit:
        return NULL
    cursor[0] = option + option[1]
    return <uint8_t *> option


cdef inline const uint8_t *options_limit(const Packet *packet) noexcept nogil:
    """The end of the options, or of what was captured of them."""
    return packet.data + (packet.payload if packet.payload < packet.captured else packet.captured)


cdef void read_syn_options(const Packet *packet, uint8_t *scale, uint8_t *flags) noexcept nogil:
    """Take over what a SYN offers.  A SYN without options changes nothing, as in the kernel."""
    cdef const uint8_t *cursor = packet.data + packet.transport + 20
    cdef const uint8_t *limit = options_limit(packet)
    cdef const uint8_t *option
    if cursor == limit:
        return
    scale[0] = 0
    flags[0] &= PEER_LIBERAL
    option = next_option(&cursor, limit)
    while option != NULL:
        if option[0] == OPTION_SACK_PERMITTED and option[1] == 2:
            flags[0] |= PEER_SACK
        elif option[0] == OPTION_SCALE and option[1] == 3:
            scale[0] = option[2] if option[2] < SCALE_MAX else SCALE_MAX
            flags[0] |= PEER_SCALE
        option = next_option(&cursor, limit)


cdef void read_sack(const Packet *packet, uint32_t *sack) noexcept nogil:
    """Raise sack to the right edge of the highest block that the first SACK option names."""
    cdef const uint8_t *cursor = packet.data + packet.transport + 20
    cdef const uint8_t *limit = options_limit(packet)
    cdef const uint8_t *option = next_option(&cursor, limit)
    cdef uint32_t edge
    cdef int i
    while option != NULL:
        if option[0] == OPTION_SACK and option[1] >= 10 and (option[1] - 2) % 8 == 0:
            for i in range(2, option[1], 8):
                edge = be32(option + i + 4)
                if after(edge, sack[0]):
                    sack[0] = edge
            return
        option = next_option(&cursor, limit)
