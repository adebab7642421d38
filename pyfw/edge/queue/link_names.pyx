# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Interface names by index.

May know: what the kernel calls an interface.  Must not know: packets, queues.  A table belongs to one thread; another
one makes a new table and hands it over whole.
"""
import os

from libc.stdlib cimport calloc, free
from libc.string cimport memset, strlen, memcpy

cdef extern from "<net/if.h>" nogil:
    char *if_indextoname(unsigned int, char *)

cdef enum:
    PLACES_MIN = 64

cdef char[IFNAMSIZ] NAMELESS
memset(NAMELESS, 0, IFNAMSIZ)
NO_LINK = NAMELESS


cdef int hand_over_names(Links *links, object names) except -1:
    """Have these names, {index: name}, used from the next batch on.  Any thread."""
    free_link_names(pyfw_exchange(&links.new_names, new_link_names(names)))
    return 0


cdef LinkNames *new_link_names(object links) except NULL:
    """A table of these: {index: name}."""
    cdef LinkNames *names = <LinkNames *>calloc(1, sizeof(LinkNames))
    cdef uint32_t places = PLACES_MIN
    if names is NULL:
        raise MemoryError
    while places < 4 * <uint32_t>len(links):
        places *= 2
    names.mask = places - 1
    names.indices = <uint32_t *>calloc(places, sizeof(uint32_t))
    names.names = <char (*)[IFNAMSIZ]>calloc(places, IFNAMSIZ)
    if names.indices is NULL or names.names is NULL:
        free_link_names(names)
        raise MemoryError
    for index, name in links.items():
        put_link(names, index, os.fsencode(name))
    return names


cdef void free_link_names(LinkNames *names) noexcept nogil:
    if names is not NULL:
        free(names.indices)
        free(names.names)
        free(names)


cdef const char *learn_link(LinkNames *names, uint32_t index) noexcept nogil:
    """Ask the kernel for a name and keep it; NULL: there is no such interface, or no room for it."""
    cdef char[IFNAMSIZ] name
    if 2 * names.used > names.mask or if_indextoname(index, name) is NULL:
        return NULL
    put_link(names, index, name)
    return find_link(names, index)


cdef void put_link(LinkNames *names, uint32_t index, const char *name) noexcept nogil:
    cdef uint32_t place = link_place(names, index)
    if names.indices[place] == 0:
        names.used += 1
    names.indices[place] = index
    memcpy(names.names[place], name, min(strlen(name), <size_t>(IFNAMSIZ - 1)))     # the last byte stays zero
