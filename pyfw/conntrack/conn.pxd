"""What pyfw remembers of a connection: one fixed struct, the same in memory and in the mapped file.

Who may write what, while packets are judged:
  key, id, next              table.pyx, when the entry is made
  created_ns, master_*       tracker.pyx, when the entry is made
  origin                     engine.pyx, when the entry is made
  expires_ns                 tracker.pyx; table.pyx and tcp.pyx shorten it
  packets, bytes             tracker.pyx
  status                     tracker.pyx, table.pyx, the engine and the protocol's own module
  track                      the protocol's own module alone
  mark                       rules/xt/mark.pyx
  helper                     tracker.pyx; helper_runner.pyx takes it away
  helper_memory              helper_runner.pyx, with what the helper wrote

192 bytes: three cache lines, of which a lookup reads the first, TCP the second, counting the third.
"""
from libc.stdint cimport int16_t, uint8_t, uint16_t, uint32_t, uint64_t
from pyfw.enums cimport TCP_CLOSE, TCP_TIME_WAIT
from pyfw.wire.packet cimport PROTO_TCP, Address

cdef enum ConnStatus:
    CONN_CONFIRMED = 1 << 0     # in the table: written last when an entry is made, cleared first when it goes
    CONN_SEEN_REPLY = 1 << 1
    CONN_ASSURED = 1 << 2       # eviction spares it, unless it is
    CONN_EXPECTED = 1 << 3      # opened by an expectation: RELATED until its first reply
    CONN_COUNTED = 1 << 4       # one of those that the limits per source are about
    CONN_ANSWERED = 1 << 5      # the latest reply came from another side than the first packet (Tracker.weigh_answer())
    CONN_ONE_SIDED = 1 << 6     # ASSURED by what one side alone has said: neither eviction nor limits believe it
    CONN_UNTOLD_SHIFT = 8       # from here on: Change bits that listeners were not told of yet (events.pxd)
    CONN_MEANINGFUL = 0xF7F     # all of these

cdef enum:
    HELPER_MEMORY = 20
    SCTP_STATE_MAX = 8          # SctpTrack.state, as sctp_states.py has them
    WINDOW_SCALE_MAX = 14       # RFC 7323

cdef struct Key:                # the tuple of the original direction; the reply's is always its inverse
    Address src
    Address dst
    uint16_t sport              # host byte order; ICMP: id; GRE: key of the sender
    uint16_t dport              # host byte order; ICMP: type << 8 | code; GRE: key of the receiver
    uint8_t protocol
    uint8_t family
    uint16_t zero

cdef struct TcpPeer:            # one per direction: what its sender has said and been told
    uint32_t end                # highest sequence number it sent, plus length
    uint32_t maxend             # highest it may send: last ack of the other + its window
    uint32_t maxwin             # largest window it advertised, scaled
    uint32_t maxack             # highest ack it sent
    uint8_t scale
    uint8_t flags
    int16_t offset              # bytes that NAT behind us has added to what it sent: acknowledgements count them

cdef struct TcpTrack:
    TcpPeer peer[2]
    uint8_t state               # TcpStateNumber
    uint8_t last_dir
    uint8_t last_index
    uint8_t last_flags
    uint32_t last_seq
    uint32_t last_ack
    uint32_t last_end
    uint16_t last_win
    uint8_t last_wscale
    uint8_t retrans

cdef struct SctpTrack:
    uint32_t vtag[2]
    uint8_t state
    uint8_t last_dir
    uint8_t flags
    uint8_t init[2]

cdef union Track:
    TcpTrack tcp
    SctpTrack sctp

cdef struct Conn:
    # line 1: found by
    Key key
    uint32_t next               # index of the next entry in this hash chain, or in the free list; 0: none
    uint32_t status             # ConnStatus bits
    uint64_t expires_ns
    uint32_t id                 # unlike any other entry's, ever
    uint32_t mark
    # line 2: protocol
    Track track
    uint32_t master_id          # id of the connection whose helper expected this one; 0: none
    # line 3: counting, helper
    uint64_t packets[2]
    uint64_t bytes[2]
    uint64_t created_ns         # the clock at its first packet
    uint8_t helper_memory[HELPER_MEMORY]
    uint8_t helper              # 1 + position among the engine's helpers; 0: none
    uint8_t master_helper       # the helper that expected it, as `helper`; 0: none did
    uint16_t origin             # where its first packet was met (first_seen.pyx); 0: not known

cdef inline bint is_over(const Conn *conn) noexcept nogil:
    """Whether a connection has ended, though its entry stays for a while (already_closed() in nf_conncount.c)."""
    return conn.key.protocol == PROTO_TCP and (conn.track.tcp.state == TCP_TIME_WAIT or conn.track.tcp.state == TCP_CLOSE)
