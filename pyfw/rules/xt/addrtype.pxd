"""What kind of address an address is on this machine, as its routing tables have it."""
from libc.stdint cimport uint8_t, uint32_t
from pyfw.lock cimport Lock

cdef enum:
    NO_INTERFACE = 0
    OWN_INTERFACE = 1           # the one a packet came in by; 2: the one it leaves by

cdef enum RouteType:            # RTN_*
    TYPE_UNSPEC = 0
    TYPE_UNICAST = 1
    TYPE_LOCAL = 2
    TYPE_BROADCAST = 3
    TYPE_ANYCAST = 4
    TYPE_MULTICAST = 5
    TYPE_UNREACHABLE = 7

cdef struct TypedNetwork:
    uint8_t address[16]
    uint8_t prefix
    uint8_t family              # AF_*
    uint8_t type                # RouteType
    char interface[16]

cdef class LocalAddresses:
    cdef TypedNetwork *networks     # longest prefix first
    cdef uint32_t count
    cdef object guard               # the engine's lock; None: no other thread looks

    cdef void exchange(self, Lock guard, TypedNetwork *networks, uint32_t count)
    cdef uint32_t routed(self, const uint8_t *address, uint8_t family, const char *interface, uint32_t own) noexcept nogil
    cdef uint32_t types_of(self, const uint8_t *address, uint8_t family, const char *interface) noexcept nogil
