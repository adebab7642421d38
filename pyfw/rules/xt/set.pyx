# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Packets against address sets: the test `set` and the action SET.  Knows no syntax; the sets themselves stand in lookup.pyx."""
from libc.string cimport memset
from pyfw.rules.parts cimport FITS, FITS_NOT
from pyfw.rules.sets.lookup cimport (COMPARE_EQUAL, COMPARE_GREATER, COMPARE_LESS, COMPARE_NOT, COMPARE_UNEQUAL, add_packet,
                                     match_packet, remove_packet)

COMPARISONS = {"": COMPARE_NOT, "eq": COMPARE_EQUAL, "ne": COMPARE_UNEQUAL, "lt": COMPARE_LESS, "gt": COMPARE_GREATER}
OWN_TIMEOUT = -1


cdef Sides pack_sides(sides):
    """("src", "dst", ...) for the packet path."""
    cdef Sides packed
    packed.dimension = len(sides)
    packed.sources = sum(1 << place for place, side in enumerate(sides) if side == "src")
    return packed


def known_sets(environment):
    if environment.sets is None:
        raise ValueError("there are no sets; they are loaded from the files under `sets:`")
    return environment.sets


cdef class SetTest(PacketMatch):

    def __init__(self, str name, sides, bint inverted=False, *, bint return_nomatch=False, bint update=True,
                 bint update_members=True, packets=("", 0), bytes=("", 0)):
        """`sides`: "src" and "dst" in order.  `packets`, `bytes`: a key of COMPARISONS, and the number to compare with."""
        self.name = name
        self.sides = pack_sides(sides)
        self.inverted = inverted
        memset(&self.query, 0, sizeof(self.query))
        self.query.return_nomatch = return_nomatch
        self.query.update = update
        self.query.update_members = update_members
        self.query.packets_compare, self.query.packets_value = COMPARISONS[packets[0]], packets[1]
        self.query.bytes_compare, self.query.bytes_value = COMPARISONS[bytes[0]], bytes[1]

    cdef Fit fits(self, Context *context) noexcept nogil:
        cdef SetQuery query = self.query
        cdef bint found
        query.now_ns = context.now_ns
        query.bytes = context.packet.length
        query.dry = context.dry or context.shadow
        found = match_packet(&self.named.slot, context.packet, self.sides, &query) > 0
        return FITS if found != self.inverted else FITS_NOT

    def bind(self, environment) -> None:
        self.named = known_sets(environment).refer(self.name, self)


cdef class SetAction(PacketAction):

    def __init__(self, add=None, remove=None, timeout_s=None, bint exist=False):
        """`add`, `remove`: (name, sides), as for SetTest."""
        self.adds, self.removes = add is not None, remove is not None
        if add:
            self.added, self.add_sides = add[0], pack_sides(add[1])
        if remove:
            self.removed, self.remove_sides = remove[0], pack_sides(remove[1])
        self.timeout_s = OWN_TIMEOUT if timeout_s is None else timeout_s
        self.exist = exist

    cdef void act(self, Context *context, Outcome *outcome) noexcept nogil:
        cdef SetQuery query
        if context.dry or context.shadow:
            return
        memset(&query, 0, sizeof(query))
        query.now_ns = context.now_ns
        query.bytes = context.packet.length
        if self.adds:
            self.environment.full.sets += add_packet(&self.add_set.slot, context.packet, self.add_sides, &query, self.timeout_s,
                                                      self.exist)
        if self.removes:
            remove_packet(&self.remove_set.slot, context.packet, self.remove_sides, context.now_ns)

    def bind(self, environment) -> None:
        sets = known_sets(environment)
        self.environment = environment
        if self.adds:
            self.add_set = sets.refer(self.added, self)
            self.add_set.expect_packets()
        if self.removes:
            self.remove_set = sets.refer(self.removed, self)
