"""What the engine counts of the packets that it judges."""
from libc.stdint cimport uint64_t
from pyfw.conntrack.tracker cimport Tracker
from pyfw.engine.source_limits cimport SourceLimits
from pyfw.enums cimport REASONS
from pyfw.rules.parts cimport RuleEnvironment

cdef struct Counters:
    uint64_t packets[5][2]      # by CtStateNumber and VerdictNumber
    uint64_t bytes[2]           # by VerdictNumber
    uint64_t reason[REASONS][2]  # by ReasonNumber and VerdictNumber

cdef dict counters_of(Counters tally, Tracker tracker, SourceLimits limits, RuleEnvironment environment)
