"""Where a connection's first packet was met: hook and interfaces, in the two bytes that an entry has room for."""
from libc.stdint cimport uint8_t, uint16_t
from pyfw.conntrack.table cimport LINK_NUMBERS, Header, Table

cdef uint16_t origin_of(Table table, uint8_t hook, const char *indev, const char *outdev) noexcept nogil
cdef uint8_t read_origin(const Header *header, uint16_t origin, const char **indev, const char **outdev) noexcept nogil
cdef bint is_other_side(const Header *header, uint16_t origin, uint8_t hook, const char *indev) noexcept nogil

cdef inline bint is_origin(const Header *header, uint16_t origin) noexcept nogil:
    """Whether it is one that was given: its interfaces have names."""
    cdef uint8_t number_in = origin >> 2 & LINK_NUMBERS - 1
    cdef uint8_t number_out = origin >> 9
    return (origin & 3 and (number_in == 0 or header.link_names[number_in][0] != 0)
            and (number_out == 0 or header.link_names[number_out][0] != 0))
