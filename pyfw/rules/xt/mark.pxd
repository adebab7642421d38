"""Actions that mark packets and connections."""
from libc.stdint cimport uint32_t
from pyfw.rules.parts cimport Context, Outcome, PacketAction

cdef class MarkAction(PacketAction):
    cdef uint32_t value, mask

cdef class ConnMarkAction(PacketAction):
    cdef int command
    cdef uint32_t value, mask, other_mask
