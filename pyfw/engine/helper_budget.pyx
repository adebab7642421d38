# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""How much of the data thread's time helpers may have: see helper_budget.pxd."""

cdef enum:
    SHARE_BYTES = 4096
    ALL_INTERVAL_NS = 333333            # 3,000 shares a second: at 70 microseconds each a fifth of the thread
    ALL_SPAN_NS = 333333333             # 1,000 shares at once
    OWN_INTERVAL_NS = 10000000          # 100 shares a second
    OWN_SPAN_NS = 2000000000            # 200 shares at once
    PARTS = 1024                        # of a span, in which use is measured


cdef inline uint64_t used_ns(uint64_t full_ns, uint64_t span_ns, uint64_t now_ns) noexcept nogil:
    """How much of a budget is used.  More than all of it, by far: the clock is another one, of a capture or a new start."""
    if full_ns <= now_ns or full_ns - now_ns > 2 * span_ns:
        return 0
    return min(full_ns - now_ns, span_ns)


cdef class HelperBudget:

    cdef bint allows(self, uint32_t conn_id, uint32_t length, uint64_t now_ns) noexcept nogil:
        cdef uint64_t *own_full_ns = &self.own_full_ns[conn_id % OWN_BUDGETS]
        cdef uint64_t shares = 1 + length // SHARE_BYTES
        cdef uint64_t own_ns = used_ns(own_full_ns[0], OWN_SPAN_NS, now_ns)
        cdef uint64_t all_ns = used_ns(self.all_full_ns, ALL_SPAN_NS, now_ns)
        if self.unlimited:
            return True
        if all_ns > ALL_SPAN_NS - ALL_SPAN_NS // 2 * (own_ns * PARTS // OWN_SPAN_NS) // PARTS:
            self.refused += 1
            return False
        own_full_ns[0] = now_ns + own_ns + shares * OWN_INTERVAL_NS
        self.all_full_ns = now_ns + all_ns + shares * ALL_INTERVAL_NS
        return True
