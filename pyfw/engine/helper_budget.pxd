"""How much of the data thread's time helpers may have.  Knows no packets, no helpers and no clock; the engine's lock guards it.

A helper is Python: it costs some twenty times what the rest of a packet does, and all packets wait for it.  What it may inspect
is counted in shares of one segment of up to SHARE_BYTES, by the generic cell rate algorithm (ITU-T I.371): of a budget that
refills with time only the instant is kept at which it will be full again.  How much is left decides, not whether a token is: so
it is no bucket of token_bucket.pxd.

  all helpers together     ALL_INTERVAL_NS a share: about a fifth of the thread
  one connection           OWN_INTERVAL_NS a share is its own.  Beyond that it gets what others leave: the more it has had, the
                           more of the common budget must be left, half of it for the greediest.  So it takes many connections
                           that keep to their own share, and not one or two, to use all up.

Connections whose ids have the same remainder have one budget of their own between them.
"""
from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    OWN_BUDGETS = 4096

cdef class HelperBudget:
    cdef uint64_t all_full_ns
    cdef uint64_t own_full_ns[OWN_BUDGETS]
    cdef readonly uint64_t refused              # connections that were refused
    cdef public bint unlimited                  # no packet waits for the thread

    # Whether a helper may inspect a segment of this connection; if so, it is paid for.
    cdef bint allows(self, uint32_t conn_id, uint32_t length, uint64_t now_ns) noexcept nogil
