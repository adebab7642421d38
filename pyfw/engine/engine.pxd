"""judge(packet, now): the one straight line that every packet takes.  Knows no socket, no clock."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from pyfw.conntrack.tracker cimport Found, Tracker
from pyfw.engine.counters cimport Counters
from pyfw.engine.drop_log cimport DropLog
from pyfw.engine.helper_runner cimport HelperRunner
from pyfw.engine.judgement cimport CJudgement
from pyfw.engine.observer cimport Observer
from pyfw.engine.shadow cimport Shadow
from pyfw.engine.source_limits cimport SourceLimits
from pyfw.lock cimport Lock
from pyfw.rules.program.program cimport Context, Outcome, Program, RuleEnvironment
from pyfw.wire.packet cimport Packet

cdef enum Rulesets:
    ACTIVE_NONE = 0             # track and accept everything
    ACTIVE_FIRST
    ACTIVE_SECOND

cdef class Engine:
    cdef Tracker tracker
    cdef Program first          # the ruleset is the first or the second: the other place is for the next one
    cdef Program second
    cdef Rulesets active
    cdef Counters tally
    cdef readonly HelperRunner helpers
    cdef readonly SourceLimits limits   # None: there are none
    cdef Observer observer      # looks on if `observing`, which is changed with the lock held
    cdef readonly bint observing
    cdef readonly Shadow shadow  # has its say if `shadowing`, which is changed as `observing` is
    cdef bint shadowing
    cdef DropLog drops          # takes what is dropped if `logging_drops`, which is changed with the lock held
    cdef bint logging_drops
    cdef readonly Lock guard    # of all that the packet path shares with others
    cdef readonly object program
    cdef readonly RuleEnvironment environment   # what its programs refer to by name
    cdef public int64_t wall_offset_ns          # UTC (ns since 1970) less the clock that judge is handed
    cdef public int32_t zone_offset_s           # local time less UTC

    # As Lock's.
    cdef void lock(self) noexcept nogil
    cdef void lock_background(self) noexcept nogil
    cdef void unlock(self) noexcept nogil
    # With the lock held.  A packet whose judgement.inspect is set is counted once it was inspected.
    cdef void judge_packet(self, Packet *packet, uint64_t now_ns, CJudgement *judgement) noexcept nogil
    # With the GIL and without the lock: runs the helper on an accepted packet whose judgement.inspect
    # is set; may turn judgement.verdict to DROP.  Never raises.
    cdef void inspect_packet(self, Packet *packet, uint64_t now_ns, CJudgement *judgement) noexcept

    cdef void translate(self, const CJudgement *judgement, const int32_t *offset) noexcept nogil

    # Steps of the above.
    cdef void decide(self, Context *context, CJudgement *judgement) noexcept nogil
    cdef uint64_t active_serial(self) noexcept nogil
    cdef bint run_chain(self, int table, Context *context, Outcome *outcome, CJudgement *judgement) noexcept nogil
    cdef bint run_tables(self, int table, Context *context, Outcome *outcome, CJudgement *judgement) noexcept nogil
    cdef void accept(self, const Context *context, Found *found, CJudgement *judgement) noexcept nogil
    cdef bint commit(self, const Context *context, Found *found, CJudgement *judgement) noexcept nogil
    cdef void count(self, const Packet *packet, uint64_t now_ns, const CJudgement *judgement) noexcept nogil
    cdef void retire_counts(self) noexcept nogil

cdef void present(Packet *packet, bytes data, int hook, length, bint trusted) except *
cdef void copy_name(char *out, str name) except *
