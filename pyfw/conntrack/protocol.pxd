"""What the engine and the protocol trackers say to each other."""
from libc.stdint cimport uint8_t, uint64_t
from pyfw.conntrack.conn cimport Conn
from pyfw.reasons cimport CReason
from pyfw.wire.packet cimport Packet

cdef enum:                      # the order of timeouts.DEFAULTS; TCP states first, by their numbers
    TIMEOUT_TCP = 0
    TIMEOUT_TCP_CLOSE = 8
    TIMEOUT_TCP_MAX_RETRANS = 10
    TIMEOUT_TCP_UNACKNOWLEDGED
    TIMEOUT_UDP
    TIMEOUT_UDP_STREAM
    TIMEOUT_ICMP
    TIMEOUT_ICMPV6
    TIMEOUT_GENERIC
    TIMEOUT_GRE
    TIMEOUT_GRE_STREAM
    TIMEOUT_SCTP                # + the SCTP state - 1
    TIMEOUTS = 27

cdef struct Settings:           # settings.TrackingSettings
    uint64_t timeout_ns[TIMEOUTS]
    uint8_t tcp_loose
    uint8_t tcp_liberal
    uint8_t tcp_ignore_invalid_rst
    uint8_t tcp_max_retrans
    uint8_t checksum
    uint8_t accounting

cdef enum Action:
    ACTION_INVALID = 0          # the packet is INVALID
    ACTION_RENEW                # it belongs: renew the timer, count it
    ACTION_PASS                 # it belongs, but neither timer nor counters move
    ACTION_KILL                 # it belongs, and ends the connection at once
    ACTION_REOPEN               # the entry is of the past: remove it and judge the packet as a first one

cdef struct TrackerAnswer:      # a tracker's answer about one packet
    uint8_t action              # Action
    uint8_t state_changed       # the protocol's, be it to what it was before: a side may have begun anew
    CReason reason
    uint64_t timeout_ns         # with ACTION_RENEW

cdef struct Protocol:
    # Whether the transport header is whole, possible, and rightly summed up; NULL: there is nothing to check.
    bint (*is_sound)(const Packet *packet, uint8_t *reason) noexcept nogil
    # Prepare the track of a connection that begins with this packet, or say why none may; NULL: any packet begins one.
    bint (*open)(Conn *conn, const Packet *packet, const Settings *settings, TrackerAnswer *answer) noexcept nogil
    # Move the track by one packet and say what that means for the entry.
    void (*update)(Conn *conn, uint8_t direction, const Packet *packet, uint64_t now_ns, const Settings *settings,
                   TrackerAnswer *answer) noexcept nogil
