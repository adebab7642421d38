"""A second ruleset that judges every packet and decides none."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from pyfw.conntrack.conn cimport Conn
from pyfw.engine.judgement cimport CJudgement
from pyfw.lock cimport Lock
from pyfw.rules.parts cimport Context, Outcome
from pyfw.rules.program.program cimport Program
from pyfw.wire.packet cimport IFNAMSIZ, Packet

cdef enum:
    DIFFERENCES = 256           # a power of two
    EXAMPLE_BYTES = 128

cdef struct DifferenceSlot:     # what the two rulesets say of some packets, and they do not say the same
    uint64_t packets            # 0: free
    uint64_t bytes
    uint64_t program            # Program.serial of the rules in force; 0: there are none
    uint32_t rule               # numbers of the rules that decided; NO_RULE: none did
    uint32_t shadow_rule
    uint8_t verdict             # VerdictNumber and RejectNumber
    uint8_t reject
    uint8_t shadow_verdict
    uint8_t shadow_reject
    # the first of the packets
    uint8_t family
    uint8_t hook
    uint8_t state
    uint32_t length
    uint32_t captured           # bytes there are in data
    uint64_t now_ns
    char indev[IFNAMSIZ]
    char outdev[IFNAMSIZ]
    uint8_t data[EXAMPLE_BYTES]

cdef struct Tally:              # since the last reset
    uint64_t judged             # packets that both rulesets had their say about
    uint64_t otherwise          # of which they did not say the same
    uint64_t unkept             # of which no difference is kept: there were too many kinds

cdef class Shadow:
    cdef readonly Program program
    cdef Lock guard             # the engine's
    cdef DifferenceSlot *differences
    cdef Tally tally
    cdef Packet packet          # the packet in hand and its connection, as these rules see and mark them
    cdef Conn conn
    cdef Outcome outcome        # what they say of it so far
    cdef bint notrack
    cdef object adding          # threading.Lock: one at a time tells the differences apart
    cdef dict programs          # those in force meanwhile, by serial
    cdef dict known

    # With the engine's lock held: walk() before the rules in force have their turn in a table, compare() when they have decided.
    cdef void walk(self, int table, const Context *context) noexcept nogil
    cdef void compare(self, const Context *context, const CJudgement *judgement, bint accepted, uint64_t program) noexcept nogil
    cdef DifferenceSlot *place_of(self, const DifferenceSlot *wanted) noexcept nogil
    cdef list take(self)
    cdef object difference_of(self, const DifferenceSlot *found)
