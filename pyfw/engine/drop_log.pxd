"""Dropped packets, each with its rule and its reason, on their way to the reader that prints them."""
from libc.stdint cimport uint64_t
from pyfw.engine.judgement cimport CJudgement
from pyfw.rules.log.ring cimport LogEntry, LogRing
from pyfw.wire.packet cimport Packet

cdef class DropLog:
    cdef LogRing ring
    cdef dict programs          # serial -> Program: those to whose rules the ring may refer
    cdef list retired           # (ring.head when it had stopped serving, its serial), oldest first

    cdef void note(self, const Packet *packet, const CJudgement *judgement, uint64_t serial, uint64_t now_ns) noexcept nogil
    cdef object record_of(self, const LogEntry *entry)
