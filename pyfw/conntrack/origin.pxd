"""Where a connection's first packet was met: hook and interfaces, in the two bytes that an entry has room for."""
from libc.stdint cimport uint8_t, uint16_t
from pyfw.conntrack.table cimport Header

cdef uint16_t origin_of(Header *header, uint8_t hook, const char *indev, const char *outdev) noexcept nogil
cdef uint8_t read_origin(const Header *header, uint16_t origin, const char **indev, const char **outdev) noexcept nogil
