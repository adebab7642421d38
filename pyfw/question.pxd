"""A question to the engine: one packet, judged in a copy."""
from libc.stdint cimport uint64_t
from pyfw.rules.parts cimport Context, Trace
from pyfw.ruling cimport Ruling
from pyfw.watch cimport Passed, Watch

cdef class Question(Watch):
    cdef Trace trace
    cdef Passed passed
    cdef bint seen
