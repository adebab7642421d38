# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The ring between LOG, or what drops packets, and its printer, and the token bucket before it.

May know: packets as they were parsed.  Must not know: rules, text, clocks.

Law: only the writer moves `head`, only the reader moves `tail`; an entry belongs to the writer until head has
passed it (release) and the reader has seen that (acquire).
"""
from libc.string cimport memcpy, memset

from pyfw.token_bucket cimport TokenRate, take_token

cdef extern from *:
    """
    #define counter_acquire(counter) __atomic_load_n((counter), __ATOMIC_ACQUIRE)
    #define counter_release(counter, value) __atomic_store_n((counter), (value), __ATOMIC_RELEASE)
    """
    uint32_t counter_acquire(uint32_t *counter) noexcept nogil
    void counter_release(uint32_t *counter, uint32_t value) noexcept nogil


cdef void log_init(LogRing *ring, uint64_t rate, uint64_t burst) noexcept nogil:
    """An empty ring whose bucket is full: `burst` packets at once, `rate` a second on the average; rate 0: no limit."""
    cdef uint64_t cost_ns = 1000000000 // rate if rate else 0
    memset(ring, 0, sizeof(LogRing))
    ring.rate = TokenRate(cost_ns, burst * cost_ns)
    ring.bucket.credit_ns = ring.rate.full_ns


cdef void log_packet(LogRing *ring, const Packet *packet, const char *outdev, uint32_t number, uint64_t now_ns) noexcept nogil:
    """Keep the packet's headers for the printer, or count it as suppressed.  `outdev` is what its chain may know."""
    if log_begin(ring, packet, outdev, number, now_ns) != NULL:
        log_end(ring)


cdef LogEntry *log_begin(LogRing *ring, const Packet *packet, const char *outdev, uint32_t number, uint64_t now_ns) noexcept nogil:
    """As log_packet(), but what else the entry has is yet to be filled in; log_end() then gives it to the reader.

    NULL: suppressed.
    """
    cdef LogEntry *entry
    if ring.head - counter_acquire(&ring.tail) >= LOG_ENTRIES or not take_token(&ring.bucket, &ring.rate, now_ns):
        ring.suppressed += 1
        return NULL
    entry = &ring.entries[ring.head % LOG_ENTRIES]
    entry.now_ns = now_ns
    entry.number = number
    entry.mark = packet.mark
    entry.length = packet.length
    entry.captured = packet.captured if packet.captured < LOG_BYTES else LOG_BYTES
    entry.hook = packet.hook
    memcpy(entry.indev, packet.indev, IFNAMSIZ)
    memcpy(entry.outdev, outdev, IFNAMSIZ)
    memcpy(entry.data, packet.data, entry.captured)
    return entry


cdef void log_end(LogRing *ring) noexcept nogil:
    counter_release(&ring.head, ring.head + 1)


cdef LogEntry *log_next(LogRing *ring) noexcept nogil:
    """The oldest entry not yet read, or NULL; log_done() gives it back."""
    if counter_acquire(&ring.head) == ring.tail:
        return NULL
    return &ring.entries[ring.tail % LOG_ENTRIES]


cdef void log_done(LogRing *ring) noexcept nogil:
    counter_release(&ring.tail, ring.tail + 1)
