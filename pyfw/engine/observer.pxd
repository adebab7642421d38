"""What looks on while packets are judged, and what it sees of one."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from pyfw.conntrack.conn cimport Conn
from pyfw.conntrack.protocol cimport Settings
from pyfw.engine.judgement cimport CJudgement
from pyfw.rules.parts cimport Context, RuleStep, Trace
from pyfw.wire.packet cimport IFNAMSIZ, Packet

cdef struct Passed:             # a packet that was judged; what its pointers led to stands beside it
    Packet packet
    CJudgement judgement
    Conn conn                   # its connection as the packet left it
    uint8_t has_conn
    uint8_t hardware[6]
    uint8_t has_hardware
    char indev[IFNAMSIZ]
    char outdev[IFNAMSIZ]
    Trace trace                 # its steps are not here
    uint64_t now_ns
    uint64_t program            # Program.serial; 0: there were no rules

cdef class Observer:
    # With the engine's lock held.  begin() sets context.trace to see a packet; only then is end() called for it.
    cdef void begin(self, Context *context) noexcept nogil
    cdef void end(self, const Context *context, const CJudgement *judgement, uint64_t program) noexcept nogil

cdef void keep_passed(Passed *passed, const Context *context, const CJudgement *judgement, uint64_t program) noexcept nogil
cdef object packet_trace_of(const Passed *passed, const RuleStep *steps, uint32_t kept, bytes data, object program, tuple helpers,
                       const Settings *settings)
cdef str connection_line(const Conn *conn, uint64_t now_ns, const Settings *settings)
