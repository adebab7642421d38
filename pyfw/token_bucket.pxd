"""Token buckets: so many packets in a time on the average, and so many at once.

Credit is counted in time, as the kernel's xt_limit and xt_hashlimit do.  Knows no packets and no clock.
"""
from libc.stdint cimport uint64_t

cdef struct TokenRate:
    uint64_t cost_ns            # time that earns one token; 0: there is no limit
    uint64_t full_ns            # time that fills the bucket

cdef struct TokenBucket:
    uint64_t credit_ns
    uint64_t last_ns            # when a token was asked for last

cdef inline bint take_token(TokenBucket *bucket, const TokenRate *rate, uint64_t now_ns) noexcept nogil:
    """Earn what the time since the last call is worth, then spend one token.  A clock that goes back earns nothing.

    Buckets may be shared by rates: none takes from more than what fills its own.
    """
    cdef uint64_t earned_ns = now_ns - bucket.last_ns if now_ns > bucket.last_ns else 0
    bucket.credit_ns = min(bucket.credit_ns + earned_ns, rate.full_ns)
    bucket.last_ns = now_ns
    if bucket.credit_ns < rate.cost_ns:
        return False
    bucket.credit_ns -= rate.cost_ns
    return True
