"""Interface names by index, as the queue loop reads them for every packet: no Python, no lock, one owner."""
from libc.stdint cimport uint32_t
from pyfw.wire.packet cimport IFNAMSIZ

cdef struct LinkNames:          # open addressing, linear probing, at most half full
    uint32_t mask
    uint32_t used
    uint32_t *indices           # 0: an empty place
    char (*names)[IFNAMSIZ]     # padded with zeros

cdef const char *NO_LINK        # the name of no interface

cdef LinkNames *new_link_names(object links) except NULL
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
