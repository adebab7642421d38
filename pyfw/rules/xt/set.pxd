"""What rules do with address sets."""
from libc.stdint cimport int64_t
from pyfw.rules.parts cimport Context, Fit, Outcome, PacketAction, PacketMatch, RuleEnvironment
from pyfw.rules.sets.lookup cimport SetQuery, Sides
from pyfw.rules.sets.sets cimport NamedSet

cdef class SetTest(PacketMatch):
    """-m set.  `name` is looked up by bind(); from then on the test follows the name through every swap."""
    cdef readonly str name
    cdef NamedSet named
    cdef Sides sides
    cdef SetQuery query         # what it says of every packet alike
    cdef bint inverted
    cdef object __weakref__
    cdef Fit fits(self, Context *context) noexcept nogil

cdef class SetAction(PacketAction):
    """-j SET."""
    cdef readonly object added  # name of the set to which packets add, None
    cdef readonly object removed
    cdef RuleEnvironment environment
    cdef NamedSet add_set
    cdef NamedSet remove_set
    cdef Sides add_sides
    cdef Sides remove_sides
    cdef int64_t timeout_s      # below 0: the set's own
    cdef bint adds
    cdef bint removes
    cdef bint exist
    cdef object __weakref__
    cdef void act(self, Context *context, Outcome *outcome) noexcept nogil
