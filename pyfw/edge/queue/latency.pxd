"""How long verdicts took: a histogram that the data thread alone writes."""
from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    LATENCY_BOUNDS = 13

cdef struct Latency:
    uint64_t counted[LATENCY_BOUNDS + 1]    # packets, by the first bound that they do not exceed; the last: longer than all
    uint64_t sum_ns

cdef extern from *:
    """
    static const uint64_t latency_bounds_ns[] = {
        10000, 20000, 50000, 100000, 200000, 500000, 1000000, 2000000, 5000000, 10000000, 20000000, 50000000, 100000000,
    };
    """
    const uint64_t latency_bounds_ns[LATENCY_BOUNDS]

cdef inline void observe(Latency *latency, uint64_t took_ns, uint32_t packets) noexcept nogil:
    cdef uint32_t bucket = 0
    while bucket < LATENCY_BOUNDS and took_ns > latency_bounds_ns[bucket]:
        bucket += 1
    latency.counted[bucket] += packets
    latency.sum_ns += took_ns * packets

cdef dict latency_counters(const Latency *latency)
