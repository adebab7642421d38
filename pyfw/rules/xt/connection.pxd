"""Tests of a packet's connection."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from pyfw.rules.parts cimport Context, Fit, PacketMatch

cdef class ConnTest(PacketMatch):
    cdef int field
    cdef uint64_t low, high
    cdef bint inverted, without

cdef class ConnAddressTest(PacketMatch):
    cdef uint64_t address[2]
    cdef uint64_t mask[2]
    cdef bint source, inverted, without

cdef class HelperTest(PacketMatch):
    cdef str name
    cdef uint32_t numbers
    cdef bint inverted

cdef class ConnBytesTest(PacketMatch):
    cdef uint64_t low, high
    cdef int mode
    cdef bint original, reply, inverted
