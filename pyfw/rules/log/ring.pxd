"""Packets that LOG met, or that were dropped, on their way from the packet path to their reader: one writer, one reader, no lock.

The writer allocates nothing and never waits: a full ring, or a spent token bucket, counts the packet as suppressed.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from pyfw.reasons cimport CReason
from pyfw.token_bucket cimport TokenBucket, TokenRate
from pyfw.wire.packet cimport IFNAMSIZ, Packet

cdef enum:
    LOG_ENTRIES = 128           # a power of two
    LOG_BYTES = 256             # of each packet: IP options, extension headers, a quoted packet's headers

cdef struct LogEntry:
    uint64_t now_ns
    uint32_t number             # of the rule
    uint32_t mark
    uint32_t length             # of the whole packet
    uint32_t captured           # bytes there are in data
    uint8_t hook
    char indev[IFNAMSIZ]
    char outdev[IFNAMSIZ]
    CReason reason              # of a drop
    uint64_t serial             # of a drop: whose rule `number` is (Program.serial)
    uint8_t data[LOG_BYTES]

cdef struct LogRing:
    TokenRate rate
    TokenBucket bucket
    uint64_t suppressed
    uint32_t head               # entries ever written; the writer's
    uint32_t tail               # entries ever read; the reader's
    LogEntry entries[LOG_ENTRIES]

cdef void log_init(LogRing *ring, uint64_t rate, uint64_t burst) noexcept nogil
cdef void log_packet(LogRing *ring, const Packet *packet, const char *outdev, uint32_t number, uint64_t now_ns) noexcept nogil
cdef LogEntry *log_begin(LogRing *ring, const Packet *packet, const char *outdev, uint32_t number, uint64_t now_ns) noexcept nogil
cdef void log_end(LogRing *ring) noexcept nogil
cdef LogEntry *log_next(LogRing *ring) noexcept nogil
cdef void log_done(LogRing *ring) noexcept nogil
