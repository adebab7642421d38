"""A question to the engine: one packet, judged in a copy."""
from libc.stdint cimport uint64_t
from pyfw.engine.judgement cimport Ruling
from pyfw.engine.observer cimport Passed, Watch
from pyfw.rules.parts cimport Context, Trace

cdef class Question(Watch):
    cdef Trace trace
    cdef Passed passed
    cdef bint seen
