"""Named address sets, as the control side keeps them."""
from libc.stdint cimport uint32_t, uint64_t
from pyfw.lock cimport Lock
from pyfw.rules.sets.lookup cimport SetData, SetSlot
from pyfw.rules.sets.table cimport Element, Insertion, Key, SetMemory

cdef struct Run:                            # elements that one command stands for, by number: address by address, each with every port
    Element first
    uint64_t count
    uint32_t ports                          # for each address
    uint32_t step                           # from address to address; more than one address only for IPv4

cdef uint64_t deadline_ns(const SetData *data, object timeout_s, uint64_t now_ns) except *
cdef object remaining_s(const SetData *data, uint64_t expires_ns, uint64_t now_ns)

cdef class Allowance:
    """The memory that the sets of a store may have, and have."""
    cdef SetMemory used

cdef class Contents:
    """What a set holds.  `options` says what kind of set it is (set_text.SetOptions)."""
    cdef SetData data
    cdef Lock lock
    cdef Allowance allowance
    cdef readonly object options
    cdef dict comments                      # key of an element, or a list's member -> its comment; some may be out of date
    cdef list suspects                      # keys of comments that may be out of date
    cdef uint32_t swept                     # elements looked at since the sweep began
    cdef object __weakref__
    cdef int read_run(self, Run *run, elements, uint64_t now_ns) except -1
    cdef Insertion commit(self, const Element *elements, uint32_t count, uint64_t now_ns, bint exist, object comment) except *
    cdef Insertion insert_all(self, const Element *elements, uint32_t count, uint64_t now_ns, bint exist,
                              uint32_t *done) noexcept nogil
    cdef bint grow(self) noexcept nogil
    cdef uint32_t remove_slice(self, const Run *run, uint64_t *done, uint64_t now_ns, bint missing_ok, Key *gone) noexcept nogil
    cdef uint32_t remove_within(self, const Run *run, uint64_t *cursor, uint64_t now_ns, Key *gone) noexcept nogil
    cdef int forget_comments(self, const Key *keys, uint32_t count) except -1
    cdef int forget_stale_comments(self) except -1
    cdef bint is_commented(self, tuple comment_key) except *
    cdef tuple row(self, const Element *element, uint64_t now_ns)
    cdef void sweep_slices(self, uint32_t slices, uint64_t now_ns) noexcept nogil
    cdef void sweep_all(self, uint64_t now_ns) noexcept nogil

cdef class NamedSet:
    """A name and what it stands for.  `users` holds what refers to it, as long as that lives."""
    cdef SetSlot slot
    cdef readonly str name
    cdef readonly Contents contents
    cdef readonly object users              # WeakSet
    cdef bint fed_by_packets                # a rule adds to it
    cdef object __weakref__
