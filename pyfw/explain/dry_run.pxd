"""A question to the engine: one packet, judged in a copy."""
from libc.stdint cimport uint64_t
from pyfw.engine.judgement cimport CJudgement
from pyfw.engine.observer cimport Passed, Observer
from pyfw.rules.parts cimport Context, Trace

cdef class DryRun(Observer):
    cdef Trace trace
    cdef Passed passed
    cdef bint seen
