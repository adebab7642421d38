"""A ruleset of both families, ready to judge packets."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from pyfw.rules.log.ring cimport LogRing
from pyfw.rules.parts cimport Context, Outcome, RuleEnvironment
from pyfw.rules.program.flat cimport FAMILIES, FlatProgram
from pyfw.wire.packet cimport Packet

cdef enum:
    NO_RULE = 0xFFFFFFFF

cdef struct View:               # a packet as the rules of one chain see it
    const Packet *packet
    uint8_t ipv6
    uint8_t broken              # IPv6 whose extension headers lead nowhere: what asks for its protocol drops it
    uint64_t indev[2]
    uint64_t outdev[2]

cdef class Program:
    cdef FlatProgram flat[FAMILIES]
    cdef readonly uint64_t serial   # unlike any other program's of this process
    cdef LogRing ring
    cdef LogRing traces         # what TRACE has logged: every rule that such a packet matches
    cdef LogRing audits         # packets that rules matched which only audit
    cdef readonly object ruleset
    cdef readonly RuleEnvironment environment
    cdef readonly object numbering
    cdef dict log_settings      # number -> LogSettings
    cdef dict codes             # (family, id of the rule) -> (rule, RuleCode); keeps tests and actions alive
    cdef dict texts             # (number, family) -> the rule's text, as far as it was asked for
    cdef Program previous       # until this one serves: the one that it is an edited copy of
    cdef uint32_t *origins      # number in `previous`, by number
    cdef uint32_t numbers       # how many there are

    cdef void carry_counters(self, Program previous)
    cdef str print_place(self, index, family)
    cdef list read_ring(self, LogRing *ring, int most)
    cdef void run(self, int table, Context *context, Outcome *outcome) noexcept nogil
    cdef bint fits(self, int table, const Context *context) noexcept nogil
