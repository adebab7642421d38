"""Tests of one packet, beyond ports and types."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from pyfw.packet cimport Address
from pyfw.rules.addresses cimport LocalAddresses
from pyfw.rules.parts cimport Context, Fit, PacketTest

cdef enum:
    MOST_PORT_RANGES = 15       # XT_MULTI_PORTS

cdef class FieldTest(PacketTest):
    cdef int field
    cdef uint32_t mask, low, high
    cdef bint inverted

cdef class PortsTest(PacketTest):
    cdef uint16_t low[MOST_PORT_RANGES]
    cdef uint16_t high[MOST_PORT_RANGES]
    cdef int ranges
    cdef bint source, destination, inverted

cdef class TcpOptionTest(PacketTest):
    cdef uint8_t kind
    cdef bint inverted

cdef class AddressRangeTest(PacketTest):
    cdef uint8_t low[16]
    cdef uint8_t high[16]
    cdef bint source, inverted

cdef class HardwareTest(PacketTest):
    cdef uint8_t address[6]
    cdef bint inverted

cdef class TextTest(PacketTest):
    cdef bytes pattern
    cdef const uint8_t *text
    cdef uint32_t length, start, end
    cdef bint ignores_case, inverted

    cdef bint stands(self, const uint8_t *there) noexcept nogil

cdef class TimeTest(PacketTest):
    cdef int64_t begins_s, ends_s
    cdef uint32_t day_begins_s, day_ends_s, month_days, week_days
    cdef bint local, contiguous

cdef class AddressTypeTest(PacketTest):
    cdef LocalAddresses addresses
    cdef uint32_t types
    cdef bint source, inverted
    cdef int interface

