# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The classes that tests and actions derive from.  Knows no packet and no rule."""

from weakref import WeakValueDictionary


cdef class RuleEnvironment:

    def __init__(self, helpers=(), sets=None, table=None, addresses=None):
        self.helpers = tuple(helpers)
        self.sets = sets
        self.table = table
        self.addresses = addresses
        self.named = WeakValueDictionary()

    def shared(self, kind: str, name: str, make):
        """What rules of a kind share by name; the first of them makes it."""
        found = self.named.get((kind, name))
        if found is None:
            found = self.named[kind, name] = make()
        return found


cdef class PacketMatch:

    cdef Fit fits(self, Context *context) noexcept nogil:
        return FITS_NOT

    def bind(self, environment: RuleEnvironment) -> None:
        """Look up what the test refers to by name.  Called before it meets a packet; raises ValueError."""


cdef class PacketAction:

    cdef void act(self, Context *context, Outcome *outcome) noexcept nogil:
        pass

    def bind(self, environment: RuleEnvironment) -> None:
        """Look up what the action refers to by name.  Called before it meets a packet; raises ValueError."""
