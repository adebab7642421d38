"""Interface names by index, as the queue loop reads them for every packet: no Python, no lock, one owner."""
from libc.stdint cimport uint32_t
from pyfw.wire.packet cimport IFNAMSIZ

cdef struct LinkNames:          # open addressing, linear probing, at most half full
    uint32_t mask
    uint32_t used
    uint32_t *indices           # 0: an empty place
    char (*names)[IFNAMSIZ]     # padded with zeros

cdef struct Links:
    LinkNames *names            # in use, by one thread alone; NULL: it has taken none yet
    LinkNames *new_names        # handed over to it by another; NULL: it has taken them

cdef extern from *:
    """
    #define pyfw_exchange(place, value) __atomic_exchange_n((place), (value), __ATOMIC_ACQ_REL)
    #define pyfw_is_set(place) (__atomic_load_n((place), __ATOMIC_RELAXED) != NULL)
    """
    LinkNames *pyfw_exchange(LinkNames **place, LinkNames *value) noexcept nogil
    bint pyfw_is_set(LinkNames **place) noexcept nogil

cdef const char *NO_LINK        # the name of no interface

cdef int hand_over_names(Links *links, object names) except -1
cdef void free_link_names(LinkNames *names) noexcept nogil
cdef const char *learn_link(LinkNames *names, uint32_t index) noexcept nogil

cdef inline uint32_t link_place(const LinkNames *names, uint32_t index) noexcept nogil:
    """The place of this index, or the empty place where it belongs."""
    cdef uint32_t place = index & names.mask
    while names.indices[place] != index and names.indices[place] != 0:
        place = (place + 1) & names.mask
    return place

cdef inline const char *find_link(const LinkNames *names, uint32_t index) noexcept nogil:
    """The name, IFNAMSIZ bytes; NO_LINK for index 0, NULL for one that is not known."""
    cdef uint32_t place
    if index == 0:
        return NO_LINK
    place = link_place(names, index)
    return names.names[place] if names.indices[place] == index else NULL

cdef inline void take_new_names(Links *links) noexcept nogil:
    if pyfw_is_set(&links.new_names):
        free_link_names(links.names)
        links.names = pyfw_exchange(&links.new_names, NULL)
