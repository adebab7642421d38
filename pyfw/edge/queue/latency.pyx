# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The histogram of verdict latencies, for Python."""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

BOUNDS_NS = tuple([latency_bounds_ns[i] for i in range(LATENCY_BOUNDS)])


cdef dict latency_counters(const Latency *latency):
    """{"packets": n, "mean_us": n, "sum_ns": n, "up_to_us": {"10": n, "20": n, ..., "more": n}}

    up_to_us: packets by the first bound that they do not exceed.
    """
    counted = [latency.counted[i] for i in range(LATENCY_BOUNDS + 1)]
    bounds = [*(str(bound_ns // 1000) for bound_ns in BOUNDS_NS), "more"]
    packets = sum(counted)
    return {"packets": packets, "mean_us": latency.sum_ns // max(packets, 1) // 1000, "sum_ns": latency.sum_ns,
            "up_to_us": dict(zip(bounds, counted, strict=True))}


def histogram_of(observations) -> dict:
    """The counters after (nanoseconds, packets) of each observation."""
    cdef Latency latency
    cdef uint64_t took_ns
    cdef uint32_t packets
    memset(&latency, 0, sizeof(Latency))
    for took_ns, packets in observations:
        observe(&latency, took_ns, packets)
    return latency_counters(&latency)
