"""Tests of one packet, beyond ports and types."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from pyfw.rules.parts cimport Context, Fit, PacketMatch
from pyfw.rules.xt.addrtype cimport LocalAddresses
from pyfw.wire.packet cimport Address

cdef enum:
    MAX_PORT_RANGES = 15        # XT_MULTI_PORTS
    MAX_TEXT_LENGTH = 128       # XT_STRING_MAX_PATTERN_SIZE

cdef class FieldTest(PacketMatch):
    cdef int field
    cdef uint32_t mask, low, high
    cdef bint inverted

cdef class PortsTest(PacketMatch):
    cdef uint16_t low[MAX_PORT_RANGES]
    cdef uint16_t high[MAX_PORT_RANGES]
    cdef int ranges
    cdef bint source, destination, inverted

cdef class TcpOptionTest(PacketMatch):
    cdef uint8_t kind
    cdef bint inverted

cdef class AddressRangeTest(PacketMatch):
    cdef uint8_t low[16]
    cdef uint8_t high[16]
    cdef bint source, inverted

cdef class HardwareTest(PacketMatch):
    cdef uint8_t address[6]
    cdef bint inverted

cdef class TextTest(PacketMatch):
    cdef uint8_t folded[256]                # each byte, as it is compared
    cdef uint8_t text[MAX_TEXT_LENGTH]
    cdef uint8_t resumes[MAX_TEXT_LENGTH]   # by what has been met: how much of the text ends it, but less than all of it
    cdef uint32_t length, start, end
    cdef bint inverted

    cdef uint32_t follow(self, uint32_t begun, uint8_t byte) noexcept nogil

cdef class TimeTest(PacketMatch):
    cdef int64_t begins_s, ends_s
    cdef uint32_t day_begins_s, day_ends_s, month_days, week_days
    cdef bint local, contiguous

cdef class AddressTypeTest(PacketMatch):
    cdef LocalAddresses addresses
    cdef uint32_t types
    cdef bint source, inverted
    cdef int interface
