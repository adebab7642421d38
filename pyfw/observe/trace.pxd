"""Live packets that a client wants to see, on their way to it from the packet path."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from pyfw.engine.judgement cimport CJudgement
from pyfw.engine.observer cimport Passed, Observer
from pyfw.rules.parts cimport Context, RuleStep, Trace
from pyfw.rules.program.program cimport Program
from pyfw.token_bucket cimport TokenBucket, TokenRate

cdef enum:
    TRACERS = 4                 # at once
    TRACED_PACKETS = 64         # that wait to be read
    TRACED_STEPS = 1024         # of one packet
    TRACED_BYTES = 128          # of one packet

cdef struct TracedPacket:
    Passed passed
    uint8_t data[TRACED_BYTES]
    RuleStep steps[TRACED_STEPS]

cdef class Tracer:
    cdef Program filter
    cdef bint asks_twice        # before a packet is judged, and afterwards
    cdef TracedPacket *packets
    cdef uint32_t head          # packets ever kept, and ever read: both change with the engine's lock held
    cdef uint32_t tail
    cdef uint32_t left          # that are still wanted
    cdef TokenRate rate
    cdef TokenBucket bucket     # one second's worth
    cdef readonly uint64_t suppressed   # packets that fitted and were not kept: too many, or not read in time
    cdef object engine
    cdef dict programs          # those that have served meanwhile, by serial

    cdef bint wants(self, Context *context) noexcept nogil
    cdef void keep(self, const Context *context, const CJudgement *judgement, uint64_t program) noexcept nogil
    cdef bint has_room(self, uint64_t now_ns) noexcept nogil

cdef class Tracers(Observer):
    cdef Trace trace            # one for all: of the packet in hand
    cdef uint32_t interested    # bits by position: who wants that packet
    cdef void *armed[TRACERS]
    cdef uint32_t count
    cdef list tracers           # keeps them alive

    cdef void drop(self, void *tracer) noexcept nogil
