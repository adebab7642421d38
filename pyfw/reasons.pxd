"""A reason with its numbers, as the packet path hands it on.  reasons.py puts it into words."""
from libc.stdint cimport uint8_t, uint32_t

cdef struct CReason:
    uint8_t number              # ReasonNumber
    uint32_t argument[4]        # numbers that belong to it
