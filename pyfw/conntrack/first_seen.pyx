# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Where a connection's first packet was met.

    bits 0-1    hook: INPUT, FORWARD or OUTPUT; 0: not known
    bits 2-8    number of the interface it came in by; 0: none
    bits 9-15   number of the interface it leaves by; 0: none

Rules name interfaces.  Names outlive a restart; the kernel's indices need not mean the same after it.  So the names
stand in the table's header, where a successor finds them beside the entries.  A number keeps its name for as long as an
entry bears it: interfaces come and go, and there are few numbers.
May know: the table's header, and how many entries bear a number.  Must not know: entries, packets.
"""
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from pyfw.conntrack.table cimport LINK_NUMBERS, Table
from pyfw.enums cimport HOOK_FORWARD, HOOK_INPUT, HOOK_OUTPUT
from pyfw.wire.packet cimport IFNAMSIZ

cdef enum:
    NO_NUMBER = 0xFF            # entries bear all of them


cdef uint8_t number_of(Table table, const char *name, uint8_t other) noexcept nogil:
    """The interface's number, 0 for no interface, NO_NUMBER where none is left.

    A number that no entry bears is given anew, but not `other`, which the same entry is about to bear.
    """
    cdef char[IFNAMSIZ] *names = table.header.link_names
    cdef uint8_t number, unused = NO_NUMBER
    if name[0] == 0:
        return 0
    for number in range(1, LINK_NUMBERS):
        if same_name(names[number], name):
            return number
        if unused == NO_NUMBER and table.link_uses[number] == 0 and number != other:
            unused = number
        if names[number][0] == 0:
            break
    if unused != NO_NUMBER:
        memcpy(names[unused], name, IFNAMSIZ)
        table.publish()
    return unused


cdef inline bint same_name(const char *one, const char *other) noexcept nogil:
    cdef uint64_t a[2]
    cdef uint64_t b[2]
    memcpy(a, one, IFNAMSIZ)
    memcpy(b, other, IFNAMSIZ)
    return (a[0] ^ b[0] | a[1] ^ b[1]) == 0


cdef uint16_t origin_of(Table table, uint8_t hook, const char *indev, const char *outdev) noexcept nogil:
    """As an entry keeps it, which is entered next; the names have IFNAMSIZ bytes."""
    cdef uint8_t number_in, number_out
    if hook != HOOK_INPUT and hook != HOOK_FORWARD and hook != HOOK_OUTPUT:
        return 0
    number_in = number_of(table, indev, NO_NUMBER)
    number_out = number_of(table, outdev, number_in)
    if number_in == NO_NUMBER or number_out == NO_NUMBER:
        table.counters.unnumbered += 1
        return 0
    return <uint16_t> (hook | number_in << 2 | number_out << 9)


cdef uint8_t read_origin(const Header *header, uint16_t origin, const char **indev, const char **outdev) noexcept nogil:
    """The hook, or 0 for an origin that is not known; the names live as long as the table."""
    indev[0] = header.link_names[origin >> 2 & LINK_NUMBERS - 1]
    outdev[0] = header.link_names[origin >> 9]
    return origin & 3


cdef bint is_other_side(const Header *header, uint16_t origin, uint8_t hook, const char *indev) noexcept nogil:
    """Whether a reply met at `hook`, come in by `indev`, can have been sent by another side than the first packet.

    What comes in where the first packet came in may be from that packet's sender.  Where the first packet left by
    the interface that it came in by, both sides are there and this tells nothing; nor does an origin that is not known.
    """
    cdef const char *first_in
    cdef const char *first_out
    cdef uint8_t first_hook = read_origin(header, origin, &first_in, &first_out)
    if hook == HOOK_OUTPUT or first_hook == HOOK_OUTPUT or first_hook == 0 or first_in == first_out:
        return True
    return not same_name(first_in, indev)
