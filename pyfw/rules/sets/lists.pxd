"""Lists of sets, as the control side keeps them."""
from pyfw.rules.sets.lookup cimport Member
from pyfw.rules.sets.sets cimport Contents, NamedSet

cdef class ListContents(Contents):
    cdef readonly list members              # NamedSets, in order
    cdef int comment_member(self, NamedSet member, object comment) except -1
    cdef int rebuild(self, list order, const Member *new, list members) except -1
