"""Tests of a packet's connection."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from pyfw.rules.parts cimport Context, Fit, PacketTest

cdef class ConnTest(PacketTest):
    cdef int field
    cdef uint64_t low, high
    cdef bint inverted, without

cdef class ConnAddressTest(PacketTest):
    cdef uint64_t address[2]
    cdef uint64_t mask[2]
    cdef bint source, inverted, without

cdef class HelperTest(PacketTest):
    cdef str name
    cdef uint32_t numbers
    cdef bint inverted

cdef class ConnBytesTest(PacketTest):
    cdef uint64_t low, high
    cdef int mode
    cdef bint original, reply, inverted
