"""One TCP segment in the terms of the tracker: its class, its numbers, its options.

Sequence numbers are uint32_t and are compared modulo 2^32 by before() and after() only.
"""
from libc.stdint cimport int32_t, uint8_t, uint32_t
from pyfw.wire.packet cimport TH_ACK, TH_FIN, TH_RST, TH_SYN, Packet

cdef enum PacketClass:          # rows of the transition table
    CLASS_SYN = 0
    CLASS_SYNACK = 1
    CLASS_FIN = 2
    CLASS_ACK = 3
    CLASS_RST = 4
    CLASS_NONE = 5
    CLASSES = 6

cdef enum PeerFlag:             # TcpPeer.flags
    PEER_SCALE = 0x01           # its SYN offered window scaling
    PEER_SACK = 0x02            # its SYN permitted SACK
    PEER_CLOSED = 0x04          # it sent the first FIN
    PEER_LIBERAL = 0x08         # picked up in mid-stream: its window is a guess
    PEER_UNACKED = 0x10         # it sent data that was not acknowledged
    PEER_MAXACK = 0x20          # maxack is set
    PEER_RELEARNT = 0x40        # its numbers are learnt anew, and the other side has not confirmed them yet

cdef struct Segment:            # the numbers of one packet
    uint8_t index               # PacketClass
    uint32_t seq
    uint32_t end                # seq + payload + SYN + FIN
    uint32_t ack
    uint32_t sack               # highest block acknowledged, or ack
    uint32_t window             # as announced, not scaled

cdef inline bint before(uint32_t a, uint32_t b) noexcept nogil:
    return <int32_t> (a - b) < 0


cdef inline bint after(uint32_t a, uint32_t b) noexcept nogil:
    return <int32_t> (b - a) < 0


cdef inline uint8_t class_of(uint8_t flags) noexcept nogil:
    if flags & TH_RST:
        return CLASS_RST
    if flags & TH_SYN:
        return CLASS_SYNACK if flags & TH_ACK else CLASS_SYN
    if flags & TH_FIN:
        return CLASS_FIN
    if flags & TH_ACK:
        return CLASS_ACK
    return CLASS_NONE


cdef inline void read_segment(const Packet *packet, Segment *segment) noexcept nogil:
    segment.index = class_of(packet.tcp_flags)
    segment.seq = packet.tcp_seq
    segment.ack = segment.sack = packet.tcp_ack
    segment.window = packet.tcp_window
    segment.end = (packet.tcp_seq + packet.payload_length
                   + (1 if packet.tcp_flags & TH_SYN else 0) + (1 if packet.tcp_flags & TH_FIN else 0))

cdef bint tcp_segment_ok(const Packet *packet, uint8_t *reason) noexcept nogil
cdef void read_syn_options(const Packet *packet, uint8_t *scale, uint8_t *flags) noexcept nogil
cdef void read_sack(const Packet *packet, uint32_t *sack) noexcept nogil
