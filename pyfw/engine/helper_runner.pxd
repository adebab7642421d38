"""Runs helpers on the payloads of their connections, and enters the connections that they announce."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from pyfw.conntrack.conn cimport Conn
from pyfw.conntrack.tracker cimport Tracker
from pyfw.engine.helper_budget cimport HelperBudget
from pyfw.engine.judgement cimport CJudgement
from pyfw.lock cimport Lock
from pyfw.wire.packet cimport Packet

cdef class HelperRunner:
    cdef Lock guard             # the engine's
    cdef Tracker tracker
    cdef object bindings        # of helpers to ports, as they were given
    cdef list helpers           # by number, less one
    cdef readonly HelperBudget budget   # what they may take of the packets' time
    cdef public object on_error         # called with the exception that a helper raised, and must not raise; None: not told

    # With the lock held: whether the helper sees this segment of its connection; else the connection has none from now on.
    cdef bint takes(self, Conn *conn, const Packet *packet, uint64_t now_ns) noexcept nogil
    # With the GIL and without the lock, for a packet whose judgement.inspect is set: 0, or the reason to drop it, or the
    # remark HELPER_REFUSED.  Never raises.
    cdef uint8_t run(self, const Packet *packet, uint64_t now_ns, CJudgement *judgement) noexcept

    # Steps of the above.
    cdef uint8_t ask(self, const Packet *packet, uint64_t now_ns, CJudgement *judgement) except 255
    cdef uint8_t expect(self, object expectation, const Conn *master, uint32_t slot, uint64_t now_ns) except 255
