# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Types of addresses (local, broadcast, ...) for -m addrtype.  Knows no netlink: the edge hands it the routes.

Law: the packet path reads with the engine's lock held; replace() takes that lock to put a new array in place.
"""
from collections.abc import Iterable
from typing import NamedTuple

from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, strncmp
from pyfw.lock cimport Lock, assert_locked
from pyfw.wire.packet cimport FAMILY_IPV4, IFNAMSIZ


cdef const char *ANY_IPV6 = b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"


class Route(NamedTuple):
    """A route that says what its addresses are: packed address, prefix length, RTN_* number, interface's name or ""."""

    address: bytes
    prefix: int
    type: int
    interface: str


cdef class LocalAddresses:
    """Routes by the longest prefix.  `guard` is the engine's lock; without, no other thread may look meanwhile."""

    def __init__(self, guard: Lock | None = None):
        self.guard = guard

    def __dealloc__(self):
        free(self.networks)

    def replace(self, routes: Iterable[Route]) -> None:
        """Know these routes, and no others, from now on."""
        cdef TypedNetwork *networks
        cdef TypedNetwork *former = self.networks
        cdef TypedNetwork *network
        cdef Lock guard = self.guard
        cdef bytes address, name
        ordered = sorted(routes, key=lambda route: -route.prefix)
        networks = <TypedNetwork *> calloc(len(ordered) + 1, sizeof(TypedNetwork))
        if networks == NULL:
            raise MemoryError
        for position, route in enumerate(ordered):
            network = &networks[<size_t> position]
            address, name = route.address, route.interface.encode()[:IFNAMSIZ - 1]
            memcpy(network.address, <const char *> address, len(address))
            memcpy(network.interface, <const char *> name, len(name))
            network.family = 2 if len(address) == 4 else 10
            network.prefix, network.type = route.prefix, route.type
        if guard is None:
            self.networks, self.count = networks, len(ordered)
        else:
            self.exchange(guard, networks, len(ordered))
        free(former)

    cdef void exchange(self, Lock guard, TypedNetwork *networks, uint32_t count):
        with nogil:
            guard.lock_background()
            self.networks, self.count = networks, count
            guard.unlock()

    cdef uint32_t types_of(self, const uint8_t *address, uint8_t family, const char *interface) noexcept nogil:
        """Bits 1 << RTN_* that hold of an address; with an interface, only its own addresses are LOCAL.

        An IPv4 address has one type (inet_addr_type()), of IPv6 a local address is UNICAST, too (xt_addrtype).
        """
        cdef uint32_t own = 1 << TYPE_UNICAST
        assert_locked()
        if family == FAMILY_IPV4:
            if address[0] == 0 or memcmp(address, b"\xff\xff\xff\xff", 4) == 0:
                return 1 << TYPE_BROADCAST
            if address[0] >> 4 == 14:
                return 1 << TYPE_MULTICAST
        elif address[0] == 0xFF:
            own = 1 << TYPE_MULTICAST
        elif memcmp(address, ANY_IPV6, 16) == 0:
            own = 1 << TYPE_UNSPEC
        return self.routed(address, family, interface, own)

    cdef uint32_t routed(self, const uint8_t *address, uint8_t family, const char *interface, uint32_t own) noexcept nogil:
        cdef const TypedNetwork *network
        cdef uint32_t i
        for i in range(self.count):
            network = &self.networks[i]
            if network.family == family and same_prefix(network.address, address, network.prefix):
                if interface != NULL and strncmp(network.interface, interface, IFNAMSIZ) != 0:
                    return own
                return 1 << network.type if family == FAMILY_IPV4 else own | 1 << network.type
        return own


cdef inline bint same_prefix(const uint8_t *one, const uint8_t *other, uint8_t bits) noexcept nogil:
    cdef int whole = bits >> 3, rest = bits & 7
    if memcmp(one, other, whole) != 0:
        return False
    return rest == 0 or (one[whole] ^ other[whole]) >> (8 - rest) == 0
